"""Worker processes: collection of logs, trials and whole runs go through this one pool.

Workers are spawned, use one thread, ignore Ctrl-C (the parent decides what it means) and end when their parent is gone. A worker
that dies is replaced and its task given again, since a task is a pure function of its arguments or resumes from its own files.
Nothing that comes back depends on the number of processes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.sharedctypes import RawArray
from multiprocessing.util import Finalize
from typing import Any, Generic, Protocol, TypeVar, cast

from skillmeta.errors import UserError
from skillmeta.run import guard, guardian, watch

LOOK_SECONDS = 0.5  # how often a dead worker is looked for, beside the moment in which its pipe closes
LEAVE_SECONDS = 2.0  # for idle workers to end
WAKE_SECONDS = 1.0  # for which a worker is stuck before it is killed
REPORT_SECONDS = 0.2  # between two reports of a task
DONE, FAILED, SENT = range(3)  # what a worker's message is
HAS_MASK = hasattr(signal, "pthread_sigmask")  # Windows has none

T = TypeVar("T")
R = TypeVar("R")


class TaskFailed(UserError):
    """A task raised something that is not a UserError; `trace` is the traceback in its worker."""

    def __init__(self, sentence: str, trace: str):
        super().__init__(sentence, trace)
        self.trace = trace

    def __str__(self) -> str:
        return str(self.args[0])


class WorkerDied(UserError):
    """Each worker that a task was given to died, or one had to be killed.

    Args:
        how: a phrase.
        act: what it was doing, where it was stepping an environment.
    """

    def __init__(self, how: str, act: watch.Act | None = None):
        super().__init__(how, act)
        self.how, self.act = how, act

    def __str__(self) -> str:
        return f"its worker process {self.how}" + (f", the last time at {self.act}" if self.act else "")


@dataclass(frozen=True)
class End(Generic[T, R]):
    """How a task ended: with a result, with an error, or because its workers died."""

    number: int  # tasks are numbered as they are given, from 0
    task: T
    result: R | None = None
    error: UserError | None = None  # TaskFailed, WorkerDied, or what the task itself raised


class Pool(Generic[T, R]):
    """At most `processes` workers that run `work(task)`, started when there is something to do. Use it as a context manager.

    Args:
        work: an importable function. It, `begin`, `value`, tasks and results must survive pickling.
        processes: how many tasks run at once.
        begin: called once in each worker, `begin(value)`, before its first task.
        retries: how often a task is given again when its worker died.
        replace_failed: end a worker whose task raised, too.
    """

    def __init__(
        self,
        work: Callable[[T], R],
        processes: int,
        begin: Callable[[Any], None] | None = None,
        value: Any = None,
        retries: int = 1,
        replace_failed: bool = False,
    ):
        self.processes, self.retries, self.replace_failed = processes, retries, replace_failed
        self._setup = pickle.dumps((work, begin, value))
        self._workers: list[_Worker[T]] = []
        self._waiting: deque[tuple[int, T]] = deque()
        self._given = 0
        self._deaths: Counter[int] = Counter()
        self._finalizer = Finalize(self, _end_workers, (self._workers,), exitpriority=10)  # before processes are joined

    def give(self, tasks: Iterable[T]) -> range:
        """Append tasks to those that wait for a worker. Returns their numbers. Raises ValueError in a pool that was closed."""
        if not self._finalizer.still_active():
            raise ValueError("this pool is closed; make another one")
        first = self._given
        for task in tasks:
            self._waiting.append((self._given, task))
            self._given += 1
        return range(first, self._given)

    @property
    def running(self) -> list[T]:
        """The tasks that workers have."""
        return [worker.task[1] for worker in self._workers if worker.task is not None]

    @property
    def busy(self) -> bool:
        """Whether any task has not ended."""
        return bool(self._waiting or self.running)

    def give_no_more(self) -> None:
        """Drop the tasks that wait, and do not give again what a dying worker had."""
        self._waiting.clear()
        self.retries = 0

    def ended(
        self, seconds: float = LOOK_SECONDS, on_report: Callable[[int, Any], None] | None = None
    ) -> list[End[T, R]]:
        """The tasks that came to an end, as they do; waits so many seconds for one.

        `on_report(number, value)` gets what tasks report.

        Raises UserError if the script of this process has no main guard, so that no worker can be started.
        """
        self._start()
        busy = [worker for worker in self._workers if worker.task is not None]
        ready = wait([end for worker in busy for end in (worker.pipe, worker.process.sentinel)], seconds)
        ends: list[End[T, R]] = []
        for worker in busy:
            assert worker.task is not None
            number, task = worker.task
            if worker.pipe not in ready and worker.process.is_alive():
                if (act := worker.stuck()) is not None:
                    self._stop([worker])
                    how = f"was killed: a step took longer than {act.limit:g} seconds, in a library that cannot be interrupted"
                    ends.append(End(number, task, error=WorkerDied(how, act)))
                continue
            kind, value = worker.receive() or (None, None)
            if kind == SENT:
                if on_report is not None:
                    on_report(number, value)
                continue
            worker.task = None
            if kind == DONE:
                ends.append(End[T, R](number, task, result=value))
            elif kind == FAILED:
                ends.append(End[T, R](number, task, error=value))
                if self.replace_failed:
                    self._stop([worker])
            else:
                ends += self._died(worker, number, task)
        return ends

    def results(
        self,
        tasks: Iterable[T],
        on_report: Callable[[int, Any], None] | None = None,
        again: Callable[[T, UserError], T] | None = None,
    ) -> list[R]:
        """What the tasks return, in their order. Only in a pool that is not busy.

        Args:
            again: gets a task that failed and why, and returns the one to run in its place, or raises.

        Raises:
            UserError: what a task raised; a WorkerDied or TaskFailed where it was something else. The other tasks are dropped.
        """
        return in_order(self, tasks, on_report, again)

    def drop(self) -> None:
        """Forget the tasks that wait, and end those that run."""
        self._waiting.clear()
        self._stop([worker for worker in self._workers if worker.task is not None])

    def close(self) -> None:
        """End all workers: the idle ones are asked to end, one that still has a task is killed."""
        self._waiting.clear()
        self._finalizer()

    def __enter__(self) -> Pool[T, R]:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _start(self) -> None:
        """Give what waits to idle workers, after starting those that are missing, so that they start side by side."""
        self._stop([worker for worker in self._workers if worker.task is None and not worker.process.is_alive()])
        while len(self._workers) < min(self.processes, len(self.running) + len(self._waiting)):
            self._workers.append(_Worker(self._setup))
        for worker in self._workers:
            if worker.task is None and self._waiting:
                worker.give(self._waiting.popleft())

    def _died(self, worker: _Worker[T], number: int, task: T) -> list[End[T, R]]:
        act = worker.doing()
        self._stop([worker])
        if worker.process.exitcode == guard.NO_GUARD:  # so would each that takes its place
            raise UserError(guard.sentence("__main__", "a function of skillmeta"))
        self._deaths[number] += 1
        if (times := self._deaths[number]) <= self.retries:
            self._waiting.appendleft((number, task))
            return []
        often = "once" if times == 1 else f"{times} times"
        how = f"died {often}, killed perhaps for want of memory, or crashed by a library"
        return [End(number, task, error=WorkerDied(how, act))]

    def _stop(self, workers: list[_Worker[T]]) -> None:
        for worker in workers:
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()
            self._workers.remove(worker)


class Tasks(Protocol[T, R]):
    """A pool, as `in_order` needs it."""

    @property
    def busy(self) -> bool: ...
    def give(self, tasks: Iterable[T]) -> range: ...
    def ended(self, seconds: float, on_report: Callable[[int, Any], None] | None) -> list[End[T, R]]: ...
    def drop(self) -> None: ...


def in_order(
    pool: Tasks[T, R],
    tasks: Iterable[T],
    on_report: Callable[[int, Any], None] | None,
    again: Callable[[T, UserError], T] | None,
) -> list[R]:
    """`Pool.results`, of any pool."""
    numbers = pool.give(tasks)
    place = {number: number - numbers.start for number in numbers}
    found: dict[int, R | None] = {}
    try:
        while pool.busy:
            for end in pool.ended(LOOK_SECONDS, on_report and (lambda number, value: on_report(place[number], value))):
                if end.error is None:
                    found[place[end.number]] = end.result
                    continue
                if again is None:
                    raise end.error
                (number,) = pool.give([again(end.task, end.error)])
                place[number] = place[end.number]
    except BaseException:
        pool.drop()
        raise
    return [cast(R, found[number]) for number in sorted(found)]


class _Worker(Generic[T]):
    """A process that does one task after another; tasks and what became of them go through a pipe."""

    def __init__(self, setup: bytes):
        context = get_context("spawn")
        self.task: tuple[int, T] | None = None
        self._stuck_since: float | None = None
        self.pipe, theirs = context.Pipe()
        self._now: Any = RawArray(ctypes.c_double, watch.NUMBERS)
        self._label: Any = RawArray(ctypes.c_ubyte, watch.LABEL_BYTES)
        parent = os.getpid() if threading.current_thread() is threading.main_thread() else -os.getpid()
        self.process = context.Process(target=_serve, args=(theirs, setup, parent, self._now, self._label))
        threads = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"  # inherited: torch and numpy count their threads when they are imported
        try:
            with _blocked(signal.SIGINT):  # until the worker itself ignores it
                self.process.start()
        finally:
            del os.environ["OMP_NUM_THREADS"]
            os.environ.update({} if threads is None else {"OMP_NUM_THREADS": threads})
        theirs.close()

    def give(self, task: tuple[int, T]) -> None:
        message = pickle.dumps(
            task[1]
        )  # multiprocessing's own pickler would share tensors with the worker, not copy them
        self.task = task
        try:
            self.pipe.send_bytes(message)
        except OSError:  # it is dead, which `receive` says
            pass

    def doing(self) -> watch.Act | None:
        """The step or reset of an environment that it is in, or was in when it died."""
        return watch.read(self._now, self._label)

    def stuck(self) -> watch.Act | None:
        """What it does, if it can only be killed: its own look at the time (`watch`) has not ended it. Only where that is so for a
        second: where all processes were stopped, the worker first says that it is awake again. A stopped worker is left alone."""
        act, now = self.doing(), time.monotonic()
        if act is None or act.late <= watch.GRACE_SECONDS or guardian.stopped(self.process.pid or 0):
            self._stuck_since = None
            return None
        self._stuck_since = self._stuck_since or now
        return act if now - self._stuck_since > WAKE_SECONDS else None

    def receive(self) -> tuple[int, Any] | None:
        """Its next message; None if it died without one. Call it when there is one or it is dead."""
        try:
            return pickle.loads(self.pipe.recv_bytes()) if self.pipe.poll() else None
        except (EOFError, OSError):
            return None


@contextlib.contextmanager
def _blocked(number: int) -> Iterator[None]:
    """A signal waits until the block ends; what is started in it inherits that."""
    if not HAS_MASK:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_workers(workers: list[_Worker[Any]]) -> None:
    for worker in workers:
        if worker.task is not None:
            worker.process.kill()
        worker.pipe.close()  # which an idle one sees
    end = time.monotonic() + LEAVE_SECONDS
    for worker in workers:
        worker.process.join(max(0.0, end - time.monotonic()))
        worker.process.kill()
        worker.process.join()
    workers.clear()


# -- in a worker ---------------------------------------------------------------------------------------------------------
_pipe: Connection | None = None
_reported = 0.0


def report(value: Any) -> None:
    """Tell the parent how far this task is, if the last time was not just now. Nothing happens outside of a worker."""
    global _reported
    if _pipe is not None and time.monotonic() - _reported > REPORT_SECONDS:
        _pipe.send_bytes(pickle.dumps((SENT, value)))
        _reported = time.monotonic()


def _serve(pipe: Connection, setup: bytes, parent: int, now: Any, label: Any) -> None:
    """What a worker does until its pipe closes.

    Args:
        parent: its process; negative where a thread of that started this one.
        now, label: what `watch` writes to.
    """
    global _pipe
    watch.share(now, label)
    if parent > 0:
        _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    if HAS_MASK:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_follow, args=(abs(parent),), daemon=True).start()
    _pipe = pipe
    work: Callable[[Any], Any] | None = None
    while True:
        try:
            message = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        try:
            if work is None:
                work = _prepared(setup)
            answer = pickle.dumps((DONE, work(pickle.loads(message))))
        except Exception as error:
            answer = pickle.dumps((FAILED, _as_user_error(error)))
        pipe.send_bytes(answer)


def _as_user_error(error: Exception) -> UserError:
    """The error as it can be sent: itself where it is a UserError that survives pickling."""
    if isinstance(error, UserError):
        try:
            result: UserError = pickle.loads(pickle.dumps(error))
            return result
        except Exception:
            return UserError(str(error))
    return TaskFailed(f"{type(error).__name__}: {error}", traceback.format_exc())


def _prepared(setup: bytes) -> Callable[[Any], Any]:
    work, begin, value = pickle.loads(setup)
    if begin is not None:
        begin(value)
    result: Callable[[Any], Any] = work
    return result


def _die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends, on Linux: `_follow` needs Python's lock, which an
    environment that is stuck in a library may hold for ever."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def _follow(parent: int) -> None:
    """End this worker when its parent is gone, killed perhaps."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
