"""What is in a source of logs: `python -m pretrain.inspect SOURCE [--horizon 10] [--json]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from skillmeta.cli import run_program
from skillmeta.limits import MAP_ABOVE


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="skillmeta inspect",
        description="Load and check a source of logs and print what is in it.",
        epilog="SOURCE: minari:NAMESPACE/name-v0, d4rl:ID, a .hdf5 file (D4RL's flat layout, robomimic's or ALOHA's), an .npz with "
        "the flat layout's arrays, or a folder (of such files, LeRobot). Behind a question mark: the observations that make "
        "the state, as in ?joints,gripper or ?*, and options, as in ?time_limit=200.",
    )
    parser.add_argument("source")
    parser.add_argument("--horizon", type=int, default=10, help="steps in a skill, to count windows (default: 10)")
    parser.add_argument(
        "--clip-actions", action="store_true", help="pull actions into the action space instead of refusing"
    )
    parser.add_argument("--download", action="store_true", help="fetch a D4RL file that is not in its cache folder")
    parser.add_argument(
        "--map-above",
        type=int,
        default=MAP_ABOVE,
        metavar="BYTES",
        help=f"a log with larger arrays is mapped from files, made once (default: {MAP_ABOVE:,})",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_intermixed_args(argv)
    from skillmeta.data.sources import load_source
    from skillmeta.data.summary import summarize
    from skillmeta.errors import ConfigError

    if arguments.horizon < 1:
        raise ConfigError(f"--horizon is {arguments.horizon}; it must be at least 1")
    dataset = load_source(
        arguments.source,
        clip_actions=arguments.clip_actions,
        download=arguments.download,
        map_above=arguments.map_above,
    )
    summary = summarize(dataset, arguments.horizon)
    if arguments.json:
        print(json.dumps(summary, indent=1))
    else:
        show(summary)
    return 0


def show(summary: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    facts = Table(show_header=False, title=escape(summary["source"]), title_justify="left", box=None)
    low, high = (f"{summary['length'][k]:,.0f}" for k in ("min", "max"))
    facts.add_row("episodes", f"{summary['episodes']:,}")
    facts.add_row(
        "steps", f"{summary['steps']:,}  (episodes of {low} to {high}, median {summary['length']['median']:,.0f})"
    )
    r = summary["return"]
    facts.add_row("return", f"{r['min']:.4g} to {r['max']:.4g}, median {r['median']:.4g}")
    if "normalized_score" in summary:
        facts.add_row(
            "normalized score", f"{100 * summary['normalized_score']:.1f} (mean return; 0 random, 100 expert)"
        )
    facts.add_row("ends", f"{summary['terminated']:,} terminated, {summary['truncated']:,} truncated")
    short = summary["episodes_shorter_than_horizon"]
    left_out = f", {short} {'episodes are' if short > 1 else 'episode is'} shorter and left out" if short else ""
    facts.add_row(f"windows of {summary['horizon']}", f"{summary['windows']:,}{left_out}")
    if summary["constant_observations"]:
        facts.add_row("constant", f"observation columns {summary['constant_observations']} never change")
    if summary["constant_actions"]:
        facts.add_row("constant", f"action columns {summary['constant_actions']} never change")
    if summary["observed"]:
        observed = ", ".join(f"{key} ({size})" for key, size in summary["observed"].items())
        facts.add_row("observed", escape(observed))
    facts.add_row(
        "jumps", f"{summary['jumps']:,} steps ({summary['jumps'] / summary['steps']:.2%}) far beyond all others"
    )
    for note in summary["notes"]:
        facts.add_row("note", escape(note))
    console.print(facts)
    columns = Table(title="columns", title_justify="left")
    for name in ("", "min", "mean", "stddev", "max"):
        columns.add_column(name, justify="left" if not name else "right")
    for kind in ("observation", "action"):
        for i, row in enumerate(summary[f"{kind}_range"]):
            columns.add_row(f"{kind} {i}", *(f"{value:.4g}" for value in row))
    console.print(columns)


if __name__ == "__main__":
    sys.exit(run_program(main))
