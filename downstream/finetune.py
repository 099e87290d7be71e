"""Learn one task: `python -m downstream.finetune CONFIG [key=value ...] [--out runs/finetune]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from skillmeta.cli import command_line, config_parser, run_program
from skillmeta.run.signals import exit_status


def main(argv: Sequence[str] | None = None) -> int:
    parser = config_parser("skillmeta finetune", "Learn one task with one method.", "downstream/maze_spirl")
    parser.add_argument("--out", type=Path, default=Path("runs/finetune"), help="run folder (default: runs/finetune)")
    arguments = parser.parse_intermixed_args(argv)
    from skillmeta.config import load
    from skillmeta.programs.train import train, train_config

    config = train_config(load(arguments.config, arguments.overrides), "finetune")
    result = train(config, arguments.out, command_line(parser.prog, argv))
    if result is None:
        print(f"stopped; the same command resumes from the checkpoint in {arguments.out}")
        return exit_status()
    by_mode = f" (of its mode {result['mode_success']:.2f})" if "mode_success" in result else ""
    success = f"success {result['success']:.2f}{by_mode}, " if "success" in result else ""
    for note in result.get("notes", ()):
        print(f"note: {note}", file=sys.stderr)
    print(
        f"{success}return {result['return']:.3g}, over "
        f"{result['num_episodes']} episodes after {result['env_steps']:,} environment steps in {result['episodes']} episodes"
    )
    print(f"run: {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
