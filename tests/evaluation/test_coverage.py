"""What share of the 95 % intervals contains the truth, by simulation. `python -m tests.evaluation.test_coverage` prints more cases.

Truth is over training seeds, on the tasks at hand or on new ones as well. Of shares it is the mean over seeds of each seed's
probability of success.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.special import expit

from skillmeta.evaluation.statistics import Scores, interval, normalized, paired_interval

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(61)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


@dataclass(frozen=True)
class Case:
    """Variances between seeds, between tasks and of seed x task. Of shares they are on the scale of log odds, and evaluation adds
    the binomial noise of its episodes. `share` is the log odds of success at the middle seed and task; None for returns."""

    seeds: int
    tasks: int
    between_seeds: float
    between_tasks: float
    noise: float = 1.0
    share: float | None = None
    episodes: int = 1
    new_tasks: bool = False

    def __str__(self) -> str:
        kind = "returns" if self.share is None else f"share{self.share:+g}x{self.episodes}"
        claim = "new" if self.new_tasks else "these"
        return f"{kind}-{self.seeds}x{self.tasks}-{self.between_seeds:g}:{self.between_tasks:g}:{self.noise:g}-{claim}"


def latent(case: Case, number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scores, or log odds of success, of simulated evaluations [number, S, M], and the effects of tasks [number, 1, M]."""
    seeds = rng.normal(size=(number, case.seeds, 1)) * case.between_seeds**0.5
    tasks = rng.normal(size=(number, 1, case.tasks)) * case.between_tasks**0.5
    rest = rng.normal(size=(number, case.seeds, case.tasks)) * case.noise**0.5
    return seeds + tasks + rest, tasks


def simulated(case: Case, number: int, rng: np.random.Generator) -> tuple[Scores, np.ndarray]:
    """Scores [number, S, M] and the truth [number] that each interval is to contain."""
    values, tasks = latent(case, number, rng)
    if case.share is None:
        return Scores(values), np.zeros(number) if case.new_tasks else tasks.mean((1, 2))
    shares = rng.binomial(case.episodes, expit(case.share + values)) / case.episodes
    spread = case.between_seeds + case.noise
    if case.new_tasks:
        truth = np.full(number, expit(case.share + (spread + case.between_tasks) ** 0.5 * NODES) @ WEIGHTS)
    else:
        truth = (expit(case.share + tasks[:, 0, :, None] + spread**0.5 * NODES) @ WEIGHTS).mean(1)
    return Scores(shares, case.episodes), truth


def share_inside(low: np.ndarray, high: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean((low <= truth) & (truth <= high)))


def coverage(case: Case, number: int = 1000) -> float:
    scores, truth = simulated(case, number, np.random.default_rng(7))
    return share_inside(*interval(scores, case.new_tasks), truth)


def difference_coverage(case: Case, common: float, number: int = 1000) -> float:
    """Of the difference of two methods whose seeds have an effect in common, of that variance, and whose tasks are the same."""
    rng = np.random.default_rng(11)
    both = latent(replace(case, between_seeds=common, noise=0.0), number, rng)[0]
    own = replace(case, between_tasks=0.0)
    a, b = (both + latent(own, number, rng)[0] for _ in range(2))
    if case.share is None:
        return share_inside(*paired_interval(Scores(a), Scores(b), case.new_tasks), np.zeros(number))
    sides = [
        Scores(rng.binomial(case.episodes, expit(case.share + one)) / case.episodes, case.episodes) for one in (a, b)
    ]
    return share_inside(*paired_interval(*sides, case.new_tasks), np.zeros(number))


def place_coverage(case: Case, number: int = 1000) -> float:
    """Of the agent's place between a fixed agent at -12 and one at 12, where the truth is 0.5."""
    rng = np.random.default_rng(13)
    values, tasks = latent(case, number, rng)
    ends = tasks + 12 * np.array([[[-1.0]], [[1.0]]])[:, None] + rng.normal(size=(2, *tasks.shape))
    true_ends = ends if not case.new_tasks else np.array([-12.0, 12.0])[:, None, None, None] + 0 * ends
    truth = ((0.0 if case.new_tasks else tasks.mean((1, 2))) - true_ends[0].mean((1, 2))) / (
        true_ends[1].mean((1, 2)) - true_ends[0].mean((1, 2))
    )
    found = [
        normalized(Scores(v), Scores(low), Scores(high), case.new_tasks).ci95
        for v, low, high in zip(values, ends[0], ends[1], strict=True)
    ]
    low, high = np.array([ci if ci is not None else (np.nan, np.nan) for ci in found]).T
    return share_inside(low, high, truth)


