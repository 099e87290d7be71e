"""What skills are learned from: one log, or several together, each with a weight and a filter of its episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from skillmeta.config import Bound, checked
from skillmeta.data.continuity import jumps
from skillmeta.data.episodes import RANGE_TOLERANCE, EpisodeDataset
from skillmeta.data.sources import load_source
from skillmeta.data.summary import spike_notes
from skillmeta.data.windows import Mixture, Windows, WindowSource
from skillmeta.errors import DataError
from skillmeta.limits import MAP_ABOVE
from skillmeta.types import Observed


@checked
class LogConfig:
    """One of several logs."""

    source: str = ""  # of this log, as that of a single one
    # its share of the drawn windows is its weight over the sum of all weights, however long the log is
    weight: Annotated[float, Bound(above=0, at_most=1e9)] = 1.0
    min_return: float | None = None  # learn only from episodes with this undiscounted return or more; null: from all
    only_success: bool = False  # learn only from episodes with a step that is marked as a success

    def __post_init__(self) -> None:
        if not self.source:
            raise ValueError("source is missing; name the log, as in {source: path/file.hdf5, weight: 2}")


@dataclass(frozen=True)
class Log:
    """A log, how often it is drawn relative to others, and the episodes of it that are learned from."""

    dataset: EpisodeDataset
    weight: float
    kept: np.ndarray  # [C] their numbers, in rising order
    filtered: str = ""  # how they were chosen, in words; "" for all

    @classmethod
    def of(cls, dataset: EpisodeDataset, config: LogConfig) -> Log:
        """Raises DataError if the log cannot say which episodes the filter keeps, or if that keeps none."""
        kept, said = np.ones(dataset.num_episodes, bool), []
        if config.min_return is not None:
            if not dataset.reward.any():
                raise DataError(
                    f"{dataset.source}: min_return is {config.min_return:g} and the log has no rewards, or only 0; leave "
                    "min_return out, or record rewards"
                )
            kept &= dataset.returns >= config.min_return
            said.append(f"a return of {config.min_return:g} or more")
        if config.only_success:
            if not dataset.success.any():
                raise DataError(
                    f"{dataset.source}: only_success is true and no step of the log is marked as a success; leave only_success "
                    "out, or record `success` for each step"
                )
            kept &= dataset.succeeded
            said.append("a success")
        if not kept.any():
            raise DataError(
                f"{dataset.source}: none of {dataset.num_episodes} episodes has {' and '.join(said)} (returns are "
                f"{dataset.returns.min():g} to {dataset.returns.max():g}); ask for less"
            )
        return cls(dataset, config.weight, np.flatnonzero(kept), " and ".join(said))

    def first(self, rows: int) -> list[np.ndarray]:
        """So many observations [F, O], of the episodes in their order, the last one cut."""
        offsets, found = self.dataset.offsets, []
        for e in self.kept.tolist():
            if rows <= 0:
                break
            found.append(self.dataset.observation[offsets[e] + e : min(offsets[e] + e + rows, offsets[e + 1] + e + 1)])
            rows -= len(found[-1])
        return found


@dataclass(frozen=True)
class Logs:
    """Logs of the same quantities, in one action space. Build it with `load` or `of`, which check that."""

    logs: tuple[Log, ...]
    action_low: np.ndarray  # [A]
    action_high: np.ndarray  # [A]
    observed: tuple[Observed, ...]  # the parts of an observation, where a log names them
    pulled_in: bool = False  # actions are clipped to the space as they are drawn: a log's own may be another one

    @classmethod
    def of(cls, dataset: EpisodeDataset) -> Logs:
        """One data set, all of it."""
        log = Log(dataset, 1.0, np.arange(dataset.num_episodes))
        return cls((log,), dataset.action_low, dataset.action_high, dataset.observed)

    @classmethod
    def load(cls, source: str | list[LogConfig], *, clip_actions: bool = False, map_above: int = MAP_ABOVE) -> Logs:
        """Load and check the logs of a config.

        Args:
            source: of one log, or several.
            clip_actions: pull actions outside the action space into it instead of refusing them.
            map_above: bytes; a log of larger arrays is mapped from files.

        Raises:
            DataError: as `load_source`; a filter keeps nothing; two logs do not agree, the sentence names both.
        """
        if isinstance(source, str):
            return cls.of(load_source(source, clip_actions=clip_actions, map_above=map_above))
        check_distinct([config.source for config in source])
        logs = [
            Log.of(load_source(config.source, clip_actions=clip_actions, map_above=map_above), config)
            for config in source
        ]
        datasets = [log.dataset for log in logs]
        named = check_same(datasets)
        stated = check_spaces(datasets)
        low = stated.action_low if stated else np.min([one.action_low for one in datasets], 0)
        high = stated.action_high if stated else np.max([one.action_high for one in datasets], 0)
        found = cls(tuple(logs), low, high, named.observed)
        return found.within(low, high, f"that {stated.source} states", clip_actions) if stated else found

    def within(self, low: np.ndarray, high: np.ndarray, whose: str, clip_actions: bool) -> Logs:
        """The same logs in the action space [A], [A]. Raises DataError for actions outside of it, unless they are pulled in."""
        for dataset in (log.dataset for log in self.logs):
            least, most = dataset.action.min(0), dataset.action.max(0)
            beyond = float(max((low - least).max(), (most - high).max()))
            if beyond > RANGE_TOLERANCE * float((high - low).max()) and not clip_actions:
                raise DataError(
                    f"{dataset.source}: actions span {np.round(least, 4).tolist()} to {np.round(most, 4).tolist()}, beyond the "
                    f"action space {low.tolist()} to {high.tolist()} {whose}; record both in the same units, or pass "
                    "clip_actions=true to pull actions into that space"
                )
        return replace(self, action_low=low, action_high=high, pulled_in=True)

    @property
    def observation_dim(self) -> int:
        return self.logs[0].dataset.observation_dim

    @property
    def action_dim(self) -> int:
        return self.logs[0].dataset.action_dim

    @property
    def source(self) -> str:
        """Of all logs, in words."""
        return ", ".join(log.dataset.source for log in self.logs)

    @property
    def shares(self) -> np.ndarray:
        """Of the drawn windows, [K]."""
        weights = np.array([log.weight for log in self.logs])
        result: np.ndarray = weights / weights.sum()
        return result

    @property
    def observation_range(self) -> tuple[np.ndarray, np.ndarray]:
        """The least and the largest of each observed number, [O] each, in all episodes."""
        seen = [log.dataset.observation for log in self.logs]
        return np.min([rows.min(0) for rows in seen], 0), np.max([rows.max(0) for rows in seen], 0)

    def windows(self, horizon: int, split: str = "all", held_out: float = 0.1, seed: int = 0) -> WindowSource:
        """The windows of `horizon` steps of the episodes that are learned from. Episodes are held out of each log.

        Raises DataError, see `Windows.of`, for a log of which too little is left.
        """
        bounds = (torch.from_numpy(self.action_low), torch.from_numpy(self.action_high)) if self.pulled_in else None
        every = [Windows.of(log.dataset, horizon, split, held_out, seed, log.kept, bounds) for log in self.logs]
        return every[0] if len(every) == 1 else Mixture(every, torch.from_numpy(self.shares))

    def notes(self) -> list[str]:
        """How the logs were chosen from, what was assumed on the way in, and which steps look as if they were none."""
        found = []
        for log in self.logs:
            notes = [*log.dataset.notes, *jumps(log.dataset).notes(), *spike_notes(log.dataset)]
            found += notes if len(self.logs) == 1 else [f"{log.dataset.source}: {note}" for note in notes]
        return [*self.chosen(), *found]

    def chosen(self) -> list[str]:
        """A sentence for each log on its share of the windows and on the episodes that its filter keeps; none where all is learned
        from."""
        said = []
        for log, share in zip(self.logs, self.shares, strict=True):
            parts = [f"{share:.0%} of the drawn windows"] if len(self.logs) > 1 else []
            if log.filtered:
                parts.append(f"{len(log.kept)} of {log.dataset.num_episodes} episodes are kept, with {log.filtered}")
            if parts:
                said.append(f"{log.dataset.source}: {'; '.join(parts)}")
        return said


def check_distinct(sources: Sequence[str]) -> None:
    """Raises DataError if a log is named twice: an episode that is held out of one would be trained on in the other."""
    if not sources:
        raise DataError("source is an empty list; name a log")
    first: dict[tuple[Path, str], str] = {}
    for source in sources:
        place, _, asked = source.partition("?")
        other = first.setdefault((Path(place).resolve(), asked), source)
        if other is not source:
            raise DataError(f"{source}: is named twice in source; name each log once, and give it a larger weight")


def check_same(datasets: Sequence[EpisodeDataset]) -> EpisodeDataset:
    """The log whose names of observations hold for all. Raises DataError for two that do not record the same quantities."""
    first = datasets[0]
    named = next((one for one in datasets if one.observed), first)
    for other in datasets:
        dims, found = ((one.observation_dim, one.action_dim) for one in (first, other))
        if dims != found:
            raise DataError(
                f"{first.source} and {other.source}: observations and actions are of {dims[0]} and {dims[1]} numbers in the one, "
                f"{found[0]} and {found[1]} in the other; logs that are learned from together record the same quantities"
            )
        if other.observed not in ((), named.observed):
            one, two = (", ".join(f"{key} ({size})" for key, size in log.observed) for log in (named, other))
            raise DataError(
                f"{named.source} and {other.source}: observations are {one} in the one, {two} in the other; name the same "
                "keys in the same order behind both, as in SOURCE?KEY,KEY"
            )
    return named


def check_spaces(datasets: Sequence[EpisodeDataset]) -> EpisodeDataset | None:
    """A log that states the action space of all, if one does. Raises DataError for two that state different ones."""
    stating = [one for one in datasets if not one.spanned]
    for other in stating[1:]:
        first = stating[0]
        bounds = [np.stack([one.action_low, one.action_high]).tolist() for one in (first, other)]
        if bounds[0] != bounds[1]:
            raise DataError(
                f"{first.source} and {other.source}: the action space is {bounds[0]} in the one, {bounds[1]} in the other; record "
                "both in the same units, or take what the actions span, as in SOURCE?actions=span"
            )
    return next(iter(stating), None)
