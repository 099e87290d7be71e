"""Where the arrays of a log lie: in memory up to a size, above it in files, so that a log may be larger than memory.

Pages of a file are the operating system's, which takes them back when memory is short. They are read and written as any array.
"""

from __future__ import annotations

import math
import mmap
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from numpy.typing import DTypeLike

from skillmeta.errors import UserError

SMALL = 64  # what is needed beside them lies in files above this fraction of it
PART = 2**23  # bytes that are read at once


class Rows(Protocol):
    """An array in memory, or one in a file that is read in pieces."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    def __getitem__(self, rows: slice) -> np.ndarray: ...


@dataclass(frozen=True)
class Room:
    """Allocates the arrays of a log.

    Args:
        above: bytes; a log that is larger lies in files.
        scratch: the folder for arrays that are needed for a while, without names: a killed process leaves none. None for memory.
        folder: makes the folder for the arrays of a log that lies in files.
    """

    above: int = sys.maxsize
    scratch: Path | None = None
    folder: Callable[[], Path] | None = None

    def beside(self, size: int) -> Room:
        """The room for what is needed beside arrays of so many bytes: memory, unless they are large."""
        return self if size > self.above else replace(self, scratch=None)

    def columns(self, shapes: Mapping[str, tuple[tuple[int, ...], DTypeLike]]) -> dict[str, np.ndarray]:
        """The arrays of a log, by name, without values. Raises UserError if the disk has no room for them."""
        if self.folder is None or sum(_bytes(*shape) for shape in shapes.values()) <= self.above:
            return {name: np.empty(*shape) for name, shape in shapes.items()}
        folder = self.folder()
        found: dict[str, np.ndarray] = {}
        for name, (shape, kind) in shapes.items():
            path = folder / f"{name}.npy"
            with on_disk(folder), open(path, "wb") as file:
                header = {"descr": np.lib.format.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                _reserve(file, file.tell() + _bytes(shape, kind))
            found[name] = np.lib.format.open_memmap(path, "r+")
        return found

    def empty(self, shape: tuple[int, ...], kind: DTypeLike) -> np.ndarray:
        """An array for a while, without values. Raises UserError if the disk has no room for it."""
        if self.scratch is None or (size := _bytes(shape, kind)) <= self.above // SMALL:
            return np.empty(shape, kind)
        with on_disk(self.scratch):
            self.scratch.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.scratch) as file:
                _reserve(file, size)
                return np.frombuffer(mmap.mmap(file.fileno(), size), kind).reshape(shape)

    def flags(self, rows: int, value: bool) -> np.ndarray:
        """`empty` flags, all with a value."""
        found = self.empty((rows,), np.bool_)
        found[:] = value
        return found

    def whole(self, rows: Rows, together: int = 1) -> np.ndarray:
        """All rows of an array. `together`: how many lie in one piece of the file."""
        if isinstance(rows, np.ndarray):
            return rows
        if self.scratch is None:
            return rows[:]
        found = self.empty(rows.shape, rows.dtype)
        for begin, end in parts(rows.shape[0], _bytes(rows.shape[1:], rows.dtype), together):
            found[begin:end] = rows[begin:end]
        return found

    def fits(self, files: Sequence[Path]) -> bool:
        """Whether what is in files can be held before it is known how large it is."""
        return sum(file.stat().st_size for file in files) <= self.above // 2


IN_MEMORY = Room()


def parts(rows: int, row_bytes: int, together: int = 1) -> Iterator[tuple[int, int]]:
    """Begin and end of pieces of at most `PART` bytes, or of a multiple of `together` rows."""
    size = max(1, PART // max(1, row_bytes) // together) * together
    for begin in range(0, rows, size):
        yield begin, min(rows, begin + size)


def at_random(values: np.ndarray) -> np.ndarray:
    """The same array, whose rows are read at random; from a file in a map of its own.

    One that fits into half of the memory will soon be there: its pages are large ones, where the system has such, which are found
    faster. Of a larger one no page is read beside those that are asked for, where rows are wide.
    """
    if not isinstance(values, np.memmap) or not hasattr(mmap, "MADV_HUGEPAGE"):
        return values
    large = values.nbytes < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    with open(str(values.filename), "rb") as file:
        if large:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # what is there in small ones is read anew
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if large or values.ndim > 1:
        with suppress(OSError):  # a system without large pages
            pages.madvise(mmap.MADV_HUGEPAGE if large else mmap.MADV_RANDOM)
    return np.frombuffer(pages, values.dtype, values.size, values.offset).reshape(values.shape)


def _bytes(shape: Sequence[int], kind: DTypeLike) -> int:
    return math.prod(shape) * np.dtype(kind).itemsize


@contextmanager
def on_disk(folder: Path) -> Iterator[None]:
    """Raises UserError in place of OSError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder}: cannot take the arrays of the log ({error}); free space there, or set SKILLMETA_CACHE to another folder"
        ) from None


def _reserve(file: IO[bytes], size: int) -> None:
    """Make a file so long, and its blocks its own: a page of a map for which a full disk has none ends the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    file.seek(0, os.SEEK_END)
    while (missing := size - file.tell()) > 0:
        file.write(bytes(min(missing, PART)))
    file.flush()
