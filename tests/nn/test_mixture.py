"""Mixtures against torch.distributions, and their samples against what they say of themselves."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import kstest
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from skillmeta.nn.distributions import Gaussian, Mixture, columns_of, kl_estimate, mixture, of_columns


def drawn(seed: int = 0) -> Mixture:
    generator = torch.Generator().manual_seed(seed)
    shapes = (3, 4), (3, 4, 2), (3, 4, 2)
    logits, mean, log_stddev = (torch.randn(shape, generator=generator) for shape in shapes)
    return Mixture(logits, Gaussian(3 * mean, 0.5 * log_stddev))


def test_the_density_and_the_mean_are_torchs():
    ours = drawn()
    theirs = MixtureSameFamily(
        Categorical(logits=ours.logits), Independent(Normal(ours.each.mean, ours.each.stddev), 1)
    )
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(ours.log_prob(x), theirs.log_prob(x), atol=1e-5)
    assert torch.allclose(ours.mean, theirs.mean, atol=1e-5)


def test_samples_come_from_each_gaussian_as_often_as_its_weight_says():
    ours = drawn()
    far = Mixture(ours.logits, Gaussian(torch.arange(4.0).view(1, 4, 1).expand(3, 4, 2) * 10, torch.zeros(3, 4, 2)))
    noise = torch.randn(20_000, 3, 2, generator=torch.Generator().manual_seed(2))
    samples = far.rsample(noise)
    picked = (samples[..., 0] / 10).round().long().clamp(0, 3)
    shares = torch.stack([(picked == k).float().mean(0) for k in range(4)], -1)
    assert torch.allclose(shares, torch.softmax(ours.logits, -1), atol=0.02)
    inside = samples - 10 * picked.unsqueeze(-1)
    assert torch.allclose(inside[..., 1], noise[..., 1], atol=1e-4)
    for k in range(4):  # whatever is picked, the first number is standard normal within it
        found = inside[:, 1, 0][picked[:, 1] == k]
        assert kstest(found.numpy(), "norm").pvalue > 1e-3


def test_at_the_ends_of_the_noise_the_first_and_the_last_are_picked_and_samples_stay_finite():
    ours = drawn()
    for extreme, k in ((-9.0, 0), (9.0, 3)):
        sample = ours.rsample(torch.tensor([extreme, 0.0]).expand(3, 2))
        assert torch.allclose(sample[:, 1], ours.each.mean[:, k, 1])
        outside = (sample[:, 0] - ours.each.mean[:, k, 0]) / ours.each.stddev[:, k, 0]
        assert torch.allclose(outside, torch.full((3,), math.copysign(4.75, extreme)), atol=0.1)


def test_samples_of_several_draws_at_once_are_those_of_each():
    ours, noise = drawn(), torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(6))
    assert torch.equal(ours.rsample(noise), torch.stack([ours.rsample(one) for one in noise]))


def test_the_matched_gaussian_has_the_mixtures_moments():
    ours = drawn()
    theirs = MixtureSameFamily(
        Categorical(logits=ours.logits), Independent(Normal(ours.each.mean, ours.each.stddev), 1)
    )
    matched = ours.matched()
    assert torch.allclose(matched.mean, theirs.mean, atol=1e-5)
    assert torch.allclose(matched.stddev, theirs.variance.sqrt(), atol=1e-5)
    one = Gaussian(torch.randn(3, 2), torch.randn(3, 2))
    assert one.matched() is one


def test_the_estimate_of_the_divergence_has_the_integral_for_its_mean():
    ours = drawn()
    line = Mixture(ours.logits, Gaussian(ours.each.mean[..., :1], ours.each.log_stddev[..., :1]))
    policy = Gaussian(torch.tensor([[0.5], [-1.0], [2.0]]), torch.tensor([[-0.3], [0.2], [-1.0]]))
    grid = torch.linspace(-12, 12, 20_001).view(-1, 1, 1)
    density = policy.log_prob(grid)
    expected = (density.exp() * (density - line.log_prob(grid))).sum(0) * (24 / 20_000)
    noise = torch.randn(40_000, 3, 1, generator=torch.Generator().manual_seed(3))
    estimates = kl_estimate(policy, line, noise)
    assert torch.allclose(estimates.mean(0), expected, atol=5 * float(estimates.std(0).max()) / 200)
    gaussian = Gaussian(torch.zeros(3, 1), torch.zeros(3, 1))
    assert torch.equal(kl_estimate(policy, gaussian, noise), policy.kl(gaussian))


def test_columns_give_the_distribution_again_and_rows_of_it():
    several = drawn()
    one = Gaussian(several.each.mean[:, 0], several.each.log_stddev[:, 0])
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(4))
    for distribution in (several, one):
        columns = columns_of(distribution)
        assert torch.equal(of_columns(columns).log_prob(x), distribution.log_prob(x))
        some = of_columns(tuple(column[1:] for column in columns))
        assert torch.equal(some.log_prob(x[1:]), distribution.log_prob(x)[1:])


def test_a_networks_numbers_are_weights_then_a_gaussian_each():
    numbers = torch.randn(5, 3 * (1 + 2 * 2), generator=torch.Generator().manual_seed(5))
    made = mixture(numbers, 3)
    assert torch.equal(made.logits, numbers[:, :3])
    for k in range(3):
        begin = 3 + 4 * k
        assert torch.equal(made.each.mean[:, k], numbers[:, begin : begin + 2])
        assert torch.equal(made.each.log_stddev[:, k], numbers[:, begin + 2 : begin + 4].clamp(-10, 2))


def test_a_mixture_of_one_is_that_one():
    one = Gaussian(torch.randn(3, 1, 2), torch.randn(3, 1, 2))
    alone, x = Gaussian(one.mean[:, 0], one.log_stddev[:, 0]), torch.randn(3, 2)
    assert torch.allclose(Mixture(torch.zeros(3, 1), one).log_prob(x), alone.log_prob(x), atol=1e-5)
    assert Mixture(torch.zeros(3, 1), one).mean == pytest.approx(alone.mean)
