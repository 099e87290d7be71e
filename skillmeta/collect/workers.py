"""Whole trials in worker processes: a copy of what acts goes out, finished episodes come back.

A process is asked once for many steps, so that its work is not drowned in messages. What comes back depends on the seeds and
on `chunk`, never on the number of processes.
"""

from __future__ import annotations

import contextlib
import copy
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from skillmeta.collect.trials import trial
from skillmeta.data.trials import join
from skillmeta.errors import UserError
from skillmeta.seeds import Stream
from skillmeta.types import Actor, BeliefT, Envs, Task, Trials

MakeEnvs = Callable[[int], Envs]  # must survive pickling where there are processes


class Workers:
    """Runs trials, `chunk` environments in lockstep, in so many processes; with one, in this process.

    Args:
        make_envs: makes N environments in lockstep.
        processes: how many work at once.
        chunk: environments that share a policy's forward pass.
    """

    def __init__(self, make_envs: MakeEnvs, processes: int = 1, chunk: int = 16):
        if processes < 1 or chunk < 1:
            raise ValueError(f"processes is {processes} and chunk is {chunk}; at least 1 is needed of both")
        self.make_envs, self.chunk = make_envs, chunk
        self._envs: dict[int, Envs] = {}
        self._pool = None
        if processes > 1:
            context = get_context("spawn")
            self._pool = ProcessPoolExecutor(processes, context, initializer=begin_work, initargs=(make_envs,))

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
            tasks: N of them; an actor with `rollouts` B > 1 runs each B times, and the trials are [N * B] then.
            seeds: of the resets, [N * B, K].
            draws: of the actor; every chunk has a stream of its own.
            explore: as for `skillmeta.collect.trials.trial`.
        """
        rollouts = actor.rollouts
        each = max(1, self.chunk // rollouts)
        starts = range(0, len(tasks), each)
        parts = [
            (
                [task for task in tasks[start : start + each] for _ in range(rollouts)],
                seeds[start * rollouts : (start + each) * rollouts],
                draws.at(start // each),
                explore,
            )
            for start in starts
        ]
        if self._pool is None:
            return join([run_trials(copy.deepcopy(actor), self._envs, self.make_envs, *part) for part in parts])
        try:
            with interrupts_ignored():  # processes that are started now inherit it, and leave Ctrl-C to this one
                coming = self._pool.map(work, [actor] * len(parts), *zip(*parts, strict=True))
            return join(list(coming))
        except BrokenProcessPool:
            raise UserError(
                "a worker process died (out of memory, or its environment crashed); run with processes=1 to see why"
            ) from None

    def envs(self, num: int) -> Envs:
        """N environments of this process, made once."""
        if num not in self._envs:
            self._envs[num] = self.make_envs(num)
        return self._envs[num]

    def close(self) -> None:
        for envs in self._envs.values():
            envs.close()
        self._envs.clear()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


@contextlib.contextmanager
def interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run_trials(
    actor: Actor[BeliefT],
    cache: dict[int, Envs],
    make_envs: MakeEnvs,
    tasks: Sequence[Task],
    seeds: np.ndarray,
    draws: Stream,
    explore: Sequence[bool] | bool,
) -> Trials:
    """One chunk. Environments are made once for each size of chunk and kept."""
    if len(tasks) not in cache:
        cache[len(tasks)] = make_envs(len(tasks))
    return trial(actor, cache[len(tasks)], tasks, seeds, draws.torch(), explore)[0]


# -- in the worker -------------------------------------------------------------------------------------------------------
_made: tuple[MakeEnvs, dict[int, Envs]]  # a worker process makes one family's environments, once


def begin_work(make_envs: MakeEnvs) -> None:
    global _made
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    torch.set_num_threads(1)
    _made = (make_envs, {})


def work(actor: Actor[BeliefT], *part: Any) -> Trials:
    make_envs, cache = _made
    return run_trials(actor, cache, make_envs, *part)
