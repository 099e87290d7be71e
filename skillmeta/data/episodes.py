"""What a log is once it is in memory: flat arrays and where each episode starts. Episode by episode it is `Episodes`, N = 1."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skillmeta.data.room import IN_MEMORY, Room, parts
from skillmeta.errors import DataError
from skillmeta.types import Episodes, Observed

if TYPE_CHECKING:
    from skillmeta.data.windows import Windows

RANGE_TOLERANCE = 1e-4  # of an action's range, for values that float32 has rounded past the edge
UNMARKED = "no end of an episode is marked"  # begins the note on a log that says nothing of its episodes
NEARLY = 0.9  # of [-1, 1]: actions that span so much of it were made for it


class Recording(NamedTuple):
    """What a collector of logs yields: an episode (N = 1), and what became of each thing that was tried in it."""

    episode: Episodes
    outcomes: tuple[tuple[str, bool], ...]  # e.g. (("kettle", True), ("microwave", False))


def single_episode(
    observation: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    terminated: np.ndarray | None = None,
    truncated: np.ndarray | None = None,
    success: np.ndarray | None = None,
    where: str = "episode",
) -> Episodes:
    """One recorded episode of T primitive steps as `Episodes` with N = 1, whose arrays are views of these.

    Args:
        observation: [T+1, O].
        action: [T, A].
        reward: [T].
        terminated, truncated: [T], the MDP ended, the recording was cut off. Without both it is cut off after its last step: the
            recording ends, the world does not.
        success: [T], what the task asks for was true after this step; without it, never.
        where: named in errors, e.g. source and number.

    Raises:
        DataError: shapes do not agree; names the array as files do ("observations").
    """
    steps = len(action)
    nothing = np.zeros(steps, bool)
    if terminated is None and truncated is None:
        truncated = np.arange(steps) == steps - 1
    flags = {"terminated": terminated, "truncated": truncated, "success": success}
    columns = {
        "observations": observation,
        "actions": action,
        "rewards": reward,
        **{name: nothing if values is None else np.asarray(values, bool) for name, values in flags.items()},
    }
    for name, values in columns.items():
        expected = steps + 1 if name == "observations" else steps
        if len(values) != expected:
            raise DataError(
                f"{where}, {name}: has {len(values)} rows, actions have {steps}; {expected} rows are expected"
            )
        dims = 2 if name in ("observations", "actions") else 1
        if values.ndim != dims:
            raise DataError(f"{where}, {name}: has shape {values.shape}; {dims} dimensions are expected")
    return _single(*columns.values())


def _single(*columns: np.ndarray) -> Episodes:
    """Columns of primitive steps, from observation [T+1, O] to success [T], as `Episodes` with N = 1: views."""
    observation, action, reward, terminated, truncated, success = (column[None] for column in columns)
    ones = np.broadcast_to(np.int64(1), reward.shape)
    return Episodes(observation, action, reward, terminated, truncated, ones, success, ones.astype(bool))


def one_by_one(episodes: Iterable[Episodes]) -> list[Episodes]:
    """Each episode by itself, N = 1, without padding: views."""
    found = []
    for some in episodes:
        for n, steps in enumerate(some.valid.sum(1).tolist()):
            ends = {f.name: steps + (f.name == "observation") for f in fields(some)}
            found.append(Episodes(*(getattr(some, name)[n : n + 1, :end] for name, end in ends.items())))
    return found


@dataclass(frozen=True)
class EpisodeDataset:
    """All episodes of a source, float32, one after another. Build it with `from_episodes`, which checks everything."""

    observation: np.ndarray  # [N + E, O]: each episode has one observation more than steps
    action: np.ndarray  # [N, A]
    reward: np.ndarray  # [N]
    terminated: np.ndarray  # [N] bool
    truncated: np.ndarray  # [N] bool
    success: np.ndarray  # [N] bool; False where the source does not say
    offsets: np.ndarray  # [E + 1] int64: episode e is steps offsets[e] to offsets[e + 1]; its observations start at + e
    action_low: np.ndarray  # [A]
    action_high: np.ndarray  # [A]
    source: str
    notes: tuple[str, ...] = ()  # what was assumed on the way in
    observed: tuple[Observed, ...] = ()  # the parts of an observation, in its order, where the source names them
    spanned: bool = False  # the action space is what the actions span: the source states none
    room: Room = IN_MEMORY  # for what is made of them

    @property
    def mapped(self) -> bool:
        """Whether it lies in files."""
        return isinstance(self.observation, np.memmap)

    @property
    def num_steps(self) -> int:
        return len(self.action)

    @property
    def num_episodes(self) -> int:
        return len(self.offsets) - 1

    @property
    def observation_dim(self) -> int:
        return int(self.observation.shape[1])

    @property
    def action_dim(self) -> int:
        return int(self.action.shape[1])

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each episode, [E]; as `episode(e).lengths`."""
        return np.diff(self.offsets)

    @property
    def returns(self) -> np.ndarray:
        """Undiscounted return of each episode, [E], in double precision; else as `episode(e).returns`."""
        pairs = zip(self.offsets[:-1], self.offsets[1:], strict=True)
        return np.array([self.reward[begin:end].sum(dtype=np.float64) for begin, end in pairs])

    @property
    def succeeded(self) -> np.ndarray:
        """Success at any step of each episode, [E] bool; as `episode(e).succeeded`."""
        result: np.ndarray = np.logical_or.reduceat(self.success, self.offsets[:-1])
        return result

    def episode(self, e: int) -> Episodes:
        """Episode e, N = 1, as views into the flat arrays."""
        start, end = self.offsets[e], self.offsets[e + 1]
        columns = (self.action, self.reward, self.terminated, self.truncated, self.success)
        return _single(self.observation[start + e : end + e + 1], *(column[start:end] for column in columns))

    def windows(self, horizon: int, split: str = "all", held_out: float = 0.1, seed: int = 0) -> Windows:
        """The windows of `horizon` steps; see `skillmeta.data.windows.Windows`."""
        from skillmeta.data.windows import Windows

        return Windows.of(self, horizon, split, held_out, seed)


