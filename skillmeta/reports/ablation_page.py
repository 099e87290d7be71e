"""The page of an ablation: who solved what, after how many steps, what the prior did, and how to make all of it again."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from skillmeta.config import build, dump_yaml, is_builtin, module_of, read_yaml
from skillmeta.errors import UserError
from skillmeta.evaluation.curves import (
    WINDOW,
    Ablation,
    Curve,
    RunRecord,
    paths,
    read_ablation,
    training_curve,
    update_curve,
)
from skillmeta.evaluation.statistics import Estimate, estimate, paired_difference
from skillmeta.programs.train import TrainConfig
from skillmeta.reports import page, plots
from skillmeta.reports.prior_page import prior_sections
from skillmeta.run.files import write_whole
from skillmeta.skills.vae import SkillModel
from skillmeta.tasks.base import TaskConfig, TaskFamily, make_family
from skillmeta.trust import check_modules

INTERVALS = "Intervals are of 95 %, for new training seeds on these tasks: the unit of chance is the training seed, with all tasks."


def write_ablation_report(folder: Path, task: TaskConfig | None = None, trust: bool = False) -> Path:
    """Write report.html, summary.json, results.csv, curves.csv and pictures/ from what has been run. Returns the page.

    Args:
        task: what the runs learned, where a config of the caller's own says so; else the first run's config is read.
        trust: import the module that this run's config names as its family, where that is not part of skillmeta.

    Raises UserError if no method has finished all tasks for any seed, or if the runs name a module of their own without `trust`.
    """
    ablation = read_ablation(folder, trust)
    if not ablation.methods:
        raise UserError(
            f"{folder}: no method has finished all tasks with any seed yet; run the ablation to its end first"
        )
    task = task or task_config(ablation, trust)
    family = make_family(task)
    facts = task_facts(ablation, family, task.split)
    summary = summarize(ablation, facts)
    write_whole(folder / "summary.json", json.dumps(summary, indent=1))
    write_whole(folder / "results.csv", results_csv(ablation))
    curves = {
        (key, axis): {name: training_curve(ablation, name, key, axis) for name in ablation.methods}
        for key in ("success", "return")
        for axis in ("env_steps", "episodes")
    }
    write_whole(folder / "curves.csv", curves_csv(curves))
    colours = plots.palette(ablation.methods, ablation.reference)
    warnings = []
    if ablation.missing:
        warnings.append(
            f"Unfinished: {len(ablation.missing)} of {len(ablation.missing) + len(ablation.runs)} runs have no result yet. "
            "Numbers below are over the training seeds that each method has finished on every task. Missing: "
            + ", ".join(ablation.missing[:12])
            + ("." if len(ablation.missing) <= 12 else ", and more.")
        )
    if min(len(ablation.complete_seeds(name)) for name in ablation.methods) == 1:
        warnings.append(
            "Some method has one training seed only: it has no interval, and its numbers say nothing about chance."
        )
    sections = [
        scores_section(ablation, summary, colours, folder),
        *([differences_section(ablation)] if differences(ablation, "success") else []),
        curves_section(curves, colours, folder),
        *divergence_sections(ablation, colours, folder),
        *paths_sections(ablation, family, task.split, colours, folder),
        *prior_sections(folder / "skills" / f"seed-{ablation.config['seeds'][0]}", family),
        again_section(ablation, facts),
    ]
    lead = [ablation.config["claim"], headline(folder)]
    page.write(folder / "report.html", ablation.config["title"], [line for line in lead if line], sections, warnings)
    return folder / "report.html"


def summarize(ablation: Ablation, tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """summary.json: for each method the score of its final evaluation and what it cost, then where it all comes from."""
    methods = {}
    for name in ablation.methods:
        success, returns = (estimate(ablation.scores(name, key)) for key in ("success", "return"))
        env_steps = ablation.values(name, "env_steps")
        methods[name] = {
            "success": success.value,
            "success_ci95": success.ci95,
            "success_training_mean": float(
                np.mean([[last(run, "success") for run in row] for row in ablation.of(name)])
            ),
            "success_mode_mean": float(ablation.values(name, "mode_success").mean()),
            "return": returns.value,
            "return_ci95": returns.ci95,
            "env_steps": budget(ablation, name),
            "env_steps_mean": float(env_steps.mean()),
            "episodes_mean": float(ablation.values(name, "episodes").mean()),
            "updates_mean": float(ablation.values(name, "updates").mean()),
            "seconds_mean": float(ablation.values(name, "seconds").mean()),
            "training_seeds": ablation.complete_seeds(name),
            "tasks": len(ablation.tasks),
        }
    return {
        "title": ablation.config["title"],
        "methods": methods,
        "intervals": INTERVALS,
        "reference": ablation.reference,
        "differences": {
            key: {name: one.plain() for name, one in differences(ablation, key).items()}
            for key in ("success", "return")
        },
        "tasks": tasks,
        "max_episodes": first_config(ablation)["max_episodes"],
        "command": ablation.environment["command"],
        "versions": {"python": ablation.environment["python"], **ablation.environment["versions"]},
        "machine": ablation.environment["machine"],
        "unfinished_runs": ablation.missing,
    }


def differences(ablation: Ablation, key: str) -> dict[str, Estimate]:
    """A score of the reference method minus that of each other one, over the training seeds that both have finished."""
    found = {}
    for name in ablation.methods:
        if name != ablation.reference and ablation.complete_seeds(ablation.reference):
            reference, other = ablation.paired(ablation.reference, name, key)
            if len(reference.values):
                found[name] = paired_difference(reference, other)
    return found


def budget(ablation: Ablation, method: str) -> int:
    """Environment steps that each run of a method was given; all methods are given the same."""
    return int(read_yaml(ablation.of(method)[0][0].folder / "config.yaml")["env_steps"])


def first_config(ablation: Ablation) -> dict[str, Any]:
    """The resolved fine-tuning config of the first run; budgets and tasks are the same for all."""
    return read_yaml(ablation.runs[0].folder / "config.yaml")


def spent(scores: dict[str, Any]) -> str:
    """Environment steps of a run: the budget, or what was used of it where episodes ran out first."""
    used, given = scores["env_steps_mean"], scores["env_steps"]
    return f"{given:,}" if round(used) == given else f"{used:,.0f} of {given:,}"


def last(run: Any, key: str, window: int = WINDOW) -> float:
    """Mean over the last training episodes."""
    return float(np.mean([row[key] for row in run.episodes[-window:]]))


def description(run: RunRecord) -> str:
    """What a run's config makes of it, in the words of its algorithm's `describe`; a module that is not part of skillmeta is
    named and not imported."""
    file = run.folder / "config.yaml"
    config = build(TrainConfig, read_yaml(file), str(file))
    options = dict(config.algorithm)
    name = options.pop("name")
    if not is_builtin("algorithms", name):
        return f"the algorithm {name}"
    module = module_of("algorithms", name, f"{file}: algorithm.name")
    prior = "p(z|s)" if config.skill_prior == "state" else "one Gaussian for all states"
    return module.describe(build(module.Config, options, f"{file}: algorithm"), acts_in(config), prior)


def acts_in(config: TrainConfig) -> str:
    """What an action of a run is."""
    if config.skills is None:
        return "the environment's own actions"
    try:
        cloned = SkillModel.load(config.skills).config.cloning
    except UserError:  # the model is not beside the run any more
        return f"the actions of the model {Path(config.skills).name}"
    return "the environment's own actions, with a prior cloned from logs" if cloned else "skills"


def task_facts(ablation: Ablation, family: TaskFamily, split: str) -> list[dict[str, Any]]:
    """Each task as the family describes it."""
    facts = []
    for index in ablation.tasks:
        task = family.tasks(split)[index]
        facts.append({"index": index, "split": split, **asdict(task), **family.facts(task)})
    return facts


def task_config(ablation: Ablation, trust: bool) -> TaskConfig:
    """The task section of the first run's config. Raises ConfigError if it names a module of its own without `trust`."""
    file, task = ablation.runs[0].folder / "config.yaml", first_config(ablation).get("task")
    check_modules({"task": task}, file, trust)
    return build(TaskConfig, task, f"{file}: task")


