"""A run on disk: its config, its metrics, its checkpoints and its result, in one folder that one process at a time may use.

A run is continued by opening its folder again with the same config. Metrics are cut back to the checkpoint that it continues
from, so that an interrupted run leaves the same file as an uninterrupted one. One whose length has grown (`Identity.lengths`) goes
on, even if it was finished.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import math
import multiprocessing
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock

from skillmeta import __version__
from skillmeta.config import check_readable, dump_yaml, read_yaml
from skillmeta.errors import CheckpointError, ConfigError, UserError
from skillmeta.reading import CHECKSUMS, checksums, read_json, read_rows, sha256, verify
from skillmeta.run.checkpoint import State, load_state, save_state
from skillmeta.run.files import lock_folder, remove, settle, write_whole
from skillmeta.run.identity import Identity
from skillmeta.run.rows import Written
from skillmeta.run.signals import GRACE_SECONDS, StopSignals
from skillmeta.run.trackers import Trackers
from skillmeta.trust import check_links, modules_of_run

KEEP = 2  # checkpoints
METRICS = "metrics.jsonl"  # a row an iteration
RESULT = "result.json"  # marks a finished run
SEALED = (
    "config.yaml",
    "environment.json",
    METRICS,
    "*.npz",
    "parts/*.npz",
    "*/manifest.json",
)  # when a run is finished
CHECKPOINTS = "checkpoints"  # the folder that holds them
LAST = "last"  # the same of a finished run: the newest one, from which it can be made longer
CONTINUED = "continued.json"  # the lengths that a run had before it was continued, a mapping each time
STOP_FILE = ".stop"  # whoever schedules the run asks it to stop by making this file
PACKAGES = (
    "torch", "numpy", "gymnasium", "gymnasium-robotics", "mujoco", "minari", "stable-baselines3", "scipy",
)  # fmt: skip


class Run:
    """Use as `with Run.open(folder, config) as run:`; inside, Ctrl-C sets `stop_requested`, see `StopSignals`."""

    def __init__(
        self,
        folder: Path,
        lock: FileLock,
        identity: Identity,
        made: Sequence[Path] = (),
        before: Set[str] = frozenset(),
    ):
        """`made`: folders that were made for this run; `before`: what was in its own."""
        self.folder, self._lock, self.identity, self._made, self._found = folder, lock, identity, made, before
        self._metrics = open(folder / METRICS, "a", encoding="utf-8")  # noqa: SIM115  (closed by __exit__)
        self._digest = hashlib.sha256()  # of the metrics so far
        self.trackers = Trackers()  # that show the metrics elsewhere, too
        self._signals = StopSignals(self._tell)
        self._before: Written | None = None  # what was restored or saved last
        self._asked = False  # by a stop file
        self._reported = self._looked = 0.0

    @classmethod
    def open(
        cls, folder: str | Path, config: dict[str, Any], *, command: str = "", identity: Identity | None = None
    ) -> Run:
        """Start a run in `folder`, or continue the one that is there.

        Args:
            config: is written to config.yaml, as plain values.
            identity: what its checkpoints are of; by default the config as it stands.

        Raises:
            UserError: another process is using the folder, it cannot be written, or a link in it leads out of it.
            ConfigError: the folder holds a run with another config; the sentence names the keys that differ. Or the config has a
                size that would not be read again, see `skillmeta.limits`.
        """
        folder = Path(folder)
        check_readable(config)
        identity = identity or Identity(config)
        made = [one for one in (folder, *folder.parents) if not one.exists()]
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
        lock = lock_folder(folder)
        try:
            for path in (folder / name for name in ("config.yaml", "environment.json", METRICS, RESULT)):
                if path.exists() and not path.is_file():
                    raise UserError(f"{path}: is no file; remove it, then run the same command again")
            saved = folder / "config.yaml"
            if saved.exists():
                if changed := identity.changes_of(saved, config):
                    raise ConfigError(
                        f"{folder}: holds a run with another config ({'; '.join(changed[:5])}); "
                        "use another --out, or delete the folder to start anew"
                    )
                if before := identity.grown(saved):
                    reopen(folder, identity, before)
                    write_whole(saved, dump_yaml(config))
            else:
                write_whole(saved, dump_yaml(config))
            modules = modules_of_run(folder, config)  # also of a finished run: it reports those that have changed
            origin = folder / "environment.json"
            if read_result(folder) is None or not origin.exists():  # a finished run keeps where its result came from
                about = {**environment(command), "modules": modules}
                write_whole(origin, json.dumps(about, indent=1))
                seal(folder, ("config.yaml", "environment.json"))
            if (
                multiprocessing.parent_process() is None
            ):  # else a scheduler may have made it while this run was starting
                (folder / STOP_FILE).unlink(missing_ok=True)
            return cls(folder, lock, identity, made, there)
        except BaseException:
            lock.release()
            raise

    def __enter__(self) -> Run:
        self._signals.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._signals.__exit__()
        self.trackers.close()
        try:
            if isinstance(error, FileNotFoundError):
                self._check_there()
            self._metrics.close()  # which fails where the disk is full
            nothing = isinstance(error, Exception) and self._leave_nothing()
        finally:
            self._lock.release()
        if nothing:
            if ".lock" not in self._found:
                (self.folder / ".lock").unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # a folder that somebody else has put something into
                for one in self._made:
                    one.rmdir()

    def _leave_nothing(self) -> bool:
        """Remove what this run has written, if it began here and failed before it came to anything. Whether it has."""
        own = {"config.yaml", METRICS, "environment.json", "progress.json", CHECKSUMS, ".lock"}
        new = {path.name for path in self.folder.iterdir()} - self._found if self.folder.is_dir() else {""}
        if not {"config.yaml", METRICS} <= new <= own or (self.folder / METRICS).stat().st_size:
            return False
        for name in new - {".lock"}:
            (self.folder / name).unlink()
        return True

    def _check_there(self) -> None:
        """Raises UserError if the folder was deleted or moved: what is written now would be lost, or be a run without a config."""
        try:
            there = os.path.samestat(os.stat(self.folder / METRICS), os.fstat(self._metrics.fileno()))
        except FileNotFoundError:
            there = False
        if not there or not (self.folder / "config.yaml").exists():
            raise UserError(
                f"{self.folder}: was deleted or moved, or lost its config.yaml or metrics.jsonl, while this run was using it; put "
                "it back or delete the rest of it, then run the same command again"
            )

    def _tell(self) -> None:
        print(
            f"\n{self.folder}: stopping at the next safe point, or in {GRACE_SECONDS:.0f} seconds; press Ctrl-C again to abort",
            file=sys.stderr,
        )

    @property
    def stop_requested(self) -> bool:
        """Whether to save and return: after a first Ctrl-C or SIGTERM, or when the scheduler has left a stop file."""
        if self._signals.heard:
            self._signals.safe()
            return True
        now = time.monotonic()
        if not self._asked and now - self._looked > 0.2:
            self._looked = now
            self._asked = (self.folder / STOP_FILE).exists()
        return self._asked

    # -- metrics ---------------------------------------------------------------------------------------------------------
    def log(self, kind: str, **values: float | int | str | bool) -> None:
        """Append one row to metrics.jsonl. Raises UserError, and writes nothing, if a number is not finite."""
        row: dict[str, Any] = {"kind": kind}
        for name, value in values.items():
            plain = value.item() if hasattr(value, "item") else value
            if isinstance(plain, float) and not math.isfinite(plain):
                raise UserError(
                    f"{self.folder}: {name} became {plain}; the last checkpoint is from before that: "
                    "lower the learning rate or look at the rewards, then start anew"
                )
            row[name] = plain
        line = json.dumps(row) + "\n"
        self._digest.update(line.encode())
        self._metrics.write(line)
        self.trackers.row(row)

    def report_progress(self, fraction: float, text: str) -> None:
        """Leave a line for whoever shows this run's progress, at most twice a second."""
        now = time.monotonic()
        if now - self._reported > 0.5:
            self._reported = now
            self._check_there()
            self._metrics.flush()
            write_whole(self.folder / "progress.json", json.dumps({"fraction": fraction, "text": text}), sync=False)

    # -- checkpoints -----------------------------------------------------------------------------------------------------
    def checkpoint(self, step: int, state: State) -> None:
        """Save everything needed to continue; the newest two are kept. Raises UserError if it cannot be written, or
        the folder is gone."""
        self._check_there()
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        size = os.fstat(self._metrics.fileno()).st_size
        try:
            about = {
                "step": step,
                "metrics_bytes": size,
                "metrics_sha256": self._digest.hexdigest(),
                **self.identity.meta(),
            }
            folder = self._checkpoints / f"ckpt-{step:012d}"
            save_state(folder, state, about, self._before)
        except OSError as error:
            raise UserError(
                f"{self._checkpoints}: cannot save step {step} ({error}); older checkpoints are intact"
            ) from error
        self._before = Written.of(folder, state)
        for old in self._saved()[KEEP:]:
            remove(old)

    def restore(self) -> State | None:
        """The newest checkpoint that is whole, or None; metrics are cut back to it. Says on stderr what it skipped.

        Raises UserError for a checkpoint of something else: of another version, which would continue with other random numbers and
        losses, or of a skill model or logs that have changed.
        """
        for folder in self._saved():
            try:
                state, meta = load_state(folder)
            except CheckpointError as error:
                print(f"skipped: {error}", file=sys.stderr)
                continue
            self.identity.check(folder, meta)
            self._cut_metrics(meta.get("metrics_bytes"), meta.get("metrics_sha256"))
            self._before = Written.of(folder, state)
            return state
        if self.continued and self._saved():
            raise CheckpointError(
                f"{self._checkpoints}: holds no checkpoint to resume from; start anew in another --out"
            )
        self._cut_metrics(0, None)
        return None

    @property
    def _checkpoints(self) -> Path:
        return self.folder / CHECKPOINTS

    def _saved(self) -> list[Path]:
        """Checkpoint folders, newest first; leftovers of interrupted saves are removed."""
        if not self._checkpoints.is_dir():
            return []
        for leftover in [*self._checkpoints.glob(".tmp-*"), *self._checkpoints.glob(".old-*")]:
            settle(self._checkpoints / leftover.name[len(".tmp-") :].rpartition("-")[0])
        found = [path for path in self._checkpoints.iterdir() if re.fullmatch(r"ckpt-\d+", path.name)]
        return sorted(found, reverse=True)

    def _cut_metrics(self, size: Any, digest: Any) -> None:
        """Back to what they were at a checkpoint. Raises UserError if that is not there any more."""
        self._metrics.flush()
        found = os.fstat(self._metrics.fileno()).st_size
        if not isinstance(size, int) or found < size:
            raise UserError(
                f"{self.folder / METRICS}: has {found:,} bytes, the checkpoint was saved after {size}; it was deleted or cut, "
                "put it back, or start anew in another --out"
            )
        self._digest, left = hashlib.sha256(), size
        with open(self.folder / METRICS, "rb") as file:
            while block := file.read(min(left, 2**20)):
                self._digest.update(block)
                left -= len(block)
        if digest not in (None, self._digest.hexdigest()):
            raise UserError(
                f"{self.folder / METRICS}: is not what it was when the checkpoint was saved; it is damaged, put it back, or start "
                "anew in another --out"
            )
        self._metrics.truncate(size)

    # -- the end -----------------------------------------------------------------------------------------------------------
    def finish(self, result: dict[str, Any], write_page: Callable[[], object] | None = None) -> dict[str, Any]:
        """End the run: result.json, which marks it as finished, then its page. What the result needs is saved before.

        A run that is finished already keeps its result.json, and the rest is done again: a program that finds `result` calls
        this, so that its command also writes the page, or puts the last checkpoint away, where a kill came before that.

        Args:
            write_page: writes the page from the files of the run alone, the page itself last.

        Returns:
            The result.
        """
        self._check_there()
        self._metrics.flush()
        if self.result is None:
            text = json.dumps(result, indent=1)
            seal(self.folder, SEALED, {RESULT: hashlib.sha256(text.encode()).hexdigest()})
            write_whole(self.folder / RESULT, text)
        write_whole(self.folder / "progress.json", json.dumps({"fraction": 1.0, "text": "done"}))
        if write_page is not None:
            write_page()
        for old in self._saved()[1:]:
            remove(old)
        if self._checkpoints.is_dir():  # last: who schedules runs takes one without them for complete
            remove(self.folder / LAST)
            os.replace(self._checkpoints, self.folder / LAST)
        return result

    @property
    def continued(self) -> list[dict[str, int | None]]:
        """The lengths that the run had each time before it was continued."""
        return read_continued(self.folder)

    @property
    def result(self) -> dict[str, Any] | None:
        """What `finish` wrote, or None while the run is not done."""
        return read_result(self.folder)

    @property
    def command(self) -> str:
        """The command that made the run, for its page."""
        return str(read_json(self.folder / "environment.json").get("command", ""))


