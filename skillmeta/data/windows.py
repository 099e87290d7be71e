"""Windows of H steps, drawn by index in one gather."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from skillmeta.data.episodes import UNMARKED
from skillmeta.data.room import at_random, parts
from skillmeta.errors import DataError
from skillmeta.seeds import Seeds

if TYPE_CHECKING:
    from skillmeta.data.episodes import EpisodeDataset

SPLITS = ("all", "train", "held_out")


class WindowBatch(NamedTuple):
    """B windows of H steps. Ends are those of the environment: at most a window's last step has one."""

    observation: Tensor  # [B, H+1, O]
    action: Tensor  # [B, H, A]
    reward: Tensor  # [B, H]
    terminated: Tensor  # [B, H] bool
    truncated: Tensor  # [B, H] bool


class WindowSource(Protocol):
    """What windows are drawn from: those of one log, or of several."""

    def __len__(self) -> int: ...
    def moments(self) -> tuple[Tensor, Tensor]: ...
    def sample(self, batch_size: int, generator: torch.Generator, rows: slice = slice(None)) -> WindowBatch: ...


class Windows:
    """All windows of H consecutive steps within some episodes, the last one of each included.

    Args:
        dataset: where they lie; its arrays are not copied.
        episodes: [C] in rising order, each of H steps or more.
        horizon: H.
        bounds: [A], [A], that actions are pulled into.
    """

    def __init__(
        self,
        dataset: EpisodeDataset,
        episodes: np.ndarray,
        horizon: int,
        bounds: tuple[Tensor, Tensor] | None = None,
    ):
        self.dataset = dataset
        columns = (dataset.action, dataset.reward, dataset.terminated, dataset.truncated)
        self.observation = at_every_row(dataset.observation, horizon + 1)
        self.columns = tuple(at_every_row(column, horizon) for column in columns)
        self.episodes = torch.from_numpy(episodes.astype(np.int64))
        counts = dataset.lengths[episodes] - horizon + 1
        ends = np.cumsum(counts)
        self._ends = torch.from_numpy(ends)  # [C] one past the number of each one's last window
        self._shift = torch.from_numpy(
            dataset.offsets[episodes] - (ends - counts)
        )  # [C] from a window's number to its step
        self.horizon, self.bounds = horizon, bounds

    @classmethod
    def of(
        cls,
        dataset: EpisodeDataset,
        horizon: int,
        split: str = "all",
        held_out: float = 0.1,
        seed: int = 0,
        among: np.ndarray | None = None,
        bounds: tuple[Tensor, Tensor] | None = None,
    ) -> Windows:
        """The windows of a data set; `train` and `held_out` share out whole episodes, the same ones for the same seed.

        Args:
            among: [C] the episodes that are looked at, in rising order; None: all.

        Raises DataError if no episode of the split is as long as the horizon.
        """
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; choose one of {', '.join(SPLITS)}")
        if horizon < 1:
            raise ValueError(f"horizon is {horizon}; it must be at least 1")
        lengths = dataset.lengths
        among = np.arange(len(lengths)) if among is None else among
        long_enough = among[lengths[among] >= horizon]
        if len(long_enough) == 0:
            raise DataError(
                f"{dataset.source}: the longest of {len(among)} episodes has {int(lengths[among].max())} steps, "
                f"shorter than the horizon {horizon}; lower the horizon or record longer episodes"
            )
        chosen = long_enough
        if split != "all":
            if len(long_enough) < 2:
                unmarked = any(note.startswith(UNMARKED) for note in dataset.notes)
                raise DataError(
                    f"{dataset.source}: one episode of {horizon} steps or more; two are needed to hold one out"
                    + (f"; {UNMARKED} in it, see `skillmeta inspect`" if unmarked else "")
                )
            order = Seeds(seed).stream("held_out_episodes").numpy().permutation(long_enough)
            count = min(len(order) - 1, max(1, round(held_out * len(order))))
            chosen = np.sort(order[:count] if split == "held_out" else order[count:])
        return cls(dataset, chosen, horizon, bounds)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def frames(self) -> Iterator[Tensor]:
        """Every observation that lies in some window, once: those of an episode after those of another, in pieces [F, O]."""
        for e in self.episodes.tolist():
            seen = self.dataset.observation[self.dataset.offsets[e] + e : self.dataset.offsets[e + 1] + e + 1]
            for begin, end in parts(len(seen), seen[:1].nbytes):
                yield as_tensor(seen[begin:end])

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the `frames`, [O] each; where they lie in files in pieces, in double precision."""
        if not self.dataset.mapped:
            data = torch.cat([*self.frames()])
            return data.mean(0), data.std(0, correction=0)
        width = self.dataset.observation_dim
        count, total, square = 0, torch.zeros(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
        for piece in self.frames():
            count, total = count + len(piece), total + piece.double().sum(0)
        for piece in self.frames():
            square = square + ((piece.double() - total / count) ** 2).sum(0)
        return (total / count).float(), (square / count).sqrt().float()

    def gather(self, index: Tensor) -> WindowBatch:
        """The windows with the numbers `index` [B]."""
        row = torch.searchsorted(self._ends, index, right=True)
        start = index + self._shift[row]
        observation = self.observation.index_select(0, start + self.episodes[row])  # one more an episode
        batch = WindowBatch(observation, *(column.index_select(0, start) for column in self.columns))
        return batch if self.bounds is None else batch._replace(action=batch.action.clamp(*self.bounds))

    def sample(self, batch_size: int, generator: torch.Generator, rows: slice = slice(None)) -> WindowBatch:
        """B windows with replacement, uniformly; of these the ones in `rows`."""
        return self.gather(torch.randint(len(self), (batch_size,), generator=generator)[rows])


class Mixture:
    """Windows of several logs. Each drawn one is of a log with the probability `shares`, and any of that log's alike.

    Args:
        parts: K of them.
        shares: [K] float64, sum to 1.
    """

    def __init__(self, parts: Sequence[Windows], shares: Tensor):
        self.parts, self.shares = parts, shares
        self.counts = torch.tensor([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.counts.sum())

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of observations, [O] each, where those of a log together count as much as its windows."""
        means, stddevs = (
            torch.stack(values).double() for values in zip(*(p.moments() for p in self.parts), strict=True)
        )
        mean = self.shares @ means
        return mean.float(), (self.shares @ (stddevs**2 + (means - mean) ** 2)).sqrt().float()

    def sample(self, batch_size: int, generator: torch.Generator, rows: slice = slice(None)) -> WindowBatch:
        """B windows with replacement; of these the ones in `rows`."""
        log = torch.multinomial(self.shares, batch_size, replacement=True, generator=generator)
        place = torch.rand(batch_size, dtype=torch.float64, generator=generator)
        log, index = log[rows], (place * self.counts[log]).long()[rows]
        order = log.argsort(stable=True)
        batches = [part.gather(index[log == k]) for k, part in enumerate(self.parts)]
        columns = zip(*batches, strict=True)
        return WindowBatch(*(torch.cat(column)[order.argsort()] for column in columns))


def as_tensor(values: np.ndarray) -> Tensor:
    """A view, only to be read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(values))


def at_every_row(values: np.ndarray, rows: int) -> Tensor:
    """So many rows from each row [N, ...] on: a view [N - rows + 1, rows, ...]."""
    flat = as_tensor(at_random(values))
    return flat.as_strided((len(flat) - rows + 1, rows, *flat.shape[1:]), (flat.stride(0), *flat.stride()))
