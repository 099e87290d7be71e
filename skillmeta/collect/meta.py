"""Trials for a meta-learner: tasks drawn, episodes run, the bill kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from skillmeta.collect.workers import Workers
from skillmeta.errors import ConfigError
from skillmeta.seeds import Seeds
from skillmeta.types import Agent, Episodes, Trials


@dataclass
class Batch:
    """Trials and the tasks that they were in."""

    trials: Trials  # [tasks * rollouts, K, T]
    tasks: tuple[object, ...]


class MetaCollector:
    """Draws tasks and runs trials in them. What the n-th call gives is a function of (seeds, n) and the agent: nothing of the
    simulators has to be saved for a run to continue as if it had not been interrupted.

    Args:
        workers: where the trials are run.
        draw: a fresh training task.
        seeds: of tasks, resets and the agent's draws.
        budget: primitive environment steps.
        shaped_reward: the family's, where it has one: see `TaskFamily`.
    """

    def __init__(
        self,
        workers: Workers,
        draw: Callable[[np.random.Generator], object],
        seeds: Seeds,
        budget: int,
        shaped_reward: Callable[[object, Episodes], np.ndarray] | None = None,
    ):
        self.workers, self.draw, self.seeds, self.budget = workers, draw, seeds, budget
        self.shaped = shaped_reward
        self.env_steps = self.episodes = self.calls = 0

    @property
    def spent(self) -> bool:
        return self.env_steps >= self.budget

    def trials(self, agent: Agent, tasks: int, episodes: int) -> Batch:
        """`episodes` exploring episodes in each of so many freshly drawn tasks, `agent.rollouts` at a time."""
        generator = self.seeds.stream("tasks", self.calls).numpy()
        drawn = tuple(self.draw(generator) for _ in range(tasks))
        return self.in_tasks(agent, drawn, episodes)

    def in_tasks(self, agent: Agent, tasks: tuple[object, ...], episodes: int) -> Batch:
        """The same in given tasks."""
        num = len(tasks) * agent.rollouts
        resets = self.seeds.stream("resets", self.calls).integers(num * episodes).reshape(num, episodes)
        trials = self.workers.trials(agent, tasks, resets, self.seeds.stream("acting", self.calls))
        self.calls += 1
        self.env_steps += int(trials.lengths.sum())
        self.episodes += trials.lengths.size
        return Batch(trials, tasks)

    def shaped_reward(self, task: object, episodes: Episodes) -> np.ndarray:
        """Rewards [N, T] for training alone. Raises ConfigError for a family that has none."""
        if self.shaped is None:
            raise ConfigError("shaped_reward: this family has none; leave it out")
        return self.shaped(task, episodes)

    def state(self) -> dict[str, int]:
        return {"env_steps": self.env_steps, "episodes": self.episodes, "calls": self.calls}

    def restore(self, state: dict[str, int]) -> None:
        self.env_steps, self.episodes, self.calls = state["env_steps"], state["episodes"], state["calls"]
