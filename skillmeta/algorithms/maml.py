"""MAML: a starting point from which one gradient step in a new task goes far.

Finn, Abbeel, Levine 2017 (arXiv:1703.03400), for reinforcement learning, with TRPO outside. In each of M tasks

    theta_i = theta - inner_lr grad L_i(theta; episodes before)              inner step
    theta  <- argmin sum_i L_i'(theta_i; episodes after)                 outer step, within KL(pi_theta_i || pi_old_i) <= max_kl

`first_order` takes the inner gradient for a constant. With a `context` only the numbers appended to the observation adapt, from
zero in each task (CAVIA, Zintgraf et al. 2019, arXiv:1810.03642). `exploration_credit` adds E-MAML's term (Stadie et al. 2018,
arXiv:1803.01118): what was done before is credited with the return after. With skills the policy starts as the skill prior, and
both losses have `prior_coefficient` times KL(pi || prior).

The Hessian of the KL at the old parameters is J' F J, with J the derivative of the adapted policies' outputs and F their Fisher
information: two vector-Jacobian products of first-order graphs, and none of the KL's.
"""

from __future__ import annotations

import copy
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from skillmeta.config import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Share, checked
from skillmeta.nn.distributions import Categorical, Gaussian, kl_divergence
from skillmeta.objectives.inner_step import (
    Actor,
    Parameters,
    Policy,
    Samples,
    Shape,
    flat,
    held_near,
    inner_step,
    leaves,
    make_actor,
    mean_of,
    policy_of,
    prior_divergence,
    slices,
    stack,
    unflat,
)
from skillmeta.objectives.on_policy import TrustRegionStep, trust_region_step
from skillmeta.run.parts import Counts
from skillmeta.seeds import Seeds
from skillmeta.types import Batch, EnvSpec, Metrics, Parts, Skills, Source


@checked
class Config:
    """The paper's 2-D navigation."""

    FORMER_KEYS: ClassVar[dict[str, str]] = {
        "inner_rate": "inner_lr",
        "radius": "max_kl",
        "iterations": "cg_iterations",
    }

    tasks: PositiveInt = 20  # M
    rollouts: PositiveInt = 20  # episodes of each task before the inner step, and after it
    inner_lr: PositiveFloat = 0.1  # of the inner step
    halve_at_test: bool = True  # the inner rate after the first step
    first_order: bool = False  # the inner gradient is a constant
    exploration_credit: bool = False  # E-MAML's term
    context: NonNegativeInt = 0  # numbers that adapt instead of the weights (CAVIA)
    discount: Share = 0.99  # of a decision
    prior_coefficient: NonNegativeFloat | None = None  # of KL(pi || skill prior); null: 0.1 with skills, 0 without
    max_kl: PositiveFloat = 0.01  # the radius of the trust region, nats
    damping: NonNegativeFloat = 1e-5  # added to the KL's Hessian
    cg_iterations: PositiveInt = 10  # of conjugate gradients
    hidden: PositiveInt = 64  # units of a layer
    depth: PositiveInt = 2  # hidden layers
    tasks_at_once: PositiveInt = 2  # in one graph; more where batches are small

    def __post_init__(self) -> None:
        if self.exploration_credit and self.tasks < 2:
            raise ValueError(
                "exploration_credit compares the returns of different tasks, and tasks is 1; set tasks to 2 or more"
            )

    @property
    def iteration_episodes(self) -> tuple[int, int]:
        """Episodes of the first iteration and of a later one."""
        return (2 * self.tasks * self.rollouts,) * 2


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
        self.parts = list(slices(len(after.valid), config.tasks_at_once))
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
            self.shape, stacked, before, self.config.inner_lr, False, self.prior_coefficient, create_graph
        )

    def loss_of(self, parameters: Parameters, adapted: Policy, rows: slice) -> Tensor:
        """Sum over the tasks of a slice, given their adapted policies on the episodes after."""
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

    def loss_and_kl(self, vector: Tensor) -> tuple[float, float]:
        """Mean loss, and mean KL of the adapted policies from the old ones on the episodes after."""
        loss = divergence = 0.0
        tasks = len(self.after.valid)
        for rows, part in zip(self.parts, self.linear, strict=True):
            parameters = leaves(unflat(vector, self.start))
            adapted = self.adapt(parameters, rows, create_graph=False)
            with torch.no_grad():
                after = self.after.tasks(rows)
                new = policy_of(self.shape, adapted, after)
                loss += float(self.loss_of(parameters, new, rows)) / tasks
                divergence += float(mean_of(kl_divergence(new, part.old), after.valid).sum()) / tasks
        return loss, divergence

    def step(self) -> TrustRegionStep:
        return trust_region_step(
            flat(self.start),
            self.loss,
            self.gradient,
            self.product,
            self.loss_and_kl,
            self.config.max_kl,
            self.config.cg_iterations,
        )


class Learner:
    """The learner. Arguments as for SAC's (`skillmeta.algorithms.sac.Learner`)."""

    def __init__(self, config: Config, spec: EnvSpec, skills: Skills | None, seeds: Seeds):
        self.config, self.counts = config, Counts()
        self.acting = make_actor(config, spec, skills, seeds.stream("weights").torch(), context=config.context)

    @property
    def updates(self) -> int:
        return self.counts.updates

    def actor(self) -> Actor:
        return copy.deepcopy(self.acting)

    def parts(self) -> Parts:
        return {"parameters": self.acting.parameters, "counts": self.counts}

    # -- learning --------------------------------------------------------------------------------------------------------
    def iterate(self, source: Source) -> Metrics:
        """Episodes before and after the inner step in M tasks, and one step of TRPO."""
        acting = self.acting
        before, after, score = self.samples(source.trials(acting, self.config.tasks, 2))
        problem = Problem(acting.shape, self.config, acting.parameters, before, after, score, acting.prior_coefficient)
        step = problem.step()
        for parameter, new in zip(acting.parameters, unflat(step.parameters, acting.parameters), strict=True):
            parameter.copy_(new.detach())
        self.counts.updates += 1
        return {"outer/loss": step.loss, "outer/divergence": step.divergence, "outer/step": step.part}

    def samples(self, batch: Batch) -> tuple[Samples, Samples, Tensor]:
        """Episodes before and after the inner step, and the tasks' standardised returns after it, [M]."""
        tasks = self.config.tasks
        start = stack(self.acting.parameters, tasks, self.config.context)
        before = self.acting.samples(batch.trials.episodes(0), start)
        adapted = self.acting.inner_step(start, before, self.config.inner_lr)
        after = self.acting.samples(batch.trials.episodes(1), adapted)
        returns = torch.from_numpy(batch.trials.returns[:, 1]).float().view(tasks, -1).mean(1)
        score = (returns - returns.mean()) / (returns.std(correction=0) + 1e-8)
        return before, after, score.to(after.valid.device)


def describe(config: Config, acts_in: str, prior: str | None) -> str:
    """A config as a phrase for pages; arguments as for `skillmeta.algorithms.sac.describe`."""
    name = "E-MAML" if config.exploration_credit else "first-order MAML" if config.first_order else "MAML"
    what = f"CAVIA's {config.context} context numbers" if config.context else "all parameters"
    return f"{name} that acts in {acts_in}; a gradient step adapts {what}{held_near(config.prior_coefficient, prior)}"
