"""Reptile: move the starting point towards where a few inner steps lead. Nichol, Achiam, Schulman 2018 (arXiv:1803.02999).

    theta <- theta + outer_lr mean_i (theta_i after k steps - theta),   k of 2 or more: with one it is joint training

With skills the policy starts as the skill prior, and the loss of the inner steps has `prior_coefficient` times KL(pi || prior). Its
authors report that it did not work well in reinforcement learning; it is here to be compared with.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import ClassVar

from skillmeta.config import NonNegativeFloat, PositiveFloat, PositiveInt, Share, checked
from skillmeta.objectives.inner_step import Actor, Parameters, held_near, make_actor, stack
from skillmeta.run.parts import Counts
from skillmeta.seeds import Seeds
from skillmeta.types import EnvSpec, Metrics, Parts, Skills, Source


@checked
class Config:
    """Two inner steps, and half of the way to where they lead."""

    FORMER_KEYS: ClassVar[dict[str, str]] = {
        "inner_rate": "inner_lr",
        "step": "outer_lr",
    }

    tasks: PositiveInt = 20  # M
    rollouts: PositiveInt = 20  # episodes of each task before each inner step
    inner_lr: PositiveFloat = 0.1  # of the inner steps
    inner_steps: PositiveInt = 2  # k
    outer_lr: PositiveFloat = 0.5  # of the way to the mean of the adapted parameters
    halve_at_test: bool = True  # the inner rate after the first step
    discount: Share = 0.99  # of a decision
    prior_coefficient: NonNegativeFloat | None = None  # of KL(pi || skill prior); null: 0.1 with skills, 0 without
    hidden: PositiveInt = 64  # units of a layer
    depth: PositiveInt = 2  # hidden layers

    @property
    def iteration_episodes(self) -> tuple[int, int]:
        """Episodes of the first iteration and of a later one."""
        return (self.inner_steps * self.tasks * self.rollouts,) * 2


def towards(start: Parameters, adapted: Parameters, step: float) -> Parameters:
    """start + step (mean over tasks of adapted [M, ...] - start)."""
    return tuple(p + step * (a.mean(0) - p) for p, a in zip(start, adapted, strict=True))


class Learner:
    """The learner. Arguments as for SAC's (`skillmeta.algorithms.sac.Learner`)."""

    def __init__(self, config: Config, spec: EnvSpec, skills: Skills | None, seeds: Seeds):
        self.config, self.counts = config, Counts()
        self.acting = make_actor(config, spec, skills, seeds.stream("weights").torch())

    @property
    def updates(self) -> int:
        return self.counts.updates

    def actor(self) -> Actor:
        return copy.deepcopy(self.acting)

    def parts(self) -> Parts:
        return {"parameters": self.acting.parameters, "counts": self.counts}

    # -- learning --------------------------------------------------------------------------------------------------------
    def iterate(self, source: Source) -> Metrics:
        """k inner steps in each of M tasks, on fresh episodes each, at the full rate; then a step towards their mean."""
        config, start = self.config, self.acting.parameters
        trials = source.trials(replace(self.acting, halve=False), config.tasks, config.inner_steps).trials
        adapted = stack(start, config.tasks)
        for k in range(config.inner_steps):
            samples = self.acting.samples(trials.episodes(k), adapted)
            adapted = self.acting.inner_step(adapted, samples, config.inner_lr)
        norm = sum(float(((a.mean(0) - p) ** 2).sum()) for p, a in zip(start, adapted, strict=True)) ** 0.5
        for parameter, new in zip(start, towards(start, adapted, config.outer_lr), strict=True):
            parameter.copy_(new)
        self.counts.updates += 1
        return {"outer/step_norm": norm}


def describe(config: Config, acts_in: str, prior: str | None) -> str:
    """A config as a phrase for pages; arguments as for `skillmeta.algorithms.sac.describe`."""
    steps = f"{config.inner_steps} gradient steps adapt all parameters"
    return f"Reptile that acts in {acts_in}; {steps}{held_near(config.prior_coefficient, prior)}"
