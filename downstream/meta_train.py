"""Meta-train an agent: `python -m downstream.meta_train meta/rl2_bandit_5 [key=value ...] [--out runs/meta]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from skillmeta.cli import command_line, config_parser, run_program
from skillmeta.run.signals import exit_status


def main(argv: Sequence[str] | None = None) -> int:
    parser = config_parser(
        "skillmeta meta-train",
        "Learn to learn a family's tasks; evaluate it with `skillmeta evaluate`.",
        "meta/rl2_bandit_5",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/meta"), help="run folder (default: runs/meta)")
    arguments = parser.parse_intermixed_args(argv)
    from skillmeta.config import load
    from skillmeta.programs.train import train
    from skillmeta.programs.train_config import train_config

    config = train_config(load(arguments.config, arguments.overrides), "meta-train")
    result = train(config, arguments.out, command_line(parser.prog, argv))
    if result is None:
        print(f"stopped; the same command resumes from the checkpoint in {arguments.out}")
        return exit_status()
    for note in result.get("notes", ()):
        print(f"note: {note}", file=sys.stderr)
    print(
        f"return {result['return']:.4g} a training episode (first of a trial {result['return_first']:.4g}, last "
        f"{result['return_last']:.4g}) after {result['env_steps']:,} environment steps"
    )
    page = arguments.out / "report.html"
    print(f"run: {arguments.out}" + (f", page: {page}" if page.exists() else ""))
    print(f"next: skillmeta evaluate TASKS 'agents=[{arguments.out}]'")
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
