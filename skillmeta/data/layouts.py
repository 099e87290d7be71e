"""What a layout of logs is: how files name the same things, and what a user asks of a source.

A layout is a module with `OPTIONS`, `recognises` and `read`, one file each: `flat`, `robomimic`, `aloha`, `lerobot`.
`skillmeta.data.sources` lists them, and reads Minari and D4RL ids, which are names and not paths.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from skillmeta.data.episodes import EpisodeDataset, single_episode
from skillmeta.data.room import IN_MEMORY, Room
from skillmeta.errors import DataError
from skillmeta.types import Episodes, Observed

ActionBounds = tuple[np.ndarray | None, np.ndarray | None]
ACTIONS = ("space", "span", "unit")  # the stated action space, what the actions span, [-1, 1]
DEFAULT_KEY = "observation"  # that is taken of a mapping of observations where none is named
NO_REWARDS = "no rewards in the file: taken to be 0"
REPEATED = "no observation after the last step in the file: the last one of each episode is repeated"


@dataclass(frozen=True)
class Request:
    """A source as it was asked for: `PLACE?KEY,KEY&OPTION=VALUE`."""

    source: str  # as it is written, for errors
    place: str  # without what follows the question mark
    keys: tuple[str, ...] = ()  # which observations, in this order; ("*",) all, () what the layout takes by itself
    options: Mapping[str, str] = field(default_factory=dict)
    clip_actions: bool = False
    room: Room = IN_MEMORY

    @classmethod
    def parse(cls, source: str, clip_actions: bool = False) -> Request:
        place, _, asked = source.partition("?")
        keys: tuple[str, ...] = ()
        options = {}
        for part in filter(None, asked.split("&")):
            name, stated, value = part.partition("=")
            if stated:
                options[name] = value
            else:
                keys += tuple(key for key in part.split(",") if key)
        return cls(source, place, keys, options, clip_actions)

    def check_options(self, known: Collection[str]) -> None:
        """Raises DataError for an option that the layout has not."""
        known = {*known, "actions"}
        for name in self.options:
            if name not in known:
                raise DataError(f"{self.source}: has no option {name!r}; {' and '.join(sorted(known))} can be set here")

    @property
    def actions_key(self) -> str | None:
        """The array that is named as the actions, `?actions=KEY`, where a layout has arrays of any name."""
        asked = self.options.get("actions", "space")
        return None if asked in ACTIONS else asked

    def bounds(
        self, low: np.ndarray | None = None, high: np.ndarray | None = None, named: bool = False
    ) -> ActionBounds:
        """The bounds of actions: those that the source states, if any, unless the request says otherwise.

        Args:
            named: `?actions=KEY` may name an array instead.
        """
        asked = self.options.get("actions", "space")
        if named and self.actions_key is not None:
            return None, None
        if asked not in ACTIONS:
            raise DataError(f"{self.source}: actions is {asked!r}; choose {' or '.join(ACTIONS)}")
        if asked == "unit":
            return -np.ones(1), np.ones(1)
        return (None, None) if asked == "span" else (low, high)

    @property
    def time_limit(self) -> int | None:
        """Steps after which an episode was cut off, if that is stated."""
        value = self.options.get("time_limit")
        if value is None:
            return None
        if not re.fullmatch(r"[1-9][0-9]{0,8}", value):
            raise DataError(f"{self.source}: time_limit is {value!r}; a number of steps is expected")
        return int(value)


class Layout(Protocol):
    """How files on disk hold episodes."""

    @property
    def OPTIONS(self) -> Collection[str]:
        """What can be set behind the question mark."""

    def recognises(self, path: Path) -> bool:
        """Whether a file or folder is of this layout. Nothing but names is looked at."""

    def read(self, path: Path, request: Request) -> EpisodeDataset:
        """The episodes in it. Raises DataError that names file, episode and field."""


Item = TypeVar("Item")


def with_steps(items: Sequence[Item], lengths: Sequence[int]) -> tuple[list[Item], list[int], tuple[str, ...]]:
    """Episodes and their lengths without those of no steps, and a note if there are any."""
    kept = [(item, steps) for item, steps in zip(items, lengths, strict=True) if steps]
    return [item for item, _ in kept], [steps for _, steps in kept], left_out(len(items) - len(kept), len(items))


def left_out(empty: int, episodes: int) -> tuple[str, ...]:
    return (f"{empty} of {episodes} episodes {'has' if empty == 1 else 'have'} no steps: left out",) if empty else ()


def chosen_keys(
    found: Mapping[str, Sequence[int]], request: Request, where: str, default: Sequence[str] = (DEFAULT_KEY,)
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which observations of a mapping make the state, and a note that says so.

    Args:
        found: the shape of each at one step, in the order of the source; images and text left out.
        default: taken where the request names none. So is a single one.

    Raises:
        DataError: none is named and there is no default, or one that is named is not there.
    """
    listed = ", ".join(f"{key} ({width(shape)})" for key, shape in found.items()) or "none"
    keys = request.keys or tuple(key for key in default if key in found) or (tuple(found) if len(found) == 1 else ())
    if keys == ("*",):
        keys = tuple(found)
    if not keys or not set(keys) <= set(found):
        what = (
            f"has no {', '.join(k for k in keys if k not in found)}"
            if keys
            else "it is not said which of them make the state"
        )
        some = ",".join(list(found)[:2])
        raise DataError(
            f"{where}: a mapping of {listed}; {what}; name one or several, as in {request.place}?{some}, or ?* for all"
        )
    if len(set(keys)) < len(keys):
        raise DataError(f"{request.source}: names {max(keys, key=keys.count)} twice; name each key once")
    left = [key for key in found if key not in keys]
    taken = ", ".join(f"{key} ({width(found[key])})" for key in keys)
    return keys, (f"observations are {taken}" + (f"; left out: {', '.join(left)}" if left else ""),)


