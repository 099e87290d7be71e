"""Statistics over seeds and tasks, after Agarwal et al. 2021 (arXiv:2108.13264), by scipy alone.

Scores are [seeds, tasks]. The bootstrap is stratified: seeds are drawn anew within every task, tasks are not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

Statistic = Callable[..., np.ndarray]  # (scores [..., seeds * tasks], axis) -> [...]


def iqm(scores: np.ndarray) -> float:
    """Interquartile mean: the mean without the lowest and the highest quarter of all seeds * tasks scores."""
    return float(stats.trim_mean(np.asarray(scores, float).ravel(), 0.25))


def interval(
    scores: np.ndarray,
    statistic: Statistic | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a statistic (the IQM by default) by stratified bootstrap over seeds.

    With one seed there is nothing to draw from and both ends are the statistic itself.
    """
    low, high = intervals(np.asarray(scores, float)[None], statistic, confidence, resamples, seed)
    return float(low[0]), float(high[0])


def intervals(
    scores: np.ndarray,
    statistic: Statistic | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """`interval` for many points at once: scores [points, seeds, tasks] to two arrays [points].

    The same resamples serve every point, so that a band along a curve does not flicker.
    """
    points, seeds, tasks = scores.shape
    flat = scores.reshape(points, -1)
    measure = statistic or trimmed
    if seeds == 1:
        value = measure(flat, axis=-1)
        return value, value

    def of_resample(*columns: np.ndarray, axis: int = -1) -> np.ndarray:  # one index array a task, [..., seeds]
        picked = np.concatenate([scores[:, column, task] for task, column in enumerate(columns)], axis=-1)
        return np.moveaxis(measure(picked, axis=-1), 0, -1)

    generator = np.random.default_rng(seed)
    drawn = [generator.integers(seeds, size=(resamples, seeds)) for _ in range(tasks)]
    replicates = of_resample(*drawn)  # [resamples, points]
    tail = 50 * (1 - confidence)
    low, high = np.percentile(replicates, [tail, 100 - tail], axis=0)
    return low, high


def trimmed(flat: np.ndarray, axis: int = -1) -> np.ndarray:
    """Interquartile mean along an axis."""
    return np.asarray(stats.trim_mean(flat, 0.25, axis=axis))


def mean(flat: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray(flat).mean(axis)


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of runs above each threshold, [thresholds]."""
    return (np.asarray(scores, float).ravel()[None] > np.asarray(thresholds, float)[:, None]).mean(1)


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> float:
    """P(a run of x beats a run of y), ties counting half, averaged over tasks; x [seeds, tasks], y [other seeds, tasks]."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x has {x.shape[1]} tasks, y has {y.shape[1]}; the same tasks are needed")
    pairs = x.shape[0] * y.shape[0]
    return float(np.mean([stats.mannwhitneyu(x[:, t], y[:, t]).statistic / pairs for t in range(x.shape[1])]))