RATIOS = [(0.0, 0.0), (0.0, 10.0), (0.1, 1.0), (1.0, 0.1), (1.0, 1.0), (10.0, 1.0), (1.0, 10.0)]
RETURNS = [Case(s, 40, *ratio) for s in (3, 5, 10) for ratio in RATIOS]
RETURNS_NEW = [Case(s, m, *ratio, new_tasks=True) for s in (3, 5, 10) for m in (10, 20, 40) for ratio in RATIOS]
SHARES = [
    Case(s, 10, *ratio, noise=0.0, share=share, episodes=20)
    for s in (3, 5, 10) for share in (-3.0, 0.0, 1.5, 5.0) for ratio in ((0.0, 0.1), (1.0, 1.0), (10.0, 1.0))
]  # fmt: skip
SHARES_NEW = [
    Case(s, 20, *ratio, noise=0.1, share=share, episodes=4, new_tasks=True)
    for s in (3, 5, 10) for share in (0.0, 3.0) for ratio in ((0.1, 0.1), (1.0, 1.0), (1.0, 10.0), (10.0, 1.0))
]  # fmt: skip


def nominal(covered: float, number: int, at_most: float = 0.99) -> bool:
    """Within 90 and 99 %, give or take two standard errors of the simulation."""
    error = 2 * (0.95 * 0.05 / number) ** 0.5
    return 0.90 - error <= covered <= at_most + error


@pytest.mark.parametrize("case", RETURNS + RETURNS_NEW[::2], ids=str)
def test_intervals_of_returns_cover_what_they_claim(case):
    assert nominal(coverage(case), 1000)


@pytest.mark.parametrize("case", SHARES[::3] + SHARES_NEW[::5], ids=str)
def test_intervals_of_shares_cover_what_they_claim(case):
    """In the middle. Near 0 and 1 three seeds that agree may be alike or may be lucky; covering the lucky ones covers the others
    always."""
    assert nominal(coverage(case, 500), 500, 0.99 if abs(case.share or 0.0) < 2 else 1.0)


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("works", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("new_tasks", [False, True])
def test_seeds_that_work_or_fail_altogether(seeds, works, new_tasks):
    each = np.random.default_rng(3).binomial(1, works, (500, seeds, 1)) * np.ones((1, 1, 10))
    assert nominal(share_inside(*interval(Scores(each, 20), new_tasks), np.full(500, works)), 500, 1.0)


@pytest.mark.parametrize("common", [0.0, 10.0])
@pytest.mark.parametrize("case", [*RETURNS[:7], *RETURNS_NEW[-7:]], ids=str)
def test_intervals_of_paired_differences_cover_what_they_claim(case, common):
    assert nominal(difference_coverage(case, common), 1000)


@pytest.mark.parametrize("case", SHARES[1:12:5] + SHARES_NEW[1::8], ids=str)
def test_intervals_of_paired_differences_of_shares_cover_what_they_claim(case):
    assert nominal(difference_coverage(case, 1.0, 500), 500, 1.0)


@pytest.mark.parametrize("case", [*RETURNS[:7:3], *RETURNS_NEW[:7:3]], ids=str)
def test_intervals_of_a_place_between_references_cover_what_they_claim(case):
    assert nominal(place_coverage(case, 200), 200)


def test_cells_taken_as_independent_cover_a_quarter():
    """The fault that this module is there for: 3 seeds x 40 tasks, seeds resampled within each task."""
    case, rng = Case(3, 40, 1.0, 0.0), np.random.default_rng(5)
    scores, truth = simulated(case, 300, rng)
    picked = rng.integers(3, size=(200, 3, 40))
    means = np.stack([np.take_along_axis(scores.values, one[None], 1).mean((1, 2)) for one in picked], 1)
    assert share_inside(*np.percentile(means, [2.5, 97.5], 1), truth) < 0.3


def main() -> None:
    for cases in (RETURNS, RETURNS_NEW, SHARES, SHARES_NEW):
        for case in cases:
            print(f"{case!s:<40} {coverage(case):.3f}", flush=True)
    for case in RETURNS + RETURNS_NEW + SHARES + SHARES_NEW:
        print(
            f"difference {case!s:<40} {difference_coverage(case, 0.0):.3f} {difference_coverage(case, 10.0):.3f}",
            flush=True,
        )
    for case in RETURNS + RETURNS_NEW:
        print(f"place {case!s:<40} {place_coverage(case):.3f}", flush=True)


if __name__ == "__main__":
    main()
