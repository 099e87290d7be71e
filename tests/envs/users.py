"""Environments as users have them: registered with Gymnasium under users/NAME-v0."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict


class Point(gymnasium.Env):
    """Two numbers that are pushed about, for `length` steps."""

    observation_space: gymnasium.Space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space: gymnasium.Space = Box(-1.0, 1.0, (2,), np.float32)
    length: int | None = 20

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.taken, self.place = 0, self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.place.copy(), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.taken += 1
        self.place = (self.place + 0.1 * np.asarray(action)).astype(np.float32)
        return self.place.copy(), -float(np.abs(self.place).sum()), False, self.taken == self.length, {}


class Endless(Point):
    length = None


class Terminates(Point):
    """Without a time limit, but its episodes end."""

    length = None

    def step(self, action: Any) -> Any:
        observation, reward, _, _, info = super().step(action)
        return observation, reward, self.taken >= 7, False, info


class OldReset(Point):
    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()[0]


class NoOptions(Point):
    def reset(self, seed: int | None = None) -> Any:  # type: ignore[override]
        return super().reset(seed=seed)


class OneValue(Point):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)[0]


class FourValues(Point):
    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated or truncated, info


class Narrow(Point):
    """Its observations have a number less than its space says."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observation, info = super().reset(seed=seed, options=options)
        return observation[:-1], info


class Reports(Point):
    """Says at the end of an episode whether it succeeded."""

    def step(self, action: Any) -> Any:
        *rest, truncated, info = super().step(action)
        return *rest, truncated, {"is_success": True} if truncated else info


class Goal(Point):
    """A goal environment, whose observations come in another order than its space has."""

    parts = {name: Box(-np.inf, np.inf, (2,), np.float32) for name in ("observation", "achieved_goal", "desired_goal")}
    observation_space = Dict(parts)

    def shown(self, place: np.ndarray) -> dict[str, np.ndarray]:
        return {"observation": place, "desired_goal": np.full(2, 9, np.float32), "achieved_goal": -place}

    def reset(self, **options: Any) -> Any:
        place, info = super().reset(**options)
        return self.shown(place), info

    def step(self, action: Any) -> Any:
        place, *rest = super().step(action)
        return self.shown(place), *rest


class Whole(Point):
    """Actions are integers, rewards arrays of one number."""

    action_space = Box(np.array([-2, 0]), np.array([2, 8]), dtype=np.int64)
    taken_actions: list[Any]

    def reset(self, **options: Any) -> Any:
        self.taken_actions = []
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.taken_actions.append(action.tolist())
        observation, reward, *rest = super().step(action)
        return observation, np.array([reward]), *rest


class Pixels(Point):
    observation_space = Box(0, 255, (96, 96, 3), np.uint8)


class Wide(Point):
    """Many numbers are seen."""

    observation_space = Box(-np.inf, np.inf, (3_000_000,), np.float32)

    def reset(self, **options: Any) -> Any:
        return np.zeros(3_000_000, np.float32), super().reset(**options)[1]

    def step(self, action: Any) -> Any:
        return np.zeros(3_000_000, np.float32), *super().step(action)[1:]


class Scaled(gymnasium.Env):
    """Reward: scale + added + what `late` says after 150 steps."""

    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, scale: float = 1.0, size: float = 1.0):
        self.gain, self.scale, self.added, self.unused, self.late = scale, scale, 0.0, 0.0, 0.0
        self.observation_space = Box(-1, 1, (int(size),), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.taken = 0
        return np.zeros(self.observation_space.shape, np.float32), {}

    def step(self, action: Any) -> Any:
        self.taken += 1
        reward = self.gain + self.added + (self.late if self.taken > 150 else 0.0)
        return np.zeros(self.observation_space.shape, np.float32), reward, False, False, {}


KINDS = (
    Point,
    Endless,
    Terminates,
    OldReset,
    NoOptions,
    OneValue,
    FourValues,
    Narrow,
    Reports,
    Goal,
    Whole,
    Pixels,
    Wide,
    Scaled,
)


def register(**more: Any) -> None:
    """All of them, and more by name."""
    for name, kind in ({kind.__name__: kind for kind in KINDS} | more).items():
        gymnasium.registry.pop(f"users/{name}-v0", None)
        gymnasium.register(f"users/{name}-v0", entry_point=kind)
