"""Advantages, baselines and trust regions against loops, dense solves and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skillmeta.nn.distributions import Categorical, Gaussian
from skillmeta.objectives.on_policy import (
    Sample,
    TrustRegionStep,
    advantages,
    clipped_surrogate,
    conjugate_gradients,
    discounted_sums,
    linear_values,
    normalized,
    ppo_loss,
    trust_region_step,
)


def ragged(generator: torch.Generator, rows: int = 4, time: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    reward, value = torch.randn(2, rows, time, generator=generator)
    lengths = torch.tensor([9, 1, 5, 7])[:rows]
    valid = (torch.arange(time)[None] < lengths[:, None]).float()
    return reward, value, valid


@pytest.mark.parametrize(("discount", "gae_lambda"), [(0.9, 0.8), (0.99, 1.0), (1.0, 0.3)])
def test_advantages_are_the_weighted_sum_of_td_errors(discount, gae_lambda):
    reward, value, valid = ragged(torch.Generator().manual_seed(0))
    last = torch.tensor([0.3, -1.0, 2.0, 0.0])
    ours = advantages(reward, value, last, valid, discount, gae_lambda)
    for row in range(4):
        length = int(valid[row].sum())
        v = [*value[row, :length].tolist(), float(last[row])]
        delta = [float(reward[row, t]) + discount * v[t + 1] - v[t] for t in range(length)]
        for t in range(9):
            wanted = sum((discount * gae_lambda) ** (k - t) * delta[k] for k in range(t, length)) if t < length else 0.0
            assert float(ours[row, t]) == pytest.approx(wanted, abs=1e-5)


def test_with_lambda_one_they_are_returns_minus_values():
    reward, value, valid = ragged(torch.Generator().manual_seed(1))
    ours = advantages(reward, value, torch.zeros(4), valid, 0.95, 1.0)
    returns = discounted_sums(reward * valid, 0.95)
    assert torch.allclose(ours, (returns - value) * valid, atol=1e-5)


def test_normalised_over_the_valid_ones():
    values, _, valid = ragged(torch.Generator().manual_seed(2))
    ours = normalized(values, valid, (0, 1))
    kept = ours[valid.bool()].numpy()
    assert kept.mean() == pytest.approx(0, abs=1e-6) and kept.std() == pytest.approx(1, abs=1e-5)
    assert (ours[~valid.bool()] == 0).all()


def test_the_linear_baseline_is_least_squares_for_each_task():
    generator = torch.Generator().manual_seed(3)
    observation, returns = torch.randn(2, 3, 6, 2, generator=generator), torch.randn(2, 3, 6, generator=generator)
    valid = torch.ones(2, 3, 6)
    valid[0, 1, 4:] = 0
    ours = linear_values(observation, returns, valid)
    for task in range(2):
        rows, wanted = [], []
        for b in range(3):
            for t in range(6):
                if valid[task, b, t]:
                    o = observation[task, b, t].numpy()
                    rows.append([*o, *o**2, t / 100, (t / 100) ** 2, (t / 100) ** 3, 1])
                    wanted.append(float(returns[task, b, t]))
        x, y = np.array(rows, float), np.array(wanted)
        weights = np.linalg.solve(x.T @ x + 1e-5 * np.eye(x.shape[1]), x.T @ y)
        assert np.allclose(ours[task][valid[task].bool()].numpy(), x @ weights, atol=1e-4)


def test_conjugate_gradients_solve():
    generator = torch.Generator().manual_seed(4)
    root = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    matrix, right = root @ root.T + torch.eye(12), torch.randn(12, generator=generator, dtype=torch.float64)
    ours, _ = conjugate_gradients(lambda v: matrix @ v, right, iterations=60)
    assert torch.allclose(ours, torch.linalg.solve(matrix, right), atol=1e-8)
    rough, image = conjugate_gradients(lambda v: matrix @ v, right, iterations=5)
    assert torch.allclose(image, matrix @ rough, atol=1e-10) and not torch.allclose(image, right, atol=1e-3)


def test_a_trust_region_step_helps_and_stays_inside_or_does_nothing():
    curvature = torch.diag(torch.tensor([1.0, 100.0]))
    start, wanted = torch.zeros(2), torch.tensor([3.0, 1.0])

    def judge(at: torch.Tensor) -> tuple[float, float]:
        return float(((at - wanted) ** 2).sum()), float(0.5 * at @ curvature @ at)

    def step(gradient: torch.Tensor) -> TrustRegionStep:
        return trust_region_step(start, judge(start)[0], gradient, lambda v: curvature @ v, judge, max_kl=0.01)

    moved = step(2 * (start - wanted))
    assert (moved.loss, moved.divergence) == judge(moved.parameters)
    assert moved.part == pytest.approx(1.0) or 0 < moved.part < 1
    assert moved.loss < judge(start)[0] and 0.005 < moved.divergence <= 0.01
    stayed = step(-2 * (start - wanted))
    assert torch.equal(stayed.parameters, start) and stayed[1:] == (0.0, judge(start)[0], 0.0)


def test_the_clipped_objective_never_pays_for_going_further():
    ratio = torch.tensor([0.5, 0.9, 1.0, 1.1, 2.0])
    assert clipped_surrogate(ratio, torch.ones(5), 0.2).tolist() == pytest.approx([0.5, 0.9, 1.0, 1.1, 1.2])
    assert clipped_surrogate(ratio, -torch.ones(5), 0.2).tolist() == pytest.approx([-0.8, -0.9, -1.0, -1.1, -2.0])


def test_an_action_that_became_far_more_likely_leaves_ppos_gradients_finite():
    """The ratio of 100 nats is infinite in float32, and infinity times a padded row's 0 is not a number."""
    mean = torch.zeros(1, 3, 1, requires_grad=True)
    taken = Sample(
        *(torch.zeros(1, 3, 1),) * 3, action=torch.ones(1, 3, 1), log_prob=torch.tensor([[-100.0, -100.0, 0.0]]),
        advantage=torch.tensor([[-1.0, 1.0, 1.0]]), returns=torch.zeros(1, 3), valid=torch.tensor([[1.0, 0.0, 1.0]]),
    )  # fmt: skip
    policy = Gaussian(mean, torch.zeros(1, 3, 1))
    total, _ = ppo_loss(policy, torch.zeros(1, 3), None, taken, 0.2, 0.5, 0.0, torch.ones(()))
    (gradient,) = torch.autograd.grad(total, mean)
    assert bool(total.isfinite()) and bool(gradient.isfinite().all())


def test_choices_are_torchs_categorical():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(5))
    other = torch.randn(5, 4, generator=torch.Generator().manual_seed(6))
    ours, theirs = Categorical(logits), torch.distributions.Categorical(logits=logits)
    action = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 3, 0]), 4).float()
    assert torch.allclose(ours.log_prob(action), theirs.log_prob(torch.tensor([0, 1, 2, 3, 0])))
    assert torch.allclose(ours.entropy(), theirs.entropy())
    kl = torch.distributions.kl_divergence(theirs, torch.distributions.Categorical(logits=other))
    assert torch.allclose(ours.kl(Categorical(other)), kl, atol=1e-6)
    noise = torch.randn(40_000, 4, generator=torch.Generator().manual_seed(7))
    drawn = Categorical(logits[:1]).rsample(noise).mean(0)
    assert torch.allclose(drawn, theirs.probs[0], atol=0.01)
    gaussian = Gaussian(logits, other)
    assert torch.allclose(gaussian.entropy(), torch.distributions.Normal(logits, other.exp()).entropy().sum(-1))