def seal(folder: Path, patterns: Sequence[str], digests: Mapping[str, str] | None = None) -> None:
    """Write checksums of the files in a folder that match, and `digests` of those that are about to be written."""
    files = sorted(path for pattern in patterns for path in folder.glob(pattern))
    found = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    write_whole(folder / CHECKSUMS, checksums({**found, **(digests or {})}))


def reopen(folder: Path, identity: Identity, before: Mapping[str, int | None]) -> None:
    """Continue a run that had these lengths. Killed in between, it is opened again in the same way.

    Raises UserError for a finished run whose last checkpoint is gone or damaged, or is of something else; it stays finished.
    """
    if read_result(folder) is not None and not (folder / CHECKPOINTS).is_dir():
        last = max((folder / LAST).glob("ckpt-*"), default=None)
        if last is None:
            raise UserError(
                f"{folder}: is finished and its last checkpoint, {folder / LAST}, is gone, so it cannot be made longer; use "
                "another --out"
            )
        identity.check(last, load_state(last)[1])
        os.replace(folder / LAST, folder / CHECKPOINTS)
    done = read_continued(folder)
    if not done or done[-1] != before:
        write_whole(folder / CONTINUED, json.dumps({"lengths": [*done, dict(before)]}))
    (folder / "result.json").unlink(missing_ok=True)


