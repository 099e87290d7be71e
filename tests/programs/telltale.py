"""A family whose rewards and observations name the task, and whose splits share no optimal action.

Return of an episode: max_episode_steps * code - sum |action - best|. Codes are so far apart that a mean return names the split, and
the return of one episode the task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from skillmeta.tasks.base import Expert, TaskFamily
from skillmeta.tasks.batched import NativeEnv, Outcome, uniform


@dataclass(frozen=True)
class Config:
    max_episode_steps: int = 3
    expert: bool = True


@dataclass(frozen=True)
class Sign:
    code: float  # reward of the best action in each step
    best: float  # the one action that succeeds


TRAIN = (Sign(10, 0.9), Sign(20, 0.8))
VALIDATION = (Sign(100, 0.1), Sign(200, 0.2))
TEST = (Sign(1000, -0.5), Sign(2000, -0.6), Sign(4000, -0.7))
FRESH = Sign(50, 0.7)  # every draw of the split "any"
SPLITS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
SCALE = 1000.0  # of the code in observations


class Signs:
    """N tasks in lockstep. Observation [N, 2]: code / SCALE, and a number in [0, 1) that the reset's seed and the step decide."""

    observation_dim = 2
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, config: Config, num: int):
        self.num, self.max_episode_steps = num, config.max_episode_steps

    def reset(self, seeds: np.ndarray, tasks: Sequence[Sign]) -> np.ndarray:
        self.seeds, self.taken = seeds, 0
        self.code, self.best = (np.array([getattr(task, name) for task in tasks]) for name in ("code", "best"))
        return self.observe()

    def observe(self) -> np.ndarray:
        return np.stack([self.code / SCALE, uniform(self.seeds, self.taken)], 1).astype(np.float32)

    def step(self, action: np.ndarray) -> Outcome:
        self.taken += 1
        error = np.abs(action[:, 0] - self.best)
        return Outcome(self.observe(), self.code - error, np.zeros(self.num, bool), error < 1e-3)


def family(config: Config) -> TaskFamily:
    def expert(env: gymnasium.Env, generator: np.random.Generator) -> Expert:
        best = np.array([env.unwrapped.task.best], np.float32)  # type: ignore[attr-defined]
        return lambda observation: best

    return TaskFamily(
        name="telltale",
        version=1,
        definition="Reward: the task's code minus the distance of the action from the task's best one.",
        max_episode_steps=config.max_episode_steps,
        splits=SPLITS,
        make_env=lambda: NativeEnv(Signs(config, 1), TRAIN[0]),
        draw_task=lambda generator: FRESH,
        features=lambda task: np.array([task.best], np.float32),
        native=lambda num: Signs(config, num),
        expert=expert if config.expert else None,
        positions=lambda observation: observation[..., :2],
        coverage=lambda positions: float(len(np.unique(positions[:, 0]))),  # how many tasks were seen
        draw=lambda axes, task: None,
    )


def episode_return(task: Sign, action: float, steps: int = 3) -> float:
    """Of an episode of one action."""
    return steps * (task.code - abs(action - task.best))


def codes(observations: np.ndarray) -> set[float]:
    """The tasks that observations [..., 2] are from."""
    return {round(float(code) * SCALE) for code in np.unique(observations[..., 0])}
