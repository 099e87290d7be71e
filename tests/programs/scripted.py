"""A learner whose behaviour is stated by its config, and which records what it was trained on: for finetune and meta_train."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skillmeta.seeds import Seeds
from skillmeta.types import Episodes, Step

PER_EPISODE = 0.125  # what an action grows by for every episode that the belief has seen


@dataclass(frozen=True)
class Config:
    action: float = 0.0
    follow: bool = False  # act by the last number of the observation: the task's feature where the task is seen
    adapt: bool = False  # add PER_EPISODE for every episode of the trial before
    noise: float = 0.0  # of exploring actions, at most
    exploration_episodes: int = 0
    tasks: int = 2  # of an iteration of meta-training, two episodes each


@dataclass
class Actor:
    """Its belief: episodes seen and the last reward, [N, 2]."""

    config: Config
    rewards: Tensor  # [2]: their sum in training and how many
    weight: Tensor  # [1] drawn from the stream of initial parameters
    rollouts: int = 1

    @property
    def exploration_episodes(self) -> int:
        return self.config.exploration_episodes

    def begin(self, num: int, generator: torch.Generator) -> Any:
        return torch.zeros(num, 2)

    def act(self, observation: Tensor, belief: Tensor, generator: torch.Generator, explore: bool) -> tuple[Tensor, Any]:
        action = observation[:, -1:] if self.config.follow else torch.full((len(observation), 1), self.config.action)
        if self.config.adapt:
            action = action + PER_EPISODE * belief[:, :1]
        if explore:
            action = action + self.config.noise * torch.rand(action.shape, generator=generator)
        return action.clone(), belief

    def observe(self, belief: Tensor, action: Tensor, step: Step) -> Any:
        return torch.stack([belief[:, 0], torch.from_numpy(step.reward)], 1)

    def adapt(self, belief: Tensor, episodes: Episodes, generator: torch.Generator) -> Any:
        return belief + torch.tensor([1.0, 0.0])


class Agent(Actor):
    """The learner."""

    def __init__(
        self,
        config: Config,
        observation_dim: int,
        action_bound: Any,
        discrete: bool = False,
        prior: Any = None,
        normalize: Any = None,
        *,
        seeds: Seeds,
    ):
        super().__init__(config, torch.zeros(2), torch.rand(1, generator=seeds.stream("weights").torch()))
        self.updates = 0

    def actor(self) -> Actor:
        return Actor(self.config, self.rewards.clone(), self.weight.clone(), self.rollouts)

    def iterate(self, collect: Any) -> tuple[Any, dict[str, float]]:
        """An episode of `finetune`, or two in each of some tasks of `meta_train`; rewards are recorded."""
        done: Any
        if hasattr(collect, "trials"):
            done = collect.trials(self.actor(), self.config.tasks, 2)
            rewards = done.trials.reward
        else:
            done = collect.episode(self)
            rewards = done.reward
        self.rewards = self.rewards + torch.tensor([float(rewards.sum()), float(rewards.size)])
        self.updates += 1
        return done, {"mean_reward": float(rewards.mean())}

    def acting_state(self) -> dict[str, Any]:
        return {"rewards": self.rewards, "weight": self.weight}

    def load_acting(self, state: dict[str, Any]) -> None:
        self.rewards, self.weight = copy.deepcopy(state["rewards"]), copy.deepcopy(state["weight"])

    def state(self) -> dict[str, Any]:
        return {**self.acting_state(), "updates": self.updates}

    def restore(self, state: dict[str, Any]) -> None:
        self.load_acting(state)
        self.updates = state["updates"]


def scripted(**options: Any) -> dict[str, Any]:
    """The `algorithm` of a config."""
    return {"name": "tests.programs.scripted", **options}
