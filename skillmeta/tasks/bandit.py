"""Bernoulli bandits: k arms, one episode of n pulls. RL2, Duan et al. 2016 (arXiv:1611.02779), section 4.1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from skillmeta.config import NonNegativeInt, PositiveInt, checked
from skillmeta.tasks.base import Expert, TaskFamily, draw_tasks, validation_generator
from skillmeta.tasks.batched import NativeEnv, Outcome, uniform


@checked
class Config:
    """RL2's smallest setting by default."""

    FORMER_KEYS: ClassVar[dict[str, str]] = {"pulls": "max_episode_steps"}

    arms: PositiveInt = 5  # to choose from
    max_episode_steps: PositiveInt = 10  # steps of an episode
    train_tasks: PositiveInt = 1000  # tasks of the split `train`
    validation_tasks: PositiveInt = 200  # tasks of the split `validation`
    test_tasks: PositiveInt = 1000  # tasks of the split `test`
    tasks_seed: NonNegativeInt = 0  # that the tasks are drawn by


@dataclass(frozen=True)
class Arms:
    """The chance of a reward of 1 of each arm."""

    probabilities: tuple[float, ...]


class Bandits:
    """N bandits in lockstep. Observation [N, 1]: always 0, for there is nothing to see."""

    def __init__(self, config: Config, num: int):
        self.config, self.num, self.max_episode_steps, self.observation_dim = config, num, config.max_episode_steps, 1
        self.action_space = Discrete(config.arms)
        self.rows = np.arange(num)

    def reset(self, seeds: np.ndarray, tasks: Sequence[Arms]) -> np.ndarray:
        self.seeds, self.pulled = seeds, 0
        self.probabilities = np.array([task.probabilities for task in tasks])
        return np.zeros((self.num, 1), np.float32)

    def step(self, action: np.ndarray) -> Outcome:
        arm = action.astype(np.int64)
        chance = self.probabilities[self.rows, arm]
        reward = (uniform(self.seeds, self.pulled) < chance).astype(np.float64)
        self.pulled += 1
        nothing = np.zeros(self.num, bool)
        return Outcome(np.zeros((self.num, 1), np.float32), reward, nothing, nothing)


def family(config: Config) -> TaskFamily:
    """Arms' probabilities are uniform in [0, 1]."""

    def draw_task(generator: np.random.Generator) -> Arms:
        return Arms(tuple(float(p) for p in generator.uniform(0, 1, config.arms)))

    def expert(env: gymnasium.Env, generator: np.random.Generator) -> Expert:
        best = np.int64(np.argmax(env.unwrapped.task.probabilities))  # type: ignore[attr-defined]
        return lambda observation: best

    generator = np.random.default_rng(config.tasks_seed)
    drawn = [draw_task(generator) for _ in range(config.train_tasks + config.test_tasks)]
    space = Box(0.0, 1.0, (1,), np.float32)
    return TaskFamily(
        name="bandit",
        version=1,
        definition=(
            f"{config.arms} arms, each with a hidden chance ~ U(0, 1) of a reward of 1 a pull; "
            f"{config.max_episode_steps} pulls an episode. "
            "Each task is an independent draw. Nothing is seen but the reward. No notion of success. After RL2 (Duan et al. 2016)."
        ),
        max_episode_steps=config.max_episode_steps,
        reports_success=False,  # the best arm is pulled by chance too
        splits={
            "train": tuple(drawn[: config.train_tasks]),
            "validation": draw_tasks(draw_task, validation_generator(config.tasks_seed), config.validation_tasks),
            "test": tuple(drawn[config.train_tasks :]),
        },
        make_env=lambda: NativeEnv(Bandits(config, 1), drawn[0], space),
        draw_task=draw_task,
        native=lambda num: Bandits(config, num),
        expert=expert,
    )
