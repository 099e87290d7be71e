"""A ring of decisions, preallocated, sampled by index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from skillmeta.types import Episodes, State


@dataclass(frozen=True)
class Transitions:
    """B decisions: what was seen when each was made, and what it led to."""

    observation: Tensor  # [B, O] when the decision was made
    action: Tensor  # [B, A] as executed
    reward: Tensor  # [B] summed over the decision's primitive steps
    next_observation: Tensor  # [B, O] when the decision had run its course
    terminated: Tensor  # [B] 1.0 where the MDP ended; 0.0 after a truncation, which is bootstrapped

    def discount(self, gamma: float) -> Tensor:
        """The factor in front of the next value, [B]: gamma, of a decision; 0 where the MDP ended."""
        return gamma * (1 - self.terminated)

    def flat(self) -> Transitions:
        """Of [M, B, ...] one batch, [M * B, ...]."""
        return Transitions(*(getattr(self, name).flatten(0, 1) for name in FIELDS))


def stack(batches: Sequence[Transitions]) -> Transitions:
    """Batches of several tasks as one, [M, B, ...]."""
    return Transitions(*(torch.stack([getattr(batch, name) for batch in batches]) for name in FIELDS))


def concatenate(batches: Sequence[Transitions]) -> Transitions:
    """Batches as one, their rows below one another."""
    return Transitions(*(torch.cat([getattr(batch, name) for batch in batches]) for name in FIELDS))


class Replay:
    """The last `capacity` decisions."""

    def __init__(self, capacity: int, observation_dim: int, action_dim: int):
        self.capacity = capacity
        self.added = 0
        self.columns = Transitions(
            observation=torch.zeros(capacity, observation_dim),
            action=torch.zeros(capacity, action_dim),
            reward=torch.zeros(capacity),
            next_observation=torch.zeros(capacity, observation_dim),
            terminated=torch.zeros(capacity),
        )

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, episodes: Episodes) -> None:
        """Append every valid decision of N episodes, in order of time within each."""
        keep = episodes.valid
        rows = {
            "observation": episodes.observation[:, :-1][keep],
            "action": episodes.action[keep],
            "reward": episodes.reward[keep],
            "next_observation": episodes.observation[:, 1:][keep],
            "terminated": episodes.terminated[keep],
        }
        count = int(keep.sum())
        at = (self.added + torch.arange(count)) % self.capacity
        newest = slice(max(0, count - self.capacity), None)  # more than fits: the last ones stay
        for name, values in rows.items():
            getattr(self.columns, name)[at[newest]] = torch.from_numpy(values[newest]).float()
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
        begin = max(begin, self.added - self.capacity)
        if ordered:
            first = int(torch.randint(max(1, end - begin - batch_size + 1), (1,), generator=generator))
            at = (first + torch.arange(batch_size)) % (end - begin)
        else:
            at = torch.randint(end - begin, (batch_size,), generator=generator)
        return self.at((begin + at) % self.capacity)

    def at(self, rows: torch.Tensor) -> Transitions:
        """The decisions in given rows of the ring."""
        return Transitions(*(getattr(self.columns, name).index_select(0, rows) for name in FIELDS))

    def state(self) -> State:
        """Only the rows in use, so that a young run's checkpoint is small."""
        return {"added": self.added, **{name: getattr(self.columns, name)[: len(self)] for name in FIELDS}}

    def restore(self, state: State) -> None:
        added = state["added"]
        assert isinstance(added, int)
        self.added = added
        for name in FIELDS:
            values = state[name]
            assert isinstance(values, Tensor)
            getattr(self.columns, name)[: len(self)] = values


FIELDS = ("observation", "action", "reward", "next_observation", "terminated")
