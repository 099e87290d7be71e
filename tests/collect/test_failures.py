"""What becomes of environments that fail: a sentence or an episode less, and never the same reset again."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skillmeta.collect.failures import EnvironmentConfig, Failures, read_failures, watched
from skillmeta.collect.source import Budget, OnlineSource
from skillmeta.collect.workers import Workers
from skillmeta.data.episodes import Recording
from skillmeta.envs.batched import BatchedEnvs
from skillmeta.envs.make import EnvsFactory
from skillmeta.envs.serial import SerialEnvs
from skillmeta.errors import EnvironmentFailed, UserError
from skillmeta.evaluation.actors import RandomActor
from skillmeta.programs.collect import CollectConfig, Shard, run_shard
from skillmeta.run import watch
from skillmeta.seeds import Seeds
from skillmeta.tasks.base import TaskConfig, TaskFamily, make_family, task_id
from skillmeta.types import Trials
from tests.evaluation.test_adaptation import Doors, Number
from tests.faults import wanderer
from tests.faults.failing import ENDS_ITS_PROCESS, FAILS_AT, SAYS, STEPS, Config, Failing

TASKS = make_family(TaskConfig("tests.faults.failing")).tasks("train")
HERE = [kind for kind in SAYS if kind not in ENDS_ITS_PROCESS]  # what a process survives


def workers(kind: str, on_error: str = "drop_episode", folder: Path | None = None, **options: Any) -> Workers:
    config = EnvironmentConfig(on_error, **{"max_errors": 100, "step_seconds": 0.05, **options})  # type: ignore[arg-type]
    task = TaskConfig("tests.faults.failing", options={"kind": kind})
    return Workers(EnvsFactory(task), 1, 2, Failures(config, folder))


def trials(workers: Workers, tasks: int = 4) -> Trials:
    """Two episodes in each; those with even seeds fail."""
    resets = Seeds(0).stream("resets").integers(2 * tasks).reshape(tasks, 2)
    return workers.trials(
        RandomActor(np.ones(1)), [TASKS[i % 2] for i in range(tasks)], resets, Seeds(0).stream("acting")
    )


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(watch, "RESET_FACTOR", 1.0)


@pytest.mark.parametrize("kind", HERE)
def test_a_failure_is_one_sentence_that_says_where(kind):
    with workers(kind, "stop") as some, pytest.raises(UserError, match=SAYS[kind]) as caught:
        trials(some)
    moment = "reset" if kind.endswith("_at_reset") else f"step {FAILS_AT}"
    where = str(caught.value).partition(": ")[0]
    assert f"task {task_id(TASKS[1])} (Number(number=1)), reset seed" in where and f"of its trial, {moment}" in where
    assert "\n" not in str(caught.value) and "environment.on_error=drop_episode" in str(caught.value)


@pytest.mark.parametrize("kind", HERE)
def test_dropped_episodes_leave_whole_and_finite_ones(kind, capsys):
    with workers(kind) as some:
        done = trials(some)
    assert all(np.isfinite(getattr(done, name)).all() for name in ("observation", "action", "reward"))
    assert (done.lengths == STEPS).all() and done.reward.shape == (4, 2, STEPS)
    assert 0 < some.failures.count == some.failures.replaced == capsys.readouterr().err.count("dropped: ")


def test_what_a_failure_takes_to_be_described_is_not_the_environments_time(monkeypatch):
    def slow(error: BaseException) -> list[str]:
        time.sleep(0.3)  # six times the limit of a step
        return ["trace"]

    monkeypatch.setattr("skillmeta.envs.failure.traceback.format_exception", slow)
    with workers("infinite_reward", "stop") as some, pytest.raises(UserError, match="a reward that is not finite"):
        trials(some)


def test_above_the_limit_the_run_stops():
    with (
        workers("raises", max_errors=1) as some,
        pytest.raises(UserError, match="2 episodes have failed and .* is 1: "),
    ):
        trials(some)


def test_a_run_that_stopped_resumes_without_the_reset_that_failed_and_ends_as_if_it_had_dropped_it(tmp_path):
    with workers("raises") as some:
        wanted = trials(some)
    stops = 0
    while True:
        with workers("raises", "stop", tmp_path) as some:
            try:
                found = trials(some)
                break
            except UserError:
                stops += 1
    rows = read_failures(tmp_path)
    assert stops == len(rows) > 1 and len({str(row["resets"]) for row in rows}) == stops
    assert "the world" in rows[0]["trace"] and rows[0]["what"].startswith("raised RuntimeError")
    np.testing.assert_array_equal(found.observation, wanted.observation)
    np.testing.assert_array_equal(found.action, wanted.action)
    (tmp_path / "failures.jsonl").write_text((tmp_path / "failures.jsonl").read_text() + '{"torn')
    assert len(read_failures(tmp_path)) == stops


def test_what_was_dropped_is_counted_the_same_in_a_resumed_run(tmp_path):
    def source() -> OnlineSource:
        some = workers("raises", folder=tmp_path)
        return OnlineSource(some, lambda g: TASKS[0], Seeds(1), Budget(100), num_envs=2)

    first = source()
    for _ in range(4):
        first.episode(RandomActor(np.ones(1)))
    assert first.scores()["dropped"] == first.dropped == first.workers.failures.replaced > 1
    assert first.env_steps == 8 * STEPS
    assert source().scores() == {}
    again = source()
    for _ in range(4):
        again.episode(RandomActor(np.ones(1)))
    assert again.dropped == first.dropped and again.workers.failures.count == first.workers.failures.count
    restored = source()
    restored.restore(first.state())
    assert restored.dropped == first.dropped


class Spoilt(Doors):
    """The second of the environments, which step as arrays, shows a NaN where its seed is even."""

    def reset(self, seeds, tasks):
        self.bad = seeds % 2 == 0
        return super().reset(seeds, tasks)

    def step(self, action):
        outcome = super().step(action)
        outcome.observation[:] = np.where(
            (self.bad & (np.arange(len(self.bad)) == 1))[:, None], np.nan, outcome.observation
        )
        return outcome


def test_environments_that_are_arrays_say_which_of_them_failed():
    failures = Failures(EnvironmentConfig("drop_episode"))
    some = Workers(lambda num: BatchedEnvs(Spoilt(), num), failures=failures)
    resets = np.array([[2], [4], [6]])
    done = some.trials(RandomActor(np.ones(1)), [Number(0), Number(1), Number(1)], resets, Seeds(0).stream("acting"))
    assert np.isfinite(done.observation).all() and failures.replaced >= 1
    assert (task_id(Number(1)), 4) in failures._resets and (task_id(Number(0)), 2) not in failures._resets


def test_a_policy_that_is_not_finite_is_not_the_environments_fault():
    class Broken(RandomActor):
        def act(self, observation, belief, generator, explore):
            return super().act(observation, belief, generator, explore)[0] * np.nan, belief

    with workers("raises") as some, pytest.raises(UserError, match="the policy's actions are not finite"):
        some.trials(Broken(np.ones(1)), [TASKS[0]], np.array([[1]]), Seeds(0).stream("acting"))
    assert some.failures.count == 0


def test_a_step_that_ends_in_time_is_left_alone():
    watch.start(0.05)
    watch.begins(0, 1, 0)
    watch.ends()
    signal.raise_signal(watch.SIGNAL)
    watch.begins(0, 1, watch.RESET)
    assert str(watch.doing()).endswith("reset seed 1, reset")
    with pytest.raises(watch.Overdue):
        time.sleep(1)
    watch.ends()
    assert watch.doing() is None


@pytest.mark.parametrize("kind", ["raises", "looked past"])
def test_a_collector_begins_again_with_another_seed_for_the_steps_that_are_left(kind, monkeypatch, capsys):
    """Also where it finds what is not finite behind the environment's back, and nobody knows in which task."""
    collect, begun, seen = wanderer.collect, [], []

    def collecting(family: TaskFamily, config: wanderer.Config, progress: Callable[[int], None]) -> Iterator[Recording]:
        begun.append(config)
        for k, recording in enumerate(collect(family, config, progress)):
            if kind == "looked past" and k == 2:
                recording.episode.reward[:] = np.nan
            yield recording

    monkeypatch.setattr(wanderer, "collect", collecting)
    options = {"kind": "raises", "every": 2 if kind == "raises" else 2**40}
    config = CollectConfig(family="tests.faults.failing", options=options, collector="tests.faults.wanderer")
    failures = Failures(EnvironmentConfig("drop_episode", max_errors=100))
    done = list(run_shard(Shard(config, wanderer.Config(steps=10 * STEPS), number=3), seen.append, failures))
    drawn = {tuple(recording.episode.action.ravel().tolist()) for recording in done}
    assert len(drawn) == len(done) == 10 and seen == sorted(seen) and seen[-1] == 10 * STEPS
    assert len({one.seed for one in begun}) == len(begun) == failures.count + 1 > 2
    left = [one.steps for one in begun]
    assert left == sorted(left, reverse=True) and left[0] == 10 * STEPS > left[-1]
    task, moment = (f"{named(0)}, ", f"step {FAILS_AT}") if kind == "raises" else ("", "end")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == failures.count
    for line in said:
        assert re.match(rf"dropped: {re.escape(task)}reset seed \d+, episode \d+ of shard 3, {moment}: the env", line)


