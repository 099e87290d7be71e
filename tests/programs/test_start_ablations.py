"""Ablations whose methods start from trained agents, one a training seed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from skillmeta.config import build, read_yaml
from skillmeta.errors import ConfigError, UserError
from skillmeta.programs.ablate import AblationConfig, ablate
from skillmeta.programs.evaluate import load_runs
from skillmeta.programs.train import load_trained
from skillmeta.run.run import is_finished
from skillmeta.tasks.base import TaskConfig, make_family
from tests.goldens.cases import save_skills
from tests.programs.test_ablate import run_here
from tests.programs.test_start import MAZE, SAC, SIMPL


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where skills are."""
    made = tmp_path_factory.mktemp("start")
    save_skills(made / "skills")
    return made


META = {
    "kind": "meta-train",
    "task": {**MAZE, "split": "train"},
    "skills": "model",
    "env_steps": 150,
    "algorithm": SIMPL,
}
RL2 = {**META, "algorithm": {"name": "rl2"}}


def start(wanted: Any, **changes: Any) -> dict[str, Any]:
    """Options of an ablation with one method that starts so."""
    return {"methods": {"simpl": {"skills": "model", "algorithm": SAC, "start": wanted, **changes}}}


def compared(folder: Path, **options: Any) -> AblationConfig:
    """Of methods that start from an agent, or from nothing; their skills are one model, which is there already."""
    methods = {
        "simpl": {"skills": "model", "algorithm": SAC, "start": {"run": "known", "episodes": 2}},
        "spirl": {"skills": "model", "algorithm": SAC},
    }
    changes = {"task": {**MAZE, "split": "test"}, "env_steps": 80, "evaluation": {"episodes": 2}}
    plain = {
        "starts": {"known": META},
        "methods": methods,
        "changes": changes,
        "tasks": [1],
        "seeds": [0, 1],
        **options,
    }
    there = yaml.safe_load(yaml.safe_dump(plain).replace(": model\n", f": {folder / 'skills'}\n"))
    return build(AblationConfig, {"title": "SiMPL", **there})


def test_an_ablation_trains_what_its_methods_start_from_one_a_seed(folder, tmp_path, monkeypatch):
    made: list[str] = []

    def run_noted(jobs, *rest):
        made.extend(job.name for job in jobs if not is_finished(job.folder))
        return run_here(jobs, *rest)

    monkeypatch.setattr("skillmeta.programs.ablate.run_jobs", run_noted)
    ablate(compared(folder), tmp_path)
    assert made[:2] == ["known seed 0", "known seed 1"] and len(made) == 6
    for seed in (0, 1):
        start = read_yaml(tmp_path / "methods/simpl/task-1" / f"seed-{seed}" / "config.yaml")["start"]
        assert start["run"] == str(tmp_path / "starts/known" / f"seed-{seed}")
        assert read_yaml(tmp_path / "starts/known" / f"seed-{seed}" / "config.yaml")["seed"] == seed
    page = (tmp_path / "report.html").read_text()
    assert "starts from known, a run each training seed, which learned in" in page
    made.clear()
    ablate(compared(folder), tmp_path)
    assert not made
    runs = [str(tmp_path / "methods/simpl/task-1" / f"seed-{seed}") for seed in (0, 1)]
    assert len(load_runs(make_family(build(TaskConfig, MAZE)), runs, "simpl", False)) == 2  # seeds of one method


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"starts": {"other": "meta/simpl_maze"}},
            "its run must name a section of starts: other",
        ),
        ({"starts": {"known": "downstream/maze_spirl"}}, "starts.known.kind is 'finetune'; set it to meta-train"),
        ({"starts": {"known": 3}}, "starts.known is 3; the name of a config, or a mapping"),
        ({"starts": {"a/b": "meta/simpl_maze"}}, "starts: a name"),
        (start("known"), "methods.simpl.start is 'known'; its run must name a section of starts: known"),
        (start({"run": ["known"]}), "methods.simpl.start is {'run': ['known']}; its run must name"),
        (
            start({"run": "known"}, see_task=True),
            "see_task is True, and methods.simpl: starts.known: was trained with False",
        ),
        (
            start({"run": "known"}, skills="elsewhere"),
            "methods.simpl.skills and starts.known.skills are not the same section",
        ),
        (
            start({"run": "known"}, algorithm={**SAC, "hidden": 9}),
            "has hidden and policy_depth [9, 1], and the policy of starts.known has [8, 1]",
        ),
        (
            start({"run": "known"}, algorithm={"name": "best_of"}),
            "no learner of 'best_of' can start from another agent",
        ),
        ({"starts": {"known": RL2}}, "no learner of 'rl2' gives an agent to start from"),
        ({"starts": {"known": META, "unused": META}}, "starts.unused: no method starts from it; name it in"),
    ],
)
def test_wrong_starts_of_an_ablation_are_refused_before_anything_is_written(options, said, folder, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(said)):
        ablate(compared(folder, **options), tmp_path / "out")
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_runs_whose_start_failed_wait_and_the_others_are_made(folder, tmp_path, monkeypatch):
    def all_but_one(jobs, *rest):
        done = run_here([job for job in jobs if job.name != "known seed 1"], *rest)
        lost = {job.name: "the world is flat" for job in jobs if job.name == "known seed 1"}
        return replace(done, failed=lost)

    monkeypatch.setattr("skillmeta.programs.ablate.run_jobs", all_but_one)
    outcome = ablate(compared(folder), tmp_path)
    assert outcome.failed == {"known seed 1": "the world is flat"}
    finished = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("methods/**/result.json")}
    assert finished == {
        f"methods/{run}" for run in ("simpl/task-1/seed-0", "spirl/task-1/seed-0", "spirl/task-1/seed-1")
    }
    assert "starts from seed-0, which learned in" in (tmp_path / "report.html").read_text()


def test_a_start_of_a_users_own_module_is_imported_as_its_ablation_names_it(folder, tmp_path, monkeypatch):
    (tmp_path / "mymeta.py").write_text(
        "from skillmeta.algorithms.simpl import *\nfrom skillmeta.algorithms.simpl import Config, Learner\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("skillmeta.programs.ablate.run_jobs", run_here)
    own = {**META, "algorithm": {**SIMPL, "name": "mymeta"}}
    assert not ablate(compared(folder, starts={"known": own}, seeds=[0]), tmp_path / "out").failed
    with pytest.raises(UserError, match="start.algorithm names the module 'mymeta'"):
        load_trained(tmp_path / "out/methods/simpl/task-1/seed-0", lambda *unused: None)
