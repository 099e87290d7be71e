"""The process pool on a Ray cluster: the same tasks, in worker processes of other machines (docs/cluster.md).

Ray finds a machine with a free CPU and starts a process on it. That one does nothing but hand tasks to a worker process of its own,
by the same pool as on one machine. So what is true of a worker there is true here: its threads, its limits of time, how it fails,
and that it ends when what started it is gone. Ray is imported when it is needed, and only in this file.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from skillmeta import __version__
from skillmeta.errors import UserError, first_line
from skillmeta.run.files import FolderInUse
from skillmeta.run.pool import LOOK_SECONDS, End, Pool, WorkerDied, in_order

LOSSES = 10  # of the workers of one task, with their machines, before it has failed
STARTS = 5  # workers that were lost before they began, one after another, before that is the end
KNOCK_SECONDS = 10.0  # for the head to answer
IDLE_SECONDS = 60.0  # that a worker keeps its CPU without a task
LEASE_SECONDS = 120.0  # that a lost machine may hold its locks: NFS lets go of them after 90
VARIABLES = ("MINARI_DATASETS_PATH", "D4RL_DATASET_DIR", "MUJOCO_GL")  # of the environment, which workers get too
PACKAGES = ("torch", "numpy")  # whose versions have to be the same, as this one's: other ones give other bits

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Cluster:
    """A running Ray cluster, one of whose machines this is."""

    address: str = "auto"  # HOST:PORT of its head; "auto": $RAY_ADDRESS, or the one that this machine is of
    shared: tuple[Path, ...] = ()  # folders that every machine has to see, beside the working directory

    def connect(self) -> ModuleType:
        """The module `ray`, connected. Raises UserError if it is not installed, or no cluster answers."""
        with _handlers_kept():
            try:
                import ray
            except ImportError:
                raise UserError(
                    "a cluster needs the package ray: in the clone, pip install -e '.[cluster]'; on one machine leave out "
                    "--cluster, or set processes to a number"
                ) from None
            if not ray.is_initialized():
                try:
                    _knock(self.address)
                    ray.init(self.address, log_to_driver=False, logging_level="warning")
                except Exception as error:  # of a dozen types
                    raise UserError(
                        f"{self.address}: there is no Ray cluster to connect to ({first_line(error)}); start one by `ray start "
                        "--head`, or do without: one machine needs none (docs/cluster.md)"
                    ) from None
        connected: ModuleType = ray
        return connected


def pool_of(
    where: int | Cluster,
    work: Callable[[T], R],
    begin: Callable[[Any], None] | None = None,
    value: Any = None,
    retries: int = 1,
    replace_failed: bool = False,
) -> Pool[T, R] | ClusterPool[T, R]:
    """A pool of so many processes, or of those of a cluster. The other arguments are those of `Pool`."""
    if isinstance(where, Cluster):
        return ClusterPool(where, work, begin, value, retries, replace_failed)
    return Pool(work, where, begin, value, retries, replace_failed)


class ClusterPool(Generic[T, R]):
    """`Pool` on a cluster, with as many workers as it has CPUs. What tasks report is not passed on.

    A task whose worker is lost is given again, to another one. If its folder is then still in use, the lost one may be alive on a
    machine that only seemed to be dead: it is tried again for LEASE_SECONDS.

    Args: as of `Pool`, and the cluster.

    Raises UserError as `Cluster.connect` does.
    """

    def __init__(
        self,
        cluster: Cluster,
        work: Callable[[T], R],
        begin: Callable[[Any], None] | None = None,
        value: Any = None,
        retries: int = 1,
        replace_failed: bool = False,
    ):
        self._ray = cluster.connect()
        self._shared = [str(path.resolve()) for path in (Path.cwd(), *cluster.shared)]
        self._setup = (pickle.dumps((work, begin, value)), retries, replace_failed)
        self._workers: list[_Remote[T]] = []
        self._waiting: deque[tuple[int, T]] = deque()
        self._given = self._starts = 0
        self._lost: Counter[int] = Counter()
        self._until: dict[int, float] = {}  # a task that was given again may find its folder in use
        self._again = True

    def give(self, tasks: Iterable[T]) -> range:
        """As of `Pool`."""
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
        """As of `Pool`."""
        self._waiting.clear()
        self._again = False

    def ended(
        self, seconds: float = LOOK_SECONDS, on_report: Callable[[int, Any], None] | None = None
    ) -> list[End[T, R]]:
        """The tasks that came to an end; waits so many seconds for one.

        Raises UserError if workers cannot start, see `_Remote.begin`.
        """
        self._start()
        awaited = {worker.reference: worker for worker in self._workers if worker.reference is not None}
        ready: list[Any] = self._ray.wait(list(awaited), timeout=seconds)[0] if awaited else []
        ends: list[End[T, R]] = []
        for reference in ready:
            worker = awaited[reference]
            try:
                answer = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:  # what a worker does not expect
                raise UserError(f"the cluster: a worker failed: {first_line(error.cause)}") from error
            except self._ray.exceptions.RayError as error:
                ends += self._lose(worker, error)
                continue
            worker.reference = None
            if worker.task is None:
                worker.begun(answer)
                self._starts = 0
                continue
            (number, task), worker.task = worker.task, None
            worker.idle_since = time.monotonic()
            result, failed = map(pickle.loads, answer)
            if isinstance(failed, FolderInUse) and time.monotonic() < self._until.get(number, 0.0) and self._again:
                time.sleep(1.0)
                self._waiting.append((number, task))
            else:
                ends.append(End[T, R](number, task, result, failed))
        return ends

    def results(
        self,
        tasks: Iterable[T],
        on_report: Callable[[int, Any], None] | None = None,
        again: Callable[[T, UserError], T] | None = None,
    ) -> list[R]:
        """As of `Pool`."""
        return in_order(self, tasks, on_report, again)

    def drop(self) -> None:
        """Forget the tasks that wait, and end those that run."""
        self._waiting.clear()
        self._stop([worker for worker in self._workers if worker.task is not None])

    def close(self) -> None:
        """End all workers."""
        self._waiting.clear()
        self._stop(list(self._workers))

    def _start(self) -> None:
        """Give what waits to idle workers. Ask for more of them, or end those that are not needed."""
        for worker in self._workers:
            if worker.idle and self._waiting:
                worker.give(self._waiting.popleft())
        if self._waiting:
            cpus = int(self._ray.cluster_resources().get("CPU", 0))
            while len(self._workers) < min(max(1, cpus), len(self.running) + len(self._waiting)):
                self._workers.append(_Remote(self._ray, self._setup, self._shared))
            return
        late = time.monotonic() - IDLE_SECONDS
        self._stop([worker for worker in self._workers if worker.task is None and worker.idle_since < late])

    def _lose(self, worker: _Remote[T], error: Exception) -> list[End[T, R]]:
        self._stop([worker])
        if worker.task is None:
            self._starts += 1
            if self._starts >= STARTS:
                raise UserError(
                    f"the cluster: {STARTS} workers did not start ({first_line(error)}); see docs/cluster.md"
                )
            return []
        number, task = worker.task
        self._lost[number] += 1
        if self._lost[number] <= LOSSES and self._again:
            self._until[number] = time.monotonic() + LEASE_SECONDS
            self._waiting.appendleft((number, task))
            return []
        how = f"was lost, {self._lost[number]} times, perhaps with its machine ({first_line(error)})"
        return [End(number, task, error=WorkerDied(how))]

    def _stop(self, workers: list[_Remote[T]]) -> None:
        for worker in workers:
            self._ray.kill(worker.actor)
            self._workers.remove(worker)


class _Remote(Generic[T]):
    """A worker of the cluster, as this process sees it. It waits for a CPU, prepares itself, then has one task after another."""

    def __init__(self, ray: Any, setup: tuple[bytes, int, bool], shared: list[str]):
        environment = {name: os.environ[name] for name in VARIABLES if name in os.environ} | {"PYTHONPATH": _paths()}
        made = ray.remote(num_cpus=1, runtime_env={"env_vars": environment})(Worker)
        self.actor = made.remote(*setup)
        self.task: tuple[int, T] | None = None
        self.idle_since = float("inf")
        self.reference: Any = self.actor.begin.remote(shared)

    @property
    def idle(self) -> bool:
        return self.task is None and self.reference is None

    def begun(self, found: Found) -> None:
        """Its CPU is there. Raises UserError if its machine lacks a folder, or has other versions than this one."""
        self.idle_since = time.monotonic()
        if found.missing:
            raise UserError(
                f"{found.missing[0]}: is not there on {found.host}, a machine of the cluster; work in a folder that all of its "
                "machines share, and name such a one for --out"
            )
        for name, version in versions().items():
            if found.versions.get(name) != version:
                raise UserError(
                    f"{found.host}, a machine of the cluster, has {name} {found.versions.get(name, 'not')} and this one {version}; "
                    "install the same on both"
                )

    def give(self, task: tuple[int, T]) -> None:
        self.task = task
        self.reference = self.actor.work.remote(pickle.dumps(task[1]))


def _knock(address: str) -> None:
    """Raises OSError or ValueError if nothing listens there: Ray would try for a quarter of an hour."""
    if address == "auto":
        last = Path("/tmp/ray/ray_current_cluster")  # what `ray start` leaves, as `ray.init` says
        address = os.environ.get("RAY_ADDRESS") or (last.read_text() if last.exists() else "")
        if not address:
            return  # Ray looks for a process
    host, _, port = address.strip().rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"{address.strip()!r} is not HOST:PORT")
    socket.create_connection((host, int(port)), KNOCK_SECONDS).close()


def versions() -> dict[str, str]:
    found = {"skillmeta": __version__}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _paths() -> str:
    """Where modules are found beside an installation: a checkout, the folder of a config. In the form of PYTHONPATH."""
    installed = (sys.prefix, sys.base_prefix)
    found = [os.path.abspath(path) for path in sys.path]
    return os.pathsep.join(dict.fromkeys(path for path in found if not path.startswith(installed)))


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Who hears Ctrl-C and SIGTERM stays so: Ray takes SIGTERM."""
    ours = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if ours else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- in a process of the cluster -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Found:
    """What there is where a worker is."""

    host: str
    missing: list[str]  # folders
    versions: Mapping[str, str]


