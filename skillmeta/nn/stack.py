"""Learners of one config, each with its own seed, whose networks are updated as one: parameters [S, ...], batches [S, B, ...].

Each learner keeps its own replay, streams and counts, and its parameters become views of the stack. So acting, saving and restoring
need nothing of this file. Losses of parameters and inputs with a leading axis [S] are every learner's; the gradient of their sum is
each one's own.
What a learner gets is what it gets alone, up to rounding.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
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
        networks and inputs have one."""

    def finish(self, found: Tensor) -> None:
        """What follows a step of the optimiser."""

    def averaged(self, sums: Tensor, updates: int) -> Metrics:
        """Metrics of some updates, given their sums."""


class Stack(Generic[BatchT, DrawnT, InputsT]):
    """S learners that are updated together.

    Args:
        learners: of one config and one environment; restored already, if they are to be.
    """

    def __init__(self, learners: Sequence[Stackable[BatchT, DrawnT, InputsT]]):
        self.learners, first = learners, learners[0]
        self.networks = {name: StackedNetwork([one.networks[name] for one in learners]) for name in first.networks}
        for one in learners:
            lay_alike(one.optimizer)
        # Losses see one set of networks, whose parameters are those of all learners, [S, ...].
        buffers = {id(buffer): buffer for buffer in first.networks.buffers()}
        self.all: nn.ModuleDict = copy.deepcopy(first.networks, dict(buffers))
        self.places = {name: places(module) for name, module in self.all.items()}
        self.device = next(first.networks.parameters()).device
        self.step: Graphed[DrawnT, Tensor] = Graphed(functools.partial(self._step, range(len(learners))))

    def learn(self, updates: Sequence[int]) -> list[Metrics]:
        """Some updates of each learner. Those that are owed more continue without the others."""
        sums = torch.zeros(len(self.learners), 0)
        for done in range(max(updates)):
            which = [k for k, owed in enumerate(updates) if owed > done]
            metrics = self.update(which)
            if not done:
                sums = metrics.new_zeros(len(self.learners), metrics.shape[-1])
            if len(which) == len(sums):
                sums += metrics
            else:
                sums.index_add_(0, torch.tensor(which).to(sums.device), metrics)
        return [one.averaged(*each) for one, *each in zip(self.learners, sums, updates, strict=True)]

    def update(self, which: Sequence[int]) -> Tensor:
        """One update of some learners; returns the metrics of each, [len(which), ...], until the next one."""
        chosen = [self.learners[k] for k in which]
        drawn = stacked([one.drawn(one.sample()) for one in chosen])
        if len(which) == len(self.learners):
            metrics = self.step(drawn, self.device)
        else:
            metrics = self._step(which, moved(drawn, self.device))
        for one in chosen:
            one.counts.updates += 1
        return metrics

    def _step(self, which: Sequence[int], drawn: DrawnT) -> Tensor:
        first, chosen = self.learners[0], [self.learners[k] for k in which]
        inputs = stacked([one.inputs(row(drawn, k)) for k, one in enumerate(chosen)])
        leaves = {name: network.rows(which) for name, network in self.networks.items()}
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
        apply_all(
            [one.optimizer for one in chosen], [[gradient[k] for gradient in gradients] for k in range(len(chosen))]
        )
        for one, each in zip(chosen, found.detach(), strict=True):
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
        self.count, self.values = len(networks), {}
        for name, _ in networks[0].named_parameters():
            same = [one.get_parameter(name) for one in networks]
            values = [one.data for one in same]
            self.values[name] = torch.stack([w.mT for w in values]).mT if values[0].dim() == 2 else torch.stack(values)
            for one, part in zip(same, self.values[name], strict=True):
                one.data = part

    def rows(self, which: Sequence[int]) -> dict[str, Tensor]:
        """The parameters of some networks, [K, ...] by name: those of all without a copy."""
        if len(which) == self.count:
            return {name: value.detach() for name, value in self.values.items()}
        chosen = torch.tensor(which, device=next(iter(self.values.values())).device)
        return {
            name: value.mT.index_select(0, chosen).mT if value.dim() == 3 else value.index_select(0, chosen)
            for name, value in self.values.items()
        }
