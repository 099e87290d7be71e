"""Bandits whose tasks have different optima, solved in closed form: one decision, then the episode is cut off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from skillmeta.collect.trials import trial
from skillmeta.types import Batch, EnvSpec, Step, Trials


class Bandits:
    """N bandits in lockstep. Observation: 1. A task is the best action: a number g with reward -(a - g)^2, or with
    `discrete` an arm out of two that pays 1 where the other pays 0."""

    def __init__(self, num: int, discrete: bool = False):
        self.num, self.spec = num, EnvSpec(1, np.ones(2 if discrete else 1, np.float32), discrete)

    def reset(self, seeds: Sequence[int], tasks: Sequence[Any] | None = None) -> np.ndarray:
        assert tasks is not None
        self.tasks = np.array(tasks)
        return np.ones((self.num, 1), np.float32)

    def step(self, action: np.ndarray, limit: int | None = None) -> Step:
        if self.spec.discrete:
            reward = action[np.arange(self.num), self.tasks]
        else:
            reward = -((action[:, 0] - self.tasks) ** 2)
        yes, no = np.ones(self.num, bool), np.zeros(self.num, bool)
        return Step(np.ones((self.num, 1), np.float32), reward.astype(np.float32), no, yes, yes.astype(np.int64), no)

    def close(self) -> None:
        pass


class BanditSource:
    """Stands for `OnlineSource`: the given tasks in turn, as many as are asked for."""

    def __init__(self, tasks: Sequence[Any], discrete: bool = False):
        self.tasks, self.discrete, self.calls = tasks, discrete, 0
        self.last: Trials | None = None

    def trials(self, actor: Any, tasks: int, episodes: int) -> Batch:
        drawn = tuple(self.tasks[i % len(self.tasks)] for i in range(tasks))
        self.calls += 1
        self.last = run(actor, drawn, episodes, self.calls, self.discrete)
        return Batch(self.last, drawn)


def run(actor: Any, tasks: Sequence[Any], episodes: int, seed: int, discrete: bool = False) -> Trials:
    """`episodes` rounds of `actor.rollouts` episodes in each task, with adaptation between rounds."""
    rows = [task for task in tasks for _ in range(actor.rollouts)]
    generator = torch.Generator().manual_seed(seed)
    return trial(actor, Bandits(len(rows), discrete), rows, np.zeros((len(rows), episodes), int), generator)[0]


def returns_by_round(actor: Any, tasks: Sequence[Any], rounds: int, discrete: bool = False) -> list[float]:
    """Mean return before the first inner step, after it, ...; over 20 trials of each task."""
    return run(actor, list(tasks) * 20, rounds, 10**6, discrete).returns.mean(0).tolist()
