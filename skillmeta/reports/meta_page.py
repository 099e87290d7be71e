"""The page of meta-training runs: how they learned, seed by seed and method beside method."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skillmeta.config import dump_yaml, read_yaml
from skillmeta.errors import UserError
from skillmeta.evaluation.curves import POINTS, Curve, running
from skillmeta.evaluation.statistics import Estimate, Scores, estimate
from skillmeta.reports import page, plots
from skillmeta.run.files import write_whole
from skillmeta.run.run import read_metrics, read_result
from skillmeta.trust import check_links

WINDOW = 5  # iterations that a point of a curve is the mean of
SCORES = {
    "return_last": "return of a trial's last episode",
    "return_first": "return of a trial's first episode",
    "success_last": "success in a trial's last episode",
}


@dataclass(frozen=True)
class MetaRun:
    """One run of `meta-train`, finished or not."""

    folder: Path
    config: dict[str, Any]
    result: dict[str, Any] | None
    rows: list[dict[str, Any]]  # of its iterations
    command: str

    @property
    def seed(self) -> int:
        return int(self.config["seed"])


def read_meta_run(folder: Path, trust: bool = False) -> MetaRun:
    """A run folder as data: nothing that it names is imported. `trust` admits links that lead out of it.

    Raises UserError for a folder without a run, or one that has not finished an iteration.
    """
    if not (folder / "config.yaml").exists():
        raise UserError(f"{folder}: holds no run; name the --out of `skillmeta meta-train`")
    check_links(folder, trust)
    try:
        rows = [row for row in read_metrics(folder) if row["kind"] == "iteration"]
        command = str(json.loads((folder / "environment.json").read_text())["command"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: is damaged ({error}); delete it and run it again") from None
    if not rows:
        raise UserError(
            f"{folder}: has no iteration of meta-training yet; a page is made of `skillmeta meta-train` runs"
        )
    return MetaRun(folder, read_yaml(folder / "config.yaml"), read_result(folder), rows, command)


def grouped(runs: Sequence[MetaRun]) -> dict[str, list[MetaRun]]:
    """Runs by method: those whose configs differ in the seed alone. A method is called as its folders are, without the seed."""
    found: dict[str, list[MetaRun]] = {}
    for run in runs:
        rest = {key: value for key, value in run.config.items() if key != "seed"}
        found.setdefault(json.dumps(rest, sort_keys=True), []).append(run)  # in whatever order they were written
    named: dict[str, list[MetaRun]] = {}
    for same in found.values():
        path = same[0].folder.resolve()
        of_a_seed = re.fullmatch(r"(seed)?[-_]?\d+", path.name)
        name = path.parent.name if of_a_seed else re.sub(r"[-_](seed)?[-_]?\d+$", "", path.name)
        if name in named:
            name = f"{name} {len(named) + 1}"
        named[name] = sorted(same, key=lambda run: run.seed)
    return named


def curve(runs: Sequence[MetaRun], key: str) -> Curve:
    """A quantity of a method's runs along environment steps, as far as all of them have come, [G, training seeds, 1]."""
    first = max(run.rows[0]["env_steps"] for run in runs)
    end = max(first, min(run.rows[-1]["env_steps"] for run in runs))
    x = np.unique(np.linspace(first, end, POINTS).round().astype(int))
    values = np.stack([running(run.rows, key, "env_steps", x, WINDOW) for run in runs], 1)[:, :, None]
    return Curve(x, values, trials(runs) if key == "success_last" else None)


def trials(runs: Sequence[MetaRun]) -> int:
    """Trials that success in training is the share of, at least: those of a window of iterations."""
    return WINDOW * int(min(row.get("trials", 1) for run in runs for row in run.rows))


