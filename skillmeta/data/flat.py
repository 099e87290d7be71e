"""Flat files: D4RL's layout in HDF5, the same arrays in an NPZ, and folders of such files with an episode each.

Rows are steps, one episode after another. Arrays may also be [episodes, steps, ...], of equal lengths or padded, with `lengths`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from skillmeta.data.boundaries import SHAPE, Marks, find_ends, stated_ends, taking_turns
from skillmeta.data.continuity import equal_at_end
from skillmeta.data.episodes import NEARLY, EpisodeDataset, from_episodes, single_episode
from skillmeta.data.hdf5 import SUFFIXES, in_pieces, leaves, opened
from skillmeta.data.hdf5 import array as hdf5_array
from skillmeta.data.hdf5 import dataset as hdf5_dataset
from skillmeta.data.layouts import NO_REWARDS, REPEATED, Request, in_order, width
from skillmeta.data.room import Room, Rows, parts
from skillmeta.errors import DataError
from skillmeta.reading import npz_arrays, read_npz
from skillmeta.trust import check_links
from skillmeta.types import Episodes, Observed

# Names that files in circulation use for the same things; the first one found is taken.
ALIASES = {
    "observations": ("observations", "observation", "obs"),
    "actions": ("actions", "action"),
    "rewards": ("rewards", "reward"),
    "terminals": ("terminals", "terminated", "terminations", "dones", "done", "terminal"),
    "timeouts": ("timeouts", "truncated", "truncations", "timeout"),
    "success": ("success", "successes", "is_success"),
    "next_observations": ("next_observations", "next_observation", "next_obs"),
    "lengths": ("lengths", "episode_lengths", "ep_lens", "path_lengths"),
    "starts": ("starts", "episode_starts", "ep_starts"),
    "episode": ("episode", "episodes", "episode_index", "episode_ids", "episode_id", "traj_id", "demo"),
}
SEEN = ("observations", "next_observations")
KNOWN = frozenset(alias for aliases in ALIASES.values() for alias in aliases)
LISTED = 6  # arrays in a note
STATED = ("lengths", "starts", "episode")  # arrays that state the episodes
FLAGS = ("terminals", "timeouts")
OPTIONS = ("time_limit",)
AGAIN = "export the recording again"


def recognises(path: Path) -> bool:
    return any(file.suffix in (*SUFFIXES, ".npz") for file in (path.iterdir() if path.is_dir() else (path,)))


def read(path: Path, request: Request) -> EpisodeDataset:
    """See `skillmeta.data.layouts.Layout`."""
    if path.is_dir():
        check_links(path)
        files = [path / name for name in in_order([file.name for file in path.iterdir() if recognises(file)])]
        if request.room.fits(files):
            return _dataset([_held(_whole(file, request)) for file in files], request)
        return _dataset([partial(_opened, file, request, alone=True) for file in files], request)
    with _opened(path, request) as table:
        return _dataset([_held(table)], request)


@contextmanager
def _opened(path: Path, request: Request, alone: bool = False) -> Iterator[Table]:
    """A file to be read in pieces. `alone`: it is one episode, where it says nothing else."""
    if path.suffix == ".npz":
        yield _npz(path, request, alone)
        return
    with opened(path) as file:
        yield _table(
            path, list(file), lambda name: hdf5_dataset(file, name, path), request, alone, lambda: _all(file, path)
        )


def _whole(path: Path, request: Request) -> Table:
    """A file of a folder, in memory."""
    if path.suffix == ".npz":
        return _npz(path, request, alone=True)
    with opened(path) as file:
        return _table(
            path, list(file), lambda name: hdf5_array(file, name, path), request, True, lambda: _all(file, path)
        )


def _all(file: h5py.File, path: Path) -> Sequence[str]:
    """The arrays of a file, those in its groups too; its own names alone where it has links."""
    try:
        return tuple(leaves(file, path))
    except DataError:
        return tuple(file)


def _npz(path: Path, request: Request, alone: bool) -> Table:
    held = npz_arrays(path, DataError, AGAIN)
    known = {alias for aliases in _aliases(request.keys).values() for alias in aliases}
    wanted = known | {*request.keys, *_following(request.keys), request.actions_key or "actions"}
    for name in [name for name in held if name in wanted and held[name][1].hasobject]:
        raise DataError(
            f"{path}, {name}: is an array of objects, one an episode, and loading objects can run code; save "
            f"np.concatenate({name}) and `lengths`, the steps of each episode"
        )
    found = wanted & set(held)
    room = request.room.beside(sum(width(held[name][0]) * held[name][1].itemsize for name in found))
    arrays = read_npz(path, found, DataError, AGAIN, room.empty)
    return _table(path, list(held), arrays.__getitem__, request, alone)


# -- the arrays of a file ------------------------------------------------------------------------------------------------------
@dataclass
class Columns:
    """The arrays of a file by what they are, [N, ...] once they are unstacked."""

    path: Path
    keys: tuple[str, ...]  # the arrays that are observed
    arrays: dict[str, Rows]
    room: Room
    notes: list[str]
    stated: dict[str, np.ndarray]  # by what: one past the last row of each episode

    @property
    def steps(self) -> int:
        return self.arrays["actions"].shape[0]

    @property
    def following(self) -> tuple[str, ...]:
        """The arrays of what was seen after each step; none if one is missing."""
        names = _following(self.keys)
        return names if all(name in self.arrays for name in names) else ()

    @property
    def rowwise(self) -> list[str]:
        """The arrays with a row for each step."""
        names = (*self.keys, *self.following, "actions", "rewards", "success", *FLAGS, "episode")
        return [name for name in names if name in self.arrays]

    def flag(self, name: str) -> np.ndarray | None:
        if name not in self.arrays:
            return None
        values = self.whole(name)
        found = self.room.empty(values.shape, np.bool_)
        np.greater(values, 0.5, out=found)
        return found

    def whole(self, name: str) -> np.ndarray:
        return self.room.whole(self.arrays[name])


def _following(keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"next_{key}" for key in keys)


def _aliases(keys: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The names of what a file is searched for: named keys take the place of the observations."""
    return {name: aliases for name, aliases in ALIASES.items() if not keys or name not in SEEN}


