"""Propensities: against the true density ratio, a slow fit, and in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skillmeta.objectives.propensities import (
    PropensityConfig,
    effective_sample_size,
    logistic_regression,
    propensities,
)

UNCUT = PropensityConfig(ridge=1e-6, largest_log=50.0, smallest=0.0)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_equal_samples_have_propensity_1_also_where_one_is_larger():
    old = drawn(0, 30, 4)
    new = old.repeat(3, 1).unsqueeze(0)
    new, valid = torch.cat([new, new + 3], 1), torch.cat([torch.ones(1, 90), torch.zeros(1, 90)], 1)
    beta = propensities(old, new, valid, PropensityConfig())
    assert beta.flatten().tolist() == pytest.approx([1.0] * 30, abs=1e-6)
    assert effective_sample_size(beta).tolist() == pytest.approx([1.0], abs=1e-6)


def test_it_is_the_ratio_of_the_densities():
    """Of N(0, I) and N(m, I): exp(m x - |m|^2 / 2). The classes have other numbers of rows, as a task and its past have."""
    mean = torch.tensor([0.6, -0.3])
    old, new = drawn(1, 20_000, 2), mean + drawn(2, 1, 8_000, 2)
    beta = propensities(old, new, torch.ones(1, 8_000), UNCUT)[0]
    true = (old @ mean - mean @ mean / 2).exp()
    assert float((beta / true - 1).abs().mean()) < 0.05
    assert float(beta.mean()) == pytest.approx(1.0, abs=0.03)


def test_rows_that_are_not_valid_change_nothing_and_tasks_are_apart():
    old, new = drawn(0, 30, 4), 1 + drawn(1, 2, 12, 4)
    valid = torch.ones(2, 12)
    valid[0, 7:] = 0
    both = propensities(old, new, valid, PropensityConfig())
    changed = torch.where(valid.unsqueeze(-1) > 0, new, 100.0)
    torch.testing.assert_close(propensities(old, changed, valid, PropensityConfig()), both)
    alone = propensities(old, new[1:], valid[1:], PropensityConfig())
    torch.testing.assert_close(both[1:], alone)
    assert not torch.allclose(both[0], both[1], atol=0.1)


def test_the_units_of_the_context_do_not_matter():
    old, new = drawn(0, 30, 3), 0.5 + drawn(1, 1, 12, 3)
    beta = propensities(old, new, torch.ones(1, 12), PropensityConfig())
    factor, shift = torch.tensor([0.01, 3.0, 500.0]), torch.tensor([0.0, -4.0, 50.0])
    scaled = propensities(factor * old + shift, factor * new + shift, torch.ones(1, 12), PropensityConfig())
    torch.testing.assert_close(scaled, beta, rtol=1e-4, atol=1e-4)
    assert float(beta.std()) > 0.1


def test_they_are_cut_on_both_sides():
    old, new = drawn(0, 300, 1), 3 + drawn(1, 1, 300, 1)
    beta = propensities(old, new, torch.ones(1, 300), PropensityConfig(largest_log=0.5, smallest=0.2))
    assert float(beta.max()) == pytest.approx(np.exp(0.5))
    assert (beta == 0).any() and not ((beta > 0) & (beta < 0.2)).any()


@pytest.mark.parametrize("case", ["overlapping", "separable", "a constant feature"])
def test_newtons_steps_end_where_a_slow_descent_does(case):
    """In NumPy, one task at a time; the loss is strictly convex, so there is one such place."""
    shift = {"overlapping": 0.5, "separable": 5.0}.get(case, 0.5)
    x = torch.cat([drawn(3, 2, 25, 3), drawn(4, 2, 15, 3) + shift], 1).double()
    if case == "a constant feature":
        x[..., 1] = 1.0
    label = torch.cat([torch.ones(2, 25), -torch.ones(2, 15)], 1).double()
    weight = torch.cat([torch.full((2, 25), 0.02), torch.full((2, 15), 1 / 30)], 1).double()
    found = logistic_regression(x, label, weight, 0.05, 20).numpy()
    for k in range(2):
        rows, y, c, w = x[k].numpy(), label[k].numpy(), weight[k].numpy(), np.zeros(3)
        rate = 1 / (0.25 * np.linalg.norm(rows.T @ (c[:, None] * rows), 2) + 0.05)
        for _ in range(3_000):
            slope = 0.05 * w - (c * y / (1 + np.exp(y * (rows @ w)))) @ rows
            w = w - rate * slope
        assert np.abs(slope).max() < 1e-5
        assert found[k] == pytest.approx(w, abs=1e-3)


@pytest.mark.parametrize("ridge", [1.0, 0.1, 1e-2])
def test_the_fit_is_stationary_also_where_whole_newton_steps_overshoot(ridge):
    """Of five rows whose features are in the tens: in hundreds of these problems a whole step goes beyond the minimum."""
    x = 10 * drawn(5, 1000, 5, 2).double()
    x[..., 1] = 1.0
    label, weight = drawn(6, 1000, 5).double().sign(), drawn(7, 1000, 5).double().exp() / 5
    w = logistic_regression(x, label, weight, ridge, 40).numpy()
    rows, y, c = x.numpy(), label.numpy(), weight.numpy()
    margin = y * np.einsum("inf,if->in", rows, w)
    slope = ridge * w - np.einsum("in,inf->if", c * y / (1 + np.exp(margin)), rows)
    assert np.abs(slope).max() < 1e-6


@pytest.mark.parametrize(
    ("features", "labels", "weights"),
    [
        ([0.3, 0.8, 46.7, -32.1], [-1, 1, 1, -1], [0.041, 0.958, 0.012, 0.016]),
        ([48.7, -0.6, -0.3, -1364.3], [1, 1, -1, -1], [0.017, 0.003, 0.833, 0.147]),
    ],
)
def test_the_loss_never_rises_where_whole_newton_steps_overshoot(features, labels, weights):
    """Found by a search: the seventh whole step leads from a loss of 0.015 to 0.167; of the eighth even 1/128 is too long."""
    x = torch.tensor([[[feature, 1.0] for feature in features]]).double()
    label, weight = torch.tensor([labels]).double(), torch.tensor([weights]).double()

    def loss(steps: int) -> float:
        w = logistic_regression(x, label, weight, 1e-6, steps)
        margin = label * (x @ w.unsqueeze(-1)).squeeze(-1)
        return float((weight * torch.log1p((-margin).exp())).sum() + 0.5e-6 * (w**2).sum())

    losses = [loss(steps) for steps in range(12)]
    assert all(later <= before + 1e-12 for before, later in zip(losses, losses[1:], strict=False))
    assert losses[-1] < 0.03


@pytest.mark.parametrize(
    ("beta", "wanted"), [([2.0] * 5, 1.0), ([0, 0, 3, 0, 0], 0.2), ([0] * 5, 0.0), ([1, 1, 0, 0, 0], 0.4)]
)
def test_the_effective_sample_size_is_the_textbooks(beta, wanted):
    found = effective_sample_size(torch.tensor([beta, beta], dtype=torch.float32))
    assert found.tolist() == pytest.approx([wanted, wanted])
