"""Which tasks an ablation runs on: by their numbers, or by a rule that looks at no result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import DictConfig

from skillmeta.config import build, load
from skillmeta.errors import ConfigError, UserError
from skillmeta.evaluation.records import read_study
from skillmeta.programs.ablate import AblationConfig, ablate, make_jobs
from skillmeta.run.jobs import Outcome

TWO = {"methods": {"a": "downstream/maze_sac", "b": "downstream/maze_sac"}, "seeds": [0]}
BY_PATH = {**TWO, "tasks": {"count": 3, "by": "path_cells"}}


def indices(node: dict | DictConfig, tmp_path: Path) -> list[int]:
    return [job.payload[0].task.index for job in make_jobs(build(AblationConfig, node), tmp_path, "")]


def test_tasks_by_a_rule_are_the_same_for_all_methods_and_can_be_overridden(tmp_path):
    assert indices(BY_PATH, tmp_path) == [8, 8, 6, 6, 0, 0]  # the ten test goals: 15, 18 and 22 cells of path
    assert indices({**BY_PATH, "methods": {"a": "downstream/maze_sac"}}, tmp_path) == [8, 6, 0]
    in_training = {**BY_PATH, "changes": {"task": {"split": "train"}}}
    assert indices(in_training, tmp_path) != indices(BY_PATH, tmp_path)
    (tmp_path / "by_path.yaml").write_text(json.dumps(BY_PATH))
    overridden = load(tmp_path / "by_path.yaml", ["tasks=[2,5]"])
    assert indices(overridden, tmp_path) == [2, 2, 5, 5]
    (tmp_path / "two.yaml").write_text(json.dumps({"base": "by_path.yaml", "tasks": [1]}))
    by_rule = load(tmp_path / "two.yaml", ["tasks.count=2", "tasks.by=path_cells"])
    assert indices(by_rule, tmp_path) == [8, 8, 0, 0]


def test_what_is_run_is_written_down(tmp_path, monkeypatch):
    monkeypatch.setattr("skillmeta.programs.ablate.run_jobs", lambda *arguments: Outcome())
    for _ in range(2):  # the second time it compares itself with what it wrote
        ablate(build(AblationConfig, BY_PATH), tmp_path / "out")
    assert read_study(tmp_path / "out").tasks == [8, 6, 0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tasks": {"count": 3, "by": "cells"}}, "tasks.by is 'cells'.*it has: path_cells"),
        ({"tasks": {"count": 0, "by": "path_cells"}}, "tasks.count is 0"),
        ({"tasks": {"counts": 3}}, "unknown key 'counts'; did you mean 'count'"),
        ({"changes": {"task": {"family": "point"}}}, "tasks.by is 'path_cells'.*point.*it has: none"),
        ({"methods": {"a": "downstream/maze_sac", "b": {"task": {"family": "maze", "split": "train"}}}}, "one family and split"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_followed_is_one_sentence(changes, sentence, tmp_path):
    with pytest.raises((ConfigError, UserError), match=sentence):
        ablate(build(AblationConfig, {**BY_PATH, **changes}), tmp_path / "out")
    assert not (tmp_path / "out").exists()
