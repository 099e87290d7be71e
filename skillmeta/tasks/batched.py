"""Environments as arrays: N tasks in lockstep in numpy, for families whose steps cost less than a Python call.

A family writes its maths once, for N; `NativeEnv` makes an ordinary Gymnasium environment of N = 1 from it. Noise is a hash of
(the episode's seed, the step, a channel): what happens to one environment depends on its own seed and task alone, however
many others stand beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from skillmeta.config import to_plain


class Outcome(NamedTuple):
    """One step of N environments."""

    observation: np.ndarray  # [N, O] float32
    reward: np.ndarray  # [N]
    terminated: np.ndarray  # [N] bool
    success: np.ndarray  # [N] bool


class Native(Protocol):
    """N environments as arrays. Ending after `max_episode_steps` is left to whoever steps them."""

    observation_dim: int
    max_episode_steps: int

    @property
    def action_space(self) -> Any: ...  # of one environment, Box or Discrete; Discrete actions come as indices [N]

    def reset(self, seeds: np.ndarray, tasks: Sequence[Any]) -> np.ndarray: ...  # uint64 [N] -> [N, O]
    def step(self, action: np.ndarray) -> Outcome: ...  # [N, A], or [N] of indices


def uniform(seeds: np.ndarray, step: int, channel: int = 0) -> np.ndarray:
    """Numbers in [0, 1), [N], a pure function of (seed, step, channel): SplitMix64's finaliser over their combination.

    Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    with np.errstate(over="ignore"):
        bits = mix(mix(seeds.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15) * np.uint64(1 + step + (channel << 32)))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def mix(bits: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: every bit of the input changes every bit of the output half the time. uint64 [N]."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: np.ndarray = bits ^ (bits >> np.uint64(31))
    return result


class NativeEnv(gymnasium.Env):
    """A Native of one environment as a Gymnasium environment. `task` is the one that runs until another is set."""

    def __init__(self, native: Native, task: Any, observation_space: Box | None = None):
        self.native, self.task = native, task
        self.observation_space = observation_space or Box(-np.inf, np.inf, (native.observation_dim,), np.float32)
        self.action_space = native.action_space
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.task = (options or {}).get("task") or self.task
        self._steps = 0
        own = seed if seed is not None else int(self.np_random.integers(2**63))
        observation = self.native.reset(np.array([own], np.uint64), [self.task])
        return observation[0], self._info(False)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        observation, reward, terminated, success = self.native.step(np.asarray(action)[None])
        ended = bool(terminated[0])
        cut_off = self._steps >= self.native.max_episode_steps and not ended
        return observation[0], float(reward[0]), ended, cut_off, self._info(bool(success[0]))

    def _info(self, success: bool) -> dict[str, Any]:
        return {"success": success, "task": to_plain(self.task)}
