"""Several runs at once, each in a folder of its own, in a few worker processes, with a live display.

Every job resumes from its own folder, so a killed worker costs at most one checkpoint interval: its job is started again in a new
worker, and no other job notices. On Ctrl-C the jobs that run are asked to save and stop, and the same command resumes them later.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from skillmeta.errors import UserError, disk_sentence
from skillmeta.reading import read_json
from skillmeta.run.cluster import Cluster, ClusterPool, pool_of
from skillmeta.run.pool import LOOK_SECONDS, End, Pool, TaskFailed, WorkerDied
from skillmeta.run.run import STOP_FILE, is_finished, read_result
from skillmeta.run.signals import StopSignals

RETRIES = 2  # of a job whose worker died
LINE_SECONDS = 10.0


@dataclass(frozen=True)
class Job:
    """One run: where it lives, and what `target` is given."""

    name: str
    folder: Path
    payload: Any  # goes to another process: plain values, dataclasses, paths


@dataclass
class Outcome:
    """What became of the jobs."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # name -> one sentence
    stopped: bool = False


def run_jobs(
    jobs: Sequence[Job], target: Callable[[Job], None], workers: int | Cluster, label: str = "runs"
) -> Outcome:
    """Run `target(job)`, an importable function, for all jobs; those that have a result, and nothing left to remove, are skipped.

    Args:
        workers: processes, each of one thread; or the cluster that they are on.

    Returns:
        What was done, what failed and why; `stopped` if Ctrl-C or SIGTERM ended it before all were done.

    Raises:
        KeyboardInterrupt: on a second Ctrl-C, or where jobs take too long to stop; the workers are killed, and their jobs resume
            from checkpoints another time.
    """
    outcome = Outcome(done=[job.name for job in jobs if is_finished(job.folder)])
    left = [job for job in jobs if job.name not in outcome.done]
    _forget_stop(left)
    pool: Pool[Job, None] | ClusterPool[Job, None] = pool_of(workers, partial(_work, target), retries=RETRIES)
    pool.give(left)
    try:
        with StopSignals() as asked, Display(jobs, label) as display:
            while pool.busy:
                if asked.heard and not outcome.stopped:
                    outcome.stopped = True
                    pool.give_no_more()
                    _ask_to_stop(pool.running)
                for end in pool.ended(LOOK_SECONDS):
                    _settle(end, outcome)
                    if why := outcome.failed.get(end.task.name):
                        display.say(f"failed: {end.task.name}: {why}")
                display.show(outcome)
    finally:
        pool.close()
        _forget_stop(left)
    return outcome


def _work(target: Callable[[Job], None], job: Job) -> None:
    """One job, in a worker."""
    if not (job.folder / STOP_FILE).exists():
        try:
            target(job)
        except OSError as error:  # a full disk is no fault of this program: a sentence, without a traceback
            raise (error if (sentence := disk_sentence(error)) is None else UserError(sentence)) from None


def _settle(end: End[Job, None], outcome: Outcome) -> None:
    name, folder = end.task.name, end.task.folder
    if isinstance(end.error, TaskFailed):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").write_text(end.error.trace)
        outcome.failed[name] = f"{end.error} (traceback in {folder / 'error.txt'})"
    elif end.error is not None and not isinstance(end.error, WorkerDied):
        outcome.failed[name] = str(end.error)
    elif read_result(folder) is not None:
        outcome.done.append(name)
    elif outcome.stopped:
        return  # it saved its state
    elif end.error is not None:
        outcome.failed[name] = str(end.error)
    else:
        outcome.failed[name] = "it ended without a result: its worker was stopped from outside; run the command again"


def _ask_to_stop(jobs: Sequence[Job]) -> None:
    print("\nstopping: the running jobs save their state (press Ctrl-C again to abort)", file=sys.stderr, flush=True)
    for job in jobs:
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / STOP_FILE).touch()


def _forget_stop(jobs: Sequence[Job]) -> None:
    for job in jobs:
        (job.folder / STOP_FILE).unlink(missing_ok=True)


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

    def say(self, sentence: str) -> None:
        """A line that stays."""
        if self._live is None:
            print(sentence, file=sys.stderr, flush=True)
        else:
            self._live.console.print(sentence, markup=False, highlight=False)

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
            running = "; ".join(f"{job.name} {fraction:.0%}" for job, (fraction, _) in active)
            print(f"{head}  [{running}]" if running else head, file=sys.stderr, flush=True)
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
            progress = read_json(job.folder / "progress.json")
            return min(1.0, float(progress["fraction"])), str(progress["text"])
        except (UserError, KeyError, TypeError, ValueError):
            return None