def parts(keys: Sequence[str], found: Mapping[str, Sequence[int]]) -> tuple[Observed, ...]:
    return tuple(Observed(key, width(found[key])) for key in keys)


def width(shape: Sequence[int]) -> int:
    """Numbers that something of this shape is."""
    return int(np.prod(shape, dtype=np.int64))


def is_vector(shape: Sequence[int], kind: np.dtype) -> bool:
    """Whether observations of a shape at one step are numbers and no image."""
    return kind.kind in "fiub" and len(shape) < 3 and not (len(shape) == 2 and kind == np.uint8)


def in_order(names: Collection[str]) -> list[str]:
    """Names with numbers in them in the order of the numbers: demo_2 before demo_10."""
    return sorted(
        names, key=lambda name: [(part.isdigit(), int(part) if part.isdigit() else part) for part in _split(name)]
    )


def _split(name: str) -> list[str]:
    return re.split(r"([0-9]+)", name)


def joined(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Columns [T, ...] side by side, each flat: float32 [T, O]."""
    return np.concatenate([np.asarray(c, np.float32).reshape(len(c), -1) for c in columns], 1)


def recorded(
    observations: Sequence[np.ndarray],
    last: Sequence[np.ndarray] | None,
    actions: np.ndarray,
    rewards: np.ndarray | None,
    where: str,
) -> Episodes:
    """A recording of T steps that was cut off after its last one.

    Args:
        observations: parts [T, ...] of what was seen before each step.
        last: the same parts [1, ...] after the last step; without them the last ones are repeated.
        actions: [T, ...].
        rewards: [T], 0 where there are none.
        where: named in errors.

    Raises:
        DataError: they do not agree.
    """
    steps = len(actions)
    for values in observations:
        if len(values) != steps:
            raise DataError(f"{where}, observations: has {len(values)} rows, actions have {steps}; export it again")
    after = [values[-1:] for values in observations] if last is None else last
    return single_episode(
        np.concatenate([joined(observations), joined(after)]),
        actions.reshape(steps, -1),
        np.zeros(steps, np.float32) if rewards is None else rewards.reshape(-1),
        where=where,
    )
