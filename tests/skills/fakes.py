"""A world in which everything can be counted: position moves by the action, rewards are powers of two of the step."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Dict

from skillmeta.skills.vae import SkillModel, SkillModelConfig
from skillmeta.types import Observed


class CounterEnv(gym.Env):
    """Observation (step, sum of actions); reward of step t is t + 1; ends (or is cut off) after `length` steps."""

    def __init__(self, length: int = 25, terminates: bool = True):
        self.length, self.terminates = length, terminates
        self.observation_space = Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = Box(-1.0, 1.0, (1,), np.float32)

    def _observe(self) -> np.ndarray:
        return np.array([self.t, self.total], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t, self.total, self.actions = 0, float(self.np_random.integers(100)), []
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        self.total += float(action[0])
        self.actions.append(float(action[0]))
        over = self.t >= self.length
        info = {"success": self.t == self.length}
        return self._observe(), float(self.t), over and self.terminates, over and not self.terminates, info


class GoalEnv(gym.Wrapper):
    """The same world with a Dict observation: a goal, the step after it, and the sum of actions before both."""

    def __init__(self, length: int = 25):
        super().__init__(CounterEnv(length))
        box = Box(-np.inf, np.inf, (1,), np.float32)
        self.observation_space = Dict(a_sum=box, goal=Box(-np.inf, np.inf, (3,), np.float32), step=box)

    def _parts(self, seen: np.ndarray) -> dict[str, np.ndarray]:
        return {"a_sum": seen[1:], "goal": np.array([7.0, 8.0, 9.0], np.float32), "step": seen[:1]}

    def reset(self, **options: Any) -> tuple[dict[str, np.ndarray], dict]:
        seen, info = self.env.reset(**options)
        return self._parts(seen), info

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        seen, *rest = self.env.step(action)
        return self._parts(seen), *rest


def skill_model(
    horizon: int = 10,
    closed_loop: bool = True,
    observation_dim: int = 2,
    action_dim: int = 1,
    seed: int = 0,
    dim: int = 3,
    observed: tuple[Observed, ...] = (),
    components: int = 0,
    prior: Literal["gaussian", "mixture", "flow"] | None = None,
) -> SkillModel:
    """An untrained, small model: what it does is arbitrary but fixed. Its prior is a mixture of so many Gaussians, or one, or what
    `prior` says."""
    config = SkillModelConfig(
        horizon=horizon, dim=dim, closed_loop=closed_loop, hidden=16, decoder_depth=1, prior_depth=1,
        prior=prior or ("mixture" if components else "gaussian"), prior_components=components or 10,
    )  # fmt: skip
    ones = torch.ones(action_dim)
    generator = torch.Generator().manual_seed(seed)
    made = SkillModel(config, observation_dim, action_dim, -ones, ones, generator, observed)
    return made.requires_grad_(False)
