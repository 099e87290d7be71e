"""Environments in lockstep, episodes and the bill: every primitive step is counted once, for everybody alike."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary

from skillmeta.collect.episodes import Collector, episode
from skillmeta.envs.serial import SerialEnvs
from skillmeta.errors import UserError
from skillmeta.seeds import Seeds
from tests.skills.fakes import CounterEnv


class Still:
    """Always the same action."""

    def begin(self, num, generator):
        return None

    def act(self, observation, belief, generator, explore):
        return torch.zeros(len(observation), 1), belief

    def observe(self, belief, action, step):
        return belief


def test_the_ones_that_have_ended_hold_still():
    lengths = iter([3, 5])
    envs = SerialEnvs(lambda: CounterEnv(next(lengths)), num=2)
    envs.reset([0, 1])
    steps = [envs.step(np.zeros((2, 1), np.float32)) for _ in range(5)]
    assert [step.steps.tolist() for step in steps] == [[1, 1]] * 3 + [[0, 1]] * 2
    assert steps[3].reward.tolist() == [0.0, 4.0] and not steps[3].terminated[0]
    np.testing.assert_array_equal(steps[2].observation[0], steps[4].observation[0])


def test_episodes_are_padded_and_masked():
    lengths = iter([3, 5])
    envs = SerialEnvs(lambda: CounterEnv(next(lengths)), num=2)
    done, _ = episode(Still(), envs, None, [0, 1], torch.Generator())
    assert done.lengths.tolist() == [3, 5] and done.returns.tolist() == [6, 15] and done.succeeded.all()
    assert done.valid.tolist() == [[True] * 3 + [False] * 2, [True] * 5]


def test_the_bill_counts_every_environment_and_stops_at_the_budget():
    collect = Collector(SerialEnvs(CounterEnv, num=2), Seeds(0), 60)
    lengths = []
    while not collect.spent:
        lengths.append(collect.episode(Still()).lengths.tolist())
    assert lengths == [[25, 25], [5, 5]] and collect.state() == {"env_steps": 60, "episodes": 4, "decisions": 60}


def test_what_comes_after_the_end_of_a_shorter_episode_costs_nothing():
    lengths = iter([3, 5])
    collect = Collector(SerialEnvs(lambda: CounterEnv(next(lengths)), num=2), Seeds(0), 60)
    collect.episode(Still())
    assert collect.state() == {"env_steps": 8, "episodes": 2, "decisions": 8}


def test_an_episode_that_ends_as_the_budget_does_is_terminated_and_not_truncated():
    done, _ = episode(Still(), SerialEnvs(lambda: CounterEnv(4)), None, [0], torch.Generator(), max_steps=4)
    assert done.terminated[0].tolist() == [False] * 3 + [True] and not done.truncated.any()
    cut, _ = episode(Still(), SerialEnvs(lambda: CounterEnv(5)), None, [0], torch.Generator(), max_steps=4)
    assert cut.truncated[0].tolist() == [False] * 3 + [True] and not cut.terminated.any()


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


def test_an_observation_that_is_not_finite_is_stopped():
    class Broken(CounterEnv):
        def _observe(self):
            return np.array([self.t, np.nan if self.t == 3 else 0.0], np.float32)

    envs = SerialEnvs(Broken)
    with pytest.raises(UserError, match="observation that is not finite"):
        episode(Still(), envs, None, [0], torch.Generator())


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


@pytest.mark.parametrize("preset", ["point_robot", "navigation", "bandit_5", "tabular"])
def test_arrays_of_environments_are_the_same_environments(preset):
    """Four at once, or one by one through Gymnasium's interface: the same observations, rewards and ends."""
    from skillmeta.config import build, load
    from skillmeta.envs.batched import BatchedEnvs
    from skillmeta.tasks.base import TaskConfig, make_family

    family = make_family(build(TaskConfig, load(f"tasks/{preset}")))
    assert family.native is not None
    arrays, serial = BatchedEnvs(family.native(4), 4), SerialEnvs(family.make_env, 4)
    assert arrays.discrete == serial.discrete and np.array_equal(arrays.action_bound, serial.action_bound)
    generator = np.random.default_rng(0)
    tasks = family.tasks("train")[:4]
    if preset == "navigation":  # one goal lies at the start: its episode ends at once
        from dataclasses import replace

        tasks = (replace(tasks[0], x=0.0, y=0.0), *tasks[1:])
    assert np.array_equal(arrays.reset([1, 2, 3, 4], tasks), serial.reset([1, 2, 3, 4], tasks))
    for _ in range(family.horizon + 2):
        action = generator.uniform(-1, 1, (4, len(serial.action_bound))).astype(np.float32) * (preset != "navigation")
        a, b = arrays.step(action), serial.step(action)
        assert np.allclose(a.reward, b.reward, atol=1e-6)  # rescaling an action rounds in another order
        assert np.allclose(a.observation, b.observation, atol=1e-6)
        for name in ("terminated", "truncated", "steps", "success"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name
