"""Reptile: move the starting point towards where a few inner steps lead. Nichol, Achiam, Schulman 2018 (arXiv:1803.02999).

    theta <- theta + step mean_i (theta_i after k steps - theta),   k of 2 or more: with one it is joint training

With skills the policy starts as the skill prior, and the loss of the inner steps has `prior_coefficient` times KL(pi || prior). Its
authors report that it did not work well in reinforcement learning; it is here to be compared with.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from skillmeta.collect.meta import Batch, MetaCollector
from skillmeta.errors import ConfigError
from skillmeta.nn.networks import identity
from skillmeta.objectives.inner_step import Actor, Parameters, Shape, prior_coefficient_of, stack
from skillmeta.objectives.regularizer import Prior
from skillmeta.seeds import Seeds


@dataclass(frozen=True)
class Config:
    """Two inner steps, and half of the way to where they lead."""

    tasks: int = 20
    rollouts: int = 20
    inner_rate: float = 0.1
    inner_steps: int = 2
    step: float = 0.5
    halve_at_test: bool = True
    discount: float = 0.99
    prior_coefficient: float | None = None  # of KL(pi || skill prior); null: 0.1 with skills, 0 without
    hidden: int = 64
    depth: int = 2

    def __post_init__(self) -> None:
        for name in ("tasks", "rollouts", "inner_rate", "inner_steps", "step", "hidden", "depth"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not 0 <= self.discount <= 1 or (self.prior_coefficient or 0) < 0:
            raise ValueError("discount must lie between 0 and 1, and prior_coefficient must not be below 0")


def towards(start: Parameters, adapted: Parameters, step: float) -> Parameters:
    """start + step (mean over tasks of adapted [M, ...] - start)."""
    return tuple(p + step * (a.mean(0) - p) for p, a in zip(start, adapted, strict=True))


class Agent:
    """The learner. Arguments as for the other meta-learners."""

    def __init__(
        self,
        config: Config,
        observation_dim: int,
        action_bound: np.ndarray,
        discrete: bool = False,
        prior: Prior | None = None,
        normalize: Any = None,
        *,
        seeds: Seeds,
    ):
        if discrete and prior is not None:
            raise ConfigError("skills are continuous; this family's actions are choices")
        bound = torch.from_numpy(np.asarray(action_bound, np.float32))
        shape = Shape(observation_dim, len(bound), config.hidden, config.depth, discrete)
        start = shape.start(seeds.stream("weights").torch(), zero_output=prior is not None)
        self.config, self.updates = config, 0
        self.acting = Actor(
            shape, start, config.rollouts, config.inner_rate, False, config.discount, config.halve_at_test,
            normalize or identity, prior, prior_coefficient_of(config.prior_coefficient, prior), bound,
        )  # fmt: skip

    def actor(self) -> Actor:
        return copy.deepcopy(self.acting)

    # -- learning --------------------------------------------------------------------------------------------------------
    def iterate(self, collect: MetaCollector) -> tuple[Batch, dict[str, float]]:
        """k inner steps in each of M tasks, on fresh episodes each, at the full rate; then a step towards their mean."""
        config, start = self.config, self.acting.parameters
        batch = collect.trials(replace(self.acting, halve=False), config.tasks, config.inner_steps)
        adapted = stack(start, config.tasks)
        for k in range(config.inner_steps):
            samples = self.acting.samples(batch.trials.episodes(k), adapted)
            adapted = self.acting.inner_step(adapted, samples, config.inner_rate)
        self.acting = replace(self.acting, parameters=towards(start, adapted, config.step))
        self.updates += 1
        way = sum(float(((a.mean(0) - p) ** 2).sum()) for p, a in zip(start, adapted, strict=True)) ** 0.5
        return batch, {"outer/way": way}

    # -- on disk --------------------------------------------------------------------------------------------------------
    def acting_state(self) -> dict[str, Any]:
        return {"parameters": {str(i): p for i, p in enumerate(self.acting.parameters)}}

    def load_acting(self, state: dict[str, Any]) -> None:
        """Raises RuntimeError if the parameters have other shapes."""
        loaded = tuple(state["parameters"][str(i)] for i in range(len(self.acting.parameters)))
        for new, own in zip(loaded, self.acting.parameters, strict=True):
            if new.shape != own.shape:
                raise RuntimeError(f"a parameter is {tuple(new.shape)}, not {tuple(own.shape)}")
        self.acting = replace(self.acting, parameters=loaded)

    def state(self) -> dict[str, Any]:
        return {**self.acting_state(), "updates": self.updates}

    def restore(self, state: dict[str, Any]) -> None:
        self.load_acting(state)
        self.updates = state["updates"]
