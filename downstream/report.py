"""Write the page of what is in a folder, or of training runs side by side: `python -m downstream.report runs/demo`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from skillmeta.cli import add_trust, command_line, run_program


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="skillmeta report",
        description="Write the page of an ablation, an evaluation, a skill model or a training run, or of training runs together.",
    )
    parser.add_argument(
        "folder",
        type=Path,
        nargs="+",
        help="what a command has written to its --out; or training runs, any number",
    )
    parser.add_argument("--out", type=Path, help="where the page goes (default: the first folder)")
    add_trust(parser, "the runs' task")
    arguments = parser.parse_intermixed_args(argv)
    from skillmeta.programs.page import write_page
    from skillmeta.trust import check_links

    out = arguments.out or arguments.folder[0]
    check_links(out, arguments.trust)
    command = command_line(parser.prog, argv) if len(arguments.folder) > 1 else ""
    print(f"page: {write_page(arguments.folder, out, command, arguments.trust, required=True)}")
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
