"""Statistics against brute force and frozen numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillmeta.evaluation.statistics import (
    interval,
    intervals,
    iqm,
    mean,
    performance_profile,
    probability_of_improvement,
)

SCORES = np.random.default_rng(7).beta(2, 2, size=(10, 8))  # [seeds, tasks]


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.floats(-10, 10), min_size=4, max_size=40))
def test_iqm_is_the_mean_of_the_middle_half(values):
    cut = len(values) // 4
    expected = np.mean(sorted(values)[cut : len(values) - cut])
    assert iqm(np.array(values)) == pytest.approx(expected, abs=1e-9)


def test_frozen_numbers():
    """Computed once by sorting and by a loop of resamples, not by the code under test."""
    assert iqm(SCORES) == pytest.approx(np.sort(SCORES.ravel())[20:60].mean(), abs=1e-12)
    assert iqm(np.arange(8.0)) == 3.5


def brute_interval(scores: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        columns = [scores[rng.integers(len(scores), size=len(scores)), t] for t in range(scores.shape[1])]
        flat = np.sort(np.concatenate(columns))
        cut = len(flat) // 4
        found.append(flat[cut : len(flat) - cut].mean())
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def test_the_interval_is_the_stratified_bootstraps():
    assert interval(SCORES, resamples=4000) == pytest.approx(brute_interval(SCORES, 4000, 1), abs=0.006)


def test_the_interval_is_scipys():
    from scipy import stats

    columns = tuple(SCORES[:, t] for t in range(SCORES.shape[1]))

    def statistic(*parts: np.ndarray, axis: int = -1) -> np.ndarray:
        return stats.trim_mean(np.concatenate(parts, axis=axis), 0.25, axis=axis)

    theirs = stats.bootstrap(columns, statistic, n_resamples=4000, method="percentile", rng=np.random.default_rng(0))
    expected = (theirs.confidence_interval.low, theirs.confidence_interval.high)
    assert interval(SCORES, resamples=4000) == pytest.approx(expected, abs=0.006)


def test_tasks_are_strata_seeds_are_drawn():
    """Tasks that differ while seeds agree leave nothing to chance; the other way round they do."""
    same_seeds = np.tile(np.linspace(0, 1, 8), (5, 1))
    assert interval(same_seeds) == pytest.approx((iqm(same_seeds), iqm(same_seeds)))
    low, high = interval(same_seeds.T)
    assert high - low > 0.1


def test_many_points_at_once_are_the_single_ones():
    points = np.stack([SCORES, SCORES**2])
    low, high = intervals(points)
    for i in range(2):
        assert (low[i], high[i]) == pytest.approx(interval(points[i]))
    assert interval(SCORES[:1]) == pytest.approx((iqm(SCORES[:1]),) * 2)
    assert interval(SCORES, mean)[0] < SCORES.mean() < interval(SCORES, mean)[1]


def test_probability_of_improvement_counts_pairs():
    x, y = SCORES[:4], SCORES[4:].copy()
    y[0, 0] = x[0, 0]  # a tie counts half
    pairs = [[(a > b) + 0.5 * (a == b) for a in x[:, t] for b in y[:, t]] for t in range(x.shape[1])]
    assert probability_of_improvement(x, y) == pytest.approx(np.mean(pairs))
    assert probability_of_improvement(x, x) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="the same tasks"):
        probability_of_improvement(x, y[:, :3])


def test_the_profile_is_the_share_above():
    assert performance_profile(np.array([[0.0, 0.5], [0.5, 1.0]]), np.array([-1, 0.0, 0.5, 1.0])).tolist() == [
        1,
        0.75,
        0.25,
        0,
    ]


def test_rliables_numbers():
    """rliable 1.2.0 (archived; it needs pandas below 3) on the same scores: IQM, its 95 % interval from 20,000 resamples,
    probability of improvement of the first four seeds over the others, and the score distribution."""
    assert iqm(SCORES) == pytest.approx(0.4782472156630755, abs=1e-12)
    assert interval(SCORES, resamples=20_000) == pytest.approx((0.42458735, 0.53185026), abs=0.003)
    assert probability_of_improvement(SCORES[:4], SCORES[4:]) == pytest.approx(0.53125)
    above = performance_profile(SCORES, np.array([0.1, 0.3, 0.5, 0.7, 0.9]))
    assert above == pytest.approx([0.9875, 0.7875, 0.4875, 0.15, 0.0125])
