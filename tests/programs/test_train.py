"""Training, of one task or of a family: interrupted or not it is the same run, and what is loaded is what was trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from skillmeta.envs.make import make_envs
from skillmeta.programs.train import load_trained, train
from skillmeta.programs.train_config import EvaluationConfig, TrainConfig
from skillmeta.run.run import Run, read_metrics
from skillmeta.tasks.base import make_family
from tests.programs.runs import family, one_task, paths, rows, run, saved_actor, untimed
from tests.programs.scripted import PER_EPISODE, scripted
from tests.programs.telltale import TEST, VALIDATION, episode_return

KINDS = pytest.mark.parametrize("make", [one_task, family], ids=["one task", "family"])
SAC = {"name": "sac", "hidden": 4, "batch_size": 4, "replay_capacity": 100}


def acts(make: Any, **options: Any) -> dict[str, Any]:
    """A scripted learner that asks for episodes of one task, or for trials in two tasks of a family."""
    return scripted(**({} if make is one_task else {"tasks": 2}), **options)


@pytest.mark.parametrize(
    ("config", "starts"),
    [
        (one_task(scripted(follow=True, noise=0.1)), 4),
        (one_task(SAC), 4),
        (family(scripted(tasks=2, follow=True, noise=0.1), env_steps=60), 5),
    ],
    ids=["one task", "one task, sac", "family"],
)
def test_an_interrupted_run_draws_what_it_would_have_drawn(config, starts, tmp_path, monkeypatch):
    whole = run(tmp_path / "whole", config)
    looked = iter([False, True] * 10)
    monkeypatch.setattr(Run, "stop_requested", property(lambda run: next(looked)))
    results = [train(config, tmp_path / "parts", quiet=True) for _ in range(starts)]
    assert results[:-1] == [None] * (starts - 1) and results[-1] is not None
    assert untimed(results[-1]) == untimed(whole)
    assert read_metrics(tmp_path / "parts") == read_metrics(tmp_path / "whole")
    if config.kind == "finetune":
        for a, b in zip(paths(tmp_path / "parts"), paths(tmp_path / "whole"), strict=True):
            assert np.array_equal(a, b)


@KINDS
def test_a_finished_run_is_not_run_again(make, tmp_path, monkeypatch):
    first = run(tmp_path, make(acts(make)))
    monkeypatch.setattr(
        "skillmeta.programs.train.run_loop", lambda *arguments, **options: pytest.fail("it was run again")
    )
    assert run(tmp_path, make(acts(make))) == first


@KINDS
def test_what_is_loaded_is_what_was_trained(make, tmp_path):
    config: TrainConfig = make(acts(make), env_steps=9)
    result, made = run(tmp_path, config), make_family(config.task)
    trained = load_trained(tmp_path, lambda skills, sees_task: make_envs(made, 1, skills, sees_task), trust=True)
    saved = saved_actor(tmp_path)
    assert trained.env_steps == result["env_steps"] == (9 if make is one_task else 12)
    assert trained.skills is None and trained.sees_task is False
    assert trained.actor.rewards.tolist() == saved["rewards"].tolist() and trained.actor.weight == saved["weight"]


@KINDS
def test_evaluations_while_training_are_on_held_out_tasks_or_its_own_and_change_nothing(make, tmp_path):
    evaluation = EvaluationConfig(episodes=3, every=6 if make is one_task else 12, tasks=1, trial_episodes=1)
    algorithm = acts(make, adapt=True, action=0.25)
    plain = run(tmp_path / "plain", make(algorithm))
    evaluated = run(tmp_path / "evaluated", make(algorithm, evaluation=evaluation))
    assert untimed(evaluated) == untimed(plain) and rows(tmp_path / "evaluated") == rows(tmp_path / "plain")
    found = rows(tmp_path / "evaluated", "evaluation")
    assert [row["env_steps"] for row in found] == ([6, 12] if make is one_task else [12, 24, 36])
    if make is one_task:
        assert all(row["evaluation/return"] == pytest.approx(episode_return(TEST[0], 0.25)) for row in found)
        return
    wanted = [episode_return(VALIDATION[0], 0.25 + PER_EPISODE * k) for k in (0, 1)]
    for row in found:
        assert [row[f"evaluation/return_{k}"] for k in (0, 1)] == [pytest.approx(value) for value in wanted]
        assert row["evaluation/return"] == row["evaluation/return_1"] and row["evaluation/sampled"] == 0
