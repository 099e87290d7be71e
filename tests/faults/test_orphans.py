"""Worker processes end with the command that started them, however it ends and wherever they are stuck.

The environment hangs in a library that keeps Python's lock, in every worker: nothing that runs in Python can end one.

    python -m pytest -m slow tests/faults/test_orphans.py
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import pytest
import yaml

from skillmeta.cli import main
from tests.faults.test_environments import config_of
from tests.run.test_jobs import left_of

COMMANDS = ("finetune", "meta-train", "evaluate", "collect", "ablate")
WORKERS = {"finetune": 1}  # that come to the environment at once; 2 of the others


def config(command: str, mark: Path) -> dict[str, Any]:
    one = config_of("meta-train" if command == "ablate" else command, "hangs_in_a_library", 2, every=1)
    one["environment"] = {"step_seconds": 3600, "on_error": "restart_worker"}
    (one if command == "collect" else one["task"])["options"]["mark"] = str(mark)
    if command != "ablate":
        return one
    method = {key: one.pop(key) for key in ("algorithm", "env_steps")}
    return {"logs": None, "skills": None, "methods": {"a": {"kind": "meta-train", **method}}, "seeds": [0], "workers": 2,
            "changes": one}  # fmt: skip


def begin(command: str, folder: Path) -> None:
    os.setsid()
    sys.stderr = open(folder / "said.txt", "w")
    os.environ["MINARI_DATASETS_PATH"] = str(folder / "logs")
    out = [] if command == "collect" else ["--out", str(folder / "out")]
    sys.exit(main([command, str(folder / "config.yaml"), *out]))


def stuck(command: str, folder: Path) -> ForkProcess:
    """The command, when all of its workers hang."""
    mark = folder / "mark"
    mark.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(config(command, mark)))
    process = multiprocessing.get_context("fork").Process(target=begin, args=(command, folder))
    process.start()
    while len(list(mark.iterdir())) < WORKERS.get(command, 2):
        time.sleep(0.05)
        assert process.is_alive(), (folder / "said.txt").read_text()
    assert str(process.pid) not in [path.name for path in mark.iterdir()]
    return process


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_no_process_outlives_a_killed_command(command, tmp_path):
    process = stuck(command, tmp_path)
    process.kill()
    process.join()
    began = time.monotonic()
    assert left_of(process) == [] and time.monotonic() - began < 5


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_whose_workers_hang_stops_in_ten_seconds(command, number, tmp_path):
    process = stuck(command, tmp_path)
    began = time.monotonic()
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 128 + number and time.monotonic() - began < 10 + 2, (tmp_path / "said.txt").read_text()
    assert left_of(process) == []