def read_continued(folder: Path) -> list[dict[str, int | None]]:
    path = folder / CONTINUED
    return list(read_json(path).get("lengths", [])) if path.exists() else []


def trained_config(folder: Path, trust: bool = False) -> dict[str, Any]:
    """config.yaml of the training run in a folder, whose links are looked at before anything in it is read. Needs no lock.

    Raises UserError where there is none, which says what the folder holds instead, and without `trust` for a link that leads out
    of the folder.
    """
    if folder.is_dir():
        check_links(folder, trust)
    file = folder / "config.yaml"
    node = read_yaml(file, limited=not trust) if file.exists() else {}
    if "algorithm" in node:
        return node
    what = "holds no run"
    if "methods" in node:
        runs = sorted(path.parent for path in folder.glob("methods/*/**/config.yaml"))
        what = f"is an ablation; its runs are folders such as {runs[0]}" if runs else "is an ablation without a run yet"
    elif "source" in node:
        what = "is a skill model, which acts in no task by itself; fine-tune on it, or use SkillEnv"
    elif "agents" in node:
        what = "is an evaluation of runs"
    raise UserError(f"{folder}: {what}; name the --out of `skillmeta finetune` or `skillmeta meta-train`")


def is_finished(folder: Path) -> bool:
    """Whether the run in a folder has a result and its page, and nothing is left to be removed. Needs no lock."""
    return (folder / RESULT).exists() and not (folder / CHECKPOINTS).exists()


def read_result(folder: str | Path) -> dict[str, Any] | None:
    """The result of the run in a folder, or None if it has none (yet). Needs no lock.

    Raises UserError if a file of the finished run is damaged.
    """
    path = Path(folder) / RESULT
    if not path.exists():
        return None
    verify(path.parent)
    return read_json(path)


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl; a last line that was torn by a kill is left out. Needs no lock."""
    path = Path(folder) / METRICS
    return read_rows(path) if path.exists() else []


def environment(command: str) -> dict[str, Any]:
    """What a result depends on beside the config: versions, machine, threads, the command."""
    versions = {"skillmeta": __version__}  # of the code at work: an editable installation's metadata may be older
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": command,
        "python": platform.python_version(),
        "versions": versions,
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "system": platform.platform(terse=True)},
        "threads": os.environ.get("OMP_NUM_THREADS", "1"),
    }


def cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
