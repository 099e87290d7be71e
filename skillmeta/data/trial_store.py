"""The last trials, whole and in order: what a model of tasks learns from long after they were collected.

Shape letters: B trials, L decisions of the longest of them.
"""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from skillmeta.data.replay import Replay, Transitions
from skillmeta.errors import ConfigError
from skillmeta.types import Episodes, State, Trials


class TrialStore:
    """A replay that knows where each trial begins. Trials that are no longer there in full are forgotten.

    Args: capacity: decisions, of all trials together.
    """

    def __init__(self, capacity: int, observation_dim: int, action_dim: int):
        self.replay = Replay(capacity, observation_dim, action_dim)
        self.begins: list[int] = []  # of each trial; counts of `replay.added`

    def __len__(self) -> int:
        return len(self.begins)

    def add(self, trials: Trials) -> None:
        """Append N trials. Raises ConfigError for one that is larger than the capacity."""
        for n, valid in enumerate(trials.valid):
            if (count := int(valid.sum())) > self.replay.capacity:
                raise ConfigError(
                    f"replay_capacity is {self.replay.capacity}; a trial here has {count} decisions, all of which have to fit"
                )
            self.begins.append(self.replay.added)
            self.replay.add(Episodes(*(getattr(trials, f.name)[n] for f in fields(Trials))))
        lost = self.replay.added - self.replay.capacity
        self.begins = [begin for begin in self.begins if begin >= lost]
        self.replay.first = self.begins[0]

    def sample(self, count: int, generator: torch.Generator) -> tuple[Transitions, Tensor]:
        """B different trials, or as many as there are, [B, L, ...], and which decisions are some, [B, L]: the others are zero."""
        chosen = torch.randperm(len(self.begins), generator=generator)[:count]
        marks = torch.tensor([*self.begins, self.replay.added])
        begin, length = marks[chosen], (marks[1:] - marks[:-1])[chosen]
        at = torch.arange(int(length.max()))
        valid = (at < length[:, None]).float()
        rows = self.replay.at(((begin[:, None] + at) % self.replay.capacity).flatten())

        def masked(values: Tensor) -> Tensor:
            values = values.view(*valid.shape, *values.shape[1:])
            return values * valid.view(*valid.shape, *[1] * (values.dim() - 2))

        return Transitions(*map(masked, rows)), valid

    def state(self) -> State:
        return {"replay": self.replay.state(), "begins": torch.tensor(self.begins)}

    def restore(self, state: State) -> None:
        replay, begins = state["replay"], state["begins"]
        assert isinstance(replay, dict) and isinstance(begins, Tensor)
        self.replay.restore(replay)
        self.begins = [int(begin) for begin in begins.tolist()]
