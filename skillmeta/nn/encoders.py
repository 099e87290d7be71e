"""Encoders of a context: a set or a sequence of transitions -> a belief about the task.

What was seen is kept as `Evidence`, to which more can be added: an actor that adapts between episodes encodes each of them once.

Shape letters: M tasks, C transitions of D numbers, Z latent dimensions, H hidden units, F features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skillmeta.errors import ConfigError
from skillmeta.nn.distributions import Gaussian, Mixture
from skillmeta.nn.networks import MLP, linear, recurrent
from skillmeta.run.device import CPU

HEADS = 4  # of attention: as many weighted means, read together
BLOCKS, POINTS = 2, 32  # of a set transformer, and the learned points of each
LONG = 1000  # transitions: of so many a task at a time is faster, by a third at 8192, since it stays in the cache
# Log standard deviations of a mixture's Gaussians. Around a single point they would narrow without end, and the steps explode.
MIXED = (-3.5, 2.0)

Belief = Gaussian | Mixture


class Evidence(NamedTuple):
    """What was seen of M tasks. The sums are an encoder's own: [M, ...]."""

    total: Tensor  # [M, F]
    weight: Tensor  # [M, W]
    seen: Tensor  # [M] transitions


class ContextEncoder(Protocol):
    """q(z | context), whose evidence can be accumulated."""

    def nothing(self, tasks: int, device: torch.device = CPU) -> Evidence:
        """Of M tasks of which nothing was seen."""

    def accumulate(self, evidence: Evidence, context: Tensor, valid: Tensor) -> Evidence:
        """With more transitions [M, C, D], of which those count that are `valid` [M, C]: the first ones of each row."""

    def posterior(self, evidence: Evidence) -> Belief:
        """The belief, [M, Z]."""


def infer(encoder: ContextEncoder, context: Tensor, valid: Tensor | None = None) -> Belief:
    """q(z | c) of contexts [M, C, D], on their device."""
    every = context.new_ones(context.shape[:2]) if valid is None else valid
    nothing = encoder.nothing(len(context), context.device)
    return encoder.posterior(encoder.accumulate(nothing, context, every))


# -- PEARL's: a product of Gaussians -------------------------------------------------------------------------------------------
class ProductEncoder(nn.Module):
    """Each transition gives a Gaussian factor over z, whose product is the posterior (PEARL, eq. 1).

    Args:
        prior_factor: N(0, I) is a factor of the product too, and the network gives precisions instead of variances: a transition
            that tells nothing has a precision near 0, and a hundred of them leave the belief at N(0, I). In the paper it is not,
            and each transition's variance would have to grow to a hundred for that.
    """

    ordered = False

    def __init__(
        self,
        inputs: int,
        latent_dim: int,
        hidden: int,
        depth: int,
        generator: torch.Generator,
        prior_factor: bool = False,
    ):
        super().__init__()
        self.latent_dim, self.prior_factor = latent_dim, prior_factor
        self.net = MLP(inputs, 2 * latent_dim, hidden, depth, generator)

    def nothing(self, tasks: int, device: torch.device = CPU) -> Evidence:
        zeros = torch.zeros(tasks, self.latent_dim, device=device)
        return Evidence(zeros, zeros, torch.zeros(tasks, device=device))

    def accumulate(self, evidence: Evidence, context: Tensor, valid: Tensor) -> Evidence:
        keep, features = valid.unsqueeze(-1), self.net(context).float()
        if self.prior_factor:
            mean, raw = features.chunk(2, -1)
            precision = F.softplus(raw - 4.0)  # little at first
        else:
            mean, variance = mean_and_variance(features)
            precision = 1 / variance
        total = evidence.total + (keep * mean * precision).sum(1)
        return Evidence(total, evidence.weight + (keep * precision).sum(1), evidence.seen + valid.sum(1))

    def posterior(self, evidence: Evidence) -> Gaussian:
        variance = 1 / (evidence.weight + float(self.prior_factor)).clamp(min=1e-12)
        return gaussian_belief(evidence, evidence.total * variance, variance)


