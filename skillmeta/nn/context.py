"""Encoders of a context: a set or a sequence of transitions -> a belief about the task.

What was seen is kept as `Evidence`, to which more can be added: an agent that adapts between episodes encodes each of them once.
To `product`, `mean` and `attention` a context is a set of transitions, to `convolution` a set of episodes, to `gru` a sequence.

Shape letters: N tasks, C transitions of D numbers, Z latent dimensions, H hidden units.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skillmeta.nn.distributions import Gaussian, Mixture
from skillmeta.nn.networks import MLP, linear, recurrent

ENCODERS = ("product", "mean", "attention", "gru", "convolution")
HEADS = 4  # of attention: as many weighted means, read together
ORDERED = ("gru", "convolution")  # are to be shown transitions as they followed each other
# Log standard deviations of a mixture's Gaussians. Around a single point they would narrow without end, and the steps explode.
MIXED = (-3.5, 2.0)

Belief = Gaussian | Mixture


class Evidence(NamedTuple):
    """What was seen of N tasks. The sums are an encoder's own: [N, ...]."""

    total: Tensor  # [N, E]
    weight: Tensor  # [N, W]
    seen: Tensor  # [N] transitions


class ContextEncoder(nn.Module):
    """A network for contexts, and how they are summed up.

    Args:
        kind: product: each transition gives a Gaussian factor, and the belief is their product (PEARL, eq. 1) | mean: of
            features of transitions (deep sets, Zaheer et al. 2017, arXiv:1703.06114) | attention: their mean by learned weights |
            gru: the state after the last one | convolution: the mean of causal convolutions over three scales of time.
        prior_factor: N(0, I) is a factor of the product too, and the network gives precisions instead of variances: a transition
            that tells nothing has a precision near 0, and a hundred of them leave the belief at N(0, I). In the paper it is not,
            and each transition's variance would have to grow to a hundred for that.
        components: 0: beliefs are Gaussians, N(0, I) where nothing was seen. K: they are mixtures of K Gaussians, and that which
            holds before anything was seen is learned too.
    """

    def __init__(
        self, kind: str, inputs: int, latent_dim: int, hidden: int, depth: int, prior_factor: bool,
        generator: torch.Generator, components: int = 0,
    ):  # fmt: skip
        super().__init__()
        if kind not in ENCODERS:
            raise ValueError(f"encoder is {kind!r}; choose one of {', '.join(ENCODERS)}")
        if components and kind == "product":
            raise ValueError(
                "a product of Gaussians is a Gaussian; choose another encoder for a belief that is a mixture"
            )
        self.components = components
        self.kind, self.latent_dim, self.hidden, self.prior_factor = kind, latent_dim, hidden, prior_factor
        self.net = MLP(inputs, 2 * latent_dim if kind == "product" else hidden, hidden, depth, generator)
        if kind == "attention":
            self.ask = linear(hidden, HEADS, generator)  # the logit of each transition's weight, for each head
        elif kind == "gru":
            self.cell = recurrent(nn.GRU, hidden, hidden, generator)
        elif kind == "convolution":
            self.scales = nn.ModuleList(linear(2 * hidden, hidden, generator) for _ in range(3))
        if kind != "product":
            width = hidden * (HEADS if kind == "attention" else 1)
            outputs = components * (1 + 2 * latent_dim) if components else 2 * latent_dim
            self.read = MLP(width, outputs, hidden, 1, generator)
            if components:  # begin spread out, as z are: alike they would all become the same
                with torch.no_grad():
                    means = (
                        cast(nn.Linear, self.read.layers[-1]).bias[components:].view(components, 2, latent_dim)[:, 0]
                    )
                    means.copy_(torch.randn(means.shape, generator=generator))

    def nothing(self, num: int) -> Evidence:
        """Of N tasks of which nothing was seen."""
        z, h = self.latent_dim, self.hidden
        widths = {"product": (z, z), "attention": (HEADS * h, 2 * HEADS)}.get(self.kind, (h, 1))
        return Evidence(torch.zeros(num, widths[0]), torch.zeros(num, widths[1]), torch.zeros(num))

    def accumulate(self, evidence: Evidence, context: Tensor, valid: Tensor) -> Evidence:
        """With more transitions [N, C, D], of which those count that are `valid` [N, C]: the first ones of each row."""
        keep, seen = valid.unsqueeze(-1), evidence.seen + valid.sum(1)
        features = self.net(context).float()
        if self.kind == "product":
            if self.prior_factor:
                mean, raw = features.chunk(2, -1)
                own = F.softplus(raw - 4.0)  # little at first
            else:
                mean, variance = belief_of(features)
                own = 1 / variance
            return Evidence(evidence.total + (keep * mean * own).sum(1), evidence.weight + (keep * own).sum(1), seen)
        if self.kind == "gru":
            state = self.cell(F.leaky_relu(features, 0.2), evidence.total.unsqueeze(0).contiguous())[0].float()
            last = (valid.sum(1).long() - 1).clamp(min=0)
            state = state[torch.arange(len(state)), last]
            return Evidence(torch.where(valid.sum(1, keepdim=True) > 0, state, evidence.total), evidence.weight, seen)
        features = F.leaky_relu(features, 0.2)
        if self.kind == "attention":
            return self.attended(evidence, features, valid, seen)
        if self.kind == "convolution":
            for scale, layer in enumerate(self.scales):
                before = F.pad(features, (0, 0, 2**scale, 0))[:, : features.shape[1]]
                features = features + F.leaky_relu(layer(torch.cat([features, before], -1)).float(), 0.2)
        return Evidence(evidence.total + (keep * features).sum(1), evidence.weight, seen)

    def attended(self, evidence: Evidence, features: Tensor, valid: Tensor, seen: Tensor) -> Evidence:
        """A softmax over everything so far, of which only the highest logit and the two sums are kept, for each head."""
        highest, weight = evidence.weight.chunk(2, -1)  # [N, heads]
        never = torch.finfo(features.dtype).min
        highest = torch.where(weight > 0, highest, torch.full((), never))
        logits = self.ask(features).float().masked_fill(valid.unsqueeze(-1) == 0, never)  # [N, C, heads]
        top = torch.maximum(highest, logits.amax(1))
        fading = torch.exp(highest - top)
        shares = torch.exp(logits - top.unsqueeze(1)) * valid.unsqueeze(-1)
        total = evidence.total.view(len(top), HEADS, -1) * fading.unsqueeze(-1)
        total = total + torch.einsum("nch,ncd->nhd", shares, features)
        weight = weight * fading + shares.sum(1)
        return Evidence(total.flatten(1), torch.cat([torch.where(weight > 0, top, 0.0), weight], -1), seen)

    def posterior(self, evidence: Evidence) -> Belief:
        """The belief, [N, Z]."""
        some = (evidence.seen > 0).unsqueeze(-1)
        if self.kind == "product":
            precision = evidence.weight + float(self.prior_factor)
            variance = 1 / precision.clamp(min=1e-12)
            mean = evidence.total * variance
        else:
            numbers = self.read(self.summary(evidence)).float()
            if self.components:
                logits, rest = numbers.tensor_split([self.components], -1)
                mean, log_stddev = rest.unflatten(-1, (self.components, -1)).chunk(2, -1)
                return Mixture(logits, Gaussian(mean, log_stddev.clamp(*MIXED)))
            mean, variance = belief_of(numbers)
        one = torch.ones(())
        return Gaussian(torch.where(some, mean, 0.0), 0.5 * torch.where(some, variance, one).log())

    def summary(self, evidence: Evidence) -> Tensor:
        """What was seen, in as many numbers however much that was, [N, E]."""
        summed = evidence.total
        if self.kind in ("mean", "convolution"):
            return summed / evidence.seen.clamp(min=1).unsqueeze(-1)
        if self.kind == "attention":
            shares = evidence.weight[:, HEADS:].clamp(min=1e-12)
            return (summed.view(len(summed), HEADS, -1) / shares.unsqueeze(-1)).flatten(1)
        return summed

    def infer(self, context: Tensor, valid: Tensor | None = None) -> Belief:
        """q(z | c) of contexts [N, C, D]."""
        every = torch.ones(context.shape[:2]) if valid is None else valid
        return self.posterior(self.accumulate(self.nothing(len(context)), context, every))


def belief_of(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [..., Z] of a network's outputs [..., 2 Z]."""
    mean, raw = numbers.chunk(2, -1)
    return mean, F.softplus(raw).clamp(min=1e-7)
