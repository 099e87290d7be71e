"""Episodes in lockstep, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from skillmeta.seeds import Seeds
from skillmeta.types import Agent, Belief, Envs, Episodes


def episode(
    agent: Agent,
    envs: Envs,
    belief: Belief,
    seeds: Sequence[int],
    generator: torch.Generator,
    *,
    explore: bool = True,
    tasks: Sequence[object] | None = None,
    max_steps: int | None = None,
) -> tuple[Episodes, Belief]:
    """One episode in each of N environments, and the belief after its last observation.

    `max_steps`: a budget of primitive steps an environment; an episode that it cuts off is truncated, not terminated.
    """
    observation = envs.reset(seeds, tasks)
    alive, taken = np.ones(envs.num, bool), 0
    frames, rows = [observation], []
    while alive.any():
        with torch.inference_mode():
            action, belief = agent.act(torch.from_numpy(observation), belief, generator, explore)
        chosen = action.numpy()
        step = envs.step(chosen, None if max_steps is None else max_steps - taken)
        belief = agent.observe(belief, action, step)
        taken += int(step.steps.max())
        truncated = step.truncated
        if max_steps is not None and taken >= max_steps:
            truncated = truncated | (alive & ~step.terminated)
        rows.append((chosen, step.reward, step.terminated, truncated, step.steps, step.success, alive.copy()))
        alive = alive & ~(step.terminated | truncated)
        observation = step.observation
        frames.append(observation)
    columns = (np.stack(column, 1) for column in zip(*rows, strict=True))
    return Episodes(np.stack(frames, 1), *columns), belief


class Collector:
    """Gives an algorithm experience and counts its cost, in primitive environment steps.

    Resets and the noise of acting are functions of (seeds, episode), so that a resumed run sees what an uninterrupted one
    would have seen, and no state of simulators or generators has to be saved.
    """

    def __init__(self, envs: Envs, seeds: Seeds, budget: int, tasks: Sequence[object] | None = None):
        self.envs, self.seeds, self.budget, self.tasks = envs, seeds, budget, tasks
        self.env_steps = self.episodes = self.decisions = 0

    @property
    def spent(self) -> bool:
        return self.env_steps >= self.budget

    def episode(self, agent: Agent) -> Episodes:
        """One exploring episode in every environment; the budget cuts off the last one, so all methods use it exactly
        (up to N - 1 steps where N environments share it)."""
        seeds = self.seeds.stream("resets", self.episodes).integers(self.envs.num).tolist()
        generator = self.seeds.stream("acting", self.episodes).torch()
        left = -(-(self.budget - self.env_steps) // self.envs.num)
        belief = agent.begin(self.envs.num, generator)
        done, _ = episode(agent, self.envs, belief, seeds, generator, tasks=self.tasks, max_steps=left)
        self.env_steps += int(done.lengths.sum())
        self.decisions += int(done.valid.sum())
        self.episodes += self.envs.num
        return done

    def state(self) -> dict[str, int]:
        return {"env_steps": self.env_steps, "episodes": self.episodes, "decisions": self.decisions}

    def restore(self, state: dict[str, int]) -> None:
        self.env_steps, self.episodes, self.decisions = (
            state["env_steps"],
            state["episodes"],
            state["decisions"],
        )
