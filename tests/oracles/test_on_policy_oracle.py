"""What on-policy learners share against the definitions of the papers, in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skillmeta.objectives.on_policy import advantages, clipped_surrogate, normalized


@pytest.mark.parametrize(("discount", "gae_lambda"), [(0.9, 0.7), (0.95, 0.0), (1.0, 1.0)])
def test_advantages_are_the_average_of_k_step_advantages(discount, gae_lambda):
    """Schulman et al. 2016, equations 11 to 16: of 1 to L - t steps, weighted by powers of lambda, the longest by the rest."""
    generator = np.random.default_rng(0)
    lengths, time = [6, 1, 4], 6
    reward, value = generator.normal(size=(2, 3, time))
    last = generator.normal(size=3)
    valid = np.arange(time) < np.array(lengths)[:, None]
    ours = advantages(*(torch.from_numpy(x) for x in (reward, value, last, valid.astype(float))), discount, gae_lambda)
    for n, length in enumerate(lengths):
        v = [*value[n, :length], last[n]]
        for t in range(length):

            def steps(k: int, t: int = t, n: int = n, v: list = v) -> float:
                return sum(discount**i * reward[n, t + i] for i in range(k)) + discount**k * v[t + k] - v[t]

            longest = length - t
            wanted = (1 - gae_lambda) * sum(gae_lambda ** (k - 1) * steps(k) for k in range(1, longest))
            assert float(ours[n, t]) == pytest.approx(wanted + gae_lambda ** (longest - 1) * steps(longest), abs=1e-9)
        assert (ours[n, length:] == 0).all()


def test_each_task_is_normalised_by_itself_where_asked():
    values = torch.from_numpy(np.random.default_rng(1).normal(3, 2, (2, 3, 4)) * np.array([1, 50])[:, None, None])
    valid = torch.ones(2, 3, 4).double()
    valid[0, 0, 1:], valid[1, 2] = 0, 0
    ours = normalized(values, valid, (1, 2)).numpy()
    for task in range(2):
        kept = values[task][valid[task] == 1].numpy()
        assert np.allclose(ours[task][valid[task] == 1], (kept - kept.mean()) / kept.std(), atol=1e-6)


@pytest.mark.parametrize("advantage", [-2.0, 2.0])
def test_the_gradient_of_the_clipped_objective_is_the_advantage_or_nothing(advantage):
    """Nothing where the ratio has left the clip in the direction of the advantage."""
    ratio = torch.tensor([0.2, 0.75, 0.85, 1.0, 1.15, 1.25, 3.0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(clipped_surrogate(ratio, torch.tensor(advantage), 0.2).sum(), ratio)
    left = ratio > 1.2 if advantage > 0 else ratio < 0.8
    assert gradient.tolist() == [0.0 if gone else advantage for gone in left.tolist()]
