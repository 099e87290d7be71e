"""Learn skills and their prior from logs: `python -m pretrain.skills CONFIG [key=value ...] [--out runs/skills]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from skillmeta.cli import command_line, config_parser, run_program
from skillmeta.run.signals import exit_status


def main(argv: Sequence[str] | None = None) -> int:
    parser = config_parser("skillmeta skills", "Train a skill model and say whether its prior is any good.")
    parser.add_argument("--out", type=Path, default=Path("runs/skills"), help="run folder (default: runs/skills)")
    arguments = parser.parse_intermixed_args(argv)
    from skillmeta.config import build, load
    from skillmeta.programs.pretrain import PretrainConfig, pretrain
    from skillmeta.run.ranks import Ranks

    config = build(PretrainConfig, load(arguments.config, arguments.overrides))
    with Ranks.here() as ranks:
        result = pretrain(config, arguments.out, command_line(parser.prog, argv), ranks=ranks)
        if not ranks.first:
            return exit_status() if result is None else 0
    if result is None:
        print(f"stopped; the same command resumes from the checkpoint in {arguments.out}")
        return exit_status()
    print("\n".join([*result["verdict"], *(f"note: {note}" for note in result.get("notes", []))]))
    print(f"model: {arguments.out / 'model'}")
    page = arguments.out / "report.html"
    print(f"page:  {page}" if page.exists() else "page:  none; pip install -e '.[report]' for pictures")
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
