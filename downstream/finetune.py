"""Learn one task: `python -m downstream.finetune CONFIG [key=value ...] [--out runs/finetune]`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from skillmeta.cli import command_line, config_parser, run_program
from skillmeta.run.signals import exit_status


def main(argv: Sequence[str] | None = None) -> int:
    parser = config_parser("skillmeta finetune", "Learn one task with one method.", "downstream/maze_spirl")
    parser.add_argument("--out", type=Path, default=Path("runs/finetune"), help="run folder (default: runs/finetune)")
    arguments = parser.parse_intermixed_args(argv)
    from skillmeta.config import load
    from skillmeta.programs.train import train
    from skillmeta.programs.train_config import train_config
    from skillmeta.programs.train_stack import train_stack

    config = train_config(load(arguments.config, arguments.overrides), "finetune")
    command, seeds = command_line(parser.prog, argv), config.stack_seeds
    folders = [arguments.out / f"seed-{seed}" for seed in seeds] or [arguments.out]
    if seeds:
        results = train_stack([replace(config, seed=seed) for seed in seeds], folders, command)
    else:
        result = train(config, arguments.out, command)
        results = None if result is None else [result]
    if results is None:
        print(f"stopped; the same command resumes from the checkpoint in {arguments.out}")
        return exit_status()
    for folder, result in zip(folders, results, strict=True):
        say(folder, result)
    return 0


def say(folder: Path, result: Mapping[str, Any]) -> None:
    by_mode = f" (of its mode {result['mode_success']:.2f})" if "mode_success" in result else ""
    success = f"success {result['success']:.2f}{by_mode}, " if "success" in result else ""
    for note in result.get("notes", ()):
        print(f"note: {note}", file=sys.stderr)
    print(
        f"{success}return {result['return']:.3g}, over "
        f"{result['num_episodes']} episodes after {result['env_steps']:,} environment steps in {result['episodes']} episodes"
    )
    page = folder / "report.html"
    print(f"run: {folder}" + (f", page: {page}" if page.exists() else ""))


if __name__ == "__main__":
    sys.exit(run_program(main))
