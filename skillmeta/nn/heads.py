"""Heads of policies and values over (context, observation): a perceptron of both, or one of the observation that the context makes.

Beck et al. 2022 and 2023 (arXiv:2210.11348, arXiv:2309.14970): where a hypernetwork emits the policy from what is known of the
task, its initialisation decides. With theirs every context gives the same ordinary network at first ("bias-hyperinit").
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skillmeta.config import PositiveInt, checked
from skillmeta.nn.networks import MLP, NEGATIVE_SLOPE, linear


@checked
class HeadConfig:
    """What policy and value are made of."""

    kind: Literal["mlp", "film", "hyper"] = (
        "mlp"  # of both; or of what is seen: scaled and shifted, or emitted by what is known
    )
    embedding_size: PositiveInt = 25  # of what is known, linear in it; not of an mlp
    bias_hyperinit: bool = True  # at first what is known changes nothing; false: torch's initialisation


class ContextHead(nn.Module):
    """A perceptron of observations [..., S], all of whose weights (`hyper`), or scales and shifts of whose hidden units (`film`),
    are linear in an embedding of the context [..., C].

    Inputs are both in one, [..., C + S] or [..., S + C], as for an MLP.
    """

    def __init__(
        self, config: HeadConfig, context: int, seen: int, context_first: bool, outputs: int, hidden: int, depth: int,
        generator: torch.Generator,
    ):  # fmt: skip
        super().__init__()
        self.hyper, self.context_first, self.split = (
            config.kind == "hyper",
            context_first,
            context if context_first else seen,
        )
        self.widths = list(pairwise([seen, *[hidden] * depth, outputs]))
        self.embed = linear(context, config.embedding_size, generator)
        own = [linear(a, b, generator) for a, b in self.widths]
        emitted = [a * b + b for a, b in self.widths] if self.hyper else [2 * hidden] * depth
        self.emit = nn.ModuleList(linear(config.embedding_size, numbers, generator) for numbers in emitted)
        self.layers = nn.ModuleList([] if self.hyper else own)
        with torch.no_grad():
            for n, emit in enumerate(cast("list[nn.Linear]", list(self.emit))):
                if config.bias_hyperinit:
                    emit.weight.zero_()
                    emit.bias.copy_(
                        torch.cat([own[n].weight.flatten(), own[n].bias]) if self.hyper else torch.zeros(2 * hidden)
                    )

    def forward(self, inputs: Tensor) -> Tensor:
        first, second = inputs.tensor_split([self.split], -1)
        context, x = (first, second) if self.context_first else (second, first)
        embedding = self.embed(context)
        for n, (a, b) in enumerate(self.widths):
            if self.hyper:
                numbers = self.emit[n](embedding)
                x = (
                    torch.einsum("...ba,...a->...b", numbers[..., : a * b].unflatten(-1, (b, a)), x)
                    + numbers[..., a * b :]
                )
            else:
                x = self.layers[n](x)
            if n < len(self.widths) - 1:
                if not self.hyper:
                    scale, shift = self.emit[n](embedding).chunk(2, -1)
                    x = (1 + scale) * x + shift
                x = F.leaky_relu(x, NEGATIVE_SLOPE)
        return x


Head = MLP | ContextHead


def make_head(
    config: HeadConfig, context: int, seen: int, context_first: bool, hidden: int, depth: int, generator: torch.Generator,
    outputs: int,
) -> Head:  # fmt: skip
    """The head of a config."""
    if config.kind == "mlp":
        return MLP(context + seen, outputs, hidden, depth, generator)
    return ContextHead(config, context, seen, context_first, outputs, hidden, depth, generator)


def described_head(config: HeadConfig) -> str:
    """For pages: what there is to say of it, as the end of a phrase."""
    how = {"mlp": "", "film": "scaled and shifted", "hyper": "emitted"}[config.kind]
    return f", by which policy and value are {how}" if how else ""


def output_of(head: Head) -> tuple[list[Tensor], Tensor]:
    """What a head's output is proportional to, but for its bias; and that bias. Views: to be changed in place."""
    if isinstance(head, ContextHead) and head.hyper:
        last, size = cast(nn.Linear, head.emit[-1]), head.widths[-1][1]
        return [last.weight, last.bias[:-size]], last.bias[-size:]
    last = cast(nn.Linear, head.layers[-1])
    return [last.weight], last.bias


def zero_output(head: Head) -> None:
    """Change the last layer so that the head's output is zero."""
    weights, bias = output_of(head)
    with torch.no_grad():
        for part in [*weights, bias]:
            part.zero_()


class ScaledValue(nn.Module):
    """Values [...] by a head of one output, in units that follow the returns (van Hasselt et al. 2016, arXiv:1602.07714): without
    them the scale of rewards would decide what is learned first, values or policy."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, head: Head):
        super().__init__()
        self.head = head
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.zeros(()))  # 0: no return was seen yet

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.mean + self.stddev * self.head(features).squeeze(-1)
        return result

    @property
    def stddev(self) -> Tensor:
        return torch.where(self.deviation > 0, self.deviation, 1.0)

    @torch.no_grad()
    def rescale(self, returns: Tensor, valid: Tensor, rate: float = 0.1) -> None:
        """Follow the mean and deviation of returns [...], and change the head so that no value changes."""
        count = valid.sum()
        mean = (returns * valid).sum() / count
        stddev = (((returns - mean) ** 2 * valid).sum() / count).sqrt().clamp(min=1e-4)
        old_mean, old_stddev = self.mean.clone(), self.stddev
        share = torch.where(self.deviation > 0, rate, 1.0)
        self.mean += share * (mean - self.mean)
        self.deviation += share * (stddev - self.deviation)
        weights, bias = output_of(self.head)
        for part in weights:
            part *= old_stddev / self.deviation
        bias.copy_((old_stddev * bias + old_mean - self.mean) / self.deviation)
