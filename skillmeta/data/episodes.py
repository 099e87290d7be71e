"""What a log is once it is in memory: flat arrays and where each episode starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skillmeta.errors import DataError

if TYPE_CHECKING:
    from skillmeta.data.windows import Windows

RANGE_TOLERANCE = 1e-4  # of an action's range, for values that float32 has rounded past the edge


@dataclass(frozen=True)
class Episode:
    """One recorded episode of T steps, as a source or a collector hands it over."""

    observations: np.ndarray  # [T+1, O]
    actions: np.ndarray  # [T, A]
    rewards: np.ndarray  # [T]
    terminated: np.ndarray  # [T] bool: the MDP ended
    truncated: np.ndarray  # [T] bool: the recording was cut off
    success: np.ndarray | None = None  # [T] bool: what the task asks for was true after this step, where that is known


class Recording(NamedTuple):
    """What a collector yields: an episode, and what became of each thing that was tried in it."""

    episode: Episode
    outcomes: tuple[tuple[str, bool], ...]  # e.g. (("kettle", True), ("microwave", False))


@dataclass(frozen=True)
class EpisodeDataset:
    """All episodes of a source, float32, one after another. Build it with `from_episodes`, which checks everything."""

    observations: np.ndarray  # [N + E, O]: each episode has one observation more than steps
    actions: np.ndarray  # [N, A]
    rewards: np.ndarray  # [N]
    terminated: np.ndarray  # [N] bool
    truncated: np.ndarray  # [N] bool
    offsets: np.ndarray  # [E + 1] int64: episode e is steps offsets[e] to offsets[e + 1]; its observations start at + e
    action_low: np.ndarray  # [A]
    action_high: np.ndarray  # [A]
    source: str
    notes: tuple[str, ...] = ()  # what was assumed on the way in, for `inspect`

    @property
    def num_steps(self) -> int:
        return len(self.actions)

    @property
    def num_episodes(self) -> int:
        return len(self.offsets) - 1

    @property
    def observation_dim(self) -> int:
        return self.observations.shape[1]

    @property
    def action_dim(self) -> int:
        return self.actions.shape[1]

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each episode, [E]."""
        return np.diff(self.offsets)

    @property
    def returns(self) -> np.ndarray:
        """Undiscounted return of each episode, [E]."""
        return np.add.reduceat(self.rewards.astype(np.float64), self.offsets[:-1])

    def episode(self, e: int) -> Episode:
        """Episode e as views into the flat arrays."""
        start, end = self.offsets[e], self.offsets[e + 1]
        steps = slice(start, end)
        observations = self.observations[start + e : end + e + 1]
        return Episode(
            observations, self.actions[steps], self.rewards[steps], self.terminated[steps], self.truncated[steps]
        )

    def windows(self, horizon: int, split: str = "all", held_out: float = 0.1, seed: int = 0) -> Windows:
        """The windows of `horizon` steps; see `skillmeta.data.windows.Windows`."""
        from skillmeta.data.windows import Windows

        return Windows.of(self, horizon, split, held_out, seed)


def from_episodes(
    episodes: Sequence[Episode],
    source: str,
    action_low: np.ndarray | None = None,
    action_high: np.ndarray | None = None,
    clip_actions: bool = False,
    notes: tuple[str, ...] = (),
) -> EpisodeDataset:
    """Check episodes and lay them out flat.

    Args:
        source: named in every error.
        action_low, action_high: [A], the action space; without them it is [-1, 1] where all actions lie in it, else what the
            actions span, and a note says so.
        clip_actions: pull actions into the space instead of refusing them.

    Raises:
        DataError: no episodes, an empty one, shapes that do not agree, values that are not finite, actions out of range. The
            sentence names source, episode and field.
    """
    if not episodes:
        raise DataError(f"{source}: holds no episodes; nothing can be learned from it")
    first = episodes[0]
    for e, episode in enumerate(episodes):
        _check_episode(episode, first, f"{source}: episode {e}")
    actions = np.concatenate([episode.actions for episode in episodes]).astype(np.float32)
    low, high, assumed = _action_space(actions, action_low, action_high)
    outside = np.maximum(low - actions, actions - high).max(1)
    tolerance = RANGE_TOLERANCE * float((high - low).max())
    offsets = np.concatenate([[0], np.cumsum([len(episode.actions) for episode in episodes])]).astype(np.int64)
    if outside.max() > tolerance and not clip_actions:
        step = int(outside.argmax())
        e = int(np.searchsorted(offsets, step, side="right") - 1)
        raise DataError(
            f"{source}: episode {e}, actions: step {step - offsets[e]} is {np.round(actions[step], 4).tolist()}, outside "
            f"[{low.tolist()}, {high.tolist()}]; pass clip_actions=true to pull actions into the space"
        )
    return EpisodeDataset(
        observations=np.concatenate([episode.observations for episode in episodes]).astype(np.float32),
        actions=np.clip(actions, low, high),
        rewards=np.concatenate([episode.rewards for episode in episodes]).astype(np.float32),
        terminated=np.concatenate([episode.terminated for episode in episodes]).astype(bool),
        truncated=np.concatenate([episode.truncated for episode in episodes]).astype(bool),
        offsets=offsets,
        action_low=low,
        action_high=high,
        source=source,
        notes=(*notes, *assumed),
    )


def _check_episode(episode: Episode, first: Episode, where: str) -> None:
    steps = len(episode.actions)
    if steps == 0:
        raise DataError(f"{where}: has no steps; remove it from the recording")
    for name in ("observations", "actions", "rewards", "terminated", "truncated"):
        values = np.asarray(getattr(episode, name))
        expected = steps + 1 if name == "observations" else steps
        if len(values) != expected:
            raise DataError(
                f"{where}, {name}: has {len(values)} rows, actions have {steps}; {expected} rows are expected"
            )
        dims = 2 if name in ("observations", "actions") else 1
        if values.ndim != dims:
            raise DataError(f"{where}, {name}: has shape {values.shape}; {dims} dimensions are expected")
        if dims == 2 and values.shape[1] != getattr(first, name).shape[1]:
            raise DataError(
                f"{where}, {name}: has {values.shape[1]} columns, episode 0 has {getattr(first, name).shape[1]}; "
                "all episodes must record the same quantities"
            )
        if values.dtype.kind not in ("f" if dims == 2 else "fiub"):
            raise DataError(f"{where}, {name}: is of type {values.dtype}; floating point numbers are expected")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            raise DataError(f"{where}, {name}: step {row} is not finite ({values[row]}); repair or drop this episode")


def _action_space(
    actions: np.ndarray, low: np.ndarray | None, high: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    if low is not None and high is not None and np.isfinite(low).all() and np.isfinite(high).all():
        return np.asarray(low, np.float32), np.asarray(high, np.float32), ()
    if np.abs(actions).max() <= 1 + RANGE_TOLERANCE:
        one = np.ones(actions.shape[1], np.float32)
        return -one, one, ("action space taken to be [-1, 1]: the source does not say, and all actions lie in it",)
    low, high = actions.min(0), actions.max(0)
    flat = high - low < 1e-6
    note = "action space taken to be what the actions span: the source does not say, and some lie outside [-1, 1]"
    return np.where(flat, low - 1, low), np.where(flat, high + 1, high), (note,)
