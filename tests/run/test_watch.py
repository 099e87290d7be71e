"""Time in which a process was stopped is not the environment's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from skillmeta.run import guardian, pool, watch

STEPS = """
import time
from skillmeta.run import watch
watch.GRACE_SECONDS = 0.1
watch.start(0.3)
print("begun", flush=True)
for step in range(20):
    watch.begins(0, 7, step)
    time.sleep(0.05)
    watch.ends()
"""


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize("send", [os.killpg, os.kill], ids=["with its guardian, as by Ctrl-Z", "alone"])
def test_a_run_that_was_stopped_for_longer_than_a_step_may_take_continues(send):
    assert guardian.LOOK_SECONDS < 0.5  # it has looked at least once at what is overdue, when all continues
    with subprocess.Popen(
        [sys.executable, "-c", STEPS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == "begun\n"
        time.sleep(0.3)
        send(child.pid, signal.SIGSTOP)
        time.sleep(2.0)
        send(child.pid, signal.SIGCONT)
        _, said = child.communicate(timeout=30)
    assert (child.returncode, said) == (0, "")


def steps(count: int) -> int:
    watch.start(0.3)
    pool.report(os.getpid())
    for step in range(count):
        watch.begins(0, 7, step)
        time.sleep(0.05)
        watch.ends()
    return count


@pytest.mark.skipif(not os.path.exists("/proc"), reason="whether a process is stopped is read from /proc")
def test_a_worker_that_was_stopped_alone_continues(monkeypatch):
    monkeypatch.setattr(watch, "GRACE_SECONDS", 0.1)  # of the parent's look
    stopped = []

    def stop(number: int, process: int) -> None:
        os.kill(process, signal.SIGSTOP)
        stopped.append(process)
        threading.Timer(pool.WAKE_SECONDS + 1.5, os.kill, (process, signal.SIGCONT)).start()

    with pool.Pool(steps, 1, retries=0) as workers:
        assert workers.results([20], stop) == [20]
    assert len(stopped) == 1
