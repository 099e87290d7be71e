"""Online experience: every primitive step is counted once, for everybody alike; the n-th call is a function of the seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest

from skillmeta.collect.source import Budget, OnlineSource
from skillmeta.collect.workers import Workers
from skillmeta.envs.serial import SerialEnvs
from skillmeta.envs.skill_space import SkillEnvs
from skillmeta.errors import ConfigError
from skillmeta.evaluation.actors import RandomActor
from skillmeta.seeds import Seeds
from tests.actors import Still
from tests.skills.fakes import CounterEnv, skill_model


def source_of(
    lengths: Iterator[int] | None = None,
    budget: Budget | None = None,
    num_envs: int = 1,
    draw: Callable[[np.random.Generator], Any] = lambda generator: int(generator.integers(4)),
    **given: Any,
) -> OnlineSource:
    """A world that counts, with episodes of 25 steps or of given lengths."""
    workers = Workers(
        lambda num: SerialEnvs(lambda: CounterEnv(25 if lengths is None else next(lengths)), num), envs_per_batch=2
    )
    return OnlineSource(workers, draw, Seeds(0), budget or Budget(1000), num_envs, **given)


def test_the_bill_counts_every_environment_and_stops_at_the_budget():
    source, lengths = source_of(budget=Budget(60), num_envs=2), []
    while not source.spent:
        lengths.append(source.episode(Still()).lengths.tolist())
    assert lengths == [[25, 25], [5, 5]] and source.fraction == 1
    assert source.cost() == {"env_steps": 60, "episodes": 4, "decisions": 60}


def test_what_comes_after_the_end_of_a_shorter_episode_costs_nothing():
    source = source_of(iter([3, 5]), num_envs=2)
    source.episode(Still())
    assert source.cost() == {"env_steps": 8, "episodes": 2, "decisions": 8}


def test_a_budget_of_episodes_ends_it_too():
    source = source_of(budget=Budget(1000, max_episodes=4), num_envs=2)
    source.episode(Still())
    assert source.fraction == 0.5 and not source.spent
    source.episode(Still())
    assert source.fraction == 1 and source.spent and source.env_steps == 100


def test_trials_beyond_the_budget_are_made_whole_and_spend_no_more_than_all_of_it():
    for budget in (Budget(60), Budget(1000, max_episodes=3)):
        source = source_of(budget=budget)
        source.trials(Still(), 2, 2)
        assert source.env_steps == 100 and source.episodes == 4
        assert source.fraction == 1 and source.spent


def test_trials_are_of_each_drawn_task_as_often_as_the_actor_asks():
    source = source_of(iter([2, 3, 4, 5, 6, 7]))
    batch = source.trials(Still(rollouts=2), 3, 2)
    assert len(batch.tasks) == 3 and batch.trials.reward.shape[:2] == (6, 2) and source.last is batch.trials
    # Two environments at once, which are made once: one task at a time, with its two rollouts.
    assert batch.trials.lengths.tolist() == [[2, 2], [3, 3]] * 3
    assert source.cost() == {"env_steps": 30, "episodes": 12, "decisions": 30}
    assert source.trials_in(Still(), [7, 8], 1).tasks == (7, 8)


def test_what_is_reported_of_a_call_are_means_over_its_trials():
    source = source_of(iter([2, 3, 4]))
    assert source.scores() == {}
    source.trials(Still(), 2, 2)
    told = source.scores()
    assert told["trials"] == 2 and told["length"] == 2.5 and told["success"] == told["success_last"] == 1
    assert told["return"] == told["return_first"] == told["return_last"] == (3 + 6) / 2
    source.episode(Still())
    assert source.scores()["trials"] == 1


def test_success_is_the_share_of_all_rounds_and_of_the_last():
    source = source_of()
    source.trials(Still(), 2, 3)
    assert source.last is not None
    reached = source.last.success.copy()
    reached[0, 2], reached[1, 1:] = False, False
    source.last = replace(source.last, success=reached)
    assert source.scores() | {"success": 0.5, "success_last": 0.0} == source.scores()


def test_a_restored_source_continues_as_if_it_had_not_been_interrupted():
    def calls(source: OnlineSource) -> list[Any]:
        actor = RandomActor(np.ones(1, np.float32))
        batch = source.trials(actor, 3, 2)
        return [batch.tasks, *astuple(batch.trials), *astuple(source.episode(actor))]

    whole, first, second = source_of(), source_of(), source_of()
    before, after = calls(whole), calls(whole)
    calls(first)
    second.restore(first.state())
    assert second.state() == first.state() != source_of().state()
    again = calls(second)
    assert all(np.array_equal(a, b) for a, b in zip(after, again, strict=True)) and second.state() == whole.state()
    assert not any(np.array_equal(a, b) for a, b in zip(before[1:3], after[1:3], strict=True))


def test_every_call_has_tasks_resets_and_noise_of_its_own():
    """Whichever kind of call it is. The world's first observation says which seed it was reset with."""
    draw, actor = (lambda generator: float(generator.random())), RandomActor(np.ones(1, np.float32))
    source = source_of(draw=draw)
    some = [source.trials(actor, 2, 2) for _ in range(3)]
    assert len({task for batch in some for task in batch.tasks}) == 6
    assert len({tuple(batch.trials.observation[:, :, 0, 1].ravel()) for batch in some}) == 3
    assert len({tuple(batch.trials.action.ravel()) for batch in some}) == 3
    kept = [source.trials_in(actor, [1.0, 2.0], 2) for _ in range(2)]
    assert kept[0].tasks == kept[1].tasks and not np.array_equal(kept[0].trials.action, kept[1].trials.action)
    met = set[float]()

    def noted(generator: np.random.Generator) -> float:
        task = draw(generator)
        met.add(task)
        return task

    single = source_of(draw=noted)
    shown = [single.episode(actor) for _ in range(3)]
    assert len(met) == 3
    assert (
        len({float(one.observation[0, 0, 1]) for one in shown})
        == len({float(one.action[0, 0, 0]) for one in shown})
        == 3
    )


def test_a_decision_of_several_primitive_steps_is_one_decision():
    workers = Workers(lambda num: SkillEnvs(SerialEnvs(lambda: CounterEnv(25), num), skill_model()))
    source = OnlineSource(workers, lambda generator: 0, Seeds(0), Budget(1000))
    source.trials(RandomActor(np.ones(3, np.float32)), 2, 1)
    assert source.cost() == {"env_steps": 50, "episodes": 2, "decisions": 6}  # 10, 10 and 5 steps


def test_training_tasks_are_different_ones_and_the_same_at_every_call():
    source = source_of()
    tasks = source.draw_tasks(4)
    assert sorted(tasks) == [0, 1, 2, 3]
    source.trials(Still(), 2, 1)
    assert source.draw_tasks(4) == tasks and source.draw_tasks(2) == tasks[:2]
    with pytest.raises(ConfigError, match="training_tasks is 5; there are 4 different tasks"):
        source.draw_tasks(5)


def test_dense_rewards_are_the_familys_or_refused():
    episodes = source_of().episode(Still())
    with pytest.raises(ConfigError, match="has no dense reward to learn from"):
        source_of().shaped_reward(3, episodes)
    dense = source_of(shaped_reward=lambda task, done: task * done.reward)
    assert np.array_equal(dense.shaped_reward(3, episodes), 3 * episodes.reward)
