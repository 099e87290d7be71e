"""What acts without having learned a task: random actions, a skill prior, and an actor that does not adapt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skillmeta.nn.distributions import SkillPrior
from skillmeta.types import Actor, Episodes, Parts, Step


class WithoutBelief:
    """An actor that learns nothing of a task: the parts of an actor that are about the belief."""

    rollouts, exploration_episodes = 1, 0

    def begin(self, num: int, generator: torch.Generator) -> Any:
        return None

    def observe(self, belief: Any, action: Tensor, step: Step) -> Any:
        return belief

    def adapt(self, belief: Any, episodes: Episodes, generator: torch.Generator) -> Any:
        return belief

    def parts(self) -> Parts:
        return {}


class RandomActor(WithoutBelief):
    """Uniform actions in [-bound, bound]; with discrete actions the largest of uniform numbers is a uniform choice."""

    def __init__(self, action_bound: np.ndarray):
        self.bound = torch.from_numpy(np.asarray(action_bound, np.float32))

    def act(self, observation: Tensor, belief: Any, generator: torch.Generator, explore: bool) -> tuple[Tensor, Any]:
        uniform = torch.rand(len(observation), len(self.bound), generator=generator)
        return self.bound * (2 * uniform - 1), belief


class PriorActor(WithoutBelief):
    """Samples every action from a prior p(z|s)."""

    def __init__(self, prior: Callable[[Tensor], SkillPrior]):
        self.prior = prior

    def act(self, observation: Tensor, belief: Any, generator: torch.Generator, explore: bool) -> tuple[Tensor, Any]:
        prior = self.prior(observation)
        return prior.rsample(torch.randn(prior.shape, generator=generator)), belief


def always_samples(actor: Actor[Any]) -> bool:
    """Whether an actor samples its actions in exploitation too: its `always_samples`, where it has one."""
    return bool(getattr(actor, "always_samples", False))


class NoAdaptation:
    """An actor whose belief is made anew for every episode and does not change in it: what it knew before it met the task."""

    def __init__(self, actor: Actor[Any]):
        self.adaptive, self.rollouts = actor, actor.rollouts
        self.exploration_episodes = actor.exploration_episodes
        self.always_samples = always_samples(actor)

    def begin(self, num: int, generator: torch.Generator) -> Any:
        return num, self.adaptive.begin(num, generator)

    def act(self, observation: Tensor, belief: Any, generator: torch.Generator, explore: bool) -> tuple[Tensor, Any]:
        return self.adaptive.act(observation, belief[1], generator, explore)[0], belief

    def observe(self, belief: Any, action: Tensor, step: Step) -> Any:
        return belief

    def adapt(self, belief: Any, episodes: Episodes, generator: torch.Generator) -> Any:
        return self.begin(belief[0], generator)

    def parts(self) -> Parts:
        return self.adaptive.parts()
