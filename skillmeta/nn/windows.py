"""A GRU over the last decisions before each of a batch, and networks whose parameters have a leading axis of tasks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from skillmeta.nn.networks import affine, check_size, linear

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class WindowGRU(nn.Module):
    """A GRU over windows of decisions [..., B, T, D] -> its last state [..., B, C]."""

    def __init__(self, inputs: int, width: int, generator: torch.Generator):
        super().__init__()
        check_size(3 * (inputs + width) * width)
        self.width = width
        self.of_inputs, self.of_state = (linear(size, 3 * width, generator) for size in (inputs, width))

    def forward(self, window: Tensor) -> Tensor:
        entered = affine(window.flatten(-3, -2), self.of_inputs).view(*window.shape[:-1], -1)
        state = window.new_zeros(*window.shape[:-2], self.width)
        two = 2 * self.width
        for entry in entered.unbind(-2):
            past = affine(state, self.of_state)
            reset, update = torch.sigmoid(entry[..., :two] + past[..., :two]).chunk(2, -1)
            candidate = torch.tanh(entry[..., two:] + reset * past[..., two:])
            state = torch.lerp(candidate, state, update)
        return state


def stacked(module: ModuleT, tasks: int) -> ModuleT:
    """A copy with the same parameters for each of N tasks, [N, ...]."""
    copied = copy.deepcopy(module)
    for parameter, each in zip(copied.parameters(), expanded(module, tasks), strict=True):
        parameter.data = each.clone()
    return copied


def expanded(module: nn.Module, tasks: int) -> tuple[Tensor, ...]:
    """The parameters of `stacked` without a copy."""
    return tuple(p.detach().expand(tasks, *p.shape) for p in module.parameters())


def named(module: nn.Module, parameters: Sequence[Tensor]) -> dict[str, Tensor]:
    """Other parameters for a module, in its order, as `torch.func.functional_call` takes them."""
    return dict(zip((name for name, _ in module.named_parameters()), parameters, strict=True))
