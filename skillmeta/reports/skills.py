"""Sections about skill models: whether a prior is any good."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from skillmeta.evaluation import settings
from skillmeta.evaluation.curves import Curve
from skillmeta.evaluation.records import ModelRecord, read_paths
from skillmeta.evaluation.settings import explained
from skillmeta.reports import plots
from skillmeta.reports.html import Section, Table
from skillmeta.reports.sections import picture
from skillmeta.tasks.base import TaskFamily


def sections(models: Mapping[str, ModelRecord], family: TaskFamily | None, folder: Path) -> list[Section | None]:
    """What pretraining found out: all models in a table, and the first one in full."""
    if not models:
        return []
    name, first = next(iter(models.items()))
    of = f" ({name})" if len(models) > 1 else ""
    compared = by_setting(models)
    return [
        *([] if compared is None else [compared]),
        table(models, name),
        acting(first, family, folder, of),
        held_out_fit(first, folder, of),
        training(first, folder, of),
    ]


def by_setting(models: Mapping[str, ModelRecord]) -> Section | None:
    found = settings.by_setting(models)
    if len(found) < 2 or any(cloned(model) for model in models.values()):
        return None
    text = "Means over training seeds [95 % interval], on episodes that the models were not trained on."
    return Section("Settings of skills", [text], Table(*settings.table(found)))


def table(models: Mapping[str, ModelRecord], shown: str) -> Section | None:
    if len(models) < 2:
        return None
    rows = []
    for name, model in models.items():
        found = model.result["held_out"]
        gain = found["unconditional_nll"] - found["prior_nll"]
        visited = {r["name"]: r["coverage"] for r in model.result["rollouts"] if r["coverage"] is not None}
        listed = ", ".join(f"{who} {share:.1%}" for who, share in visited.items())
        rows.append([name, "" if cloned(model) else f"{explained(found):.0%}", f"{gain:.2f}", listed])
    head = ["model", "action variance explained", "nats that the state is worth to the prior", "visited an episode"]
    text = (
        f"One model for each training seed, so that runs that use them are independent. {shown} is shown in full below."
    )
    return Section("Skill models", [text], Table(head, rows))


def cloned(model: ModelRecord) -> bool:
    """A cloned policy has no decoder: an action is its own skill."""
    return bool((model.config.get("model") or {}).get("cloning"))


def acting(model: ModelRecord, family: TaskFamily | None, folder: Path, of: str) -> Section | None:
    if not model.result["rollouts"]:
        return None
    rows, split = [], model.result["rollouts"][0].get("split", "")
    where = " ".join(f"the first {split} task".split())
    for r in model.result["rollouts"]:
        share = "" if r["coverage"] is None else f"{r['coverage']:.1%}"
        whole = "" if r["total_coverage"] is None else f"{r['total_coverage']:.0%}"
        success = "" if r["success"] is None else f"{r['success']:.2f}"
        rows.append([r["name"], str(r["episodes"]), f"{r['env_steps']:,}", share, whole, success])
    pictures = []
    if family is not None and family.draw is not None and (model.folder / "paths.npz").exists():
        draw = family.draw
        arrays = read_paths(model.folder / "paths.npz")
        panels = [
            (r["name"], [path for name, path in arrays.items() if name.startswith(r["name"] + "/")], plots.COLOURS[i])
            for i, r in enumerate(model.result["rollouts"])
        ]
        figure = plots.paths_figure(panels, lambda axes: draw(axes, None))
        caption = (
            "Paths of all episodes over the family's map, nothing learned. The logs start where they were recorded."
        )
        pictures.append(picture(figure, "rollouts", caption, folder))
    head = [
        "acting by",
        "episodes",
        "env steps",
        "visited an episode",
        "visited in all",
        f"success in {where}",
    ]
    text = (
        "Skills are sampled from the prior and executed, and nothing is learned: what a new task's exploration starts from. "
        f"Visited is the share of the world, as the family counts it; an episode of the logs is as many steps of them as an "
        f"episode here has. Success is the share of episodes in which {where} happened to be solved; logs "
        "have none."
    )
    return Section(f"The prior, acting{of}", [text], Table(head, rows), pictures)


def held_out_fit(model: ModelRecord, folder: Path, of: str) -> Section:
    found = model.result["held_out"]
    title, windows = f"The model, on episodes that it was not trained on{of}", f"{found['windows']:,} windows."
    what = "actions" if cloned(model) else "skills"
    likely = [
        [f"prior's NLL of {what}", f"{found['prior_nll']:.2f} nats"],
        ["NLL under one Gaussian for all states", f"{found['unconditional_nll']:.2f} nats"],
    ]
    if cloned(model):
        text = [windows, "The model is a cloned policy p(a|s): an action is its own skill, and nothing is decoded."]
        return Section(title, text, Table(["quantity, a window", "value"], likely))
    rows = [
        ["KL(posterior || N(0, I))", f"{found['kl']:.2f} nats"],
        ["KL(posterior || prior): what the prior does not foresee", f"{found['prior_kl']:.2f} nats"],
        *likely,
        ["latent dimensions in use", f"{found['active_dimensions']} of {found['dimensions']}"],
    ]
    groups = {
        "z from the posterior": found["error_by_action"],
        "z from the prior": found["error_by_action_prior"],
        "predicting the mean": found["action_variance"],
    }
    figure = plots.bars_figure(groups, "mean squared error", "action dimension")
    caption = "Error of decoded actions, by dimension, in units of half the action range. Lower is better."
    pictures = [picture(figure, "reconstruction", caption, folder)]
    return Section(title, [windows], Table(["quantity, a window", "value"], rows), pictures)


def training(model: ModelRecord, folder: Path, of: str) -> Section:
    lines = {}
    for kind, name in (("iteration", "training batch"), ("evaluation", "held out")):
        chosen = [row for row in model.rows if row["kind"] == kind]
        values = np.array([row["score"] for row in chosen]).reshape(-1, 1, 1)
        lines[name] = Curve(np.array([row["steps"] for row in chosen]), values)
    label = "reconstruction + beta KL(q || prior)"
    figure = plots.curves_figure(lines, plots.palette(["held out", "training batch"]), "updates", label)
    caption = "The score that models are compared by; the one with the best held-out score is kept."
    return Section(f"Its training{of}", pictures=[picture(figure, "training", caption, folder)])
