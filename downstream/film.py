"""Film an episode of a trained run in its task: `python -m downstream.film runs/maze-spirl`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from skillmeta.cli import add_trust, run_program
from skillmeta.errors import ConfigError

from .tasks import film


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="skillmeta film",
        description="Film an episode of a trained run: in the task that it learned, or the first of those that it was trained on.",
    )
    parser.add_argument("agent", metavar="RUN", type=Path, help="the --out of `skillmeta finetune` or `meta-train`")
    parser.add_argument(
        "--out", type=Path, dest="video", metavar="FILE", help="an animated .webp (default: RUN/film.webp)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the episode (default: 0)")
    add_trust(parser, "the run")
    arguments = parser.parse_args(argv)
    if arguments.video is not None and arguments.video.suffix != ".webp":
        raise ConfigError(f"--out is {arguments.video}; a film is a .webp")
    from skillmeta.config import build
    from skillmeta.run.run import trained_config
    from skillmeta.tasks.base import ANY, TaskConfig, fixed_split, make_family
    from skillmeta.trust import check_modules

    run: Path = arguments.agent
    node, file = trained_config(run, arguments.trust), run / "config.yaml"
    check_modules(node, file, arguments.trust)
    arguments.video = arguments.video or run / "film.webp"
    config = build(TaskConfig, node.get("task"), f"{file}: task")
    return film(config if config.split != ANY else fixed_split(make_family(config), config), arguments)


if __name__ == "__main__":
    sys.exit(run_program(main))
