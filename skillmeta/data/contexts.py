"""What contexts are drawn from: the last visits to a task, and where each of them begins and ends.

Shape letters: C transitions of a context.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skillmeta.data.replay import Replay, Transitions
from skillmeta.errors import ConfigError
from skillmeta.types import Episodes, State


class ContextBuffer:
    """The last visits to one task. A visit is the episodes with z from the prior, if they are to be shown, and then a trial.

    Args:
        capacity: transitions, of all visits together. Those that no longer fit are forgotten, the oldest first.
        keep: visits, at most.
    """

    def __init__(self, capacity: int, keep: int, observation_dim: int, action_dim: int):
        self.keep = keep
        self.buffer = Replay(capacity, observation_dim, action_dim)
        # Of each visit: where it begins, where its trial does, and where each episode of that ends; counts of `buffer.added`.
        self.marks: list[list[int]] = []

    def add(self, prior: Episodes | None, trial: Sequence[Episodes]) -> None:
        marks = [self.buffer.added]
        if prior is not None:
            self.buffer.add(prior)
        marks.append(self.buffer.added)
        for some in trial:
            self.buffer.add(some)
            marks.append(self.buffer.added)
        self.marks = [*self.marks, marks][-self.keep :]
        while len(self.marks) > 1 and self.buffer.added - self.marks[0][0] > self.buffer.capacity:
            self.marks.pop(0)
        self.buffer.first = self.marks[0][0]

    def recent(self, size: int, generator: torch.Generator, ordered: bool, trial: bool) -> tuple[Transitions, Tensor]:
        """C transitions of the last visit, drawn with replacement, and which of them are some, [C]: all.

        Args:
            ordered: that followed each other.
            trial: its trial is shown too, not only the episodes with z from the prior.
        """
        marks = self.marks[-1]
        window = (marks[0], marks[-1] if trial else marks[1])
        return self.buffer.sample(size, generator, ordered, window), torch.ones(size)

    def beginning(
        self, size: int, generator: torch.Generator, ordered: bool, nothing: bool
    ) -> tuple[Transitions, Tensor]:
        """The first episodes of a visit's trial, as many as chance says: at most C transitions, and which are some, [C].

        Args:
            ordered: that followed each other, where there are more than C.
            nothing: none at all is possible too.

        Raises ConfigError where a visit is larger than the capacity.
        """
        begin, marks = self.marks[0][0], self.marks[int(torch.randint(len(self.marks), (1,), generator=generator))]
        if self.buffer.added - begin > self.buffer.capacity:
            raise ConfigError(
                f"context_capacity is {self.buffer.capacity}; a visit to a task of this family has "
                f"{self.buffer.added - begin} transitions, and context: trial needs all of them"
            )
        begin, ends = marks[1], marks[1 if nothing else 2 :]
        count = ends[int(torch.randint(len(ends), (1,), generator=generator))] - begin
        at = torch.arange(size) % max(1, count)
        if count > size and ordered:
            at += torch.randint(count - size + 1, (1,), generator=generator)
        elif count > size:
            at = torch.randperm(count, generator=generator)[:size].sort().values
        return self.buffer.at((begin + at) % self.buffer.capacity), (torch.arange(size) < count).float()

    def state(self) -> State:
        return {"buffer": self.buffer.state(), "marks": torch.tensor(self.marks)}

    def restore(self, state: State) -> None:
        buffer, marks = state["buffer"], state["marks"]
        assert isinstance(buffer, dict) and isinstance(marks, Tensor)
        self.buffer.restore(buffer)
        self.marks = marks.tolist()
