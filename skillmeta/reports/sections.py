"""Sections about training runs; each is None where the data for it are not there."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from skillmeta.evaluation.curves import Curve, curve
from skillmeta.evaluation.records import Study, paths
from skillmeta.evaluation.statistics import Estimate, estimate, written
from skillmeta.reports import plots
from skillmeta.reports.content import (
    HELD_OUT,
    INTERVALS,
    TRAINING,
    Content,
    at_the_end,
    curves,
    differences,
    finals,
    given,
    reference_of,
    spent,
    stated,
)
from skillmeta.reports.description import description
from skillmeta.reports.html import Picture, Section, Table
from skillmeta.tasks.base import TaskFamily

AXES = {"env_steps": "environment steps", "episodes": "episodes"}
UNITS = {  # of metrics that are on no obvious scale
    "prior/divergence": "divergence from the prior (nats a decision)",
    "prior/coefficient": "coefficient of the divergence",
}


def picture(figure: Figure, name: str, caption: str, folder: Path) -> Picture:
    """A figure for a page, and as a PNG in pictures/."""
    name = re.sub(r"[^\w-]", "-", name)  # a metric's name comes from a file
    plots.save_png(figure, folder / "pictures" / f"{name}.png")
    return Picture(plots.to_svg(figure, name), caption)


def final_scores(study: Study, colours: Mapping[str, str], folder: Path) -> Section | None:
    """What the final policies score on their tasks, and what they cost."""
    names = finals(study)
    if not names:
        return None
    rows = []
    for name in names:
        returns = estimate(study.scores(name, "return"))
        success = estimate(study.scores(name, "success")).text(".2f") if study.has(name, "success") else "not reported"
        end = at_the_end(study, name, "success")
        by_mode = [spent(study, name, f"mode_{key}") for key in ("success", "return")]
        row = [name, success, "" if by_mode[0] is None else f"{by_mode[0]:.2f}"]
        row += ["" if end is None else f"{end.value:.2f}", returns.text(".3g")]
        row += ["" if by_mode[1] is None else written(by_mode[1]), used(study, name)]
        row += [number(spent(study, name, key)) for key in ("episodes", "updates")]
        rows.append(
            [*row, f"{len(study.seeds(name))} x {len(study.methods[name][0])}", number(spent(study, name, "seconds"))]
        )
    head = ["method", "success, sampled [95 %]", "success, mode", "success in training, sampled"]
    head += [
        "return, sampled [95 %]",
        "return, mode",
        "env steps",
        "episodes",
        "updates",
        "training seeds x tasks",
        "seconds",
    ]
    key = "success" if all(study.has(name, "success") for name in names) else "return"
    each = {name: estimate(study.scores(name, key)) for name in names}
    if key == "success":
        figure = plots.scores_figure(
            each, colours, "success of the final policy, sampled (share of episodes)", (-0.03, 1.03)
        )
    else:
        figure = plots.scores_figure(each, colours, "return of the final policy, sampled")
    text = [
        "Success: the goal was reached at any step of an episode. Final evaluation on start states of its own, once by samples of "
        "the policy, as it was trained, and once by its mode; nothing is learned from it. Success in training is the mean over "
        f"the last episodes of training. Numbers are means over training seeds and tasks. {INTERVALS}"
    ]
    caption = (
        f"{key.capitalize()} of the final policy, actions sampled; the bar is the 95 % interval, where there is one."
    )
    return Section("Scores", text, Table(head, rows), [picture(figure, "scores", caption, folder)])


def used(study: Study, name: str) -> str:
    """Environment steps of a run: the budget, or what was used of it where episodes ran out first."""
    taken, allowed = spent(study, name, "env_steps"), given(study, name)
    return f"{allowed:,}" if taken is None or round(taken) == allowed else f"{taken:,.0f} of {allowed:,}"


def number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def end_of_training(study: Study) -> Section | None:
    """What methods without a final evaluation on their task scored at the end of training."""
    names = [name for name in study.methods if name not in finals(study)]
    if not names:
        return None
    keys = list(stated(study))
    rows = []
    for name in names:
        cells = [name, str(len(study.seeds(name)))]
        cells += [number(spent(study, name, key)) for key in ("env_steps", "updates", "seconds")]
        rows.append([*cells, *("" if (end := at_the_end(study, name, key)) is None else end.text() for key in keys)])
    head = ["method", "training seeds", "env steps", "updates", "seconds", *(TRAINING[key] for key in keys)]
    text = (
        "Mean of the last iterations, actions sampled, and of training seeds [95 % interval]; one seed has no interval."
    )
    return Section("At the end of training", [text], Table(head, rows))


def methods(study: Study) -> Section:
    """Each method in the words of its config."""
    return Section(
        "Methods", [f"{name}: {description(study.runs(name)[0], study.runs(name))}." for name in study.methods]
    )


def differences_section(study: Study) -> Section | None:
    """The reference method against each other one, where final scores are of the same tasks."""
    found = {key: differences(study, key) for key in ("success", "return")}
    if not found["return"]:
        return None
    key = "success" if found["success"].keys() == found["return"].keys() else "return"
    rows = [
        [
            name,
            found["success"][name].text("+.2f") if name in found["success"] else "not reported",
            difference.text("+.3g"),
            comparison(found[key][name]),
        ]
        for name, difference in found["return"].items()
    ]
    text = "Differences are paired by training seed and task, actions sampled, with their 95 % intervals."
    head = ["method", "success", "return", f"what that of the {key} shows"]
    return Section(f"{reference_of(study)} minus each other method", [text], Table(head, rows))


def comparison(difference: Estimate) -> str:
    if difference.ci95 is None:
        return "no interval: one training seed or one task, or scores that are all the same"
    low, high = difference.ci95
    if low <= 0.0 <= high:
        return "the interval contains zero: no difference is shown"
    return "higher" if low > 0 else "lower"


def learning(study: Study, colours: Mapping[str, str], folder: Path) -> Section:
    """Training scores along environment steps and, where rows are single episodes, along episodes."""
    pictures = []
    for (key, axis), lines in curves(study).items():
        limits = (-0.03, 1.03) if key.startswith("success") else None
        figure = plots.curves_figure(lines, colours, AXES[axis], TRAINING[key], limits)
        caption = f"{TRAINING[key]} in training, actions sampled, against {AXES[axis]}: mean and 95 % interval."
        if axis == "episodes":
            caption += " Ends where the method's first run ends."
        pictures.append(picture(figure, f"{key}_{axis}", caption, folder))
    text = [
        "A point is the mean of the last 5 iterations of training, or of as many as hold 10 episodes. Steps are primitive "
        "environment steps, those of random warm-up included. A method whose episodes end at success sees more of them in the "
        "same number of steps."
    ]
    if not any(key.startswith("success") for key in stated(study)):
        text.append("No episode of any run reported success, so there is no picture of it.")
    return Section("Learning", text, pictures=pictures)


def held_out(study: Study, colours: Mapping[str, str], folder: Path) -> Section | None:
    """Evaluations on held-out tasks while methods trained."""
    pictures = []
    for key, label in HELD_OUT.items():
        lines = shown(study, key, "held_out", 1)
        if not lines or (label == "success" and not any(line.values.any() for line in lines.values())):
            continue
        how = {name: shown(study, "evaluation/sampled", "held_out", 1).get(name) for name in lines}
        listed = ", ".join(
            f"{name} {'mode' if h is None or not h.values[-1].any() else 'sampled'}" for name, h in how.items()
        )
        figure = plots.curves_figure(lines, colours, AXES["env_steps"], f"{label}, evaluation")
        caption = f"{label} in the last episode of a trial: mean and 95 % interval. Actions: {listed}."
        pictures.append(picture(figure, f"held_out_{label}", caption, folder))
    text = [
        "Evaluations while training: on validation tasks, or on the one task of a run that learns one. Nothing is learned from "
        "them."
    ]
    return Section("Evaluations while training", text, pictures=pictures) if pictures else None


def shown(study: Study, key: str, rows: str, window: int | None = None) -> dict[str, Curve]:
    """The methods that state a quantity."""
    lines = {name: curve(study, name, key, rows=rows, window=window) for name in study.methods}
    return {name: line for name, line in lines.items() if line is not None}


def inside(study: Study, colours: Mapping[str, str], folder: Path) -> Section | None:
    """What learners log of themselves: losses, divergences, coefficients."""
    keys = dict.fromkeys(key for run in study.every for key in run.rows[-1] if "/" in key)
    pictures = []
    for key in sorted(keys, key=lambda key: (key not in UNITS, key)):
        if lines := shown(study, key, "rows"):
            figure = plots.curves_figure(lines, colours, AXES["env_steps"], UNITS.get(key, key))
            pictures.append(picture(figure, key, f"{key}: {UNITS[key]}." if key in UNITS else key, folder))
    text = ["Metrics that the learners log of themselves. A method that does not log one is not shown there."]
    return Section("Inside", text, pictures=pictures) if pictures else None


def where(study: Study, content: Content, colours: Mapping[str, str], folder: Path) -> list[Section]:
    """Paths of episodes over the family's map, for runs that kept them."""
    family = content.family
    if family is None or family.draw is None:
        return []
    draw, task = map_of(family, study, content.tasks)
    made: list[Section] = []
    for when, what in (("early", "First training episodes"), ("final", "Episodes of the final policy, sampled,")):
        panels = []
        for name in study.methods:
            if lines := paths(study.runs(name)[0], when):
                panels.append((name, lines, colours[name]))
        if panels:
            figure = plots.paths_figure(panels, lambda axes: draw(axes, task))
            caption = f"{what} of each method, first task and training seed. A path ends at its dot."
            made.append(
                Section("" if made else "Where it went", pictures=[picture(figure, f"paths_{when}", caption, folder)])
            )
    return made


