"""Write the page of an ablation, or of meta-training runs side by side: `python -m downstream.report runs/demo`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from skillmeta.cli import add_trust, command_line, run_program


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="skillmeta report",
        description="Write the page of an ablation from its runs, or one of meta-training runs side by side.",
    )
    parser.add_argument(
        "folder",
        type=Path,
        nargs="+",
        help="what `skillmeta ablate`, `demo` or `reproduce` has written; or runs of `skillmeta meta-train`, any number",
    )
    parser.add_argument(
        "--out", type=Path, help="where the page of meta-training runs goes (default: the first folder)"
    )
    add_trust(parser, "the ablation's task")
    arguments = parser.parse_intermixed_args(argv)
    folders: list[Path] = arguments.folder
    if len(folders) == 1 and arguments.out is None and not (folders[0] / "metrics.jsonl").exists():
        from skillmeta.programs.ablate import write_report

        print(f"page: {write_report(folders[0], trust=arguments.trust)}")
        return 0
    from skillmeta.reports.meta_page import read_meta_run, write_meta_page
    from skillmeta.trust import check_links

    check_links(arguments.out or folders[0], arguments.trust)
    runs = [read_meta_run(folder, arguments.trust) for folder in folders]
    print(f"page: {write_meta_page(arguments.out or folders[0], runs, command_line(parser.prog, argv))}")
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
