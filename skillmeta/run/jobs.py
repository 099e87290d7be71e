"""Several runs at once, each in a folder of its own, in a few worker processes, with a live display.

Every job resumes from its own folder, so a killed worker costs at most one checkpoint interval: its job is started again in a new
worker, and no other job notices. On Ctrl-C the jobs that run are asked to save and stop, and the same command goes on later.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from skillmeta.errors import UserError
from skillmeta.run.run import STOP_FILE, is_finished, read_result

RETRIES = 2  # of a job whose worker died
LINE_SECONDS = 10.0
LOOK_SECONDS = 0.5  # how often the display and a Ctrl-C are looked at
LEAVE_SECONDS = 10.0  # for an idle worker to end


@dataclass(frozen=True)
class Job:
    """One run: where it lives, and what `target` is told about it."""

    name: str
    folder: Path
    payload: Any  # goes to another process: plain values, dataclasses, paths


@dataclass
class Outcome:
    """What became of the jobs."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # name -> one sentence
    stopped: bool = False


def run_jobs(jobs: Sequence[Job], target: Callable[[Job], None], workers: int, label: str = "runs") -> Outcome:
    """Run `target(job)`, an importable function, for all jobs; those that have a result, and nothing left to remove, are skipped.

    Args:
        workers: processes; each uses one thread.

    Returns:
        What was done, what failed and why; `stopped` if Ctrl-C or SIGTERM ended it before all were done.

    Raises:
        KeyboardInterrupt: on a second Ctrl-C; the workers are killed, and their jobs go on from checkpoints another time.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    outcome = Outcome(done=[job.name for job in jobs if is_finished(job.folder)])
    left = [job for job in jobs if job.name not in outcome.done]
    _forget_stop(left)
    crew = _Crew(target, min(workers, len(left)))
    try:
        with _Interrupts() as asked, Display(jobs, label) as display:
            _run(deque(left), crew, outcome, asked, display)
    finally:
        crew.close()
        _forget_stop(left)
    return outcome


def _run(waiting: deque[Job], crew: _Crew, outcome: Outcome, asked: _Interrupts, display: Display) -> None:
    attempts: dict[str, int] = {}
    while waiting or crew.busy:
        if asked.to_stop and not outcome.stopped:
            outcome.stopped = True
            waiting.clear()
            _ask_to_stop(crew.busy)
        while waiting and crew.has_room:
            crew.give(waiting.popleft())
        for end in crew.returned():
            name = end.job.name
            attempts[name] = attempts.get(name, 0) + 1
            if end.died and not outcome.stopped and attempts[name] <= RETRIES:
                waiting.appendleft(end.job)
            else:
                _settle(end, attempts[name], outcome)
        display.show(outcome)


def _settle(end: _End, attempts: int, outcome: Outcome) -> None:
    if end.problem is not None:
        outcome.failed[end.job.name] = end.problem
    elif read_result(end.job.folder) is not None:
        outcome.done.append(end.job.name)
    elif outcome.stopped:
        return  # it saved its state
    elif end.died:
        outcome.failed[end.job.name] = f"its worker died {attempts} times, killed perhaps for want of memory"
    else:
        outcome.failed[end.job.name] = (
            "it ended without a result: its worker was told to stop from outside; run the command again"
        )


def _ask_to_stop(jobs: Sequence[Job]) -> None:
    print("\nstopping: the running jobs save their state (press Ctrl-C again to abort)", file=sys.stderr, flush=True)
    for job in jobs:
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / STOP_FILE).touch()


def _forget_stop(jobs: Sequence[Job]) -> None:
    for job in jobs:
        (job.folder / STOP_FILE).unlink(missing_ok=True)


class _Interrupts:
    """Ctrl-C and SIGTERM while jobs run: the first sets `to_stop`, the second interrupts; seen only in the main thread."""

    def __init__(self) -> None:
        self.to_stop = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:  # whoever started this has decided otherwise
                    self._before[number] = signal.signal(number, self._signalled)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self.to_stop:
            raise KeyboardInterrupt
        self.to_stop = True


@dataclass(frozen=True)
class _End:
    """A job's end in a worker: with a problem, without one, or because the worker died."""

    job: Job
    problem: str | None = None
    died: bool = False


