"""torch's Adam with its state as plain storable values, and the slow copy that target networks are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

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


def polyak_update(target: nn.Module, online: nn.Module, rate: float) -> None:
    """target <- (1 - rate) target + rate online."""
    with torch.no_grad():
        torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), rate)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The moments by the parameter's number."""
    return {str(i): dict(moments) for i, moments in optimizer.state_dict()["state"].items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Put moments from `optimizer_state` back."""
    whole = optimizer.state_dict()
    whole["state"] = {int(i): moments for i, moments in state.items()}
    optimizer.load_state_dict(whole)
