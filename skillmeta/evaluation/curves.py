"""From rows of runs to curves along environment steps or episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skillmeta.evaluation.records import RunRecord, Study
from skillmeta.evaluation.statistics import Scores, interval

POINTS = 60  # of a curve


@dataclass(frozen=True)
class Curve:
    """One quantity of one method along a common axis."""

    x: np.ndarray  # [G]
    values: np.ndarray  # [G, training seeds, tasks]
    trials: int | None = None  # episodes that a value is the share of, where it is one

    def means(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Means over seeds and tasks, and the ends of their 95 % intervals for new seeds on these tasks, [G] each."""
        return self.values.mean((1, 2)), *interval(Scores(self.values, self.trials))


def has(run: RunRecord, key: str, rows: str = "rows") -> bool:
    """Whether a run states a quantity in some of its rows: there are none of updates before the first one."""
    return any(key in row for row in getattr(run, rows))


def curve(
    study: Study, method: str, key: str, axis: str = "env_steps", rows: str = "rows", window: int | None = None
) -> Curve | None:
    """A quantity of a method's runs, at points along `axis` (`env_steps` or `episodes`); None where a run does not state it.

    Along steps finished runs go to the end of the longest one, and one that stopped before keeps its last value; while a run is
    unfinished the curve goes as far as all have come. Along episodes it ends where the first run ends.

    Args:
        rows: `rows` of iterations, or `held_out`.
        window: rows that a point is the mean of; by default `RunRecord.window`. There are fewer at the beginning.
    """
    runs = study.runs(method)
    if not all(has(run, key, rows) for run in runs):
        return None
    stated = {id(run): [row for row in getattr(run, rows) if key in row] for run in runs}
    window = window or max(run.window for run in runs)
    ends = [stated[id(run)][-1][axis] for run in runs]
    first = max(stated[id(run)][0][axis] for run in runs)
    finished = all(run.result is not None for run in runs)
    end = max(ends) if axis == "env_steps" and finished else min(ends)
    x = np.unique(np.linspace(min(first, end), end, POINTS).round().astype(int))
    values = np.stack(
        [[running(stated[id(run)], key, axis, x, window) for run in row] for row in study.methods[method]]
    )
    return Curve(x, np.moveaxis(values, -1, 0), window * trials(runs, rows) if "success" in key else None)


def trials(runs: Sequence[RunRecord], rows: str = "rows") -> int:
    """Trials that success in a row is the share of, at least."""
    name = "trials" if rows == "rows" else "evaluation/trials"
    return int(min(row.get(name, 1) for run in runs for row in getattr(run, rows)))


def running(rows: Sequence[dict[str, Any]], key: str, axis: str, x: np.ndarray, window: int) -> np.ndarray:
    """The mean of the last `window` rows at or before each x, [G]."""
    at = np.array([row[axis] for row in rows])
    sums = np.concatenate([[0.0], np.cumsum([float(row[key]) for row in rows])])
    seen = np.searchsorted(at, x, side="right").clip(1)
    start = (seen - window).clip(0)
    result: np.ndarray = (sums[seen] - sums[start]) / (seen - start)
    return result
