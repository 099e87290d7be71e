"""Propensities by logistic regression: how much each row of one sample looks like a row of another (MQL, section 3.3).

    f(x)      logistic regression: +1 for the R old rows, -1 for the new ones, both classes of equal weight
    beta(x)   exp(-f(x)), an estimate of p_new(x) / p_old(x)            ESS = (sum beta)^2 / (R sum beta^2)

Fakoor et al. 2020 (arXiv:1910.00125). Equal samples give f = 0, beta = 1 and ESS = 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from skillmeta.config import NonNegativeFloat, PositiveFloat, PositiveInt, Share, checked

HALVINGS = 8  # step lengths that a Newton step is chosen from: 1, 1/2, ... and 0


@checked
class PropensityConfig:
    """The logistic regression, and what is done with its propensities."""

    ridge: PositiveFloat = 1e-2  # of the squared weights of standardised features
    newton_steps: PositiveInt = 20  # of the fit, each damped
    largest_log: NonNegativeFloat = 1.0  # log beta is clipped to it from above
    smallest: Share = 0.1  # below it beta is 0


def logistic_regression(x: Tensor, label: Tensor, weight: Tensor, ridge: float, steps: int) -> Tensor:
    """The w [N, F] of N regressions that minimise sum_n weight_n log(1 + exp(-label_n x_n w)) + ridge |w|^2 / 2.

    A fixed number of Newton's steps from 0, each as long as is best of 1, 1/2, 1/4, ... and 0: the loss never rises.

    Args: x [N, n, F], label [N, n] of 1 and -1, weight [N, n]; in double precision.
    """
    lengths = torch.tensor([*(0.5**k for k in range(HALVINGS)), 0.0], dtype=x.dtype)

    def loss(w: Tensor) -> Tensor:
        """Of w [S, N, F], [S, N]."""
        margin = label * torch.einsum("inf,sif->sin", x, w)
        return (weight * F.softplus(-margin)).sum(-1) + 0.5 * ridge * (w**2).sum(-1)

    w, eye = x.new_zeros(x.shape[0], x.shape[2]), ridge * torch.eye(x.shape[2], dtype=x.dtype)
    for _ in range(steps):
        wrong = torch.sigmoid(-label * torch.einsum("inf,if->in", x, w))
        gradient = ridge * w - torch.einsum("in,inf->if", weight * label * wrong, x)
        hessian = torch.einsum("in,inf,ing->ifg", weight * wrong * (1 - wrong), x, x) + eye
        tried = w - lengths[:, None, None] * torch.linalg.solve(hessian, gradient)
        best = loss(tried).argmin(0)
        w = tried[best, torch.arange(len(w))]
    return w


def propensities(old: Tensor, new: Tensor, valid: Tensor, config: PropensityConfig) -> Tensor:
    """beta [N, R] of R old rows, for each of N tasks with new ones.

    Args: old [R, C] and new [N, n, C], contexts of both; valid [N, n], 1 where a task has a row.
    """
    tasks, rows = len(new), len(old)
    x = torch.cat([old.expand(tasks, -1, -1), new], 1).double()
    # Each class has half of the weight, however many rows it has: with equal densities f is 0.
    of_new = valid.double() / valid.sum(1, keepdim=True)
    weight = torch.cat([of_new.new_full((tasks, rows), 1 / rows), of_new], 1) / 2
    mean = (weight.unsqueeze(-1) * x).sum(1, keepdim=True)
    stddev = (weight.unsqueeze(-1) * (x - mean) ** 2).sum(1, keepdim=True).sqrt()
    x = F.pad((x - mean) / stddev.clamp(min=1e-6), (0, 1), value=1.0)
    label = torch.cat([torch.ones_like(weight[:, :rows]), -torch.ones_like(of_new)], 1)
    w = logistic_regression(x, label, weight, config.ridge, config.newton_steps)
    log_beta = -torch.einsum("inf,if->in", x[:, :rows], w).clamp(min=-config.largest_log)
    beta = log_beta.exp()
    return torch.where(beta < config.smallest, 0.0, beta).float()


def effective_sample_size(beta: Tensor) -> Tensor:
    """Of weights beta [N, R], in parts of R: [N], in [1 / R, 1]; 0 where all of them are 0."""
    return beta.sum(1) ** 2 / (beta.shape[1] * (beta**2).sum(1)).clamp(min=1e-12)
