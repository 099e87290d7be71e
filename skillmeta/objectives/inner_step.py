"""One inner step of gradient-based meta-learning, for many tasks at once: what MAML and its relatives share.

Parameters are tuples of tensors. "Stacked" ones have a leading axis of tasks [M, ...]; since the tasks' losses do not share
stacked parameters, the gradient of their sum is every task's own gradient. So one task is M = 1, all tasks at once are one
graph, and `slices` of tasks lie between: small batches are bound by the number of calls, large ones by the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from skillmeta.errors import ConfigError
from skillmeta.nn.distributions import Categorical, Gaussian
from skillmeta.nn.networks import check_size, identity
from skillmeta.nn.policies import check_skills, gaussian_prior, residual_on
from skillmeta.objectives.on_policy import advantages, discounted_sums, linear_values, normalized
from skillmeta.types import EnvSpec, Episodes, Parts, Skills, Step

Parameters = tuple[Tensor, ...]
Policy = Gaussian | Categorical  # of which MAML and its relatives need log_prob and kl
DEFAULT_PRIOR_COEFFICIENT = 0.1


def prior_coefficient_of(configured: float | None, skills: Skills | None) -> float:
    """The coefficient of KL(pi || prior), in nats a decision, in the inner and the outer loss: 0 where there is no prior.

    The default is 0.1. Advantages have a standard deviation of 1, so a direction of skill space whose correlation with the
    advantage is rho is held near a shift of rho / 0.1 standard deviations of the prior, half a nat for rho = 0.1.

    Raises ConfigError for a coefficient above 0 without a prior.
    """
    if skills is not None:
        return DEFAULT_PRIOR_COEFFICIENT if configured is None else configured
    if configured:
        raise ConfigError(
            f"algorithm.prior_coefficient is {configured}, but actions are primitive and have no prior; set skills to the folder "
            "of a skill model, or leave prior_coefficient out"
        )
    return 0.0


def held_near(configured: float | None, prior: str | None) -> str:
    """What holds the policy near its prior, as a phrase for pages; nothing where there is no prior."""
    if prior is None:
        return ""
    coefficient = DEFAULT_PRIOR_COEFFICIENT if configured is None else configured
    return f"; the policy starts as the prior, {prior}, and pays {coefficient:g} times KL(policy || prior)"


@dataclass(frozen=True)
class Shape:
    """The policy network, a perceptron with tanh as in all of these papers, and what it is a policy of."""

    observation_dim: int
    action_dim: int
    hidden: int = 64
    depth: int = 2
    discrete: bool = False
    context: int = 0  # numbers appended to the observation, which adapt instead of the weights (CAVIA)

    def start(self, generator: torch.Generator, zero_output: bool = False) -> Parameters:
        """Weights [out, in] and biases of each layer (Glorot's uniform, zeros), and log standard deviations [A].

        With `zero_output` the network's output is zero where the context is, so that the policy is exactly what it is a residual
        on: the last layer is zero. With a context half of the hidden units see the context alone, and the last layer is zero
        for the others: were all of it zero, the context would have no gradient, and a step away from that no advantage.
        """
        widths = [self.observation_dim + self.context, *[self.hidden] * self.depth, self.action_dim]
        check_size(sum(inputs * outputs for inputs, outputs in pairwise(widths)))
        weights = [
            torch.empty(outputs, inputs).uniform_(-limit, limit, generator=generator)
            for inputs, outputs in pairwise(widths)
            for limit in [(6 / (inputs + outputs)) ** 0.5]
        ]
        if zero_output:
            own = self.hidden // 2 if self.context else 0
            weights[0][:own, : self.observation_dim] = 0
            for weight in weights[1:-1]:
                weight[:own, own:] = 0
            weights[-1][:, own:] = 0
        layers = [part for weight in weights for part in (weight, torch.zeros(len(weight)))]
        return (*layers, torch.zeros(self.action_dim))


class Samples(NamedTuple):
    """Decisions of M tasks, [M, n, ...], flattened over episodes and time."""

    observation: Tensor  # [M, n, O] normalised
    action: Tensor  # [M, n, A]
    advantage: Tensor  # [M, n] normalised in each task
    log_prob: Tensor  # [M, n] under the policy that acted
    valid: Tensor  # [M, n]
    base_mean: Tensor  # [M, n, A] what the policy is a residual on: the skill prior, or zeros
    base_log_stddev: Tensor  # [M, n, A]

    def tasks(self, rows: slice) -> Samples:
        return Samples(*(part[rows] for part in self))


def policy(shape: Shape, stacked: Parameters, observation: Tensor, mean: Tensor, log_stddev: Tensor) -> Policy:
    """Policies of M tasks at observations [M, n, O], as residuals on mean and log_stddev [M, n, A]."""
    x = observation
    *layers, own_log_stddev = stacked[:-1] if shape.context else stacked
    if shape.context:
        context = stacked[-1]
        x = torch.cat([x, context.unsqueeze(1).expand(*x.shape[:2], -1)], -1)
    for number in range(0, len(layers), 2):
        x = torch.baddbmm(layers[number + 1].unsqueeze(1), x, layers[number].mT)
        if number + 2 < len(layers):
            x = torch.tanh(x)
    if shape.discrete:
        return Categorical(x)
    return residual_on(Gaussian(mean, log_stddev), x, own_log_stddev.unsqueeze(1))


def policy_of(shape: Shape, stacked: Parameters, samples: Samples) -> Policy:
    return policy(shape, stacked, samples.observation, samples.base_mean, samples.base_log_stddev)


def mean_of(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over each task's valid decisions, [M]."""
    return (values * valid).sum(1) / valid.sum(1).clamp(min=1)


def prior_divergence(acting: Policy, samples: Samples) -> Tensor:
    """Each task's mean of KL(pi || prior) over its decisions, [M], nats."""
    assert isinstance(acting, Gaussian)  # discrete actions have no prior
    return mean_of(acting.kl(Gaussian(samples.base_mean, samples.base_log_stddev)), samples.valid)


def inner_loss(shape: Shape, stacked: Parameters, samples: Samples, ratio: bool, prior_coefficient: float) -> Tensor:
    """Each task's loss, [M]: minus the mean of log pi times advantage (MAML), or of pi / pi_old times it (ProMP's
    low-variance curvature), plus the coefficient times KL(pi || prior). The first gradients of the two agree where pi is
    pi_old; their second ones do not."""
    acting = policy_of(shape, stacked, samples)
    log_prob = acting.log_prob(samples.action)
    weight = torch.exp(log_prob - samples.log_prob) if ratio else log_prob
    loss = -mean_of(weight * samples.advantage, samples.valid)
    return loss + prior_coefficient * prior_divergence(acting, samples) if prior_coefficient else loss


def inner_step(
    shape: Shape,
    stacked: Parameters,
    samples: Samples,
    rate: float,
    ratio: bool,
    prior_coefficient: float,
    create_graph: bool,
) -> Parameters:
    """Parameters after one step of gradient descent in each task, on the context alone where there is one. With `create_graph`
    one can differentiate through it; without, the step is a constant that is added (first-order MAML)."""
    kept = stacked[:-1] if shape.context else ()
    moved = stacked[len(kept) :]
    loss = inner_loss(shape, stacked, samples, ratio, prior_coefficient).sum()
    # A gradient of None: discrete actions have no standard deviation.
    gradients = torch.autograd.grad(loss, moved, create_graph=create_graph, allow_unused=True)
    return (*kept, *(p if g is None else p - rate * g for p, g in zip(moved, gradients, strict=True)))


def stack(parameters: Parameters, tasks: int, context: int = 0) -> Parameters:
    """The same parameters for M tasks, [M, ...]; gradients flow back to the one. A context [M, C] comes last: it is no
    meta-parameter and starts at zero in each task (CAVIA, section 3)."""
    stacked = tuple(parameter.expand(tasks, *parameter.shape) for parameter in parameters)
    return (*stacked, parameters[0].new_zeros(tasks, context).requires_grad_(True)) if context else stacked


def leaves(parameters: Parameters) -> Parameters:
    """The same values, to be differentiated with respect to."""
    return tuple(parameter.detach().clone().requires_grad_(True) for parameter in parameters)


def flat(parameters: Parameters) -> Tensor:
    return torch.cat([parameter.reshape(-1) for parameter in parameters])


def unflat(vector: Tensor, like: Parameters) -> Parameters:
    sizes = [parameter.numel() for parameter in like]
    return tuple(part.view_as(p) for part, p in zip(torch.split(vector, sizes), like, strict=True))


def slices(tasks: int, at_once: int) -> Iterator[slice]:
    for first in range(0, tasks, at_once):
        yield slice(first, min(first + at_once, tasks))


class Adapted(NamedTuple):
    """What is believed of N tasks: parameters adapted to each, and how many steps that took."""

    parameters: Parameters  # stacked [N, ...]
    steps: int


@dataclass(frozen=True)
class Actor:
    """What acts: B episodes of each task at a time, always by samples, then a gradient step. Discounts are per decision."""

    always_samples: ClassVar[bool] = True  # it has no mode to be evaluated
    shape: Shape
    parameters: Parameters
    rollouts: int
    inner_lr: float
    discount: float
    halve: bool  # the step after the first one (MAML, appendix A.2)
    skills: Skills | None
    prior_coefficient: float
    bound: Tensor
    exploration_episodes: int = 0

    def begin(self, tasks: int, generator: torch.Generator) -> Adapted:
        return Adapted(tuple(p.detach() for p in stack(self.parameters, tasks, self.shape.context)), 0)

    def act(
        self, observation: Tensor, belief: Adapted, generator: torch.Generator, explore: bool
    ) -> tuple[Tensor, Adapted]:
        tasks = len(belief.parameters[0])
        grouped = observation.view(tasks, -1, observation.shape[-1])
        chosen = policy(self.shape, belief.parameters, self.normalize(grouped), *self.base(grouped))
        noise = torch.randn(tasks, grouped.shape[1], self.shape.action_dim, generator=generator)
        # Whether to explore or not: at its own mode the gradient of log pi is zero, and nothing would be learned from it.
        return chosen.rsample(noise).reshape(len(observation), -1), belief

    def observe(self, belief: Adapted, action: Tensor, step: Step) -> Adapted:
        return belief

    def adapt(self, belief: Adapted, episodes: Episodes, generator: torch.Generator) -> Adapted:
        samples = self.samples(episodes, belief.parameters)
        rate = self.inner_lr * (0.5 if self.halve and belief.steps else 1.0)
        return Adapted(self.inner_step(belief.parameters, samples, rate), belief.steps + 1)

    def parts(self) -> Parts:
        return {"parameters": self.parameters}

    def inner_step(self, stacked: Parameters, samples: Samples, rate: float) -> Parameters:
        """The parameters after one step from stacked ones, without gradients. Here pi is pi_old: `ratio` changes nothing."""
        start = leaves(stacked)
        moved = inner_step(self.shape, start, samples, rate, False, self.prior_coefficient, create_graph=False)
        return tuple(p.detach() for p in moved)

    def normalize(self, observation: Tensor) -> Tensor:
        return identity(observation) if self.skills is None else self.skills.normalize(observation)

    def base(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """What the policy is a residual on, at observations [M, n, O]."""
        if self.skills is not None:
            with torch.no_grad():
                prior = gaussian_prior(self.skills.prior(observation.flatten(0, 1)))
            lead = observation.shape[:2]
            return prior.mean.view(*lead, -1), prior.log_stddev.view(*lead, -1)
        nothing = observation.new_zeros(*observation.shape[:2], self.shape.action_dim)
        return nothing, nothing + self.bound.log().to(nothing.device)

    def samples(self, episodes: Episodes, stacked: Parameters) -> Samples:
        """Episodes [M * B, T] as learned from, where the parameters are: advantages over a baseline that is fitted to each task's
        episodes."""
        tasks = len(stacked[0])

        def grouped(values: Any) -> Tensor:
            tensor = torch.from_numpy(values).float().to(stacked[0].device)
            return tensor.view(tasks, -1, *tensor.shape[1:])

        observation, reward, valid = (
            grouped(v) for v in (episodes.observation[:, :-1], episodes.reward, episodes.valid)
        )
        returns = discounted_sums(reward * valid, self.discount)
        values = linear_values(self.normalize(observation), returns, valid)
        nothing = reward.new_zeros(reward.shape[:2])  # as in the papers, nothing is bootstrapped at the horizon
        estimated = advantages(reward, values, nothing, valid, self.discount, 1.0)
        advantage = normalized(estimated, valid, (1, 2)).flatten(1)
        raw = observation.flatten(1, 2)
        part = Samples(
            self.normalize(raw),
            grouped(episodes.action).flatten(1, 2),
            advantage,
            advantage,
            valid.flatten(1),
            *self.base(raw),
        )
        with torch.no_grad():
            log_prob = policy_of(self.shape, stacked, part).log_prob(part.action)
        return part._replace(log_prob=log_prob)


class GradientConfig(Protocol):
    """What the configs of MAML and its relatives have in common."""

    @property
    def rollouts(self) -> int: ...
    @property
    def inner_lr(self) -> float: ...
    @property
    def discount(self) -> float: ...
    @property
    def halve_at_test(self) -> bool: ...
    @property
    def prior_coefficient(self) -> float | None: ...
    @property
    def hidden(self) -> int: ...
    @property
    def depth(self) -> int: ...


def make_actor(
    config: GradientConfig,
    spec: EnvSpec,
    skills: Skills | None,
    generator: torch.Generator,
    context: int = 0,
) -> Actor:
    """The actor before training: a small random policy, or the skill prior itself.

    Raises ConfigError for skills where actions are discrete, and for a prior coefficient without skills.
    """
    check_skills(spec, skills)
    shape = Shape(spec.observation_dim, spec.action_dim, config.hidden, config.depth, spec.discrete, context)
    return Actor(
        shape,
        shape.start(generator, zero_output=skills is not None),
        config.rollouts,
        config.inner_lr,
        config.discount,
        config.halve_at_test,
        skills,
        prior_coefficient_of(config.prior_coefficient, skills),
        torch.from_numpy(spec.action_bound),
    )
