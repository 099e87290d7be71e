"""The Bayes-optimal agent of the gridworld against brute force, and what it earns in the environment."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from skillmeta.collect.trials import trial
from skillmeta.envs.make import make_envs
from skillmeta.errors import UserError
from skillmeta.tasks.base import TaskConfig, make_family
from skillmeta.tasks.gridworld import best_walk, possible_goals


def brute_force(cells: int, steps: int, episodes: int) -> float:
    """The highest expected return of a trial: every action at every belief, until the end, whether the goal is known or not."""

    @cache
    def value(time: int, x: int, y: int, possible: frozenset) -> float:
        if time == steps * episodes:
            return 0.0
        if time % steps == 0:
            x = y = 0
        best = -np.inf
        for dx, dy in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
            there = (min(max(x + dx, 0), cells - 1), min(max(y + dy, 0), cells - 1))
            share = (there in possible) / len(possible)
            paid = share * (1 + value(time + 1, *there, frozenset([there]))) if share else 0.0
            others = possible - {there}
            best = max(best, paid + ((1 - share) * (-0.1 + value(time + 1, *there, others)) if others else 0.0))
        return best

    return value(0, 0, 0, frozenset(possible_goals(cells)))


@pytest.mark.parametrize(("cells", "steps", "episodes"), [(3, 4, 1), (3, 4, 3), (3, 3, 2), (4, 5, 2), (4, 7, 1)])
def test_no_agent_earns_more_than_the_bayes_optimal_one(cells, steps, episodes):
    walk = best_walk(possible_goals(cells), cells, steps, episodes)
    assert sum(walk.returns) == pytest.approx(brute_force(cells, steps, episodes))


def test_it_earns_in_the_environment_what_is_computed():
    """Also in the episodes one by one, of the paper's grid; the numbers that agents are held against."""
    family = make_family(TaskConfig("gridworld"))
    tasks, envs = family.tasks("test"), make_envs(family, 21)
    trials, _ = trial(
        family.bayes_optimal(4),
        envs,
        tasks,
        np.zeros((21, 4), int),
        torch.Generator(),
        max_steps=family.max_episode_steps,
    )
    expected = best_walk(possible_goals(5), 5, 15, 4).returns
    assert trials.returns.mean(0).tolist() == pytest.approx(expected, abs=1e-5)
    assert expected == pytest.approx((4.0, 11.0714286, 11.0714286, 11.0714286))
    knowing = [16 - (d := task.x + task.y) - 0.1 * (d - 1) for task in tasks]
    assert np.mean(knowing) == pytest.approx(expected[1])  # by the second episode not knowing the goal costs nothing


def test_goals_can_be_held_out():
    family = make_family(TaskConfig("gridworld", options={"validation_tasks": 3, "test_tasks": 5}))
    train, validation, test = (set(family.tasks(split)) for split in ("train", "validation", "test"))
    assert [len(train), len(validation), len(test)] == [13, 3, 5] and len(train | validation | test) == 21
    assert not family.same_tasks
    for options, said in (({"test_tasks": 3}, "together"), ({"test_tasks": 20, "validation_tasks": 1}, "fewer")):
        with pytest.raises(UserError, match=said):
            make_family(TaskConfig("gridworld", options=options))
