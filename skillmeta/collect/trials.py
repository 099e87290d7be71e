"""Trials: K episodes in one task, which an actor meets knowing nothing of it and learns from as it goes.

The setting is RL2's (Duan et al. 2016, arXiv:1611.02779), where a recurrent agent maximises the return of a whole trial. PEARL and
MAML adapt between a trial's episodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from skillmeta.collect.episodes import episode
from skillmeta.data.trials import stack
from skillmeta.types import Actor, BeliefT, Envs, Episodes, Task, Trials


def trial(
    actor: Actor[BeliefT],
    envs: Envs,
    tasks: Sequence[Task],
    seeds: np.ndarray,
    generator: torch.Generator,
    explore: Sequence[bool] | bool = True,
    max_steps: int | None = None,
) -> tuple[Trials, BeliefT]:
    """K episodes in each task, with what the actor learns in each carried to the next.

    Args:
        tasks: of N environments; with `actor.rollouts` B > 1 each task stands B times in a row.
        seeds: of the resets, [N, K]; K is their number.
        explore: for each of the K episodes, or for all: whether the actor samples or does what it thinks best.
        max_steps: as for `skillmeta.collect.episodes.episode`, of each episode.

    Returns the trials, and the belief after the last episode.
    """
    num, rounds = seeds.shape
    flags = [explore] * rounds if isinstance(explore, bool) else list(explore)
    if num != envs.num or len(tasks) != num or num % actor.rollouts:
        raise ValueError(
            f"{envs.num} environments, {len(tasks)} tasks and seeds {seeds.shape} do not go together, or are not a multiple of "
            f"the actor's {actor.rollouts} rollouts a task"
        )
    belief = actor.begin(num // actor.rollouts, generator)
    done: list[Episodes] = []
    for k in range(rounds):
        resets, flag = seeds[:, k].tolist(), flags[k]
        episodes, belief = episode(
            actor, envs, belief, resets, generator, explore=flag, tasks=tasks, max_steps=max_steps
        )
        belief = actor.adapt(belief, episodes, generator)
        done.append(episodes)
    return stack(done), belief
