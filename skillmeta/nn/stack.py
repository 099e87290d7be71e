"""Learners of one config, each with its own seed, whose networks are updated as one: parameters [S, P], batches [S, B, ...].

Each learner keeps its own replay, streams and counts, and its parameters become views of the stack. So acting, saving and restoring
need nothing of this file. Losses of parameters and inputs with a leading axis [S] are every learner's; the gradient of their sum is
each one's own.
What a learner gets is what it gets alone, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from skillmeta.types import Actor, Episodes, Metrics

BatchT = TypeVar("BatchT")
InputsT = TypeVar("InputsT", bound="tuple[object, ...]")


@runtime_checkable
class Stackable(Protocol[BatchT, InputsT]):
    """A learner that makes an update in pieces: inputs from its own streams, losses, Adam and slow copies, what follows."""

    @property
    def networks(self) -> nn.ModuleDict:
        """Whatever has parameters that losses depend on and updates change."""

    @property
    def trained(self) -> Sequence[str]:
        """The networks that the losses are differentiated with respect to, in the optimiser's order."""

    @property
    def slow(self) -> Sequence[tuple[str, str, float]]:
        """The networks that follow another one: (target, online, tau)."""

    @property
    def optimizer(self) -> torch.optim.Adam: ...

    def explorer(self) -> Actor[Any]:
        """What collects the next episode."""

    def take(self, episodes: Episodes) -> int:
        """Take what was collected. Returns how many updates it is worth."""

    def sample(self) -> BatchT: ...

    def inputs(self, batch: BatchT) -> InputsT:
        """What the losses depend on beside the networks: tuples of tensors."""

    def losses(self, networks: nn.ModuleDict, inputs: InputsT) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """The losses of `trained`, a number each; what `finish` takes; metrics, a vector. All have a leading axis [S] where
        networks and inputs have one."""

    def finish(self, found: Tensor) -> None:
        """What follows a step of the networks."""

    def averaged(self, sums: Tensor, updates: int) -> Metrics:
        """Metrics of some updates, given their sums."""


class Stack(Generic[BatchT, InputsT]):
    """S learners that are updated together.

    Args:
        learners: of one config and one environment; restored already, if they are to be.
    """

    def __init__(self, learners: Sequence[Stackable[BatchT, InputsT]]):
        self.learners, first = learners, learners[0]
        self.call = _Losses(first)
        self.flat = {name: FlatNetwork([one.networks[name] for one in learners]) for name in first.networks}
        self.adam = StackedAdam([one.optimizer for one in learners], [self.flat[name] for name in first.trained])

    def learn(self, updates: Sequence[int]) -> list[Metrics]:
        """Some updates of each learner. Those that are owed more continue without the others."""
        sums: list[Tensor | None] = [None] * len(self.learners)
        for done in range(max(updates)):
            which = [k for k, owed in enumerate(updates) if owed > done]
            for k, metrics in zip(which, self.update(which), strict=True):
                before = sums[k]
                sums[k] = metrics if before is None else before + metrics
        empty = torch.zeros(0)
        return [
            one.averaged(empty if total is None else total, owed)
            for one, total, owed in zip(self.learners, sums, updates, strict=True)
        ]

    def update(self, which: Sequence[int]) -> Tensor:
        """One update of some learners; returns the metrics of each, [len(which), ...]."""
        first, chosen = self.learners[0], [self.learners[k] for k in which]
        inputs = stacked([one.inputs(one.sample()) for one in chosen])
        rows = torch.tensor(which, device=next(iter(self.flat.values())).values.device)
        leaves = {name: network.rows(rows) for name, network in self.flat.items()}
        for name in first.trained:
            leaves[name].requires_grad_()
        named = {
            f"networks.{name}.{parameter}": value
            for name, leaf in leaves.items()
            for parameter, value in self.flat[name].named(leaf).items()
        }
        losses, found, metrics = self._losses(named, inputs)
        gradients = [
            torch.autograd.grad(loss.sum(), leaves[name])[0] for name, loss in zip(first.trained, losses, strict=True)
        ]
        with torch.no_grad():
            self.adam.step(rows, gradients)
            for target, online, tau in first.slow:
                moved = leaves[target].lerp(self.flat[online].rows(rows), tau)
                self.flat[target].values.index_copy_(0, rows, moved)
        for one, each in zip(chosen, found.detach(), strict=True):
            one.finish(each)
        result: Tensor = metrics.detach()
        return result

    def _losses(self, named: dict[str, Tensor], inputs: InputsT) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        found: tuple[tuple[Tensor, ...], Tensor, Tensor] = torch.func.functional_call(self.call, named, (inputs,))
        return found


