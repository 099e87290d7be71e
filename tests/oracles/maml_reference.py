"""Gradient-based meta-learning as the papers write it: one task after another, double precision, torch's own distributions.

It shares no code with the package. A task's data are its valid decisions only, so that a mask has nothing to do here.
Parameters are lists of tensors: weight and bias of each layer, then log standard deviations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal, kl_divergence

Theta = list[Tensor]


@dataclass(frozen=True)
class Spec:
    """What is computed."""

    rate: float = 0.1
    ratio: bool = False  # the inner loss is pi / pi_old times the advantage (ProMP), not log pi times it
    first_order: bool = False
    credit: bool = False  # E-MAML
    context: int = 0  # CAVIA
    discrete: bool = False
    coefficient: float = 0.0  # of KL(pi || prior)


class Data(NamedTuple):
    """n decisions of one task."""

    observation: Tensor  # [n, O]
    action: Tensor  # [n, A]
    advantage: Tensor  # [n]
    log_prob: Tensor  # [n] of the policy that acted
    base_mean: Tensor  # [n, A]
    base_log_stddev: Tensor  # [n, A]

    def prior(self) -> Distribution:
        return Independent(Normal(self.base_mean, self.base_log_stddev.exp()), 1)


def policy(spec: Spec, theta: Theta, context: Tensor, data: Data) -> Distribution:
    x = torch.cat([data.observation, context.expand(len(data.observation), spec.context)], 1)
    for k in range(0, len(theta) - 3, 2):
        x = torch.tanh(x @ theta[k].T + theta[k + 1])
    output = x @ theta[-3].T + theta[-2]
    if spec.discrete:
        return Categorical(logits=output)
    log_stddev = (data.base_log_stddev + theta[-1]).clamp(-10, 2)  # SPiRL's range
    return Independent(Normal(data.base_mean + output, log_stddev.exp()), 1)


def log_prob(spec: Spec, distribution: Distribution, action: Tensor) -> Tensor:
    return distribution.log_prob(action.argmax(1) if spec.discrete else action)


def penalty(spec: Spec, distribution: Distribution, data: Data) -> Tensor:
    return spec.coefficient * kl_divergence(distribution, data.prior()).mean() if spec.coefficient else torch.zeros(())


def adapt(spec: Spec, theta: Theta, before: Data, context: Tensor | None = None) -> tuple[Theta, Tensor]:
    """theta - rate grad L(theta), or with a context the context's step: MAML, algorithm 3; CAVIA, algorithm 2."""
    if context is None:
        context = torch.zeros(spec.context, dtype=torch.float64, requires_grad=True)
    acting = policy(spec, theta, context, before)
    log_probs = log_prob(spec, acting, before.action)
    objective = torch.exp(log_probs - before.log_prob) if spec.ratio else log_probs
    loss = -(objective * before.advantage).mean() + penalty(spec, acting, before)
    moved = [context] if spec.context else theta
    gradients = torch.autograd.grad(loss, moved, create_graph=not spec.first_order, allow_unused=True)
    stepped = [p if g is None else p - spec.rate * g for p, g in zip(moved, gradients, strict=True)]
    return (theta, stepped[0]) if spec.context else (stepped, context)


def outer_loss(spec: Spec, theta: Theta, before: list[Data], after: list[Data], score: np.ndarray) -> Tensor:
    """Mean over tasks of the importance-weighted surrogate of the adapted policy, with E-MAML's term."""
    total = torch.zeros((), dtype=torch.float64)
    for task in range(len(before)):
        adapted = policy(spec, *adapt(spec, theta, before[task]), after[task])
        ratio = torch.exp(log_prob(spec, adapted, after[task].action) - after[task].log_prob)
        total = total - (ratio * after[task].advantage).mean() + penalty(spec, adapted, after[task])
        if spec.credit:
            start = policy(spec, theta, torch.zeros(spec.context), before[task])
            total = total - float(score[task]) * log_prob(spec, start, before[task].action).mean()
    return total / len(before)


def mean_kl(spec: Spec, theta: Theta, old: Theta, before: list[Data], after: list[Data]) -> Tensor:
    """Mean over tasks and decisions of KL(adapted || adapted from old)."""
    total = torch.zeros((), dtype=torch.float64)
    for first, then in zip(before, after, strict=True):
        new = policy(spec, *adapt(spec, theta, first), then)
        was = policy(spec, *adapt(spec, old, first), then)
        fixed: Any = (
            Categorical(logits=was.logits.detach())  # type: ignore[attr-defined]
            if spec.discrete
            else Independent(Normal(was.mean.detach(), was.stddev.detach()), 1)
        )
        total = total + kl_divergence(new, fixed).mean()
    return total / len(before)


def vector_of(theta: Theta) -> Tensor:
    return torch.cat([p.reshape(-1) for p in theta])


def theta_of(vector: Tensor, like: Theta) -> Theta:
    return [part.view(p.shape) for part, p in zip(vector.split([p.numel() for p in like]), like, strict=True)]


def gradient(spec: Spec, theta: Theta, before: list[Data], after: list[Data], score: np.ndarray) -> np.ndarray:
    vector = vector_of(theta).detach().requires_grad_(True)
    loss = outer_loss(spec, theta_of(vector, theta), before, after, score)
    return torch.autograd.grad(loss, vector)[0].numpy()


