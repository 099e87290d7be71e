"""A learner whose behaviour is stated by its config, and which records what it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skillmeta.run.parts import Counts
from skillmeta.seeds import Seeds
from skillmeta.types import EnvSpec, Episodes, Metrics, Parts, Source, Step

PER_EPISODE = 0.125  # what an action grows by for every episode that the belief has seen


@dataclass(frozen=True)
class Config:
    action: float = 0.0
    follow: bool = False  # act by the last number of the observation: the task's feature where the task is seen
    adapt: bool = False  # add PER_EPISODE for every episode of the trial before
    noise: float = 0.0  # of exploring actions, at most
    exploration_episodes: int = 0
    tasks: int = 0  # of an iteration, two episodes each; 0: one episode in each environment


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

    def parts(self) -> Parts:
        return {"rewards": self.rewards, "weight": self.weight}


class Learner:
    """Records the rewards of what it collects."""

    def __init__(self, config: Config, spec: EnvSpec, skills: Any, seeds: Seeds):
        self.acting = Actor(config, torch.zeros(2), torch.rand(1, generator=seeds.stream("weights").torch()))
        self.config, self.counts = config, Counts()

    @property
    def updates(self) -> int:
        return self.counts.updates

    def actor(self) -> Actor:
        return Actor(self.config, self.acting.rewards.clone(), self.acting.weight.clone())

    def iterate(self, source: Source) -> Metrics:
        if self.config.tasks:
            rewards = source.trials(self.actor(), self.config.tasks, 2).trials.reward
        else:
            rewards = source.episode(self.actor()).reward
        self.acting.rewards += torch.tensor([float(rewards.sum()), float(rewards.size)])
        self.counts.updates += 1
        return {"mean_reward": float(rewards.mean())}

    def parts(self) -> Parts:
        return {"acting": self.acting.parts(), "counts": self.counts}


def scripted(**options: Any) -> dict[str, Any]:
    """The `algorithm` of a config."""
    return {"name": "tests.programs.scripted", **options}
