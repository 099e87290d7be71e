"""A function as a CUDA graph, on the CPU with a graph that runs the function where it would run the kernels."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from skillmeta.nn import cuda_graph
from skillmeta.nn.cuda_graph import Graphed, moved, row, tensors
from skillmeta.run.device import CPU


class Inputs(NamedTuple):
    numbers: Tensor
    pair: tuple[Tensor, None]


class Graph:
    """Reads where it was recorded to read, and writes where it was recorded to write."""

    replays = 0

    def __init__(self, function: Any, one: Any):
        self.function, self.one = function, one

    def replay(self) -> None:
        self.replays += 1
        self.one.result.copy_(self.function(self.one.inputs))


@pytest.fixture
def graphs(monkeypatch):
    """Those that were recorded."""
    made = []

    def record(self, one, device):
        one.graph, one.result = Graph(self.function, one), torch.empty(())
        made.append(one.graph)

    monkeypatch.setattr(cuda_graph, "RECORDS", "cpu")
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(Graphed, "_record", record)
    return made


def given(value: float, size: int = 2) -> Inputs:
    return Inputs(torch.full((size,), value), (torch.ones(3), None))


def total(inputs: Inputs) -> Tensor:
    return inputs.numbers.sum() + inputs.pair[0].sum()


def test_calls_are_replayed_after_the_first_ones_with_the_inputs_of_each_call(graphs):
    call = Graphed(total)
    found = [float(call(given(k), CPU)) for k in range(6)]
    assert found == [3 + 2 * k for k in range(6)]
    assert [graph.replays for graph in graphs] == [6 - cuda_graph.WARM_UP]


def test_inputs_of_another_shape_have_a_graph_of_their_own(graphs):
    call = Graphed(total)
    for k in range(5):
        assert float(call(given(k), CPU)) == 3 + 2 * k
        assert float(call(given(k, 4), CPU)) == 3 + 4 * k
    assert [graph.replays for graph in graphs] == [5 - cuda_graph.WARM_UP] * 2


def test_what_cannot_be_recorded_runs_as_it_is_and_says_so_once(monkeypatch):
    class Refuses:
        """What torch does: the end of a recording that broke raises too, and leaves another stream behind."""

        def __init__(self, *given: Any, **named: Any):
            pass

        def __enter__(self):
            streams.append("of the graph")

        def __exit__(self, *error: object):
            raise RuntimeError("the recording is no longer valid")

    def read(inputs: Inputs) -> Tensor:
        if streams[-1] == "of the graph":
            raise RuntimeError("operation not permitted\nwhile capturing")
        return total(inputs)

    streams = ["the usual one"]
    monkeypatch.setattr(cuda_graph, "RECORDS", "cpu")
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Refuses)
    monkeypatch.setattr(torch.cuda, "Stream", Refuses)
    monkeypatch.setattr(torch.cuda, "graph", Refuses)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: streams[-1])
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    call = Graphed(read)
    with pytest.warns(UserWarning, match="run without a CUDA graph: operation not permitted$") as said:
        assert [float(call(given(k), CPU)) for k in range(6)] == [3 + 2 * k for k in range(6)]
    assert len(said) == 1


def test_elsewhere_than_on_cuda_the_function_is_called_with_the_inputs_on_the_device():
    inputs = given(1.0)
    assert Graphed(lambda x: x)(inputs, CPU).numbers is inputs.numbers
    assert moved(inputs, CPU).pair[1] is None and list(tensors(inputs)) == [inputs.numbers, inputs.pair[0]]
    assert torch.equal(
        row(Inputs(torch.arange(4.0).view(2, 2), (torch.ones(2), None)), 1).numbers, torch.tensor([2.0, 3.0])
    )
