"""One episode in environments in lockstep: padding, masks, ends and budgets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skillmeta.collect.episodes import episode
from skillmeta.envs.serial import SerialEnvs
from skillmeta.envs.skill_space import SkillEnvs
from skillmeta.errors import UserError
from skillmeta.evaluation.actors import RandomActor
from tests.actors import Still
from tests.skills.fakes import CounterEnv, skill_model


def test_episodes_are_padded_and_masked():
    lengths = iter([3, 5])
    envs = SerialEnvs(lambda: CounterEnv(next(lengths)), num=2)
    done, _ = episode(Still(), envs, None, [0, 1], torch.Generator())
    assert done.lengths.tolist() == [3, 5] and done.returns.tolist() == [6, 15] and done.succeeded.all()
    assert done.valid.tolist() == [[True] * 3 + [False] * 2, [True] * 5]


def test_an_episode_that_ends_as_the_budget_does_is_terminated_and_not_truncated():
    done, _ = episode(Still(), SerialEnvs(lambda: CounterEnv(4)), None, [0], torch.Generator(), max_steps=4)
    assert done.terminated[0].tolist() == [False] * 3 + [True] and not done.truncated.any()
    cut, _ = episode(Still(), SerialEnvs(lambda: CounterEnv(5)), None, [0], torch.Generator(), max_steps=4)
    assert cut.truncated[0].tolist() == [False] * 3 + [True] and not cut.terminated.any()


def test_an_observation_that_is_not_finite_is_stopped():
    class Broken(CounterEnv):
        def _observe(self):
            return np.array([self.t, np.nan if self.t == 3 else 0.0], np.float32)

    envs = SerialEnvs(Broken)
    with pytest.raises(UserError, match="observation that is not finite"):
        episode(Still(), envs, None, [0], torch.Generator())


def test_actions_that_are_not_finite_are_stopped_also_where_the_environment_does_not_look_at_them():
    class Broken(RandomActor):
        def act(self, observation, belief, generator, explore):
            return super().act(observation, belief, generator, explore)[0] * np.nan, belief

    class Deaf(CounterEnv):
        def _observe(self):
            return np.zeros(2, np.float32)

    envs = SerialEnvs(Deaf, unit_actions=False)
    with pytest.raises(UserError, match="the policy's actions are not finite"):
        episode(Broken(np.ones(envs.spec.action_dim)), envs, None, [0], torch.Generator())


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_rewards_whose_sum_over_a_decision_is_not_finite_are_stopped():
    class Rich(CounterEnv):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, 3e38, *rest

    envs = SkillEnvs(SerialEnvs(Rich, unit_actions=False), skill_model(horizon=2))
    with pytest.raises(UserError, match="the rewards of a decision, summed up, are not finite"):
        episode(RandomActor(np.ones(3)), envs, None, [0], torch.Generator())
