"""What the oracles of algorithms that adapt on decisions share: decisions, a skill prior, and a problem whose solution is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skillmeta.collect.source import Budget, OnlineSource
from skillmeta.collect.trials import trial
from skillmeta.collect.workers import Workers
from skillmeta.data.replay import Transitions
from skillmeta.nn.distributions import Gaussian
from skillmeta.seeds import Seeds
from skillmeta.types import EnvSpec, Step, Trials

S, A = 3, 2
BOUND = torch.tensor([1.0, 0.5])


def base(observation: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation of the skill prior."""
    return 0.4 * observation[..., :A], 0.3 * observation[..., 1:] - 1


def prior(observation: Tensor) -> Gaussian:
    return Gaussian(*base(observation))


def decisions(generator: torch.Generator, *lead: int) -> Transitions:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*lead, *shape, generator=generator)

    action = torch.clip(0.4 * normal(A), -BOUND, BOUND)
    return Transitions(normal(S), action, normal(), normal(S), (normal() > 1).float())


def disturb(*modules: nn.Module) -> None:
    """Slow copies become unlike their networks, and either critic is the smaller one now and then."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in (p for module in modules for p in module.parameters()):
            p += 0.3 * torch.randn(p.shape, generator=generator)


class Signs:
    """The task is a number, which nothing shows but the reward: their product with the action. Episodes of four decisions."""

    def __init__(self, num: int):
        self.num, self.spec = num, EnvSpec(1, np.ones(1, np.float32))

    def reset(self, seeds, tasks):
        self.tasks, self.t = np.array(tasks, np.float32), 0
        return np.zeros((self.num, 1), np.float32)

    def step(self, action, limit=None):
        self.t += 1
        last, no = np.full(self.num, self.t == 4), np.zeros(self.num, bool)
        reward = (np.clip(action, -1, 1)[:, 0] * self.tasks).astype(np.float32)
        return Step(np.zeros((self.num, 1), np.float32), reward, no, last, np.ones(self.num, np.int64), no)

    def close(self):
        pass


def train(learner: Any, draw: Callable[[np.random.Generator], float], iterations: int, num: int) -> None:
    """Some iterations in tasks of `Signs`, N environments at once."""
    with Workers(Signs, envs_per_batch=num) as workers:
        source = OnlineSource(workers, draw, Seeds(0), Budget(10**6))
        for _ in range(iterations):
            learner.iterate(source)


def tried(actor: Any, tasks: Sequence[float]) -> Trials:
    """An episode to explore and one after it in each task."""
    seeds = np.zeros((len(tasks), 2), np.int64)
    return trial(actor, Signs(len(tasks)), tasks, seeds, torch.Generator().manual_seed(0), [True, False])[0]
