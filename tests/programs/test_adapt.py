"""Adaptation to one task: the task that was named, by the agent that was named, with draws of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skillmeta.programs.adapt import adapt, load_adapted
from skillmeta.tasks.base import TaskConfig
from skillmeta.types import Trials
from tests.programs.scripted import PER_EPISODE
from tests.programs.telltale import SPLITS, TEST, codes, episode_return
from tests.programs.test_evaluate import MODULE, trained


def adapted(run: str, folder: Path, split: str = "test", index: int = 0, episodes: int = 2, seed: int = 0) -> Trials:
    return adapt(run, TaskConfig(MODULE, split=split, index=index), episodes, seed, folder, trust=True)


@pytest.mark.parametrize(("split", "index"), [("train", 1), ("validation", 0), ("test", 0), ("test", 2)])
def test_the_task_that_was_named_is_adapted_to(split, index, tmp_path):
    task = SPLITS[split][index]
    trials = adapted(trained(tmp_path / "run", action=0.25, adapt=True), tmp_path / "adapted", split, index)
    assert codes(trials.observation) == {task.code}
    wanted = [episode_return(task, 0.25 + PER_EPISODE * k) for k in range(2)]
    assert trials.returns.tolist() == [pytest.approx(wanted)]
    agent, _, loaded = load_adapted(tmp_path / "adapted", trust=True)
    seen, last_reward = agent.begin(1, None)[0].tolist()
    assert loaded == task and seen == 2 and last_reward == pytest.approx(wanted[1] / 3)


def test_the_agent_is_the_run_that_was_named(tmp_path):
    for name, action in (("a", 0.25), ("b", 0.5)):
        trials = adapted(trained(tmp_path / name, action=action), tmp_path / f"{name}-adapted")
        assert trials.returns[0].tolist() == pytest.approx([episode_return(TEST[0], action)] * 2)


@pytest.mark.parametrize("episodes", [1, 2])
def test_episodes_that_end_before_the_agent_has_explored_are_noted(episodes, tmp_path, capsys):
    run = trained(tmp_path / "run", action=0.25, exploration_episodes=2)
    adapted(run, tmp_path / "adapted", episodes=episodes)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    wanted = (
        "note: episodes is 1, and the agent finds out about a task in its first 2 episodes. Set episodes to at least 2."
    )
    assert notes == ([wanted] if episodes == 1 else [])


def test_an_oracle_sees_the_task_that_it_adapts_to(tmp_path):
    run = trained(tmp_path / "run", see_task=True, follow=True)
    for index in (0, 2):
        trials = adapted(run, tmp_path / f"{index}", index=index)
        assert trials.succeeded.all() and np.allclose(trials.observation[..., -1], TEST[index].best)


def test_the_same_seed_in_two_tasks_gives_different_draws(tmp_path):
    run = trained(tmp_path / "run", action=0.25, noise=0.1, exploration_episodes=1)
    noise = {}
    for name, index, seed in (("a", 0, 0), ("again", 0, 0), ("task", 1, 0), ("seed", 0, 1)):
        trials = adapted(run, tmp_path / name, index=index, seed=seed)
        noise[name] = trials.observation[..., 1].ravel(), trials.action[:, 0].ravel()
        assert np.allclose(trials.action[:, 1], 0.25)  # what follows exploration is not sampled
    for a, b in zip(noise["a"], noise["again"], strict=True):
        assert np.array_equal(a, b)
    for other in ("task", "seed"):
        for a, b in zip(noise["a"], noise[other], strict=True):
            assert not np.isclose(a, b).any()
    assert len(np.unique(noise["a"][0])) == noise["a"][0].size  # other resets in every episode
