"""What runs through a trial and remembers: recurrent, convolutional and attentive cores that a policy can stand on.

Each goes through whole sequences at once to learn, and takes one step at a time to act; the two compute the same. A step does not
change the state: it gives an output and what would be remembered of it, and `commit` remembers it where the decision was taken.

Shape letters: N sequences, L decisions, I inputs, `width` outputs.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skillmeta.nn.networks import MLP, check_size, linear, recurrent

CORES = ("gru", "lstm", "snail", "transformer")


class History(NamedTuple):
    """What attention and convolutions look back on: an entry for each decision so far, in the first `length` columns of a row."""

    entries: Tensor  # [N, C, W]
    length: Tensor  # [N] int64


State = Tensor | History  # recurrent: [N, S]


class Core(Protocol):
    width: int

    def sequence(self, inputs: Tensor) -> Tensor:
        """Outputs [N, L, width] along sequences [N, L, I] from their start; none depends on what comes after it."""
        ...

    def begin(self, num: int) -> State: ...

    def nothing(self, num: int) -> Tensor:
        """The candidate of no step, to have the shape."""
        ...

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """Output [N, width] for inputs [N, I], and the candidate to be kept of this step."""
        ...

    def commit(self, state: State, candidate: Tensor, taken: Tensor) -> State:
        """The state with the candidate of the rows in which `taken` [N] holds."""
        ...


def make_core(
    name: str, inputs: int, hidden: int, layers: int, receptive_field: int, generator: torch.Generator
) -> Core:
    """A core by its name.

    Args:
        hidden: width of the state; of a transformer's stream; channels that each of SNAIL's convolutions adds.
        layers: of a transformer.
        receptive_field: decisions that SNAIL's convolutions look back on, rounded up to a power of 2.
    """
    if name in ("gru", "lstm"):
        return Recurrent(inputs, hidden, name == "lstm", generator)
    if name == "snail":
        return Snail(inputs, hidden, receptive_field, generator)
    if name == "transformer":
        return Transformer(inputs, hidden, layers, generator)
    raise ValueError(f"core is {name!r}; choose one of {', '.join(CORES)}")


class Recurrent(nn.Module):
    """A layer of GRU, or of LSTM."""

    def __init__(self, inputs: int, hidden: int, lstm: bool, generator: torch.Generator):
        super().__init__()
        self.width, self.lstm = hidden, lstm
        self.cell = recurrent(nn.LSTM if lstm else nn.GRU, inputs, hidden, generator)

    def sequence(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.cell(inputs)[0]
        return result

    def begin(self, num: int) -> Tensor:
        return torch.zeros(num, self.width * (2 if self.lstm else 1))

    nothing = begin

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, Tensor]:
        assert isinstance(state, Tensor)
        if self.lstm:
            before = tuple(part.unsqueeze(0).contiguous() for part in state.chunk(2, -1))
            out, (hidden, cell) = self.cell(inputs.unsqueeze(1), before)
            return out[:, 0], torch.cat([hidden[0], cell[0]], -1)
        out, hidden = self.cell(inputs.unsqueeze(1), state.unsqueeze(0).contiguous())
        return out[:, 0], hidden[0]

    def commit(self, state: State, candidate: Tensor, taken: Tensor) -> Tensor:
        assert isinstance(state, Tensor)
        return torch.where(taken.unsqueeze(-1), candidate, state)


class Remembering(nn.Module):
    """What SNAIL and the transformer share: a history of entries."""

    entry: int

    def begin(self, num: int) -> History:
        return History(torch.zeros(num, 0, self.entry), torch.zeros(num, dtype=torch.int64))

    def nothing(self, num: int) -> Tensor:
        return torch.zeros(num, self.entry)

    def commit(self, state: State, candidate: Tensor, taken: Tensor) -> History:
        assert isinstance(state, History)
        columns = state.entries.shape[1]
        longer = torch.cat([state.entries, candidate.unsqueeze(1)], 1)
        if bool(taken.all()) and bool((state.length == columns).all()):  # in step with each other: the common case
            return History(longer, state.length + 1)
        own = torch.arange(columns + 1) == state.length.unsqueeze(-1)
        entries = torch.where((own & taken.unsqueeze(-1)).unsqueeze(-1), candidate.unsqueeze(1), longer)
        count = state.length + taken
        return History(entries[:, : int(count.max())], count)


def look_back(query: Tensor, key: Tensor, value: Tensor, past: History, keys: slice, values: slice) -> Tensor:
    """Attention of one step [N, heads, 1, d] to the past's entries and to itself."""
    num, heads, _, d = query.shape

    def seen(columns: slice, own: Tensor) -> Tensor:
        earlier = past.entries[..., columns].view(num, -1, heads, d).transpose(1, 2)
        return torch.cat([earlier, own], 2)

    there = torch.arange(past.entries.shape[1]) < past.length.unsqueeze(-1)
    mask = torch.cat([there, torch.ones(num, 1, dtype=torch.bool)], 1)[:, None, None]
    return F.scaled_dot_product_attention(query, seen(keys, key), seen(values, value), attn_mask=mask)


