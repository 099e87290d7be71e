"""Double-precision arithmetic that the oracles of the meta-learners are written in. Nothing here comes from skillmeta."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

Weights = list[Tensor]


def weights(module: nn.Module) -> Weights:
    """A copy of a module's parameters in double precision, to be differentiated."""
    return [p.detach().double().clone().requires_grad_() for p in module.parameters()]


def mlp(layers: Sequence[Tensor], x: Tensor) -> Tensor:
    """Pairs of weight and bias; LeakyReLU(0.2) between them."""
    for i in range(0, len(layers), 2):
        x = x @ layers[i].T + layers[i + 1]
        if i + 2 < len(layers):
            x = torch.where(x > 0, x, 0.2 * x)
    return x


def log_normal(x: Tensor, mean: Tensor, log_stddev: Tensor) -> Tensor:
    """Log density of independent normals, summed over the last axis."""
    squared = ((x - mean) / log_stddev.exp()) ** 2
    return (-squared / 2 - log_stddev - math.log(2 * math.pi) / 2).sum(-1)


def kl_normal(mean: Tensor, log_stddev: Tensor, other_mean: Tensor, other_log_stddev: Tensor) -> Tensor:
    """KL of independent normals, summed over the last axis: its textbook form."""
    variance, other = (2 * log_stddev).exp(), (2 * other_log_stddev).exp()
    return (other_log_stddev - log_stddev + (variance + (mean - other_mean) ** 2) / (2 * other) - 0.5).sum(-1)


class Adam:
    """Kingma and Ba 2015, algorithm 1."""

    def __init__(self, parameters: Weights, lr: float):
        self.parameters, self.lr, self.t = parameters, lr, 0
        self.m, self.v = ([torch.zeros_like(p) for p in parameters] for _ in range(2))

    def step(self, loss: Tensor) -> None:
        self.apply(torch.autograd.grad(loss, self.parameters, allow_unused=True))

    def apply(self, gradients: Sequence[Tensor | None]) -> None:
        self.t += 1
        for i, given in enumerate(gradients):
            g = torch.zeros_like(self.parameters[i]) if given is None else given
            self.m[i] = 0.9 * self.m[i] + 0.1 * g
            self.v[i] = 0.999 * self.v[i] + 0.001 * g**2
            m, v = self.m[i] / (1 - 0.9**self.t), self.v[i] / (1 - 0.999**self.t)
            with torch.no_grad():
                self.parameters[i] -= self.lr * m / (v.sqrt() + 1e-8)


def assert_same(parameters: Iterable[Tensor], reference: Weights, start: Weights, atol: float) -> None:
    """The parameters are the reference's, which have moved from the start by much more than the tolerance."""
    moved = max(float((r - s).detach().abs().max()) for r, s in zip(reference, start, strict=True))
    assert moved > 10 * atol
    for parameter, wanted in zip(parameters, reference, strict=True):
        torch.testing.assert_close(parameter.detach().double(), wanted.detach(), rtol=0, atol=atol)
