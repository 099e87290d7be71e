"""An update as one CUDA graph: its kernels are recorded once, and then launched together.

An update of small networks is some hundreds of kernels, each of which runs for a few microseconds and takes longer to launch. On
other devices than CUDA the update runs as it is written.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

InputsT = TypeVar("InputsT", bound="tuple[object, ...]")
ResultT = TypeVar("ResultT")
RECORDS = "cuda"  # kind of device that has graphs
WARM_UP = 3  # calls that run as they are written: libraries choose their kernels, an optimiser makes its state


@dataclass
class Recorded(Generic[InputsT, ResultT]):
    """A function for inputs of some shapes, and where its graph reads and writes."""

    inputs: InputsT
    calls: int = 0
    result: ResultT | None = None
    graph: torch.cuda.CUDAGraph | None = None
    refused: bool = False  # it cannot be recorded


class Graphed(Generic[InputsT, ResultT]):
    """A function of tensors that runs as a CUDA graph where its device is one of CUDA.

    The function draws no random numbers, decides nothing by what a tensor holds, and what it changes stays where it is: parameters,
    an optimiser's state. What cannot be recorded runs as it is written, and a warning says why.

    Args:
        function: of tuples of tensors, nested or named; None may stand for a tensor that there is not.
    """

    def __init__(self, function: Callable[[InputsT], ResultT]):
        self.function = function
        self.recorded: dict[tuple[torch.Size, ...], Recorded[InputsT, ResultT]] = {}

    def __call__(self, inputs: InputsT, device: torch.device) -> ResultT:
        """Call it with inputs that lie anywhere. The next call may overwrite what it returns."""
        if device.type != RECORDS:
            return self.function(moved(inputs, device))
        with torch.cuda.device(device):  # where graphs are recorded and launched
            return self._call(inputs, device)

    def _call(self, inputs: InputsT, device: torch.device) -> ResultT:
        shapes = tuple(x.shape for x in tensors(inputs))
        if shapes not in self.recorded:
            self.recorded[shapes] = Recorded(_mapped(inputs, functools.partial(torch.empty_like, device=device)))
        one = self.recorded[shapes]
        for there, here in zip(tensors(one.inputs), tensors(inputs), strict=True):
            there.copy_(here)
        if one.graph is None and one.calls >= WARM_UP and not one.refused:
            self._record(one, device)
        one.calls += 1
        if one.graph is None:
            return self.function(one.inputs)
        one.graph.replay()
        assert one.result is not None
        return one.result

    def _record(self, one: Recorded[InputsT, ResultT], device: torch.device) -> None:
        """Record what the function does, which does nothing yet."""
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            own = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            with torch.cuda.graph(graph, stream=own, capture_error_mode="thread_local"):
                one.result = self.function(one.inputs)
        except RuntimeError as error:
            torch.cuda.set_stream(before)  # which a failed recording does not go back to
            one.refused = True
            why = error.__context__ or error  # the end of a recording raises too, of less use
            warnings.warn(f"updates run without a CUDA graph: {str(why).splitlines()[0]}", stacklevel=4)
        else:
            one.graph = graph


def moved(inputs: InputsT, device: torch.device) -> InputsT:
    """Tuples of tensors, nested or named, on a device."""
    return _mapped(inputs, lambda x: x.to(device))


def row(inputs: InputsT, k: int) -> InputsT:
    """The tuples of tensors number k of a stack of them."""
    return _mapped(inputs, lambda x: x[k])


def _mapped(inputs: InputsT, function: Callable[[Tensor], Tensor]) -> InputsT:
    """Tuples of tensors, nested or named, with each tensor changed."""
    found = [
        None if x is None else function(x) if isinstance(x, Tensor) else _mapped(x, function)  # type: ignore[type-var]
        for x in inputs
    ]
    return type(inputs)(*found) if hasattr(inputs, "_fields") else type(inputs)(found)  # type: ignore[arg-type]


def tensors(inputs: tuple[object, ...]) -> Iterator[Tensor]:
    """Those in tuples, nested or named."""
    for x in inputs:
        if isinstance(x, Tensor):
            yield x
        elif isinstance(x, tuple):
            yield from tensors(x)
