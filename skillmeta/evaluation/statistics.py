"""Means over training seeds and tasks with 95 % intervals, methods compared by their difference; numpy and scipy alone.

Scores are [..., S, M]: training seeds and tasks. One agent is evaluated on all tasks, so its cells are not independent: the unit
of chance is the whole training seed. Three seeds are few, so every interval starts as a Student t interval of the S seed means.

- Shares of episodes (success) lie in [0, 1] and are skewed near its ends, where three seeds that agree say little about a fourth
  one. Their interval also covers the central 94 % of a beta-binomial posterior of the mean over seeds (`_beta_binomial`).
- A claim about new tasks adds the same interval with the tasks as units and takes away what both of them count (the residual of
  the two-way table): distances from the estimate are squared and added, as in MOVER (Zou & Donner 2008, doi:10.1002/sim.3095)
  and in the modified large-sample intervals of variance components (Burdick & Graybill 1992).
- A difference is the interval of the paired difference, plus what the interval of each share has beyond Student's t.

Coverage, simulated by `tests/evaluation/test_coverage.py`: 90 to 99 % for 3, 5 and 10 seeds. Near 0 and 1, where an interval has to
be wide for seeds that may differ, it is more where they do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betaln, stdtrit

UPPER = 0.975  # quantile of a central 95 % interval
POSTERIOR_TAIL = 0.03  # of the beta-binomial posterior; chosen by simulation, as is the range of _ODDS
_GRID = np.sin(np.pi * np.arange(201) / 400) ** 2  # edges of cells of the mean, finer near 0 and 1
_ODDS = np.geomspace(1e-7, 1e7, 22)  # rho / (1 - rho), log-uniform; rho: share of the variance that is between seeds


@dataclass(frozen=True)
class Scores:
    """What agents scored.

    Args:
        values: [..., S, M] of S training seeds in M tasks. S = 1 where a yardstick is a single fixed agent.
        trials: episodes that a cell is the share of, for shares in [0, 1]; None for scores without limits, such as returns.
    """

    values: np.ndarray
    trials: int | None = None

    def by_task(self) -> Scores:
        """The same with tasks as units, [..., M, S]."""
        return Scores(np.swapaxes(self.values, -1, -2), self.trials)

    def averaged(self) -> Scores:
        """The mean agent as a single one, [..., 1, M]."""
        trials = None if self.trials is None else self.trials * self.values.shape[-2]
        return Scores(self.values.mean(-2, keepdims=True), trials)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; `ci95` is None where nothing can be said, as for one training seed."""

    value: float
    ci95: tuple[float, float] | None

    @classmethod
    def of(cls, value: float, low: float | np.ndarray, high: float | np.ndarray) -> Estimate:
        """With ends as `interval` returns them, NaN for none."""
        return cls(float(value), (float(low), float(high)) if np.isfinite(low) and np.isfinite(high) else None)

    def plain(self) -> dict[str, float | list[float] | None]:
        """For JSON."""
        return {
            "value": self.value if np.isfinite(self.value) else None,
            "ci95": None if self.ci95 is None else list(self.ci95),
        }

    def text(self, number: str = ".3g") -> str:
        """value [low, high], each in the given format; the value alone without an interval."""
        value = written(self.value, number)
        if self.ci95 is None:
            return value
        return f"{value} [{', '.join(written(end, number) for end in self.ci95)}]"


def written(value: float, number: str = ".3g") -> str:
    """A number in the given format, but 1,512 rather than 1.51e+03."""
    return format(value, number.replace(".3g", ",.0f") if 999.5 <= abs(value) < 1e7 else number)


