"""Evaluate how agents adapt: `python -m downstream.evaluate tasks/point_robot [key=value ...] [agents=[RUN,...]]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from skillmeta.cli import add_trust, command_line, config_parser, run_program
from skillmeta.run.signals import exit_status


def main(argv: Sequence[str] | None = None) -> int:
    parser = config_parser(
        "skillmeta evaluate", "Trials of agents and of reference agents in every task of a split.", "tasks/point_robot"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/evaluation"), help="default: runs/evaluation")
    add_trust(parser, "an agent's run")
    arguments = parser.parse_intermixed_args(argv)
    from omegaconf import OmegaConf

    from skillmeta.config import build, load, override
    from skillmeta.programs.evaluate import EvaluateConfig, run_evaluation, scores_text

    node = load(arguments.config, folder="tasks")
    if "family" in node:  # a preset of a family: the evaluation's own keys come from the command line
        node = OmegaConf.create({"task": node})
    config = build(EvaluateConfig, override(node, arguments.overrides))
    evaluation = run_evaluation(config, arguments.out, command_line(parser.prog, argv), trust=arguments.trust)
    if evaluation is None:
        print(f"stopped; the same command resumes from what is in {arguments.out}")
        return exit_status()
    print(scores_text(evaluation))
    for note in evaluation.notes:
        print(f"note: {note}", file=sys.stderr)
    page = arguments.out / "report.html"
    print(f"page: {page}" if page.exists() else "page: none; pip install -e '.[report]' for pictures")
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
