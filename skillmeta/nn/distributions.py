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


def kl_estimate(one: Gaussian, other: Gaussian | Mixture, noise: Tensor) -> Tensor:
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


def columns_of(prior: Gaussian | Mixture) -> tuple[Tensor, ...]:
    """The tensors of a distribution at B observations, [..., B, n] each: `of_columns` makes the distribution of them again, or of
    some of their rows."""
    if isinstance(prior, Gaussian):
        return prior.mean, prior.log_stddev
    return prior.logits, prior.each.mean.flatten(-2), prior.each.log_stddev.flatten(-2)


def of_columns(columns: tuple[Tensor, ...]) -> Gaussian | Mixture:
    """See `columns_of`."""
    if len(columns) == 2:
        return Gaussian(*columns)
    logits, *each = columns
    return Mixture(logits, Gaussian(*(split_last(x, logits.shape[-1]) for x in each)))


def split_last(x: Tensor, parts: int) -> Tensor:
    """[..., parts * n] as [..., parts, n]."""
    return x.reshape(*x.shape[:-1], parts, -1)


def standard_gaussian(like: Tensor) -> Gaussian:
    """N(0, I) in the shape of `like`."""
    return Gaussian(torch.zeros_like(like), torch.zeros_like(like))
