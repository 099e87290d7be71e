"""A stack of learners against each learner alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from skillmeta.algorithms import sac
from skillmeta.nn.optimizers import adam, apply_gradients
from skillmeta.nn.stack import Stack
from skillmeta.run.checkpoint import load_state, save_state
from skillmeta.run.device import CPU, placed
from skillmeta.run.parts import restore_parts, state_of
from skillmeta.seeds import Seeds
from tests.learners import make_learner
from tests.oracles.test_sac_oracle import BOUND, CASES
from tests.skills.fakes import skill_model

SEEDS, ROWS = 3, 40
FLOW = "spirl, a flow"  # the case of a mixture, with another prior


@pytest.fixture
def double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def make(case: str, seed: int) -> sac.Learner:
    regularizer, start, *components = CASES["spirl, a mixture" if case == FLOW else case]
    config = sac.Config(regularizer, start, hidden=8, batch_size=8, learning_rate=2e-3, tau=0.1, replay_capacity=ROWS)
    model = skill_model(components=sum(components), prior="flow" if case == FLOW else None)
    model = model.to(torch.get_default_dtype())
    given = {"prior": model.prior, "normalize": model.normalizer} if start == "prior" else {}
    bound = (1 + 0.5 * seed) * BOUND.numpy()  # skill models differ, and with them the box of their skills
    learner = make_learner(sac, config, 2, bound, **given, seeds=Seeds(seed))
    drawn = torch.Generator().manual_seed(seed)
    columns = learner.replay.columns
    for values in (columns.observation, columns.action, columns.reward, columns.next_observation):
        values.copy_(torch.randn(values.shape, generator=drawn))
    columns.terminated.copy_(torch.rand(ROWS, generator=drawn) < 0.2)
    learner.replay.added = ROWS
    return learner


def numbers(learner: sac.Learner) -> list[torch.Tensor]:
    return [*learner.networks.parameters(), learner.regularizer.log_coefficient]


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(
    ("case", "owed"),
    [
        ("sac", [5, 8, 3]),
        ("spirl, clipped", [8, 5, 3]),
        ("spirl, a mixture", [8, 5, 3]),
        (FLOW, [8, 5, 3]),
        pytest.param("sac", [200, 150, 13], marks=pytest.mark.slow),
        pytest.param("spirl", [200, 200, 200], marks=pytest.mark.slow),
    ],
)
def test_each_learner_of_a_stack_is_the_learner_alone(case, owed):
    """Those that are owed more updates continue without the others."""
    alone, stacked = ([make(case, seed) for seed in range(SEEDS)] for _ in range(2))
    expected = [one.learn(updates) for one, updates in zip(alone, owed, strict=True)]
    found = Stack(stacked).learn(owed)
    for mine, theirs, metrics, wanted in zip(stacked, alone, found, expected, strict=True):
        torch.testing.assert_close(numbers(mine), numbers(theirs), rtol=1e-5, atol=1e-7)
        assert metrics == pytest.approx(wanted, rel=1e-5)
        assert mine.updates == theirs.updates
    assert not torch.allclose(numbers(stacked[0])[0], numbers(stacked[1])[0])


def learned(learner: sac.Learner) -> dict[str, Any]:
    return {name: part for name, part in learner.parts().items() if name != "replay"}


def test_a_stack_resumes_to_the_same_bits_also_in_other_company(tmp_path):
    whole = [make("spirl", seed) for seed in range(SEEDS)]
    stack = Stack(whole)
    stack.learn([4, 4, 4])
    for k, one in enumerate(whole):
        save_state(tmp_path / str(k), state_of(learned(one)))
    stack.learn([5, 5, 5])
    parts = [make("spirl", seed + 7) for seed in range(SEEDS)]
    for seed, one in enumerate(parts):
        given = make("spirl", seed)
        one.replay.columns, one.replay.added = given.replay.columns, ROWS
        restore_parts(learned(one), load_state(tmp_path / str(seed))[0])
    Stack(parts[:2]).learn([5, 5])
    for mine, theirs in zip(parts[:2], whole, strict=False):
        assert all(torch.equal(a, b) for a, b in zip(numbers(mine), numbers(theirs), strict=True))
        found, expected = mine.optimizer.state_dict()["state"], theirs.optimizer.state_dict()["state"]
        assert all(torch.equal(found[i][name], expected[i][name]) for i in expected for name in expected[i])


def test_what_acts_is_a_copy_that_the_stack_leaves_alone():
    learners = [make("sac", seed) for seed in range(2)]
    stack = Stack(learners)
    before = learners[0].actor()
    stack.learn([3, 3])
    now = learners[0].actor()
    assert not torch.equal(before.policy.net.layers[0].weight, now.policy.net.layers[0].weight)
    assert torch.equal(now.policy.net.layers[0].weight, learners[0].policy.net.layers[0].weight)


def test_who_acts_in_a_stack_acts_as_alone_to_the_bit():
    """Products with weights that lie otherwise in memory are rounded otherwise."""
    learners = [make("sac", seed) for seed in range(2)]
    Stack(learners)
    assert not learners[0].policy.net.layers[0].weight.is_contiguous()
    acting = placed(learners[0].actor(), CPU)
    assert all(parameter.is_contiguous() for parameter in acting.policy.parameters())
    assert all(
        torch.equal(a, b) for a, b in zip(acting.policy.parameters(), make("sac", 0).policy.parameters(), strict=True)
    )
    assert placed(acting, CPU) is acting


def test_a_step_along_a_gradient_that_lies_otherwise_is_the_same():
    stepped = []
    for turn in (False, True):
        parameter = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
        gradient = torch.tensor([[1.0, -2.0, 0.5], [0.1, 3.0, -0.2]])
        optimizer = adam([parameter], 0.1)
        for scale in (1.0, -0.3):
            along = scale * gradient
            apply_gradients(optimizer, [along.mT.contiguous().mT if turn else along])
        reference = torch.optim.Adam([other := torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))], 0.1)
        for scale in (1.0, -0.3):
            other.grad = scale * gradient
            reference.step()
        torch.testing.assert_close(parameter, other)
        stepped.append(parameter)
    assert torch.equal(*stepped)
