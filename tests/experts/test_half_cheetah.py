"""Augmented random search: the simulator it searches on is the environment, and searching helps."""

from __future__ import annotations

import numpy as np
import pytest

from skillmeta.errors import ConfigError
from skillmeta.experts.half_cheetah import Cheetahs, Config, Linear, collect, pooled, reward, search
from skillmeta.tasks import half_cheetah, point

FAMILY = half_cheetah.family(half_cheetah.Config(observation=20, max_episode_steps=60))
QUICK = Config(
    steps=240, tasks=1, iterations=12, directions=8, best=4, qualities=[0.0, 1.0], action_noise=0.0, threads=1
)


def test_many_cheetahs_are_the_environments_cheetah():
    env, many = FAMILY.make_env(), Cheetahs(3, threads=2)
    observation = many.reset(np.random.default_rng(0))
    env.reset(seed=0)
    env.data.qpos[:], env.data.qvel[:] = many.state[1, 1:10], many.state[1, 10:19]
    rng = np.random.default_rng(1)
    for _ in range(10):
        actions = rng.uniform(-1, 1, (3, 6))
        observation, velocity = many.step(actions)
        seen, gain, _, _, info = env.step(actions[1])
        assert np.allclose(seen[:17], observation[1], atol=1e-4) and info["x_velocity"] == pytest.approx(
            velocity[1], abs=1e-4
        )
        told = env.reward(half_cheetah.Motion(np.array([velocity[1], 0]), np.zeros(2), actions[1], env.data), env.task)
        assert reward(velocity, actions, env.task)[1] == pytest.approx(told[0], abs=1e-6)


def test_running_moments_are_those_of_all_that_was_seen():
    rng = np.random.default_rng(0)
    batches = [rng.normal(3, 2, (n, 17)) for n in (5, 40, 7)]
    mean, variance, seen = np.zeros(17), np.ones(17), 0.0
    for batch in batches:
        mean, variance, seen = pooled(mean, variance, seen, batch)
    everything = np.concatenate(batches)
    assert np.allclose(mean, everything.mean(0)) and np.allclose(variance, everything.var(0)) and seen == 52


def test_the_search_improves_and_does_not_depend_on_threads():
    task = half_cheetah.Direction(1)
    one, two = (
        search(task, Config(**{**vars(QUICK), "threads": n}), 60, np.random.default_rng(3), lambda i: None)
        for n in (1, 2)
    )
    assert all(np.array_equal(a.weights, b.weights) for a, b in zip(one, two, strict=True))

    def score(policy: Linear) -> float:
        cheetahs, total = Cheetahs(8, 1), 0.0
        observation = cheetahs.reset(np.random.default_rng(7))
        for _ in range(60):
            action = np.stack([policy(row) for row in observation])
            observation, velocity = cheetahs.step(action)
            total += float(reward(velocity, action, task).mean())
        return total

    assert score(one[1]) > score(one[0]) + 3


def test_logs_are_of_every_stage_and_the_same_again():
    told: list[int] = []
    first, again = (list(collect(FAMILY, QUICK, told.append)) for _ in range(2))
    assert [r.outcomes[0][0] for r in first] == ["trained 0%", "trained 100%"] * 2 and told[-1] == QUICK.steps
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.episode.action[0], b.episode.action[0]) and a.episode.observation.shape == (1, 61, 20)
        assert a.episode.truncated[0, -1] and a.episode.reward.shape == (1, 60)


def test_other_families_are_refused():
    with pytest.raises(ConfigError, match="half_cheetah only"):
        next(collect(point.family(point.Config()), QUICK))
    with pytest.raises(ValueError, match="must not be above directions"):
        Config(best=100)
