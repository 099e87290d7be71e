"""ProMP: MAML's credit for what was done before the inner step, by first-order steps of a clipped objective.

Rothfuss et al. 2019 (arXiv:1810.06784). The inner loss is pi / pi_old times the advantage, whose second derivative has low
variance; the outer one PPO's, plus a penalty on how far the policy before the step has moved,

    sum_i  -min(r_i A_i, clip(r_i) A_i) on episodes after + inner_kl_coefficient KL(pi_old || pi) on episodes before,

and a few full-batch steps of Adam are made on the same episodes: no Hessian products, no line search. With skills the policy starts
as the skill prior, and both losses have `prior_coefficient` times KL(pi || prior).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from skillmeta.nn.optimizers import adam
from skillmeta.objectives.inner_step import (
    Actor,
    Parameters,
    Samples,
    Shape,
    chunks,
    inner_step,
    leaves,
    make_actor,
    mean_of,
    policy_of,
    prior_divergence,
    stack,
)
from skillmeta.objectives.on_policy import clipped_surrogate
from skillmeta.run.parts import Counts
from skillmeta.seeds import Seeds
from skillmeta.types import EnvSpec, Metrics, Parts, Skills, Source


@dataclass(frozen=True)
class Config:
    """The paper's numbers; 20 tasks as in 2-D navigation."""

    FORMER_KEYS: ClassVar[dict[str, str]] = {
        "inner_rate": "is now called inner_lr",
        "inner_kl_weight": "is now called inner_kl_coefficient",
    }

    tasks: int = 20
    rollouts: int = 20
    inner_lr: float = 0.1
    halve_at_test: bool = True
    discount: float = 0.99
    prior_coefficient: float | None = None  # of KL(pi || skill prior); null: 0.1 with skills, 0 without
    learning_rate: float = 1e-3
    steps: int = 5  # of Adam, on the same episodes
    clip: float = 0.3
    inner_kl_coefficient: float = 5e-4
    hidden: int = 64
    depth: int = 2
    tasks_at_once: int = 1

    def __post_init__(self) -> None:
        for name in (
            "tasks",
            "rollouts",
            "inner_lr",
            "learning_rate",
            "steps",
            "clip",
            "hidden",
            "depth",
            "tasks_at_once",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not 0 <= self.discount <= 1 or min(self.inner_kl_coefficient, self.prior_coefficient or 0) < 0:
            raise ValueError(
                "discount must lie between 0 and 1; inner_kl_coefficient and prior_coefficient must not be below 0"
            )


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
    was: Any = policy_of(shape, stack(old, tasks), before)
    moved = mean_of(was.kl(policy_of(shape, stacked, before)), before.valid)
    return outer + config.inner_kl_coefficient * moved


class Learner:
    """The learner. Arguments as for SAC's (`skillmeta.algorithms.sac.Learner`)."""

    def __init__(self, config: Config, spec: EnvSpec, skills: Skills | None, seeds: Seeds):
        self.config, self.counts = config, Counts()
        self.acting = make_actor(config, spec, skills, seeds.stream("weights").torch(), ratio=True)
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
            for part in chunks(config.tasks, config.tasks_at_once):
                rows = before.tasks(part), after.tasks(part)
                each = loss(actor.shape, self.parameters, old, *rows, config, actor.prior_coefficient)
                value = each.sum() / config.tasks
                value.backward()
                total += float(value.detach())
            self.optimizer.step()
        self.counts.updates += config.steps
        return {"outer/loss": total}
