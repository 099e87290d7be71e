"""Adapt a trained agent to one task and save it: `python -m downstream.adapt RUN tasks/point_robot [index=3] [--out FOLDER]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from skillmeta.cli import ConfigParser, add_trust, run_program


def main(argv: Sequence[str] | None = None) -> int:
    parser = ConfigParser(
        prog="skillmeta adapt", description="Let a trained agent get to know one task, and keep what it came to know."
    )
    parser.add_argument("run", help="a finished run of `skillmeta meta-train` or `finetune`")
    parser.add_argument("tasks", help="a preset of configs/tasks, or a YAML file like one")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes, e.g. split=test index=3")
    parser.add_argument("--episodes", type=int, default=2, help="rounds of episodes to adapt on (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/adapted"), help="default: runs/adapted")
    add_trust(parser, "the run")
    arguments = parser.parse_intermixed_args(argv)
    from skillmeta.config import build, load
    from skillmeta.envs.probe import examined
    from skillmeta.errors import ConfigError
    from skillmeta.programs.adapt import adapt
    from skillmeta.tasks.base import TaskConfig, make_family

    if arguments.episodes < 1:
        raise ConfigError(f"--episodes is {arguments.episodes}; at least 1 is needed")
    config = build(TaskConfig, load(arguments.tasks, arguments.overrides, "tasks"), "task")
    trials = adapt(arguments.run, config, arguments.episodes, arguments.seed, arguments.out, arguments.trust)
    if trials is None:
        print(f"adapted already: {arguments.out}")
        return 0
    reports = examined(make_family(config), config).reports_success
    for k in range(arguments.episodes):
        returns, share = trials.returns[:, k].mean(), trials.succeeded[:, k].mean()
        success = f"success {share:.2f}" if reports else "the environment reports no success"
        print(f"episode {k}: return {returns:.4g}, {success}, {int(trials.lengths[:, k].sum())} steps")
    print(f"adapted: {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