def curvature(spec: Spec, theta: Theta, before: list[Data], after: list[Data]) -> np.ndarray:
    """The Hessian of the mean KL at its minimum, [P, P], by double backward."""
    old = [p.detach().clone().requires_grad_(True) for p in theta]
    return torch.autograd.functional.hessian(
        lambda vector: mean_kl(spec, theta_of(vector, theta), old, before, after), vector_of(theta).detach()
    ).numpy()


def trust_region(
    spec: Spec,
    theta: Theta,
    before: list[Data],
    after: list[Data],
    score: np.ndarray,
    radius: float,
    damping: float,
) -> tuple[np.ndarray, float]:
    """TRPO's step by a dense solve; up to 15 tries, each 0.8 of the one before. Returns parameters and the part of the step."""
    start = vector_of(theta).detach()
    slope = gradient(spec, theta, before, after, score)
    matrix = curvature(spec, theta, before, after) + damping * np.eye(len(slope))
    natural = np.linalg.solve(matrix, slope)
    full = torch.from_numpy(natural * np.sqrt(2 * radius / (natural @ matrix @ natural)))
    old = [p.detach().clone().requires_grad_(True) for p in theta]
    bar = float(outer_loss(spec, old, before, after, score).detach())
    for k in range(15):
        tried = [p.detach().requires_grad_(True) for p in theta_of(start - 0.8**k * full, theta)]
        if (
            float(outer_loss(spec, tried, before, after, score)) < bar
            and float(mean_kl(spec, tried, old, before, after)) <= radius
        ):
            return (start - 0.8**k * full).numpy(), 0.8**k
    return start.numpy(), 0.0


def promp_loss(
    spec: Spec, theta: Theta, old: Theta, before: list[Data], after: list[Data], clip: float, weight: float
) -> Tensor:
    """ProMP, equation 14: the clipped objective of the adapted policy and KL(pi_old || pi) of the one before."""
    total = torch.zeros((), dtype=torch.float64)
    for first, then in zip(before, after, strict=True):
        adapted = policy(spec, *adapt(spec, theta, first), then)
        for d_log, advantage in zip(log_prob(spec, adapted, then.action) - then.log_prob, then.advantage, strict=True):
            ratio = torch.exp(d_log)
            clipped = min(
                max(ratio, torch.tensor(1 - clip, dtype=torch.float64)), torch.tensor(1 + clip, dtype=torch.float64)
            )
            total = total - min(ratio * advantage, clipped * advantage) / len(then.advantage)
        total = total + penalty(spec, adapted, then)
        nothing = torch.zeros(0)
        was = policy(spec, [p.detach() for p in old], nothing, first)
        total = total + weight * kl_divergence(was, policy(spec, theta, nothing, first)).mean()
    return total / len(before)


def adam(theta: Theta, slopes: list[np.ndarray], moments: list[Any], rate: float) -> Theta:
    """One step of Adam (Kingma and Ba 2015, algorithm 1). `moments` is [step, m, v] and is changed."""
    moments[0] += 1
    moved = []
    for i, (parameter, slope) in enumerate(zip(theta, slopes, strict=True)):
        moments[1][i] = 0.9 * moments[1][i] + 0.1 * slope
        moments[2][i] = 0.999 * moments[2][i] + 0.001 * slope**2
        first, second = moments[1][i] / (1 - 0.9 ** moments[0]), moments[2][i] / (1 - 0.999 ** moments[0])
        moved.append(parameter.detach() - torch.from_numpy(rate * first / (np.sqrt(second) + 1e-8)))
    return moved


def returns_of(reward: np.ndarray, discount: float) -> np.ndarray:
    return np.array([sum(discount**k * r for k, r in enumerate(reward[t:])) for t in range(len(reward))])


def baseline(observations: list[np.ndarray], returns: list[np.ndarray], ridge: float = 1e-5) -> list[np.ndarray]:
    """Ridge regression on (o, o^2, t, t^2, t^3, 1) with t in hundreds of steps, by lstsq on the augmented system."""
    features = []
    for o in observations:
        t, o = np.arange(len(o))[:, None] / 100, np.clip(o, -10, 10)
        features.append(np.concatenate([o, o**2, t, t**2, t**3, np.ones_like(t)], 1))
    x, y = np.concatenate(features), np.concatenate(returns)
    augmented = np.concatenate([x, np.sqrt(ridge) * np.eye(x.shape[1])])
    weights = np.linalg.lstsq(augmented, np.concatenate([y, np.zeros(x.shape[1])]), rcond=None)[0]
    return [f @ weights for f in features]


def advantages_of(observations: list[np.ndarray], rewards: list[np.ndarray], discount: float) -> np.ndarray:
    """Of one task's episodes, one after another: returns minus the baseline, mean 0 and deviation 1."""
    returns = [returns_of(reward, discount) for reward in rewards]
    values = baseline(observations, returns)
    raw = np.concatenate([r - v for r, v in zip(returns, values, strict=True)])
    return (raw - raw.mean()) / raw.std()
