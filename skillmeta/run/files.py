"""Files and folders that are whole or not there, whatever ends the process, and locks for what one process may write.

A file or folder is written under a temporary name beside its place, synced to the disk and renamed. A process that is killed
leaves at most siblings called `.tmp-*` and `.old-*`. `settle` removes them, or puts the old one back where nothing took its
place; `lock_folder` removes `.tmp-*`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from skillmeta.errors import UserError
from skillmeta.trust import check_links


def write_whole(path: Path, content: str | bytes, sync: bool = True) -> None:
    """Write a file so that a reader sees the old or the new content, never a part. Raises OSError, the old content kept.

    Args:
        sync: wait until the disk has it, so that it also survives a loss of power.
    """
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        write_synced(temporary, content.encode() if isinstance(content, str) else content, sync)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_path(path.parent)


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """`numpy.savez_compressed` of named arrays, by `write_whole`; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_whole(path, buffer.getvalue())


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill; when the block ends it takes the place of `folder`, which is removed if it was there.

    One process at a time. If anything raises, `folder` is as it was. If the process dies, it is as it was or new; where it died
    between the two renames, `folder` is missing, and `whole` or `settle` finds it as it was.
    """
    settle(folder)
    temporary = folder.parent / f".tmp-{folder.name}-{os.getpid()}"
    temporary.mkdir()
    try:
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            if path.is_dir() or path.stat().st_nlink == 1:  # a hard link is to what was synced before
                sync_path(path)
        if folder.exists():  # no rename replaces a folder that is not empty
            os.replace(folder, folder.parent / f".old-{folder.name}-{os.getpid()}")
        os.replace(temporary, folder)
        sync_path(folder.parent)
    finally:
        settle(folder)


def whole(folder: Path) -> Path:
    """`folder`, or its replaced state where a process died between the two renames of `replacing_folder`."""
    return folder if folder.exists() else next(iter(_siblings(folder, "old")), folder)


def settle(folder: Path) -> None:
    """Remove what `replacing_folder` left when its process died; a folder that it took away without a new one is put back."""
    for temporary in _siblings(folder, "tmp"):
        remove(temporary)
    for old in _siblings(folder, "old"):
        if folder.exists():
            remove(old)
        else:
            os.replace(old, folder)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


class FolderInUse(UserError):
    """Another process holds the lock of what this one would write."""


def acquire_lock(path: Path, busy: str) -> FileLock:
    """The lock of a file, for this process until it is released; the operating system releases it when the process dies.

    Raises:
        FolderInUse: `busy`, if another process holds it.
        UserError: one that names the folder, if it cannot be written.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise FolderInUse(busy) from None
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be written ({error}); choose another place") from None
    return lock


def wait_for_lock(path: Path) -> None:
    """Wait until no process holds the lock of a file."""
    with FileLock(path, poll_interval=0.2):
        pass


def lock_folder(folder: Path) -> FileLock:
    """Make a folder, lock it and remove the temporary files of dead processes, in it and in its subfolders.

    Raises FolderInUse if another process holds the lock, UserError if it cannot be written, or a link in it leads out of it.
    """
    check_links(folder)  # before anything is written
    lock = acquire_lock(
        folder / ".lock", f"{folder}: another process is running in this folder; wait for it or use another --out"
    )
    for path in [*folder.glob(".tmp-*"), *folder.glob("*/.tmp-*")]:
        remove(path)
    return lock


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """`lock_folder` for a block."""
    lock = lock_folder(folder)
    try:
        yield
    finally:
        lock.release()


def write_synced(path: Path, data: bytes, sync: bool = True) -> None:
    """Write a file in place. For one that nobody reads yet."""
    with open(path, "wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def sync_path(path: Path) -> None:
    """Wait until the disk has a file, or the entries of a folder. Windows opens no folder, and syncs no file that is only read."""
    try:
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    except PermissionError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _siblings(folder: Path, kind: str) -> list[Path]:
    name = re.compile(rf"\.{kind}-{re.escape(folder.name)}-\d+")
    return (
        sorted(path for path in folder.parent.iterdir() if name.fullmatch(path.name)) if folder.parent.is_dir() else []
    )
