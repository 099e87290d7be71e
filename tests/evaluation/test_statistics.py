"""Intervals against formulas written out, and laws that hold for every table of scores."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from skillmeta.evaluation.statistics import (
    Estimate,
    Scores,
    estimate,
    interval,
    normalized,
    paired_difference,
    performance_profile,
)

RETURNS = np.random.default_rng(7).normal(size=(4, 6))  # [training seeds, tasks]
HITS = np.random.default_rng(8).binomial(10, 0.6, size=(3, 5))


def test_of_returns_it_is_students_interval_of_the_seed_means():
    low, high = stats.ttest_1samp(RETURNS.mean(1), 0.0).confidence_interval(0.95)
    assert estimate(Scores(RETURNS)).ci95 == pytest.approx((low, high))
    assert estimate(Scores(RETURNS)).value == pytest.approx(RETURNS.mean())


def test_returns_of_thousands_are_written_out():
    assert Estimate.of(1512.4, -4381.0, 18444.0).text() == "1,512 [-4,381, 18,444]"
    assert [Estimate(value, None).text() for value in (999.4, 0.01234, 3.2e8)] == ["999", "0.0123", "3.2e+08"]
    assert Estimate(1512.0, None).text("+.3g") == "+1,512"


def test_tasks_that_differ_matter_only_where_new_ones_are_meant():
    apart = RETURNS + 10 * np.arange(6)
    same = estimate(Scores(apart)).ci95
    assert same is not None and np.array(same) - apart.mean() == pytest.approx(
        np.array(estimate(Scores(RETURNS)).ci95) - RETURNS.mean()
    )
    new = estimate(Scores(apart), new_tasks=True).ci95
    by_task = stats.ttest_1samp(apart.mean(0), 0.0).confidence_interval(0.95)
    assert new is not None and new[0] <= by_task.low and new[1] >= by_task.high


@pytest.mark.parametrize("shape", [(4, 6), (2, 6), (4, 2), (2, 2)])
def test_for_new_tasks_squared_distances_of_seeds_and_of_tasks_add_up_but_for_what_both_count(shape):
    cells = np.random.default_rng(3).normal(size=shape) + np.arange(shape[1])

    def squared(variance: float, units: int, freedom: int) -> float:
        return float(stats.t.ppf(0.975, freedom)) ** 2 * variance / units

    seeds, tasks = (squared(cells.mean(1 - i).var(ddof=1), n, n - 1) for i, n in enumerate(shape))
    rest = cells - cells.mean(1, keepdims=True) - cells.mean(0) + cells.mean()
    freedom = (shape[0] - 1) * (shape[1] - 1)
    half = max(seeds, tasks, seeds + tasks - squared((rest**2).sum() / freedom, cells.size, freedom)) ** 0.5
    assert estimate(Scores(cells), new_tasks=True).ci95 == pytest.approx((cells.mean() - half, cells.mean() + half))


def test_whole_seeds_are_resampled_not_cells():
    """Cells of a seed that agree are one observation: ten times as many of them say nothing new."""
    one = RETURNS.mean(1, keepdims=True)
    assert estimate(Scores(np.repeat(one, 10, 1))).ci95 == pytest.approx(estimate(Scores(one)).ci95)


def test_one_seed_has_no_interval():
    for scores in (Scores(RETURNS[:1]), Scores(HITS[:1] / 10, 10)):
        assert estimate(scores).ci95 is None and estimate(scores, new_tasks=True).ci95 is None
        assert paired_difference(scores, scores).ci95 is None
    assert estimate(Scores(RETURNS[:, :1]), new_tasks=True).ci95 is None  # nor has one task, where new ones are meant


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("new_tasks", [False, True])
def test_shares_of_seeds_that_agree_have_an_interval_inside_0_and_1(share, new_tasks):
    low, high = estimate(Scores(np.full((3, 4), share), 10), new_tasks).ci95 or (0.0, 0.0)
    assert 0 <= low <= share <= high <= 1 and high - low > 0.05
    if share != 0.5:  # three seeds that all work do not show that four in five do
        assert high - low > 0.2


@pytest.mark.parametrize(
    "hits", [(0,) * 3, (13,) * 3, (20,) * 5, (39,) * 3, (40,) * 10, (37, 38, 38), (40, 39, 40, 40), (10, 20, 30)]
)
def test_the_interval_of_shares_is_the_wider_of_students_and_a_beta_binomial_posteriors(hits):
    """Integrated over a fine grid: the mean is uniform a priori, the odds of the seeds' correlation log-uniform."""
    means = (np.arange(4000)[:, None] + 0.5) / 4000
    odds = np.geomspace(1e-7, 1e7, 22)
    density = np.exp(sum(stats.betabinom.logpmf(h, 40, means / odds, (1 - means) / odds) for h in hits)).sum(1)
    below = np.interp([0.03, 0.97], density.cumsum() / density.sum(), means[:, 0] + 0.5 / 4000)
    shares = np.array(hits) / 40
    mean, student = shares.mean(), stats.t.ppf(0.975, len(hits) - 1) * stats.sem(shares)
    wanted = min(below[0], mean - student), max(below[1], mean + student)
    found = estimate(Scores(np.repeat(shares[:, None], 4, 1), 10)).ci95
    assert found == pytest.approx(np.clip(wanted, 0, 1), abs=5e-4)


def test_more_seeds_that_agree_say_more():
    widths = [np.ptp(estimate(Scores(np.ones((seeds, 4)), 10)).ci95 or ()) for seeds in (2, 3, 5, 10, 30)]
    assert widths == sorted(widths, reverse=True) and widths[-1] < 0.15


