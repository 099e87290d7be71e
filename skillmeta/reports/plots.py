"""Pictures: curves with bands, points with intervals, paths over a background. Each is a Figure, saved as SVG text or PNG."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from skillmeta.evaluation.curves import Curve
from skillmeta.evaluation.statistics import Estimate, performance_profile
from skillmeta.run.files import write_whole

# Okabe and Ito's colours, distinct for every kind of colour vision; the first is the method that the page is about.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555", "#b5a900")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "skillmeta",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "path.simplify": True,
    "text.parse_math": False,  # a name with two dollar signs is a name
}


def palette(names: Sequence[str], first: str | None = None) -> dict[str, str]:
    """A colour for each name; `first` gets the first one."""
    order = [name for name in names if name == first] + [name for name in names if name != first]
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(order)}


def curves_figure(
    curves: Mapping[str, Curve],
    colours: Mapping[str, str],
    x_label: str,
    y_label: str,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """The mean of each curve over training seeds and tasks with its 95 % interval; one seed has none.

    More curves than there are colours get a panel each, with the first colour's mean in grey beside them.
    """
    if len(curves) > len(COLOURS):
        return curve_panels(curves, colours, x_label, y_label, limits)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.2, 3.6), layout="constrained")
        axes = figure.subplots()
        for name, curve in curves.items():
            middle, low, high = curve.means()
            axes.fill_between(curve.x, low, high, color=colours[name], alpha=0.18, linewidth=0)
            alone = "o" if len(curve.x) == 1 else None  # a line of one point is not seen
            axes.plot(curve.x, middle, marker=alone, color=colours[name], linewidth=2, label=name)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.set_xlim(left=0)
        if limits:
            axes.set_ylim(*limits)
        axes.xaxis.set_major_formatter(lambda value, _: short(value))
        axes.legend(frameon=False, loc="best")
    return figure


def curve_panels(
    curves: Mapping[str, Curve],
    colours: Mapping[str, str],
    x_label: str,
    y_label: str,
    limits: tuple[float, float] | None,
    columns: int = 4,
) -> Figure:
    """`curves_figure` as small panels of the same axes."""
    rows = -(-len(curves) // columns)
    compared = next((name for name in curves if colours[name] == COLOURS[0]), None)  # it may not log this
    with matplotlib.rc_context({**STYLE, "font.size": 8}):
        figure = Figure(figsize=(8.4, 0.4 + 1.5 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes, (name, curve) in zip(grid.flat, curves.items(), strict=False):
            middle, low, high = curve.means()
            axes.fill_between(curve.x, low, high, color=colours[name], alpha=0.18, linewidth=0)
            if compared is not None and name != compared:
                axes.plot(curves[compared].x, curves[compared].means()[0], color="#999999", linewidth=1.2)
            axes.plot(curve.x, middle, color=colours[name], linewidth=1.8)
            axes.set_title(name, fontsize=8)
            axes.set_xlim(left=0)
            if limits:
                axes.set_ylim(*limits)
            axes.xaxis.set_major_formatter(lambda value, _: short(value))
        for axes in grid.flat[len(curves) :]:
            axes.set_visible(False)
        figure.supxlabel(f"{x_label}; grey: {compared}", fontsize=8)
        figure.supylabel(y_label, fontsize=8)
    return figure


def short(value: float) -> str:
    """1500 as 1.5k, two million as 2M."""
    for size, letter in ((1_000_000, "M"), (1000, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def scores_figure(
    scores: dict[str, Estimate], colours: Mapping[str, str], label: str, limits: tuple[float, float] | None = None
) -> Figure:
    """Scores with their intervals, one row a method; the axis goes from limit to limit."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.2, 0.7 + 0.42 * len(scores)), layout="constrained")
        axes = figure.subplots()
        for row, (name, score) in enumerate(reversed(scores.items())):
            if score.ci95 is not None:
                axes.plot(score.ci95, [row, row], color=colours[name], linewidth=5, alpha=0.35, solid_capstyle="round")
            axes.plot([score.value], [row], marker="o", color=colours[name], markersize=8)
        axes.set_yticks(range(len(scores)), list(reversed(scores)))
        axes.set_xlabel(label)
        if limits is not None:
            axes.set_xlim(*limits)
        axes.set_ylim(-0.6, len(scores) - 0.4)
        axes.grid(axis="y", visible=False)
    return figure