def _find(
    path: Path, names: list[str], read: Callable[[str], Rows], request: Request, listed: Callable[[], Sequence[str]]
) -> Columns:
    """The arrays that are of use, by what they are. Raises DataError for one that is missing or holds no numbers."""
    if "*" in request.keys:
        raise DataError(
            f"{request.source}: `*` is for Minari, robomimic, ALOHA and LeRobot; name arrays as in {request.place}?KEY,KEY"
        )
    searched = _aliases(request.keys)
    held = {name: next((alias for alias in aliases if alias in names), None) for name, aliases in searched.items()}
    asked = [key for key in (*request.keys, request.actions_key) if key is not None]
    every = listed() if asked else names
    if tuple(every) == tuple(names):  # without groups, or with links, which reading refuses by name
        every = [*names, *(key for key in asked if key.partition("/")[0] in names)]
    if request.actions_key is not None:
        held["actions"] = request.actions_key if request.actions_key in every else None
    arrays = {name: read(key) for name, key in held.items() if key is not None}
    keys = request.keys or ("observations",)
    if request.keys:
        arrays |= {key: read(key) for key in keys if key in every}
        arrays |= {key: read(key) for key in _following(keys) if key in names}
    room = request.room.beside(sum(width(values.shape) * values.dtype.itemsize for values in arrays.values()))
    found = Columns(path, keys, arrays, room, [], {})
    if missing := [name for name in (*keys, "actions") if name not in arrays]:
        called = [request.actions_key or name if name == "actions" else name for name in missing]
        lacks, has = " and no array ".join(map(repr, called)), ", ".join(listed()) or "nothing"
        raise DataError(
            f"{path}: has no array {lacks} (it has {has}); name what is the state and what the actions are, as in "
            f"{request.place}?KEY,KEY&actions=KEY"
        )
    if "success" in arrays and not _of_steps(arrays["success"], arrays["actions"]):
        found.notes.append(f"{held['success']} has not a number for each step: left out")
        del arrays["success"]
    for name, values in arrays.items():
        if len(values.shape) == 0:
            raise DataError(f"{path}, {name}: is a single number; a row a step is expected")
    for name in ("actions", *keys):
        if width(arrays[name].shape) == 0:  # also rows of no numbers, of which a file may promise any number
            raise DataError(f"{path}, {name}: is empty; nothing can be learned from it")
    for name in found.rowwise:
        text = name == "episode" and arrays[name].dtype.kind in "SU"
        if arrays[name].dtype.kind not in "fiub" and not text:
            raise DataError(f"{path}, {name}: is of type {arrays[name].dtype}; numbers are expected")
    for key in keys:
        shape = arrays[key].shape
        if len(shape) > 3 and arrays[key].dtype == np.uint8:
            raise DataError(
                f"{path}, {key}: has shape {shape}, as images have; name arrays of numbers, as in {path}?KEY"
            )
    for name, values in arrays.items():
        arrays[name] = in_pieces(values, path, room) if isinstance(values, h5py.Dataset) else values
    if arrays["actions"].dtype.kind != "f":
        found.notes.append(
            f"actions are of type {arrays['actions'].dtype}: read as quantities, not as discrete actions"
        )
    return found


