"""What an agent knows of its task, as a checkpoint holds it."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch

from skillmeta.evaluation.adapted import AdaptedAgent, pack, unpack
from tests.actors import Still


class Known(NamedTuple):
    mean: torch.Tensor
    count: torch.Tensor


LIKE = (Known(torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64)), torch.zeros(1, 0, 2), None)  # before any episode


def test_a_belief_comes_back_with_its_structure_and_as_much_as_it_had_seen():
    known = (Known(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([4])), torch.ones(1, 5, 2), None)
    packed = pack(known)
    assert packed.keys() == {"0", "1", "2"} and packed["0"].keys() == {"mean", "count"}
    found = unpack(LIKE, packed)
    assert type(found) is tuple and isinstance(found[0], Known) and found[2] is None
    assert torch.equal(found[0].mean, known[0].mean) and found[0].count.tolist() == [4]
    assert torch.equal(found[1], known[1])


@pytest.mark.parametrize(
    "mean",
    [torch.zeros(1, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.int64), torch.zeros(3), torch.zeros(()),
     torch.tensor([[0.0, math.nan, 0.0]]), torch.tensor([[0.0, 0.0, -math.inf]])],
    ids=str,
)  # fmt: skip
def test_numbers_of_another_kind_or_shape_or_that_are_not_finite_are_no_belief(mean):
    with pytest.raises(ValueError, match=r"in the place of torch.float32 \(1, 3\), or not finite"):
        unpack(LIKE, {**pack(LIKE), "0": {"mean": mean, "count": torch.tensor([4])}})


def test_an_adapted_agent_knows_one_task():
    agent, generator = AdaptedAgent(Still(rollouts=2), LIKE), torch.Generator()
    assert agent.begin(1, generator) is LIKE and agent.rollouts == 2 and agent.exploration_episodes == 0
    with pytest.raises(ValueError, match="knows one task, not 3"):
        agent.begin(3, generator)
