"""Ablations: every method's own config on every task with every seed, and the same numbers in runs, csv, json and page."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from skillmeta.config import build
from skillmeta.errors import ConfigError
from skillmeta.programs.ablate import AblationConfig, ablate, make_jobs
from skillmeta.run.jobs import Job, Outcome
from skillmeta.run.run import read_result
from tests.programs.scripted import scripted
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


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """All runs in this process, as a worker would make them, and the page."""

    def run_here(jobs: Sequence[Job], target: Callable[[Job], None], workers: int, label: str) -> Outcome:
        for job in jobs:
            target(job)
        return Outcome(done=[job.name for job in jobs])

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
