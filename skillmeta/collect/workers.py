"""Whole trials in worker processes: a copy of what acts goes out, finished episodes come back.

A process is asked once for many steps, so that its work is not drowned in messages. What comes back depends on the seeds and on
`envs_per_batch`, never on the number of processes.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from skillmeta.collect.failures import Failures, shown
from skillmeta.collect.trials import trial
from skillmeta.data.trials import join
from skillmeta.errors import EnvironmentFailed, UserError
from skillmeta.run import watch
from skillmeta.run.cluster import Cluster, ClusterPool, pool_of
from skillmeta.run.device import CPU, placed
from skillmeta.run.pool import Pool, WorkerDied
from skillmeta.seeds import Stream
from skillmeta.types import Actor, BeliefT, Envs, Episodes, InformedActor, Task, Trials

MakeEnvs = Callable[[int], Envs]  # must survive pickling where there are processes


@dataclass(frozen=True)
class Part:
    """Trials of one batch of environments in lockstep."""

    actor: Actor[Any]
    tasks: Sequence[Task]  # of N environments
    seeds: np.ndarray  # of their resets, [N, K]
    draws: Stream
    explore: Sequence[bool] | bool = True
    max_steps: int | None = None  # of an episode
    first: int | None = None  # number of the first of N single episodes in the run

    @property
    def label(self) -> str:
        """What is said of it where nobody is left to say which environment it was."""
        names = list(dict.fromkeys(shown(task) for task in self.tasks))
        where = names[0] if len(names) == 1 else f"one of {len(names)} tasks, {names[0]} and others"
        return f"{where}, {'an episode of its trial' if self.first is None else f'episode {self.first}'}"


class Workers:
    """Runs trials in so many processes; with one, in this process; with `ray`, on the cluster that this machine is of.

    A batch in which an environment fails is run again, without the episode that failed: see `skillmeta.collect.failures`.

    Args:
        make_envs: makes N environments in lockstep.
        processes: how many work at once.
        envs_per_batch: environments in lockstep, which share a policy's forward pass.
        failures: of the run, and what is done about them; by default the first one ends it.
    """

    def __init__(
        self,
        make_envs: MakeEnvs,
        processes: int | Literal["ray"] = 1,
        envs_per_batch: int = 16,
        failures: Failures | None = None,
    ):
        where = Cluster() if processes == "ray" else processes
        if (isinstance(where, int) and where < 1) or envs_per_batch < 1:
            raise ValueError(
                f"processes is {processes} and envs_per_batch is {envs_per_batch}; at least 1 is needed of both"
            )
        self.make_envs, self.envs_per_batch = make_envs, envs_per_batch
        self.failures = failures or Failures()
        self._envs: dict[int, Envs] = {}
        self._pool: Pool[Part, Trials] | ClusterPool[Part, Trials] | None = None
        how = self.failures.config
        if where != 1 or how.isolated:
            setup = (make_envs, how.step_seconds)
            self._pool = pool_of(where, work, begin_work, setup, replace_failed=how.isolated)

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
            UserError: a part failed in a worker process, or its worker died twice; or an environment failed and that is the end.
        """
        actor = placed(actor, CPU)
        if self._pool is None:  # else it is copied on its way to the workers
            actor = copy.deepcopy(actor)
        rollouts = actor.rollouts
        each = max(1, self.envs_per_batch // rollouts)
        return self._run(
            [
                Part(
                    actor.of_tasks(slice(start, start + each)) if isinstance(actor, InformedActor) else actor,
                    [task for task in tasks[start : start + each] for _ in range(rollouts)],
                    seeds[start * rollouts : (start + each) * rollouts],
                    draws.at(start // each),
                    explore,
                )
                for start in range(0, len(tasks), each)
            ]
        )

    def episodes(
        self,
        actor: Actor[BeliefT],
        tasks: Sequence[Task],
        seeds: Sequence[int],
        draws: Stream,
        max_steps: int,
        first: int,
    ) -> Episodes:
        """One exploring episode in each of N tasks, in one batch.

        Args: as for `trials`.
            max_steps: of each episode.
            first: its number in the run, for messages.
        """
        part = Part(placed(actor, CPU), tasks, np.array(seeds)[:, None], draws, max_steps=max_steps, first=first)
        return self._run([part]).episodes(0)

    def _run(self, parts: Sequence[Part]) -> Trials:
        usable = [self._usable(part) for part in parts]
        if self._pool is not None:
            return join(self._pool.results(usable, again=self._again))
        watch.start(self.failures.config.step_seconds)
        return join([self._here(part) for part in usable])

    def _here(self, part: Part) -> Trials:
        while True:
            watch.label(part.label)
            try:
                return run_part(part, self.envs)
            except EnvironmentFailed as error:
                discard(self._envs)
                part = self._again(part, error)

    def _usable(self, part: Part) -> Part:
        return replace(part, seeds=self.failures.usable(part.tasks, part.seeds))

    def _again(self, part: Part, error: UserError) -> Part:
        """What is run in place of a part that failed. Raises UserError where that is the end."""
        if isinstance(error, WorkerDied):
            if error.act is None:
                raise WorkerDied(f"trials: {error}; run with processes=1 to see why") from None
            act = error.act
            error = EnvironmentFailed(f"was at work when its process {error.how}", act.row, act.seed, act.moment)
        if not isinstance(error, EnvironmentFailed):
            raise error
        row = max(0, error.row)
        k = int((part.seeds[row] == error.seed).argmax())
        rows = range(len(part.tasks)) if error.row < 0 else [row]
        episode = f"episode {k} of its trial" if part.first is None else f"episode {part.first + row}"
        where = f"{shown(part.tasks[row])}, reset seed {error.seed}, {episode}, {error.moment}"
        self.failures.add([(part.tasks[i], part.seeds[i, k]) for i in rows], where, error.what, error.trace)
        return self._usable(part)

    def envs(self, num: int) -> Envs:
        """N environments of this process, made once."""
        return made_once(self.make_envs, self._envs, num)

    def close(self) -> None:
        discard(self._envs)
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


def discard(cache: dict[int, Envs]) -> None:
    """Close environments; those that fail at that have done their work."""
    for envs in cache.values():
        watch.begins(-1, 0, watch.RESET)
        with contextlib.suppress(Exception, watch.Overdue):
            envs.close()
        watch.ends()
    cache.clear()


def run_part(part: Part, envs: MakeEnvs) -> Trials:
    """One batch of environments."""
    made = envs(len(part.tasks))
    return trial(part.actor, made, part.tasks, part.seeds, part.draws.torch(), part.explore, part.max_steps)[0]


# -- in the worker -------------------------------------------------------------------------------------------------------
_made: tuple[MakeEnvs, dict[int, Envs]]  # a worker process makes one family's environments, once


def begin_work(setup: tuple[MakeEnvs, float]) -> None:
    global _made
    make_envs, step_seconds = setup
    _made = (make_envs, {})
    watch.start(step_seconds)


def work(part: Part) -> Trials:
    make_envs, cache = _made
    try:
        return run_part(part, partial(made_once, make_envs, cache))
    except EnvironmentFailed:
        discard(cache)
        raise
