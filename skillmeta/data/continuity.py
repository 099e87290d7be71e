"""Whether rows of a log follow each other: steps that are far beyond all others, and rows of several environments in turns.

A row's move is how far its observation is from that of the row before: the root mean square over columns, each in its standard
deviations. Inside an episode moves are small; where another episode begins they are as large as the data are wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from skillmeta.data.episodes import EpisodeDataset
from skillmeta.data.room import IN_MEMORY, Room, parts

Read = Callable[[int, int], np.ndarray]  # rows begin to end of the observations, [n, O]

BLOCK = 2_048  # rows that are looked at at once
SAMPLE = 8_192  # rows that say whether environments take turns
FLOOR = 0.05  # moves below it are all alike
GAP = 3.0  # a move is beyond the others if none lies between it and a third of it,
TIMES = 10.0  # if it is so many times the median,
SHARE = 0.1  # and if so few are like it: episodes of ten steps or more
FEWEST = 20  # moves that say something about each other
MOST_TURNS = 64  # environments whose rows take turns that are looked for
SELDOM = 0.05  # of the rows: a column that changes at fewer of them is held, as a goal is,
ALONE = 0.95  # if so many of its changes have no other beside them;
MANY = 0.2  # of its changes: so many inside episodes are noted
ALIKE = 0.75  # of the largest median move: what unrelated rows have at least
UNRELATED = 0.5  # a median move beyond which neighbouring rows have nothing to do with each other


def blocks(rows: int) -> Iterator[tuple[int, int]]:
    for begin in range(0, rows, BLOCK):
        yield begin, min(rows, begin + BLOCK)


def deviations(read: Read, rows: int) -> np.ndarray:
    """The standard deviation of each column, [O], in double precision."""
    first = read(0, 1).astype(np.float64)
    total = square = np.zeros(first.shape[1])
    with np.errstate(invalid="ignore", over="ignore"):
        for begin, end in blocks(rows):
            values = read(begin, end) - first
            total, square = total + values.sum(0), square + (values**2).sum(0)
        variance = np.maximum(square / rows - (total / rows) ** 2, 0)
    result: np.ndarray = np.sqrt(variance)
    return result


def distances(one: np.ndarray, other: np.ndarray, stddev: np.ndarray) -> np.ndarray:
    """How far rows [n, O] are from others, [n], in standard deviations. Columns that never change do not count."""
    varies = stddev > 0
    if not varies.all():
        one, other, stddev = one[:, varies], other[:, varies], stddev[varies]
    with np.errstate(invalid="ignore", over="ignore"):
        apart = one.astype(np.float64)
        apart -= other
        apart /= stddev
        result: np.ndarray = np.sqrt((apart**2).mean(1)) if varies.any() else np.zeros(len(one))
    return result


def moves(read: Read, rows: int, stddev: np.ndarray, room: Room = IN_MEMORY) -> np.ndarray:
    """The move from each row to the next, [rows - 1]."""
    found = room.empty((max(0, rows - 1),), np.float64)
    for begin, end in blocks(rows - 1):
        values = read(begin, end + 1)
        found[begin:end] = distances(values[1:], values[:-1], stddev)
    return found


def equal_at_end(arrays: Sequence[np.ndarray], episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Of arrays [E * T, ...], [E] each: how many rows at the end of an episode are equal in all, and whether one has NaN there."""
    steps = len(arrays[0]) // episodes
    equal, lost = np.ones(episodes, np.int64), np.zeros(episodes, np.bool_)
    for begin, end in parts(episodes, steps * sum(values[:1].nbytes for values in arrays)):
        each = [values[begin * steps : end * steps].reshape(end - begin, steps, -1) for values in arrays]
        for values in each:
            lost[begin:end] |= (values[:, -1] != values[:, -1]).all(1)
        alike = np.arange(end - begin)
        for rows in range(2, steps + 1):
            for values in each:
                alike = alike[_same(values[alike, -rows], values[alike, -1])]
            if len(alike) == 0:
                break
            equal[begin + alike] = rows
    return equal, lost


