"""Compare methods: `python -m downstream.ablate CONFIG [key=value ...] [--out runs/ablation] [--workers 2]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from skillmeta.cli import command_line, config_parser, run_program
from skillmeta.errors import ConfigError
from skillmeta.run.signals import exit_status

if TYPE_CHECKING:
    from skillmeta.run.jobs import Outcome


def main(argv: Sequence[str] | None = None) -> int:
    parser = config_parser(
        "skillmeta ablate", "Methods x tasks x seeds on equal steps, and the page that compares them."
    )
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="folder (default: runs/ablation)")
    parser.add_argument("--workers", type=int, help="runs at once (default: as the config says)")
    parser.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="do the runs on a Ray cluster that this machine is of: auto, or the HOST:PORT of its head (docs/cluster.md)",
    )
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="KEY=A,B",
        help="values of a key of a config of finetune, meta-train or skills; every combination of several is a method",
    )
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="training seeds 0 to N - 1 (default: as the config says, or 3)"
    )
    parser.add_argument(
        "--estimate", action="store_true", help="only say how many runs --vary makes, and how long they take"
    )
    arguments = parser.parse_intermixed_args(argv)
    command = command_line(parser.prog, argv)
    if arguments.vary:
        return run_varied(arguments, command)
    if arguments.estimate:
        parser.error("--estimate goes with --vary; an ablation in YAML says its share and its seconds while it runs")
    seeds = [] if arguments.seeds is None else [f"seeds={list(range(arguments.seeds))}"]
    changes = [*arguments.overrides, *seeds]
    return run(arguments.config, changes, arguments.out, arguments.workers, command, arguments.cluster)


def run_varied(arguments: argparse.Namespace, command: str) -> int:
    """Say what --vary makes of a config, and how long it takes, then run it."""
    from skillmeta.config import load
    from skillmeta.programs.ablate import ablate
    from skillmeta.programs.vary import Varied, estimated, planned, said

    config = load(arguments.config, arguments.overrides)
    seeds = None if arguments.seeds is None else range(arguments.seeds)
    plan = planned(config, arguments.config, [Varied.parse(one) for one in arguments.vary], seeds, arguments.workers)
    print(said(plan, arguments.out), flush=True)
    print(estimated(plan, arguments.out), flush=True)
    if arguments.estimate:
        return 0
    return report_outcome(ablate(plan.config, arguments.out, command, arguments.cluster), arguments.out)


def run(
    name: str, overrides: Sequence[str], out: Path, workers: int | None, command: str, cluster: str | None = None
) -> int:
    """Run the ablation that a config describes and say where its page is."""
    from skillmeta.config import build, load
    from skillmeta.programs.ablate import AblationConfig, ablate
    from skillmeta.programs.vary import is_one_run

    changed = [*overrides, *([] if workers is None else [f"workers={workers}"])]
    config = load(name, changed)
    if is_one_run(config):
        raise ConfigError(
            f"{name}: this is the config of one run; add --vary KEY=A,B, as in --vary algorithm.learning_rate=3e-4,1e-3"
        )
    return report_outcome(ablate(build(AblationConfig, config), out, command, cluster), out)


def report_outcome(outcome: Outcome, out: Path) -> int:
    """Say what became of an ablation, and give the exit status."""
    for job, why in outcome.failed.items():
        print(f"failed: {job}: {why}", file=sys.stderr)
    if outcome.done and (out / "report.html").exists():
        print("\n".join(json.loads((out / "summary.json").read_text())["headline"]))
        print(f"page:    {out / 'report.html'}\nnumbers: {out / 'summary.json'}")
    if outcome.stopped:
        print("stopped before the end; the same command resumes from here")
        return exit_status()
    return 1 if outcome.failed else 0


if __name__ == "__main__":
    sys.exit(run_program(main))
