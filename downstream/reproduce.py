"""Published results at full length: `skillmeta reproduce maze` (hours on two cores; it may be interrupted and resumes)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from skillmeta.cli import ConfigParser, command_line, run_program

from .ablate import run

RESULTS = {
    "maze": "SPiRL on 10 held-out goals of the 20x20 maze, 100 episodes of up to 2000 steps, next to its ablations"
}


def main(argv: Sequence[str] | None = None) -> int:
    listed = "; ".join(f"{name}: {what}" for name, what in RESULTS.items())
    parser = ConfigParser(prog="skillmeta reproduce", description=f"Published results at full length. {listed}.")
    parser.add_argument("result", choices=sorted(RESULTS))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to configs/reproduce/RESULT.yaml")
    parser.add_argument("--out", type=Path, help="folder (default: runs/reproduce-RESULT)")
    parser.add_argument("--workers", type=int, help="runs at once (default: 2)")
    arguments = parser.parse_intermixed_args(argv)
    out = arguments.out or Path(f"runs/reproduce-{arguments.result}")
    command = command_line(parser.prog, argv)
    return run(f"reproduce/{arguments.result}", arguments.overrides, out, arguments.workers, command)


if __name__ == "__main__":
    sys.exit(run_program(main))
