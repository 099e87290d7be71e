"""Write the page of an ablation again, or of as much of it as there is: `python -m downstream.report runs/demo`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from skillmeta.cli import run_program


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="skillmeta report", description="Write the page of an ablation from its runs."
    )
    parser.add_argument("folder", type=Path, help="what `skillmeta ablate`, `demo` or `reproduce` has written")
    arguments = parser.parse_intermixed_args(argv)
    from skillmeta.ablation import write_report

    print(f"page: {write_report(arguments.folder)}")
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
