"""A family of small environments that fail, each in its own way, in every so-manyth episode: where the reset's seed says so."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from skillmeta.tasks.base import TaskFamily

STEPS = 4  # of an episode
FAILS_AT = 2  # the step


def raises() -> None:
    raise RuntimeError("the world\nis flat")


def hangs_and_catches() -> None:
    while True:
        try:
            time.sleep(0.1)
        except Exception:
            pass


def spins() -> None:
    while True:
        pass


def hangs_in_a_library() -> None:
    ctypes.PyDLL(None).sleep(1000)  # which keeps Python's lock


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


SAYS = {  # kind: what a sentence on it says
    "raises": "raised RuntimeError: the world",
    "raises_at_reset": "reset: the environment raised RuntimeError: the world",
    "nan_observation": "an observation that is not finite",
    "nan_at_reset": "an observation that is not finite",
    "infinite_reward": "a reward that is not finite",
    "huge_reward": "a reward that is not finite",  # in single precision
    "wrong_shape": "raised ValueError",
    "no_reward": "a reward that is not finite",
    "exits": "died",
    "killed": "died",
    "crashes": "died",
    "sleeps": "took longer than",
    "spins": "took longer than",
    "sleeps_at_reset": "took longer than",
    "hangs_and_catches": "took longer than",
    "hangs_in_a_library": "took longer than",
}
CALLS: dict[str, Callable[[], Any]] = {
    "raises": raises,
    "exits": lambda: os._exit(0),
    "killed": killed,
    "crashes": lambda: ctypes.string_at(0),
    "sleeps": lambda: time.sleep(1000),
    "spins": spins,
    "hangs_and_catches": hangs_and_catches,
    "hangs_in_a_library": hangs_in_a_library,
}
ENDS_ITS_PROCESS = ("exits", "killed", "crashes", "hangs_in_a_library")


@dataclass(frozen=True)
class Config:
    kind: str = "raises"
    every: int = 2  # episodes: those whose seed it divides fail
    mark: str = ""  # a folder, in which a file says which process has come to its failure


@dataclass(frozen=True)
class Number:
    number: int


class Failing(gymnasium.Env):
    """Observation: the task's number and the step. Reward: minus the distance of the action from 0.5."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, config: Config):
        self.config, self.task, self.fails, self.taken = config, Number(0), False, 0

    def observe(self) -> np.ndarray:
        return np.array([self.task.number, self.taken], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.task = (options or {}).get("task", self.task)
        self.fails, self.taken = (seed or 0) % self.config.every == 0, 0
        if self.fails and self.config.kind.endswith("_at_reset"):
            kind = self.config.kind.removesuffix("_at_reset")
            if kind == "nan":
                return np.full(2, np.nan, np.float32), {}
            CALLS[kind]()
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward = self.observe(), -abs(float(action[0]) - 0.5)
        if self.fails and self.taken == FAILS_AT:
            if self.config.mark:
                (Path(self.config.mark) / str(os.getpid())).touch()
            CALLS.get(self.config.kind, lambda: None)()
            observation = {
                "nan_observation": np.array([0, np.nan], np.float32),
                "wrong_shape": np.zeros(1, np.float32),
            }.get(self.config.kind, observation)
            reward = {"infinite_reward": np.inf, "huge_reward": 1e300, "no_reward": None}.get(self.config.kind, reward)
        self.taken += 1
        return observation, reward, False, self.taken == STEPS, {"success": False}


def family(config: Config) -> TaskFamily:
    tasks = tuple(map(Number, range(6)))
    return TaskFamily(
        name="failing",
        version=1,
        definition="Fails.",
        max_episode_steps=STEPS,
        splits={"train": tasks[:2], "validation": tasks[2:4], "test": tasks[4:]},
        make_env=lambda: Failing(config),
    )
