"""Gymnasium's environments in lockstep: which ones are accepted, what actions and observations become."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary

from skillmeta.envs.serial import SerialEnvs
from skillmeta.errors import UserError
from tests.skills.fakes import CounterEnv


def test_the_ones_that_have_ended_hold_still():
    lengths = iter([3, 5])
    envs = SerialEnvs(lambda: CounterEnv(next(lengths)), num=2)
    envs.reset([0, 1])
    steps = [envs.step(np.zeros((2, 1), np.float32)) for _ in range(5)]
    assert [step.steps.tolist() for step in steps] == [[1, 1]] * 3 + [[0, 1]] * 2
    assert steps[3].reward.tolist() == [0.0, 4.0] and not steps[3].terminated[0]
    np.testing.assert_array_equal(steps[2].observation[0], steps[4].observation[0])


def test_unit_actions_are_clipped_to_their_box():
    envs = SerialEnvs(CounterEnv)
    envs.reset([0])
    for action in (1.5, -7.0, 0.25):
        envs.step(np.array([[action]], np.float32))
    assert envs.envs[0].unwrapped.actions == [1.0, -1.0, 0.25]


def test_actions_are_scaled_to_the_environments_and_observations_flattened():
    class Wide(CounterEnv):
        def __init__(self):
            super().__init__()
            self.action_space = Box(np.array([0.0], np.float32), np.array([10.0], np.float32))
            self.observation_space = Dict({"a": Box(-np.inf, np.inf, (2,)), "b": Box(-np.inf, np.inf, (1,))})

        def _observe(self):
            return {"a": np.zeros(2, np.float32), "b": np.ones(1, np.float32)}

        def reset(self, **kwargs):
            gym.Env.reset(self, **kwargs)
            self.t, self.total, self.actions = 0, 0.0, []
            return self._observe(), {}

    envs = SerialEnvs(Wide)
    assert envs.reset([0]).tolist() == [[0, 0, 1]] and envs.spec.action_bound.tolist() == [1.0]
    envs.step(np.array([[0.5]], np.float32))
    assert envs.envs[0].unwrapped.actions == [7.5]


@pytest.mark.parametrize(
    ("space", "sentence"),
    [(MultiBinary(3), "a one-dimensional Box or Discrete is needed"), (Box(-np.inf, np.inf, (2,)), "has no bounds")],
)
def test_action_spaces_that_nothing_here_acts_in_are_refused(space, sentence):
    class Other(CounterEnv):
        def __init__(self):
            super().__init__()
            self.action_space = space

    with pytest.raises(UserError, match=sentence):
        SerialEnvs(Other)


@pytest.mark.parametrize(
    ("space", "shape"),
    [
        (Box(0, 255, (32, 32, 3), np.uint8), r"\(32, 32, 3\)"),
        (Box(0, 255, (84, 84), np.uint8), r"\(84, 84\)"),
        (Dict({"state": Box(-1, 1, (2,)), "camera": Dict({"top": Box(0, 1, (3, 8, 8))})}), r"\(3, 8, 8\)"),
    ],
)
def test_images_are_refused_with_their_shape(space, shape):
    class Seen(CounterEnv):
        def __init__(self):
            super().__init__()
            self.observation_space = space

    with pytest.raises(UserError, match=f"an image of shape {shape}"):
        SerialEnvs(Seen)


def test_choices_are_the_largest_of_the_actions_numbers():
    chosen = []

    class Choices(CounterEnv):
        def __init__(self):
            super().__init__(length=2)
            self.action_space = Discrete(3, start=5)

        def step(self, action):
            chosen.append(action)
            return super().step(np.zeros(1))

    envs = SerialEnvs(Choices, 1)
    assert envs.spec.discrete and envs.spec.action_bound.tolist() == [1, 1, 1]
    envs.reset([0])
    for row in ([0, 1, 0], [0.1, 0.2, 0.3]):
        envs.step(np.array([row], np.float32))
    assert chosen == [6, 7]
