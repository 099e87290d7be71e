"""Cores: steps compute what sequences do, whoever takes them; nothing looks ahead; everything before can matter."""

from __future__ import annotations

import pytest
import torch

from skillmeta.nn.memory import CORES, make_core, positions


def core_of(name: str, receptive_field: int = 8):
    return make_core(name, 3, 16, 2, receptive_field, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("share", [1.0, 0.6], ids=["in lockstep", "some wait"])
@pytest.mark.parametrize("name", CORES)
def test_steps_compute_what_the_sequence_does(name, share):
    core, num, length = core_of(name), 4, 13
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(num, length, 3, generator=generator)
    wanted = core.sequence(inputs)
    state, at = core.begin(num), torch.zeros(num, dtype=torch.int64)
    while bool((at < length).any()):
        taken = (torch.rand(num, generator=generator) < share) & (at < length)
        here = at.clamp(max=length - 1)
        out, candidate = core.step(inputs[torch.arange(num), here], state)
        assert torch.allclose(out[taken], wanted[torch.arange(num), here][taken], atol=1e-5)
        state, at = core.commit(state, candidate, taken), at + taken


@pytest.mark.parametrize("name", CORES)
def test_nothing_looks_ahead_and_everything_before_can_matter(name):
    core, length = core_of(name, receptive_field=2), 9  # beyond SNAIL's convolutions there is its attention
    inputs = torch.randn(1, length, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    (core.sequence(inputs)[0, 5] ** 2).sum().backward()
    touched = inputs.grad[0].abs().sum(-1) > 0
    assert touched.tolist() == [True] * 6 + [False] * 3


@pytest.mark.parametrize("name", CORES)
def test_a_step_leaves_the_state_as_it_was(name):
    core = core_of(name)
    state = core.begin(2)
    _, candidate = core.step(torch.ones(2, 3), state)
    state = core.commit(state, candidate, torch.tensor([True, False]))
    once, _ = core.step(torch.ones(2, 3), state)
    again, _ = core.step(torch.ones(2, 3), state)
    assert torch.equal(once, again)
    assert not torch.allclose(once[0], once[1])  # one of them remembers


def test_heads_divide_any_width():
    for hidden in (7, 32, 48, 100):
        core = make_core("transformer", 3, hidden, 1, 8, torch.Generator().manual_seed(0))
        assert core.sequence(torch.ones(2, 5, 3)).shape == (2, 5, hidden)


def test_positions_are_sines_and_cosines():
    told = positions(torch.tensor([0, 3]), 4)
    assert told[0].tolist() == [0, 0, 1, 1]
    assert told[1].tolist() == pytest.approx([0.141120, 0.029996, -0.989992, 0.999550], abs=1e-5)


def test_the_same_seed_gives_the_same_weights():
    for name in CORES:
        state, other = core_of(name).state_dict(), core_of(name).state_dict()
        assert all(torch.equal(state[key], other[key]) for key in state)
