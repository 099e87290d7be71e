"""The one process pool: dead workers are replaced, errors are sentences, and nothing outlives the parent.

Where the parent is itself interrupted or killed, it is a forked child: this process has imported everything.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from skillmeta.collect.failures import EnvironmentConfig, Failures
from skillmeta.errors import DataError, UserError
from skillmeta.programs import collect
from skillmeta.programs.collect import CollectConfig
from skillmeta.run import watch
from skillmeta.run.pool import Pool, TaskFailed, WorkerDied
from skillmeta.run.progress import Progress
from tests.run.tasks import remember, task
from tests.run.test_jobs import left_of


def test_results_come_in_the_order_of_the_tasks_and_dead_workers_are_replaced(tmp_path):
    """A task whose worker is killed once is given again; one process gives what two give."""
    tasks = [("die_unless", tmp_path / "a"), ("x", 1), ("die_unless", tmp_path / "b"), ("y", 2), ("z", 3)]
    with Pool(task, 2) as pool:
        two = pool.results(tasks)
        assert two == tasks and (tmp_path / "a").exists() and not pool.busy
        assert pool.results([("x", 4)]) == [("x", 4)]  # it can be used again
    with Pool(task, 1) as pool:
        assert pool.results(tasks) == two
    with pytest.raises(ValueError, match="this pool is closed"):
        pool.give(tasks)


def test_what_goes_wrong_in_a_worker_is_one_sentence_and_the_pool_is_used_again():
    with Pool(task, 2) as pool:
        with pytest.raises(WorkerDied, match="^its worker process died 2 times, killed perhaps for want of memory"):
            pool.results([("x", 1), ("die", None), ("x", 2)])
        with pytest.raises(DataError, match="^log.npz: is damaged$"):
            pool.results([("raise", DataError("log.npz: is damaged"))])
        with pytest.raises(UserError, match="^1 is not 2$"):
            pool.results([("odd", None)])
        with pytest.raises(TaskFailed) as caught:
            pool.results([("raise", ValueError("the world is flat"))])
        assert str(caught.value) == "ValueError: the world is flat" and "in task" in caught.value.trace
        with pytest.raises(TaskFailed, match="lambda"):
            pool.results([("lambda", None)])
        assert pool.results([("x", 3)]) == [("x", 3)]


def test_a_worker_is_prepared_once_has_one_thread_and_gets_copies():
    numbers = torch.zeros(3)
    with Pool(task, 1, remember, 7) as pool:
        states = pool.results([("state", None)] * 3)
        assert len(set(states)) == 1 and states[0] != os.getpid() and states[0][::2] == (7, 1) and states[0][3]
        assert pool.results([("write", numbers)])[0][1].tolist() == [1, 1, 1]
    assert numbers.tolist() == [0, 0, 0] and not numbers.is_shared()
    with Pool(task, 1, str.upper, 7) as pool, pytest.raises(TaskFailed, match="^TypeError: "):
        pool.results([("x", 1)])


def test_tasks_report_how_far_they_are():
    told: list[tuple[int, int]] = []
    with Pool(task, 1) as pool:
        pool.results([("x", 1)])
        pool.results([("x", 1), ("count", 3)], lambda number, step: told.append((number, step)))
    assert told == [(1, 0), (1, 1), (1, 2)]


# -- the parent ----------------------------------------------------------------------------------------------------------------
def hold(folder: Path) -> None:
    """A parent with one worker that is idle and one that is busy, in a session of its own. 130 after Ctrl-C."""
    os.setsid()
    try:
        with Pool(task, 2) as pool:
            pool.results([("x", 1), ("x", 2)])
            pool.results([("hold", folder / "holds")])
    except KeyboardInterrupt:
        sys.exit(130)


def started(target: Callable[[Path], None], folder: Path) -> multiprocessing.context.ForkProcess:
    process = multiprocessing.get_context("fork").Process(target=target, args=(folder,))
    process.start()
    while not (folder / "holds").exists():
        time.sleep(0.05)
        assert process.is_alive()
    return process


def test_workers_end_when_their_parent_is_killed(tmp_path):
    process = started(hold, tmp_path)
    process.kill()
    process.join()
    began = time.monotonic()
    assert left_of(process) == [] and time.monotonic() - began < 5


def test_ctrl_c_ends_a_pool_and_its_workers_at_once(tmp_path):
    process = started(hold, tmp_path)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: every process of the group gets it
    process.join(60)
    assert process.exitcode == 130 and left_of(process) == [] and time.monotonic() - began < 5


def test_a_pool_that_nobody_closes_does_not_hang_the_interpreter():
    """Nor does it leave a process: `pool` is alive when the interpreter ends."""
    code = "from skillmeta.run.pool import Pool; pool = Pool(abs, 1); print(pool.results([-3]), pool._workers[0].process.pid)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    printed, _, worker = done.stdout.strip().rpartition(" ")
    assert printed == "[3]" and not done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(worker), 0)


# -- collection ----------------------------------------------------------------------------------------------------------------
def test_a_collection_depends_on_its_shards_and_not_on_the_processes(monkeypatch):
    class Here(Pool):
        """The tasks one after another, in this process."""

        def results(self, tasks, told=None, again=None):
            return [collect.shard(task) for task in tasks]

    config = CollectConfig(shards=2)
    expert = collect.module_of("experts", config.collector, "collector").Config(steps=600)
    with Progress(600, "collecting", "steps", quiet=True) as progress:
        found = list(collect.recorded(config, expert, progress, Failures()))
        monkeypatch.setattr(collect, "Pool", Here)
        expected = list(collect.recorded(config, expert, progress, Failures()))
    assert len(found) == len(expected) >= 2
    for one, other in zip(found, expected, strict=True):
        assert one.outcomes == other.outcomes
        np.testing.assert_array_equal(one.episode.observation, other.episode.observation)


class Dying:
    """A pool in which the worker of each shard dies a few times and then has recorded nothing."""

    def __init__(self, task, processes):
        self.processes, self.begun = processes, []
        Dying.last = self

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        pass

    def results(self, parts, told, again):
        lost = WorkerDied("died", watch.Act(0, 7, 2, 1.0, 0.0, "task a"))
        for part in parts:
            tries = [part]
            for _ in range(2):
                tries.append(again(tries[-1], lost))
            self.begun.append(tries)
            yield [], 0


@pytest.mark.parametrize(("cores", "at_once"), [(1, 1), (2, 2), (16, 3), (None, 1)])
def test_shards_are_collected_at_once_as_cores_allow_and_begin_again_with_seeds_of_their_own(
    cores, at_once, monkeypatch, capsys
):
    monkeypatch.setattr(collect, "Pool", Dying)
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    config = CollectConfig(shards=3, environment=EnvironmentConfig("restart_worker"))
    expert = collect.module_of("experts", config.collector, "collector").Config(steps=600)
    failures = Failures(config.environment)
    with Progress(600, "collecting", "steps", quiet=True) as progress:
        assert list(collect.recorded(config, expert, progress, failures)) == []
    assert Dying.last.processes == at_once and failures.count == 6
    assert [[one.attempt for one in tries] for tries in Dying.last.begun] == [[0, 1, 2]] * 3
    assert len({one.seed for tries in Dying.last.begun for one in tries}) == 9
    assert (
        "dropped: shard 2, task a, reset seed 7, step 2: the environment died (6 of at most 10)"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(("allowed", "ends"), [(6, False), (5, True)])
def test_what_failed_in_all_shards_together_is_held_against_what_may_fail(allowed, ends, monkeypatch):
    class Dropping(Dying):
        def results(self, parts, on_report, again):
            return [([], 3) for _ in parts]

    monkeypatch.setattr(collect, "Pool", Dropping)
    config = CollectConfig(shards=2, environment=EnvironmentConfig("drop_episode", max_errors=allowed))
    expert = collect.module_of("experts", config.collector, "collector").Config(steps=600)
    failures = Failures(config.environment)
    with (
        Progress(600, "collecting", "steps", quiet=True) as progress,
        pytest.raises(UserError, match="6 episodes have failed in all shards") if ends else nullcontext(),
    ):
        assert list(collect.recorded(config, expert, progress, failures)) == []
    assert failures.count == 6
