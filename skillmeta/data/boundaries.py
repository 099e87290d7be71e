"""Where the episodes of a flat file begin and end.

What the file states (`lengths`, `starts`, an episode's number for each row) comes first, then flags. Both are held against
`next_observations`, where the file has them, and against how far observations move: what contradicts them is refused, or split with
a note where a file does not say that it has marked every end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from skillmeta.data.continuity import Read, blocks, deviations, distances, far_beyond, held_columns, moves, turns
from skillmeta.data.episodes import UNMARKED
from skillmeta.data.layouts import left_out
from skillmeta.data.room import IN_MEMORY, Room
from skillmeta.errors import DataError

TOLERANCE = 1e-3  # in standard deviations: next_observations that are the next row, rounded
SHAPE = (
    "the shape of the arrays"  # states episodes where arrays are [episodes, steps, ...], or [steps, environments, ...]
)
MOST = 0.5  # of the rows: beyond it they are no recording
MOST_MOVES = 0.9  # of the moves inside episodes: a cut over which the observation moves less is like one inside
ALIKE_CUTS = (
    0.33  # of the cuts by a time limit: with half the true limit, every second cut is inside an episode, less a tenth
)
FEWEST_CUTS = 3
SAMPLE = 2**20  # moves that say how far the observation moves inside episodes
TYPICAL = 0.8  # of the flags that are a step off, if they all are


@dataclass
class Marks:
    """What a file says of N marks.

    Args:
        path, source: for errors and for advice.
        observations, following: rows begin to end of what was seen before and after each step.
        terminals, timeouts: [N] bool.
        stated: [E] one past the last row of each episode, and which array says so.
    """

    path: Path
    source: str
    steps: int
    observations: Read
    following: Read | None = None
    terminals: np.ndarray | None = None
    timeouts: np.ndarray | None = None
    stated: tuple[np.ndarray, str] | None = None
    time_limit: int | None = None
    notes: list[str] = field(default_factory=list)  # filled here
    room: Room = IN_MEMORY

    def flagged(self) -> np.ndarray:
        """[N] whether a flag says that an episode ends with the row."""
        found = self.room.flags(self.steps, False)
        for flags in (self.terminals, self.timeouts):
            found |= flags if flags is not None else False
        return found

    @property
    def cut_off(self) -> bool:
        """Whether a row is marked as the last one of a recording that was cut off."""
        return self.timeouts is not None and bool(self.timeouts.any())

    def place(self, step: int, ends: np.ndarray) -> str:
        """A row in words."""
        e = int(np.searchsorted(ends, step, side="right"))
        return f"step {step} (step {step - (ends[e - 1] if e else 0)} of episode {e})"


def find_ends(marks: Marks) -> np.ndarray:
    """One past the last row of each episode, [E]. Raises DataError for a file that contradicts itself."""
    stddev = deviations(marks.observations, marks.steps)
    vouched = marks.stated is not None and marks.stated[1] != SHAPE
    if not vouched and (taking := turns(marks.observations, marks.steps, stddev)) > 1:
        raise DataError(
            f"{marks.path}: the rows of {taking} environments take turns (step t continues at step t+{taking}); save one "
            "environment after the other, with `lengths`"
        )
    ends = _stated(marks) if marks.stated is not None else _flagged(marks)
    inside = marks.room.flags(marks.steps, True)
    inside[ends - 1] = False
    inside = inside[:-1]
    contradicted = _contradicted(marks, stddev)
    contradicted &= inside
    if contradicted.sum() > MOST * max(1, inside.sum()):
        raise DataError(
            f"{marks.path}: next_observations of step t is not the observation of step t+1 in most rows: these are single "
            "transitions, not recordings, and skills are sequences; save whole episodes in order"
        )
    if marks.stated is not None:
        if contradicted.any():
            step = int(contradicted.argmax())
            raise DataError(
                f"{marks.path}, next_observations: of {marks.place(step, ends)} is not the observation of the next step, though "
                f"{marks.stated[1]} says that the episode continues; correct one of the two, or leave next_observations out"
            )
        return ends
    every = moves(marks.observations, marks.steps, stddev, marks.room)
    at_ends, every[ends[:-1] - 1] = every[ends[:-1] - 1], 0.0
    if marks.time_limit is not None:
        _check_limit(marks, at_ends[~marks.flagged()[ends[:-1] - 1]], every, inside)
    jumped = np.greater_equal(every, far_beyond(every, marks.room), out=marks.room.flags(marks.steps - 1, False))
    jumped |= contradicted
    jumped &= inside
    _check_shift(marks, jumped)
    split = contradicted
    if contradicted.any():
        marks.notes.append(
            f"{int(contradicted.sum())} ends are not marked, and were found where next_observations is not the observation of the "
            "next step"
        )
    elif not marks.cut_off and marks.time_limit is None and marks.following is None and jumped.any():
        split = jumped
        marks.notes.append(
            f"{int(jumped.sum())} ends are not marked, and were taken to be where the observation moves far beyond all other steps "
            f"(first after step {int(jumped.argmax())}); state `lengths` or time_limit if that is wrong"
        )
    if not split.any() and marks.time_limit is None and not marks.flagged().any():
        marks.notes.append(
            f"{UNMARKED}: read as one episode; ?time_limit=200 behind the source cuts it every 200 steps, if "
            "every episode has so many"
        )
    ends = np.union1d(ends, np.flatnonzero(split) + 1)
    if not marks.cut_off and not contradicted.any():
        held = held_columns(marks.observations, marks.steps, ends)
        marks.notes.extend([held.note()] if held is not None else [])
    return ends


def _check_limit(marks: Marks, at_cuts: np.ndarray, every: np.ndarray, inside: np.ndarray) -> None:
    """Note cuts by the time limit over which the observation moves as it does inside episodes."""
    between = max(1, len(every) // SAMPLE)
    typical = every[::between][inside[::between]]
    alike = int((at_cuts <= np.quantile(typical, MOST_MOVES)).sum()) if len(typical) else 0
    if alike >= FEWEST_CUTS and alike > ALIKE_CUTS * len(at_cuts):
        marks.notes.append(
            f"at {alike} of {len(at_cuts)} cuts by time_limit the observation moves on as within an episode: the limit may be too "
            "small"
        )


def _contradicted(marks: Marks, stddev: np.ndarray) -> np.ndarray:
    """[N-1] whether what was seen after a row is not what was seen before the next."""
    found = marks.room.flags(marks.steps - 1, False)
    if marks.following is not None:
        for begin, end in blocks(marks.steps - 1):
            apart = distances(marks.following(begin, end), marks.observations(begin + 1, end + 1), stddev)
            found[begin:end] = apart > TOLERANCE
    return found


def _stated(marks: Marks) -> np.ndarray:
    """The stated ends, checked against the flags."""
    assert marks.stated is not None
    ends, name = marks.stated
    if marks.time_limit is not None:
        raise DataError(f"{marks.source}: time_limit is for files that do not state their episodes; {name} does")
    for flag, flags in (("terminals", marks.terminals), ("timeouts", marks.timeouts)):
        early = marks.room.flags(0 if flags is None else marks.steps, False)
        if flags is not None:
            early[:] = flags
            early[ends - 1] = False
        if early.any():
            raise DataError(
                f"{marks.path}, {flag}: {marks.place(int(early.argmax()), ends)} ends an episode that continues by {name}; correct "
                f"one of the two, or leave the wrong one out{'; of padded episodes save `lengths`' if name == SHAPE else ''}"
            )
    return ends


def _flagged(marks: Marks) -> np.ndarray:
    """Ends by flags, and by the time limit where one is stated."""
    flags = marks.flagged()
    ends = np.flatnonzero(flags) + 1
    if len(ends) == 0:
        ends = np.array([marks.steps])
    elif ends[-1] != marks.steps:
        marks.notes.append(
            f"the last {marks.steps - ends[-1]} steps have no end flag: read as an episode that was cut off"
        )
        ends = np.append(ends, marks.steps)
    if marks.time_limit is not None:
        begins = np.append(0, ends[:-1])
        ends = np.concatenate(
            [
                np.append(np.arange(b + marks.time_limit, e, marks.time_limit), e)
                for b, e in zip(begins, ends, strict=True)
            ]
        )
    elif marks.timeouts is None and marks.terminals is not None and marks.following is None:
        mark = "&" if "?" in marks.source else "?"
        marks.notes.append(
            "terminals without timeouts: an episode that a time limit cut runs on into the next one; if there is a limit, state it "
            f"as in {marks.source}{mark}time_limit=STEPS"
        )
    return ends


def _check_shift(marks: Marks, jumped: np.ndarray) -> None:
    """Raises DataError if the flags are a step late or early: the next episode's first step is marked, or the last but one."""
    flags = np.flatnonzero(marks.flagged())
    flags = flags[(flags > 0) & (flags < marks.steps - 2)]
    if len(flags) < 3:
        return
    for by, word, other in ((-1, "late", "back"), (1, "early", "forward")):
        if jumped[flags + by].mean() >= TYPICAL:
            raise DataError(
                f"{marks.path}: the ends of episodes are marked a step {word} (the observation jumps after step {flags[0] + by}, "
                f"and step {flags[0]} is marked); move terminals and timeouts a step {other}"
            )


