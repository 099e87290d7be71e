"""What this process does that has to end in time, a step or a reset of an environment, written where another process can read it.

A process does one such act at a time, in its main thread. Where one takes too long, `Overdue` is raised in it. That needs POSIX
signals, and reaches what runs in Python, or waits. Code that is stuck in a library is ended with its process: in a worker by the
pool, else by a process beside it (`guardian`).
"""

from __future__ import annotations

import array
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import MutableSequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

RESET = -1  # the step of a reset
RESET_FACTOR = 10.0  # a reset may take so many times the seconds of a step
LOOK_SECONDS = 0.25  # between two looks at what is going on
GRACE_SECONDS = 4.0  # to raise Overdue, before the process is ended
LABEL_BYTES = 160
NUMBERS = 5  # since when, 0 for nothing; seconds that a step may take, 0 for any; row, seed, step
SIGNAL = getattr(signal, "SIGVTALRM", None)  # nothing else uses it; SIGALRM is pytest's; Windows has none


Numbers = MutableSequence[float]  # NUMBERS of them; another process can see a shared array
Label = MutableSequence[int]  # LABEL_BYTES of UTF-8


class Overdue(BaseException):
    """A step or a reset took too long. Not an Exception: an environment that catches those shall not catch it."""


@dataclass(frozen=True)
class Act:
    """A step or a reset of one environment."""

    row: int  # of the environments in lockstep; -1 where they step as arrays
    seed: int  # of its reset
    step: int  # from 0, or RESET
    limit: float  # seconds
    late: float  # seconds that it is over the limit; negative before
    label: str = ""  # what is known beside: the task, the episode

    def __str__(self) -> str:
        return f"{f'{self.label}, ' if self.label else ''}reset seed {self.seed}, {self.moment}"

    @property
    def moment(self) -> str:
        return "reset" if self.step == RESET else f"step {self.step}"


_now: Numbers = [0.0] * NUMBERS
_label: Label = array.array("B", bytes(LABEL_BYTES))
_thread: threading.Thread | None = None


def begins(row: int, seed: float, step: int) -> None:
    """An act begins. It costs less than a microsecond."""
    _now[2] = row
    _now[3] = seed
    _now[4] = step
    _now[0] = time.monotonic()


def moves(row: int, seed: float) -> None:
    """It is about this one of the environments that step as arrays."""
    _now[2] = row
    _now[3] = seed


def ends() -> None:
    """It has come to its end."""
    _now[0] = 0.0


def label(text: str) -> None:
    """What the next acts are about, in a few words."""
    _label[:] = array.array("B", text.encode()[:LABEL_BYTES].ljust(LABEL_BYTES, b"\0"))


def read(numbers: Numbers, words: Label) -> Act | None:
    """What is going on, by what this or another process has written."""
    since, limit, row, seed, step = numbers
    if since == 0:
        return None
    allowed = (limit * (RESET_FACTOR if step == RESET else 1.0)) or float("inf")
    text = bytes(words).rstrip(b"\0").decode(errors="ignore")
    return Act(int(row), int(seed), int(step), allowed, time.monotonic() - since - allowed, text)


def doing() -> Act | None:
    """What this process is doing."""
    return read(_now, _label)


def share(numbers: Numbers, words: Label) -> None:
    """Write to these from now on, which another process reads."""
    global _now, _label
    _now, _label = numbers, words


def start(limit: float) -> None:
    """Look from now on after acts of this thread, a step of which may take so many seconds. Nothing happens outside of the main
    thread, or without POSIX signals."""
    global _thread
    if SIGNAL is None or threading.current_thread() is not threading.main_thread():
        _now[1] = 0.0
        return
    if _thread is None:
        if multiprocessing.parent_process() is None:  # else a pool ends this process
            _start_guardian()
        signal.signal(SIGNAL, _ring)
        signal.signal(signal.SIGCONT, _woken)
        _thread = threading.Thread(target=_look, args=(threading.get_ident(),), daemon=True)
        _thread.start()
    _now[1] = limit


def _ring(number: int, frame: FrameType | None) -> None:
    act = doing()
    if act is not None and act.late > 0:  # else it has just ended
        raise Overdue


def _woken(number: int, frame: FrameType | None) -> None:
    """The process was stopped, by Ctrl-Z or a scheduler: that time is not the environment's. Python calls handlers of signals
    in the order of their numbers, so this one before `_ring`."""
    if _now[0]:
        _now[0] = time.monotonic()


def _look(thread: int) -> None:
    assert SIGNAL is not None
    while True:
        time.sleep(LOOK_SECONDS)
        act = doing()
        if act is not None and act.late > 0:
            signal.pthread_kill(thread, SIGNAL)


def _start_guardian() -> None:
    """Share what this process does with a process that sees it die, or be stuck in a library."""
    size = 8 * NUMBERS + LABEL_BYTES
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        shared: Any = memoryview(mmap.mmap(file.fileno(), size))
        share(shared[: 8 * NUMBERS].cast("d"), shared[8 * NUMBERS :])
        arguments = (os.getpid(), file.fileno(), NUMBERS, size, RESET_FACTOR, GRACE_SECONDS)
        script = [sys.executable, "-I", "-S", str(Path(__file__).with_name("guardian.py")), *map(str, arguments)]
        subprocess.Popen(script, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=(file.fileno(),))


def _forget() -> None:
    """In a forked child: what it does is its own."""
    global _thread
    share([0.0] * NUMBERS, array.array("B", bytes(LABEL_BYTES)))
    _thread = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
