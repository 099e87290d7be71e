"""What on-policy learners share: advantages, a baseline that is linear in features, PPO's loss, TRPO's step.

Everything here is masked: `valid` is 1 where a decision was taken and 0 in the padding after an episode's or a trial's end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from skillmeta.nn.distributions import Categorical, Gaussian
from skillmeta.types import Metrics


def discounted_sums(values: Tensor, factor: float | Tensor) -> Tensor:
    """s_t = v_t + factor_t s_{t+1} along the last axis, [..., T]."""
    sums, following = torch.empty_like(values), torch.zeros_like(values[..., 0])
    for t in reversed(range(values.shape[-1])):
        step = factor if isinstance(factor, float) else factor[..., t]
        following = values[..., t] + step * following
        sums[..., t] = following
    return sums


def advantages(
    reward: Tensor, value: Tensor, last_value: Tensor, valid: Tensor, discount: float, gae_lambda: float
) -> Tensor:
    """Generalised advantage estimates (Schulman et al. 2016, arXiv:1506.02438), [..., T].

    Args:
        reward, value, valid: [..., T].
        last_value: [...] value of what comes after the last valid decision: 0 where the world ended there.
        discount, gae_lambda: gamma and lambda. With lambda 1 this is the discounted return minus the value.

    Over a trial of RL2 the last axis is the whole trial: the ends of its episodes are not ends.
    """
    last = valid.sum(-1, keepdim=True).long() - 1
    following = torch.cat([value[..., 1:], torch.zeros_like(value[..., :1])], -1)
    following = following.scatter(-1, last.clamp(min=0), last_value.unsqueeze(-1))
    delta = (reward + discount * following - value) * valid
    return discounted_sums(delta, discount * gae_lambda) * valid


def normalized(values: Tensor, valid: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Mean 0 and standard deviation 1 over the valid entries along `dims`."""
    count = valid.sum(dims, keepdim=True).clamp(min=1)
    centred = (values - (values * valid).sum(dims, keepdim=True) / count) * valid
    return centred / ((centred**2).sum(dims, keepdim=True) / count).sqrt().add(1e-8)


