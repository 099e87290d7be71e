"""Counts the file operations of a program below a folder, and at one of them kills the process or fills the disk.

What is counted: `open` for writing, `write`, `truncate` and `close` of such files, `os.replace`, `os.rename`, `os.fsync`,
`os.link`, `os.mkdir`, `os.unlink` and `os.rmdir`. The product writes nothing through C: h5py, numpy and matplotlib write into
memory.
A kill comes before the operation; a write that is killed leaves half of its data in the file.
"""

from __future__ import annotations

import builtins
import errno
import io
import mmap
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

PROJECT = Path(__file__).parents[2]
PROGRAMS = tuple(str(PROJECT / name) + os.sep for name in ("skillmeta", "pretrain", "downstream"))
NEEDS_SPACE = ("open", "write", "mkdir")
NEEDS_PERMISSION = (*NEEDS_SPACE, "replace", "rename", "unlink", "rmdir", "truncate")


class Places(Protocol):
    """What a list does here."""

    def append(self, place: str, /) -> None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> str: ...


class SharedPlaces:
    """Places of the operations of a process and of those that are forked from it, in one count, and in a file, a line each."""

    def __init__(self, file: Path):
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        self._count, self._own = mmap.mmap(-1, 8), ""

    def append(self, place: str, /) -> None:
        os.write(self._file, f"{place}\n".encode())
        self._count[:] = (len(self) + 1).to_bytes(8, "little")
        self._own = place

    def __len__(self) -> int:
        return int.from_bytes(self._count[:], "little")

    def __getitem__(self, index: int, /) -> str:
        assert index == -1, "the last one of this process is known"
        return self._own

    def close(self) -> None:
        os.close(self._file)
        self._count.close()


class Shim:
    """Use as `with Shim(root, at=k):`.

    Args:
        root: operations on files elsewhere are not counted.
        at: the operation at which the fault comes, as its number from 0 or its place, then the first there; None only counts.
        full: the fault is a full disk from there on, not a SIGKILL.
        error: what a full disk says; EROFS is of one that is read-only from there on.
        places: of each operation: the functions of this project that led to it, its line, kind, file. A list, or what worker
            processes append to as well.
        victim: whom the signal is sent to; where that is another process, this one continues.
    """

    def __init__(
        self,
        root: Path,
        at: int | str | None = None,
        full: bool = False,
        places: Places | None = None,
        victim: Callable[[], int] = os.getpid,
        error: int = errno.ENOSPC,
    ):
        self.root, self.at, self.full, self.victim, self.error = root.resolve(), at, full, victim, error
        self.places: Places = [] if places is None else places
        self._is_full = False
        self._patches = pytest.MonkeyPatch()

    def operation(self, kind: str, path: Any, torn: Callable[[], object] | None = None) -> None:
        """Count one operation, or let the fault happen."""
        where = Path(os.path.realpath(os.fspath(path)))
        if not where.is_relative_to(self.root):
            return
        self.places.append(f"{callers()}: {kind} {re.sub('[0-9]+', '#', where.name)}")
        if self.at in (len(self.places) - 1, self.places[-1]):
            if not self.full:
                if torn is not None and self.victim() == os.getpid():
                    torn()
                os.kill(self.victim(), signal.SIGKILL)
            self._is_full = self.full
        if self._is_full and kind in (NEEDS_SPACE if self.error == errno.ENOSPC else NEEDS_PERMISSION):
            raise OSError(self.error, os.strerror(self.error), str(where))

    def __enter__(self) -> Shim:
        patch = self._patches.setattr
        plain = builtins.open
        for module in (builtins, io):
            patch(module, "open", lambda *args, **kwargs: self._open(plain, *args, **kwargs))
        for name in ("replace", "rename", "link"):
            patch(os, name, self._counted(getattr(os, name), name, lambda args: args[1]))
        for name in ("mkdir", "unlink", "rmdir"):
            patch(os, name, self._counted(getattr(os, name), name, lambda args: args[0]))
        patch(os, "fsync", self._counted(os.fsync, "fsync", lambda args: f"/proc/self/fd/{descriptor(args[0])}"))
        return self

    def __exit__(self, *unused: object) -> None:
        self._patches.undo()

    def _counted(self, call: Callable[..., Any], kind: str, path: Callable[[Any], Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            where, folder = path(args), kwargs.get("dir_fd")
            self.operation(kind, where if folder is None else f"/proc/self/fd/{folder}/{where}")
            return call(*args, **kwargs)

        return counted

    def _open(self, plain: Callable[..., Any], file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+"):
            return plain(file, mode, *args, **kwargs)
        self.operation("open", file)
        return Written(self, plain(file, mode, *args, **kwargs), file)


class Written:
    """A file that was opened for writing, whose operations are counted."""

    def __init__(self, shim: Shim, file: Any, path: Any):
        self._shim, self._file, self._path = shim, file, path

    def write(self, data: Any) -> int:
        def half() -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._shim.operation("write", self._path, half)
        return self._file.write(data)

    def truncate(self, *args: Any) -> int:
        self._shim.operation("truncate", self._path)
        return self._file.truncate(*args)

    def close(self) -> None:
        if not self._file.closed:
            self._shim.operation("close", self._path)
        self._file.close()

    def __enter__(self) -> Written:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def callers() -> str:
    """The functions of this project that the present call is in, outermost first, and the line of the innermost."""
    names: list[str] = []
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(PROGRAMS):
            name = frame.f_code.co_name
            names.append(name if names else f"{name}@{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
        frame = frame.f_back
    return ">".join(reversed(names))


def descriptor(file: Any) -> int:
    return file if isinstance(file, int) else file.fileno()
