"""Flows against the Jacobian of their own samples, integrals, and data that no Gaussian fits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from skillmeta.nn.distributions import (
    LAYERS,
    Flow,
    Gaussian,
    columns_of,
    even_noise,
    flow,
    kl_estimate,
    layer_size,
    of_columns,
)


def drawn(states: int, dim: int, seed: int = 0, size: float = 1.0) -> Flow:
    generator = torch.Generator().manual_seed(seed)
    shapes = (states, dim), (states, dim), (states, LAYERS, layer_size(dim))
    mean, log_stddev, layers = (torch.randn(shape, generator=generator) for shape in shapes)
    return Flow(Gaussian(mean, 0.3 * log_stddev), size * layers)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dim", [1, 2, 3, 10])
def test_the_density_of_a_sample_is_that_of_its_noise_over_the_volume_that_it_became(dim):
    ours = drawn(4, dim, size=0.3)
    for row in range(4):
        one = Flow(Gaussian(ours.base.mean[row], ours.base.log_stddev[row]), ours.layers[row])
        at = noise(dim, seed=row)
        volume = torch.linalg.slogdet(torch.autograd.functional.jacobian(one.rsample, at)).logabsdet
        expected = -0.5 * (at**2).sum() - dim / 2 * math.log(2 * math.pi) - volume
        assert float(one.log_prob(one.rsample(at))) == pytest.approx(float(expected), abs=1e-3)
        assert float(ours.log_prob(ours.rsample(at))[row]) == pytest.approx(float(expected), abs=1e-3)


def test_the_density_integrates_to_one_and_no_half_of_the_numbers_is_left_as_it_was():
    ours = drawn(1, 2, seed=3)
    line = torch.linspace(-25, 25, 1501)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)
    assert float(ours.log_prob(grid).exp().sum()) * (50 / 1500) ** 2 == pytest.approx(1, abs=0.01)
    slope = torch.autograd.functional.jacobian(lambda at: ours.rsample(at)[0], noise(2))
    assert (slope.abs() > 1e-3).all()


def test_layers_of_zeros_leave_the_gaussian():
    plain = drawn(5, 3, size=0.0)
    x = noise(5, 3)
    assert torch.allclose(plain.log_prob(x), plain.base.log_prob(x), atol=1e-5)
    assert torch.allclose(plain.rsample(x), plain.base.rsample(x), atol=1e-5)
    policy = Gaussian(noise(5, 3, seed=4), 0.2 * noise(5, 3, seed=5))
    estimates = kl_estimate(policy, plain, noise(40_000, 5, 3, seed=6))
    assert torch.allclose(estimates.mean(0), policy.kl(plain.base), rtol=0.03, atol=0.03)


def test_the_matched_gaussian_has_the_moments_of_samples():
    ours = drawn(4, 10, size=0.2)
    samples, matched = ours.rsample(noise(50_000, 4, 10)), ours.matched()
    spread = samples.std(0)
    assert ((matched.mean - samples.mean(0)).abs() < 0.15 * spread).all()
    assert torch.allclose(matched.stddev, spread, rtol=0.35)


@pytest.mark.parametrize("dim", [1, 3, 10])
def test_the_points_that_it_is_matched_at_are_spread_as_noise_and_always_the_same(dim):
    points = even_noise(128, torch.zeros(dim))
    assert torch.equal(points, even_noise(128, torch.zeros(5, dim))) and torch.equal(points[:64], -points[64:])
    assert torch.allclose(points.std(0, correction=0), torch.ones(dim), atol=0.15)
    apart = torch.corrcoef(points.T).view(dim, dim) - torch.eye(dim)
    assert apart.abs().max() < 0.5


def test_columns_give_the_distribution_again_and_rows_of_it():
    ours, x = drawn(3, 5), noise(3, 5)
    columns = columns_of(ours)
    assert torch.equal(of_columns(columns).log_prob(x), ours.log_prob(x))
    assert torch.equal(of_columns(tuple(column[1:] for column in columns)).log_prob(x[1:]), ours.log_prob(x)[1:])


def test_it_learns_what_no_gaussian_fits():
    """Two clusters on a diagonal: one Gaussian has 2.3 nats; with weights of one half each, two have 0.6 or so."""
    side = torch.where(noise(2000, 1, seed=7) > 0, 1.0, -1.0)
    data = 2 * side + 0.2 * noise(2000, 2, seed=8)
    numbers = torch.nn.Parameter(0.1 * noise(4 + LAYERS * layer_size(2), seed=9))
    optimizer = torch.optim.Adam([numbers], 0.02)
    for _ in range(300):
        optimizer.zero_grad()
        loss = -flow(numbers, 2).log_prob(data).mean()
        loss.backward()
        optimizer.step()
    one = Gaussian(data.mean(0), data.std(0).log())
    assert float(loss.detach()) < float(-one.log_prob(data).mean()) - 1.0
    far = (flow(numbers.detach(), 2).rsample(noise(2000, 2, seed=10)).mean(-1).abs() > 1.2).float().mean()
    assert far > 0.9  # of samples are in one cluster or the other, not between
