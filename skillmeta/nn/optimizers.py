"""torch's Adam, steps along given gradients, and the slow copy that target networks are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


def adam(parameters: Iterable[Tensor], learning_rate: float) -> torch.optim.Adam:
    """Adam in one fused pass over all parameters. It is stepped by `apply_gradients` or by its own `step`, never by both."""
    return torch.optim.Adam(list(parameters), lr=learning_rate, fused=True)


def apply_gradients(optimizer: torch.optim.Adam, gradients: Sequence[Tensor]) -> None:
    """One step along gradients that were computed elsewhere, in the order of the optimiser's parameters."""
    apply_all([optimizer], [gradients])


def apply_all(optimizers: Sequence[torch.optim.Adam], gradients: Sequence[Sequence[Tensor]]) -> None:
    """One step of several optimisers with the same settings, each along its own gradients, in one call: what costs a step of small
    networks is the call."""
    parameters: list[Tensor] = []
    means: list[Tensor] = []
    squares: list[Tensor] = []
    counts: list[Tensor] = []
    stepped: list[Tensor] = []
    for optimizer in optimizers:
        own = optimizer.param_groups[0]["params"]
        count = optimizer.state[own[0]].get("step")
        if count is None:
            count = torch.zeros((), dtype=torch.float32, device=own[0].device)
        stepped.append(count)
        for parameter in own:
            state = optimizer.state[parameter]
            if not state:
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            state["step"] = count  # one number for all, since all are stepped together
            parameters.append(parameter)
            means.append(state["exp_avg"])
            squares.append(state["exp_avg_sq"])
            counts.append(count)
    along = [gradient for each in gradients for gradient in each]
    assert len(along) == len(parameters)
    # The fused step reads memory in order, so a gradient must lie there as its parameter does.
    along = [
        g if g.stride() == p.stride() else torch.empty_like(p).copy_(g) for g, p in zip(along, parameters, strict=True)
    ]
    group = optimizers[0].param_groups[0]
    (beta1, beta2), lr, eps = group["betas"], group["lr"], group["eps"]
    with torch.no_grad():  # what torch.optim.Adam calls for `fused`; its own way there costs as much as the step
        torch._foreach_add_(stepped, 1)
        torch._fused_adam_(
            parameters, along, means, squares, [], counts,
            lr=lr, beta1=beta1, beta2=beta2, weight_decay=0.0, eps=eps, amsgrad=False, maximize=False,
        )  # fmt: skip


def lay_alike(optimizer: torch.optim.Adam) -> None:
    """Make the moments of an optimiser lie in memory as its parameters do, which were laid otherwise after they had been made."""
    for parameter in optimizer.param_groups[0]["params"]:
        state = optimizer.state[parameter]
        for name in ("exp_avg", "exp_avg_sq"):
            if name in state and state[name].stride() != parameter.stride():
                state[name] = torch.empty_like(parameter).copy_(state[name])


class SlowCopy:
    """What target networks are: target <- (1 - tau) target + tau online. The parameters of both are looked up once."""

    def __init__(self, target: nn.Module, online: nn.Module):
        self.target: list[Tensor] = list(target.parameters())
        self.online: list[Tensor] = list(online.parameters())

    def polyak_update(self, tau: float) -> None:
        with torch.no_grad():
            torch._foreach_lerp_(self.target, self.online, tau)
