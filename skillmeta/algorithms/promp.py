"""ProMP: MAML's credit for what was done before the inner step, by first-order steps of a clipped objective.

Rothfuss et al. 2019 (arXiv:1810.06784). The inner loss is pi / pi_old times the advantage, whose second derivative has low
variance; the outer one PPO's, plus a penalty on how far the policy before the step has moved,

    sum_i  -min(r_i A_i, clip(r_i) A_i) on episodes after + inner_kl_weight KL(pi_old || pi) on episodes before,

and a few full-batch steps of Adam are made on the same episodes: no Hessian products, no line search. With skills the policy starts
as the skill prior, and both losses have `prior_coefficient` times KL(pi || prior).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skillmeta.collect.meta import Batch, MetaCollector
from skillmeta.errors import ConfigError
from skillmeta.nn.networks import identity
from skillmeta.nn.optimizers import adam, optimizer_state, restore_optimizer
from skillmeta.objectives.inner_step import (
    Actor,
    Parameters,
    Samples,
    Shape,
    chunks,
    inner_step,
    leaves,
    mean_of,
    policy_of,
    prior_coefficient_of,
    prior_divergence,
    stack,
)
from skillmeta.objectives.on_policy import clipped_surrogate
from skillmeta.objectives.regularizer import Prior
from skillmeta.seeds import Seeds


@dataclass(frozen=True)
class Config:
    """The paper's numbers; 20 tasks as in 2-D navigation."""

    tasks: int = 20
    rollouts: int = 20
    inner_rate: float = 0.1
    halve_at_test: bool = True
    discount: float = 0.99
    prior_coefficient: float | None = None  # of KL(pi || skill prior); null: 0.1 with skills, 0 without
    learning_rate: float = 1e-3
    steps: int = 5  # of Adam, on the same episodes
    clip: float = 0.3
    inner_kl_weight: float = 5e-4
    hidden: int = 64
    depth: int = 2
    tasks_at_once: int = 1

    def __post_init__(self) -> None:
        for name in (
            "tasks",
            "rollouts",
            "inner_rate",
            "learning_rate",
            "steps",
            "clip",
            "hidden",
            "depth",
            "tasks_at_once",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not 0 <= self.discount <= 1 or min(self.inner_kl_weight, self.prior_coefficient or 0) < 0:
            raise ValueError(
                "discount must lie between 0 and 1; inner_kl_weight and prior_coefficient must not be below 0"
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
    adapted = inner_step(shape, stacked, before, config.inner_rate, True, prior_coefficient, create_graph=True)
    acting = policy_of(shape, adapted, after)
    ratio = torch.exp(acting.log_prob(after.action) - after.log_prob)
    outer = -mean_of(clipped_surrogate(ratio, after.advantage, config.clip), after.valid)
    if prior_coefficient:
        outer = outer + prior_coefficient * prior_divergence(acting, after)
    was: Any = policy_of(shape, stack(old, tasks), before)
    moved = mean_of(was.kl(policy_of(shape, stacked, before)), before.valid)
    return outer + config.inner_kl_weight * moved


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
        self.config, self.updates = config, 0
        self.parameters = leaves(shape.start(seeds.stream("weights").torch(), zero_output=prior is not None))
        self.optimizer = adam(self.parameters, config.learning_rate)
        self.acting = Actor(
            shape, self.parameters, config.rollouts, config.inner_rate, True, config.discount, config.halve_at_test,
            normalize or identity, prior, prior_coefficient_of(config.prior_coefficient, prior), bound,
        )  # fmt: skip

    def actor(self) -> Actor:
        return replace(copy.copy(self.acting), parameters=tuple(p.detach().clone() for p in self.parameters))

    # -- learning --------------------------------------------------------------------------------------------------------
    def iterate(self, collect: MetaCollector) -> tuple[Batch, dict[str, float]]:
        """Episodes before and after the inner step in M tasks, and a few steps of Adam on them."""
        config = self.config
        actor = self.actor()
        batch = collect.trials(actor, config.tasks, 2)
        old = actor.parameters
        before = actor.samples(batch.trials.episodes(0), stack(old, config.tasks))
        adapted = actor.inner_step(stack(old, config.tasks), before, config.inner_rate)
        after = actor.samples(batch.trials.episodes(1), adapted)
        total = 0.0
        for _ in range(config.steps):
            self.optimizer.zero_grad()
            total = 0.0
            for part in chunks(config.tasks, config.tasks_at_once):
                each = loss(
                    actor.shape,
                    self.parameters,
                    old,
                    before.tasks(part),
                    after.tasks(part),
                    config,
                    actor.prior_coefficient,
                )
                value = each.sum() / config.tasks
                value.backward()
                total += float(value.detach())
            self.optimizer.step()
        self.updates += config.steps
        return batch, {"outer/loss": total}

    # -- on disk --------------------------------------------------------------------------------------------------------
    def acting_state(self) -> dict[str, Any]:
        return {"parameters": {str(i): p.detach() for i, p in enumerate(self.parameters)}}

    def load_acting(self, state: dict[str, Any]) -> None:
        """Raises RuntimeError if the parameters have other shapes."""
        with torch.no_grad():
            for i, own in enumerate(self.parameters):
                new = state["parameters"][str(i)]
                if new.shape != own.shape:
                    raise RuntimeError(f"a parameter is {tuple(new.shape)}, not {tuple(own.shape)}")
                own.copy_(new)

    def state(self) -> dict[str, Any]:
        return {**self.acting_state(), "optimizer": optimizer_state(self.optimizer), "updates": self.updates}

    def restore(self, state: dict[str, Any]) -> None:
        self.load_acting(state)
        restore_optimizer(self.optimizer, state["optimizer"])
        self.updates = state["updates"]
