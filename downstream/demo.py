"""The whole path in minutes: `skillmeta demo` collects logs, learns skills, solves new tasks and measures the prior."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from skillmeta.cli import ConfigParser, command_line, run_program

from .ablate import run


def main(argv: Sequence[str] | None = None) -> int:
    parser = ConfigParser(
        prog="skillmeta demo",
        description="Planner logs, skills, new tasks with and without the prior, and a page about it. "
        "An interrupted demo resumes where it stopped.",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to configs/demo.yaml")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder (default: runs/demo)")
    parser.add_argument("--workers", type=int, help="runs at once (default: 2)")
    arguments = parser.parse_intermixed_args(argv)
    return run("demo", arguments.overrides, arguments.out, arguments.workers, command_line(parser.prog, argv))


if __name__ == "__main__":
    sys.exit(run_program(main))
