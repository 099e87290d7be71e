"""Actors whose behaviour is known beforehand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skillmeta.types import Episodes, Step


class Still:
    """Always the same action."""

    exploration_episodes = 0

    def __init__(self, rollouts: int = 1):
        self.rollouts = rollouts

    def begin(self, tasks: int, generator: torch.Generator) -> None:
        return None

    def act(self, observation: Tensor, belief: None, generator: torch.Generator, explore: bool) -> tuple[Tensor, None]:
        return torch.zeros(len(observation), 1), None

    def observe(self, belief: None, action: Tensor, step: Step) -> None:
        return None

    def adapt(self, belief: None, episodes: Episodes, generator: torch.Generator) -> None:
        return None


class Trilateration:
    """Optimal on dense point robots after one episode: three distances to a goal in the plane say where it is.

    Each step gives an equation linear in (goal, |goal|^2): |p|^2 - d^2 = 2 p . goal - |goal|^2, with d = -reward. The belief is
    the normal equations of all of them: [N, 3, 3] and [N, 3], and the number of episodes seen [N].
    """

    rollouts, exploration_episodes = 1, 1

    def begin(self, num: int, generator: torch.Generator) -> Any:
        return torch.zeros(num, 3, 3, dtype=torch.float64), torch.zeros(num, 3, dtype=torch.float64), torch.zeros(num)

    def goal(self, belief: Any) -> Tensor:
        matrix, right, _ = belief
        return torch.linalg.solve(matrix + 1e-9 * torch.eye(3), right)[:, :2].float()

    def act(self, observation: Tensor, belief: Any, generator: torch.Generator, explore: bool) -> tuple[Tensor, Any]:
        wander = 2 * torch.rand(observation.shape, generator=generator) - 1
        homing = ((self.goal(belief) - observation) / 0.1).clamp(-1, 1)
        return torch.where(belief[2][:, None] > 0, homing, wander), belief

    def observe(self, belief: Any, action: Tensor, step: Step) -> Any:
        matrix, right, seen = belief
        position = torch.from_numpy(step.observation).double()
        row = torch.cat([2 * position, -torch.ones(len(position), 1)], 1) * torch.from_numpy(step.steps)[:, None]
        known = (position**2).sum(1) - torch.from_numpy(step.reward).double() ** 2
        return matrix + row[:, :, None] * row[:, None], right + row * known[:, None], seen

    def adapt(self, belief: Any, episodes: Episodes, generator: torch.Generator) -> Any:
        return belief[0], belief[1], belief[2] + 1
