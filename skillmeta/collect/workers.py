"""Whole trials in worker processes: a copy of what acts goes out, finished episodes come back.

A process is asked once for many steps, so that its work is not drowned in messages. What comes back depends on the seeds and on
`envs_per_batch`, never on the number of processes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from skillmeta.collect.trials import trial
from skillmeta.data.trials import join
from skillmeta.run.pool import Pool, WorkerDied
from skillmeta.seeds import Stream
from skillmeta.types import Actor, BeliefT, Envs, InformedActor, Task, Trials

MakeEnvs = Callable[[int], Envs]  # must survive pickling where there are processes


class Workers:
    """Runs trials in so many processes; with one, in this process.

    Args:
        make_envs: makes N environments in lockstep.
        processes: how many work at once.
        envs_per_batch: environments in lockstep, which share a policy's forward pass.
    """

    def __init__(self, make_envs: MakeEnvs, processes: int = 1, envs_per_batch: int = 16):
        if processes < 1 or envs_per_batch < 1:
            raise ValueError(
                f"processes is {processes} and envs_per_batch is {envs_per_batch}; at least 1 is needed of both"
            )
        self.make_envs, self.envs_per_batch = make_envs, envs_per_batch
        self._envs: dict[int, Envs] = {}
        self._pool: Pool[tuple[Any, ...], Trials] | None = None
        if processes > 1:
            self._pool = Pool(work, processes, begin_work, make_envs)

    def trials(
        self,
        actor: Actor[BeliefT],
        tasks: Sequence[Task],
        seeds: np.ndarray,
        draws: Stream,
        explore: Sequence[bool] | bool = True,
    ) -> Trials:
        """K episodes in each of N tasks by a copy of the actor: nothing that happens here reaches the one that was passed.

        Args:
            actor: one that knows something of each task (`InformedActor`) knows it in the order of `tasks`.
            tasks: N of them; an actor with `rollouts` B > 1 runs each B times, and the trials are [N * B] then.
            seeds: of the resets, [N * B, K].
            draws: of the actor; every batch of environments has a stream of its own.
            explore: as for `skillmeta.collect.trials.trial`.

        Raises:
            UserError: a part failed in a worker process, or its worker died twice.
        """
        rollouts = actor.rollouts
        each = max(1, self.envs_per_batch // rollouts)
        parts: list[tuple[Any, ...]] = [
            (
                actor.of_tasks(slice(start, start + each)) if isinstance(actor, InformedActor) else actor,
                [task for task in tasks[start : start + each] for _ in range(rollouts)],
                seeds[start * rollouts : (start + each) * rollouts],
                draws.at(start // each),
                explore,
            )
            for start in range(0, len(tasks), each)
        ]
        if self._pool is None:
            return join([run_trials(copy.deepcopy(own), self.envs, *part) for own, *part in parts])
        try:
            return join(self._pool.results(parts))
        except WorkerDied as error:
            raise WorkerDied(f"trials: {error}; run with processes=1 to see why") from None

    def envs(self, num: int) -> Envs:
        """N environments of this process, made once."""
        return made_once(self.make_envs, self._envs, num)

    def close(self) -> None:
        for envs in self._envs.values():
            envs.close()
        self._envs.clear()
        if self._pool is not None:
            self._pool.close()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def made_once(make_envs: MakeEnvs, cache: dict[int, Envs], num: int) -> Envs:
    if num not in cache:
        cache[num] = make_envs(num)
    return cache[num]


def run_trials(
    actor: Actor[BeliefT],
    envs: MakeEnvs,
    tasks: Sequence[Task],
    seeds: np.ndarray,
    draws: Stream,
    explore: Sequence[bool] | bool,
) -> Trials:
    """One batch of environments."""
    return trial(actor, envs(len(tasks)), tasks, seeds, draws.torch(), explore)[0]


# -- in the worker -------------------------------------------------------------------------------------------------------
_made: tuple[MakeEnvs, dict[int, Envs]]  # a worker process makes one family's environments, once


def begin_work(make_envs: MakeEnvs) -> None:
    global _made
    _made = (make_envs, {})


def work(part: tuple[Any, ...]) -> Trials:
    actor, *rest = part
    return run_trials(actor, lambda num: made_once(*_made, num), *rest)