class _Losses(nn.Module, Generic[BatchT, InputsT]):
    """A learner's losses as a module's call, which is what torch calls with other parameters."""

    def __init__(self, learner: Stackable[BatchT, InputsT]):
        super().__init__()
        self.networks, self.losses = learner.networks, learner.losses

    def forward(self, inputs: InputsT) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        return self.losses(self.networks, inputs)


def stacked(values: Sequence[InputsT]) -> InputsT:
    """Tuples of tensors, nested or named, as one of their stacks."""
    columns = [
        torch.stack(column) if isinstance(column[0], Tensor) else stacked(column)
        for column in zip(*values, strict=True)
    ]
    first = values[0]
    return type(first)(*columns) if hasattr(first, "_fields") else type(first)(columns)


class FlatNetwork:
    """The parameters of S networks of one shape as the rows of a matrix [S, P], of which theirs become views."""

    def __init__(self, networks: Sequence[nn.Module]):
        self.shapes = {name: one.shape for name, one in networks[0].named_parameters()}
        self.sizes = [prod(shape) for shape in self.shapes.values()]
        self.values = torch.stack([torch.cat([one.data.flatten() for one in net.parameters()]) for net in networks])
        for network, row in zip(networks, self.values, strict=True):
            for one, part in zip(network.parameters(), torch.split(row, self.sizes), strict=True):
                one.data = part.view(one.shape)

    def rows(self, which: Tensor) -> Tensor:
        """A copy of some rows, [K, P]."""
        return self.values.index_select(0, which)

    def named(self, values: Tensor) -> dict[str, Tensor]:
        """Rows [K, P] as parameters [K, ...] by name."""
        parts = torch.split(values, self.sizes, 1)
        return {
            name: part.view(len(values), *shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


class StackedAdam:
    """torch's Adam on the rows of flat networks, each with its own count of steps. The state of each optimiser becomes a view."""

    def __init__(self, optimizers: Sequence[torch.optim.Adam], networks: Sequence[FlatNetwork]):
        group = optimizers[0].param_groups[0]
        self.networks, self.lr, self.betas, self.eps = networks, group["lr"], group["betas"], group["eps"]
        self.moments = [(torch.zeros_like(net.values), torch.zeros_like(net.values)) for net in networks]
        self.steps = networks[0].values.new_zeros(len(optimizers))
        for k, optimizer in enumerate(optimizers):
            parameters = iter(optimizer.param_groups[0]["params"])
            for net, (first, second) in zip(networks, self.moments, strict=True):
                for a, b in zip(torch.split(first[k], net.sizes), torch.split(second[k], net.sizes), strict=True):
                    parameter = next(parameters)
                    before = optimizer.state.get(parameter, {})
                    state = {"step": self.steps[k], "exp_avg": a.view_as(parameter), "exp_avg_sq": b.view_as(parameter)}
                    for name in before:
                        state[name].copy_(before[name])
                    optimizer.state[parameter] = state

    def step(self, rows: Tensor, gradients: Sequence[Tensor]) -> None:
        """One step of some rows along their gradients, [K, P] for each network (Kingma and Ba 2015, Algorithm 1)."""
        beta1, beta2 = self.betas
        steps = self.steps.index_select(0, rows) + 1
        self.steps.index_copy_(0, rows, steps)
        first_bias, second_bias = (1 - beta ** steps.unsqueeze(1) for beta in (beta1, beta2))
        for net, (first, second), gradient in zip(self.networks, self.moments, gradients, strict=True):
            mean = first.index_select(0, rows).lerp_(gradient, 1 - beta1)
            square = second.index_select(0, rows).mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            moved = self.lr * mean / first_bias / ((square / second_bias).sqrt() + self.eps)
            first.index_copy_(0, rows, mean)
            second.index_copy_(0, rows, square)
            net.values.index_copy_(0, rows, net.rows(rows) - moved)