def linear_values(observation: Tensor, returns: Tensor, valid: Tensor, ridge: float = 1e-5) -> Tensor:
    """Values of a baseline fitted anew to each task's episodes, [M, B, T] (Duan et al. 2016, arXiv:1604.06778).

    Features of a step are the observation, its square, t, t^2, t^3 and 1, t in hundreds of steps.

    Fitted on the CPU: not every device has double precision.

    Args: observation [M, B, T, O]; returns, valid [M, B, T].
    """
    tasks, rollouts, steps = returns.shape
    device = returns.device
    observation, returns, valid = observation.cpu(), returns.cpu(), valid.cpu()
    time = (torch.arange(steps) / 100.0).expand(tasks, rollouts, steps).unsqueeze(-1)
    seen = observation.clamp(-10, 10)
    features = torch.cat([seen, seen**2, time, time**2, time**3, torch.ones_like(time)], -1)
    flat = (features * valid.unsqueeze(-1)).flatten(1, 2).double()
    wanted = (returns * valid).flatten(1).unsqueeze(-1).double()
    square, right = flat.mT @ flat, flat.mT @ wanted
    weights = torch.linalg.solve(square + ridge * torch.eye(flat.shape[-1], dtype=torch.float64), right)
    result: Tensor = (features.flatten(1, 2).double() @ weights).view(tasks, rollouts, steps).float() * valid
    return result.to(device)


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """PPO's objective of each decision, to be maximised (Schulman et al. 2017, arXiv:1707.06347, eq. 7)."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


class Sample(NamedTuple):
    """Trials as PPO learns from them; all [N, L, ...]."""

    inputs: Tensor  # of the network
    observation: Tensor  # normalised
    raw: Tensor  # as the prior sees it
    action: Tensor
    log_prob: Tensor  # under the policy that acted
    advantage: Tensor
    returns: Tensor
    valid: Tensor

    def rows(self, chosen: Tensor) -> Sample:
        return Sample(*(part[chosen] for part in self))


LARGEST = 20.0  # logarithm of pi / pi_old, of what counts: far beyond any clip, and its exponential times any advantage is a number
PPO_METRICS = ("policy/surrogate", "value/error", "prior/divergence")


def ppo_loss(
    policy: Gaussian | Categorical, value: Tensor, prior: Gaussian | None, taken: Sample, clip: float,
    value_coefficient: float, prior_coefficient: float, scale: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """PPO's clipped loss with the divergence from the prior, and PPO_METRICS.

    Args:
        prior: of a policy over skills; None: a uniform one, the divergence from which is minus the entropy, up to a constant.
        scale: the deviation of returns, in units of which values err.
    """
    count = taken.valid.sum()
    ratio = torch.exp((policy.log_prob(taken.action) - taken.log_prob).clamp(max=LARGEST))
    surrogate = (clipped_surrogate(ratio, taken.advantage, clip) * taken.valid).sum() / count
    error = (((value - taken.returns) / scale) ** 2 * taken.valid).sum() / count
    if prior is not None:
        assert isinstance(policy, Gaussian)
        divergence = policy.kl(prior)
    else:
        divergence = -policy.entropy()
    mean_divergence = (divergence * taken.valid).sum() / count
    total = -surrogate + value_coefficient * error + prior_coefficient * mean_divergence
    return total, torch.stack([surrogate.detach(), error.detach(), mean_divergence.detach()])


def ppo_epochs(
    sample: Sample, epochs: int, minibatches: int, generator: torch.Generator, update: Callable[[Sample], Tensor]
) -> Metrics:
    """Some epochs over the trials, each in a new order, with an `update` for each minibatch. Means of its PPO_METRICS."""
    device = sample.valid.device
    sums, count = torch.zeros(len(PPO_METRICS), device=device), 0
    for _ in range(epochs):
        for rows in torch.randperm(len(sample.valid), generator=generator).chunk(minibatches):
            sums += update(sample.rows(rows.to(device)))
            count += 1
    return dict(zip(PPO_METRICS, (sums / count).tolist(), strict=True))


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], right: Tensor, iterations: int = 10
) -> tuple[Tensor, Tensor]:
    """x with H x = right, for a positive definite H known by its products with vectors [P]; and H x, as far as it got."""
    x, residual = torch.zeros_like(right), right.clone()
    direction, squared = residual.clone(), residual @ residual
    for _ in range(iterations):
        if squared < 1e-20:
            break
        image = product(direction)
        step = squared / (direction @ image)
        x, residual = x + step * direction, residual - step * image
        left = residual @ residual
        direction, squared = residual + left / squared * direction, left
    return x, right - residual


class TrustRegionStep(NamedTuple):
    """Where a step of TRPO came to; the old parameters, if nothing helped."""

    parameters: Tensor  # [P]
    part: float  # of the full step
    loss: float
    divergence: float  # from the old policy, nats


def trust_region_step(
    start: Tensor,
    loss: float,
    gradient: Tensor,
    product: Callable[[Tensor], Tensor],
    loss_and_kl: Callable[[Tensor], tuple[float, float]],
    max_kl: float,
    cg_iterations: int = 10,
    backtracks: int = 15,
    shrink: float = 0.8,
) -> TrustRegionStep:
    """TRPO's step (Schulman et al. 2015, arXiv:1502.05477): along the natural gradient to a KL of max_kl, then back until it helps.

    Args:
        start, loss, gradient: parameters [P], the loss there, and its gradient [P].
        product: the KL's Hessian (with damping) times a vector.
        loss_and_kl: both at parameters; a step is taken if the loss is below that at the start and the KL within max_kl.
    """
    natural, image = conjugate_gradients(product, gradient, cg_iterations)
    full = natural * torch.sqrt(2 * max_kl / (natural @ image).clamp(min=1e-12))
    part = 1.0
    for _ in range(backtracks):
        moved = start - part * full
        reached, divergence = loss_and_kl(moved)
        if reached < loss and divergence <= max_kl:
            return TrustRegionStep(moved, part, reached, divergence)
        part *= shrink
    return TrustRegionStep(start, 0.0, loss, 0.0)
