"""ProMP: MAML's credit for what was done before the inner step, by first-order steps of a clipped objective.

Rothfuss et al. 2019 (arXiv:1810.06784). The inner loss is pi / pi_old times the advantage, whose second derivative has low
variance; the outer one PPO's, plus a penalty on how far the policy before the step has moved,

    sum_i  -min(r_i A_i, clip(r_i) A_i) on episodes after + inner_kl_coefficient KL(pi_old || pi) on episodes before,

and a few full-batch steps of Adam are made on the same episodes: no Hessian products, no line search. With skills the policy starts
as the skill prior, and both losses have `prior_coefficient` times KL(pi || prior).
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from skillmeta.config import NonNegativeFloat, PositiveFloat, PositiveInt, Share, checked
from skillmeta.nn.distributions import kl_divergence
from skillmeta.nn.optimizers import adam
from skillmeta.objectives.inner_step import (
    Actor,
    Parameters,
    Samples,
    Shape,
    held_near,
    inner_step,
    leaves,
    make_actor,
    mean_of,
    policy_of,
    prior_divergence,
    slices,
    stack,
)
from skillmeta.objectives.on_policy import clipped_surrogate
from skillmeta.run.parts import Counts
from skillmeta.seeds import Seeds
from skillmeta.types import EnvSpec, Metrics, Parts, Skills, Source


@checked
class Config:
    """The paper's numbers; 20 tasks as in 2-D navigation."""

    FORMER_KEYS: ClassVar[dict[str, str]] = {
        "inner_rate": "inner_lr",
        "inner_kl_weight": "inner_kl_coefficient",
    }

    tasks: PositiveInt = 20  # M
    rollouts: PositiveInt = 20  # episodes of each task before the inner step, and after it
    inner_lr: PositiveFloat = 0.1  # of the inner step
    halve_at_test: bool = True  # the inner rate after the first step
    discount: Share = 0.99  # of a decision
    prior_coefficient: NonNegativeFloat | None = None  # of KL(pi || skill prior); null: 0.1 with skills, 0 without
    learning_rate: PositiveFloat = 1e-3  # of the outer steps
    steps: PositiveInt = 5  # of Adam, on the same episodes
    clip: PositiveFloat = 0.3  # of the ratio pi / pi_old
    inner_kl_coefficient: NonNegativeFloat = 5e-4  # of KL(pi_old || pi) before the inner step
    hidden: PositiveInt = 64  # units of a layer
    depth: PositiveInt = 2  # hidden layers
    tasks_at_once: PositiveInt = 1  # in one graph

    @property
    def iteration_episodes(self) -> tuple[int, int]:
        """Episodes of the first iteration and of a later one."""
        return (2 * self.tasks * self.rollouts,) * 2


def loss(
    shape: Shape,
    parameters: Parameters,
    old: Parameters,
    before: Samples,
    after: Samples,
    config: Config,
    prior_coefficient: float = 0.0,
) -> Tensor:
    """Each task's loss, [M]; `old` are the parameters that the episodes before were collected with."""
    tasks = len(before.valid)
    stacked = stack(parameters, tasks)
    adapted = inner_step(shape, stacked, before, config.inner_lr, True, prior_coefficient, create_graph=True)
    acting = policy_of(shape, adapted, after)
    ratio = torch.exp(acting.log_prob(after.action) - after.log_prob)
    outer = -mean_of(clipped_surrogate(ratio, after.advantage, config.clip), after.valid)
    if prior_coefficient:
        outer = outer + prior_coefficient * prior_divergence(acting, after)
    old_policy, policy = (policy_of(shape, own, before) for own in (stack(old, tasks), stacked))
    moved = mean_of(kl_divergence(old_policy, policy), before.valid)
    return outer + config.inner_kl_coefficient * moved


class Learner:
    """The learner. Arguments as for SAC's (`skillmeta.algorithms.sac.Learner`)."""

    def __init__(self, config: Config, spec: EnvSpec, skills: Skills | None, seeds: Seeds):
        self.config, self.counts = config, Counts()
        self.acting = make_actor(config, spec, skills, seeds.stream("weights").torch())
        self.parameters = leaves(self.acting.parameters)
        self.optimizer = adam(self.parameters, config.learning_rate)

    @property
    def updates(self) -> int:
        return self.counts.updates

    def actor(self) -> Actor:
        return replace(copy.copy(self.acting), parameters=tuple(p.detach().clone() for p in self.parameters))

    def parts(self) -> Parts:
        return {"parameters": self.parameters, "optimizer": self.optimizer, "counts": self.counts}

    # -- learning --------------------------------------------------------------------------------------------------------
    def iterate(self, source: Source) -> Metrics:
        """Episodes before and after the inner step in M tasks, and a few steps of Adam on them."""
        config = self.config
        actor = self.actor()
        trials = source.trials(actor, config.tasks, 2).trials
        old = actor.parameters
        before = actor.samples(trials.episodes(0), stack(old, config.tasks))
        adapted = actor.inner_step(stack(old, config.tasks), before, config.inner_lr)
        after = actor.samples(trials.episodes(1), adapted)
        total = 0.0
        for _ in range(config.steps):
            self.optimizer.zero_grad()
            total = 0.0
            for part in slices(config.tasks, config.tasks_at_once):
                rows = before.tasks(part), after.tasks(part)
                each = loss(actor.shape, self.parameters, old, *rows, config, actor.prior_coefficient)
                value = each.sum() / config.tasks
                torch.autograd.backward(value)
                total += float(value.detach())
            self.optimizer.step()
        self.counts.updates += config.steps
        return {"outer/loss": total}


def describe(config: Config, acts_in: str, prior: str | None) -> str:
    """A config as a phrase for pages; arguments as for `skillmeta.algorithms.sac.describe`."""
    return f"ProMP that acts in {acts_in}; a gradient step adapts all parameters{held_near(config.prior_coefficient, prior)}"
