"""HDF5 files that may be damaged or a stranger's: only what a file holds itself, and no more than fits into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from skillmeta.data.room import Room, Rows
from skillmeta.errors import DataError
from skillmeta.reading import check_promise

SUFFIXES = (".hdf5", ".h5")
CHUNK = (
    2**20
)  # bytes of a chunk; where they are larger an array is read at once, not in pieces that unpack each one again


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """A file to read from. Raises DataError if there is none, or it is none of HDF5."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        opened = h5py.File(path, "r")
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read (OSError: {error}); the file is damaged or not what it seems"
        ) from None
    with opened as file:
        yield file


def member(group: h5py.Group, key: str, path: Path) -> h5py.Group | h5py.Dataset:
    """What a file holds itself under a key, a/b within groups.

    Raises DataError for a link, which may lead to another file, before following it.
    """
    found: h5py.Group | h5py.Dataset = group
    for name in key.split("/"):
        where = f"{found.name}/{name}".lstrip("/")
        if not isinstance(found, h5py.Group) or not found.id.links.exists(name.encode()):
            raise DataError(f"{path}, {where}: is missing")  # h5py's own `get` follows a link to see if it ends
        if found.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            raise DataError(f"{path}, {where}: is a link; copy what it leads to into its place")
        found = found[name]
    return found


def dataset(group: h5py.Group, key: str, path: Path) -> h5py.Dataset:
    """An array that the file holds itself, its promised size held against the file's before anything is allocated."""
    data = member(group, key, path)
    where = data.name.lstrip("/")
    if not isinstance(data, h5py.Dataset):
        raise DataError(f"{path}, {where}: is a group; an array is expected there")
    if data.is_virtual or data.external:
        raise DataError(f"{path}, {where}: has its values in other files; copy them into this one")
    check_promise(path, where, data.size * data.dtype.itemsize, DataError)
    return data


def array(group: h5py.Group, key: str, path: Path) -> np.ndarray:
    """The values of `dataset`."""
    result: np.ndarray = dataset(group, key, path)[()]
    return result


def in_pieces(data: h5py.Dataset, path: Path, room: Room) -> Rows:
    """An array to be read in pieces. Raises DataError where pieces of the file would be larger than memory."""
    if not data.chunks or int(np.prod(data.chunks)) * data.dtype.itemsize <= CHUNK:
        return data  # type: ignore[no-any-return]
    together = data.chunks[0] * (data.nbytes // max(1, len(data)))
    if data.nbytes > room.above and together > room.above // 4:
        raise DataError(
            f"{path}, {data.name.lstrip('/')}: is stored in pieces of {data.chunks}, which take {together:,} bytes to read; store "
            "it in smaller ones, as `h5repack` does"
        )
    return room.whole(data, data.chunks[0])


def leaves(group: h5py.Group, path: Path, prefix: str = "") -> dict[str, h5py.Dataset]:
    """Every array below a group by its key, a/b within groups, in the file's order."""
    found: dict[str, h5py.Dataset] = {}
    for name in group:
        inside = member(group, name, path)
        if isinstance(inside, h5py.Group):
            found |= leaves(inside, path, f"{prefix}{name}/")
        else:
            found[prefix + name] = dataset(group, name, path)
    return found


def has(group: h5py.Group, key: str) -> bool:
    """Whether a group lists a key. Follows nothing."""
    return key in list(group)