class Snail(Remembering):
    """Dilated causal convolutions, twice over the whole receptive_field, then attention to everything before (Mishra et al. 2018,
    arXiv:1707.03141). Each layer's channels are appended to what it saw."""

    def __init__(self, inputs: int, channels: int, receptive_field: int, generator: torch.Generator):
        super().__init__()
        levels = max(1, math.ceil(math.log2(receptive_field)))
        self.channels, self.dilations = channels, [2**level for level in range(levels)] * 2
        self.embed = linear(inputs, channels, generator)
        widths = [channels * (1 + i) for i in range(len(self.dilations))]
        self.convolutions = nn.ModuleList(linear(2 * width, 2 * channels, generator) for width in widths)
        self.seen = channels * (1 + len(self.dilations))
        self.attend = linear(self.seen, 3 * channels, generator)  # query, key and value
        self.width, self.entry = self.seen + channels, self.seen + 2 * channels

    def gated(self, layer: nn.Module, here: Tensor, before: Tensor) -> Tensor:
        signal, gate = layer(torch.cat([here, before], -1)).chunk(2, -1)
        return torch.tanh(signal) * torch.sigmoid(gate)

    def sequence(self, inputs: Tensor) -> Tensor:
        x = self.embed(inputs)
        for layer, dilation in zip(self.convolutions, self.dilations, strict=True):
            before = F.pad(x, (0, 0, dilation, 0))[:, : x.shape[1]]
            x = torch.cat([x, self.gated(layer, x, before)], -1)
        query, key, value = (part.unsqueeze(1) for part in self.attend(x).chunk(3, -1))
        read = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return torch.cat([x, read.squeeze(1)], -1)

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, Tensor]:
        assert isinstance(state, History)
        x = self.embed(inputs)
        for layer, dilation in zip(self.convolutions, self.dilations, strict=True):
            x = torch.cat([x, self.gated(layer, x, earlier(state, dilation, x.shape[-1]))], -1)
        query, key, value = self.attend(x).chunk(3, -1)
        keys = slice(self.seen, self.seen + self.channels)
        values = slice(self.seen + self.channels, self.entry)
        query, key, value = (part[:, None, None] for part in (query, key, value))
        read = look_back(query, key, value, state, keys, values)
        return torch.cat([x, read[:, 0, 0]], -1), torch.cat([x, key[:, 0, 0], value[:, 0, 0]], -1)


def earlier(past: History, steps: int, width: int) -> Tensor:
    """The first numbers of each row's entry so many steps ago, [N, width]; zeros before the first."""
    at = past.length - steps
    if past.entries.shape[1] == 0:
        return torch.zeros(len(at), width)
    rows = past.entries[torch.arange(len(at)), at.clamp(min=0), :width]
    return torch.where((at >= 0).unsqueeze(-1), rows, torch.zeros(()))


class Transformer(Remembering):
    """Layers of causal attention and perceptrons, each on the normalised stream (pre-norm), with sinusoidal positions."""

    def __init__(self, inputs: int, hidden: int, layers: int, generator: torch.Generator):
        super().__init__()
        check_size(8 * layers * hidden**2)
        about = max(1, hidden // 32)  # heads of 32 numbers, or of the next more that divide the width
        self.width, self.heads = hidden, max(n for n in range(1, about + 1) if hidden % n == 0)
        self.entry = layers * 2 * hidden
        self.embed = linear(inputs, hidden, generator)
        self.attend = nn.ModuleList(linear(hidden, 3 * hidden, generator) for _ in range(layers))
        self.read = nn.ModuleList(linear(hidden, hidden, generator) for _ in range(layers))
        self.think = nn.ModuleList(MLP(hidden, hidden, 2 * hidden, 1, generator) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(2 * layers + 1))

    def heads_of(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, L, 3 * hidden] -> query, key and value [N, heads, L, d]."""
        num, steps, _ = x.shape
        query, key, value = x.view(num, steps, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return query, key, value

    def sequence(self, inputs: Tensor) -> Tensor:
        x = self.embed(inputs) + positions(torch.arange(inputs.shape[1], device=inputs.device), self.width)
        for i in range(len(self.attend)):
            query, key, value = self.heads_of(self.attend[i](self.norms[2 * i](x)))
            seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
            x = x + self.read[i](seen.transpose(1, 2).flatten(2))
            x = x + self.think[i](self.norms[2 * i + 1](x))
        result: Tensor = self.norms[-1](x)
        return result

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, Tensor]:
        assert isinstance(state, History)
        x, candidate = (self.embed(inputs) + positions(state.length, self.width)).unsqueeze(1), []
        for i in range(len(self.attend)):
            query, key, value = self.heads_of(self.attend[i](self.norms[2 * i](x)))
            first = 2 * i * self.width
            keys, values = slice(first, first + self.width), slice(first + self.width, first + 2 * self.width)
            seen = look_back(query, key, value, state, keys, values)
            candidate += [key.transpose(1, 2).flatten(1), value.transpose(1, 2).flatten(1)]
            x = x + self.read[i](seen.transpose(1, 2).flatten(2))
            x = x + self.think[i](self.norms[2 * i + 1](x))
        return self.norms[-1](x)[:, 0], torch.cat(candidate, -1)


def positions(at: Tensor, width: int) -> Tensor:
    """Sines and cosines of places [...] in a sequence, [..., width] (Vaswani et al. 2017, arXiv:1706.03762)."""
    rates = torch.exp(torch.arange(0, width, 2, device=at.device) * (-math.log(10_000.0) / width))
    angles = at.unsqueeze(-1) * rates
    return torch.cat([angles.sin(), angles.cos()], -1)[..., :width]
