"""Multilayer perceptrons, an ensemble of critics, the sequence encoder, and a fixed normaliser."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skillmeta.errors import ConfigError
from skillmeta.limits import NETWORK

NEGATIVE_SLOPE = 0.2  # of LeakyReLU
ROUNDING = 1e-6  # of float32 numbers, relative to the largest of them
STILL = 1e-4  # of the largest deviation of an observation, or of 1
FARTHEST = 10.0  # standard deviations: what lies farther off is seen as so far


class MLP(nn.Module):
    """`depth` hidden layers of `hidden` LeakyReLU(0.2) units, then a linear one: [..., inputs] -> [..., outputs].

    No normalisation layer: BatchNorm makes acting differ from training and breaks batches of one. The layers are applied
    without going through nn.Module's call machinery, which for one observation costs as much as the arithmetic. Parameters of S
    networks at once, [S, outputs, inputs] and [S, outputs], take [S, B, inputs] (`skillmeta.nn.stack`).
    """

    def __init__(self, inputs: int, outputs: int, hidden: int, depth: int, generator: torch.Generator):
        super().__init__()
        self.inputs = inputs
        check_size((inputs + outputs + hidden * max(0, depth - 1)) * hidden)
        widths = [inputs, *[hidden] * depth, outputs]
        self.layers = nn.ModuleList(linear(a, b, generator) for a, b in pairwise(widths))
        self.in_order = tuple(cast(nn.Linear, layer) for layer in self.layers)  # without what nn.Module's look-up costs

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = self.in_order
        if x.dim() > 2 and last.weight.dim() == 2:  # of rows the sum is no view, whose gradient would be copied
            return self.forward(x.flatten(0, -2)).view(*x.shape[:-1], -1)
        for layer in hidden:
            x = F.leaky_relu_(affine(x, layer), NEGATIVE_SLOPE)  # in place: nothing else needs the sum
        return affine(x, last)


def affine(x: Tensor, layer: nn.Linear) -> Tensor:
    """A linear layer, or S of them at once."""
    weight, bias = layer.weight, layer.bias
    if weight.dim() == 2:
        return F.linear(x, weight, bias)
    return torch.baddbmm(bias.unsqueeze(-2), x, weight.transpose(-1, -2))


def identity(x: Tensor) -> Tensor:
    """What observations are normalised by where there are no statistics. A function, since a lambda cannot be sent to a process."""
    return x


def promoted(x: Tensor) -> Tensor:
    """Numbers in bfloat16, of a product under autocast, as float32; others as they are."""
    return x.float() if x.dtype == torch.bfloat16 else x


def check_size(parameters: int) -> None:
    """Raises ConfigError for a network of more parameters than `NETWORK`, before memory is taken for them."""
    if parameters > NETWORK:
        raise ConfigError(
            f"a network of {parameters:,} parameters is asked for; at most {NETWORK:,} are possible, make it less wide or deep"
        )


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """torch's default initialisation (U(+-1/sqrt(inputs))), drawn from the given generator instead of the global one."""
    check_size(inputs * outputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's, of no outputs: an encoder without latents
        layer = cast(nn.Linear, nn.utils.skip_init(nn.Linear, inputs, outputs))  # type: ignore[no-untyped-call]
    limit = 1 / math.sqrt(inputs)
    with torch.no_grad():
        layer.weight.uniform_(-limit, limit, generator=generator)
        layer.bias.uniform_(-limit, limit, generator=generator)
    return layer


def recurrent(make: type[nn.GRU] | type[nn.LSTM], inputs: int, hidden: int, generator: torch.Generator) -> nn.RNNBase:
    """A layer of nn.GRU or nn.LSTM, batch first, drawn from the given generator as torch does from the global one."""
    check_size(4 * (inputs + hidden) * hidden)
    cell = make(inputs, hidden, batch_first=True)
    for weight in cell.parameters():
        nn.init.uniform_(weight, -(hidden**-0.5), hidden**-0.5, generator=generator)
    return cell


class Critics(nn.Module):
    """A few Q functions: observation [B, O], action [B, A] -> [n, B]."""

    def __init__(
        self, observation_dim: int, action_dim: int, hidden: int, depth: int, generator: torch.Generator, n: int = 2
    ):
        super().__init__()
        self.members = nn.ModuleList(MLP(observation_dim + action_dim, 1, hidden, depth, generator) for _ in range(n))

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        inputs = torch.cat([observation, action], -1)
        return torch.stack([member(inputs).squeeze(-1) for member in self.members])


class SequenceEncoder(nn.Module):
    """Linear embedding, one LSTM layer, linear read-out of the last output: [B, H, inputs] -> [B, outputs]."""

    def __init__(self, inputs: int, outputs: int, hidden: int, generator: torch.Generator):
        super().__init__()
        self.embed = linear(inputs, hidden, generator)
        check_size(8 * hidden**2)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True)
        self.read = linear(hidden, outputs, generator)
        limit = 1 / math.sqrt(hidden)
        with torch.no_grad():
            for name, parameter in self.lstm.named_parameters():
                parameter.uniform_(-limit, limit, generator=generator)
                if name.startswith("bias"):
                    parameter[hidden : 2 * hidden] += 0.5  # an open forget gate at the start (two biases: 1 in sum)

    def forward(self, sequence: Tensor) -> Tensor:
        output, _ = self.lstm(self.embed(sequence))
        result: Tensor = self.read(output[:, -1])
        return result

    def every(self, sequence: Tensor) -> Tensor:
        """The read-out after each step instead of the last one: [B, H, outputs]."""
        output, _ = self.lstm(self.embed(sequence))
        result: Tensor = self.read(output)
        return result


class Normalizer(nn.Module):
    """(x - mean) / stddev, clipped to [-10, 10], with statistics that are set once from data and saved with the model.

    Without the clip an object that the logs hardly move is 70 deviations away when it moves later, and critics diverge.
    Numbers of x [..., dim + F] beyond the statistics' dim pass unchanged: the features of the task, where a policy sees them.
    """

    mean: Tensor
    stddev: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("stddev", torch.ones(dim))

    def fit(self, data: Tensor) -> None:
        """Take the statistics of data [N, dim], whatever its units. A dimension that is constant up to rounding is only centred."""
        data = data.double()
        stddev = data.std(0, correction=0)
        self.mean.copy_(data.mean(0))
        self.stddev.copy_(torch.where(stddev > ROUNDING * data.abs().amax(0), stddev, 1.0))

    def take(self, mean: Tensor, stddev: Tensor) -> None:
        """Take statistics [dim] of logs. A dimension that is constant, up to rounding or beside the others, is only centred: an
        object that no log moves may move later."""
        still = STILL * stddev.max().clamp(max=1.0)
        self.mean.copy_(mean)
        self.stddev.copy_(torch.where(stddev > torch.maximum(ROUNDING * mean.abs(), still), stddev, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        dim = len(self.mean)
        normalized = ((x[..., :dim] - self.mean) / self.stddev).clamp(-FARTHEST, FARTHEST)
        return normalized if x.shape[-1] == dim else torch.cat([normalized, x[..., dim:]], -1)