def mean_and_variance(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [..., Z] of a network's outputs [..., 2 Z]."""
    mean, raw = numbers.chunk(2, -1)
    return mean, F.softplus(raw).clamp(min=1e-7)


def gaussian_belief(evidence: Evidence, mean: Tensor, variance: Tensor) -> Gaussian:
    """N(mean, variance) [M, Z] where something was seen, N(0, I) elsewhere."""
    some = (evidence.seen > 0).unsqueeze(-1)
    return Gaussian(torch.where(some, mean, 0.0), 0.5 * torch.where(some, variance, 1.0).log())


# -- encoders that sum a context up, and read z from the summary -------------------------------------------------------------------
class Summary(Protocol):
    """How the features of transitions [M, C, H] are summed up."""

    width: int  # numbers of a summary
    ordered: bool  # whether it is to be shown transitions as they followed each other

    def nothing(self, tasks: int, device: torch.device = CPU) -> Evidence: ...
    def accumulate(self, evidence: Evidence, features: Tensor, valid: Tensor) -> Evidence: ...
    def summary(self, evidence: Evidence) -> Tensor:
        """What was seen, in as many numbers however much that was, [M, width]."""


class MeanSummary(nn.Module):
    """The mean over a set of transitions (deep sets, Zaheer et al. 2017, arXiv:1703.06114)."""

    ordered = False

    def __init__(self, hidden: int, generator: torch.Generator):
        super().__init__()
        self.width = hidden

    def nothing(self, tasks: int, device: torch.device = CPU) -> Evidence:
        return Evidence(*(torch.zeros(tasks, *size, device=device) for size in ((self.width,), (1,), ())))

    def accumulate(self, evidence: Evidence, features: Tensor, valid: Tensor) -> Evidence:
        total = evidence.total + (valid.unsqueeze(-1) * F.leaky_relu(features, 0.2)).sum(1)
        return Evidence(total, evidence.weight, evidence.seen + valid.sum(1))

    def summary(self, evidence: Evidence) -> Tensor:
        return evidence.total / evidence.seen.clamp(min=1).unsqueeze(-1)


class ConvolutionSummary(MeanSummary):
    """The mean of causal convolutions over three scales of time. To it a context is a set of episodes."""

    ordered = True

    def __init__(self, hidden: int, generator: torch.Generator):
        super().__init__(hidden, generator)
        self.scales = nn.ModuleList(linear(2 * hidden, hidden, generator) for _ in range(3))

    def accumulate(self, evidence: Evidence, features: Tensor, valid: Tensor) -> Evidence:
        features = F.leaky_relu(features, 0.2)
        for scale, layer in enumerate(self.scales):
            before = F.pad(features, (0, 0, 2**scale, 0))[:, : features.shape[1]]
            features = features + F.leaky_relu(layer(torch.cat([features, before], -1)).float(), 0.2)
        total = evidence.total + (valid.unsqueeze(-1) * features).sum(1)
        return Evidence(total, evidence.weight, evidence.seen + valid.sum(1))


class AttentionSummary(nn.Module):
    """Means over a set of transitions by learned weights: a softmax for each head over everything so far.

    Of the past only the highest logit and the two sums are kept, for each head.
    """

    ordered = False

    def __init__(self, hidden: int, generator: torch.Generator):
        super().__init__()
        self.width = HEADS * hidden
        self.ask = linear(hidden, HEADS, generator)  # the logit of each transition's weight, for each head

    def nothing(self, tasks: int, device: torch.device = CPU) -> Evidence:
        return Evidence(*(torch.zeros(tasks, *size, device=device) for size in ((self.width,), (2 * HEADS,), ())))

    def accumulate(self, evidence: Evidence, features: Tensor, valid: Tensor) -> Evidence:
        features = F.leaky_relu(features, 0.2)
        highest, weight = evidence.weight.chunk(2, -1)  # [M, heads]
        never = torch.finfo(features.dtype).min
        highest = torch.where(weight > 0, highest, never)
        logits = self.ask(features).float().masked_fill(valid.unsqueeze(-1) == 0, never)  # [M, C, heads]
        top = torch.maximum(highest, logits.amax(1))
        fading = torch.exp(highest - top)
        shares = torch.exp(logits - top.unsqueeze(1)) * valid.unsqueeze(-1)
        total = evidence.total.view(len(top), HEADS, -1) * fading.unsqueeze(-1)
        total = total + torch.einsum("nch,ncd->nhd", shares, features)
        weight = weight * fading + shares.sum(1)
        kept = torch.cat([torch.where(weight > 0, top, 0.0), weight], -1)
        return Evidence(total.flatten(1), kept, evidence.seen + valid.sum(1))

    def summary(self, evidence: Evidence) -> Tensor:
        shares = evidence.weight[:, HEADS:].clamp(min=1e-12)
        return (evidence.total.view(len(shares), HEADS, -1) / shares.unsqueeze(-1)).flatten(1)


class SetAttention(nn.Module):
    """Queries [M, N, H] look at keys [M, C, H]: attention of several heads, then a layer, each added to what goes in (Lee et al.
    2019, eq. 6 and 7, without layer normalisation)."""

    def __init__(self, hidden: int, generator: torch.Generator):
        super().__init__()
        self.query, self.key, self.value, self.out = (linear(hidden, hidden, generator) for _ in range(4))

    def forward(self, queries: Tensor, keys: Tensor, valid: Tensor | None = None) -> Tensor:
        """[M, N, H], of those keys that are `valid` [M, C]; without any it is a function of the queries alone."""
        query, key, value = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2)  # [M, heads, N or C, H / heads]
            for part in (self.query(queries), self.key(keys), self.value(keys))
        )
        mask = None if valid is None else (valid > 0)[:, None, None].expand(-1, -1, query.shape[2], -1)
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)  # 0 where no key is valid
        seen = (query + read).transpose(1, 2).flatten(2)
        result: Tensor = seen + F.relu(self.out(seen))
        return result


