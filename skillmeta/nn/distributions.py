"""Diagonal Gaussians, plain and squashed into a box. Noise comes from the caller, so a loss is a function of its inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

LOG_2PI = math.log(2 * math.pi)
LOG_STDDEV_RANGE = (-10.0, 2.0)  # SPiRL clamps every log sigma to this
QUANTILE = 1e-6  # of a normal, at least, that float32 tells from 0 and 1: 4.8 standard deviations


@dataclass(frozen=True)
class Gaussian:
    """Independent normals over the last axis; `mean` and `log_stddev` are [..., dim]."""

    mean: Tensor
    log_stddev: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.mean.shape

    @property
    def stddev(self) -> Tensor:
        return self.log_stddev.exp()

    def matched(self) -> Gaussian:
        """Itself: the Gaussian of the same mean and variances."""
        return self

    def unsqueeze(self, dim: int) -> Gaussian:
        return Gaussian(self.mean.unsqueeze(dim), self.log_stddev.unsqueeze(dim))

    def rsample(self, noise: Tensor) -> Tensor:
        """The sample that standard normal `noise` [..., dim] stands for."""
        return self.mean + self.stddev * noise

    def mode(self) -> Tensor:
        return self.mean

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of x [..., dim], summed over dim: [...], nats."""
        scaled = (x - self.mean) / self.stddev
        return (-0.5 * scaled**2 - self.log_stddev - 0.5 * LOG_2PI).sum(-1)

    def rsample_log_prob(self, noise: Tensor) -> Tensor:
        """Log density of `rsample(noise)`, [...], without the detour through the sample."""
        return (-0.5 * noise**2 - self.log_stddev - 0.5 * LOG_2PI).sum(-1)

    def entropy(self) -> Tensor:
        """[...], nats."""
        return (self.log_stddev + 0.5 * (1 + LOG_2PI)).sum(-1)

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self || other) in closed form, summed over dim: [...], nats."""
        log_ratio = self.log_stddev - other.log_stddev
        shift = (self.mean - other.mean) * torch.exp(-other.log_stddev)
        return 0.5 * (torch.exp(2 * log_ratio) + shift**2 - 1 - 2 * log_ratio).sum(-1)


@dataclass(frozen=True)
class Mixture:
    """K weighted Gaussians over the last axis: logits [..., K], means and log standard deviations [..., K, dim]."""

    logits: Tensor
    each: Gaussian

    @property
    def shape(self) -> torch.Size:
        return self.each.mean[..., 0, :].shape

    @property
    def weights(self) -> Tensor:
        return torch.softmax(self.logits, -1)

    @property
    def mean(self) -> Tensor:
        return (self.weights.unsqueeze(-1) * self.each.mean).sum(-2)

    def matched(self) -> Gaussian:
        """The Gaussian of the same mean and variances: of all, the one with the least KL(mixture || Gaussian)."""
        mean, weights = self.mean, self.weights.unsqueeze(-1)
        spread = self.each.stddev**2 + (self.each.mean - mean.unsqueeze(-2)) ** 2
        return Gaussian(mean, 0.5 * (weights * spread).sum(-2).log())

    def rsample(self, noise: Tensor) -> Tensor:
        """The sample [..., dim] that standard normal noise [..., dim] stands for. The quantile of its first number picks a
        Gaussian; where it lies within that one's share is the quantile of the point's first number."""
        quantile = 0.5 * torch.erfc(-noise[..., :1] / math.sqrt(2))
        above = self.weights.cumsum(-1)
        below = above - self.weights
        index = (above < quantile).sum(-1, keepdim=True).clamp(max=self.logits.shape[-1] - 1)
        start, share = (x.expand(*index.shape[:-1], -1).gather(-1, index) for x in (below, self.weights))
        within = ((quantile - start) / share).clamp(QUANTILE, 1 - QUANTILE)
        first = math.sqrt(2) * torch.erfinv(2 * within - 1)
        picked = F.one_hot(index.squeeze(-1), self.logits.shape[-1]).unsqueeze(-1)
        return (picked * self.each.rsample(torch.cat([first, noise[..., 1:]], -1).unsqueeze(-2))).sum(-2)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of x [..., dim]: [...], nats."""
        return torch.logsumexp(torch.log_softmax(self.logits, -1) + self.each.log_prob(x.unsqueeze(-2)), -1)


