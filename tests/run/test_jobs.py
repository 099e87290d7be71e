"""Several runs at once: failures are reported, killed workers are replaced, Ctrl-C stops all and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from skillmeta.run.jobs import Job, run_jobs
from skillmeta.run.run import read_metrics, read_result
from tests.run.workers import work


def test_jobs_run_fail_and_survive_a_killed_worker(tmp_path):
    kinds = ["fine", "fail", "user", "die_once"]
    jobs = [Job(kind, tmp_path / kind, kind) for kind in kinds]
    outcome = run_jobs(jobs, work, 2)
    assert sorted(outcome.done) == ["die_once", "fine"] and not outcome.stopped
    assert outcome.failed["user"] == "mend this"
    assert "RuntimeError: the world is flat" in outcome.failed["fail"] and (tmp_path / "fail" / "error.txt").exists()
    for name in ("fine", "die_once"):
        assert read_result(tmp_path / name) == {"steps": 20}
        assert [row["step"] for row in read_metrics(tmp_path / name)] == list(range(1, 21))


def test_a_job_that_always_dies_takes_no_other_with_it(tmp_path):
    jobs = [Job("die", tmp_path / "die", "die"), *(Job(f"fine{i}", tmp_path / f"fine{i}", "fine") for i in range(4))]
    outcome = run_jobs(jobs, work, 2)
    assert sorted(outcome.done) == [f"fine{i}" for i in range(4)]
    assert list(outcome.failed) == ["die"] and "died 3 times" in outcome.failed["die"]


def test_finished_jobs_are_not_run_again(tmp_path):
    jobs = [Job("fine", tmp_path / "fine", "fine")]
    run_jobs(jobs, work, 1)
    stamp = (tmp_path / "fine" / "metrics.jsonl").stat().st_mtime_ns
    assert run_jobs(jobs, work, 1).done == ["fine"]
    assert (tmp_path / "fine" / "metrics.jsonl").stat().st_mtime_ns == stamp


SCRIPT = """
import sys
from pathlib import Path
from skillmeta.run.jobs import Job, run_jobs
from tests.run.workers import work

if __name__ == "__main__":
    jobs = [Job(name, Path(sys.argv[1]) / name, "slow") for name in ("a", "b", "c")]
    outcome = run_jobs(jobs, work, 2)
    print("stopped" if outcome.stopped else "all", len(outcome.done), flush=True)
"""


def test_ctrl_c_saves_stops_and_leaves_no_process(tmp_path):
    root = Path(__file__).parents[2]
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    while not all((tmp_path / name / "metrics.jsonl").exists() for name in ("a", "b")):
        time.sleep(0.05)
        assert process.poll() is None
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: every process of the group gets it
    told, _ = process.communicate(timeout=60)
    assert told.startswith("stopped")
    assert not (tmp_path / "c" / "metrics.jsonl").exists()  # what waited for a worker is not begun
    assert not list(tmp_path.glob("*/.stop"))  # nor is anything left that would stop the next attempt
    for _ in range(100):  # the last helper process goes a moment after its parent
        listed = subprocess.run(["ps", "-o", "pid=", "-g", str(process.pid)], capture_output=True, text=True)
        if not listed.stdout.split():
            break
        time.sleep(0.05)
    assert not listed.stdout.split()
    again = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert again.stdout.strip() == "all 3"
    for name in ("a", "b", "c"):
        assert [row["step"] for row in read_metrics(tmp_path / name)] == list(range(1, 21))


def test_a_second_ctrl_c_does_not_wait_for_a_worker_that_hangs(tmp_path):
    root = Path(__file__).parents[2]
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path)]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(root)}, start_new_session=True, stderr=subprocess.DEVNULL
    )
    while not all((tmp_path / name / "metrics.jsonl").exists() for name in ("a", "b")):
        time.sleep(0.05)
        assert process.poll() is None
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGSTOP)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(1)
    try:
        assert process.wait(timeout=15) in (130, -signal.SIGINT)
    finally:
        for child in children:
            try:
                os.kill(int(child), signal.SIGCONT)
            except ProcessLookupError:
                continue


def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    root = Path(__file__).parents[2]
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(root)}, start_new_session=True)
    while not (tmp_path / "a" / "metrics.jsonl").exists():
        time.sleep(0.05)
    process.kill()
    process.wait()
    for _ in range(200):
        listed = subprocess.run(["ps", "-o", "pid=", "-g", str(process.pid)], capture_output=True, text=True)
        if not listed.stdout.split():
            break
        time.sleep(0.05)
    assert not listed.stdout.split()
