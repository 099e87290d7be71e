"""A second device on a machine that has one: its tensors have real numbers, and refuse to meet those of the CPU.

torch's FakeTensorMode refuses to mix devices too. But on a build without CUDA autograd ends the process at its first `cuda` tensor,
and its tensors have no numbers, which environments need. Here a tensor says that it is on `meta`, and keeps its numbers in one on
the CPU. So every learner runs as it is, and what it learns elsewhere is compared with what it learns on the CPU.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from skillmeta.nn.cuda_graph import Graphed, moved

ELSEWHERE = torch.device("meta")
CROSSING = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)  # may take tensors of two devices
READING = torch.ops.aten._local_scalar_dense.default  # a number, for Python
recording: list[bool] = []  # not empty: a CUDA graph would be recorded


class Elsewhere(Tensor):
    """A tensor on the second device."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, numbers: Tensor) -> Elsewhere:
        return Tensor._make_wrapper_subclass(
            cls, numbers.shape, numbers.stride(), numbers.storage_offset(), dtype=numbers.dtype, device=ELSEWHERE
        )

    def __init__(self, numbers: Tensor):
        self.numbers = numbers

    def tolist(self) -> Any:
        assert not recording
        return self.numbers.tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})


class Everywhere(TorchDispatchMode):
    """Makes tensors on the second device where they are asked for there."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})


def run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation on the numbers. Raises RuntimeError for tensors of two devices; a number, [], may come from the CPU."""
    away: dict[int, Elsewhere] = {}
    here = 0  # tensors of the CPU that are no numbers

    def numbers(one: Tensor) -> Tensor:
        nonlocal here
        if isinstance(one, Elsewhere):
            away[id(one.numbers)] = one
            return one.numbers
        here += one.dim() > 0
        return one

    if recording and (function is READING or (function in CROSSING and crosses(function, args, kwargs))):
        raise RuntimeError(f"a CUDA graph cannot record {function} between devices")
    wanted = kwargs.get("device")
    plain, named = each(args, numbers), {key: each(value, numbers) for key, value in kwargs.items()}
    if away and here and function not in CROSSING:
        raise RuntimeError(f"{function} of tensors on two devices")
    if away and torch.Tag.inplace_view in function.tags:  # the shape that the tensor says changes too
        with torch._C._DisableTorchDispatch():
            function(*args, **kwargs)
    stays = isinstance(args[0], Elsewhere) if function is torch.ops.aten.copy_.default else bool(away)
    to = stays if wanted is None else torch.device(wanted) == ELSEWHERE
    result = function(*plain, **(named if wanted is None else {**named, "device": "cpu"}))
    return each(result, lambda one: away[id(one)] if id(one) in away else Elsewhere(one)) if to else result


def crosses(function: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether an operation takes numbers from one device to the other."""
    if function is torch.ops.aten.copy_.default:
        return isinstance(args[0], Elsewhere) != isinstance(args[1], Elsewhere)
    to = kwargs.get("device")
    return to is not None and isinstance(args[0], Elsewhere) != (torch.device(to) == ELSEWHERE)


def recorded(graphed: Graphed[Any, Any], inputs: Any, device: torch.device) -> Any:
    """A call of a function that would be a CUDA graph on a device of CUDA."""
    inputs = moved(inputs, device)
    recording.append(True)
    try:
        return graphed.function(inputs)
    finally:
        recording.pop()


def each(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """A value with its tensors changed, in lists and tuples too."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(each(one, change) for one in value)
    return value


def autocast(device_type: str, *rest: Any, **named: Any) -> Any:
    assert device_type == ELSEWHERE.type
    return contextlib.nullcontext()


def to(module: nn.Module, device: torch.device, move: Any = nn.Module.to) -> nn.Module:
    """As on a real device, a parameter stays the same object."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        return move(module, device)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    """In here `ELSEWHERE` is a device on which modules can be moved, optimised and cast. What a CUDA device records as a graph may
    not leave it."""
    with (
        warnings.catch_warnings(),
        mock.patch.object(torch, "autocast", autocast),
        mock.patch.object(nn.Module, "to", to),
        mock.patch.object(Graphed, "__call__", recorded),
        mock.patch("torch.optim.adam._device_dtype_check_for_fused"),
        Everywhere(),
    ):
        warnings.filterwarnings("ignore", message=".*meta parameter")  # torch's, that it were without numbers
        yield


class OnTheCPU:
    """A source, or another object, whose methods run as if there were no second device."""

    def __init__(self, of: Any):
        self.of = of

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.of, name)
        if not callable(found):
            return found

        def call(*args: Any, **named: Any) -> Any:
            with _disable_current_modes():
                return found(*args, **named)

        return call
