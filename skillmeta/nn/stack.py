"""Learners of one config, each with its own seed, whose networks are updated as one: parameters [S, ...], batches [S, B, ...].

Each learner keeps its own replay, streams and counts, and its parameters become views of the stack. So acting, saving and restoring
need nothing of this file. Losses of parameters and inputs with a leading axis [S] are every learner's; the gradient of their sum is
each one's own.
What a learner gets is what it gets alone, up to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from skillmeta.nn.cuda_graph import Graphed, moved, row
from skillmeta.nn.optimizers import apply_all, lay_alike
from skillmeta.run.parts import Counts
from skillmeta.types import Actor, Episodes, Metrics

BatchT = TypeVar("BatchT")
DrawnT = TypeVar("DrawnT", bound="tuple[object, ...]")
InputsT = TypeVar("InputsT", bound="tuple[object, ...]")


@runtime_checkable
class Stackable(Protocol[BatchT, DrawnT, InputsT]):
    """A learner that makes an update in pieces: inputs from its own streams, losses, a step of Adam, what follows."""

    @property
    def networks(self) -> nn.ModuleDict:
        """Whatever has parameters that losses depend on and updates change."""

    @property
    def trained(self) -> Sequence[str]:
        """The networks that the losses are differentiated with respect to, in the optimiser's order."""

    @property
    def optimizer(self) -> torch.optim.Adam:
        """Of the parameters of `trained`."""

    def explorer(self) -> Actor[Any]:
        """What collects the next episode."""

    def take(self, episodes: Episodes) -> int:
        """Take what was collected. Returns how many updates it is worth."""

    @property
    def counts(self) -> Counts: ...

    def sample(self) -> BatchT: ...

    def drawn(self, batch: BatchT) -> DrawnT:
        """All that an update draws, given its batch: tuples of tensors, which may lie on another device than the networks."""

    def inputs(self, drawn: DrawnT) -> InputsT:
        """What the losses depend on beside the networks: tuples of tensors."""

    def losses(self, networks: nn.ModuleDict, inputs: InputsT) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """The losses of `trained`, a number each; what `finish` takes; metrics, a vector. All have a leading axis [S] where
        networks and inputs have one. Numbers in which learners of a stack differ are of `networks` or `inputs`, never of `self`."""

    def finish(self, found: Tensor) -> None:
        """What follows a step of the optimiser."""

    def averaged(self, sums: Tensor, updates: int) -> Metrics:
        """Metrics of some updates, given their sums."""


