"""MAML: a starting point from which one gradient step in a new task goes far.

Finn, Abbeel, Levine 2017 (arXiv:1703.03400), for reinforcement learning, with TRPO outside. In each of M tasks

    theta_i = theta - rate grad L_i(theta; episodes before)              inner step
    theta  <- argmin sum_i L_i'(theta_i; episodes after)                 outer step, within KL(pi_theta_i || pi_old_i) <= radius

`first_order` takes the inner gradient for a constant. With a `context` only the numbers appended to the observation adapt, from
zero in each task (CAVIA, Zintgraf et al. 2019, arXiv:1810.03642). `exploration_credit` adds E-MAML's term (Stadie et al. 2018,
arXiv:1803.01118): what was done before is credited with the return after. With skills the policy starts as the skill prior, and
both losses have `prior_coefficient` times KL(pi || prior).

The Hessian of the KL at the old parameters is J' F J, with J the derivative of the adapted policies' outputs and F their Fisher
information: two vector-Jacobian products of first-order graphs, and none of the KL's.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from skillmeta.collect.meta import Batch, MetaCollector
from skillmeta.errors import ConfigError
from skillmeta.nn.distributions import Categorical, Gaussian
from skillmeta.nn.networks import identity
from skillmeta.objectives.inner_step import (
    Actor,
    Parameters,
    Policy,
    Samples,
    Shape,
    chunks,
    flat,
    inner_step,
    leaves,
    mean_of,
    policy_of,
    prior_coefficient_of,
    prior_divergence,
    stack,
    unflat,
)
from skillmeta.objectives.on_policy import TrustRegionStep, trust_region_step
from skillmeta.objectives.regularizer import Prior
from skillmeta.seeds import Seeds


@dataclass(frozen=True)
class Config:
    """The paper's 2-D navigation."""

    tasks: int = 20  # M
    rollouts: int = 20  # episodes of each task before the inner step, and after it
    inner_rate: float = 0.1
    halve_at_test: bool = True  # the inner rate after the first step
    first_order: bool = False
    exploration_credit: bool = False
    context: int = 0
    discount: float = 0.99
    prior_coefficient: float | None = None  # of KL(pi || skill prior); null: 0.1 with skills, 0 without
    radius: float = 0.01  # of the trust region, nats
    damping: float = 1e-5
    iterations: int = 10  # of conjugate gradients
    hidden: int = 64
    depth: int = 2
    tasks_at_once: int = 2  # in one graph; more where batches are small

    def __post_init__(self) -> None:
        for name in ("tasks", "rollouts", "inner_rate", "radius", "iterations", "hidden", "depth", "tasks_at_once"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not 0 <= self.discount <= 1 or min(self.damping, self.context, self.prior_coefficient or 0) < 0:
            raise ValueError(
                "discount must lie between 0 and 1; damping, context and prior_coefficient must not be below 0"
            )
        if self.exploration_credit and self.tasks < 2:
            raise ValueError(
                "exploration_credit compares the returns of different tasks, and tasks is 1; set tasks to 2 or more"
            )


def surrogate(adapted: Policy, after: Samples) -> Tensor:
    """Each task's outer loss, [M]: minus the mean of pi / pi_old times the advantage, on episodes after the inner step."""
    return -mean_of(torch.exp(adapted.log_prob(after.action) - after.log_prob) * after.advantage, after.valid)


def credit(shape: Shape, stacked: Parameters, before: Samples, score: Tensor) -> Tensor:
    """E-MAML's term of each task, [M]: minus what was done before the step, credited with the score [M] after it."""
    return -score * mean_of(policy_of(shape, stacked, before).log_prob(before.action), before.valid)


def fisher(old: Policy, direction: Parameters) -> Parameters:
    """F times a direction in the space of the policies' outputs: (mean, log deviation), or (logits,)."""
    if isinstance(old, Categorical):
        probability = old.log_probabilities.exp()
        inner = (probability * direction[0]).sum(-1, keepdim=True)
        return (probability * (direction[0] - inner),)
    return direction[0] * torch.exp(-2 * old.log_stddev), 2 * direction[1]


def outputs(policy: Policy) -> Parameters:
    return (policy.logits,) if isinstance(policy, Categorical) else (policy.mean, policy.log_stddev)


def detached(policy: Policy) -> Policy:
    if isinstance(policy, Gaussian):
        return Gaussian(policy.mean.detach(), policy.log_stddev.detach())
    return Categorical(policy.logits.detach())


class Linearized(NamedTuple):
    """The adapted policies of some tasks around the start: their outputs, and J' u for probes u, which is linear in u; with what
    these tasks add to the mean loss and to its gradient."""

    start: Tensor  # [P]
    outputs: Parameters
    probes: Parameters
    pulled: Tensor  # [P]
    weight: Tensor  # [m, n, 1] of each decision in the mean KL
    old: Policy
    loss: float
    gradient: Tensor  # [P]


class Problem:
    """The outer problem of one iteration: its loss and gradient at the start, products with the KL's curvature there, and
    loss and KL elsewhere, all of flat parameters [P]."""

    def __init__(
        self,
        shape: Shape,
        config: Config,
        start: Parameters,
        before: Samples,
        after: Samples,
        score: Tensor,
        prior_coefficient: float = 0.0,
    ):
        self.shape, self.config, self.start, self.prior_coefficient = shape, config, start, prior_coefficient
        self.before, self.after, self.score = before, after, score
        self.parts = list(chunks(len(after.valid), config.tasks_at_once))
        self.linear = [self.linearized(rows) for rows in self.parts]
        self.loss = sum(part.loss for part in self.linear)
        self.gradient = torch.stack([part.gradient for part in self.linear]).sum(0)

    def linearized(self, rows: slice) -> Linearized:
        tasks, after = len(self.after.valid), self.after.tasks(rows)
        vector = flat(self.start).clone().requires_grad_(True)
        parameters = unflat(vector, self.start)
        adapted = self.adapt(parameters, rows, create_graph=not self.config.first_order)
        policy = policy_of(self.shape, adapted, after)
        out = outputs(policy)
        probes = tuple(torch.zeros_like(o, requires_grad=True) for o in out)
        (pulled,) = torch.autograd.grad(out, vector, probes, create_graph=True)
        loss = self.loss_of(parameters, policy, rows)
        (gradient,) = torch.autograd.grad(loss, vector, retain_graph=True)
        weight = (after.valid / after.valid.sum(1, keepdim=True)).unsqueeze(-1) / tasks
        return Linearized(
            vector, out, probes, pulled, weight, detached(policy), float(loss.detach()) / tasks, gradient / tasks
        )

    def adapt(self, parameters: Parameters, rows: slice, create_graph: bool) -> Parameters:
        before = self.before.tasks(rows)
        stacked = stack(parameters, len(before.valid), self.shape.context)
        return inner_step(
            self.shape, stacked, before, self.config.inner_rate, False, self.prior_coefficient, create_graph
        )

    def loss_of(self, parameters: Parameters, adapted: Policy, rows: slice) -> Tensor:
        """Sum over the tasks of a chunk, given their adapted policies on the episodes after."""
        after = self.after.tasks(rows)
        total = surrogate(adapted, after).sum()
        if self.prior_coefficient:
            total = total + self.prior_coefficient * prior_divergence(adapted, after).sum()
        if self.config.exploration_credit:
            stacked = stack(parameters, len(self.score[rows]), self.shape.context)
            total = total + credit(self.shape, stacked, self.before.tasks(rows), self.score[rows]).sum()
        return total

    def product(self, direction: Tensor) -> Tensor:
        """The mean KL's Hessian at the start, with damping, times a direction [P]."""
        result = self.config.damping * direction
        for part in self.linear:
            pushed = torch.autograd.grad(part.pulled, part.probes, direction, retain_graph=True)  # J v
            weighted = tuple(part.weight * w for w in fisher(part.old, pushed))
            result = result + torch.autograd.grad(part.outputs, part.start, weighted, retain_graph=True)[0]
        return result

    def judge(self, vector: Tensor) -> tuple[float, float]:
        """Mean loss, and mean KL of the adapted policies from the old ones on the episodes after."""
        loss = divergence = 0.0
        tasks = len(self.after.valid)
        for rows, part in zip(self.parts, self.linear, strict=True):
            parameters = leaves(unflat(vector, self.start))
            adapted = self.adapt(parameters, rows, create_graph=False)
            with torch.no_grad():
                after = self.after.tasks(rows)
                new: Any = policy_of(self.shape, adapted, after)
                loss += float(self.loss_of(parameters, new, rows)) / tasks
                divergence += float(mean_of(new.kl(part.old), after.valid).sum()) / tasks
        return loss, divergence

    def step(self) -> TrustRegionStep:
        return trust_region_step(
            flat(self.start),
            self.loss,
            self.gradient,
            self.product,
            self.judge,
            self.config.radius,
            self.config.iterations,
        )


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
        shape = Shape(observation_dim, len(bound), config.hidden, config.depth, discrete, config.context)
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
        """Episodes before and after the inner step in M tasks, and one step of TRPO."""
        batch = collect.trials(self.acting, self.config.tasks, 2)
        before, after, score = self.samples(batch)
        acting = self.acting
        problem = Problem(acting.shape, self.config, acting.parameters, before, after, score, acting.prior_coefficient)
        step = problem.step()
        self.set(unflat(step.parameters, acting.parameters))
        self.updates += 1
        metrics = {"outer/loss": step.loss, "outer/divergence": step.divergence, "outer/step": step.part}
        return batch, metrics

    def samples(self, batch: Batch) -> tuple[Samples, Samples, Tensor]:
        """Episodes before and after the inner step, and the tasks' standardised returns after it, [M]."""
        tasks = self.config.tasks
        start = stack(self.acting.parameters, tasks, self.config.context)
        before = self.acting.samples(batch.trials.episodes(0), start)
        adapted = self.acting.inner_step(start, before, self.config.inner_rate)
        after = self.acting.samples(batch.trials.episodes(1), adapted)
        returns = torch.from_numpy(batch.trials.returns[:, 1]).float().view(tasks, -1).mean(1)
        return before, after, (returns - returns.mean()) / (returns.std(correction=0) + 1e-8)

    def set(self, parameters: Parameters) -> None:
        self.acting = replace(self.acting, parameters=tuple(p.detach().clone() for p in parameters))

    # -- on disk --------------------------------------------------------------------------------------------------------
    def acting_state(self) -> dict[str, Any]:
        return {"parameters": {str(i): p for i, p in enumerate(self.acting.parameters)}}

    def load_acting(self, state: dict[str, Any]) -> None:
        """Raises RuntimeError if the parameters have other shapes."""
        loaded = tuple(state["parameters"][str(i)] for i in range(len(self.acting.parameters)))
        for new, own in zip(loaded, self.acting.parameters, strict=True):
            if new.shape != own.shape:
                raise RuntimeError(f"a parameter is {tuple(new.shape)}, not {tuple(own.shape)}")
        self.set(loaded)

    def state(self) -> dict[str, Any]:
        return {**self.acting_state(), "updates": self.updates}

    def restore(self, state: dict[str, Any]) -> None:
        self.load_acting(state)
        self.updates = state["updates"]
