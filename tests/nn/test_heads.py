"""Heads that a context makes: what they are at first, and what their scale follows."""

from __future__ import annotations

import pytest
import torch

from skillmeta.nn.heads import HeadConfig, ScaledValue, make_head, zero_output
from skillmeta.nn.networks import MLP, linear

C, S = 3, 2


def made(kind: str, outputs: int = 4, **options):
    return make_head(HeadConfig(kind, **options), C, S, True, 8, 2, torch.Generator().manual_seed(0), outputs)


@pytest.mark.parametrize("kind", ["film", "hyper"])
def test_with_bias_hyperinit_every_context_gives_the_same_ordinary_network_at_first(kind):
    head, state = made(kind), torch.randn(5, S, generator=torch.Generator().manual_seed(1))
    outputs = [head(torch.cat([context, state], -1)) for context in torch.randn(4, 5, C)]
    assert all(torch.allclose(one, outputs[0], atol=1e-6) for one in outputs)
    generator = torch.Generator().manual_seed(0)
    linear(C, 25, generator)  # the embedding was drawn first, then the network of the state alone
    assert torch.allclose(outputs[0], MLP(S, 4, 8, 2, generator)(state), atol=1e-6)
    outputs[0].square().sum().backward()
    assert head.emit[0].weight.grad.any()  # and it can be learned from


@pytest.mark.parametrize("kind", ["mlp", "film", "hyper"])
def test_a_head_listens_to_both_and_its_place_in_the_inputs_is_known(kind):
    head = made(kind, bias_hyperinit=False)
    other = make_head(HeadConfig(kind, bias_hyperinit=False), C, S, False, 8, 2, torch.Generator().manual_seed(0), 4)
    context, state = torch.randn(6, C), torch.randn(6, S)
    here = head(torch.cat([context, state], -1))
    assert (head(torch.cat([context + 1, state], -1)) != here).all() and (
        head(torch.cat([context, state + 1], -1)) != here
    ).all()
    if kind != "mlp":
        assert torch.allclose(other(torch.cat([state, context], -1)), here)


@pytest.mark.parametrize("kind", ["mlp", "film", "hyper"])
def test_following_the_scale_of_returns_changes_no_value_and_zero_is_zero(kind):
    value, inputs = ScaledValue(made(kind, 1, bias_hyperinit=False)), torch.randn(7, C + S)
    before = value(inputs)
    value.rescale(100 + 30 * torch.randn(50), torch.ones(50))
    assert value.deviation > 10 and torch.allclose(value(inputs), before, atol=1e-4)
    zero_output(value.head)
    assert torch.equal(value.head(inputs), torch.zeros(7, 1))


def test_the_scale_is_the_mean_and_the_deviation_of_valid_returns_and_follows_later_ones_slowly():
    value = ScaledValue(made("mlp", 1))
    assert (value.mean, value.stddev) == (0, 1)
    generator = torch.Generator().manual_seed(1)
    returns = 100 + 30 * torch.randn(6, 9, generator=generator)
    valid = (torch.rand(6, 9, generator=generator) < 0.7).float()
    kept = returns[valid > 0]
    value.rescale(returns, valid)
    torch.testing.assert_close(
        torch.stack([value.mean, value.stddev]), torch.stack([kept.mean(), kept.std(correction=0)])
    )
    value.rescale(torch.tensor([-1.0, 3.0]), torch.ones(2), rate=0.25)
    wanted = [0.75 * kept.mean() + 0.25 * 1, 0.75 * kept.std(correction=0) + 0.25 * 2]
    torch.testing.assert_close(torch.stack([value.mean, value.stddev]), torch.stack(wanted))
    same = ScaledValue(made("mlp", 1))
    same.rescale(torch.ones(4), torch.ones(4))
    assert same.stddev > 0 and same(torch.randn(7, C + S)).isfinite().all()