def _of_steps(flags: Rows, actions: Rows) -> bool:
    """Whether there is one number for each step."""
    lead = actions.shape[:2] if len(actions.shape) > 2 else actions.shape[:1]
    return flags.dtype.kind in "fiub" and flags.shape in (lead, (*lead, 1))


def _unstack(columns: Columns) -> None:
    """Arrays [E, T, ...] as [N, ...], in place. Observations may be [E, T + 1, ...]; `lengths` [E] cuts padding off."""
    arrays, notes = columns.arrays, columns.notes
    shape = arrays["actions"].shape
    flat_marks = [name for name in ("rewards", *FLAGS) if name in arrays]
    marked = all(len(arrays[n].shape) >= 2 and arrays[n].shape[:2] == shape[:2] and shape[1] > 1 for n in flat_marks)
    if len(shape) < 2 or not (len(shape) == 3 or (flat_marks and marked)):
        return
    episodes, steps = shape[:2]
    for name in columns.keys:
        if arrays[name].shape[:2] == (episodes, steps + 1):
            values = columns.whole(name)
            arrays[name], arrays[f"next_{name}"] = values[:, :-1], values[:, 1:]
    names = [name for name in columns.rowwise if name != "episode" or arrays[name].shape[:2] == shape[:2]]
    for name in names:
        if arrays[name].shape[:2] != shape[:2]:
            raise DataError(
                f"{columns.path}, {name}: has shape {arrays[name].shape}, actions have {shape}; all need the same [E, T]"
            )
    lengths = np.full(episodes, steps)
    by = SHAPE
    if "lengths" in arrays:
        lengths, by = arrays.pop("lengths")[:].reshape(-1), "lengths"
        if lengths.shape != (episodes,) or lengths.dtype.kind not in "iu" or lengths.min() < 0 or lengths.max() > steps:
            raise DataError(f"{columns.path}, lengths: 0 to {steps} steps for each of {episodes} episodes are expected")
    inside = np.arange(steps) < lengths[:, None]
    for name in names:
        arrays[name] = _selected(arrays[name], inside, columns.room)
    columns.stated[by] = stated_ends("lengths", lengths, int(lengths.sum()), columns.path, notes)
    notes.append(
        f"arrays are [episodes, steps, ...]: read as {episodes} episodes of {'at most ' * (by == 'lengths')}{steps} steps"
    )
    if by == SHAPE:
        _check_padding(columns, episodes)


def _check_padding(columns: Columns, episodes: int) -> None:
    """Note episodes that end with equal rows. Raises DataError if these are NaN."""
    equal, lost = equal_at_end([columns.whole(name) for name in (*columns.keys, "actions")], episodes)
    advice = "if that is padding, save `lengths`, the steps of each episode"
    if lost.any():
        raise DataError(f"{columns.path}: has rows of NaN at the end of {int(lost.sum())} episodes: {advice}")
    if padded := int((equal > 1).sum()):
        columns.notes.append(
            f"{padded} of {episodes} episodes end with equal rows (up to {int(equal.max())} of them): {advice}"
        )