def interval(scores: Scores, new_tasks: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of the mean over seeds and tasks for every leading index: low [...] and high [...].

    Args:
        new_tasks: of new training seeds on new tasks of the same kind, rather than of new training seeds on these tasks.

    Both ends are NaN where nothing can be said: with one seed, and for scores without limits that are all the same number.
    """
    low, high = _contrast([(1.0, scores)], new_tasks)
    return (low, high) if scores.trials is None else (low.clip(0.0), high.clip(None, 1.0))


def estimate(scores: Scores, new_tasks: bool = False) -> Estimate:
    """The mean of scores [S, M] and its `interval`."""
    return Estimate.of(float(scores.values.mean()), *interval(scores, new_tasks))


def paired_interval(a: Scores, b: Scores, new_tasks: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """`interval` of the mean of a - b, paired by seed and task; values [..., S, M], or [..., 1, M] for a fixed agent b.

    A fixed agent counts as known on these tasks; in a claim about new tasks its variation over tasks is part of the interval.
    """
    low, high = _contrast([(1.0, a), (-1.0, b)], new_tasks)
    return (low, high) if a.trials is None else (low.clip(-1.0), high.clip(None, 1.0))


def paired_difference(a: Scores, b: Scores, new_tasks: bool = False) -> Estimate:
    """The mean of a - b, scores [S, M] each, and its `paired_interval`."""
    return Estimate.of(float(np.mean(a.values - b.values)), *paired_interval(a, b, new_tasks))


def normalized(agent: Scores, low: Scores, high: Scores, new_tasks: bool = False) -> Estimate:
    """Where the agent stands between two reference agents, 0 at `low` and 1 at `high`; values [S, M], or [1, M] for fixed ones.

    Means over tasks are compared, not ratios averaged: in a task where the references nearly coincide a ratio is noise. The
    interval is the delta method's: that of agent - (1 - p) low - p high, divided by the distance between the references. There is
    none where the interval of that distance contains zero, and the value is NaN where the distance is zero.
    """
    gap = float(np.mean(high.values - low.values))
    if abs(gap) < 1e-9:
        return Estimate(float("nan"), None)
    place = float(np.mean(agent.values - low.values)) / gap
    below, above = _contrast([(1.0, agent), (place - 1.0, low), (-place, high)], new_tasks)
    if new_tasks and len(high.values) == len(low.values) == 1:  # two fixed agents differ by chance of the tasks alone
        apart = paired_difference(high.by_task(), low.by_task()).ci95
    else:
        apart = paired_difference(high, low, new_tasks).ci95
    if apart is not None and apart[0] <= 0.0 <= apart[1]:
        return Estimate(place, None)
    ends = sorted((place + float(below) / gap, place + float(above) / gap))
    return Estimate.of(place, *ends)


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of runs above each threshold, [thresholds]."""
    result: np.ndarray = (np.asarray(scores, float).ravel()[None] > np.asarray(thresholds, float)[:, None]).mean(1)
    return result


# -- how it is computed ------------------------------------------------------------------------------------------------------
Terms = Sequence[tuple[float, Scores]]  # coefficients and scores of a linear combination


def _contrast(terms: Terms, new_tasks: bool) -> tuple[np.ndarray, np.ndarray]:
    """Interval of the mean of a linear combination of scores, [...] and [...]; NaN where nothing can be said."""
    cells = _combined(terms)
    value, (seeds, tasks) = cells.mean((-1, -2)), cells.shape[-2:]
    if seeds == 1 or (new_tasks and tasks == 1):
        nothing = np.full(value.shape, np.nan)
        return nothing, nothing
    below, above = _squared_distances(terms)
    if new_tasks:
        rest = cells - cells.mean(-1, keepdims=True) - cells.mean(-2, keepdims=True) + value[..., None, None]
        freedom = (seeds - 1) * (tasks - 1)
        twice = stdtrit(freedom, UPPER) ** 2 * (rest**2).sum((-1, -2)) / freedom / (seeds * tasks)
        below, above = (
            np.maximum(np.maximum(a, b), a + b - twice)
            for a, b in zip((below, above), _squared_distances([(c, s.by_task()) for c, s in terms]), strict=True)
        )
    return value - np.sqrt(below), value + np.sqrt(above)


def _combined(terms: Terms) -> np.ndarray:
    """The linear combination in each cell, [..., S, M]."""
    return np.asarray(sum(c * np.asarray(scores.values, float) for c, scores in terms))


def _squared_distances(terms: Terms) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances of both ends from the mean, with rows as units: Student's t, and what a share's own interval has beyond it.

    Rows that agree to rounding have no variance that could be trusted. Then the cells are taken as independent draws, but for a
    single term of shares, which have an interval all the same.
    """
    cells = _combined(terms)
    units, size = cells.shape[-2], cells.shape[-2] * cells.shape[-1]
    rows, factor = cells.mean(-1), stdtrit(units - 1, UPPER) ** 2 / units
    below = factor * rows.var(-1, ddof=1)
    shares = terms[0][1].trials is not None
    if not shares or len(terms) > 1:
        agree = np.ptp(rows, -1) <= 1e-9 * np.maximum(np.abs(rows).max(-1), float(shares))
        flat = factor * units / size * cells.reshape(*cells.shape[:-2], size).var(-1, ddof=1)
        nothing = 0.0 if shares else np.nan
        below = np.where(agree, np.where(np.ptp(cells, (-1, -2)) > 0, flat, nothing), below)
    above = below
    if not shares:
        return below, above
    for coefficient, scores in terms:
        if scores.trials is None or scores.values.shape[-2] != units:
            continue  # one row for all units: a fixed agent, without variation of its own
        own = scores.values.mean(-1)
        mean, student = own.mean(-1), factor * own.var(-1, ddof=1)
        low, high = _beta_binomial(own, scores.trials * scores.values.shape[-1])
        beyond = [
            np.maximum((mean - end) ** 2 - student, 0.0) for end in (np.minimum(low, mean), np.maximum(high, mean))
        ]
        if coefficient < 0:
            beyond.reverse()
        below, above = below + coefficient**2 * beyond[0], above + coefficient**2 * beyond[1]
    none = below + above < 1e-12  # of runs that are equal, or of one task: nothing says how far others would differ
    return np.where(none, np.nan, below), np.where(none, np.nan, above)


def _beta_binomial(shares: np.ndarray, trials: int) -> tuple[np.ndarray, np.ndarray]:
    """Central interval of the posterior of the mean m of units' success probabilities, [...] and [...].

    Args:
        shares: of `trials` each, [..., units]. Units' probabilities are beta with mean m and intraclass correlation rho; m is
            uniform and the odds of rho log-uniform a priori.
    """
    flat = shares.reshape(-1, shares.shape[-1])
    different, index = np.unique(np.round(flat * trials, 6), return_inverse=True)
    counts = np.zeros((len(flat), len(different)))
    np.add.at(counts, (np.arange(len(flat))[:, None], index.reshape(flat.shape)), 1.0)
    mean = 0.5 * (_GRID[1:] + _GRID[:-1])
    a, b = mean[:, None] / _ODDS, (1 - mean)[:, None] / _ODDS  # [cells, odds]
    hits = different[:, None, None]
    likelihood = (counts @ (betaln(hits + a, trials - hits + b) - betaln(a, b)).reshape(len(different), -1)).reshape(
        len(flat), *a.shape
    )
    mass = np.exp(likelihood - likelihood.max((1, 2), keepdims=True)).sum(2) * np.diff(_GRID)
    below = np.pad(mass.cumsum(1) / mass.sum(1, keepdims=True), ((0, 0), (1, 0)))  # at the edges, [points, cells + 1]
    ends = []
    for level in (POSTERIOR_TAIL, 1 - POSTERIOR_TAIL):
        cell = (below < level).sum(1) - 1
        left, right = (below[np.arange(len(flat)), cell + i] for i in (0, 1))
        ends.append(_GRID[cell] + (level - left) / (right - left) * (_GRID[cell + 1] - _GRID[cell]))
    return ends[0].reshape(shares.shape[:-1]), ends[1].reshape(shares.shape[:-1])