class SetTransformerSummary(nn.Module):
    """Transitions look at each other through 32 learned points, twice, and a learned query reads what came of it (Lee et al. 2019,
    arXiv:1810.00825: two ISAB, then PMA). SiMPL's encoder.

    How one transition is seen depends on all others. So all of them are kept, and are gone through again when there are more.
    """

    ordered = False

    def __init__(self, hidden: int, generator: torch.Generator):
        super().__init__()
        if hidden % HEADS:
            raise ConfigError(
                f"encoder: set_transformer has {HEADS} heads, which share out {hidden} units; give it a multiple"
            )
        self.width = hidden
        self.induce, self.attend = (
            nn.ModuleList(SetAttention(hidden, generator) for _ in range(BLOCKS)) for _ in range(2)
        )
        self.pool = SetAttention(hidden, generator)
        self.points, self.ask = (
            nn.Parameter(torch.randn(size, hidden, generator=generator) / math.sqrt(hidden))
            for size in (BLOCKS * POINTS, 1)
        )

    def nothing(self, tasks: int, device: torch.device = CPU) -> Evidence:
        return Evidence(*(torch.zeros(tasks, *size, device=device) for size in ((0, self.width), (0,), ())))

    def accumulate(self, evidence: Evidence, features: Tensor, valid: Tensor) -> Evidence:
        kept, there = torch.cat([evidence.total, features], 1), torch.cat([evidence.weight, valid], 1)
        return Evidence(kept, there, evidence.seen + valid.sum(1))

    def summary(self, evidence: Evidence) -> Tensor:
        seen, valid = evidence.total, evidence.weight
        at_once = 1 if seen.shape[1] >= LONG else max(1, len(seen))
        each = zip(torch.split(seen, at_once), torch.split(valid, at_once), strict=True)
        return torch.cat([self.read(*part) for part in each])

    def read(self, seen: Tensor, valid: Tensor) -> Tensor:
        """The summary of some tasks, [M, H], given features [M, C, H] of which some are valid [M, C]."""
        tasks = len(seen)
        for points, induce, attend in zip(self.points.chunk(BLOCKS), self.induce, self.attend, strict=True):
            seen = attend(seen, induce(points.expand(tasks, -1, -1), seen, valid))
        result: Tensor = self.pool(self.ask.expand(tasks, -1, -1), seen, valid)
        return result.flatten(1)


