"""Trials put together from episodes, and as the sequences that a recurrent agent sees.

Shape letters: N trials, K episodes each, T decisions an episode, L decisions a trial; O, A the last axes of observations and
actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from skillmeta.types import Episodes, Trials


@dataclass(frozen=True)
class Sequences:
    """Trials as a recurrent agent sees them: the valid decisions of all episodes one after another, padded at the end.

    What came before a decision is taken from the true last transition, over the end of an episode too; before a trial's first
    decision there was none: zeros.
    """

    observation: np.ndarray  # [N, L, O]
    previous_action: np.ndarray  # [N, L, A]
    previous_reward: np.ndarray  # [N, L]
    begins: np.ndarray  # [N, L] bool: the first decision of an episode
    action: np.ndarray  # [N, L, A]
    reward: np.ndarray  # [N, L]
    next_observation: np.ndarray  # [N, L, O]; where an episode ends, its true last observation
    terminated: np.ndarray  # [N, L] bool
    truncated: np.ndarray  # [N, L] bool
    steps: np.ndarray  # [N, L] primitive steps
    valid: np.ndarray  # [N, L] bool: False after a trial's last decision


def sequences(trials: Trials) -> Sequences:
    """The trials as recurrent agents see them."""
    num, rounds, time = trials.reward.shape
    valid = trials.valid.reshape(num, -1)
    order = np.argsort(~valid, axis=1, kind="stable")[:, : int(valid.sum(1).max())]  # valid decisions first, in order

    def packed(values: np.ndarray) -> np.ndarray:
        flat = values.reshape(num, rounds * time, *values.shape[3:])
        return np.take_along_axis(flat, order.reshape(*order.shape, *[1] * (flat.ndim - 2)), 1)

    here = np.take_along_axis(valid, order, 1)
    action = packed(trials.action) * here[..., None]
    reward = packed(trials.reward) * here
    first = np.zeros(trials.reward.shape, bool)
    first[:, :, 0] = True
    return Sequences(
        observation=packed(trials.observation[:, :, :-1]),
        previous_action=delayed(action),
        previous_reward=delayed(reward),
        begins=packed(first) & here,
        action=action,
        reward=reward,
        next_observation=packed(trials.observation[:, :, 1:]),
        terminated=packed(trials.terminated) & here,
        truncated=packed(trials.truncated) & here,
        steps=packed(trials.steps) * here,
        valid=here,
    )


def delayed(values: np.ndarray) -> np.ndarray:
    """Each row moved by one along axis 1, zeros first. [N, L, ...]."""
    moved = np.zeros_like(values)
    moved[:, 1:] = values[:, :-1]
    return moved


def stack(rounds: Sequence[Episodes]) -> Trials:
    """Episodes of the same N trials, one after another, padded to the longest."""
    time = max(done.reward.shape[1] for done in rounds)
    return Trials(*(np.stack([padded(done, f.name, 1, time) for done in rounds], 1) for f in fields(Trials)))


def join(parts: Sequence[Trials]) -> Trials:
    """Trials of different environments, one below another, padded to the longest episode."""
    if len({part.reward.shape[1] for part in parts}) != 1:
        raise ValueError("trials of different numbers of episodes cannot be joined")
    time = max(part.reward.shape[2] for part in parts)
    return Trials(*(np.concatenate([padded(part, f.name, 2, time) for part in parts]) for f in fields(Trials)))


def padded(done: Episodes | Trials, name: str, axis: int, time: int) -> np.ndarray:
    """An array of episodes, its time made longer. An ended environment holds still: its last observation is repeated."""
    values: np.ndarray = getattr(done, name)
    observed = name == "observation"
    missing = time + observed - values.shape[axis]
    widths = [(0, missing if i == axis else 0) for i in range(values.ndim)]
    return np.pad(values, widths, mode="edge" if observed else "constant")
