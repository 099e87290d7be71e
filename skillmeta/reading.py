"""Files that may be damaged or a stranger's, read as data: JSON, arrays, and the checksums that a folder keeps of its files.

Everything that skillmeta has written to disk is read here, or by `skillmeta.run.checkpoint` for tensors and
`skillmeta.config.read_yaml` for configs. Whatever is wrong is one sentence that names the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from skillmeta.errors import UserError, first_line
from skillmeta.limits import ARRAY_BYTES, JSON_BYTES, JSON_DEPTH, SHRUNK

UNPACKED = 2**18  # bytes of an array that are unpacked at once
CHECKSUMS = "checksums.json"  # SHA-256 of the files of a finished run or an ablation, in its folder
AGAIN = "restore it, or delete the folder and run its command again"


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- JSON ----------------------------------------------------------------------------------------------------------------------
def read_json(path: Path, raises: type[UserError] = UserError, fix: str = AGAIN) -> dict[str, Any]:
    """The mapping in a JSON file.

    Args:
        raises: for a file that is missing, larger than `JSON_BYTES`, or no mapping of plain values in UTF-8.
        fix: what the sentence says to do.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            raise ValueError("there is no such file")
        with open(path, "rb") as file:
            return parse_json(file.read(JSON_BYTES + 1))
    except (OSError, ValueError) as error:
        raise raises(f"{path}: is missing or damaged ({first_line(error)}); {fix}") from None


def parse_json(data: bytes | str) -> dict[str, Any]:
    """A mapping of plain values. Raises ValueError for anything else, or one that is too large or too deep."""
    if len(data) > JSON_BYTES:
        raise ValueError(f"it has more than {JSON_BYTES:,} bytes")
    try:
        value = json.loads(data if isinstance(data, str) else data.decode("utf-8"), parse_int=_integer)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {JSON_DEPTH}") from None
    level: list[Any] = [value]
    for _ in range(JSON_DEPTH):
        level = [item for one in level if isinstance(one, (dict, list)) for item in _items(one)]
        if not level:
            break
    else:
        raise ValueError(f"it is nested deeper than {JSON_DEPTH}")
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, a mapping is expected")
    return value


