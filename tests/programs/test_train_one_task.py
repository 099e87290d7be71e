"""Fine-tuning: on the task that was named, for as long as was asked, evaluated apart from training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from skillmeta.evaluation.records import read_run
from skillmeta.programs.page import write_page
from skillmeta.programs.train import train
from skillmeta.programs.train_config import EvaluationConfig, TrainConfig
from skillmeta.run.checkpoint import load_state
from skillmeta.run.device import CPU
from skillmeta.tasks.base import TaskConfig, make_family
from tests.programs.runs import one_task, paths, rows, saved_actor
from tests.programs.runs import run as run_config
from tests.programs.scripted import scripted
from tests.programs.telltale import SPLITS, TEST, codes, episode_return

SAC = {"name": "sac", "hidden": 4, "batch_size": 4, "replay_capacity": 100}


def run(folder: Path, split: str = "test", index: int = 0, algorithm: dict | None = None, **options) -> dict:
    return run_config(folder, one_task(algorithm or scripted(action=0.25), split, index, **options))


@pytest.mark.parametrize(("split", "index"), [("train", 1), ("validation", 0), ("test", 0), ("test", 2)])
def test_the_task_that_was_named_is_learned_and_evaluated(split, index, tmp_path):
    task = SPLITS[split][index]
    result = run(tmp_path, split, index)
    wanted = episode_return(task, 0.25)
    assert [row["return"] for row in rows(tmp_path)] == [pytest.approx(wanted)] * 4
    assert result["return"] == pytest.approx(wanted) == result["mode_return"]
    assert codes(np.concatenate(paths(tmp_path, "early") + paths(tmp_path, "final"))) == {task.code}
    total, count = saved_actor(tmp_path)["rewards"].tolist()
    assert count == 12 and total == pytest.approx(4 * wanted)


def test_success_is_the_named_tasks_own(tmp_path):
    for index, success in ((0, 0.0), (1, 1.0), (2, 0.0)):
        result = run(tmp_path / str(index), index=index, algorithm=scripted(action=TEST[1].best))
        assert result["success"] == result["mode_success"] == success
        assert {row["success"] for row in rows(tmp_path / str(index))} == {success}


@pytest.mark.parametrize(
    ("options", "episodes", "env_steps"),
    [
        ({"env_steps": 12}, 4, 12),
        ({"env_steps": 7}, 3, 7),  # the budget cuts the last episode off
        ({"env_steps": 100, "max_episodes": 2}, 2, 6),
        ({"env_steps": 6, "max_episodes": 5}, 2, 6),
        ({"env_steps": 12, "num_envs": 2}, 4, 12),
    ],
)
def test_a_run_ends_with_its_steps_or_its_episodes(options, episodes, env_steps, tmp_path):
    """And evaluation is not counted."""
    result = run(tmp_path, **options)
    logged = rows(tmp_path)
    assert (result["episodes"], result["env_steps"], result["decisions"]) == (episodes, env_steps, env_steps)
    num_envs = options.get("num_envs", 1)
    assert [row["episodes"] for row in logged] == list(range(num_envs, episodes + 1, num_envs))
    assert sum(row["length"] * row["trials"] for row in logged) == env_steps == logged[-1]["env_steps"]
    assert result["updates"] == episodes // num_envs
    assert load_state(tmp_path / "actor")[0]["env_steps"] == env_steps


@pytest.mark.parametrize(
    ("each", "random", "updates"), [(1.0, 0, 12), (0.5, 0, 6), (2.0, 0, 24), (1.0, 6, 9), (1.0, 100, 0)]
)
def test_updates_follow_decisions_once_the_random_ones_are_over(each, random, updates, tmp_path):
    """The episode that completes the random decisions is learned from; those before it are only stored."""
    algorithm = {**SAC, "updates_per_decision": each, "random_decisions": random}
    result = run(tmp_path, algorithm=algorithm)
    assert result["updates"] == updates and result["decisions"] == 12
    assert rows(tmp_path)[-1]["updates"] == updates


def test_random_decisions_are_uniform_and_the_evaluated_policy_is_not(tmp_path):
    """Actions are seen from returns of one-step episodes: -|action - best|."""
    task = TaskConfig("tests.programs.telltale", options={"max_episode_steps": 1})
    algorithm = {**SAC, "random_decisions": 1000, "updates_per_decision": 0}
    assert train(TrainConfig(task=task, algorithm=algorithm, env_steps=400), tmp_path, quiet=True)
    error = np.array([1000 - row["return"] for row in rows(tmp_path)])
    assert error.max() > 1.4 and np.mean(error < 0.5) == pytest.approx(0.5, abs=0.1)  # uniform in [-1, 1] about -0.5


def test_the_sampled_policy_and_its_mode_are_scored_apart(tmp_path):
    result = run(tmp_path, algorithm=scripted(action=TEST[0].best, noise=0.5))
    assert result["mode_return"] == 3 * TEST[0].code and result["mode_success"] == 1
    assert 3 * TEST[0].code - 1.5 < result["return"] < 3 * TEST[0].code and result["success"] == 0


def test_evaluation_has_resets_of_its_own(tmp_path):
    """As many episodes as were asked for, each from another reset, none from a reset of training."""
    result = run(tmp_path, env_steps=15, algorithm=scripted(follow=True), evaluation=EvaluationConfig(4))
    early, final = paths(tmp_path, "early"), paths(tmp_path, "final")
    starts = [path[0, 1] for path in early + final]
    assert (len(early), len(final), result["num_episodes"]) == (5, 4, 4) and len(set(starts)) == 9
    mean = np.mean([3 * 1000 - sum(abs(x - TEST[0].best) for x in path[:3, 1]) for path in final])
    assert result["return"] == pytest.approx(mean, abs=1e-3) == result["mode_return"]


def test_the_same_seed_on_two_tasks_gives_different_draws(tmp_path):
    drawn = {}
    for name, index, seed in (("a", 0, 0), ("again", 0, 0), ("task", 1, 0), ("seed", 0, 1)):
        run(tmp_path / name, index=index, seed=seed)
        weight = saved_actor(tmp_path / name)["weight"].item()
        noise = [path[:, 1] for path in paths(tmp_path / name, "early") + paths(tmp_path / name, "final")]
        drawn[name] = [weight, *np.concatenate(noise).tolist()]
    assert drawn["a"] == drawn["again"]
    assert not set(drawn["a"]) & set(drawn["task"]) and not set(drawn["a"]) & set(drawn["seed"])
    assert len(set(drawn["a"])) == len(drawn["a"])


@pytest.mark.parametrize("kind", ["finetune", "meta-train"])
def test_a_run_that_learned_on_another_device_says_so_and_has_its_page(kind, tmp_path, monkeypatch):
    """As on a GPU: what is not the CPU is named in the result, which every reader of runs takes."""
    monkeypatch.setattr("skillmeta.programs.train.device_of", lambda name: CPU)
    monkeypatch.setattr("skillmeta.programs.train.CPU", torch.device("cuda:0"))
    split = "test" if kind == "finetune" else "train"
    task = TaskConfig("tests.programs.telltale", split=split)
    config = TrainConfig(kind, task, algorithm=scripted(action=0.25), env_steps=6, evaluation=EvaluationConfig(2))
    assert train(config, tmp_path, quiet=True)
    assert read_run(tmp_path).result["device"] == "cpu"
    write_page([tmp_path], family=make_family(task))
    assert train(config, tmp_path, quiet=True)
