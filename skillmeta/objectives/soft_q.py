"""Soft Q-learning with a prior: targets and losses (SAC, Haarnoja et al. 2018; SPiRL, Pertsch et al. 2020, eq. 6 and 7).

    V(s) = min_i Q_i(s, a) - coefficient D         y = r + gamma V(s')
    critics: sum_i (Q_i(s, a) - y)^2               policy: coefficient D - min_i Q_i(s, a~pi)

D is the divergence of the policy from the prior (`skillmeta.objectives.regularizer`). Functions of numbers, networks and noise.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from skillmeta.nn.networks import promoted

QFunction = Callable[[Tensor, Tensor], Tensor]  # inputs [..., B, I], actions [..., B, A] -> [n, ..., B]


def min_q(critics: QFunction, inputs: Tensor, action: Tensor, bound: Tensor) -> Tensor:
    """min_i Q_i, [..., B], of actions [..., B, A] clipped to the box: only actions that are executed have values."""
    return promoted(critics(inputs, action.clamp(-bound, bound))).min(0).values


def soft_value(q: Tensor, divergence_cost: Tensor, coefficient: Tensor) -> Tensor:
    """V(s) = Q - coefficient D, [..., B], of a coefficient [...] or [B]."""
    return q - spread(coefficient, q) * divergence_cost


def td_target(reward: Tensor, discount: Tensor, next_value: Tensor) -> Tensor:
    """y = r + gamma V(s'), [B]; the discount [B] is 0 where the MDP ended."""
    return reward + discount * next_value


def td_error(q: Tensor, target: Tensor) -> Tensor:
    """Squared errors of Q values [n, ..., B] against targets [..., B], summed over the critics and averaged over the batch."""
    return ((q - target) ** 2).sum(0).mean(-1)


def actor_loss(q: Tensor, divergence_cost: Tensor, coefficient: Tensor) -> Tensor:
    """coefficient D - Q, averaged over the batch: [...]."""
    return (spread(coefficient, q) * divergence_cost - q).mean(-1)


def spread(coefficient: Tensor, like: Tensor) -> Tensor:
    """A coefficient [...] of batches [..., B], so that it multiplies each row; one that has a number a row, [..., B], as it is."""
    return coefficient if coefficient.dim() == like.dim() else coefficient.unsqueeze(-1)
