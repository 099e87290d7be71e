"""Ctrl-C and SIGTERM end every command in seconds, whatever it is doing, with an exit status that says which it was."""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from skillmeta.cli import main
from skillmeta.run import signals
from skillmeta.run.progress import Progress
from tests.forked import forked

POINT = "{family: point, options: {max_episode_steps: 5}}"
SAC = ["finetune", "downstream/maze_sac", f"task={POINT}", "algorithm={hidden: 4, batch_size: 4, random_decisions: 5}"]
RL2 = {"name": "rl2", "tasks": 4, "hidden": 4, "epochs": 1, "minibatches": 1, "episodes": 1}
STUCK_SECONDS = 60
LONG = 10**6  # of whatever is counted: for hours


def logs(path: Path) -> Path:
    rng = np.random.default_rng(0)
    timeouts = np.arange(300) % 30 == 29
    columns = {"observations": rng.normal(size=(300, 2)), "actions": rng.uniform(-1, 1, (300, 1)), "timeouts": timeouts}
    np.savez(path, **{name: array.astype(np.float32) for name, array in columns.items()})
    return path


def stopped(arguments: Sequence[str], number: int, begun: Path, pattern: str) -> tuple[int, float, str]:
    """Runs a command in a fork, sends it a signal a moment after a file is there. Exit status, seconds it took, what it said.

    One that has not ended after a while says where it is, and is killed.
    """
    said = begun.parent / "said.txt"

    def act() -> int:
        signals.GRACE_SECONDS = 1.0
        faulthandler.register(signal.SIGUSR1, open(2, "w", closefd=False), chain=True)  # the signal ends it, then
        return main(arguments)

    child = forked(act, said)
    while not list(begun.glob(pattern)):
        assert os.waitpid(child, os.WNOHANG) == (0, 0), said.read_text()
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(child, number)
    began = time.monotonic()
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() - began < STUCK_SECONDS:
        time.sleep(0.01)
    seconds = time.monotonic() - began
    if ended == (0, 0):
        os.kill(child, signal.SIGUSR1)
        ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended[1]), seconds, said.read_text()


BUSY = {  # what it is at when the signal comes: the command, and a file that is there then
    "training": ([*SAC, f"env_steps={LONG}", "max_episodes=null"], "metrics.jsonl"),
    "evaluating what was trained": ([*SAC, "env_steps=10", "evaluation.episodes=100000"], "checkpoints/ckpt-*10"),
    "evaluating": (
        ["evaluate", "tasks/bandit_5", f"task.options={{arms: 2, max_episode_steps: {LONG}}}", "tasks=2", "episodes=9"],
        "environment.json",
    ),
    "collecting": (
        ["collect", "pretrain/maze_logs", f"expert.steps={LONG}", "dataset=test/tiny-v0"], ".test-tiny-v0.lock",
    ),
    "pretraining": (
        ["skills", "pretrain/maze", "source=LOGS", "task=null", f"training.steps={LONG}", "model.horizon=5"],
        "metrics.jsonl",
    ),
    "ablating": (
        ["ablate", "demo", "logs=null", "skills=null", "methods={a: {config: downstream/maze_sac}}", "tasks=[0]",
         "seeds=[0]", f"changes={{task: {POINT}, env_steps: {LONG}}}"],
        "methods/a/task-0/seed-0/metrics.jsonl",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "what", [pytest.param(one, marks=pytest.mark.slow if one == "ablating" else ()) for one in BUSY]
)
def test_a_command_stops_in_seconds(what, number, status, tmp_path, monkeypatch):
    arguments, pattern = BUSY[what]
    out = tmp_path / "out"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(out))
    arguments = [a.replace("LOGS", str(logs(tmp_path / "logs.npz"))) for a in arguments]
    if what != "collecting":
        arguments += ["--out", str(out)]
    ended, seconds, said = stopped(arguments, number, out, pattern)
    assert ended == status and "Traceback" not in said, said
    assert seconds < 10 - signals.GRACE_SECONDS + 4  # the grace is one second there; four are for a busy machine
    assert "the same command" in said


def test_adapting_stops_in_seconds(tmp_path):
    bandit = "{family: bandit, split: any, options: {arms: 2, max_episode_steps: 3}}"
    run = ["meta-train", "meta/rl2_bandit_5", f"task={bandit}", f"algorithm={json.dumps(RL2)}", "env_steps=36"]
    assert main([*run, "--out", str(tmp_path / "run")]) == 0
    adapting = ["adapt", str(tmp_path / "run"), "tasks/bandit_5", f"options={{arms: 2, max_episode_steps: {LONG}}}"]
    out = tmp_path / "out"
    ended, seconds, said = stopped([*adapting, "--out", str(out)], signal.SIGTERM, out, ".lock")
    assert ended == 143 and seconds < 6 and "Traceback" not in said, said
    assert not (out / "adapted.yaml").exists()


def test_a_command_has_ten_seconds():
    assert signals.GRACE_SECONDS <= 8


@pytest.mark.parametrize("steps", [10, 20])  # its end, and before
def test_a_folder_deleted_under_a_command_is_one_sentence_and_status_2(steps, tmp_path, monkeypatch, capsys):
    def delete(progress: Progress, done: float, **shown: float) -> None:
        if done == 10:
            shutil.rmtree(tmp_path / "out")

    monkeypatch.setattr(Progress, "update", delete)
    assert main([*SAC, f"env_steps={steps}", "evaluation.episodes=1", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "was deleted or moved" in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()
