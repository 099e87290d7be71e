"""Environments that are arrays, in lockstep: a step of all is a few calls of numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

from skillmeta.envs.failure import CAUGHT, failure, finite
from skillmeta.run import watch
from skillmeta.types import EnvSpec, Step, Task


class BatchedEnvs:
    """Environments that are arrays already (`skillmeta.tasks.batched.Native`): a step of all is a few calls of numpy.

    Args:
        native: the environments.
        num: how many it holds.
        unit_actions: as for SerialEnvs.
    """

    def __init__(self, native: Any, num: int, unit_actions: bool = True):
        self.native, self.num = native, num
        space = native.action_space
        if isinstance(space, Discrete):
            bound = np.ones(int(space.n), np.float32)
        else:
            self.middle, self.half = (space.high + space.low) / 2, (space.high - space.low) / 2
            self.unit = unit_actions
            bound = np.maximum(np.abs(space.low), np.abs(space.high)).astype(np.float32)
            if unit_actions:
                bound = np.ones_like(bound)
        self.spec = EnvSpec(int(native.observation_dim), bound, isinstance(space, Discrete))
        self._alive, self._tasks = np.zeros(num, bool), list[Task]()

    def reset(self, seeds: Sequence[int], tasks: Sequence[Task] | None = None) -> np.ndarray:
        """Start an episode in every environment, from its seed and, where given, in its task. Returns [N, O]."""
        self._tasks = self._tasks if tasks is None else list(tasks)
        if len(self._tasks) != self.num:
            raise ValueError(f"{self.num} environments need as many tasks at their first reset, not {len(self._tasks)}")
        self._alive, self._done, self._seeds = np.ones(self.num, bool), 0, list(seeds)
        try:
            watch.begins(-1, self._seeds[0], watch.RESET)
            self._observation = self.native.reset(np.asarray(seeds, np.uint64), self._tasks)
            self._check(self._observation, "an observation")
        except CAUGHT as error:
            raise failure(error) from error
        finally:
            watch.ends()
        result: np.ndarray = self._observation
        return result

    def step(self, action: np.ndarray, limit: int | None = None) -> Step:
        """One primitive step in every environment that has not ended; action [N, A]. `limit` changes nothing here."""
        alive = self._alive
        if self.spec.discrete:
            chosen = action.argmax(1)
        elif self.unit:
            chosen = self.middle + self.half * np.minimum(np.maximum(action, -1.0), 1.0)
        else:
            chosen = action
        try:
            watch.begins(-1, self._seeds[0], self._done)
            outcome = self.native.step(chosen)
            if alive.all():  # the usual case, without the price of masking
                observation, reward, success = outcome.observation, outcome.reward.astype(np.float32), outcome.success
            else:
                observation = np.where(alive[:, None], outcome.observation, self._observation)
                reward, success = np.where(alive, outcome.reward, 0).astype(np.float32), outcome.success & alive
            terminated = outcome.terminated & alive
            self._check(reward, "a reward")
            self._check(observation, "an observation")
        except CAUGHT as error:
            raise failure(error) from error
        finally:
            watch.ends()
        self._done += 1
        truncated = alive & ~terminated if self._done >= self.native.max_episode_steps else np.zeros(self.num, bool)
        self._observation, self._alive = observation, alive & ~(terminated | truncated)
        return Step(observation, reward, terminated, truncated, alive.astype(np.int64), success)

    def _check(self, values: np.ndarray, what: str) -> None:
        """Raises NotFinite for values [N, ...] that are not, of the first environment whose are not."""
        if not math.isfinite(np.add.reduce(values, None)):
            for row, own in enumerate(values):
                watch.moves(row, self._seeds[row])
                finite(own, what)

    def close(self) -> None:
        pass