def _selected(rows: Rows, inside: np.ndarray, room: Room) -> np.ndarray:
    """The values [N, ...] of an array [E, T, ...] where `inside` [E, T] is true."""
    found, row = room.empty((int(inside.sum()), *rows.shape[2:]), rows.dtype), 0
    for begin, end in parts(len(inside), width(rows.shape[1:]) * rows.dtype.itemsize):
        values = rows[begin:end][inside[begin:end]]
        found[row : row + len(values)] = values
        row += len(values)
    return found


def _check_rows(columns: Columns, alone: bool) -> None:
    """Hold the numbers of rows against each other. Raises DataError."""
    arrays, steps = columns.arrays, columns.steps
    marked = columns.stated or any(name in arrays for name in STATED) or any(name in arrays for name in FLAGS)
    for key in columns.keys:
        if arrays[key].shape[0] == steps + 1 and not columns.following and (alone or not marked):
            values = columns.whole(key)
            arrays[key], arrays[f"next_{key}"] = values[:-1], values[1:]
    for name in [name for name in columns.rowwise if name != "actions"]:
        if name in ("rewards", "success", *FLAGS, "episode"):  # columns of width one are in circulation
            arrays[name] = columns.whole(name).reshape(-1)
        if arrays[name].shape[0] != steps:
            raise DataError(f"{columns.path}, {name}: has {arrays[name].shape[0]} rows, actions have {steps}; {AGAIN}")


# -- the episodes of a file ----------------------------------------------------------------------------------------------------
@dataclass
class Table:
    """The rows of one file, and where its episodes end."""

    columns: Columns
    terminals: np.ndarray  # [N] bool
    success: np.ndarray | None  # [N] bool, where the file says
    ends: np.ndarray  # [E] one past the last row of each episode

    def episodes(self, source: str) -> Iterator[Episodes]:
        arrays, begin = self.columns.arrays, 0
        for number, end in enumerate(self.ends.tolist()):
            for first, stop in parts(end - begin, self._row_bytes):
                first, stop = begin + first, begin + stop
                truncated = np.zeros(stop - first, bool)
                truncated[-1] = stop == end and not self.terminals[end - 1]
                yield single_episode(
                    self._seen(first, stop),  # of a piece the last one is written over by the next piece
                    _flat(arrays["actions"][first:stop]),
                    arrays["rewards"][first:stop] if "rewards" in arrays else np.zeros(stop - first, np.float32),
                    self.terminals[first:stop],
                    truncated,
                    None if self.success is None else self.success[first:stop],
                    f"{source}: episode {number}",
                )
            begin = end

    @property
    def _row_bytes(self) -> int:
        """Of a step in memory."""
        return 4 * sum(width(self.columns.arrays[key].shape[1:]) for key in (*self.columns.keys, "actions"))

    def _seen(self, begin: int, end: int) -> np.ndarray:
        """Observations [T + 1, O] of steps begin to end, and the one after them."""
        arrays, keys, following = self.columns.arrays, self.columns.keys, self.columns.following
        sizes = [width(arrays[key].shape[1:]) for key in keys]
        found, column = np.empty((end - begin + 1, sum(sizes)), np.float32), 0
        with np.errstate(over="ignore"):  # a number beyond float32 is found later
            for i, size in enumerate(sizes):
                part = found[:, column : column + size]
                part[:-1] = _flat(arrays[keys[i]][begin:end])
                part[-1:] = _flat(arrays[following[i]][end - 1 : end]) if following else part[-2:-1]
                column += size
        return found


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)


