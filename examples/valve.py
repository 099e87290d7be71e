"""A family of tasks in one file: open a valve to a hidden position. docs/tasks.md explains each part.

An agent observes how far the valve is open. It does not observe the wanted position: it has to infer it from rewards.
`meta_rl_on_your_family.py` learns on this family.
"""

from dataclasses import dataclass

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from skillmeta.tasks.base import TaskFamily


@dataclass(frozen=True)
class Config:
    max_episode_steps: int = 10
    tasks_seed: int = 0


@dataclass(frozen=True)
class Position:
    """One task."""

    wanted: float  # from -1, closed, to 1, open


class Valve(gymnasium.Env):
    observation_space = Box(-1.0, 1.0, (1,), np.float32)
    action_space = Box(-0.4, 0.4, (1,), np.float32)  # how far a step turns it

    def __init__(self, config: Config, task: Position):
        self.config, self.task = config, task

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.task = (options or {}).get("task") or self.task  # the evaluator and the learners say which task it is
        self.at, self.steps = 0.0, 0
        return np.array([self.at], np.float32), self.info()

    def step(self, action):
        self.at = float(np.clip(self.at + np.clip(action[0], -0.4, 0.4), -1, 1))
        self.steps += 1
        truncated = self.steps >= self.config.max_episode_steps
        return np.array([self.at], np.float32), -abs(self.at - self.task.wanted), False, truncated, self.info()

    def info(self):
        return {"success": abs(self.at - self.task.wanted) < 0.1, "task": {"wanted": self.task.wanted}}


def family(config: Config) -> TaskFamily:
    rng = np.random.default_rng(config.tasks_seed)
    tasks = tuple(Position(float(rng.uniform(-1, 1))) for _ in range(120))
    return TaskFamily(
        name="valve",
        version=1,
        definition="Open a valve to a hidden position. Reward: minus the gap. Observed: how far it is open.",
        max_episode_steps=config.max_episode_steps,
        splits={"train": tasks[:80], "validation": tasks[80:100], "test": tasks[100:]},
        make_env=lambda: Valve(config, tasks[0]),
        draw_task=lambda generator: Position(float(generator.uniform(-1, 1))),
        expert=lambda env, generator: lambda seen: np.clip(env.unwrapped.task.wanted - seen, -0.4, 0.4),
    )
