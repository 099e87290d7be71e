"""Ablations: every method's own config on every task with every seed, and the same numbers in runs, csv, json and page."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skillmeta.config import build, to_plain
from skillmeta.errors import ConfigError, UserError
from skillmeta.programs import ablate as program
from skillmeta.programs.ablate import AblationConfig, ablate, make_jobs
from skillmeta.run.jobs import Job, Outcome
from skillmeta.run.run import is_finished, read_result
from tests.programs.scripted import PER_EPISODE, scripted
from tests.programs.telltale import TEST, episode_return

ACTIONS = {"first": 0.25, "second": -0.6, "third": 0.5}  # the second one solves task 1
METHODS = {name: {"algorithm": scripted(action=action)} for name, action in ACTIONS.items()}


def config(**options) -> AblationConfig:
    plain = {
        "title": "Telltale",
        "methods": METHODS,
        "changes": {
            "task": {"family": "tests.programs.telltale", "split": "test"},
            "env_steps": 6,
            "evaluation": {"episodes": 2},
        },
        "tasks": [0, 1],
        "seeds": [0, 1],
        **options,
    }
    return build(AblationConfig, plain)


def run_here(jobs: Sequence[Job], target: Callable[[Job], None], workers: int, label: str) -> Outcome:
    """In this process, as a worker would."""
    for job in jobs:
        if not is_finished(job.folder):
            target(job)
    return Outcome(done=[job.name for job in jobs])


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """All runs in this process, as a worker would make them, and the page."""
    out = tmp_path_factory.mktemp("ablation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skillmeta.programs.ablate.run_jobs", run_here)
        outcome = ablate(config(), out, "skillmeta ablate this")
    assert len(outcome.done) == 12
    return out


@pytest.mark.parametrize("method", ACTIONS)
def test_every_run_has_its_methods_action_its_task_and_its_seed(method, finished):
    for index in (0, 1):
        for seed in (0, 1):
            folder = finished / "methods" / method / f"task-{index}" / f"seed-{seed}"
            result = read_result(folder)
            assert result is not None
            assert result["return"] == pytest.approx(episode_return(TEST[index], ACTIONS[method]))
            assert result["success"] == (method == "second" and index == 1)


def test_seeds_differ_and_methods_share_them(finished):
    """The same resets for every method: methods are compared by pairs."""

    def starts(method: str, index: int, seed: int) -> list[float]:
        folder = finished / "methods" / method / f"task-{index}" / f"seed-{seed}"
        with np.load(folder / "trajectories.npz") as archive:
            return [float(archive[name][0, 1]) for name in archive.files]

    cells = {(index, seed): starts("first", index, seed) for index in (0, 1) for seed in (0, 1)}
    drawn = [number for cell in cells.values() for number in cell]
    assert len(set(drawn)) == len(drawn)
    assert all(starts("second", *cell) == numbers for cell, numbers in cells.items())


def test_the_csv_has_a_row_for_every_run_with_its_own_numbers(finished):
    rows = list(csv.DictReader((finished / "results.csv").open()))
    found = {(row["method"], int(row["task"]), int(row["training_seed"])): float(row["return"]) for row in rows}
    assert len(rows) == len(found) == 12
    for (method, index, _), value in found.items():
        assert value == pytest.approx(episode_return(TEST[index], ACTIONS[method]), rel=1e-6)


def test_the_summary_is_about_the_runs(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert {name: scores["success"] for name, scores in summary["methods"].items()} == {
        "first": 0.0, "second": 0.5, "third": 0.0
    }  # fmt: skip
    assert all(scores["env_steps_mean"] == 6 for scores in summary["methods"].values())
    assert [(task["index"], task["split"], task["code"]) for task in summary["tasks"]] == [
        (index, "test", TEST[index].code) for index in (0, 1)
    ]
    assert list(finished.rglob("*.html")) == [finished / "report.html"]  # runs have no pages of their own
    page = (finished / "report.html").read_text()
    assert "Telltale" in page and "skillmeta ablate this" in page


def test_jobs_are_methods_by_tasks_by_seeds(tmp_path):
    jobs = make_jobs(config(), tmp_path, "")
    assert len({job.folder for job in jobs}) == len({job.name for job in jobs}) == len(jobs) == 12
    for job in jobs:
        one, _ = job.payload
        name, _, index, _, seed = job.name.split()
        assert job.folder == tmp_path / "methods" / name / f"task-{index}" / f"seed-{seed}"
        assert (one.task.index, one.seed, one.algorithm["action"]) == (int(index), int(seed), ACTIONS[name])
    assert [job.payload[0].seed for job in jobs] == [0] * 6 + [1] * 6  # every method has some seed early


def test_a_stack_is_one_job_of_a_method_and_its_runs_say_so(tmp_path):
    jobs = make_jobs(config(methods={"sac": {"algorithm": {"name": "sac"}}}, stack_seeds=True), tmp_path, "")
    assert [job.name for job in jobs] == ["sac"]
    runs = [one for one, _ in jobs[0].payload[0]]
    assert [(one.task.index, one.seed) for one in runs] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert all(list(one.stack_seeds) == [0, 1] for one in runs)


@pytest.mark.parametrize("budget", [{"env_steps": 9}, {"max_episodes": 1}])
def test_unequal_budgets_are_refused(budget, tmp_path):
    with pytest.raises(ConfigError, match="unequal budgets"):
        make_jobs(config(methods={**METHODS, "more": {**METHODS["first"], **budget}}), tmp_path, "")


def test_skills_of_the_ablation_replace_those_that_a_method_names(tmp_path):
    """Each seed has its own model, and a method without skills stays without."""
    methods = {"with": {**METHODS["first"], "skills": "elsewhere"}, "without": METHODS["first"]}
    jobs = make_jobs(config(methods=methods, skills={}), tmp_path, "")
    for job in jobs:
        one, _ = job.payload
        assert one.skills == (str(tmp_path / "skills" / f"seed-{one.seed}") if job.name.startswith("with ") else None)


# -- methods that are trained on tasks of a split ------------------------------------------------------------------------------
SPLIT_METHODS = {
    "meta": {"kind": "meta-train", "task": {"split": "train"}, "algorithm": scripted(tasks=2, action=0.25, adapt=True)},
    "sees": {
        "kind": "meta-train",
        "task": {"split": "train"},
        "see_task": True,
        "algorithm": scripted(follow=True),
    },
    "single": {"task": {"split": "test"}, "algorithm": scripted(action=-0.6)},
}


def mixed(**options) -> AblationConfig:
    changes = {"task": {"family": "tests.programs.telltale"}, "evaluation": {"episodes": 2}, "env_steps": 12}
    return config(methods=SPLIT_METHODS, changes=changes, tasks=[1], test={"episodes": 1}, **options)


@pytest.fixture(scope="module")
def both_kinds(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("mixed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skillmeta.programs.ablate.run_jobs", run_here)
        assert len(ablate(mixed(), out, "skillmeta ablate mixed").done) == 6
    return out


def test_methods_on_a_split_are_trained_once_a_seed_and_others_on_every_task(tmp_path):
    jobs = make_jobs(mixed(), tmp_path, "")
    folders = {str(job.folder.relative_to(tmp_path / "methods")) for job in jobs}
    assert folders == {f"{name}/seed-{seed}" for name in ("meta", "sees") for seed in (0, 1)} | {
        f"single/task-1/seed-{seed}" for seed in (0, 1)
    }
    test = program.test_job(mixed(), jobs, tmp_path, "")
    assert test is not None
    evaluated = test.payload[0]
    assert list(evaluated.agents) == ["meta", "sees"] and evaluated.task.split == "test" and evaluated.episodes == 1
    assert evaluated.agents["meta"] == [str(tmp_path / "methods" / "meta" / f"seed-{seed}") for seed in (0, 1)]
    assert program.test_job(config(), make_jobs(config(), tmp_path, ""), tmp_path, "") is None


def test_that_a_failed_run_keeps_the_test_evaluation_waiting_is_said(tmp_path, monkeypatch, capsys):
    def all_but_one(jobs: Sequence[Job], *rest: Any) -> Outcome:
        done = run_here([job for job in jobs if job.name != "sees seed 1"], *rest)
        return replace(done, failed={"sees seed 1": "the world is flat"})

    monkeypatch.setattr("skillmeta.programs.ablate.run_jobs", all_but_one)
    ablate(mixed(), tmp_path, "skillmeta ablate mixed")
    said = capsys.readouterr().err
    assert "no evaluation on test tasks: 1 of 6 runs have no result; the same command tries them again" in said
    assert not (tmp_path / "evaluation").exists()


def test_data_sets_are_the_users_where_the_ablation_collects_none(tmp_path, monkeypatch):
    seen = []

    def noted(jobs: Sequence[Job], *rest: Any) -> Outcome:
        seen.append(os.environ["MINARI_DATASETS_PATH"])
        return Outcome(stopped=True)

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "theirs"))
    monkeypatch.setattr("skillmeta.programs.ablate.run_jobs", noted)
    ablate(config(), tmp_path / "out", "skillmeta ablate this")
    assert seen == [str(tmp_path / "theirs")]


@pytest.mark.parametrize("stopped", [True, False])
def test_only_what_was_stopped_may_have_no_page_yet(stopped, tmp_path, monkeypatch):
    """One run of twelve: no method is complete."""

    def one_run(jobs: Sequence[Job], *rest: Any) -> Outcome:
        return replace(run_here(jobs[:1], *rest), stopped=stopped)

    monkeypatch.setattr("skillmeta.programs.ablate.run_jobs", one_run)
    with contextlib.nullcontext() if stopped else pytest.raises(UserError):
        assert ablate(config(), tmp_path, "skillmeta ablate this").stopped
    assert not (tmp_path / "report.html").exists()


def test_methods_on_a_split_are_evaluated_on_test_tasks(both_kinds):
    told = json.loads((both_kinds / "summary.json").read_text())["evaluation"]
    assert told["split"] == "test" and told["tasks"] == len(TEST)
    for name, action in (("meta", 0.25), ("meta, no adaptation", 0.25)):
        first = told["results"][name]["returns"][0]["value"]
        assert first == pytest.approx(np.mean([episode_return(task, action) for task in TEST]))
    last = told["results"]["meta"]["returns"][-1]["value"]
    assert last == pytest.approx(np.mean([episode_return(task, 0.25 + PER_EPISODE) for task in TEST]))
    assert told["results"]["sees"]["success"][0]["value"] == 1  # the scripted learner acts by the task's feature
    assert told["training_steps"] == {"meta": [12, 12], "sees": [12, 12]}


def test_the_page_has_what_fits_each_kind(both_kinds):
    summary = json.loads((both_kinds / "summary.json").read_text())
    assert summary["methods"]["single"]["success"] == 1 and "success" not in summary["methods"]["meta"]
    assert len(summary["headline"]) == 2 and "single 1.00" in summary["headline"][0]
    assert list(both_kinds.rglob("*.html")) == [both_kinds / "report.html"]
    page = (both_kinds / "report.html").read_text()
    for title in ("Scores", "At the end of training", "Episode by episode", "sees minus each other agent", "Learning"):
        assert f"<h2>{title}</h2>" in page


def test_a_finished_ablation_is_not_run_again(both_kinds, monkeypatch, capsys):
    monkeypatch.setattr("skillmeta.programs.ablate.train", lambda *arguments, **options: pytest.fail("trained again"))
    monkeypatch.setattr("skillmeta.programs.ablate.run_evaluation", lambda *arguments, **options: pytest.fail("again"))
    before = (both_kinds / "report.html").read_bytes()
    (both_kinds / "report.html").unlink()
    assert len(ablate(mixed(), both_kinds, "skillmeta ablate mixed").done) == 6
    assert (both_kinds / "report.html").read_bytes() == before
    assert "1/2  3 methods x 2 seeds: 6 runs\n" in capsys.readouterr().out


def test_a_finished_ablation_keeps_where_its_results_came_from(tmp_path, monkeypatch):
    monkeypatch.setattr("skillmeta.programs.ablate.run_jobs", run_here)
    options = {"methods": {"a": {"algorithm": scripted()}}, "tasks": [0]}
    options["changes"] = {"task": {"family": "tests.programs.telltale", "split": "test"}, "env_steps": 6}
    for command, seeds, kept in (("first", [0], "first"), ("again", [0], "first"), ("more", [0, 1], "more")):
        ablate(config(**options, seeds=seeds), tmp_path / "out", command)
        assert json.loads((tmp_path / "out" / "environment.json").read_text())["command"] == kept


def test_methods_that_are_evaluated_together_share_a_family(tmp_path):
    other = {**SPLIT_METHODS["meta"], "task": {"split": "train", "options": {"max_episode_steps": 2}}}
    unlike = config(
        methods={**SPLIT_METHODS, "other": other},
        changes={"env_steps": 12, "task": {"family": "tests.programs.telltale"}},
    )
    with pytest.raises(ConfigError, match="have different families or options"):
        program.test_job(unlike, make_jobs(unlike, tmp_path, ""), tmp_path, "")


def test_budgets_of_methods_of_one_kind_are_equal(tmp_path):
    more = {**SPLIT_METHODS["single"], "env_steps": 99}
    make_jobs(build(AblationConfig, {**to_plain(mixed()), "methods": {**SPLIT_METHODS, "single": more}}), tmp_path, "")
    with pytest.raises(ConfigError, match="unequal budgets"):
        make_jobs(
            build(AblationConfig, {**to_plain(mixed()), "methods": {**SPLIT_METHODS, "more": more}}), tmp_path, ""
        )


@pytest.mark.parametrize("kind", ["finetune", "finetune, a stack", "meta-train"])
def test_an_ablation_may_have_more_seeds_and_keeps_the_runs_that_it_has(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("skillmeta.programs.ablate.run_jobs", run_here)
    family, stacked = kind == "meta-train", kind.endswith("stack")
    learner = {"name": "sac", "hidden": 4, "batch_size": 4} if stacked else scripted(action=0.25)
    method = {"kind": kind.split(",")[0], "algorithm": {**learner, **({"tasks": 2} if family else {})}}
    changes = {"task": {"family": "tests.programs.telltale", "split": "train" if family else "test"}, "env_steps": 6}
    options = {"methods": {"a": method}, "changes": changes, "tasks": [0], "stack_seeds": stacked}
    ablate(config(**options, seeds=[0]), tmp_path / "out", "")
    first = next((tmp_path / "out" / "methods").rglob("result.json"))
    before = first.stat().st_mtime_ns
    ablate(config(**options, seeds=[0, 1]), tmp_path / "out", "")
    assert first.stat().st_mtime_ns == before
    assert len(list((tmp_path / "out" / "methods").rglob("result.json"))) == 2
    if family:
        with open(tmp_path / "out" / "episodes.csv", newline="") as file:
            assert {row["training_seed"] for row in csv.DictReader(file) if row["agent"] == "a"} == {"0", "1"}
    for seeds in ([0], [1, 0, 2], [1]):
        with pytest.raises(ConfigError, match="another config .*seeds"):
            ablate(config(**options, seeds=seeds), tmp_path / "out", "")