def from_episodes(
    episodes: Iterable[Episodes],
    source: str,
    action_low: np.ndarray | None = None,
    action_high: np.ndarray | None = None,
    clip_actions: bool = False,
    notes: tuple[str, ...] = (),
    lengths: Sequence[int] | None = None,
    observed: tuple[Observed, ...] = (),
    nearly: float = NEARLY,
    room: Room = IN_MEMORY,
) -> EpisodeDataset:
    """Check episodes of primitive steps and lay them out flat.

    Args:
        episodes: of any N each; a log's have N = 1.
        source: named in every error.
        action_low, action_high: [A], the action space; without them it is what the actions span, see `action_space`.
        clip_actions: pull actions into the space instead of refusing them.
        lengths: [E] steps of the episodes, each then N = 1, whole or in pieces, the last observation of one
            being the first of the next, and looked at once: an iterator that reads them one at a time needs no memory beside the
            data set's own.
        observed: names of the parts of an observation.
        nearly: the share of [-1, 1] that the actions of a dimension must span to be taken to be made for it.
        room: where its arrays lie.

    Raises:
        DataError: no episodes, an empty one, decisions of several steps, columns that do not agree, values that are not finite,
            actions out of range. The sentence names source, episode and field.
    """
    if lengths is None:
        singles = one_by_one(episodes)
        lengths, episodes = [episode.reward.shape[1] for episode in singles], singles
    if len(lengths) == 0:
        raise DataError(f"{source}: holds no episodes; nothing can be learned from it")
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    columns: dict[str, np.ndarray] = {}
    e = step = 0
    for piece in episodes:
        if not columns:
            columns = _room_for(piece, len(lengths), int(offsets[-1]), room)
        _check_piece(piece, columns, f"{source}: episode {e}")
        steps = piece.reward.shape[1]
        for name, column in columns.items():
            first = offsets[e] + step + (e if name == "observation" else 0)
            rows = column[first : first + steps + (name == "observation")]
            with np.errstate(over="ignore"):  # a number beyond float32 is found below
                rows[...] = getattr(piece, name)[0]
            if rows.dtype == np.float32 and not np.isfinite(rows).all():
                row = int(np.argwhere(~np.isfinite(rows))[0][0])
                raise DataError(
                    f"{source}: episode {e}, {name}s: step {step + row} is not finite ({rows[row]}); repair or drop this episode"
                )
        step += steps
        if step >= lengths[e]:
            e, step = e + 1, 0
    action = columns["action"]
    low, high, assumed = action_space(action, action_low, action_high, nearly)
    tolerance = RANGE_TOLERANCE * float((high - low).max())
    outside = max((low - action.min(0)).max(), (action.max(0) - high).max())
    if outside > tolerance and not clip_actions:
        step = _farthest(action, low, high)
        e = int(np.searchsorted(offsets, step, side="right") - 1)
        raise DataError(
            f"{source}: episode {e}, actions: step {step - offsets[e]} is {np.round(action[step], 4).tolist()}, outside "
            f"[{low.tolist()}, {high.tolist()}]; scale by what actions span (?actions=span in place of unit), or pass "
            "clip_actions=true to pull them into that space"
        )
    if outside > 0:
        np.clip(action, low, high, out=action)
    return EpisodeDataset(
        **columns,
        offsets=offsets,
        action_low=low,
        action_high=high,
        source=source,
        notes=(*notes, *assumed),
        observed=observed,
        spanned=bool(assumed),
        room=room if isinstance(action, np.memmap) else IN_MEMORY,
    )


