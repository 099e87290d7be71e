"""Evaluation: on which tasks, by whom, between which reference agents. Returns name the task and the action."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skillmeta.errors import UserError
from skillmeta.evaluation.adaptation import Adaptation
from skillmeta.programs.beforehand import NO_SUCCESS
from skillmeta.programs.evaluate import EvaluateConfig, benchmark_table, run_evaluation, scores_text
from skillmeta.programs.train import train
from skillmeta.programs.train_config import TrainConfig
from skillmeta.tasks.base import BenchmarkScore, TaskConfig, make_family, task_id
from tests.envs import users
from tests.programs.runs import one_task
from tests.programs.scripted import PER_EPISODE, scripted
from tests.programs.telltale import SPLITS, TEST, codes, episode_return
from tests.skills.fakes import skill_model

MODULE = "tests.programs.telltale"


def trained(
    folder: Path, see_task: bool = False, seed: int = 0, env_steps: int = 12, skills: Path | None = None, **options
) -> str:
    config = TrainConfig(
        "meta-train",
        TaskConfig(MODULE, split="train"),
        algorithm=scripted(**{"tasks": 2, **options}),
        env_steps=env_steps,
        see_task=see_task,
        seed=seed,
        skills=None if skills is None else str(skills),
    )
    assert train(config, folder, quiet=True, page=False)
    return str(folder)


def evaluated(folder: Path, split: str = "test", expert: bool = True, **options):
    task = TaskConfig(MODULE, split=split, options={"expert": expert})
    done = run_evaluation(EvaluateConfig(task, **options), folder, quiet=True, trust=True)
    assert done is not None
    return done


def returns(evaluation, name: str) -> np.ndarray:
    """Mean over seeds and whatever is averaged in a task, [M, K+1]."""
    values = evaluation.results[name].returns
    return values.reshape(-1, *values.shape[-2:]).mean(0)


def expected(tasks, *actions: float) -> np.ndarray:
    return np.array([[episode_return(task, action) for action in actions] for task in tasks])


@pytest.mark.parametrize("split", list(SPLITS))
def test_the_split_is_evaluated_task_by_task(split, tmp_path):
    run = trained(tmp_path / "run", action=0.25)
    done = evaluated(tmp_path / "page", split, agents=[run], episodes=1)
    assert done.tasks == tuple(task_id(task) for task in SPLITS[split])
    assert np.allclose(returns(done, "agent"), expected(SPLITS[split], 0.25, 0.25))
    assert done.split == split and done.family == "telltale"


def test_every_name_is_its_own_agent(tmp_path):
    """The agent has learned nothing of test tasks, the expert knows them, random actions are neither."""
    run = trained(tmp_path / "run", action=0.25, adapt=True)
    done = evaluated(tmp_path / "page", agents=[run], name="mine", episodes=2)
    assert list(done.results) == ["mine", "random", "oracle", "no adaptation"] and done.agents == ["mine"]
    assert np.allclose(returns(done, "mine"), expected(TEST, *(0.25 + PER_EPISODE * k for k in range(3))))
    assert np.allclose(returns(done, "no adaptation"), expected(TEST, 0.25, 0.25, 0.25))
    best = np.array([[3 * task.code] * 3 for task in TEST])
    assert np.allclose(returns(done, "oracle"), best) and (done.results["oracle"].success == 1).all()
    random = returns(done, "random")
    assert (random < best).all() and (done.results["random"].success == 0).all()
    shown = dict(zip(done.results, scores_text(done).splitlines(), strict=True))
    assert shown["mine"].startswith(
        "mine           success at any step: episode 0 (mode) 0, last (mode) 0; return of the last "
    )
    assert "success at any step: episode 0 1 [" in shown["oracle"]
    errors = np.unique(np.round(random - best, 6))
    assert len(errors) > random.size - 2  # other draws in every task and episode; float32 may make two of them equal


def test_an_oracle_is_the_run_that_sees_the_task(tmp_path):
    blind, seeing = trained(tmp_path / "blind", action=0.25), trained(tmp_path / "seeing", see_task=True, follow=True)
    done = evaluated(tmp_path / "page", expert=False, agents=[blind], oracle=[seeing], episodes=0)
    assert np.allclose(returns(done, "oracle")[:, 0], [3 * task.code for task in TEST])
    assert np.allclose(returns(done, "agent"), expected(TEST, 0.25))
    with pytest.raises(Exception, match="do not see the task"):
        evaluated(tmp_path / "other", expert=False, oracle=[blind])


@pytest.mark.parametrize(("limit", "count"), [(2, 2), (None, 3)])
def test_only_the_first_tasks(limit, count, tmp_path):
    done = evaluated(tmp_path, tasks=limit, episodes=0)
    assert done.tasks == tuple(task_id(task) for task in TEST[:count]) and returns(done, "oracle").shape == (count, 1)


@pytest.mark.parametrize(("sample", "noisy"), [(False, [True, False]), (True, [True, True])])
def test_exploration_episodes_are_sampled_and_others_by_the_mode(sample, noisy, tmp_path):
    run = trained(tmp_path / "run", action=0.25, noise=0.1, exploration_episodes=1)
    done = evaluated(tmp_path / "page", agents=[run], episodes=1, sample=sample)
    exact = np.isclose(returns(done, "agent"), expected(TEST, 0.25, 0.25), atol=1e-3).all(0)
    assert exact.tolist() == [not one for one in noisy]
    assert done.results["agent"].explored.tolist() == [True, False]


def test_resets_differ_between_tasks_and_episodes_and_are_the_same_for_every_agent(tmp_path):
    """`follow` acts by the noise of the reset: its error in a task shows which reset it had."""
    runs = [trained(tmp_path / name, follow=True, seed=seed) for name, seed in (("a", 0), ("b", 1))]
    done = [returns(evaluated(tmp_path / f"page{i}", agents=[run], episodes=1), "agent") for i, run in enumerate(runs)]
    assert np.array_equal(*done)
    errors = [
        [3 * task.code - 3 * abs(task.best) - value for value in row] for task, row in zip(TEST, done[0], strict=True)
    ]
    assert len(np.unique(np.round(errors, 4))) == 6


def test_training_and_evaluation_steps_are_counted_apart(tmp_path):
    run = trained(tmp_path / "run", action=0.25, env_steps=30)
    done = evaluated(tmp_path / "page", agents=[run], episodes=2)
    summary = done.summary()
    trials = done.results["agent"].returns.size
    assert summary["training_steps"] == {"agent": [36]} and summary["results"]["agent"]["env_steps"] == 3 * trials
    assert summary["evaluation_steps"] == 3 * sum(result.returns.size for result in done.results.values())


def test_what_was_evaluated_is_kept_and_not_run_again(tmp_path, monkeypatch):
    run = trained(tmp_path / "run", action=0.25)
    options = {"agents": [run], "episodes": 1}
    first = evaluated(tmp_path / "page", **options)
    (tmp_path / "page" / "result.json").unlink()
    monkeypatch.setattr("skillmeta.programs.evaluate.evaluate", lambda *arguments: pytest.fail("it was run again"))
    again = evaluated(tmp_path / "page", **options)
    for name, result in first.results.items():
        assert np.array_equal(result.returns, again.results[name].returns)


def test_paths_of_the_first_task_are_kept_for_every_agent_and_episode(tmp_path):
    run = trained(tmp_path / "run", action=0.25)
    done = evaluated(tmp_path / "page", agents=[run], episodes=1)
    assert list(done.paths) == ["agent"] and [len(lines) for lines in done.paths["agent"]] == [1, 1]
    for (path,) in done.paths["agent"]:
        assert codes(path) == {TEST[0].code} and path.shape == (4, 2)


def test_tasks_that_were_trained_on_are_counted(tmp_path):
    """Of the split that is evaluated, by any of the agents: those of a training split, or the one task of fine-tuning."""
    assert not any("trained on" in note for note in evaluated(tmp_path / "none", "train").notes)
    run, one = trained(tmp_path / "run", action=0.25), tmp_path / "one"
    assert train(one_task(scripted(), index=2), one, quiet=True, page=False)
    for agents, split, count, were in (
        ([run], "train", "2 of 2", "were"),
        ([str(one)], "test", "1 of 3", "was"),
        ([run], "test", "", ""),
    ):
        notes = evaluated(tmp_path / f"{split}-{count[:1]}", split, agents=agents, episodes=0).notes
        sentence = f"{count} {split} tasks {were} trained on; the score says nothing about new ones"
        assert [note for note in notes if "trained on" in note] == ([sentence] if count else [])


def test_runs_of_different_methods_are_no_seeds_of_one(tmp_path):
    runs = [trained(tmp_path / "a", action=0.25), trained(tmp_path / "b", seed=1, action=0.5)]
    runs.append(trained(tmp_path / "c", seed=1, action=0.25, env_steps=24))
    for other, named in ((runs[1], r"algorithm.action: 0.25 -> 0.5"), (runs[2], "env_steps: 12 -> 24")):
        with pytest.raises(UserError, match=f"a and .* are no training seeds of one method \\({named}\\)"):
            evaluated(tmp_path / "page", agents=[runs[0], other])
    assert not (tmp_path / "page").exists()


def test_random_actions_are_drawn_where_each_agent_acts_and_have_seeds_where_each_run_has_its_own_skills(tmp_path):
    skills = [tmp_path / "skills" / str(seed) for seed in (0, 1)]
    for seed, folder in enumerate(skills):
        skill_model(seed=seed, dim=1).save(folder)
    first = trained(tmp_path / "first", skills=skills[0])
    agents = {
        "own": [first, trained(tmp_path / "own", seed=1, skills=skills[1])],
        "shared": [first, trained(tmp_path / "shared", seed=1, skills=skills[0])],
        "without": [trained(tmp_path / "without")],
    }
    config = EvaluateConfig(TaskConfig(MODULE, split="test"), agents=agents, episodes=0, tasks=1)
    done = run_evaluation(config, tmp_path / "page", quiet=True, trust=True, page=False)
    assert done is not None
    random = {name: roles["random"] for name, roles in done.references.items()}
    assert random == {"own": "random skills", "shared": "random skills of shared", "without": "random"}
    for name, seeds in (("own", (0, 1)), ("shared", ()), ("without", ())):
        assert done.training_seeds[name] == (0, 1)[: len(agents[name])] and done.training_seeds[random[name]] == seeds
        assert len(done.results[random[name]].returns) == max(1, len(seeds))
    with pytest.raises(UserError, match="agents.agent: some act by skills, or see the task, and others do not"):
        evaluated(tmp_path / "mixed", agents=[agents["without"][0], agents["shared"][1]])


def test_a_benchmarks_own_score_is_a_mean_over_rollouts_of_the_episodes_after_exploration():
    rng = np.random.default_rng(0)
    success = rng.random((2, 1, 1, 2, 3, 4)) < 0.5  # [parts, seed, repeat, rollouts, tasks, rounds]
    steps = rng.integers(1, 100, success.shape)
    told = []

    def score(steps: np.ndarray, success: np.ndarray, groups: Sequence[str]) -> float:
        told.append((steps.tolist(), success.tolist(), groups))
        return float(success.mean())

    made = make_family(TaskConfig(MODULE))
    family = replace(made, benchmark_score=BenchmarkScore("title", "text", "label", score))
    explored = np.array([True, False, False, False])
    parts = [
        Adaptation(one, one, one, took, took, explored, explored) for one, took in zip(success, steps, strict=True)
    ]
    table = benchmark_table(family, {"agent": parts}, ["a", "a", "b"])
    assert (table.title, table.text, table.label) == ("title", "text", "label")
    assert table.values == {"agent": pytest.approx(success[..., 1:].mean())}
    wanted = [(steps[i, 0, 0, b, :, 1:], success[i, 0, 0, b, :, 1:]) for i in (0, 1) for b in (0, 1)]
    assert told == [(took.tolist(), one.tolist(), ["a", "a", "b"]) for took, one in wanted]
    unfinished = [replace(one, explored=np.ones(4, bool)) for one in parts]
    assert benchmark_table(family, {"agent": parts, "other": unfinished}, ["a", "a", "b"]).values == table.values


def test_trials_that_end_before_an_agent_has_explored_are_noted(tmp_path):
    run = trained(tmp_path / "run", action=0.25, exploration_episodes=2)
    for episodes in (1, 2):
        noted = [
            note
            for note in evaluated(tmp_path / f"{episodes}", agents=[run], episodes=episodes).notes
            if "finds out" in note
        ]
        assert len(noted) == (episodes == 1)


def test_success_that_is_not_reported_is_said(tmp_path):
    users.register()
    task = TaskConfig("gym", options={"id": "users/Point-v0"})
    done = run_evaluation(EvaluateConfig(task, episodes=0), tmp_path, quiet=True)
    assert done is not None and NO_SUCCESS in done.notes and not done.succeeds
