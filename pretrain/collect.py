"""Make logs: `python -m pretrain.collect pretrain/maze_logs [key=value ...]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from skillmeta.cli import config_parser, run_program


def main(argv: Sequence[str] | None = None) -> int:
    parser = config_parser(
        "skillmeta collect", "Record a planner or scripted expert as a Minari data set.", "pretrain/maze_logs"
    )
    arguments = parser.parse_intermixed_args(argv)
    from skillmeta.config import build, load
    from skillmeta.programs.collect import CollectConfig, collect

    config = build(CollectConfig, load(arguments.config, arguments.overrides))
    done = collect(config)
    print(f"{done.episodes:,} episodes, {done.steps:,} steps in {done.seconds:.0f} s, {done.bytes / 1e6:.1f} MB")
    for name, (share, count) in done.success.items():
        print(f"  {name:<28} worked {share:.0%} of {count:,}")
    if done.dropped:
        print(f"{done.dropped} episodes dropped: the environment failed in them")
    if done.coverage is not None:
        print(f"{done.coverage:.0%} of the world visited")
    print(f"written: minari:{config.dataset}  ({done.folder})")
    print(f"next:    skillmeta inspect minari:{config.dataset}")
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