def _items(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _integer(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= (value := int(text)) < 2**64:
        raise ValueError(f"the integer {text[:20]} has more than 64 bits")
    return value


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The mappings in a file of JSON lines; a last line that was torn by a kill is left out. Raises UserError."""
    rows: list[dict[str, Any]] = []
    try:
        with open(path, "rb") as file:
            while (line := file.readline(JSON_BYTES + 1)).endswith(b"\n"):
                rows.append(_numbers(parse_json(line)))
            if len(line) > JSON_BYTES:
                raise ValueError(f"it has more than {JSON_BYTES:,} bytes")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}, line {len(rows) + 1}: is damaged ({first_line(error)}); {AGAIN}") from None
    return rows


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    for name, value in row.items():
        expect(value, str if name == "kind" else NUMBER, name)
    return row


# -- what a value should be ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class MapOf:
    """A mapping of any names to values of one schema."""

    item: Any


CALLED = {
    dict: "a mapping of keys to values",
    list: "a list",
    str: "a string",
    bool: "true or false",
    type(None): "null",
}
CALLED |= {int: "a finite number", float: "a finite number", object: "anything"}
NUMBER = (int, float)
OPTIONAL_NUMBER = (int, float, type(None))


def expect(value: Any, schema: Any, at: str) -> None:
    """Raises ValueError with the place and the value, if it is not as the schema says.

    Args:
        schema: a type or several, whose numbers are finite; [schema] for a list; a mapping for one that has at least these keys.
    """
    kind = dict if isinstance(schema, (dict, MapOf)) else list if isinstance(schema, list) else schema
    if not isinstance(value, kind) or (isinstance(value, float) and not math.isfinite(value)):
        names = dict.fromkeys(CALLED[one] for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"{at or 'it'} is {str(value)[:60]!r}; {' or '.join(names)} is expected")
    inside: Any = value
    if isinstance(schema, list):
        for i, item in enumerate(inside):
            expect(item, schema[0], f"{at}[{i}]")
    elif isinstance(schema, MapOf):
        for key, item in inside.items():
            expect(item, schema.item, f"{at}.{key}")
    elif isinstance(schema, dict):
        for key, inner in schema.items():
            if key not in inside:
                raise ValueError(f"{at or 'it'} has no {key}")
            expect(inside[key], inner, f"{at}.{key}".strip("."))


# -- checksums -----------------------------------------------------------------------------------------------------------------
def checksums(contents: Mapping[str, str]) -> str:
    """What a file of checksums holds: the SHA-256 of each file, by its name in the folder, and of this list itself."""
    return json.dumps(stated_checksums(contents), sort_keys=True, indent=1)


def stated_checksums(contents: Mapping[str, str]) -> dict[str, Any]:
    listed = json.dumps(dict(contents), sort_keys=True).encode()
    return {"format": 1, "sha256": dict(contents), "of_list": hashlib.sha256(listed).hexdigest()}


def verify(
    folder: Path,
    manifest: str = CHECKSUMS,
    raises: type[UserError] = UserError,
    fix: str = AGAIN,
    only: str | None = None,
) -> None:
    """Hold the files of a folder against its checksums. One without a manifest passes.

    Args:
        raises: for a file that is missing or does not match.
        only: the name of the one file that is looked at.
    """
    path = folder / manifest
    if not path.exists():
        return
    try:
        expect(stated := read_json(path, raises, fix), {"format": int, "sha256": MapOf(str)}, "")
    except ValueError as error:
        raise raises(f"{path}: is damaged ({error}); {fix}") from None
    digests = stated["sha256"]
    if stated != stated_checksums(digests):
        raise raises(f"{path}: is of another format or damaged; {fix}")
    for name, digest in digests.items():
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise raises(f"{path}: names {name[:100]!r}, which is not in this folder; {fix}")
        if only not in (None, name):
            continue
        if not (folder / name).is_file():
            raise raises(f"{folder / name}: is missing; {fix}")
        if sha256(folder / name) != digest:
            raise raises(
                f"{folder / name}: does not match its checksum in {manifest}; {fix}, or delete {path} if you changed it"
            )


# -- arrays --------------------------------------------------------------------------------------------------------------------
def check_promise(path: Path, array: str, size: int, raises: type[UserError] = UserError) -> None:
    """Raises if an array in a file promises more bytes than a file of its size can have, before they are allocated."""
    has = path.stat().st_size
    if size > max(SHRUNK * has, ARRAY_BYTES):
        raise raises(f"{path}, {array}: promises {size:,} bytes, the file has {has:,}; it is damaged")


def npz_arrays(
    path: Path, raises: type[UserError] = UserError, fix: str = AGAIN
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of each array in an NPZ, by name. Nothing but headers is read.

    Args:
        raises: for a file that is missing or damaged.
    """
    with _undamaged(path, raises, fix), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        return {name: _header(archive, name) for name in names}


def read_npz(
    path: Path,
    names: Iterable[str] | None = None,
    raises: type[UserError] = UserError,
    fix: str = AGAIN,
    empty: Callable[[tuple[int, ...], np.dtype], np.ndarray] = np.empty,
) -> dict[str, np.ndarray]:
    """Arrays of an NPZ by name, all of them by default. Nothing is unpickled, nothing allocated that the file is too small for.

    Args:
        raises: for a file that is missing or damaged, or holds something else than numbers, flags and text.
        empty: allocates an array.
    """
    with _undamaged(path, raises, fix), zipfile.ZipFile(path) as archive:
        wanted = [name.removesuffix(".npy") for name in archive.namelist()] if names is None else [*names]
        headers = [_header(archive, name) for name in wanted]
        promised = sum(math.prod(shape) * kind.itemsize for shape, kind in headers)
        check_promise(path, " + ".join(wanted)[:100], promised, raises)
        found = {}
        for name in wanted:
            with archive.open(f"{name}.npy") as file:
                shape, reverse, kind = _npy_header(file)
                if kind.hasobject:
                    raise ValueError(f"{name} holds objects, which are not loaded")
                array = empty(shape[::-1] if reverse else shape, kind)
                missing = array.reshape(-1).view(np.uint8)
                while len(missing) and (data := file.read(min(UNPACKED, len(missing)))):
                    missing[: len(data)] = np.frombuffer(data, np.uint8)
                    missing = missing[len(data) :]
                if len(missing) or file.read(1):
                    raise ValueError(f"{name} has {'fewer' if len(missing) else 'more'} bytes than its shape says")
                found[name] = array.T if reverse else array
        return found


@contextmanager
def _undamaged(path: Path, raises: type[UserError], fix: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds for a damaged file
        raise raises(f"{path}: is damaged ({type(error).__name__}: {first_line(error)}); {fix}") from None


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array. Raises ValueError for a shape that NumPy cannot have."""
    with archive.open(f"{name}.npy") as file:
        shape, _, kind = _npy_header(file)
    if any(not 0 <= rows < 2**40 for rows in shape):
        raise ValueError(f"{name} has the shape {shape}")
    return shape, kind


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the axes are in reverse order, and type."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    found: tuple[tuple[int, ...], bool, np.dtype] = read(file)
    return found
