"""Several runs at once: failures are reported, killed workers are replaced, Ctrl-C stops all and leaves nothing behind.

Where the process that runs the jobs is itself interrupted or killed, it is a forked child: this process has imported everything.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest

from skillmeta.run.jobs import Job, run_jobs
from skillmeta.run.run import read_metrics, read_result
from tests.run.workers import work


def test_jobs_run_fail_and_survive_killed_workers(tmp_path, capsys):
    """A job whose worker is killed once is resumed; one that always dies takes no other with it; none is run again."""
    kinds = ["fine", "fail", "user", "die_once", "die", "fine2"]
    jobs = [Job(kind, tmp_path / kind, kind) for kind in kinds]
    outcome = run_jobs(jobs, work, 2)
    assert sorted(outcome.done) == ["die_once", "fine", "fine2"] and not outcome.stopped
    assert sorted(outcome.failed) == ["die", "fail", "user"]
    assert capsys.readouterr().err.count("failed: user: fix this\n") == 1  # as soon as it fails
    assert outcome.failed["user"] == "fix this" and "died 3 times" in outcome.failed["die"]
    assert "RuntimeError: the world is flat" in outcome.failed["fail"] and (tmp_path / "fail" / "error.txt").exists()
    for name in ("fine", "die_once"):
        assert read_result(tmp_path / name) == {"steps": 20}
        assert [row["step"] for row in read_metrics(tmp_path / name)] == list(range(1, 21))
    stamp = (tmp_path / "fine" / "metrics.jsonl").stat().st_mtime_ns
    assert run_jobs(jobs[:1], work, 1).done == ["fine"]
    assert (tmp_path / "fine" / "metrics.jsonl").stat().st_mtime_ns == stamp


def three_jobs(folder: Path) -> list[Job]:
    return [Job("a", folder / "a", "hold"), Job("b", folder / "b", "hold"), Job("c", folder / "c", "fine")]


def run_three_jobs(folder: Path, workers: int) -> None:
    """What a program does, in a session of its own. The exit status is 130 if it was stopped."""
    os.setsid()
    try:
        sys.exit(130 if run_jobs(three_jobs(folder), work, workers).stopped else 0)
    except KeyboardInterrupt:
        sys.exit(131)


def started(folder: Path, workers: int) -> ForkProcess:
    """The process, when each of its workers has a job."""
    process = multiprocessing.get_context("fork").Process(target=run_three_jobs, args=(folder, workers))
    process.start()
    while not all((folder / name / "metrics.jsonl").exists() for name in ("a", "b")[:workers]):
        time.sleep(0.05)
        assert process.is_alive()
    return process


def left_of(process: ForkProcess) -> list[str]:
    """Processes of its session that are still there after a while."""
    for _ in range(200):  # the last helper process goes a moment after its parent
        listed = subprocess.run(["ps", "-o", "pid=", "-g", str(process.pid)], capture_output=True, text=True)
        if not listed.stdout.split():
            break
        time.sleep(0.05)
    return listed.stdout.split()


def test_ctrl_c_saves_stops_and_leaves_no_process(tmp_path):
    process = started(tmp_path, 2)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: every process of the group gets it
    process.join(60)
    assert process.exitcode == 130
    assert not (tmp_path / "c" / "metrics.jsonl").exists()  # what waited for a worker is not begun
    assert not list(tmp_path.glob("*/.stop"))  # nor is anything left that would stop the next attempt
    assert left_of(process) == []
    assert len(run_jobs(three_jobs(tmp_path), work, 1).done) == 3
    for name in ("a", "b", "c"):
        assert [row["step"] for row in read_metrics(tmp_path / name)] == list(range(1, 21))


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait_for_a_worker_that_hangs(tmp_path):
    process = started(tmp_path, 1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGSTOP)
    for _ in range(2):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(1)
    try:
        process.join(15)
        assert process.exitcode == 131
    finally:
        for child in children:
            try:
                os.kill(int(child), signal.SIGCONT)
            except ProcessLookupError:
                continue


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    process = started(tmp_path, 1)
    process.kill()
    process.join()
    assert left_of(process) == []
