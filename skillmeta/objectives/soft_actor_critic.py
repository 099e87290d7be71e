"""An update of SAC (Haarnoja et al. 2018, arXiv:1801.01290) with a prior, made of the losses of `objectives/soft_q.py`.

The networks may be of N tasks at once, with parameters [N, ...] and batches [N, B, ...]: each learns as it would alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from skillmeta.nn.distributions import Gaussian
from skillmeta.nn.networks import Critics
from skillmeta.nn.optimizers import SlowCopy, adam, apply_gradients
from skillmeta.nn.policies import PolicyNetwork
from skillmeta.objectives.regularizer import Regularizer
from skillmeta.objectives.soft_q import actor_loss, min_q, soft_value, td_error, td_target


class Batch(NamedTuple):
    """What SAC's losses depend on beside the networks; leading axes `...` of tasks."""

    now: Tensor  # [..., B, O + C] normalised observations and contexts
    following: Tensor  # [..., B, O + C]
    action: Tensor  # [..., B, A]
    reward: Tensor  # [..., B] scaled
    discount: Tensor  # [..., B] 0 where the MDP ended
    prior: Gaussian | None  # at the observations
    next_prior: Gaussian | None


class Sac:
    """Policy and critics, of all tasks together or of N tasks each (parameters [N, ...]), and what an update changes with them."""

    def __init__(self, policy: PolicyNetwork, critics: Critics, slow: Critics, tau: float, learning_rate: float):
        self.policy, self.critics, self.slow, self.tau = policy, critics, slow, tau
        self.slow_copy = SlowCopy(slow, critics)
        self.policy_optimizer = adam(policy.parameters(), learning_rate)
        self.critic_optimizer = adam(critics.parameters(), learning_rate)

    def update(self, batch: Batch, noise: Tensor, regularizer: Regularizer, coefficient: Tensor) -> Tensor:
        """One update; returns the losses of critics and policy, and the divergence from the prior, as means.

        Args:
            noise: standard normal, [2, ..., B, A], of actions at next observations, and at observations.
            coefficient: of the divergence, a number.
        """
        policy, critics, bound = self.policy, self.critics, self.policy.bound
        with torch.no_grad():
            then = policy(batch.following, batch.next_prior)
            q = min_q(self.slow, batch.following, then.rsample(noise[0]), bound)
            cost = regularizer.td_cost(regularizer.divergence(then, batch.next_prior, noise[0]))
            target = td_target(batch.reward, batch.discount, soft_value(q, cost, coefficient))
        critic_loss = td_error(critics(batch.now, batch.action), target)
        apply_gradients(self.critic_optimizer, torch.autograd.grad(critic_loss.sum(), list(critics.parameters())))
        chosen = policy(batch.now, batch.prior)
        divergence = regularizer.divergence(chosen, batch.prior, noise[1])
        policy_loss = actor_loss(min_q(critics, batch.now, chosen.rsample(noise[1]), bound), divergence, coefficient)
        apply_gradients(self.policy_optimizer, torch.autograd.grad(policy_loss.sum(), list(policy.parameters())))
        self.slow_copy.polyak_update(self.tau)
        return torch.stack([critic_loss.mean(), policy_loss.mean(), divergence.mean()]).detach()
