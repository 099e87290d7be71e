"""Runs a command in a forked child of this process, which has everything imported already, with a fault or without."""

from __future__ import annotations

import csv
import errno
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skillmeta.cli import main
from skillmeta.run import pool, rows
from tests.faults.shim import Shim
from tests.forked import forked

WAITING = ("skillmeta.run.pool", "skillmeta.run.jobs", "skillmeta.run.watch")  # modules that wait in real time
TICK = 1e-200  # seconds a call: above any checkpoint interval here, and nothing beside a time that is printed


@dataclass(frozen=True)
class Command:
    """A command and where it writes."""

    arguments: tuple[str, ...]
    out: Path  # everything that it leaves is below


RL2 = {"name": "rl2", "tasks": 4, "hidden": 4, "epochs": 1, "minibatches": 1, "episodes": 1}
BANDIT = "{family: bandit, split: any, options: {arms: 2, max_episode_steps: 3}}"


def commands(root: Path) -> dict[str, Command]:
    """A small run of each command, in the order in which one needs the other's."""
    rng = np.random.default_rng(0)
    timeouts = np.arange(300) % 30 == 29
    log = {"observations": rng.normal(size=(300, 2)), "actions": rng.uniform(-1, 1, (300, 2)), "timeouts": timeouts}
    np.savez(root / "log.npz", **{name: array.astype(np.float32) for name, array in log.items()})
    runs = {
        "collect": ["collect", "pretrain/maze_logs", "expert.steps=60", "dataset=test/tiny-v0"],
        "skills": ["skills", "pretrain/maze", f"source={root / 'log.npz'}", "task=null", "training.steps=4",
                   "training.held_out_every=2", "training.batch_size=4", "model.hidden=4", "model.horizon=5"],
        "meta-train": ["meta-train", "meta/rl2_bandit_5", f"task={BANDIT}", f"algorithm={json.dumps(RL2)}",
                       "env_steps=36", "checkpoint_seconds=1e-300"],
        "evaluate": ["evaluate", "tasks/bandit_5", "task.options={arms: 2, max_episode_steps: 3}", "tasks=2",
                     "episodes=1", f"agents=[{root / 'meta-train' / 'out'}]"],
        "adapt": ["adapt", str(root / "meta-train" / "out"), "tasks/bandit_5", "options={arms: 2, max_episode_steps: 3}"],
        "finetune": ["finetune", "downstream/maze_sac", "task={family: point, options: {max_episode_steps: 5}}", "env_steps=20",
                     "algorithm={hidden: 4, batch_size: 4, random_decisions: 5}", "evaluation.episodes=1",
                     "checkpoint_seconds=1e-300"],
    }  # fmt: skip
    found = {}
    for name, arguments in runs.items():
        out = root / name / ("logs" if name == "collect" else "out")
        found[name] = Command(tuple(arguments if name == "collect" else [*arguments, "--out", str(out)]), out)
    return found


def prepare(patch: pytest.MonkeyPatch) -> None:
    """A clock that does not depend on the machine: every iteration saves a checkpoint, and equal runs take equal times. Workers
    are forked, so that they have everything imported already."""
    now, real = [0.0], time.monotonic

    def monotonic() -> float:
        caller = sys._getframe(1).f_globals["__name__"]
        if not caller.startswith("skillmeta.") or caller in WAITING:
            return real()
        now[0] += TICK
        return now[0]

    patch.setattr(time, "monotonic", monotonic)
    patch.setattr(rows, "WHOLE", 0)  # so that small runs share files of rows
    patch.setattr(pool, "get_context", lambda kind: multiprocessing.get_context("fork"))
    patch.setattr(
        pool, "LEAVE_SECONDS", 0.0
    )  # a forked worker has its parent's end of the pipe, too, and never sees it close


def run_whole(command: Command) -> tuple[dict[str, Any], list[str]]:
    """Run a command in this process. Returns what it leaves and the places of its file operations."""
    shutil.rmtree(command.out, ignore_errors=True)
    command.out.parent.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, Shim(command.out.parent) as shim:
        prepare(patch)
        assert main(command.arguments) == 0
    assert isinstance(shim.places, list)
    return contents(command.out), shim.places


def run_forked(
    command: Command, at: int | str | None = None, full: bool = False, error: int = errno.ENOSPC
) -> tuple[int, str]:
    """Run a command in a child. Returns its exit status, negative for a signal, and what it printed."""
    _, code = os.waitpid(start(command, Shim(command.out.parent, at, full, error=error)), 0)
    return os.waitstatus_to_exitcode(code), printed(command).read_text()


def printed(command: Command) -> Path:
    """The file with what a forked command prints."""
    return command.out.parent.with_suffix(".txt")


def start(command: Command, shim: Shim) -> int:
    """Start a command in a child, which leads a session of its own. Returns its process id."""

    def act() -> int:
        os.setsid()
        prepare(pytest.MonkeyPatch())
        with shim:
            return main(command.arguments)

    return forked(act, printed(command))


def contents(out: Path) -> dict[str, Any]:
    """What a command has left: the bytes of each file, of JSON files and results.csv the values without wall-clock times. The last
    checkpoint has such times, too, and a manifest with its checksum."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = str(path.relative_to(out))
        if path.name == "manifest.json" and "last/" in name:
            continue
        if path.name in ("result.json", "summary.json", "state.json"):
            found[name] = without_seconds(json.loads(path.read_bytes()))
        elif path.name == "checksums.json":  # that of result.json is of wall-clock times too
            found[name] = {k: v for k, v in json.loads(path.read_bytes())["sha256"].items() if k != "result.json"}
        elif path.name == "results.csv":
            found[name] = [without_seconds(row) for row in csv.DictReader(path.read_text().splitlines())]
        elif not path.name.endswith(".lock"):
            found[name] = path.read_bytes()
    return found


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_seconds(item) for key, item in value.items() if key != "seconds"}
    return value


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Names of the files that are not equal."""
    return [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]


def renames(places: Sequence[str]) -> list[str]:
    """The distinct places where something complete takes its name, one of all pictures, and the last place of all."""
    found = dict.fromkeys(place for place in places if ": replace " in place)
    pictures = [place for place in found if place.endswith(".png")]
    return [place for place in found if place not in pictures[1:]] + [places[-1]]
