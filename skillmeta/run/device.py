"""Where a learner's numbers lie. Networks are made and random numbers are drawn on the CPU, and then moved, so that a seed gives
the same weights, batches and noise on every device. Environments, actors, replays and files know the CPU alone (docs/devices.md).
"""

from __future__ import annotations

import copy
import types
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from skillmeta.errors import ConfigError
from skillmeta.types import Part, Parts

T = TypeVar("T")
CPU = torch.device("cpu")
ATOMS = (str, int, float, type, types.FunctionType, types.ModuleType)  # that hold no tensors


def device_of(name: str) -> torch.device:
    """The device of a name in a config: `auto` is an accelerator where there is one, and else the CPU.

    Raises ConfigError for an accelerator that this machine does not have.
    """
    there = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        name = "cpu" if there is None else there.type
    wanted, count = torch.device(name), torch.accelerator.device_count()
    if wanted == CPU:
        return CPU
    index = wanted.index or 0
    if there is None or there.type != wanted.type or index >= count:
        has = "none" if there is None else f"{count} of type {there.type}"
        raise ConfigError(
            f"device is {name!r}; of accelerators that torch {torch.__version__} can use, this machine has {has}; set device to "
            "auto or cpu"
        )
    # What a seed gives is to be the same up to float32 rounding, and the same again.
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    return torch.device(wanted.type, index)


def move(parts: Parts | Sequence[Part], device: torch.device) -> None:
    """Move what is learned to a device, in place, before the first update: modules, and tensors of floating-point numbers.
    Generators, replays, counts and integers stay."""
    for part in parts.values() if isinstance(parts, Mapping) else parts:
        if isinstance(part, Tensor):
            if part.is_floating_point() and part.device != device:
                # In place of the other in one object: who holds it, an optimiser for one, holds what is moved.
                torch.utils.swap_tensors(part, _moved(part, device))  # type: ignore[no-untyped-call]
        elif isinstance(part, nn.Module):
            part.to(device)
        elif isinstance(part, (Mapping, Sequence)):
            move(part, device)


def placed(value: T, device: torch.device) -> T:
    """A value whose tensors are all on a device, and row by row in memory, as a run without others (`skillmeta.nn.stack`) has
    them: itself, or a copy of it. Batches, skills, and actors on their way to environments."""
    found = _tensors_in(value)
    if all(tensor.device == device and tensor.is_contiguous() for tensor in found):
        return value
    return copy.deepcopy(value, {id(tensor): _moved(tensor, device) for tensor in found})


def normal(like: Tensor, generator: torch.Generator, *shape: int) -> Tensor:
    """Standard normal noise from a CPU stream, where `like` lies."""
    return torch.randn(shape, generator=generator).to(like.device)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    moved = tensor.detach().to(device, copy=True, memory_format=torch.contiguous_format)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(moved, tensor.requires_grad)
    return moved.requires_grad_(tensor.requires_grad)


def _tensors_in(value: object) -> list[Tensor]:
    """Every tensor that is reached from a value by items and attributes."""
    seen: set[int] = set()
    found, left = list[Tensor](), [value]
    while left:
        one = left.pop()
        if one is None or id(one) in seen or isinstance(one, ATOMS):
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            found.append(one)
        elif isinstance(one, Mapping):
            left += one.values()
        elif isinstance(one, (tuple, list)):
            left += one
        else:
            left += [*getattr(one, "__dict__", {}).values(), getattr(one, "__self__", None)]
    return found
