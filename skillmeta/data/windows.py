"""Windows of H steps, drawn by index in one gather."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from skillmeta.errors import DataError
from skillmeta.seeds import Seeds

if TYPE_CHECKING:
    from skillmeta.data.episodes import EpisodeDataset

SPLITS = ("all", "train", "held_out")


@dataclass(frozen=True)
class WindowBatch:
    """B windows of H steps. Ends are those of the environment: at most a window's last step has one."""

    observation: Tensor  # [B, H+1, O]
    action: Tensor  # [B, H, A]
    reward: Tensor  # [B, H]
    terminated: Tensor  # [B, H] bool
    truncated: Tensor  # [B, H] bool


class Windows:
    """All windows of H consecutive steps within episodes, the last one of each included.

    Args:
        dataset: where they lie; its arrays are not copied.
        starts: [W] first step of each window.
        episodes: [W] the episode that it lies in.
        horizon: H.
        weights: [W] how often each is drawn, relative to the others; uniform where not given. Hook for quality weighting.
    """

    def __init__(
        self, dataset: EpisodeDataset, starts: Tensor, episodes: Tensor, horizon: int, weights: Tensor | None = None
    ):
        self.observation = torch.from_numpy(dataset.observation)
        columns = (dataset.action, dataset.reward, dataset.terminated, dataset.truncated)
        self.columns = tuple(torch.from_numpy(column) for column in columns)
        self.starts, self.episodes = starts, episodes
        self.horizon, self.weights = horizon, weights
        self._ahead = torch.arange(horizon + 1)

    @classmethod
    def of(
        cls, dataset: EpisodeDataset, horizon: int, split: str = "all", held_out: float = 0.1, seed: int = 0
    ) -> Windows:
        """The windows of a data set; `train` and `held_out` share out whole episodes, the same ones for the same seed.

        Raises DataError if no episode of the split is as long as the horizon.
        """
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; choose one of {', '.join(SPLITS)}")
        if horizon < 1:
            raise ValueError(f"horizon is {horizon}; it must be at least 1")
        long_enough = np.flatnonzero(dataset.lengths >= horizon)
        if len(long_enough) == 0:
            raise DataError(
                f"{dataset.source}: the longest of {dataset.num_episodes} episodes has {int(dataset.lengths.max())} steps, "
                f"shorter than the horizon {horizon}; lower the horizon or record longer episodes"
            )
        chosen = long_enough
        if split != "all":
            if len(long_enough) < 2:
                raise DataError(
                    f"{dataset.source}: one episode of {horizon} steps or more; two are needed to hold one out"
                )
            order = Seeds(seed).stream("held_out_episodes").numpy().permutation(long_enough)
            count = min(len(order) - 1, max(1, round(held_out * len(order))))
            chosen = np.sort(order[:count] if split == "held_out" else order[count:])
        counts = dataset.lengths[chosen] - horizon + 1
        episodes = np.repeat(chosen, counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = dataset.offsets[episodes] + within
        return cls(dataset, torch.from_numpy(starts), torch.from_numpy(episodes.astype(np.int64)), horizon)

    def __len__(self) -> int:
        return len(self.starts)

    def frames(self) -> Tensor:
        """Every observation that lies in some window, once: [F, O]."""
        inside = torch.zeros(len(self.observation), dtype=torch.bool)
        for ahead in self._ahead:
            inside[self.starts + self.episodes + ahead] = True
        return self.observation[inside]

    def gather(self, index: Tensor) -> WindowBatch:
        """The windows with the numbers `index` [B]."""
        start, size = self.starts[index], len(index)
        steps = (start[:, None] + self._ahead[:-1]).flatten()
        frames = ((start + self.episodes[index])[:, None] + self._ahead).flatten()  # one more observation an episode
        observation = self.observation.index_select(0, frames).view(size, self.horizon + 1, -1)
        columns = (c.index_select(0, steps).view(size, self.horizon, *c.shape[1:]) for c in self.columns)
        return WindowBatch(observation, *columns)

    def sample(self, batch_size: int, generator: torch.Generator, rows: slice = slice(None)) -> WindowBatch:
        """B windows with replacement, uniformly or by `weights`; of these the ones in `rows`."""
        if self.weights is None:
            index = torch.randint(len(self), (batch_size,), generator=generator)
        else:
            index = torch.multinomial(self.weights, batch_size, replacement=True, generator=generator)
        return self.gather(index[rows])
