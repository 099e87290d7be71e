"""One episode in each of N environments in lockstep."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from skillmeta.errors import EnvironmentFailed, UserError
from skillmeta.types import Actor, BeliefT, Envs, Episodes, Task


def episode(
    actor: Actor[BeliefT],
    envs: Envs,
    belief: BeliefT,
    seeds: Sequence[int],
    generator: torch.Generator,
    *,
    explore: bool = True,
    tasks: Sequence[Task] | None = None,
    max_steps: int | None = None,
) -> tuple[Episodes, BeliefT]:
    """One episode in each of N environments, and the belief after its last observation.

    `max_steps`: a budget of primitive steps an environment; an episode that it cuts off is truncated, not terminated.
    """
    observation = envs.reset(seeds, tasks)
    alive, taken = np.ones(envs.num, bool), 0
    frames, rows = [observation], []
    while True in alive.tolist():
        with torch.inference_mode():
            acted = actor.act(torch.from_numpy(observation), belief, generator, explore)
        if not taken:
            check_acted(acted)
        action, belief = acted
        chosen = checked(action, (envs.num, envs.spec.action_dim))
        try:
            step = envs.step(chosen, None if max_steps is None else max_steps - taken)
        except EnvironmentFailed:
            check_finite(chosen, "the policy's actions")  # then it is not the environment's fault
            raise
        belief = actor.observe(belief, action, step)
        taken += max(step.steps.tolist())
        truncated = step.truncated
        if max_steps is not None and taken >= max_steps:
            truncated = truncated | (alive & ~step.terminated)
        rows.append((chosen, step.reward, step.terminated, truncated, step.steps, step.success, alive.copy()))
        alive = alive & ~(step.terminated | truncated)
        observation = step.observation
        frames.append(observation)
    columns = [np.stack(column, 1) for column in zip(*rows, strict=True)]
    check_finite(columns[0], "the policy's actions")
    check_finite(columns[1], "the rewards of a decision, summed up,")
    return Episodes(np.stack(frames, 1), *columns), belief


def check_acted(acted: object) -> None:
    """Raises UserError for an actor whose `act` does not return two things: an algorithm of the user's own returned it."""
    if not isinstance(acted, tuple) or len(acted) != 2:
        found = f"a tuple of {len(acted)}" if isinstance(acted, tuple) else f"a {type(acted).__name__}"
        raise UserError(f"the actor's act returned {found}; a tuple (actions, belief) is expected")


def checked(action: torch.Tensor, shape: tuple[int, int]) -> np.ndarray:
    """Actions as an array. Raises UserError for what is no tensor of this shape: an algorithm of the user's own returned it."""
    if not isinstance(action, torch.Tensor) or action.shape != shape:
        found = f"of shape {tuple(action.shape)}" if isinstance(action, torch.Tensor) else f"a {type(action).__name__}"
        raise UserError(f"the actor's act returned actions {found}; a tensor of shape {shape} is expected")
    return action.numpy()


def check_finite(values: np.ndarray, what: str) -> None:
    """Raises UserError for numbers that are not; those of environments are looked at when they are returned."""
    if not math.isfinite(np.add.reduce(values, None)) and not np.isfinite(values).all():
        raise UserError(
            f"{what} are not finite: training has diverged, or the rewards are too large; lower the learning rate or the rewards, "
            "then start anew in another --out"
        )
