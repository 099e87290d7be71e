"""Divergences against torch.distributions, the controller against its fixed point."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Independent, Normal, TransformedDistribution, kl_divergence
from torch.distributions.transforms import AffineTransform, TanhTransform

from skillmeta.config import build
from skillmeta.errors import ConfigError
from skillmeta.nn.distributions import Categorical, Gaussian, Mixture, TanhGaussian
from skillmeta.objectives.regularizer import Regularizer, RegularizerConfig


def pair(generator: torch.Generator, dim: int = 4, rows: int = 32) -> tuple[Gaussian, Gaussian]:
    draw = lambda: torch.randn(rows, dim, generator=generator, dtype=torch.float64)  # noqa: E731
    return Gaussian(draw(), 0.5 * draw()), Gaussian(draw(), 0.5 * draw())


def oracle(g: Gaussian) -> Independent:
    return Independent(Normal(g.mean, g.stddev), 1)


def test_gaussian_matches_torch_distributions():
    p, q = pair(torch.Generator().manual_seed(0))
    noise = torch.randn(32, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(p.kl(q), kl_divergence(oracle(p), oracle(q)))
    torch.testing.assert_close(p.log_prob(q.mean), oracle(p).log_prob(q.mean))
    torch.testing.assert_close(p.rsample_log_prob(noise), oracle(p).log_prob(p.rsample(noise)))


def test_tanh_gaussian_matches_a_transformed_distribution_in_its_box():
    p, _ = pair(torch.Generator().manual_seed(2))
    bound = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    noise = torch.randn(32, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    transforms = [
        TanhTransform(cache_size=1),
        AffineTransform(torch.zeros(4, dtype=torch.float64), bound, cache_size=1),
    ]
    reference = TransformedDistribution(Normal(p.mean, p.stddev), transforms)
    squashed = TanhGaussian(p, bound)
    torch.testing.assert_close(
        squashed.rsample_log_prob(noise), reference.log_prob(squashed.rsample(noise)).sum(-1), rtol=1e-6, atol=1e-6
    )


def test_tanh_log_prob_stays_finite_far_out():
    far = TanhGaussian(Gaussian(torch.full((1, 2), 40.0), torch.zeros(1, 2)), torch.ones(2))
    assert torch.isfinite(far.rsample_log_prob(torch.zeros(1, 2))).all()


def test_kl_to_the_uniform_prior_is_minus_the_entropy_up_to_the_boxs_volume():
    """A policy that is itself uniform has divergence 0: checked by Monte Carlo on a flat-ish squashed Gaussian."""
    bound = torch.tensor([1.0, 2.0])
    regularizer = Regularizer(RegularizerConfig(), bound)
    policy = TanhGaussian(Gaussian(torch.zeros(200_000, 2), torch.full((200_000, 2), math.log(0.87))), bound)
    noise = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0))
    divergence = regularizer.divergence(policy, None, noise)
    samples = (policy.rsample(noise) / bound + 1) / 2  # in the unit square
    histogram = torch.histogramdd(samples, bins=[40, 40], range=[0.0, 1.0, 0.0, 1.0]).hist / len(samples)
    binned = (histogram * (histogram * 1600).clamp(min=1e-12).log()).sum()
    assert float(divergence.mean()) == pytest.approx(float(binned), abs=0.02)


@pytest.mark.parametrize("bound", [(1.0, 1.0, 1.0), (1.0, 2.0, 0.5), (80.0, 80.0, 80.0)])
def test_units_of_the_actions_change_neither_the_divergence_nor_its_target_nor_its_cost(bound):
    """SAC's convention is that of the unit box: a target entropy of -A there, and log pi there as the cost."""
    noise = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    base = Gaussian(torch.randn(64, 3, generator=torch.Generator().manual_seed(1)), torch.full((64, 3), -0.5))
    regularizer = Regularizer(RegularizerConfig(), torch.tensor(bound))
    divergence = regularizer.divergence(TanhGaussian(base, torch.tensor(bound)), None, noise)
    in_unit_box = TanhGaussian(base, torch.ones(3)).rsample_log_prob(noise)
    torch.testing.assert_close(regularizer.cost(divergence), in_unit_box, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(divergence, in_unit_box + 3 * math.log(2), rtol=1e-4, atol=1e-4)
    assert regularizer.target is not None
    assert float(regularizer.cost(torch.tensor(regularizer.target))) == pytest.approx(3.0)  # the entropy is -3


def test_divergences_and_their_directions():
    p, q = pair(torch.Generator().manual_seed(4))
    noise = torch.zeros(32, 4, dtype=torch.float64)
    make = lambda kind: Regularizer(  # noqa: E731
        RegularizerConfig(prior="skill", divergence=kind, target_divergence=1.0), torch.ones(4)
    )
    torch.testing.assert_close(make("kl").divergence(p, q, noise), kl_divergence(oracle(p), oracle(q)))
    torch.testing.assert_close(make("reverse_kl").divergence(p, q, noise), kl_divergence(oracle(q), oracle(p)))
    assert make("none").divergence(p, q, noise).abs().sum() == 0 and make("none").coefficient() == 0


def test_a_divergence_from_a_skill_prior_needs_two_densities_in_its_space():
    p, q = pair(torch.Generator().manual_seed(5))
    squashed, noise = TanhGaussian(p, torch.ones(4)), torch.zeros(32, 4, dtype=torch.float64)
    config = RegularizerConfig(prior="skill", target_divergence=1.0)
    for kind in ("kl", "reverse_kl"):
        regularizer = Regularizer(replace(config, divergence=kind), torch.ones(4))
        for policy, prior in ((squashed, q), (p, None), (squashed, None)):
            with pytest.raises(ConfigError, match="needs an unsquashed Gaussian policy in the same latent space"):
                regularizer.divergence(policy, prior, noise)
    for regularizer in (Regularizer(config, torch.ones(4)), Regularizer(RegularizerConfig(), torch.ones(4))):
        with pytest.raises(ConfigError, match="over discrete actions, and the divergence is of continuous ones"):
            regularizer.divergence(Categorical(p.mean), q, noise)


def test_both_directions_to_a_mixture_have_the_integrals_for_their_means():
    prior = Mixture(
        torch.tensor([[0.5, -0.5]]), Gaussian(torch.tensor([[[-1.0], [1.5]]]), torch.tensor([[[-0.5], [0.0]]]))
    )
    policy = Gaussian(torch.tensor([[0.4]]), torch.tensor([[0.1]]))
    grid = torch.linspace(-12, 12, 20_001).view(-1, 1, 1)
    mine, theirs = policy.log_prob(grid), prior.log_prob(grid)
    noise = torch.randn(40_000, 1, 1, generator=torch.Generator().manual_seed(0))
    for kind, expected in (
        ("kl", (mine.exp() * (mine - theirs)).sum() * (24 / 20_000)),
        ("reverse_kl", (theirs.exp() * (theirs - mine)).sum() * (24 / 20_000)),
    ):
        config = RegularizerConfig(prior="skill", divergence=kind, target_divergence=1.0)
        found = Regularizer(config, torch.ones(1)).divergence(policy, prior, noise)
        assert float(found.mean()) == pytest.approx(float(expected), abs=5 * float(found.std()) / 200)


def test_divergence_is_zero_and_flat_at_the_prior():
    prior = Gaussian(torch.randn(8, 3), torch.randn(8, 3))
    mean, log = prior.mean.clone().requires_grad_(), prior.log_stddev.clone().requires_grad_()
    divergence = Gaussian(mean, log).kl(prior)
    gradients = torch.autograd.grad(divergence.sum(), (mean, log))
    assert divergence.abs().max() == 0 and all(g.abs().max() < 1e-6 for g in gradients)


@pytest.mark.parametrize(("controller", "down"), [("two_way", True), ("one_way", False), ("fixed", False)])
def test_the_coefficient_moves_towards_the_target(controller, down):
    config = RegularizerConfig(
        prior="skill", controller=controller, initial_coefficient=0.1, target_divergence=1.0, learning_rate=1e-2
    )
    high, low = Regularizer(config, torch.ones(2)), Regularizer(config, torch.ones(2))
    for _ in range(50):
        high.update_coefficient(torch.full((4,), 3.0))
        low.update_coefficient(torch.full((4,), 0.1))
    assert (float(high.coefficient()) > 0.11) == (controller != "fixed")
    assert (float(low.coefficient()) < 0.09) == down


def test_the_coefficient_keeps_its_limits():
    config = RegularizerConfig(prior="skill", target_divergence=1.0, maximum_coefficient=1.1, learning_rate=0.5)
    regularizer = Regularizer(config, torch.ones(2))
    for _ in range(20):
        regularizer.update_coefficient(torch.full((4,), 100.0))
    assert float(regularizer.coefficient()) == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"prior": "skil"}, "choose uniform or skill"),
        ({"prior": "uniform", "divergence": "reverse_kl"}, "needs a prior with a density"),
        ({"prior": "skill"}, "target_divergence is missing"),
        ({"initial_coefficient": 0.0}, "above 0"),
        ({"target_divergence": -1.0}, "at least 0"),
        ({"td_divergence_clip": 0.0}, "above 0"),
        ({"weight": 1.0}, "unknown key 'weight'"),
    ],
)
def test_impossible_settings_are_refused_before_anything_runs(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(RegularizerConfig, options, "algorithm.regularizer")
