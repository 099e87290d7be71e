"""ProMP and Reptile on real episodes; tests/oracles holds their losses and steps against a reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from skillmeta.algorithms import promp, reptile
from skillmeta.collect.source import Budget, OnlineSource
from skillmeta.collect.workers import Workers
from skillmeta.envs.make import EnvsFactory
from skillmeta.run.parts import state_of
from skillmeta.seeds import Seeds
from skillmeta.tasks.base import TaskConfig, make_family
from tests.learners import make_learner

POINTS = TaskConfig("point", split="any", options={"start_extent": 0.0, "max_episode_steps": 8})
FAMILY = make_family(POINTS)


@pytest.mark.parametrize("module", [promp, reptile])
def test_an_iteration_moves_the_parameters_that_act(module: Any) -> None:
    learner = make_learner(
        module, module.Config(tasks=3, rollouts=3, hidden=8), 2, np.ones(2, np.float32), seeds=Seeds(0)
    )
    before = learner.actor().parameters
    with Workers(EnvsFactory(POINTS), envs_per_batch=9) as workers:
        source = OnlineSource(workers, lambda g: FAMILY.sample(g, "any"), Seeds(0), Budget(10**6))
        learner.iterate(source)
    assert source.last is not None and source.last.reward.shape[:2] == (9, 2)
    after, stored = learner.actor().parameters, state_of(learner.parts())["parameters"]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(a, stored[str(i)]) for i, a in enumerate(after))
