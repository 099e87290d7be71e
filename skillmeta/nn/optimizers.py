"""torch's Adam, steps along given gradients, and the slow copy that target networks are."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def adam(parameters: Iterable[Tensor], learning_rate: float) -> torch.optim.Adam:
    """Adam in one fused pass over all parameters."""
    return torch.optim.Adam(list(parameters), lr=learning_rate, fused=True)


def apply_gradients(optimizer: torch.optim.Optimizer, gradients: Iterable[Tensor]) -> None:
    """One step along gradients that were computed elsewhere, in the order of the optimiser's parameters."""
    for parameter, gradient in zip(optimizer.param_groups[0]["params"], gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()


def polyak_update(target: nn.Module, online: nn.Module, tau: float) -> None:
    """target <- (1 - tau) target + tau online."""
    with torch.no_grad():
        torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)
