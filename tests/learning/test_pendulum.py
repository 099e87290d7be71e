"""Plain SAC learns a standard task: the uniform prior and primitive actions, a few thousand steps, two seeds."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from skillmeta.algorithms import sac
from skillmeta.collect.source import Budget, OnlineSource
from skillmeta.collect.workers import Workers
from skillmeta.envs.serial import SerialEnvs
from skillmeta.objectives.regularizer import RegularizerConfig
from skillmeta.seeds import Seeds
from tests.learners import make_learner


@pytest.mark.slow  # tests/oracles/test_sac_oracle.py is the fast check
@pytest.mark.parametrize("seed", [0, 1])
def test_sac_swings_the_pendulum_up(seed):
    """Random actions return about -1,200 an episode, a solved pendulum about -150."""
    regularizer = RegularizerConfig(learning_rate=1e-3)
    config = sac.Config(hidden=64, batch_size=128, learning_rate=1e-3, random_decisions=500, regularizer=regularizer)
    with Workers(lambda num: SerialEnvs(lambda: gym.make("Pendulum-v1"), num)) as workers:
        source, spec = OnlineSource(workers, lambda g: None, Seeds(seed), Budget(7_000)), workers.envs(1).spec
        learner = make_learner(sac, config, spec.observation_dim, spec.action_bound, seeds=Seeds(seed))
        returns = []
        while not source.spent:
            learner.iterate(source)
            assert source.last is not None
            returns.append(float(source.last.returns[0, 0]))
    assert np.mean(returns[:3]) < -900 and np.mean(returns[-8:]) > -400