def stated_ends(name: str, values: np.ndarray, steps: int, path: Path, notes: list[str]) -> np.ndarray:
    """One past the last row of each episode, from `lengths`, `starts` or an episode's number for each row. Raises DataError."""
    values = values.reshape(-1)
    if values.dtype.kind not in "iub" and not (values.dtype.kind == "f" and (values == np.round(values)).all()):
        if name != "episode" or values.dtype.kind not in "SU":
            raise DataError(f"{path}, {name}: is of type {values.dtype}; integers are expected")
    if name == "lengths":
        lengths = values.astype(np.int64)
        if len(lengths) == 0 or lengths.sum() != steps or (lengths < 0).any():
            raise DataError(f"{path}, lengths: sum to {int(lengths.sum())}, actions have {steps} rows")
        notes.extend(left_out(int((lengths == 0).sum()), len(lengths)))
        return np.cumsum(lengths[lengths > 0])
    if name == "starts":
        flags = (
            len(values) == steps > 1 and values[0] == 1 and np.isin(values, (0, 1)).all()
        )  # one a row, as rollouts have
        starts = np.flatnonzero(values) if flags else values.astype(np.int64)
        if len(starts) == 0 or starts[0] != 0 or (np.diff(starts) < 0).any() or starts[-1] > steps:
            raise DataError(f"{path}, starts: must begin with 0, grow, and stay below the {steps} rows of actions")
        lengths = np.diff(np.append(starts, steps))
        notes.extend(left_out(int((lengths == 0).sum()), len(lengths)))
        return np.cumsum(lengths[lengths > 0])
    if len(values) != steps:
        raise DataError(f"{path}, episode: has {len(values)} rows, actions have {steps}")
    return np.append(np.flatnonzero(values[1:] != values[:-1]) + 1, steps)


def taking_turns(number: np.ndarray) -> bool:
    """Whether rows of several episodes take turns, by the number of the episode of each row [N]."""
    ends = np.append(np.flatnonzero(number[1:] != number[:-1]) + 1, len(number))
    return len(np.unique(number[ends - 1])) < len(ends) and float(np.median(np.diff(ends, prepend=0))) == 1