def _table(
    path: Path,
    names: list[str],
    read: Callable[[str], Rows],
    request: Request,
    alone: bool = False,
    listed: Callable[[], Sequence[str]] | None = None,
) -> Table:
    """The rows of a file with these arrays, and where its episodes end.

    Args:
        alone: it is one episode where it marks no end.
        listed: the names that a message lists, where they are more than `names`.
    """
    columns = _find(path, names, read, request, listed or (lambda: names))
    _unstack(columns)
    _check_rows(columns, alone)
    arrays, notes, steps = columns.arrays, columns.notes, columns.steps
    if "rewards" not in arrays:
        notes.append(NO_REWARDS)
    if "episode" in arrays and taking_turns(columns.whole("episode")):
        if (
            sum(width(arrays[name].shape) * arrays[name].dtype.itemsize for name in columns.rowwise)
            > request.room.above
        ):
            raise DataError(
                f"{path}: rows of several episodes take turns, and are too many to be put in order in memory; {AGAIN}, "
                "one episode after the other"
            )
        order = np.argsort(columns.whole("episode"), kind="stable")
        for name in columns.rowwise:
            arrays[name] = arrays[name][:][order]
        notes.append(
            f"rows of {len(np.unique(arrays['episode'][:]))} episodes take turns: put in order by their numbers"
        )
    for name in STATED:
        if name in arrays:
            columns.stated[name] = stated_ends(name, columns.whole(name), steps, path, notes)
    if len({tuple(ends.tolist()) for ends in columns.stated.values()}) > 1:
        raise DataError(
            f"{path}: {' and '.join(columns.stated)} state different episodes; leave out the one that is wrong"
        )
    if alone and not columns.stated and not any(name in arrays for name in FLAGS):
        columns.stated["the file"] = np.array([steps])
    terminals, timeouts = columns.flag("terminals"), columns.flag("timeouts")
    if timeouts is None and terminals is not None and arrays["terminals"].dtype.kind == "f":
        # D4RL's kitchen marks the last step of each demonstration; the world did not end there
        notes.append("terminals are 0/1 numbers without timeouts (kitchen layout): read as the end of a recording")
        terminals, timeouts = None, terminals
    following = columns.following

    def rows(parts: Sequence[str]) -> Callable[[int, int], np.ndarray]:
        return lambda begin, end: np.concatenate([_flat(arrays[part][begin:end]) for part in parts], 1)

    stated = next(((ends, name) for name, ends in columns.stated.items()), None)
    after = rows(following) if following else None
    marks = Marks(
        path,
        request.source,
        steps,
        rows(columns.keys),
        after,
        terminals,
        timeouts,
        stated,
        request.time_limit,
        notes,
        columns.room,
    )
    ends = find_ends(marks)
    if set(columns.stated) <= {SHAPE} and terminals is None and timeouts is None:
        groups = {key.partition("/")[0] for key in (*columns.keys, request.actions_key or "actions")}
        if unread := [name for name in names if name not in KNOWN | groups | {*columns.keys, *following}]:
            notes.append(
                f"not read: {', '.join(unread[:LISTED])}; if one of them marks the last step of each episode, name it timeouts "
                "(terminals where the task ended there); if it numbers the episodes, name it episode; if it has their lengths, "
                "name it lengths"
            )
    if not following:
        notes.append(REPEATED)
    success = columns.flag("success")
    return Table(columns, np.zeros(steps, bool) if terminals is None else terminals, success, ends)


Opens = Callable[[], AbstractContextManager[Table]]


def _held(table: Table) -> Opens:
    return lambda: nullcontext(table)


def _dataset(files: Sequence[Opens], request: Request) -> EpisodeDataset:
    """The episodes of files, each opened to see what is in it, and once more to take it."""
    lengths: list[int] = []
    notes: dict[str, None] = {}
    observed: tuple[Observed, ...] = ()
    for file in files:
        with file() as table:
            arrays = table.columns.arrays
            observed = observed or tuple(Observed(key, width(arrays[key].shape[1:])) for key in request.keys)
            lengths += np.diff(table.ends, prepend=0).tolist()
            notes |= dict.fromkeys(table.columns.notes)

    def episodes() -> Iterator[Episodes]:
        for file in files:
            with file() as table:
                yield from table.episodes(request.source)

    return from_episodes(
        episodes(),
        request.source,
        *request.bounds(named=True),
        clip_actions=request.clip_actions,
        nearly=0.0 if request.place.startswith("d4rl:") else NEARLY,  # its environments all act in [-1, 1]
        notes=tuple(notes),
        lengths=lengths,
        observed=observed,
        room=request.room,
    )
