"""Systems that have no POSIX: what they lack is taken away here, since nothing of this was run on one."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from skillmeta.cli import main
from skillmeta.run import pool, signals, watch
from skillmeta.run.files import sync_path
from skillmeta.run.pool import Pool
from skillmeta.run.signals import StopSignals

LACKING = {
    os: ("fork", "killpg", "setsid", "sysconf", "getpgid"),
    signal: ("pthread_sigmask", "pthread_kill", "SIGVTALRM", "SIGKILL", "SIG_BLOCK", "SIG_UNBLOCK", "SIG_SETMASK"),
}


@pytest.fixture
def windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Windows lacks is not there, and no folder can be opened. A test's own folder has been made before."""
    opened = os.open

    def no_folders(path: Any, *rest: Any, **more: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *rest, **more)

    monkeypatch.setattr(os, "open", no_folders)
    monkeypatch.setattr(shutil, "_use_fd_functions", False)
    for module, names in LACKING.items():
        for name in names:
            monkeypatch.delattr(module, name, raising=False)
    monkeypatch.setattr(pool, "HAS_MASK", hasattr(signal, "pthread_sigmask"))
    monkeypatch.setattr(watch, "SIGNAL", getattr(signal, "SIGVTALRM", None))


def test_a_run_trains_and_goes_on_for_longer(windows, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(
        "task: {family: tests.programs.telltale}\nalgorithm: {name: sac, hidden: 4, batch_size: 4}\nenv_steps: 12\n"
        "checkpoint_seconds: 1.0e-9\nevaluation: {episodes: 1}\n"
    )
    for steps in (12, 24):
        assert main(["finetune", str(config), f"env_steps={steps}", "--out", str(tmp_path / "run")]) == 0
    assert len(list((tmp_path / "run" / "last").iterdir())) == 1


def test_a_stop_that_nobody_comes_to_is_broken_off(windows, monkeypatch):
    monkeypatch.setattr(signals, "GRACE_SECONDS", 0.1)
    with pytest.raises(KeyboardInterrupt), StopSignals() as asked:
        signal.raise_signal(signal.SIGINT)
        assert asked.heard
        for _ in range(500):
            time.sleep(0.01)
        pytest.fail("nothing has broken it off")


def double(number: int) -> int:
    return 2 * number


def test_workers_work(monkeypatch, tmp_path):
    """Forked, since spawned ones would have what is taken away again."""
    monkeypatch.setattr(pool, "get_context", lambda method: multiprocessing.get_context("fork"))
    monkeypatch.setattr(pool, "HAS_MASK", False)
    monkeypatch.setattr(watch, "SIGNAL", None)
    monkeypatch.delattr(signal, "pthread_sigmask")
    with Pool(double, 1) as workers:
        assert workers.results([1, 2, 3]) == [2, 4, 6]


def test_a_file_is_synced_by_a_handle_that_may_write(monkeypatch, tmp_path):
    """The one difference that only the system's name tells."""
    path, flags, opened = tmp_path / "file", [], os.open
    path.touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", lambda path, how: flags.append(how) or opened(path, how))
        patch.setattr(os, "name", "nt")
        sync_path(path)
    assert flags == [os.O_RDWR]
