"""The page that says whether a prior is any good, and the same as a part of other pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from skillmeta.reports import page, plots
from skillmeta.run.run import read_metrics, read_result


def write_prior_page(folder: Path, family: Any, command: str) -> Path:
    """prior.html in a pretraining run's folder, from its result. Returns the page."""
    result = read_result(folder)
    assert result is not None
    path = folder / "prior.html"
    code = f"{command}\n\n{(folder / 'config.yaml').read_text()}"
    sections = [*prior_sections(folder, family), page.Section("How to make this again", code=code)]
    page.write(path, f"Is this prior any good? {result['source']}", result["verdict"], sections)
    return path


def prior_sections(folder: Path, family: Any) -> list[page.Section]:
    """What a pretraining run found out about its prior; nothing where there is no such run."""
    result = read_result(folder)
    if result is None:
        return []
    sections = []
    if result["rollouts"]:
        sections.append(_acting(folder, result, family))
    sections.append(_fit(folder, result))
    sections.append(_training(folder))
    return sections


def _acting(folder: Path, result: dict[str, Any], family: Any) -> page.Section:
    rows = []
    for r in result["rollouts"]:
        share = "" if r["coverage"] is None else f"{r['coverage']:.1%}"
        whole = "" if r["total_coverage"] is None else f"{r['total_coverage']:.0%}"
        rows.append([r["name"], str(r["episodes"]), f"{r['env_steps']:,}", share, whole, f"{r['success']:.2f}"])
    pictures = []
    if family is not None and family.draw is not None and (folder / "paths.npz").exists():
        with np.load(folder / "paths.npz", allow_pickle=False) as archive:
            panels = [
                (
                    r["name"],
                    [archive[name] for name in archive.files if name.startswith(r["name"] + "/")],
                    plots.COLOURS[i],
                )
                for i, r in enumerate(result["rollouts"])
            ]
        figure = plots.paths_figure(panels, lambda axes: family.draw(axes, None))
        plots.save_png(figure, folder / "pictures" / "rollouts.png")
        caption = (
            "Paths of all episodes, nothing learned. A black square is where tasks start; the logs start anywhere."
        )
        pictures.append(page.Picture(plots.to_svg(figure, "rollouts"), caption))
    head = ["acting by", "episodes", "env steps", "visited an episode", "visited in all", "solved the first task"]
    return page.Section(
        "The prior, acting",
        ["Skills drawn from the prior are executed, and nothing is learned: what a new task's exploration starts from. Visited "
         "is the share of the world's free cells; an episode of the logs is as many steps of them as an episode here has."],
        page.Table(head, rows),
        pictures,
    )  # fmt: skip


def _fit(folder: Path, result: dict[str, Any]) -> page.Section:
    fit = result["held_out"]
    rows = [
        ["KL(posterior || N(0, I))", f"{fit['kl']:.2f} nats"],
        ["KL(posterior || prior): what the prior does not foresee", f"{fit['prior_kl']:.2f} nats"],
        ["prior's NLL of skills", f"{fit['prior_nll']:.2f} nats"],
        ["NLL under one Gaussian for all states", f"{fit['unconditional_nll']:.2f} nats"],
        ["latent dimensions in use", f"{fit['active_dimensions']} of {fit['dimensions']}"],
    ]
    groups = {
        "z from the posterior": fit["error_by_action"],
        "z from the prior": fit["error_by_action_prior"],
        "predicting the mean": fit["action_variance"],
    }
    figure = plots.bars_figure(groups, "mean squared error", "action dimension")
    plots.save_png(figure, folder / "pictures" / "reconstruction.png")
    caption = "Error of decoded actions, by dimension, in units of half the action range. Lower is better."
    return page.Section(
        "The model, on episodes that it was not trained on",
        [f"{fit['windows']:,} windows."],
        page.Table(["quantity, a window", "value"], rows),
        [page.Picture(plots.to_svg(figure, "reconstruction"), caption)],
    )


def _training(folder: Path) -> page.Section:
    from skillmeta.evaluation.curves import Curve

    rows = read_metrics(folder)
    lines = {}
    for kind, name in (("iteration", "training batch"), ("evaluation", "held out")):
        chosen = [row for row in rows if row["kind"] == kind]
        values = np.array([row["score"] for row in chosen]).reshape(-1, 1, 1)
        lines[name] = Curve(np.array([row["steps"] for row in chosen]), values)
    label = "reconstruction + beta KL(q || prior)"
    figure = plots.curves_figure(lines, plots.palette(["held out", "training batch"]), "updates", label)
    plots.save_png(figure, folder / "pictures" / "training.png")
    caption = "The score that models are compared by; the one with the best held-out score is kept."
    return page.Section("Its training", pictures=[page.Picture(plots.to_svg(figure, "training"), caption)])
