"""What the parts of this project hand to each other. Read this file first.

Shape letters: N environments in lockstep, T decisions of an episode, K episodes of a trial; O, A the last axes of observations and
actions. A decision is one action of an actor. It takes one primitive environment step, or up to H of them in skill space. Steps are
always primitive environment steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

Belief = Any  # what an actor knows of N tasks: an explicit value, never hidden state (None for SAC)


class Step(NamedTuple):
    """What one decision did in N environments. A named tuple: one is made at every primitive step."""

    observation: np.ndarray  # [N, O] float32
    reward: np.ndarray  # [N] float32, summed over the primitive steps
    terminated: np.ndarray  # [N] bool: the MDP ended, do not bootstrap
    truncated: np.ndarray  # [N] bool: it was cut off, bootstrap
    steps: np.ndarray  # [N] int64: primitive steps taken; 0 in an environment that had ended before
    success: np.ndarray  # [N] bool: info["success"] was true at any of the primitive steps


@dataclass(frozen=True)
class Episodes:
    """One episode in each of N environments: what happened, never what an algorithm thought of it."""

    observation: np.ndarray  # [N, T+1, O]
    action: np.ndarray  # [N, T, A]
    reward: np.ndarray  # [N, T]
    terminated: np.ndarray  # [N, T] bool
    truncated: np.ndarray  # [N, T] bool
    steps: np.ndarray  # [N, T] int64
    success: np.ndarray  # [N, T] bool
    valid: np.ndarray  # [N, T] bool: False after the end of a shorter episode

    def __post_init__(self) -> None:
        n, t = self.reward.shape
        for name in ("observation", "action", "terminated", "truncated", "steps", "success", "valid"):
            lead = (n, t + 1) if name == "observation" else (n, t)
            if getattr(self, name).shape[:2] != lead:
                raise ValueError(f"Episodes.{name} starts with {getattr(self, name).shape[:2]}; reward says {lead}")

    def rows(self, which: slice) -> Episodes:
        """Those of some environments."""
        return Episodes(*(getattr(self, f.name)[which] for f in fields(self)))

    @property
    def returns(self) -> np.ndarray:
        """Undiscounted return of each episode, [N]."""
        return (self.reward * self.valid).sum(1)

    @property
    def succeeded(self) -> np.ndarray:
        """Success at any step, [N] bool."""
        return (self.success & self.valid).any(1)

    @property
    def lengths(self) -> np.ndarray:
        """Primitive steps of each episode, [N]."""
        return (self.steps * self.valid).sum(1)


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


class Envs(Protocol):
    """N environments in lockstep, without autoreset. One that has ended holds still: same observation, reward 0, steps 0."""

    num: int
    observation_dim: int
    action_bound: np.ndarray  # [A] actions live in [-bound, bound]
    discrete: bool  # the largest of an action's A numbers is the choice among A; one-hot actions are exact

    def reset(self, seeds: Sequence[int], tasks: Sequence[object] | None = None) -> np.ndarray: ...
    def step(self, action: np.ndarray, limit: int | None = None) -> Step: ...
    def close(self) -> None: ...


class Agent(Protocol):
    """A learner whose knowledge of the task at hand is an explicit value, the belief.

    `rollouts` B: how many episodes it wants at once of each task before it adapts. Rows of act, observe and adapt are then
    [tasks * B], task by task, while the belief is of `tasks` tasks. `exploration_episodes`: how many of a trial's first
    rounds serve to find out about the task, not to do well in it.
    """

    @property
    def rollouts(self) -> int: ...
    @property
    def exploration_episodes(self) -> int: ...

    def begin(self, num: int, generator: torch.Generator) -> Belief: ...
    def act(
        self, observation: Tensor, belief: Belief, generator: torch.Generator, explore: bool
    ) -> tuple[Tensor, Belief]: ...  # [N, O] -> [N, A]
    def observe(self, belief: Belief, action: Tensor, step: Step) -> Belief: ...  # after every decision
    def adapt(self, belief: Belief, episodes: Episodes, generator: torch.Generator) -> Belief: ...  # after an episode