def write_meta_page(folder: Path, runs: Sequence[MetaRun], command: str) -> Path:
    """report.html and pictures/ in a folder. Returns the page."""
    methods = grouped(runs)
    colours = plots.palette(list(methods))
    every = [run for same in methods.values() for run in same]
    pictures = []
    for key, label in SCORES.items():
        if key == "success_last" and not any(row[key] for run in every for row in run.rows):
            continue
        lines = {name: curve(same, key) for name, same in methods.items()}
        limits = (-0.03, 1.03) if key == "success_last" else None
        figure = plots.curves_figure(lines, colours, "environment steps", label, limits)
        plots.save_png(figure, folder / "pictures" / f"{key}.png")
        caption = (
            f"{label}, in training, exploration on: mean of {WINDOW} iterations and of the training seeds, and its "
            "95 % interval."
        )
        pictures.append(page.Picture(plots.to_svg(figure, key), caption))
    sections = [page.Section("Learning", pictures=pictures), table(methods), *inside(methods, colours)]
    commands = "\n".join(run.command for run in every if run.command)
    configs = {name: dump_yaml(same[0].config) for name, same in methods.items()}
    sections.append(page.Section("How to make this again", code="\n".join([commands, command]).strip(), folded=configs))
    warnings = [f"{run.folder.name} is not finished." for run in every if run.result is None]
    if min(len(same) for same in methods.values()) == 1:
        warnings.append(
            "Some method has one training seed only: it has no interval, and its numbers say nothing about chance."
        )
    lead = [
        f"Meta-training of {', '.join(methods)}. How they do in tasks that they were not trained on is for `skillmeta evaluate`."
    ]
    summary = {name: summarize(same) for name, same in methods.items()}
    write_whole(folder / "report.json", json.dumps(summary, indent=1))
    page.write(folder / "report.html", "Learning to learn: " + ", ".join(methods), lead, sections, warnings)
    return folder / "report.html"


def summarize(runs: Sequence[MetaRun]) -> dict[str, Any]:
    """What a method came to at the end of training, the mean over its last iterations."""
    scores: dict[str, Any] = {"training_seeds": [run.seed for run in runs]}
    for key in SCORES:
        values = np.array([[np.mean([row[key] for row in run.rows[-WINDOW:]])] for run in runs])
        scores[key] = estimate(Scores(values, trials(runs) if key == "success_last" else None)).plain()
    scores["env_steps"] = float(np.mean([run.rows[-1]["env_steps"] for run in runs]))
    for key in ("updates", "seconds"):
        spent = [run.result[key] for run in runs if run.result]
        scores[key] = float(np.mean(spent)) if spent else None
    return scores


def table(methods: dict[str, list[MetaRun]]) -> page.Section:
    rows = []
    for name, same in methods.items():
        scores = summarize(same)
        cells = [name, str(len(same)), f"{scores['env_steps']:,.0f}"]
        cells += ["" if scores[key] is None else f"{scores[key]:,.0f}" for key in ("updates", "seconds")]
        for key in SCORES:
            cells.append(Estimate(**scores[key]).text())
        rows.append(cells)
    head = ["method", "training seeds", "env steps", "updates", "seconds", *SCORES.values()]
    return page.Section(
        "At the end of training",
        [f"Mean of the last {WINDOW} iterations and of training seeds [95 % interval]; one seed has no interval."],
        page.Table(head, rows),
    )


def inside(methods: dict[str, list[MetaRun]], colours: dict[str, str]) -> list[page.Section]:
    """What the algorithms log of themselves: losses, divergences, weights."""
    keys = dict.fromkeys(key for same in methods.values() for key in same[0].rows[-1] if "/" in key)
    pictures = []
    for key in keys:
        have = {name: same for name, same in methods.items() if all(key in run.rows[0] for run in same)}
        if have:
            figure = plots.curves_figure({n: curve(s, key) for n, s in have.items()}, colours, "environment steps", key)
            pictures.append(page.Picture(plots.to_svg(figure, key.replace("/", "-")), key))
    return [page.Section("Inside", pictures=pictures)] if pictures else []