def map_of(family: TaskFamily, study: Study, tasks: Sequence[Any]) -> tuple[Callable[[Any, Any], None], Any]:
    """What draws the map, and the first task; None where runs are on all tasks of a split."""
    assert family.draw is not None
    if tasks:
        return family.draw, tasks[0]
    task = study.every[0].config.get("task") or {}
    index, split = task.get("index"), task.get("split")
    fixed = family.splits.get(str(split), ())
    return family.draw, fixed[index] if isinstance(index, int) and index < len(fixed) else None


def again(content: Content) -> Section:
    """How all of it is made again."""
    facts = []
    if content.study is not None:
        seeds = ", ".join(
            map(str, dict.fromkeys(seed for name in content.study.methods for seed in content.study.seeds(name)))
        )
        listed = "; ".join(", ".join(f"{k} {v}" for k, v in task.items()) for task in content.facts)
        facts.append(f"Training seeds {seeds}{f'; tasks: {listed}' if listed else ''}.")
    machine = content.environment.get("machine")
    if machine:
        facts.append(f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['system']}; one thread a run.")
    if "versions" in content.environment:
        versions = {"python": content.environment.get("python"), **content.environment["versions"]}
        facts.append("Versions: " + ", ".join(f"{k} {v}" for k, v in versions.items()) + ".")
    return Section("How to make this again", facts, code="\n".join(content.commands), folded=dict(content.configs))