@dataclass(frozen=True)
class Flow:
    """A Gaussian that layers bend one after another (RealNVP, Dinh et al. 2017), all of whose numbers a network gives at a state.

    A layer leaves the first half of the numbers as it is. From that half a hidden layer of tanh computes by how much the second
    half is scaled and shifted; then the order of all numbers is reversed, so that the next layer moves the others.
    """

    base: Gaussian  # [..., dim]
    layers: Tensor  # [..., LAYERS, layer_size(dim)], weights of each layer

    @property
    def shape(self) -> torch.Size:
        return self.base.shape

    @property
    def dim(self) -> int:
        return self.base.mean.shape[-1]

    def rsample(self, noise: Tensor) -> Tensor:
        """The sample [..., dim] that standard normal noise [..., dim] stands for."""
        x = self.base.rsample(noise)
        for k in range(LAYERS):
            kept, moved = x.tensor_split([self.dim // 2], -1)
            log_scale, shift = self._of_layer(k, kept)
            x = torch.cat([kept, moved * log_scale.exp() + shift], -1).flip(-1)
        return x

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of x [..., dim]: [...], nats. The layers are inverted exactly."""
        log_volume = torch.zeros_like(x[..., 0])
        for k in reversed(range(LAYERS)):
            kept, moved = x.flip(-1).tensor_split([self.dim // 2], -1)
            log_scale, shift = self._of_layer(k, kept)
            x = torch.cat([kept, (moved - shift) * (-log_scale).exp()], -1)
            log_volume = log_volume + log_scale.sum(-1)
        return self.base.log_prob(x) - log_volume

    def matched(self) -> Gaussian:
        """The Gaussian of the mean and variances of its samples at 128 fixed points, which fill the space evenly."""
        noise = even_noise(128, self.base.mean)
        at = Flow(self.base.unsqueeze(-2), self.layers.unsqueeze(-3))
        drawn = at.rsample(noise.expand(*self.shape[:-1], -1, -1))
        return Gaussian(drawn.mean(-2), drawn.std(-2, correction=0).log())

    def _of_layer(self, k: int, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithm of the scale, within 2 of zero, and shift of the half that moves, [..., dim - dim // 2] each."""
        still, moving = self.dim // 2, self.dim - self.dim // 2
        first, second = self.layers[..., k, :].tensor_split([(still + 1) * UNITS], -1)
        into, out = split_last(first, UNITS), split_last(second, 2 * moving)  # the last number of each row is a bias
        hidden = torch.tanh((into[..., :-1] * kept.unsqueeze(-2)).sum(-1) + into[..., -1])
        raw, shift = ((out[..., :-1] * hidden.unsqueeze(-2)).sum(-1) + out[..., -1]).chunk(2, -1)
        return 2 * torch.tanh(raw / 2), shift


LAYERS, UNITS = 4, 16  # of a flow: its layers, and the units of what computes scale and shift


def layer_size(dim: int) -> int:
    """How many numbers a layer of a flow over [..., dim] has."""
    return (dim // 2 + 1) * UNITS + 2 * (dim - dim // 2) * (UNITS + 1)


def even_noise(count: int, like: Tensor) -> Tensor:
    """Points [count, dim] that are spread as standard normal noise is, the same ones at each call: an additive recurrence with the
    inverse powers of the root of x^(n + 1) = x + 1 (Roberts 2018), turned into pairs of noise (Box & Muller 1958), and its mirror
    image. Of operations that every exporter knows."""
    dim = like.shape[-1]
    pairs, root = (dim + 1) // 2, 1.5
    for _ in range(50):
        root = (1 + root) ** (1 / (2 * pairs + 1))
    steps = torch.arange(1, count // 2 + 1, dtype=like.dtype, device=like.device).unsqueeze(-1)
    powers = torch.arange(1, 2 * pairs + 1, dtype=like.dtype, device=like.device)
    within, turn = ((0.5 + steps * root**-powers) % 1).clamp(min=QUANTILE).chunk(2, -1)
    length = (-2 * within.log()).sqrt()
    noise = torch.cat([length * torch.cos(2 * math.pi * turn), length * torch.sin(2 * math.pi * turn)], -1)[:, :dim]
    return torch.cat([noise, -noise])


SkillPrior = Gaussian | Mixture | Flow  # what p(z given s) may be


@dataclass(frozen=True)
class Categorical:
    """A choice among the last axis of `logits` [..., A]; actions are one-hot."""

    logits: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.logits.shape

    @property
    def log_probabilities(self) -> Tensor:
        return torch.log_softmax(self.logits, -1)

    def rsample(self, noise: Tensor) -> Tensor:
        """The choice that standard normal `noise` [..., A] stands for, one-hot: Gumbel's trick on its quantiles."""
        uniform = (0.5 * torch.erfc(-noise / math.sqrt(2))).clamp(1e-7, 1 - 1e-7)
        return F.one_hot((self.logits - torch.log(-torch.log(uniform))).argmax(-1), self.logits.shape[-1]).to(
            noise.dtype
        )

    def mode(self) -> Tensor:
        return F.one_hot(self.logits.argmax(-1), self.logits.shape[-1]).to(self.logits.dtype)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log probability of one-hot actions [..., A]: [...], nats."""
        return (self.log_probabilities * action).sum(-1)

    def entropy(self) -> Tensor:
        """[...], nats."""
        return -(self.log_probabilities.exp() * self.log_probabilities).sum(-1)

    def kl(self, other: Categorical) -> Tensor:
        """KL(self || other), [...], nats."""
        mine = self.log_probabilities
        return (mine.exp() * (mine - other.log_probabilities)).sum(-1)


@dataclass(frozen=True)
class TanhGaussian:
    """A Gaussian squashed by tanh and scaled to the box [-bound, bound]^dim (SAC, Haarnoja et al. 2018, appendix C)."""

    base: Gaussian
    bound: Tensor  # [dim] > 0

    @property
    def shape(self) -> torch.Size:
        return self.base.shape

    def rsample(self, noise: Tensor) -> Tensor:
        return self.bound * torch.tanh(self.base.rsample(noise))

    def mode(self) -> Tensor:
        return self.bound * torch.tanh(self.base.mean)

    def rsample_log_prob(self, noise: Tensor) -> Tensor:
        """Log density of `rsample(noise)`, [...]. log(1 - tanh^2 u) is written so that it stays finite for large |u|."""
        u = self.base.rsample(noise)
        log_slope = 2 * (math.log(2) - u - F.softplus(-2 * u))
        return self.base.rsample_log_prob(noise) - (log_slope + self.bound.log()).sum(-1)


Policy = Gaussian | TanhGaussian | Categorical  # over actions [..., A]


def kl_divergence(one: Gaussian | Categorical, other: Gaussian | Categorical) -> Tensor:
    """KL(one || other) of two distributions of the same kind, [...], nats. Raises TypeError for two kinds."""
    if isinstance(one, Gaussian) and isinstance(other, Gaussian):
        return one.kl(other)
    if isinstance(one, Categorical) and isinstance(other, Categorical):
        return one.kl(other)
    raise TypeError(f"there is no KL of a {type(one).__name__} from a {type(other).__name__}")


def kl_estimate(one: Gaussian, other: SkillPrior, noise: Tensor) -> Tensor:
    """KL(one || other), [...], nats: closed form between Gaussians, else log one - log other at the sample of `one` that noise
    [..., dim] stands for."""
    if isinstance(other, Gaussian):
        return one.kl(other)
    return one.rsample_log_prob(noise) - other.log_prob(one.rsample(noise))


def gaussian(parameters: Tensor) -> Gaussian:
    """A network's output [..., 2 * dim] as a Gaussian, its log standard deviation clamped to SPiRL's range."""
    mean, log_stddev = parameters.chunk(2, -1)
    return Gaussian(mean, log_stddev.clamp(*LOG_STDDEV_RANGE))


def mixture(parameters: Tensor, components: int) -> Mixture:
    """A network's output [..., K (1 + 2 * dim)] as a mixture of K Gaussians, within the same range."""
    logits, rest = parameters.tensor_split([components], -1)
    return Mixture(logits, gaussian(split_last(rest, components)))


def flow(parameters: Tensor, dim: int) -> Flow:
    """A network's output [..., 2 * dim + LAYERS * layer_size(dim)] as a flow, its base within the same range."""
    base, layers = parameters.tensor_split([2 * dim], -1)
    return Flow(gaussian(base), split_last(layers, LAYERS))


def columns_of(prior: SkillPrior) -> tuple[Tensor, ...]:
    """The tensors of a distribution at B observations, [..., B, n] each: `of_columns` makes the distribution of them again, or of
    some of their rows."""
    if isinstance(prior, Gaussian):
        return prior.mean, prior.log_stddev
    if isinstance(prior, Flow):
        return prior.base.mean, prior.base.log_stddev, *prior.layers.unbind(-2)
    return prior.logits, prior.each.mean.flatten(-2), prior.each.log_stddev.flatten(-2)


def of_columns(columns: tuple[Tensor, ...]) -> SkillPrior:
    """See `columns_of`."""
    if len(columns) == 2:
        return Gaussian(*columns)
    if len(columns) == 2 + LAYERS:
        return Flow(Gaussian(*columns[:2]), torch.stack(columns[2:], -2))
    logits, *each = columns
    return Mixture(logits, Gaussian(*(split_last(x, logits.shape[-1]) for x in each)))


def split_last(x: Tensor, parts: int) -> Tensor:
    """[..., parts * n] as [..., parts, n]."""
    return x.reshape(*x.shape[:-1], parts, -1)


def standard_gaussian(like: Tensor) -> Gaussian:
    """N(0, I) in the shape of `like`."""
    return Gaussian(torch.zeros_like(like), torch.zeros_like(like))
