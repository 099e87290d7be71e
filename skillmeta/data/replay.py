"""A ring of decisions, preallocated, sampled by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skillmeta.types import Episodes, Growing, State


class Transitions(NamedTuple):
    """B decisions: what was seen when each was made, and what it led to. There may be leading axes of tasks."""

    observation: Tensor  # [B, O] when the decision was made
    action: Tensor  # [B, A] as executed
    reward: Tensor  # [B] summed over the decision's primitive steps
    next_observation: Tensor  # [B, O] when the decision had run its course
    terminated: Tensor  # [B] 1.0 where the MDP ended; 0.0 after a truncation, which is bootstrapped

    def discount(self, gamma: float) -> Tensor:
        """The factor in front of the next value, [B]: gamma, of a decision; 0 where the MDP ended."""
        return gamma * (1 - self.terminated)

    def to(self, device: torch.device) -> Transitions:
        """The same on a device."""
        return Transitions(*(part.to(device) for part in self))

    def flat(self) -> Transitions:
        """Of [M, B, ...] one batch, [M * B, ...]."""
        return Transitions(*(part.flatten(0, 1) for part in self))

    def at(self, *index: Tensor) -> Transitions:
        return Transitions(*(part[index] for part in self))


def zeros(observation_dim: int, action_dim: int, *lead: int) -> Transitions:
    """Decisions whose numbers are all 0, with these leading axes."""
    shapes = (observation_dim,), (action_dim,), (), (observation_dim,), ()
    # NumPy's zeros take memory when they are written to: a replay costs what is in it, not what fits in it.
    number = torch.zeros(0).numpy().dtype  # torch's default
    return Transitions(*(torch.from_numpy(np.zeros((*lead, *shape), number)) for shape in shapes))


def decisions_of(episodes: Episodes) -> Transitions:
    """Every decision of N episodes, [N, T, ...], of which there are those that are valid."""
    observation, action, reward = map(torch.from_numpy, (episodes.observation, episodes.action, episodes.reward))
    ends = torch.from_numpy(episodes.terminated).float()
    return Transitions(observation[:, :-1], action, reward, observation[:, 1:], ends)


def stack(batches: Sequence[Transitions]) -> Transitions:
    """Batches of several tasks as one, [M, B, ...]."""
    return Transitions(*map(torch.stack, zip(*batches, strict=True)))


def concatenate(batches: Sequence[Transitions]) -> Transitions:
    """Batches as one, their rows below one another."""
    return Transitions(*map(torch.cat, zip(*batches, strict=True)))


def joined(one: Transitions, other: Transitions) -> Transitions:
    """Decisions [N, n, ...] and [N, m, ...] as one, [N, n + m, ...]."""
    return Transitions(*(torch.cat(both, 1) for both in zip(one, other, strict=True)))


class Replay:
    """The last `capacity` decisions, of those from the `first` on (`skillmeta.types.Growing`), on the CPU."""

    def __init__(self, capacity: int, observation_dim: int, action_dim: int):
        self.capacity, self.origin = capacity, object()
        self.added = 0  # never set back: a checkpoint takes what it has of a row for the row
        self.first = 0  # that is still needed
        self.columns = zeros(observation_dim, action_dim, capacity)

    @property
    def kept(self) -> range:
        return range(max(self.first, self.added - self.capacity), self.added)

    def __len__(self) -> int:
        return len(self.kept)

    def add(self, episodes: Episodes) -> None:
        """Append every valid decision of N episodes, in order of time within each."""
        rows = decisions_of(episodes).at(torch.from_numpy(episodes.valid))
        count = len(rows.reward)
        at = (self.added + torch.arange(count)) % self.capacity
        newest = slice(max(0, count - self.capacity), None)  # more than fits: the last ones stay
        for column, values in zip(self.columns, rows, strict=True):
            column[at[newest]] = values[newest].float()
        self.added += count

    def sample(
        self,
        batch_size: int,
        generator: torch.Generator,
        ordered: bool = False,
        window: tuple[int, int] | None = None,
    ) -> Transitions:
        """B decisions, uniformly with replacement; `ordered`: that followed each other, from a uniform start. What has fewer
        than B is begun again. `window`: only of those from one count of `added` to another."""
        begin, end = window or (0, self.added)
        begin = max(begin, self.kept.start)
        if ordered:
            first = int(torch.randint(max(1, end - begin - batch_size + 1), (1,), generator=generator))
            at = (first + torch.arange(batch_size)) % (end - begin)
        else:
            at = torch.randint(end - begin, (batch_size,), generator=generator)
        return self.at((begin + at) % self.capacity)

    def at(self, rows: torch.Tensor) -> Transitions:
        """The decisions in given rows of the ring."""
        return Transitions(*(column.index_select(0, rows) for column in self.columns))

    def rows(self, begin: int, end: int) -> dict[str, Tensor]:
        return self.at(torch.arange(begin, end) % self.capacity)._asdict()

    def state(self) -> State:
        return {"rows": self}

    def restore(self, state: State) -> None:
        saved = state["rows"]
        assert isinstance(saved, Growing)
        kept = saved.kept
        self.origin, self.first, self.added = saved.origin, kept.start, kept.stop
        at = torch.arange(kept.start, kept.stop) % self.capacity
        for name, values in saved.rows(kept.start, kept.stop).items():
            getattr(self.columns, name)[at] = values
