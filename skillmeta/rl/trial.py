"""Trials: K episodes in one task, which an agent meets knowing nothing of it and learns from as it goes.

Shape letters: N trials in lockstep, K episodes each, T decisions an episode, L decisions a trial; O, A the last axes of
observations and actions. The setting is RL2's (Duan et al. 2016, arXiv:1611.02779), where a trial is what the recurrent agent
maximises its return over; PEARL and MAML adapt between a trial's episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from skillmeta.rl.rollout import Agent, Belief, Envs, Episodes, episode


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


@dataclass(frozen=True)
class Trials:
    """K episodes in each of N trials: what happened, never what an algorithm thought of it."""

    observation: np.ndarray  # [N, K, T+1, O]
    action: np.ndarray  # [N, K, T, A]
    reward: np.ndarray  # [N, K, T]
    terminated: np.ndarray  # [N, K, T] bool
    truncated: np.ndarray  # [N, K, T] bool
    steps: np.ndarray  # [N, K, T] int64
    success: np.ndarray  # [N, K, T] bool
    valid: np.ndarray  # [N, K, T] bool: False after the end of a shorter episode

    @property
    def returns(self) -> np.ndarray:
        """Undiscounted return of each episode, [N, K]."""
        return (self.reward * self.valid).sum(2)

    @property
    def succeeded(self) -> np.ndarray:
        """Success at any step, [N, K] bool: what Meta-World counts."""
        return (self.success & self.valid).any(2)

    @property
    def succeeded_at_end(self) -> np.ndarray:
        """Success at the last decision, [N, K] bool: reached and kept."""
        last = self.valid.sum(2, keepdims=True) - 1
        return np.take_along_axis(self.success, last, 2)[:, :, 0]

    @property
    def lengths(self) -> np.ndarray:
        """Primitive steps of each episode, [N, K]."""
        return (self.steps * self.valid).sum(2)

    def episodes(self, k: int) -> Episodes:
        """The k-th episode of every trial."""
        return Episodes(*(getattr(self, f.name)[:, k] for f in fields(self)))

    def sequences(self) -> Sequences:
        """The trials as recurrent agents see them."""
        num, rounds, time = self.reward.shape
        valid = self.valid.reshape(num, -1)
        order = np.argsort(~valid, axis=1, kind="stable")[
            :, : int(valid.sum(1).max())
        ]  # valid decisions first, in order

        def packed(values: np.ndarray) -> np.ndarray:
            flat = values.reshape(num, rounds * time, *values.shape[3:])
            return np.take_along_axis(flat, order.reshape(*order.shape, *[1] * (flat.ndim - 2)), 1)

        here = np.take_along_axis(valid, order, 1)
        action = packed(self.action) * here[..., None]
        reward = packed(self.reward) * here
        first = np.zeros(self.reward.shape, bool)
        first[:, :, 0] = True
        return Sequences(
            observation=packed(self.observation[:, :, :-1]),
            previous_action=delayed(action),
            previous_reward=delayed(reward),
            begins=packed(first) & here,
            action=action,
            reward=reward,
            next_observation=packed(self.observation[:, :, 1:]),
            terminated=packed(self.terminated) & here,
            truncated=packed(self.truncated) & here,
            steps=packed(self.steps) * here,
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
    """An array of episodes, its time made longer. An ended environment holds still: its last observation goes on."""
    values: np.ndarray = getattr(done, name)
    observed = name == "observation"
    missing = time + observed - values.shape[axis]
    widths = [(0, missing if i == axis else 0) for i in range(values.ndim)]
    return np.pad(values, widths, mode="edge" if observed else "constant")


def trial(
    agent: Agent,
    envs: Envs,
    tasks: Sequence[object],
    seeds: np.ndarray,
    generator: torch.Generator,
    explore: Sequence[bool] | bool = True,
) -> tuple[Trials, Belief]:
    """K episodes in each task, with what the agent learns in each carried to the next.

    Args:
        tasks: of N environments; with `agent.rollouts` B > 1 each task stands B times in a row.
        seeds: of the resets, [N, K]; K is their number.
        explore: for each of the K episodes, or for all: whether the agent samples or does what it thinks best.

    Returns the trials, and the belief after the last episode.
    """
    num, rounds = seeds.shape
    flags = [explore] * rounds if isinstance(explore, bool) else list(explore)
    if num != envs.num or len(tasks) != num or num % agent.rollouts:
        raise ValueError(
            f"{envs.num} environments, {len(tasks)} tasks and seeds {seeds.shape} do not go together, or are not a multiple of "
            f"the agent's {agent.rollouts} rollouts a task"
        )
    belief = agent.begin(num // agent.rollouts, generator)
    done: list[Episodes] = []
    for k in range(rounds):
        episodes, belief = episode(agent, envs, belief, seeds[:, k].tolist(), generator, explore=flags[k], tasks=tasks)
        belief = agent.adapt(belief, episodes, generator)
        done.append(episodes)
    return stack(done), belief