class _Worker:
    """A process that runs one job after another; jobs and what became of them go through a pipe."""

    def __init__(self, target: Callable[[Job], None]):
        context = multiprocessing.get_context("spawn")
        self.job: Job | None = None
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, target, os.getpid()))
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until the worker itself ignores it
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()

    def give(self, job: Job) -> None:
        self.job = job
        try:
            self.pipe.send(job)
        except OSError:  # it is dead, which `returned` says
            pass

    def returned(self) -> _End | None:
        """How its job ended; None if it died without one. Call it when the pipe has something."""
        job, self.job = self.job, None
        try:
            problem = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return _End(job, died=True) if job else None
        return _End(job, problem) if job else None

    @property
    def lives(self) -> bool:
        return self.process.is_alive()


class _Crew:
    """At most `size` workers, started when there is something to do."""

    def __init__(self, target: Callable[[Job], None], size: int):
        self.target, self.size = target, size
        self.workers: list[_Worker] = []

    @property
    def busy(self) -> list[Job]:
        return [worker.job for worker in self.workers if worker.job is not None]

    @property
    def has_room(self) -> bool:
        return len(self.busy) < self.size

    def give(self, job: Job) -> None:
        idle = next((worker for worker in self.workers if worker.job is None), None)
        if idle is None:
            idle = _Worker(self.target)
            self.workers.append(idle)
        idle.give(job)

    def returned(self) -> list[_End]:
        """The jobs that came to an end; waits a moment for one."""
        ready = wait([worker.pipe for worker in self.workers], LOOK_SECONDS)
        ends = [worker.returned() for worker in self.workers if worker.pipe in ready]
        self.workers = [worker for worker in self.workers if worker.lives]
        return [end for end in ends if end is not None]

    def close(self) -> None:
        """End all workers: the idle ones are told, one that still has a job is killed."""
        for worker in self.workers:
            if worker.job is not None:
                worker.process.kill()
            worker.pipe.close()  # which an idle one sees
        for worker in self.workers:
            worker.process.join(LEAVE_SECONDS)
            worker.process.kill()
            worker.process.join()


def _work(pipe: Connection, target: Callable[[Job], None], parent: int) -> None:
    """What a worker does until its pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_follow_parent, args=(parent,), daemon=True).start()
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        pipe.send(_guarded(target, job))


def _guarded(target: Callable[[Job], None], job: Job) -> str | None:
    """Run one job in a worker; a failure comes back as a sentence, with the traceback in the job's folder."""
    if (job.folder / STOP_FILE).exists():
        return None
    try:
        target(job)
        return None
    except UserError as error:
        return str(error)
    except Exception as error:
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / "error.txt").write_text(traceback.format_exc())
        return f"{type(error).__name__}: {error} (traceback in {job.folder / 'error.txt'})"


def _follow_parent(parent: int) -> None:
    """End this worker when its parent is gone, killed perhaps; its jobs go on from their checkpoints another time."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


class Display:
    """How far each job is: a table on a terminal, a line now and then elsewhere."""

    def __init__(self, jobs: Sequence[Job], label: str):
        self.jobs, self.label = jobs, label
        self._live: Any = None
        self._spoken = time.monotonic()
        self._started = time.monotonic()

    def __enter__(self) -> Display:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, outcome: Outcome) -> None:
        now = time.monotonic()
        if self._live is None and now - self._spoken < LINE_SECONDS:
            return
        self._spoken = now
        active = [(job, progress) for job in self.jobs if (progress := self._progress(job, outcome)) is not None]
        share = (len(outcome.done) + sum(fraction for _, (fraction, _) in active)) / max(1, len(self.jobs))
        head = f"{self.label}  {share:4.0%}  {len(outcome.done)}/{len(self.jobs)} done"
        head += f", {len(outcome.failed)} failed" if outcome.failed else ""
        head += f", {now - self._started:.0f} s"
        if self._live is None:
            told = "; ".join(f"{job.name} {fraction:.0%}" for job, (fraction, _) in active)
            print(f"{head}  [{told}]" if told else head, file=sys.stderr, flush=True)
            return
        from rich.table import Table

        table = Table(title=head, title_justify="left", box=None, show_header=False)
        for job, (fraction, text) in active:
            bar = "█" * round(24 * fraction)
            table.add_row(job.name, f"{bar:░<24}", f"{fraction:4.0%}", text)
        self._live.update(table)

    def _progress(self, job: Job, outcome: Outcome) -> tuple[float, str] | None:
        """Fraction and text of a job that is running; None for one that is not."""
        if job.name in outcome.done or job.name in outcome.failed:
            return None
        try:
            told = json.loads((job.folder / "progress.json").read_text())
        except (OSError, ValueError):
            return None
        return float(told["fraction"]), str(told["text"])