def test_shares_of_0_and_1_are_mirror_images():
    low, high = estimate(Scores(HITS / 10, 10)).ci95 or (0.0, 0.0)
    assert estimate(Scores(1 - HITS / 10, 10)).ci95 == pytest.approx((1 - high, 1 - low))


def test_returns_of_seeds_that_agree_use_the_cells_and_equal_cells_say_nothing():
    same = np.tile(RETURNS[:1], (3, 1))
    half = stats.t.ppf(0.975, 2) * (same.var(ddof=1) / same.size) ** 0.5
    assert estimate(Scores(same)).ci95 == pytest.approx((same.mean() - half, same.mean() + half))
    assert estimate(Scores(np.ones((3, 4)))) == Estimate(1.0, None)


def test_a_difference_is_paired():
    """What two methods share, seed by seed and task by task, is not uncertainty of their difference."""
    common = 100 * np.random.default_rng(1).normal(size=(4, 6))
    other = np.random.default_rng(2).normal(size=(4, 6))
    apart = paired_difference(Scores(RETURNS + common), Scores(other + common)).ci95
    assert apart == pytest.approx(paired_difference(Scores(RETURNS), Scores(other)).ci95)
    assert apart == pytest.approx(tuple(stats.ttest_rel(RETURNS.mean(1), other.mean(1)).confidence_interval(0.95)))


def test_a_difference_changes_its_sign_with_its_order():
    a, b = Scores(HITS / 10, 10), Scores(np.ones((3, 5)), 10)
    forth, back = paired_difference(a, b), paired_difference(b, a)
    assert forth.value == -back.value < 0 and forth.ci95 is not None and back.ci95 is not None
    assert forth.ci95 == pytest.approx((-back.ci95[1], -back.ci95[0]))
    assert -1 <= forth.ci95[0] < forth.value < forth.ci95[1] <= 1


def test_the_place_between_references_scales_with_them():
    agent, low, high = Scores(RETURNS), Scores(np.full((1, 6), -10.0)), Scores(np.full((1, 6), 10.0))
    ends = np.array(estimate(agent).ci95)
    found = normalized(agent, low, high)
    assert found.value == pytest.approx((RETURNS.mean() + 10) / 20) and found.ci95 == pytest.approx((ends + 10) / 20)
    turned = normalized(Scores(-RETURNS), Scores(-low.values), Scores(-high.values))
    assert turned.value == pytest.approx(found.value) and turned.ci95 == pytest.approx(found.ci95)


def test_there_is_no_place_between_references_that_are_one():
    same = Scores(np.zeros((1, 6)))
    assert np.isnan(normalized(Scores(RETURNS), same, same).value)
    for scale in (1.0, 0.01):
        unsure = Scores(scale * np.array([[-9.0, 9.0, -9.0, 9.0, -9.0, 9.5]]))  # differs from 0 by chance of the tasks
        assert normalized(Scores(RETURNS), same, unsure, new_tasks=True).ci95 is None
        assert normalized(Scores(RETURNS), unsure, same, new_tasks=True).ci95 is None
        sure = Scores(scale * np.arange(8.0, 14.0)[None])
        assert normalized(Scores(RETURNS), same, sure, new_tasks=True).ci95 is not None
        known = normalized(
            Scores(RETURNS), same, unsure
        ).ci95  # on these very tasks two fixed agents differ by no chance at all
        assert known is not None


def test_many_points_at_once_are_the_single_ones():
    points = np.stack([HITS / 10, 1 - HITS / 20, np.ones((3, 5))])
    for new_tasks in (False, True):
        low, high = interval(Scores(points, 20), new_tasks)
        for i in range(3):
            assert estimate(Scores(points[i], 20), new_tasks).ci95 == pytest.approx((low[i], high[i]))


def test_the_profile_is_the_share_above():
    above = performance_profile(np.array([[0.0, 0.5], [0.5, 1.0]]), np.array([-1, 0.0, 0.5, 1.0]))
    assert above.tolist() == [1, 0.75, 0.25, 0]


def test_text_and_json():
    assert Estimate(0.9, (0.45, 1.0)).text(".2f") == "0.90 [0.45, 1.00]" and Estimate(0.9, None).text() == "0.9"
    assert Estimate(float("nan"), None).plain() == {"value": None, "ci95": None}


def test_differences_that_agree_by_chance_in_all_seeds_have_an_interval_all_the_same():
    """Shares of ten episodes are coarse: here each seed's difference of means is 2/30."""
    one = np.array([[1.0, 0.9, 1.0], [0.7, 0.8, 0.9], [0.8, 0.2, 0.8]])
    other = np.array([[1.0, 0.7, 1.0], [1.0, 0.3, 0.9], [0.2, 0.5, 0.9]])
    found = paired_difference(Scores(one, 10), Scores(other, 10))
    cells = (one - other).ravel()  # Student's t of nine cells, with the quantile of three seeds
    half = 4.302652729911275 * cells.std(ddof=1) / 3
    assert found.value == pytest.approx(2 / 30) and found.ci95 is not None
    np.testing.assert_allclose(found.ci95, [2 / 30 - half, 2 / 30 + half], rtol=1e-6)
    assert paired_difference(Scores(one, 10), Scores(one, 10)).ci95 is None  # the same runs
    assert paired_difference(Scores(one[:, :1], 10), Scores(one[:, :1] - 0.1, 10)).ci95 is None  # one task
