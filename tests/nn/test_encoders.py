"""Encoders of contexts: products against densities, evidence that adds up, and what nothing seen is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from skillmeta.errors import ConfigError
from skillmeta.nn.distributions import Gaussian, Mixture
from skillmeta.nn.encoders import ENCODERS, ProductEncoder, SummaryEncoder, infer, make_encoder


def encoder_of(kind: str = "product", prior_factor: bool = False) -> ProductEncoder | SummaryEncoder:
    return make_encoder(kind, 4, 3, 16, 1, torch.Generator().manual_seed(0), prior_factor)


def contexts(rows: int = 7) -> torch.Tensor:
    return torch.randn(2, rows, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("prior_factor", [False, True])
def test_the_posterior_is_the_product_of_the_factors(prior_factor):
    """Against the density: the log of the product differs from the posterior's by a constant."""
    encoder, context = encoder_of(prior_factor=prior_factor), contexts()
    with torch.no_grad():
        mean, raw = encoder.net(context).chunk(2, -1)
        softplus, posterior = torch.nn.functional.softplus, infer(encoder, context)
        stddev = softplus(raw - 4.0).rsqrt() if prior_factor else softplus(raw).sqrt()
    points = torch.linspace(-2, 2, 9)
    for task, dim in itertools.product(range(2), range(3)):
        product = torch.distributions.Normal(0.0, 1.0).log_prob(points) if prior_factor else torch.zeros(9)
        for n in range(7):
            product = product + torch.distributions.Normal(mean[task, n, dim], stddev[task, n, dim]).log_prob(points)
        ours = torch.distributions.Normal(posterior.mean[task, dim], posterior.stddev[task, dim]).log_prob(points)
        assert torch.allclose(product - ours, (product - ours)[:1].expand(9), atol=1e-4)


def same(one: Gaussian, other: Gaussian) -> bool:
    return torch.allclose(one.mean, other.mean, atol=1e-5) and torch.allclose(
        one.log_stddev, other.log_stddev, atol=1e-5
    )


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_order_of_a_context_is_of_no_matter_unless_the_encoder_says_so(kind):
    encoder, context = encoder_of(kind), contexts()
    turned = infer(encoder, context[:, [3, 1, 5, 0, 2, 6, 4]])
    assert same(infer(encoder, context), turned) == (not encoder.ordered)


@pytest.mark.parametrize("kind", ENCODERS)
def test_evidence_adds_up_and_what_is_not_valid_is_no_evidence(kind):
    """Parts one after another are the whole; for convolutions the parts are episodes, across which nothing is convolved."""
    encoder, context = encoder_of(kind), contexts()
    evidence = encoder.nothing(2)
    for part in (slice(0, 2), slice(2, 7)):
        evidence = encoder.accumulate(evidence, context[:, part], torch.ones(2, part.stop - part.start))
    if kind == "convolution":
        swapped = encoder.nothing(2)
        for part in (slice(2, 7), slice(0, 2)):
            swapped = encoder.accumulate(swapped, context[:, part], torch.ones(2, part.stop - part.start))
        assert same(encoder.posterior(evidence), encoder.posterior(swapped))
    else:
        assert same(encoder.posterior(evidence), infer(encoder, context))
    assert evidence.seen.tolist() == [7, 7]
    masked = infer(encoder, context, torch.tensor([[1.0, 1, 0, 0, 0, 0, 0], [1.0, 1, 1, 0, 0, 0, 0]]))
    assert torch.allclose(masked.mean[:1], infer(encoder, context[:1, :2]).mean, atol=1e-6)
    assert torch.allclose(masked.mean[1:], infer(encoder, context[1:, :3]).mean, atol=1e-6)
    none = encoder.accumulate(evidence, context, torch.zeros(2, 7))
    assert same(encoder.posterior(none), encoder.posterior(evidence))


@pytest.mark.parametrize("kind", ["mean", "attention", "convolution"])
def test_a_mean_of_an_episode_that_was_seen_twice_is_that_of_once(kind):
    encoder, context, all_of_it = encoder_of(kind), contexts(), torch.ones(2, 7)
    twice = encoder.accumulate(encoder.accumulate(encoder.nothing(2), context, all_of_it), context, all_of_it)
    assert same(encoder.posterior(twice), infer(encoder, context))


def test_convolutions_look_back_on_seven_transitions_and_never_ahead():
    """Three layers, which reach 1, 2 and 4 back. What the n-th transition adds depends on those that it looks back on."""
    encoder, context = encoder_of("convolution"), contexts(14)[:1]
    other = context.clone()
    other[0, 3] += 1

    def added(context: torch.Tensor) -> torch.Tensor:
        first = (torch.arange(14) < torch.arange(15)[:, None]).float()  # of the first 0, 1, ... 14 transitions
        return encoder.accumulate(encoder.nothing(15), context.repeat(15, 1, 1), first).total.diff(dim=0)

    touched = (added(context) - added(other)).abs().amax(-1) > 1e-5
    assert touched.tolist() == [False] * 3 + [True] * 8 + [False] * 3