def paths_figure(
    panels: Sequence[tuple[str, Sequence[np.ndarray], str]], draw: Callable[[Any], None], columns: int = 4
) -> Figure:
    """Panels of (title, paths [T, 2] each, colour) over the background that `draw` puts on their axes."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context({**STYLE, "axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure = Figure(figsize=(2.6 * columns, 2.85 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, (title, lines, colour) in zip(grid.flat, panels, strict=False):
            draw(axes)
            for line in lines:
                axes.plot(line[:, 0], line[:, 1], color=colour, linewidth=1.1, alpha=0.7)
                axes.plot(line[-1, 0], line[-1, 1], marker="o", color=colour, markersize=3.5)
            axes.set_title(title, fontsize=10)
            axes.set_aspect("equal")
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
    return figure


def adaptation_figure(
    series: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    sampled: Mapping[str, np.ndarray],
    colours: Mapping[str, str],
    y_label: str,
    dashed: Collection[str] = (),
) -> Figure:
    """Performance(K): mean of each episode of a trial and ends of its 95 % interval, [K+1] each, NaN where there is none.

    Args:
        sampled: bool [K+1] of each series; such episodes have hollow marks.
        dashed: series that are drawn dashed.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 3.6), layout="constrained")
        axes = figure.subplots()
        for name, (middle, low, high) in series.items():
            x = np.arange(len(middle))
            axes.fill_between(x, low, high, color=colours[name], alpha=0.05 if name in dashed else 0.18, linewidth=0)
            axes.plot(x, middle, "--" if name in dashed else "-", color=colours[name], label=name)
            for hollow in (False, True):
                at = sampled[name] == hollow
                axes.plot(x[at], middle[at], "o", color=colours[name], markersize=5, mfc="white" if hollow else None)
        episodes = len(next(iter(sampled.values())))
        axes.set_xlim(-0.5, episodes - 0.5)
        axes.set_xticks(range(episodes))
        axes.set_xlabel("episode of the trial (0: nothing known of the task)")
        axes.set_ylabel(y_label)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def profiles_figure(series: Mapping[str, np.ndarray], colours: Mapping[str, str], label: str) -> Figure:
    """Performance profiles: the share of runs, seeds times tasks, that score above each threshold; scores [S, M]."""
    every = np.concatenate([scores.ravel() for scores in series.values()])
    span = max(float(np.ptp(every)), 1e-9)
    thresholds = np.linspace(every.min() - 0.02 * span, every.max() + 0.02 * span, 201)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.2, 3.2), layout="constrained")
        axes = figure.subplots()
        for name, scores in series.items():
            axes.plot(thresholds, performance_profile(scores, thresholds), color=colours[name], linewidth=2, label=name)
        axes.set_xlabel(f"{label} above this")
        axes.set_ylabel("share of runs")
        axes.set_ylim(-0.02, 1.02)
        axes.legend(frameon=False, loc="best")
    return figure


def bars_figure(groups: Mapping[str, Sequence[float]], label: str, x_label: str) -> Figure:
    """Bars side by side: for each name a value for every index."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.2, 2.8), layout="constrained")
        axes = figure.subplots()
        width = 0.8 / len(groups)
        for i, (name, values) in enumerate(groups.items()):
            at = np.arange(len(values)) + (i - (len(groups) - 1) / 2) * width
            axes.bar(at, values, width, label=name, color=COLOURS[i])
        axes.set_xlabel(x_label)
        axes.set_ylabel(label)
        axes.set_xticks(range(len(next(iter(groups.values())))))
        axes.grid(axis="x", visible=False)
        axes.legend(frameon=False)
    return figure


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element for an HTML page. Ids carry `name`, so that several figures share a page; the bytes are
    the same for the same figure."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")  # an HTML parser knows both
    text = re.sub(
        r'(<image\b[^>]*?) id="[^"]*"', r"\1", text
    )  # equal pictures have equal ids, and nothing refers to them
    name = re.sub(r"[^\w-]", "-", name)  # a metric's name comes from a file, and here it would not be escaped
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'role="img"', text, count=1)


def save_png(figure: Figure, path: Path) -> None:
    """The figure as a PNG of 150 dots an inch."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, buffer.getvalue())
