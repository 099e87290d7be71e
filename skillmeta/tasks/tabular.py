"""Random tabular MDPs, RL2, Duan et al. 2016 (arXiv:1611.02779), section 4.2: flat Dirichlet transitions, rewards N(mean, 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from skillmeta.config import NonNegativeInt, PositiveInt, checked
from skillmeta.tasks.base import Expert, TaskFamily, draw_tasks, validation_generator
from skillmeta.tasks.batched import NativeEnv, Outcome, uniform


@checked
class Config:
    """RL2's numbers."""

    FORMER_KEYS: ClassVar[dict[str, str]] = {"horizon": "max_episode_steps"}

    states: PositiveInt = 10  # of an MDP
    actions: PositiveInt = 5  # to choose from in each state
    max_episode_steps: PositiveInt = 10  # steps of an episode
    train_tasks: PositiveInt = 1000  # tasks of the split `train`
    validation_tasks: PositiveInt = 200  # tasks of the split `validation`
    test_tasks: PositiveInt = 1000  # tasks of the split `test`
    tasks_seed: NonNegativeInt = 0  # that the tasks are drawn by


@dataclass(frozen=True)
class RandomMDP:
    """The MDP that a seed stands for; 550 numbers would make a clumsy value."""

    seed: int
    states: int = 10
    actions: int = 5


@lru_cache(maxsize=4096)
def tables(task: RandomMDP) -> tuple[np.ndarray, np.ndarray]:
    """Transition probabilities [S, A, S] and mean rewards [S, A]: Dirichlet(1, ..., 1) and N(1, 1)."""
    generator = np.random.default_rng(task.seed)
    transitions = generator.dirichlet(np.ones(task.states), (task.states, task.actions))
    return transitions, generator.normal(1.0, 1.0, (task.states, task.actions))


class TabularMDPs:
    """N random MDPs in lockstep. Observation [N, S]: the state, one-hot. Episodes start in state 0."""

    def __init__(self, config: Config, num: int):
        self.config, self.num, self.max_episode_steps, self.observation_dim = (
            config,
            num,
            config.max_episode_steps,
            config.states,
        )
        self.action_space = Discrete(config.actions)
        self.rows = np.arange(num)
        self.onehot = np.eye(config.states, dtype=np.float32)

    def reset(self, seeds: np.ndarray, tasks: Sequence[RandomMDP]) -> np.ndarray:
        self.seeds, self.time = seeds, 0
        both = [tables(task) for task in tasks]
        self.cumulative = np.stack([transitions for transitions, _ in both]).cumsum(-1)  # [N, S, A, S]
        self.mean = np.stack([mean for _, mean in both])
        self.state = np.zeros(self.num, np.int64)
        return self.onehot[self.state]

    def step(self, action: np.ndarray) -> Outcome:
        action = action.astype(np.int64)
        radius, angle = (uniform(self.seeds, self.time, channel) for channel in (1, 2))
        noise = np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * np.pi * angle)  # Box and Muller's normal
        reward = self.mean[self.rows, self.state, action] + noise
        ladder = self.cumulative[self.rows, self.state, action]
        drawn = (uniform(self.seeds, self.time)[:, None] >= ladder).sum(1)
        self.state = np.minimum(drawn, self.config.states - 1)  # a sum of probabilities may round to just below 1
        self.time += 1
        nothing = np.zeros(self.num, bool)
        return Outcome(self.onehot[self.state], reward, nothing, nothing)


def optimal(task: RandomMDP, max_episode_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The best action [T, S] and the value [T + 1, S] of each state with so many steps done (backward induction), T the episode."""
    transitions, mean = tables(task)
    values, actions = (
        np.zeros((max_episode_steps + 1, task.states)),
        np.zeros((max_episode_steps, task.states), np.int64),
    )
    for t in reversed(range(max_episode_steps)):
        q = mean + transitions @ values[t + 1]
        actions[t], values[t] = q.argmax(1), q.max(1)
    return actions, values


def family(config: Config) -> TaskFamily:
    """MDPs by their seeds."""

    def draw_task(generator: np.random.Generator) -> RandomMDP:
        return RandomMDP(int(generator.integers(2**31)), config.states, config.actions)

    def features(task: RandomMDP) -> np.ndarray:
        transitions, mean = tables(task)
        return np.concatenate([transitions.ravel(), mean.ravel()]).astype(np.float32)

    def expert(env: gymnasium.Env, generator: np.random.Generator) -> Expert:
        ahead = iter(optimal(env.unwrapped.task, config.max_episode_steps)[0])  # type: ignore[attr-defined]
        return lambda observation: next(ahead)[int(observation.argmax())]

    generator = np.random.default_rng(config.tasks_seed)
    drawn = [draw_task(generator) for _ in range(config.train_tasks + config.test_tasks)]
    space = Box(0.0, 1.0, (config.states,), np.float32)
    return TaskFamily(
        name="tabular",
        version=1,
        definition=(
            f"{config.states} states, {config.actions} actions; transitions ~ Dirichlet(1), rewards ~ N(m, 1) with m ~ N(1, 1) for "
            f"each state and action, each task an independent draw; "
            f"{config.max_episode_steps} steps from state 0. Seen: the state, "
            "one-hot. No notion of success. After RL2 (Duan et al. 2016)."
        ),
        max_episode_steps=config.max_episode_steps,
        reports_success=False,
        splits={
            "train": tuple(drawn[: config.train_tasks]),
            "validation": draw_tasks(draw_task, validation_generator(config.tasks_seed), config.validation_tasks),
            "test": tuple(drawn[config.train_tasks :]),
        },
        make_env=lambda: NativeEnv(TabularMDPs(config, 1), drawn[0], space),
        draw_task=draw_task,
        features=features,
        native=lambda num: TabularMDPs(config, num),
        expert=expert,
    )
