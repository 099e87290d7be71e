"""Policy networks of continuous actions: squashed into the action box, or a residual on a prior."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skillmeta.errors import ConfigError
from skillmeta.nn.distributions import LOG_STDDEV_RANGE, Gaussian, Policy, TanhGaussian, gaussian
from skillmeta.nn.networks import MLP, promoted
from skillmeta.types import Prior


def gaussian_prior(prior: Prior) -> Gaussian:
    """The prior, as what a residual policy is built on. Raises ConfigError if it is no Gaussian."""
    if not isinstance(prior, Gaussian):
        raise ConfigError(f"the policy is a residual on a Gaussian prior, and this one is a {type(prior).__name__}")
    return prior


def residual_on(prior: Gaussian, shift: Tensor, log_ratio: Tensor) -> Gaussian:
    """The Gaussian [..., A] whose mean and log standard deviation differ from the prior's by `shift` and `log_ratio`.

    It is the prior where both are zero. Nothing squashes it, since the decoder never saw a squashed skill.
    """
    return Gaussian(prior.mean + shift, (prior.log_stddev + log_ratio).clamp(*LOG_STDDEV_RANGE))


def zero_output(network: MLP) -> None:
    """Set the last layer to zero, so that the network's output is zero."""
    with torch.no_grad():
        for parameter in network.layers[-1].parameters():
            parameter.zero_()


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
    """Inputs [B, I] and the prior there -> a Gaussian that starts as the prior: the residual is zero at initialisation (SPiRL)."""

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
        return residual_on(gaussian_prior(prior), shift, log_ratio)


PolicyNetwork = SquashedPolicy | ResidualPolicy


def choose_action(policy: Policy, bound: Tensor, generator: torch.Generator, explore: bool) -> Tensor:
    """Actions [N, A] as they are executed: a sample of the policy, or its mode without `explore`, clipped to the box."""
    if explore:
        action = policy.rsample(torch.randn(policy.shape, generator=generator))
    else:
        action = policy.mode()
    return action.clamp(-bound, bound)
