"""Several runs at once, each in a folder of its own, in a few worker processes, with a live display.

Every job resumes from its own folder, so a killed worker costs at most one checkpoint interval: the job is started again. On
Ctrl-C the jobs that run are asked to save and stop, and the same command goes on later.
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
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from skillmeta.errors import UserError
from skillmeta.run.run import STOP_FILE, read_result

RETRIES = 2  # of a job whose worker died
LINE_SECONDS = 10.0


@dataclass(frozen=True)
class Job:
    """One run: where it lives, and what `target` is told about it."""

    name: str
    folder: Path
    payload: Any  # picklable


@dataclass
class Outcome:
    """What became of the jobs."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # name -> one sentence
    stopped: bool = False


def run_jobs(jobs: Sequence[Job], target: Callable[[Job], None], workers: int, label: str = "runs") -> Outcome:
    """Run `target(job)`, an importable function, for all jobs; those that have a result already are skipped.

    Args:
        workers: processes; each uses one thread.

    Returns:
        What was done, what failed and why; `stopped` if Ctrl-C ended it before all were done.
    """
    outcome = Outcome(done=[job.name for job in jobs if read_result(job.folder) is not None])
    left = [job for job in jobs if job.name not in outcome.done]
    attempts = dict.fromkeys((job.name for job in left), 0)
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _terminated) if in_main else None  # what Ctrl-C does
    try:
        with Display(jobs, label) as display:
            while left and not outcome.stopped:
                left = _round(left, target, workers, outcome, attempts, display)
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)
    return outcome


def _round(
    jobs: list[Job],
    target: Callable[[Job], None],
    workers: int,
    outcome: Outcome,
    attempts: dict[str, int],
    display: Display,
) -> list[Job]:
    """Run jobs in one pool until all are done or the pool breaks. Returns those to try again."""
    context = multiprocessing.get_context("spawn")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    size = min(workers, len(jobs))
    pool = ProcessPoolExecutor(size, mp_context=context, initializer=_prepare_worker, initargs=(os.getpid(),))
    running: dict[Future[str | None], Job] = {pool.submit(_guarded, target, job): job for job in jobs}
    again: list[Job] = []
    try:
        while running:
            finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in finished:
                job = running.pop(future)
                again.extend(_settle(future, job, outcome, attempts))
            display.show(outcome)
    except KeyboardInterrupt:
        outcome.stopped = True
        print("\nstopping: the running jobs save their state (press Ctrl-C again to abort)", file=sys.stderr)
        for future, job in running.items():
            if not future.cancel():
                job.folder.mkdir(parents=True, exist_ok=True)
                (job.folder / STOP_FILE).touch()
        try:
            pool.shutdown(wait=True, cancel_futures=True)
        except KeyboardInterrupt:
            _kill(pool)
            raise
    else:
        pool.shutdown(wait=True)
    return again


def _settle(future: Future[str | None], job: Job, outcome: Outcome, attempts: dict[str, int]) -> list[Job]:
    try:
        problem = future.result()
    except BrokenProcessPool:
        attempts[job.name] += 1
        if attempts[job.name] <= RETRIES:
            return [job]
        problem = "its worker died again and again (killed, or out of memory)"
    if problem is None and read_result(job.folder) is None:
        problem = "it ended without a result: its worker was told to stop from outside; run the command again"
    if problem is None:
        outcome.done.append(job.name)
    else:
        outcome.failed[job.name] = problem
    return []


def _guarded(target: Callable[[Job], None], job: Job) -> str | None:
    """Run one job in a worker; a failure comes back as a sentence, with the traceback in the job's folder."""
    try:
        target(job)
        return None
    except UserError as error:
        return str(error)
    except Exception as error:
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / "error.txt").write_text(traceback.format_exc())
        return f"{type(error).__name__}: {error} (traceback in {job.folder / 'error.txt'})"


def _prepare_worker(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    threading.Thread(target=_follow_parent, args=(parent,), daemon=True).start()


def _follow_parent(parent: int) -> None:
    """End this worker when its parent is gone, killed perhaps; its jobs go on from their checkpoints another time."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _kill(pool: ProcessPoolExecutor) -> None:
    for process in list(getattr(pool, "_processes", {}).values()):
        process.kill()


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
