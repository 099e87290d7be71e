"""What trackers are shown is what metrics.jsonl has, and none of them ends a run."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from skillmeta.errors import ConfigError
from skillmeta.programs.pretrain import PretrainConfig, pretrain
from skillmeta.programs.train import train
from skillmeta.run import trackers
from skillmeta.run.run import Run, read_metrics
from skillmeta.run.trackers import Trackers, numbers_of
from tests.programs.runs import one_task
from tests.programs.scripted import scripted


class Shown:
    """A tracker that remembers."""

    def __init__(self, folder, config):
        self.folder, self.config, self.rows, self.closed = folder, config, [], False

    def show(self, step, numbers):
        self.rows.append((step, dict(numbers)))

    def close(self):
        self.closed = True


@pytest.fixture
def remembered(monkeypatch) -> list[Shown]:
    made: list[Shown] = []

    def make(folder, config):
        made.append(Shown(folder, config))
        return made[-1]

    monkeypatch.setitem(trackers.KINDS, "tensorboard", make)
    monkeypatch.setattr("skillmeta.run.trackers.importlib.util.find_spec", lambda name: True)
    return made


def test_a_run_shows_each_of_its_rows_against_its_steps(tmp_path, remembered, monkeypatch):
    monkeypatch.setattr("skillmeta.programs.train.write_page", lambda *arguments, **options: None)
    train(one_task(scripted(action=0.25), trackers=["tensorboard"]), tmp_path / "run", quiet=True)
    (shown,) = remembered
    rows = read_metrics(tmp_path / "run")
    assert shown.closed and shown.config["env_steps"] == 12
    assert shown.rows == [(row["env_steps"], {k: v for k, v in row.items() if k != "kind"}) for row in rows] != []
    again = train(one_task(scripted(action=0.25)), tmp_path / "run", quiet=True)  # without it: it is the same run
    assert again is not None and len(remembered) == 1


def test_numbers_of_evaluations_are_named_so():
    row = {"kind": "evaluation", "steps": 5, "score": 1.0, "evaluation/return": 2.0, "done": True, "text": "no"}
    assert dict(numbers_of(row)) == {"evaluation/steps": 5, "evaluation/score": 1.0, "evaluation/return": 2.0}


def test_a_tracker_that_fails_is_said_once_and_the_run_goes_on(tmp_path, remembered, monkeypatch, capsys):
    def fail(step, numbers):
        raise RuntimeError("it is down\nand more")

    with Run.open(tmp_path / "run", {"a": 1}) as run:
        run.trackers = Trackers(["tensorboard"], tmp_path / "run")
        monkeypatch.setattr(remembered[0], "show", fail)
        for step in range(3):
            run.log("iteration", steps=step)
    said = capsys.readouterr().err
    assert said.count("the tracker tensorboard failed and is left out (it is down); metrics.jsonl stays") == 1
    assert len(read_metrics(tmp_path / "run")) == 3


@pytest.mark.parametrize("start", ["finetune", "skills"])
def test_one_that_is_not_installed_is_a_sentence_before_the_folder_is_taken(start, tmp_path, monkeypatch):
    monkeypatch.setattr("skillmeta.run.trackers.importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"trackers: wandb needs the package wandb: in the clone, pip install -e '\.\[wandb\]'"
    ):
        if start == "finetune":
            train(one_task(scripted(), trackers=["wandb"]), tmp_path / "run")
        else:
            pretrain(PretrainConfig(trackers=["wandb"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def logged(folder, name: str) -> None:
    """Two sessions of a run, the second of which makes the first one's last row again."""
    for steps in (range(3), range(2, 5)):
        with Run.open(folder, {"a": 1}) as run:
            run.trackers = Trackers([name], folder, {"a": 1})
            for step in steps:
                run.log("iteration", env_steps=10 * step, **{"critic/loss": (step + 1) / 8})


def test_tensorboard_has_the_same_numbers(tmp_path):
    pytest.importorskip("tensorboard", reason="pip install -e '.[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logged(tmp_path / "run", "tensorboard")
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    points = {event.step: event.value for event in found.Scalars("critic/loss")}
    assert points == {0: 0.125, 10: 0.25, 20: 0.375, 30: 0.5, 40: 0.625}
    assert len(found.Scalars("critic/loss")) == 5


@pytest.mark.slow
def test_wandb_has_the_same_numbers_offline_and_one_id(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="pip install -e '.[wandb]'")
    monkeypatch.chdir(tmp_path)
    logged(tmp_path / "run", "wandb")
    wandb.teardown()  # its service writes the last rows when it ends, as it does when the process does
    files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    held = b"".join(file.read_bytes() for file in files)
    assert all(f"{(step + 1) / 8}".encode() in held for step in range(5)) and b"critic/loss" in held
    assert {file.stem.removeprefix("run-") for file in files} == {(tmp_path / "run" / "wandb-id").read_text()}
    assert not (tmp_path / "run" / "wandb").exists()


def test_wandb_is_offline_unless_it_is_asked_for(tmp_path, monkeypatch):
    asked: list[dict] = []

    class Log:
        def log(self, numbers, step):
            asked.append({"numbers": numbers, "step": step})

        def finish(self):
            asked.append({})

    def init(**options):
        asked.append(options)
        return Log()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Settings=lambda **options: options))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    shown = Trackers(["wandb"], tmp_path, {"seed": 3})
    assert not asked  # nothing is begun before a row
    shown.row({"kind": "iteration", "env_steps": 7, "return": np.float32(0.5).item()})
    shown.close()
    assert asked[0]["mode"] == "offline" and asked[0]["config"] == {"seed": 3} and asked[0]["resume"] == "allow"
    assert asked[1:] == [{"numbers": {"env_steps": 7, "return": 0.5}, "step": 7}, {}]
    monkeypatch.setenv("WANDB_MODE", "online")
    Trackers(["wandb"], tmp_path).row({"kind": "iteration", "steps": 1})
    assert asked[3]["mode"] == "online" and asked[3]["id"] == asked[0]["id"] and json.dumps(asked[3]["config"]) == "{}"