def _room_for(first: Episodes, episodes: int, steps: int, room: Room) -> dict[str, np.ndarray]:
    """Arrays for E episodes of N steps together, of the first one's widths."""
    shapes = {
        "observation": ((steps + episodes, first.observation.shape[2]), np.float32),
        "action": ((steps, first.action.shape[2]), np.float32),
        "reward": ((steps,), np.float32),
        **{name: ((steps,), np.bool_) for name in ("terminated", "truncated", "success")},
    }
    return room.columns(shapes)


def _farthest(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> int:
    """The first of the actions [N, A] that are farthest outside bounds."""
    worst, step = -np.inf, 0
    for begin, end in parts(len(action), action[:1].nbytes):
        beyond = np.maximum(low - action[begin:end], action[begin:end] - high).max(1)
        if beyond.max() > worst:
            worst, step = beyond.max(), begin + int(beyond.argmax())
    return step


def _check_piece(piece: Episodes, columns: dict[str, np.ndarray], where: str) -> None:
    """Raises DataError for what cannot be learned from. Arrays are named as files name them."""
    if piece.reward.shape[1] == 0:
        raise DataError(f"{where}: has no steps; remove it from the recording")
    if (piece.steps != 1).any():
        raise DataError(f"{where}: has decisions of several steps; a log holds primitive steps")
    for name in ("observation", "action", "reward"):
        values, first = getattr(piece, name)[0], columns[name]
        if values.ndim == 2 and values.shape[1] != first.shape[1]:
            raise DataError(
                f"{where}, {name}s: has {values.shape[1]} columns, episode 0 has {first.shape[1]}; "
                "all episodes must record the same quantities"
            )
        if values.dtype.kind not in "fiub":
            raise DataError(f"{where}, {name}s: is of type {values.dtype}; numbers are expected")


def action_space(
    actions: np.ndarray, low: np.ndarray | None, high: np.ndarray | None, nearly: float = NEARLY
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Bounds [A] of the actions [N, A], and what was assumed for them.

    Without a stated space each dimension is what its actions span, so that units do not matter; but [-1, 1] where they nearly fill
    that. A dimension that never changes gets the width of the widest.
    """
    if low is not None and high is not None and np.isfinite(low).all() and np.isfinite(high).all():
        low, high = (np.broadcast_to(np.asarray(b, np.float32), actions.shape[1:]).copy() for b in (low, high))
        return low, high, ()
    low, high = actions.min(0), actions.max(0)
    span = high - low
    unit = (low >= -1 - RANGE_TOLERANCE) & (high <= 1 + RANGE_TOLERANCE) & (span >= 2 * nearly)
    flat = span <= 1e-6 * span.max()
    width = float(span.max()) or 1.0
    low, high = np.where(flat, low - width, low), np.where(flat, high + width, high)
    low, high = np.where(unit, -1, low).astype(np.float32), np.where(unit, 1, high).astype(np.float32)
    found = "[-1, 1], in which they lie" if unit.all() else "what the actions span"
    return low, high, (f"action space taken to be {found}: the source does not say",)
