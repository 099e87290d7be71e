"""Mixtures against torch.distributions, and their samples against what they say of themselves."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from skillmeta.nn.distributions import Gaussian, Mixture


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
    noise = torch.randn(20_000, 3, 3, generator=torch.Generator().manual_seed(2))
    samples = far.rsample(noise)
    picked = (samples[..., 0] / 10).round().long().clamp(0, 3)
    shares = torch.stack([(picked == k).float().mean(0) for k in range(4)], -1)
    assert torch.allclose(shares, torch.softmax(ours.logits, -1), atol=0.02)
    inside = samples - 10 * picked.unsqueeze(-1)
    assert torch.allclose(inside, noise[..., :-1], atol=1e-4)


def test_at_the_ends_of_the_noise_the_first_and_the_last_are_picked():
    ours = drawn()
    for extreme, k in ((-9.0, 0), (9.0, 3)):
        noise = torch.cat([torch.zeros(3, 2), torch.full((3, 1), extreme)], -1)
        assert torch.allclose(ours.rsample(noise), ours.each.mean[:, k])


def test_a_mixture_of_one_is_that_one():
    one = Gaussian(torch.randn(3, 1, 2), torch.randn(3, 1, 2))
    alone, x = Gaussian(one.mean[:, 0], one.log_stddev[:, 0]), torch.randn(3, 2)
    assert torch.allclose(Mixture(torch.zeros(3, 1), one).log_prob(x), alone.log_prob(x), atol=1e-5)
    assert Mixture(torch.zeros(3, 1), one).mean == pytest.approx(alone.mean)
