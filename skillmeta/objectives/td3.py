"""TD3: targets and losses of a deterministic policy (Fujimoto et al. 2018, arXiv:1802.09477), with a context and weighted rows.

    y = r + gamma min_i Qbar_i(s', clip(mubar(s') + clip(noise)))
    critics: w sum_i (Q_i(s, a) - y)^2       policy: -w Q_1(s, mu(s))

Functions of numbers, networks and noise. Leading axes `...` are of tasks, whose losses are apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from skillmeta.nn.distributions import Gaussian


class Batch(NamedTuple):
    """What losses depend on beside the networks; leading axes `...` of tasks."""

    now: Tensor  # [..., B, O] normalised
    following: Tensor  # [..., B, O]
    before: Tensor  # [..., B, T, D] windows
    after: Tensor  # [..., B, T, D]
    action: Tensor  # [..., B, A]
    reward: Tensor  # [..., B] scaled
    discount: Tensor  # [..., B] 0 where the MDP ended
    prior: Gaussian | None  # at the observations
    next_prior: Gaussian | None
    weight: Tensor  # [..., B] of each decision


Policy = Callable[[Tensor, Tensor, Gaussian | None], Tensor]
QFunctions = Callable[[Tensor, Tensor, Tensor], Tensor]


def disturbed(action: Tensor, noise: Tensor, prior: Gaussian | None, bound: Tensor) -> Tensor:
    """Actions with noise in parts of the bound, or of the prior's deviation, as they are executed: clipped to the box."""
    return (action + noise * (bound if prior is None else prior.stddev)).clamp(-bound, bound)


def td3_target(slow_policy: Policy, slow_critics: QFunctions, batch: Batch, noise: Tensor, bound: Tensor) -> Tensor:
    """y [..., B] (TD3, equation 14), given the noise of the actions [..., B, A] in parts of their scale."""
    action = slow_policy(batch.following, batch.after, batch.next_prior)
    q = slow_critics(batch.following, batch.after, disturbed(action, noise, batch.next_prior, bound))
    return batch.reward + batch.discount * q.min(0).values


def critic_loss(critics: QFunctions, batch: Batch, target: Tensor) -> Tensor:
    """Weighted squared errors, summed over the critics and averaged over the batch: [...]."""
    errors = ((critics(batch.now, batch.before, batch.action) - target) ** 2).sum(0)
    return (batch.weight * errors).mean(-1)


def policy_loss(policy: Policy, critics: QFunctions, batch: Batch, bound: Tensor, coefficient: float) -> Tensor:
    """-Q_1 of the policy's actions, weighted and averaged over the batch: [...].

    Where there is a prior, plus the coefficient times the KL of a Gaussian around the action, of the prior's deviation, from it."""
    action = policy(batch.now, batch.before, batch.prior)
    loss = -critics(batch.now, batch.before, action.clamp(-bound, bound))[0]
    if batch.prior is not None:
        loss = loss + coefficient * 0.5 * (((action - batch.prior.mean) / batch.prior.stddev) ** 2).sum(-1)
    return (batch.weight * loss).mean(-1)


def squared_distance(moved: nn.Module, anchor: nn.Module) -> Tensor:
    """|theta - theta_meta|^2 of each task, [N], for parameters [N, ...] and [...]."""
    pairs = zip(moved.parameters(), anchor.parameters(), strict=True)
    return torch.stack([((own - first.detach()) ** 2).flatten(1).sum(1) for own, first in pairs]).sum(0)
