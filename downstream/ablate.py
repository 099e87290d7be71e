"""Compare methods: `python -m downstream.ablate CONFIG [key=value ...] [--out runs/ablation] [--workers 2]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from skillmeta.cli import command_line, config_parser, run_program
from skillmeta.run.signals import exit_status


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
    arguments = parser.parse_intermixed_args(argv)
    command = command_line(parser.prog, argv)
    return run(arguments.config, arguments.overrides, arguments.out, arguments.workers, command, arguments.cluster)


def run(
    name: str, overrides: Sequence[str], out: Path, workers: int | None, command: str, cluster: str | None = None
) -> int:
    """Run the ablation that a config describes and say where its page is."""
    from skillmeta.config import build, load
    from skillmeta.programs.ablate import AblationConfig, ablate

    changed = [*overrides, *([f"workers={workers}"] if workers else [])]
    outcome = ablate(build(AblationConfig, load(name, changed)), out, command, cluster)
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