def headline(folder: Path) -> str:
    """One sentence: success of every method on equal steps."""
    summary = json.loads((folder / "summary.json").read_text())
    parts = []
    for name, scores in summary["methods"].items():
        parts.append(f"{name} {Estimate(scores['success'], scores['success_ci95']).text('.2f')}")
    one = next(iter(summary["methods"].values()))
    limit = f" and {summary['max_episodes']} episodes" if summary["max_episodes"] else ""
    return f"Success within {one['env_steps']:,} environment steps{limit} (share [95 % interval]): {', '.join(parts)}."


# -- sections ----------------------------------------------------------------------------------------------------------------
def scores_section(ablation: Ablation, summary: dict[str, Any], colours: dict[str, str], folder: Path) -> page.Section:
    methods = summary["methods"]
    rows = []
    for name, s in methods.items():
        rows.append(
            [
                name,
                Estimate(s["success"], s["success_ci95"]).text(".2f"),
                f"{s['success_training_mean']:.2f}",
                Estimate(s["return"], s["return_ci95"]).text(".3g"),
                spent(s),
                f"{s['episodes_mean']:.0f}",
                f"{s['updates_mean']:,.0f}",
                f"{len(s['training_seeds'])} x {s['tasks']}",
                f"{s['seconds_mean']:.0f}",
            ]
        )
    head = ["method", "success [95 %]", "training", "return [95 %]", "env steps", "episodes", "updates"]
    shares = {name: Estimate(s["success"], s["success_ci95"]) for name, s in methods.items()}
    figure = plots.scores_figure(shares, colours, "success of the final policy (share of episodes)")
    plots.save_png(figure, folder / "pictures" / "scores.png")
    text = [
        "Success: the goal was reached at any step of an episode. Final evaluation of the policy as it samples, on start states "
        'of its own; nothing is learned from it. "training" is the mean over the last ten episodes of training. Numbers '
        f"are means over training seeds and tasks. {INTERVALS}",
        *(f"{name}: {description(ablation.of(name)[0][0])}." for name in methods),
    ]
    return page.Section(
        "Scores",
        text,
        page.Table([*head, "training seeds x tasks", "seconds"], rows),
        [
            page.Picture(
                plots.to_svg(figure, "scores"),
                "Success of the final policy; the bar is the 95 % interval, where there is one.",
            )
        ],
    )


