"""An environment that raises, hangs, returns a NaN or takes its process with it ends a command with one sentence, or an episode.

Every kind of failure (`tests.faults.failing`) meets every command that steps environments, in one process and in two. The suite has
a few of them; all (minutes on one core) are

    python -m pytest -m slow tests/faults/test_environments.py
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from skillmeta.cli import main
from skillmeta.collect import workers
from skillmeta.data.replay import Replay
from skillmeta.run import pool
from skillmeta.run.guardian import RESTART
from tests.faults.failing import SAYS
from tests.forked import forked

SAC = {"name": "sac", "hidden": 4, "batch_size": 4, "random_decisions": 5}
RL2 = {"name": "rl2", "tasks": 4, "hidden": 4, "epochs": 1, "minibatches": 1, "episodes": 1}
LIMIT = 0.4  # seconds of a step; a reset has ten times as much
SECONDS = 60.0  # of a command: workers that start on a busy machine, and the grace before a process is killed
LOST = {"exits": 0, "killed": -9, "crashes": -11, "hangs_in_a_library": -9}  # in one process: how it ends
GO_ON = ("environment.on_error=restart_worker", "environment.max_errors=50")
COMMANDS = ("finetune", "meta-train", "evaluate", "collect")


def config_of(command: str, kind: str, processes: int, every: int = 2) -> dict[str, Any]:
    task = {"family": "tests.faults.failing", "split": "train", "options": {"kind": kind, "every": every}}
    environment = {"step_seconds": LIMIT if "reset" not in kind else LIMIT / 4}
    if command == "collect":
        return {"dataset": "test/failing-v0", "family": task["family"], "options": task["options"],
                "collector": "tests.faults.wanderer", "shards": processes, "environment": environment}  # fmt: skip
    shared = {"task": task, "processes": processes, "environment": environment}
    if command == "evaluate":
        return {**shared, "episodes": 1, "envs_per_batch": 1}
    learning = {"env_steps": 24, "checkpoint_seconds": 1e-300, "envs_per_batch": 2, "evaluation": {"episodes": 1}}
    return {**shared, **learning, "algorithm": SAC if command == "finetune" else RL2}


def run(command: str, config: dict[str, Any], folder: Path, *overrides: str) -> tuple[int, str, float]:
    """A command in a child: exit status, what it said, seconds. What it would learn from has to be finite, or the status is 70."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    arguments = [command, str(path), *overrides]
    if command != "collect":
        arguments += ["--out", str(folder / "out")]
    said, began = folder / "said.txt", time.monotonic()

    def act() -> int:
        os.environ["MINARI_DATASETS_PATH"] = str(folder / "logs")
        faulthandler.disable()  # pytest's, which prints a page of a crash
        only_finite(pytest.MonkeyPatch())
        with_forked_workers(pytest.MonkeyPatch())
        return main(arguments)

    _, code = os.waitpid(forked(act, said), 0)
    seconds = time.monotonic() - began
    time.sleep(0.4)  # in which a guardian says what became of it
    return os.waitstatus_to_exitcode(code), said.read_text(), seconds


def with_forked_workers(patch: pytest.MonkeyPatch) -> None:
    """Workers are forked, which takes no time; spawned ones import torch."""
    patch.setattr(pool, "get_context", lambda method: multiprocessing.get_context("fork"))
    patch.setattr(pool.watch, "GRACE_SECONDS", 1.0)
    patch.setattr(pool, "LEAVE_SECONDS", 0.1)  # a forked worker holds the pipes of others, so none sees its own closed


def only_finite(patch: pytest.MonkeyPatch) -> None:
    """Whatever reaches a replay or comes from workers is looked at."""
    add, join = Replay.add, workers.join

    def looked_at(episodes: Any) -> Any:
        assert all(np.isfinite(getattr(episodes, name)).all() for name in ("observation", "action", "reward"))
        return episodes

    patch.setattr(Replay, "add", lambda replay, episodes: add(replay, looked_at(episodes)))
    patch.setattr(workers, "join", lambda parts: looked_at(join(parts)))


def one_sentence(said: str, kind: str) -> None:
    assert said.count("error: ") == 1 and "Traceback" not in said, said
    line = next(line for line in said.splitlines() if line.startswith("error: "))
    assert {**SAYS, "lost": RESTART}[kind] in line, said
    assert all(
        word in line for word in ("task ", "reset seed ", "episode ", "reset" if "reset" in kind else "step 2")
    ), said


def check(command: str, kind: str, processes: int, folder: Path) -> None:
    """It stops with a sentence; the same command with restart_worker resumes and ends, without the episodes that fail."""
    config = config_of(command, kind, processes)
    status, said, seconds = run(command, config, folder)
    lost = processes == 1 and kind in LOST  # the process of the run is, and a guardian says so
    assert status == (LOST[kind] if lost else 2) and seconds < SECONDS, said
    one_sentence(said, kind if not lost else "lost")
    status, said, seconds = run(command, config, folder, *GO_ON)
    assert status == 0 and seconds < 2 * SECONDS and "Traceback" not in said, said
    assert said.count("dropped: ") >= 1 and SAYS[kind] in said, said
    if command != "collect":
        rows = [json.loads(line) for line in (folder / "out" / "failures.jsonl").read_text().splitlines()]
        assert len(rows) == said.count("dropped: ") + (not lost)
        assert len({tuple(map(tuple, row["resets"])) for row in rows}) == len(rows)  # none was met twice


def test_a_failure_that_takes_its_process_with_it(tmp_path):
    check("evaluate", "exits", 2, tmp_path)


def test_an_ablation_says_which_run_an_environment_ended_and_does_the_others(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("skillmeta.programs.ablate.write_page", lambda *arguments, **options: None)
    with_forked_workers(monkeypatch)
    one = config_of("meta-train", "raises", 1)
    method = {"kind": "meta-train", "algorithm": one.pop("algorithm"), "env_steps": one.pop("env_steps")}
    del one["environment"]
    drops = {"on_error": "drop_episode", "max_errors": 50}
    methods = {"stops": method, "drops": {**method, "environment": drops}}
    test = {"split": "test", "episodes": 1, "tasks": 1}
    config = {
        "logs": None,
        "skills": None,
        "methods": methods,
        "seeds": [0],
        "changes": one,
        "test": test,
        "workers": 1,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["ablate", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    line = next(line for line in (said.out + said.err).splitlines() if "stops seed 0" in line)
    assert "reset seed" in line and "step 2: the environment raised RuntimeError" in line
    assert (tmp_path / "out" / "methods" / "drops" / "seed-0" / "result.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", SAYS)
def test_every_failure(kind, command, processes, tmp_path):
    check(command, kind, processes, tmp_path)