class GruSummary(nn.Module):
    """The state of a GRU after the last transition of a sequence."""

    ordered = True

    def __init__(self, hidden: int, generator: torch.Generator):
        super().__init__()
        self.width = hidden
        self.cell = recurrent(nn.GRU, hidden, hidden, generator)

    def nothing(self, tasks: int, device: torch.device = CPU) -> Evidence:
        return Evidence(*(torch.zeros(tasks, *size, device=device) for size in ((self.width,), (1,), ())))

    def accumulate(self, evidence: Evidence, features: Tensor, valid: Tensor) -> Evidence:
        state = self.cell(F.leaky_relu(features, 0.2), evidence.total.unsqueeze(0).contiguous())[0].float()
        last = (valid.sum(1).long() - 1).clamp(min=0)
        state = state[torch.arange(len(state), device=state.device), last]
        total = torch.where(valid.sum(1, keepdim=True) > 0, state, evidence.total)
        return Evidence(total, evidence.weight, evidence.seen + valid.sum(1))

    def summary(self, evidence: Evidence) -> Tensor:
        return evidence.total


class SummaryEncoder(nn.Module):
    """Features of transitions, their summary, and a network that reads z from it.

    Args:
        summary: makes the summary of H features.
        components: 0: beliefs are Gaussians, N(0, I) where nothing was seen. K: they are mixtures of K Gaussians, and that which
            holds before anything was seen is learned too.
    """

    def __init__(
        self,
        summary: Callable[[int, torch.Generator], Summary],
        inputs: int,
        latent_dim: int,
        hidden: int,
        depth: int,
        generator: torch.Generator,
        components: int = 0,
    ):
        super().__init__()
        self.components = components
        self.net = MLP(inputs, hidden, hidden, depth, generator)
        self.summary = summary(hidden, generator)
        self.ordered = self.summary.ordered
        outputs = components * (1 + 2 * latent_dim) if components else 2 * latent_dim
        self.read = MLP(self.summary.width, outputs, hidden, 1, generator)
        if components:  # begin spread out, as z are: alike they would all become the same
            bias = cast(nn.Linear, self.read.layers[-1]).bias
            with torch.no_grad():
                means = bias[components:].view(components, 2, latent_dim)[:, 0]
                means.copy_(torch.randn(means.shape, generator=generator))

    def nothing(self, tasks: int, device: torch.device = CPU) -> Evidence:
        return self.summary.nothing(tasks, device)

    def accumulate(self, evidence: Evidence, context: Tensor, valid: Tensor) -> Evidence:
        return self.summary.accumulate(evidence, self.net(context).float(), valid)

    def posterior(self, evidence: Evidence) -> Belief:
        numbers = self.read(self.summary.summary(evidence)).float()
        if self.components:
            logits, rest = numbers.tensor_split([self.components], -1)
            mean, log_stddev = rest.unflatten(-1, (self.components, -1)).chunk(2, -1)
            return Mixture(logits, Gaussian(mean, log_stddev.clamp(*MIXED)))
        return gaussian_belief(evidence, *mean_and_variance(numbers))


SUMMARIES: dict[str, Callable[[int, torch.Generator], Summary]] = {
    "mean": MeanSummary,
    "attention": AttentionSummary,
    "set_transformer": SetTransformerSummary,
    "gru": GruSummary,
    "convolution": ConvolutionSummary,
}
ENCODERS = ("product", *SUMMARIES)
OF_SETS = ("product", "mean", "attention", "set_transformer")  # those for which the order of steps does not matter


def make_encoder(
    kind: str,
    inputs: int,
    latent_dim: int,
    hidden: int,
    depth: int,
    generator: torch.Generator,
    prior_factor: bool = False,
    components: int = 0,
) -> ProductEncoder | SummaryEncoder:
    """The encoder of a name in `ENCODERS`. Raises ValueError for another one."""
    if kind == "product":
        if components:
            raise ValueError(
                "a product of Gaussians is a Gaussian; choose another encoder for a belief that is a mixture"
            )
        return ProductEncoder(inputs, latent_dim, hidden, depth, generator, prior_factor)
    if kind not in SUMMARIES:
        raise ValueError(f"encoder is {kind!r}; choose one of {', '.join(ENCODERS)}")
    layers = 0 if kind == "set_transformer" else depth  # its attention is its depth
    return SummaryEncoder(SUMMARIES[kind], inputs, latent_dim, hidden, layers, generator, components)