def differences_section(ablation: Ablation) -> page.Section:
    """The reference method against each other one."""
    found = {key: differences(ablation, key) for key in ("success", "return")}
    rows = [
        [
            name,
            found["success"][name].text("+.2f"),
            found["return"][name].text("+.3g"),
            comparison(found["success"][name]),
        ]
        for name in found["success"]
    ]
    return page.Section(
        f"{ablation.reference} minus each other method",
        [f"Differences are paired by training seed and task, with their 95 % intervals. {INTERVALS}"],
        page.Table(["method", "success", "return", "in success"], rows),
    )


def comparison(difference: Estimate) -> str:
    if difference.ci95 is None:
        return "one training seed: nothing can be said"
    low, high = difference.ci95
    if low <= 0.0 <= high:
        return "the interval contains zero: no difference is shown"
    return "higher" if low > 0 else "lower"


def curves_section(
    curves: dict[tuple[str, str], dict[str, Curve]], colours: dict[str, str], folder: Path
) -> page.Section:
    axes = {"env_steps": "environment steps", "episodes": "episodes"}
    pictures = []
    for (key, axis), lines in curves.items():
        limits = (-0.03, 1.03) if key == "success" else None
        figure = plots.curves_figure(lines, colours, axes[axis], f"{key} (last {WINDOW} episodes)", limits)
        plots.save_png(figure, folder / "pictures" / f"{key}_{axis}.png")
        caption = f"Training {key}, exploration on, against {axes[axis]}: mean and 95 % interval."
        if axis == "episodes":
            caption += " Ends where the method's first run ends."
        pictures.append(page.Picture(plots.to_svg(figure, f"{key}-{axis}"), caption))
    return page.Section(
        "Learning",
        ["Steps are primitive environment steps, those of random warm-up included. A method that solves the task sooner has "
         "shorter episodes, so it sees more of them in the same number of steps."],
        pictures=pictures,
    )  # fmt: skip