def _same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[n] whether rows [n, C] are equal; NaN is equal to NaN."""
    result: np.ndarray = ((one == other) | ((one != one) & (other != other))).all(1)
    return result


def far_beyond(found: np.ndarray, room: Room = IN_MEMORY) -> float:
    """The least of the moves [N] that are far beyond all others, above a gap that separates few from the rest; NaN without any."""
    ordered = room.empty(found.shape, np.float64)
    ordered[...] = found
    ordered.sort()
    if len(ordered) < FEWEST or np.isnan(ordered[-1]):
        return math.nan
    median = ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1].mean()
    top = ordered[int(len(ordered) * (1 - SHARE)) - 1 :]
    np.maximum(top, FLOOR, out=top)
    for begin, end in blocks(len(top) - 1):
        lower, upper = top[begin:end], top[begin + 1 : end + 1]
        beyond = (upper >= GAP * lower) & (upper >= TIMES * median)
        if beyond.any():
            return float(upper[beyond.argmax()])
    return math.nan


def turns(read: Read, rows: int, stddev: np.ndarray) -> int:
    """How many environments' rows take turns; 1 where rows follow each other.

    With k environments, rows nearer than k are unrelated, all alike, those k apart are near, and those 2k apart a little less.
    A gait of k steps is none: there the next row is nearer than the one half a period away.
    """
    seen = read(0, min(rows, SAMPLE))

    def lag(k: int) -> float:
        return float(np.median(distances(seen[k:], seen[:-k], stddev)))

    if len(seen) < 4 * FEWEST or not (nearest := lag(1)) > UNRELATED:
        return 1
    for k in range(2, min(MOST_TURNS, len(seen) // 4) + 1):
        here = lag(k)
        if 0 < 1.2 * here < lag(2 * k) and here < 0.2 * nearest:
            return k
        if not UNRELATED * nearest < here < nearest / ALIKE:
            return 1
    return 1


@dataclass(frozen=True)
class Held:
    """A column that stays the same but at few steps, as a goal does."""

    column: int
    changes: int
    inside: int  # of them, those that are not the end of an episode
    first: int  # step of those

    def note(self) -> str:
        return (
            f"observation {self.column} stays the same but at {self.changes:,} steps, {self.inside:,} of which are not the end of "
            f"an episode (the first is step {self.first}): ends that are not marked, perhaps; save `lengths` or timeouts"
        )


def held_columns(read: Read, rows: int, ends: np.ndarray) -> Held | None:
    """The column that most often changes inside episodes, of those that change seldom and one step at a time; None without any.

    Args:
        ends: [E] one past the last row of each episode.
    """
    changes = alone = inside = np.zeros(read(0, 1).shape[1], np.int64)
    first = np.full(len(changes), rows)
    last = np.zeros(BLOCK, np.bool_)
    for begin, end in blocks(rows - 1):
        before, after = int(begin > 0), int(end < rows - 1)  # a change on either side
        values = read(begin - before, end + after + 1)
        every = np.pad(values[1:] != values[:-1], ((1 - before, 1 - after), (0, 0)))
        here = every[1:-1]
        last[:] = False
        last[ends[np.searchsorted(ends, begin + 1) : np.searchsorted(ends, end + 1)] - 1 - begin] = True
        within = here & ~last[: end - begin, None]
        changes, alone = changes + here.sum(0), alone + (here & ~every[:-2] & ~every[2:]).sum(0)
        inside = inside + within.sum(0)
        first = np.where(within.any(0), np.minimum(first, begin + within.argmax(0)), first)
    seldom = (changes >= 2) & (changes <= SELDOM * rows) & (alone >= ALONE * changes)
    count = np.where(seldom & (inside >= 2) & (inside >= MANY * changes), inside, 0)
    i = int(count.argmax())
    return Held(i, int(changes[i]), int(inside[i]), int(first[i])) if count[i] else None


@dataclass(frozen=True)
class Jumps:
    """Steps inside episodes that are far beyond all others."""

    count: int
    steps: int
    episode: int = 0  # of the first one
    step: int = 0

    @property
    def share(self) -> float:
        return self.count / max(1, self.steps)

    def notes(self) -> tuple[str, ...]:
        if not self.count:
            return ()
        return (
            f"{self.count:,} of {self.steps:,} steps ({self.share:.2%}) move the observation far beyond all others, the first is "
            f"step {self.step} of episode {self.episode}: an end that is not marked, perhaps",
        )


def jumps(dataset: EpisodeDataset) -> Jumps:
    """The suspicious steps of a data set."""
    seen, room = dataset.observation, dataset.room

    def read(begin: int, end: int) -> np.ndarray:
        return seen[begin:end]

    every = moves(read, len(seen), deviations(read, len(seen)), room)
    inside = room.empty(
        (dataset.num_steps,), np.float64
    )  # without those from an episode's last observation to the next
    for e, (begin, end) in enumerate(zip(dataset.offsets[:-1], dataset.offsets[1:], strict=True)):
        inside[begin:end] = every[begin + e : end + e]
    least, count, first = far_beyond(inside, room), 0, 0
    for begin, end in blocks(len(inside)):
        found = np.flatnonzero(inside[begin:end] >= least)
        first = begin + int(found[0]) if len(found) and not count else first
        count += len(found)
    if not count:
        return Jumps(0, dataset.num_steps)
    episode = int(np.searchsorted(dataset.offsets, first, side="right") - 1)
    return Jumps(count, dataset.num_steps, episode, int(first - dataset.offsets[episode]))
