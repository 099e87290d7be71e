"""ProMP and Reptile on real episodes; tests/oracles holds their losses and steps against a reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from skillmeta.collect.meta import MetaCollector

from skillmeta.algorithms import promp, reptile
from skillmeta.collect.workers import Workers
from skillmeta.envs.make import EnvsFactory
from skillmeta.seeds import Seeds
from skillmeta.tasks.base import TaskConfig, make_family
from tests.learners import make_learner

POINTS = TaskConfig("point", split="any", options={"start_extent": 0.0, "horizon": 8})
FAMILY = make_family(POINTS)


@pytest.mark.parametrize("module", [promp, reptile])
def test_an_iteration_moves_the_parameters_that_act(module: Any) -> None:
    agent = make_learner(
        module, module.Config(tasks=3, rollouts=3, hidden=8), 2, np.ones(2, np.float32), seeds=Seeds(0)
    )
    before = agent.actor().parameters
    with Workers(EnvsFactory(POINTS), chunk=9) as workers:
        collect = MetaCollector(workers, lambda g: FAMILY.sample(g, "any"), Seeds(0), 10**6)
        batch, _ = agent.iterate(collect)
    assert batch.trials.reward.shape[:2] == (9, 2)
    after, stored = agent.actor().parameters, agent.acting_state()["parameters"]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(a, stored[str(i)]) for i, a in enumerate(after))
