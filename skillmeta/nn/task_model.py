"""A model of tasks: what a decision leads to and earns, given a few numbers that stand for the task."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skillmeta.nn.distributions import Gaussian
from skillmeta.nn.networks import MLP


class TaskModel(nn.Module):
    """Inputs [..., B, I] and contexts [..., C] of their tasks -> a Gaussian over outputs [..., B, P].

    Log variances lie between learned limits, which softplus makes smooth (PETS, Chua et al. 2018, arXiv:1805.12114, appendix A.1).
    Parameters may have a leading axis of N tasks (`skillmeta.nn.windows.stacked`).
    """

    def __init__(self, inputs: int, context: int, outputs: int, hidden: int, depth: int, generator: torch.Generator):
        super().__init__()
        self.net = MLP(inputs + context, 2 * outputs, hidden, depth, generator)
        self.highest = nn.Parameter(torch.full((outputs,), 0.5))  # of the log variances; where PETS starts
        self.lowest = nn.Parameter(torch.full((outputs,), -10.0))

    def forward(self, inputs: Tensor, context: Tensor) -> Gaussian:
        each = context.unsqueeze(-2).expand(*inputs.shape[:-1], context.shape[-1])
        mean, log_variance = self.net(torch.cat([inputs, each], -1)).chunk(2, -1)
        highest, lowest = self.highest.unsqueeze(-2), self.lowest.unsqueeze(-2)
        log_variance = highest - F.softplus(highest - log_variance)
        log_variance = lowest + F.softplus(log_variance - lowest)
        return Gaussian(mean, 0.5 * log_variance)

    def width(self) -> Tensor:
        """How far the limits are apart, summed over outputs: what PETS penalises, so that they follow the data."""
        return (self.highest - self.lowest).sum()