def test_attention_is_a_softmax_over_everything_seen():
    """Against one that is computed at once, also where logits are far apart."""
    encoder, context = encoder_of("attention"), contexts()
    with torch.no_grad():
        encoder.summary.ask.weight.mul_(200)
        features = torch.nn.functional.leaky_relu(encoder.net(context), 0.2)
        shares = torch.softmax(encoder.summary.ask(features), 1)
        wanted = torch.einsum("nch,ncd->nhd", shares, features).flatten(1)
        evidence = encoder.nothing(2)
        for n in range(7):
            evidence = encoder.accumulate(evidence, context[:, n : n + 1], torch.ones(2, 1))
        ours = evidence.total.view(2, 4, -1) / evidence.weight[:, 4:].unsqueeze(-1)
    assert torch.allclose(ours.flatten(1), wanted, atol=1e-5)


def attended(layers: dict[str, np.ndarray], queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Lee et al. 2019, eq. 6 and 7: queries [N, 16] and keys [C, 16] of one task, a head of four numbers after another."""

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ layers[f"{name}.weight"].T + layers[f"{name}.bias"]

    parts = []
    for head in range(4):
        own = slice(4 * head, 4 * head + 4)
        q, k, v = linear("query", queries)[:, own], linear("key", keys)[:, own], linear("value", keys)[:, own]
        weights = np.exp(q @ k.T / 2)
        parts.append(q + weights / weights.sum(1, keepdims=True) @ v)
    seen = np.concatenate(parts, 1)
    return seen + np.maximum(linear("out", seen), 0)


def test_a_set_transformer_is_two_blocks_of_induced_attention_and_a_pooling_one(monkeypatch):
    """Against NumPy, in double precision, a task at a time; and each transition's part in it depends on the others."""
    encoder, context = encoder_of("set_transformer"), contexts()
    evidence = encoder.accumulate(encoder.nothing(2), context, torch.ones(2, 7))
    weights = {name: value.detach().double().numpy() for name, value in encoder.summary.named_parameters()}

    def layers(name: str) -> dict[str, np.ndarray]:
        return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}

    for task in range(2):
        seen = encoder.net(context[task]).detach().double().numpy()
        for block in range(2):
            points = weights["points"][32 * block : 32 * block + 32]
            seen = attended(layers(f"attend.{block}"), seen, attended(layers(f"induce.{block}"), points, seen))
        expected = attended(layers("pool"), weights["ask"], seen)[0]
        assert encoder.summary.summary(evidence)[task].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    together = infer(encoder, context)
    monkeypatch.setattr("skillmeta.nn.encoders.LONG", 7)  # from here on a task at a time
    assert same(infer(encoder, context), together) and not torch.allclose(together.mean[0], together.mean[1])
    with pytest.raises(ConfigError, match="4 heads, which share out 18 units"):
        make_encoder("set_transformer", 4, 3, 18, 1, torch.Generator())


@pytest.mark.parametrize("kind", [kind for kind in ENCODERS if kind != "product"])
def test_a_belief_may_be_a_mixture_and_is_then_learned_before_anything_was_seen_too(kind):
    encoder, context = (
        make_encoder(kind, 4, 3, 16, 1, torch.Generator().manual_seed(0), components=5),
        contexts(),
    )
    nothing, some = encoder.posterior(encoder.nothing(2)), infer(encoder, context)
    for belief in (nothing, some):
        assert isinstance(belief, Mixture) and belief.logits.shape == (2, 5) and belief.each.mean.shape == (2, 5, 3)
    assert torch.equal(nothing.mean[0], nothing.mean[1]) and not torch.allclose(some.mean[0], some.mean[1])
    turned = infer(encoder, context[:, [3, 1, 5, 0, 2, 6, 4]])
    z = torch.zeros(2, 3)
    assert torch.allclose(turned.log_prob(z), some.log_prob(z), atol=1e-5) == (not encoder.ordered)
    nothing.log_prob(z).sum().backward()
    assert sum(float(p.grad.abs().sum()) for p in encoder.read.parameters()) > 0


@pytest.mark.parametrize("kind", ENCODERS)
def test_nothing_seen_is_the_prior(kind):
    encoder = encoder_of(kind)
    nothing = encoder.posterior(encoder.nothing(2))
    assert torch.equal(nothing.mean, torch.zeros(2, 3)) and torch.equal(nothing.stddev, torch.ones(2, 3))
    (encoder.posterior(encoder.nothing(2)).mean.sum() + infer(encoder, contexts()).mean.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)


def test_with_the_prior_as_a_factor_a_hundred_transitions_that_tell_nothing_leave_it_be():
    encoder = encoder_of(prior_factor=True)
    with torch.no_grad():
        encoder.net.layers[-1].weight.zero_()
        encoder.net.layers[-1].bias[3:] = -10.0
        posterior = infer(encoder, contexts(100))
    assert torch.allclose(posterior.stddev, torch.ones(2, 3), atol=1e-3)


def test_more_evidence_is_more_certain():
    encoder, context = encoder_of(), contexts()
    few, many = infer(encoder, context[:, :2]), infer(encoder, context.repeat(1, 100, 1))
    assert (many.stddev < few.stddev).all() and float(many.stddev.detach().max()) < 0.1


def test_a_mixture_of_products_and_unknown_names_are_refused():
    with pytest.raises(ValueError, match="a product of Gaussians is a Gaussian"):
        make_encoder("product", 4, 3, 16, 1, torch.Generator(), components=2)
    with pytest.raises(ValueError, match="encoder is 'sum'; choose one of product, mean"):
        encoder_of("sum")