class Worker:
    """Hands tasks to a worker process of its own, and what becomes of them back. Nothing is unpickled here but errors."""

    def __init__(self, setup: bytes, retries: int, replace_failed: bool):
        vars(sys.modules["__main__"]).pop("__file__", None)  # else the worker process runs Ray's main script first
        self._pool: Pool[bytes, bytes] = Pool(_work, 1, _begin, setup, retries, replace_failed)

    def begin(self, shared: list[str]) -> Found:
        """Go to the first of these folders."""
        missing = [path for path in shared if not os.path.isdir(path)]
        if not missing:
            os.chdir(shared[0])
        return Found(socket.gethostname(), missing, versions())

    def work(self, message: bytes) -> tuple[bytes, bytes]:
        """What a pickled task returned, and what it raised, both pickled."""
        try:
            return self._pool.results([message])[0], pickle.dumps(None)
        except UserError as error:
            return pickle.dumps(None), pickle.dumps(error)


# -- in its worker process -------------------------------------------------------------------------------------------------
_do: Callable[[Any], Any]


def _begin(setup: bytes) -> None:
    global _do
    _do, begin, value = pickle.loads(setup)
    if begin is not None:
        begin(value)


def _work(message: bytes) -> bytes:
    return pickle.dumps(_do(pickle.loads(message)))