def divergence_sections(ablation: Ablation, colours: dict[str, str], folder: Path) -> list[page.Section]:
    shown = {
        "prior/divergence": "divergence from the prior (nats a decision)",
        "prior/coefficient": "coefficient of the divergence",
    }
    pictures = []
    for key, label in shown.items():
        lines = {n: c for n in ablation.methods if (c := update_curve(ablation, n, key)) is not None}
        if not lines:
            return []
        figure = plots.curves_figure(lines, colours, "environment steps", label)
        name = key.replace("/", "-")
        plots.save_png(figure, folder / "pictures" / f"{name}.png")
        pictures.append(page.Picture(plots.to_svg(figure, name), f"{key}: {label}."))
    return [
        page.Section(
            "What the prior does",
            ["The divergence from its prior that a method pays for, and its coefficient. The line of the method under Scores names "
             "the prior. Methods without a divergence are not shown."],
            pictures=pictures,
        )
    ]  # fmt: skip


def paths_sections(
    ablation: Ablation, family: TaskFamily, split: str, colours: dict[str, str], folder: Path
) -> list[page.Section]:
    draw = family.draw
    if draw is None:
        return []
    task = family.tasks(split)[ablation.tasks[0]]
    pictures = []
    for when, what in (("early", "First five training episodes"), ("final", "Five episodes of the final policy")):
        panels = []
        for name in ablation.methods:
            lines = paths(ablation.of(name)[0][0], when)
            if lines:
                panels.append((name, lines, colours[name]))
        if panels:
            figure = plots.paths_figure(panels, lambda axes: draw(axes, task))
            plots.save_png(figure, folder / "pictures" / f"paths_{when}.png")
            caption = f"{what} of each method, first task and seed. Square: start. Star: goal."
            pictures.append(page.Picture(plots.to_svg(figure, f"paths-{when}"), caption))
    return (
        [page.Section("Where it went", pictures=pictures[:1]), page.Section("", pictures=pictures[1:])]
        if pictures
        else []
    )


def again_section(ablation: Ablation, tasks: list[dict[str, Any]]) -> page.Section:
    where = ablation.environment
    facts = [
        f"Training seeds {', '.join(map(str, ablation.config['seeds']))}; tasks: "
        + "; ".join(", ".join(f"{k} {v}" for k, v in task.items()) for task in tasks)
        + ".",
        f"Machine: {where['machine']['cpu']}, {where['machine']['cores']} cores, {where['machine']['system']}; one thread a run.",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in {"python": where["python"], **where["versions"]}.items()) + ".",
    ]
    folded = {"The whole config": dump_yaml(ablation.config)}
    for name in ablation.methods:
        folded[f"{name}: resolved config of its first run"] = (
            ablation.of(name)[0][0].folder / "config.yaml"
        ).read_text()
    return page.Section("How to make this again", facts, code=where["command"], folded=folded)


# -- numbers as CSV ----------------------------------------------------------------------------------------------------------
def results_csv(ablation: Ablation) -> str:
    keys = [
        "success",
        "return",
        "mode_success",
        "mode_return",
        "env_steps",
        "episodes",
        "decisions",
        "updates",
        "seconds",
    ]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["method", "task", "training_seed", *keys])
    for run in ablation.runs:
        writer.writerow([run.method, run.task, run.seed, *(run.result[key] for key in keys)])
    return text.getvalue()


def curves_csv(curves: dict[tuple[str, str], dict[str, Curve]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["quantity", "axis", "method", "x", "mean", "low", "high"])
    for (key, axis), lines in curves.items():
        for name, curve in lines.items():
            for x, *values in zip(curve.x, *curve.means(), strict=True):
                writer.writerow([key, axis, name, x, *("" if np.isnan(value) else f"{value:.5g}" for value in values)])
    return text.getvalue()