class Telling(Failing):
    """Tells what is known of it, from outside, while it is at work."""

    def __init__(self, told: list[str], every: int = 2):
        super().__init__(Config("raises", every))
        self.told = told

    def reset(self, **options):
        self.told.append(str(watch.doing()))
        return super().reset(**options)

    def step(self, action):
        self.told.append(str(watch.doing()))
        return super().step(action)


def named(number: int) -> str:
    return f"task {task_id(TASKS[number])} (Number(number={number}))"


def test_of_a_collectors_environment_it_is_known_in_which_episode_and_step_it_is():
    """And its episodes end after as many steps as are asked for, unless they end by themselves."""
    told: list[str] = []
    env, action = watched(Telling(told, every=4), 3), np.zeros(1)
    for number, seed in enumerate((5, 7)):
        env.reset(seed=seed, options={"task": TASKS[number]})
        assert [env.step(action)[3] for _ in range(3)] == [False, False, True]
        where = f"{named(number)}, episode {number}, reset seed {seed}"
        assert told == [f"{where}, {moment}" for moment in ("reset", "step 0", "step 1", "step 2")]
        told.clear()
    env.reset(seed=8)
    env.step(action)
    env.step(action)
    with pytest.raises(EnvironmentFailed) as caught:
        env.step(action)
    assert (caught.value.seed, caught.value.moment, caught.value.task) == (8, f"step {FAILS_AT}", named(1))


@pytest.mark.parametrize(
    ("numbers", "said"), [([1], named(1)), ([1, 1], named(1)), ([0, 1], f"one of 2 tasks, {named(0)} and others")]
)
def test_where_nobody_is_left_to_say_which_environment_it_was_the_tasks_and_the_episode_are_known(numbers, said):
    told: list[str] = []
    resets, acting = np.array([[1]] * len(numbers)), Seeds(0).stream("acting")
    with Workers(lambda num: SerialEnvs(lambda: Telling(told), num)) as some:
        some.trials(RandomActor(np.ones(1)), [TASKS[i] for i in numbers], resets, acting)
        assert {one.partition(", reset seed")[0] for one in told} == {f"{said}, an episode of its trial"}
        told.clear()
        some.episodes(RandomActor(np.ones(1)), [TASKS[i] for i in numbers], resets[:, 0].tolist(), acting, 9, first=7)
    assert {one.partition(", reset seed")[0] for one in told} == {f"{said}, episode 7"}
