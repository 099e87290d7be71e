"""Several processes that train one model, each on its part of every batch: what `torchrun` starts (docs/cluster.md).

All have the same parameters, draw the same batches and average their gradients. The first one alone writes; what it has read or
decided is broadcast to the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from skillmeta.errors import ConfigError, UserError
from skillmeta.run.run import Run
from skillmeta.run.signals import StopSignals
from skillmeta.types import State

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is. With one nothing is exchanged.

    Every method but `part` is a meeting: all processes call it. Where one of them has ended it raises UserError in the others.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    @contextlib.contextmanager
    def here(cls) -> Iterator[Ranks]:
        """Those that `torchrun` has started, connected by gloo for a block; one, where it has not."""
        if not (dist.is_available() and dist.is_torchelastic_launched()):
            yield cls()
            return
        dist.init_process_group("gloo")
        try:
            yield cls(dist.get_rank(), dist.get_world_size())
        finally:
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def part(self, batch_size: int) -> slice:
        """The rows of a batch that are this process's. Raises ConfigError if they cannot be shared out equally."""
        each, left = divmod(batch_size, self.size)
        if left:
            raise ConfigError(f"training.batch_size is {batch_size}; set it to a multiple of the {self.size} processes")
        return slice(self.rank * each, (self.rank + 1) * each)

    def average(self, gradients: Iterable[Tensor | None]) -> None:
        """Put the mean over all processes in the place of each gradient. Those that are None are so in all."""
        if self.size == 1:
            return
        there = [gradient for gradient in gradients if gradient is not None]
        flat = torch.cat([gradient.flatten() for gradient in there])
        self._add_up(flat)
        means = torch.split(flat / self.size, [gradient.numel() for gradient in there])
        for gradient, mean in zip(there, means, strict=True):
            gradient.copy_(mean.view_as(gradient))

    def means(self, numbers: dict[str, float]) -> dict[str, float]:
        """The mean over all processes of each number."""
        if self.size == 1:
            return numbers
        values = torch.tensor(list(numbers.values()), dtype=torch.float64)
        self._add_up(values)
        return dict(zip(numbers, (values / self.size).tolist(), strict=True))

    def any(self, mine: bool) -> bool:
        """Whether it is true of one of them."""
        if self.size == 1:
            return mine
        count = torch.tensor([float(mine)])
        self._add_up(count)
        return bool(count > 0)

    def from_first(self, value: T) -> T:
        """What the first process has."""
        if self.size == 1:
            return value
        box = [value if self.first else None]
        with _others_gone():
            dist.broadcast_object_list(box, src=0)
        found: Any = box[0]
        return found  # type: ignore[no-any-return]

    def _add_up(self, values: Tensor) -> None:
        with _others_gone():
            dist.all_reduce(values)


ALONE = Ranks()


@contextlib.contextmanager
def _others_gone() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise UserError("another process of this training has ended, and says why; the same command resumes") from error


class SharedRun:
    """A `Run` of several processes, as the loop sees it.

    Args:
        run: in the first process; None in the others.
    """

    def __init__(self, run: Run | None, folder: Path, ranks: Ranks):
        self.run, self.folder, self.ranks = run, folder, ranks
        self._signals = StopSignals()  # of a process without a run

    def __enter__(self) -> SharedRun:
        if self.run is None:
            self._signals.__enter__()
        return self

    def __exit__(self, *unused: object) -> None:
        if self.run is None:
            self._signals.__exit__()

    def restore(self) -> State | None:
        return self.ranks.from_first(None if self.run is None else self.run.restore())

    @property
    def stop_requested(self) -> bool:
        """Of all processes in the same iteration: whoever was asked first."""
        asked = self.ranks.any(self._signals.heard if self.run is None else self.run.stop_requested)
        if asked:
            self._signals.safe()
        return asked

    def log(self, kind: str, **values: float | int | str | bool) -> None:
        if self.run is not None:
            self.run.log(kind, **values)

    def report_progress(self, fraction: float, text: str) -> None:
        if self.run is not None:
            self.run.report_progress(fraction, text)

    def checkpoint(self, step: int, state: State) -> None:
        if self.run is not None:
            self.run.checkpoint(step, state)
