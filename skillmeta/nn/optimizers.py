"""torch's Adam, steps along given gradients, and the slow copy that target networks are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adam import adam as adam_step


def adam(parameters: Iterable[Tensor], learning_rate: float) -> torch.optim.Adam:
    """Adam in one fused pass over all parameters."""
    return torch.optim.Adam(list(parameters), lr=learning_rate, fused=True)


def apply_gradients(optimizer: torch.optim.Adam, gradients: Sequence[Tensor]) -> None:
    """One step along gradients that were computed elsewhere, in the order of the optimiser's parameters."""
    apply_all([optimizer], [gradients])


def apply_all(optimizers: Sequence[torch.optim.Adam], gradients: Sequence[Sequence[Tensor]]) -> None:
    """One step of several optimisers with the same settings, each along its own gradients, in one call: what costs a step of small
    networks is the call."""
    parameters: list[Tensor] = []
    columns: dict[str, list[Tensor]] = {"exp_avg": [], "exp_avg_sq": [], "step": []}
    for optimizer in optimizers:
        for parameter in optimizer.param_groups[0]["params"]:
            state = optimizer.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            parameters.append(parameter)
            for name, column in columns.items():
                column.append(state[name])
    # The fused step on the CPU reads memory in order, whatever the strides of a gradient are.
    along = [gradient.contiguous() for each in gradients for gradient in each]
    assert len(along) == len(parameters)
    group = optimizers[0].param_groups[0]
    (beta1, beta2), lr, eps = group["betas"], group["lr"], group["eps"]
    with torch.no_grad():
        adam_step(
            parameters, along, columns["exp_avg"], columns["exp_avg_sq"], [], columns["step"],
            fused=True, amsgrad=False, beta1=beta1, beta2=beta2, lr=lr, weight_decay=0.0, eps=eps, maximize=False,
        )  # fmt: skip


def polyak_update(target: nn.Module, online: nn.Module, tau: float) -> None:
    """target <- (1 - tau) target + tau online."""
    with torch.no_grad():
        torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)