class Stack(Generic[BatchT, DrawnT, InputsT]):
    """S learners that are updated together.

    Args:
        learners: of one config and one environment; restored already, if they are to be.
        lasting: whether it is worth recording a CUDA graph of its updates.
    """

    def __init__(self, learners: Sequence[Stackable[BatchT, DrawnT, InputsT]], lasting: bool = True):
        self.learners, first = learners, learners[0]
        self.networks = {name: StackedNetwork([one.networks[name] for one in learners]) for name in first.networks}
        for one in learners:
            lay_alike(one.optimizer)
        # Losses see one set of networks, whose parameters are those of all learners, [S, ...], and their buffers, [S, 1, n].
        self.all: nn.ModuleDict = copy.deepcopy(first.networks)
        for name, _ in first.networks.named_buffers():
            within, _, key = name.rpartition(".")
            each = torch.stack([one.networks.get_buffer(name) for one in learners]).unsqueeze(1)
            self.all.get_submodule(within).register_buffer(key, each)
        self.places = {name: places(module) for name, module in self.all.items()}
        self.device = next(first.networks.parameters()).device
        self.step: Callable[[DrawnT, torch.device], Tensor] = Graphed(self._step) if lasting else self._eagerly

    def learn(self, updates: Sequence[int]) -> list[Metrics]:
        """Some updates of each learner. Those that are owed more continue without the others, as a stack of their own."""
        sums, done = torch.zeros(len(self.learners), 0), 0
        for until in sorted({*updates} - {0}):
            which = [k for k, owed in enumerate(updates) if owed >= until]
            part = self if len(which) == len(updates) else Stack([self.learners[k] for k in which], lasting=False)
            for _ in range(until - done):
                metrics = part.update()
                if not sums.shape[-1]:
                    sums = metrics.new_zeros(len(self.learners), metrics.shape[-1])
                if part is self:
                    sums += metrics
                else:
                    sums.index_add_(0, torch.tensor(which).to(sums.device), metrics)
            if part is not self:
                for network in self.networks.values():
                    network.take_back(which)
            done = until
        return [one.averaged(*each) for one, *each in zip(self.learners, sums, updates, strict=True)]

    def update(self) -> Tensor:
        """One update of each learner; returns the metrics, [S, ...], until the next one."""
        metrics = self.step(stacked([one.drawn(one.sample()) for one in self.learners]), self.device)
        for one in self.learners:
            one.counts.updates += 1
        return metrics

    def _eagerly(self, drawn: DrawnT, device: torch.device) -> Tensor:
        return self._step(moved(drawn, device))

    def _step(self, drawn: DrawnT) -> Tensor:
        first = self.learners[0]
        inputs = stacked([one.inputs(row(drawn, k)) for k, one in enumerate(self.learners)])
        leaves = {name: network.leaves() for name, network in self.networks.items()}
        for name in first.trained:
            for leaf in leaves[name].values():
                leaf.requires_grad_()
        for name, each in leaves.items():
            for (within, key), leaf in zip(self.places[name], each.values(), strict=True):
                within[key] = leaf
        losses, found, metrics = first.losses(self.all, inputs)
        gradients = [
            gradient
            for name, loss in zip(first.trained, losses, strict=True)
            for gradient in torch.autograd.grad(loss.sum(), list(leaves[name].values()))
        ]
        each_own = [[gradient[k] for gradient in gradients] for k in range(len(self.learners))]
        apply_all([one.optimizer for one in self.learners], each_own)
        for one, each in zip(self.learners, found.detach(), strict=True):
            one.finish(each)
        return metrics.detach()


def stacked(values: Sequence[InputsT]) -> InputsT:
    """Tuples of tensors, nested or named, as one of their stacks."""
    columns = [
        torch.stack(column) if isinstance(column[0], Tensor) else stacked(column)
        for column in zip(*values, strict=True)
    ]
    first = values[0]
    return type(first)(*columns) if hasattr(first, "_fields") else type(first)(columns)


def places(module: nn.Module) -> list[tuple[dict[str, Any], str]]:
    """Where each parameter of a module is kept, in its order: what holds it, and its name there."""
    names = (name.rpartition(".") for name, _ in module.named_parameters())
    return [(module.get_submodule(within)._parameters, key) for within, _, key in names]


class StackedNetwork:
    """The parameters of S networks of one shape, [S, ...] by name, of which theirs become views.

    The weights of layers lie in memory as [S, inputs, outputs], since that is how the gradient of S products at once lies.
    """

    def __init__(self, networks: Sequence[nn.Module]):
        self.parts: dict[str, list[nn.Parameter]] = {}  # of each network
        self.values: dict[str, Tensor] = {}
        for name, _ in networks[0].named_parameters():
            self.parts[name] = [one.get_parameter(name) for one in networks]
            values = [one.data for one in self.parts[name]]
            self.values[name] = torch.stack([w.mT for w in values]).mT if values[0].dim() == 2 else torch.stack(values)
        for k in range(len(networks)):
            self._point_at(k)

    def leaves(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.values.items()}

    def take_back(self, which: Sequence[int]) -> None:
        """Copy the parameters of some networks, which another stack has had, and make them views again."""
        for k in which:
            for name, value in self.values.items():
                value[k].copy_(self.parts[name][k].data)
            self._point_at(k)

    def _point_at(self, k: int) -> None:
        for name, value in self.values.items():
            self.parts[name][k].data = value[k]
