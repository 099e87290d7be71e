"""What MAML and its relatives start from; tests/oracles holds their inner step against a reference."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from skillmeta.errors import ConfigError
from skillmeta.limits import NETWORK
from skillmeta.nn.distributions import Gaussian
from skillmeta.objectives.inner_step import Shape, policy, stack

OBSERVED, ACTIONS = 3, 2


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("hidden", "depth", "context"), [(100, 2, 0), (200, 1, 5)])
def test_weights_start_uniform_in_glorots_interval_and_all_else_at_zero(hidden, depth, context):
    *layers, log_stddev = Shape(OBSERVED, ACTIONS, hidden, depth, context=context).start(generator())
    widths = [OBSERVED + context, *[hidden] * depth, ACTIONS]
    for weight, bias, (inputs, outputs) in zip(layers[::2], layers[1::2], pairwise(widths), strict=True):
        assert weight.shape == (outputs, inputs) and bias.tolist() == [0.0] * outputs
        limit = (6 / (inputs + outputs)) ** 0.5
        assert 0.95 * limit < float(weight.abs().max()) <= limit
        assert float(weight.std()) == pytest.approx(limit / 3**0.5, rel=0.1)
        assert abs(float(weight.mean())) < 0.15 * limit
    assert log_stddev.tolist() == [0.0] * ACTIONS


@pytest.mark.parametrize(("hidden", "depth"), [(8192, 2), (1024, NETWORK // 1024**2 + 2)])
def test_a_policy_is_refused_for_the_weights_of_all_its_layers(hidden, depth):
    weights = hidden * (OBSERVED + (depth - 1) * hidden + ACTIONS)
    with pytest.raises(ConfigError, match=f"a network of {weights:,} parameters is asked for"):
        Shape(OBSERVED, ACTIONS, hidden, depth).start(generator())


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("context", [0, 4])
def test_a_policy_without_an_output_is_what_it_is_a_residual_on_until_a_context_moves_it(depth, context):
    shape = Shape(OBSERVED, ACTIONS, 6, depth, context=context)
    stacked = stack(shape.start(generator(), zero_output=True), 2, context)
    seen, mean, log_stddev = (torch.randn(2, 5, n, generator=generator(n)) for n in (OBSERVED, ACTIONS, ACTIONS))
    found = policy(shape, stacked, seen, mean, log_stddev)
    assert isinstance(found, Gaussian)
    assert torch.equal(found.mean, mean) and torch.equal(found.log_stddev, log_stddev)
    if not context:
        return
    (slope,) = torch.autograd.grad(found.mean.sum(), stacked[-1])
    assert (slope != 0).all()
    moved = policy(shape, (*stacked[:-1], torch.ones(2, context)), seen, mean, log_stddev)
    shift = moved.mean - mean  # the same whatever is observed
    assert (shift != 0).all() and torch.allclose(shift, shift[:, :1].expand_as(shift), atol=1e-6)
