"""A collector of logs that acts at random."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from skillmeta.data.episodes import Recording, single_episode
from skillmeta.tasks.base import TaskFamily


@dataclass(frozen=True)
class Config:
    steps: int = 16
    seed: int = 0


def collect(family: TaskFamily, config: Config, progress: Callable[[int], None]) -> Iterator[Recording]:
    env, generator, recorded = family.make_env(), np.random.default_rng(config.seed), 0
    while recorded < config.steps:
        task = family.tasks("train")[0]
        observation, _ = env.reset(seed=int(generator.integers(2**31)), options={"task": task})
        observations, actions, rewards, over = [observation], [], [], False
        while not over:
            actions.append(generator.uniform(-1, 1, 1).astype(np.float32))
            observation, reward, terminated, over, _ = env.step(actions[-1])
            observations.append(observation)
            rewards.append(reward)
        recorded += len(actions)
        progress(recorded)
        episode = single_episode(np.stack(observations), np.stack(actions), np.array(rewards, np.float32))
        yield Recording(episode, (("wandered", True),))
