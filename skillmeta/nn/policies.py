"""Policy networks: squashed into the action box, a residual on a prior, or plain, over continuous or discrete actions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from skillmeta.errors import ConfigError
from skillmeta.nn.distributions import (
    LOG_STDDEV_RANGE,
    Categorical,
    Gaussian,
    Policy,
    SkillPrior,
    TanhGaussian,
    gaussian,
)
from skillmeta.nn.heads import Head, output_of, zero_output
from skillmeta.nn.networks import MLP, promoted
from skillmeta.types import EnvSpec, Prior, Skills


def known_prior(prior: Prior) -> SkillPrior:
    """The prior, as what a policy starts as and is held near. Raises ConfigError for one that is not `SkillPrior`."""
    if not isinstance(prior, SkillPrior):
        raise ConfigError(
            f"a policy is held near a Gaussian, a mixture or a flow, and this prior is a {type(prior).__name__}"
        )
    return prior


def gaussian_prior(prior: Prior) -> Gaussian:
    """The prior, where a divergence is taken in closed form. Raises ConfigError if it is no Gaussian."""
    if not isinstance(prior, Gaussian):
        raise ConfigError(
            f"this algorithm needs a Gaussian skill prior, and that under `skills:` is a {type(prior).__name__.lower()}; name a "
            "skill model of model.prior: gaussian, or use spirl, pearl or best_of"
        )
    return prior


def residual_on(prior: Gaussian, shift: Tensor, log_ratio: Tensor) -> Gaussian:
    """The Gaussian [..., A] whose mean and log standard deviation differ from the prior's by `shift` and `log_ratio`.

    It is the prior where both are zero. Nothing squashes it, since the decoder never saw a squashed skill.
    """
    return Gaussian(prior.mean + shift, (prior.log_stddev + log_ratio).clamp(*LOG_STDDEV_RANGE))


def continuous_only(spec: EnvSpec, algorithm: str) -> None:
    """Raises ConfigError for discrete actions, for which the algorithm has no policy."""
    if spec.discrete:
        raise ConfigError(
            f"algorithm.name is {algorithm}, whose policy is continuous; the environment has {spec.action_dim} discrete actions: "
            "use an environment with a Box of actions, or rl2 in meta-training"
        )


def check_skills(spec: EnvSpec, skills: Skills | None) -> None:
    """Raises ConfigError for skills where actions are discrete, and for those whose prior is no Gaussian."""
    if skills is None:
        return
    if spec.discrete:
        raise ConfigError("skills are continuous; this family's actions are discrete")
    gaussian_prior(skills.prior(torch.zeros(1, spec.observation_dim, device=skills.latent_bound.device)))


def plain_head(
    make: Callable[[int], Head], bound: Tensor, discrete: bool, residual: bool, initial_stddev: float
) -> Head:
    """A head for `plain_policy`, whose first policy is uniform, or the prior itself, or a Gaussian in the middle of the box.

    Args:
        make: a head of so many outputs.
        initial_stddev: of that Gaussian, in parts of the bound.
    """
    head = make(len(bound) * (1 if discrete else 2))
    zero_output(head)
    if not discrete and not residual:
        with torch.no_grad():
            output_of(head)[1][len(bound) :] = torch.log(initial_stddev * bound)
    return head


def plain_policy(numbers: Tensor, discrete: bool, prior: Gaussian | None) -> Gaussian | Categorical:
    """A network's numbers [..., A], or [..., 2 A], as a policy: a choice, a residual where there is a prior, or a Gaussian."""
    if discrete:
        return Categorical(numbers)
    mean, log_stddev = numbers.chunk(2, -1)
    if prior is not None:
        return residual_on(prior, mean, log_stddev)
    return Gaussian(mean, log_stddev.clamp(*LOG_STDDEV_RANGE))


def skill_prior(skills: Skills | None, observation: Tensor) -> Gaussian | None:
    """The skill prior at observations [..., O]; None where actions are primitive."""
    if skills is None:
        return None
    with torch.no_grad():
        flat = gaussian_prior(skills.prior(observation.flatten(0, -2)))
    lead = observation.shape[:-1]
    return Gaussian(flat.mean.view(*lead, -1), flat.log_stddev.view(*lead, -1))


class SquashedPolicy(nn.Module):
    """Inputs [B, I] -> a Gaussian squashed into the action box (SAC)."""

    bound: Tensor

    def __init__(self, inputs: int, bound: Tensor, hidden: int, depth: int, generator: torch.Generator):
        super().__init__()
        self.net = MLP(inputs, 2 * len(bound), hidden, depth, generator)
        self.register_buffer("bound", bound)

    def forward(self, inputs: Tensor, prior: Prior | None = None) -> TanhGaussian:
        return TanhGaussian(gaussian(promoted(self.net(inputs))), self.bound)


class ResidualPolicy(nn.Module):
    """Inputs [B, I] and the prior there -> a Gaussian that starts as the prior: the residual is zero at initialisation (SPiRL).
    Where the prior is no Gaussian it starts as the one of its mean and variances."""

    bound: Tensor

    def __init__(self, inputs: int, bound: Tensor, hidden: int, depth: int, generator: torch.Generator):
        super().__init__()
        self.net = MLP(inputs, 2 * len(bound), hidden, depth, generator)
        self.register_buffer("bound", bound)
        zero_output(self.net)

    def forward(self, inputs: Tensor, prior: Prior | None) -> Gaussian:
        if prior is None:
            raise ValueError("a residual policy needs the prior at its inputs")
        shift, log_ratio = promoted(self.net(inputs)).chunk(2, -1)
        return residual_on(known_prior(prior).matched(), shift, log_ratio)


PolicyNetwork = SquashedPolicy | ResidualPolicy


def choose_action(policy: Policy, bound: Tensor, generator: torch.Generator, explore: bool) -> Tensor:
    """Actions [N, A] as they are executed: a sample of the policy, or its mode without `explore`, clipped to the box."""
    if explore:
        action = policy.rsample(torch.randn(policy.shape, generator=generator))
    else:
        action = policy.mode()
    return action.clamp(-bound, bound)
