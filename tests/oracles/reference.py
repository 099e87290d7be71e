"""Slow references in double precision, written from the papers. Nothing here calls the package's own mathematics."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

Layers = list[tuple[Tensor, Tensor]]  # (weight [out, in], bias [out]) of each layer


def double(tensor: Tensor) -> Tensor:
    return tensor.detach().double().clone()


def layers_of(mlp: torch.nn.Module) -> Layers:
    """A copy of the parameters of the package's MLP, with gradients."""
    return [(double(layer.weight).requires_grad_(), double(layer.bias).requires_grad_()) for layer in mlp.layers]  # type: ignore[union-attr, attr-defined]


def flat(layers: Layers) -> list[Tensor]:
    return [tensor for pair in layers for tensor in pair]


def mlp(layers: Layers, x: Tensor) -> Tensor:
    """Linear layers with LeakyReLU(0.2) between them."""
    for number, (weight, bias) in enumerate(layers):
        x = x @ weight.T + bias
        if number < len(layers) - 1:
            x = torch.where(x > 0, x, 0.2 * x)
    return x


def lstm_outputs(parameters: dict[str, Tensor], sequence: Tensor) -> list[Tensor]:
    """A linear embedding, an LSTM from a zero state and a linear read-out after every step; sequence [B, H, D]."""
    hidden = parameters["lstm.weight_hh_l0"].shape[1]
    h = c = torch.zeros(len(sequence), hidden, dtype=torch.float64)
    outputs = []
    for t in range(sequence.shape[1]):
        x = sequence[:, t] @ parameters["embed.weight"].T + parameters["embed.bias"]
        gates = (
            x @ parameters["lstm.weight_ih_l0"].T
            + parameters["lstm.bias_ih_l0"]
            + h @ parameters["lstm.weight_hh_l0"].T
            + parameters["lstm.bias_hh_l0"]
        )
        i, f, g, o = gates.chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h @ parameters["read.weight"].T + parameters["read.bias"])
    return outputs


def split(out: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation from a network's output; log standard deviations between -10 and 2."""
    half = out.shape[-1] // 2
    return out[..., :half], torch.exp(torch.clamp(out[..., half:], -10.0, 2.0))


def gaussian_kl(mean: Tensor, stddev: Tensor, other_mean: Tensor, other_stddev: Tensor) -> Tensor:
    """KL(N(mean, stddev^2) || N(other)), summed over the last axis."""
    each = torch.log(other_stddev / stddev) + (stddev**2 + (mean - other_mean) ** 2) / (2 * other_stddev**2) - 0.5
    return each.sum(-1)


def gaussian_log_density(x: Tensor, mean: Tensor, stddev: Tensor) -> Tensor:
    each = -((x - mean) ** 2) / (2 * stddev**2) - torch.log(stddev) - 0.5 * math.log(2 * math.pi)
    return each.sum(-1)


@dataclass
class Adam:
    """Kingma and Ba 2015, algorithm 1."""

    lr: float
    t: int = 0
    m: list[Tensor] = field(default_factory=list)
    v: list[Tensor] = field(default_factory=list)

    def step(self, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        if not self.m:
            self.m = [torch.zeros_like(p) for p in parameters]
            self.v = [torch.zeros_like(p) for p in parameters]
        self.t += 1
        with torch.no_grad():
            for n, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
                self.m[n] = 0.9 * self.m[n] + 0.1 * gradient
                self.v[n] = 0.999 * self.v[n] + 0.001 * gradient**2
                first = self.m[n] / (1 - 0.9**self.t)
                second = self.v[n] / (1 - 0.999**self.t)
                parameter -= self.lr * first / (torch.sqrt(second) + 1e-8)
