"""Damage to files: by construction for every kind of file, and at random."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import yaml
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from tests.faults.artefacts import Artefact

Damage = Callable[[Path], None]  # to one file


# -- bytes ---------------------------------------------------------------------------------------------------------------------
def change(edit: Callable[[bytes], bytes]) -> Damage:
    return lambda path: path.write_bytes(edit(path.read_bytes())) and None


def flipped(share: float, bit: int = 4) -> Damage:
    def edit(data: bytes) -> bytes:
        at = int(share * len(data)) if data else 0
        if not data:
            return b"x"
        return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]

    return change(edit)


def cut(share: float) -> Damage:
    return change(lambda data: data[: int(share * len(data))])


def zeroed(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[: middle - middle // 8] + bytes(middle // 4) + data[middle - middle // 8 + middle // 4 :]


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


BYTES: dict[str, Damage] = {
    "empty": change(lambda data: b""),
    "one byte": change(lambda data: data[:1]),
    "a quarter": cut(0.25),
    "half": cut(0.5),
    "nine tenths": cut(0.9),
    "without its last byte": change(lambda data: data[:-1]),
    "a flipped bit at the beginning": flipped(0.02),
    "a flipped bit in the first third": flipped(0.3, 1),
    "a flipped bit in the middle": flipped(0.5, 0),
    "a flipped bit at the end": flipped(0.97, 5),
    "zeros in the middle": change(zeroed),
    "twice": change(lambda data: data + data),
    "random bytes": change(lambda data: np.random.default_rng(len(data)).bytes(len(data))),
    "a folder in its place": folder_instead,
}
TEXT: dict[str, Damage] = {
    "another encoding": change(lambda data: data.decode().encode("utf-16")),
    "no characters": change(lambda data: data[:5] + b"\xff\xfe\x80" + data[5:]),
    "a NUL": change(lambda data: data[:3] + b"\0" + data[3:]),
}


# -- JSON ----------------------------------------------------------------------------------------------------------------------
def text(content: str) -> Damage:
    return lambda path: path.write_text(content) and None


WRONG: dict[str, Any] = {"a string": "x", "a list": [], "null": None, "a number": -7, "a mapping": {"x": {}}}
JSON: dict[str, Damage] = {
    "deep": text("[" * 200_000),
    "deep, and right": text('{"a": ' * 5_000 + "1" + "}" * 5_000),
    "a long number": text('{"updates": 1' + "0" * 10_000 + "}"),
    **{f"it is {name}": text(json.dumps(value)) for name, value in WRONG.items()},
}
NUMBERS = {"infinite": "1e999", "NaN": "NaN", "1e300": "1e300", "huge": "9" * 30}


def keys_of(value: Any, at: tuple[Any, ...] = (), depth: int = 2) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict) and depth:
        for key, item in value.items():
            yield (*at, key)
            yield from keys_of(item, (*at, key), depth - 1)


def without(value: Any, at: tuple[Any, ...]) -> Any:
    if len(at) == 1:
        return {key: item for key, item in value.items() if key != at[0]}
    return {**value, at[0]: without(value[at[0]], at[1:])}


def replaced(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    return new if not at else {**value, at[0]: replaced(value[at[0]], at[1:], new)}


def json_keys(value: Any, read: Callable[[str], Any], write: Callable[[Any], str]) -> dict[str, Damage]:
    """Each key missing, and of another type."""
    found: dict[str, Damage] = {}
    for at in keys_of(value):
        name = ".".join(map(str, at))
        found[f"without {name}"] = lambda p, at=at: p.write_text(write(without(read(p.read_text()), at))) and None
        for what, wrong in WRONG.items():
            found[f"{name} is {what}"] = lambda p, at=at, wrong=wrong: (
                p.write_text(write(replaced(read(p.read_text()), at, wrong))) and None
            )
        for what, number in NUMBERS.items():
            found[f"{name} is {what}"] = lambda p, at=at, number=number: (
                p.write_text(
                    write(replaced(read(p.read_text()), at, "@N@")).replace('"@N@"', number).replace("'@N@'", number)
                )
                and None
            )
    return found


# -- a state with a right checksum ---------------------------------------------------------------------------------------------
def sealed(edit: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> Damage:
    """Change the JSON and the tensors of a state, and its checksums with them."""

    def damage(path: Path) -> None:
        folder = path.parent
        scalars = json.loads((folder / "state.json").read_text())
        tensors = load_tensors((folder / "state.safetensors").read_bytes())
        edit(scalars, tensors)
        (folder / "state.json").write_text(json.dumps(scalars))
        (folder / "state.safetensors").write_bytes(save_tensors(tensors))
        manifest = json.loads((folder / "manifest.json").read_text())
        for name in manifest["sha256"]:
            manifest["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return damage


def every_tensor(change: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    return sealed(
        lambda scalars, tensors: tensors.update({name: change(t).contiguous() for name, t in tensors.items()})
    )


def number_of(*path: str, value: Any) -> Damage:
    def edit(scalars: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        inner = scalars
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return sealed(edit)


SEALED: dict[str, Damage] = {
    "no tensors": sealed(lambda scalars, tensors: tensors.clear()),
    "one tensor less": sealed(lambda scalars, tensors: tensors.__delitem__(sorted(tensors)[len(tensors) // 2])),
    "tensors of another rank": every_tensor(lambda t: t.unsqueeze(0)),
    "tensors one shorter": every_tensor(lambda t: t[1:] if t.dim() else t),
    "tensors that are empty": every_tensor(lambda t: t.new_zeros(0)),
    "tensors of bytes": every_tensor(lambda t: t.to(torch.uint8)),
    "complex tensors": every_tensor(lambda t: t.to(torch.complex64)),
    "NaN": every_tensor(lambda t: torch.full_like(t, torch.nan) if t.is_floating_point() else t),
    "infinity": every_tensor(lambda t: torch.full_like(t, torch.inf) if t.is_floating_point() else t),
    "1e300 in double precision": every_tensor(
        lambda t: torch.full_like(t, 1e300, dtype=torch.float64) if t.is_floating_point() else t
    ),
    "no state": number_of("state", value={}),
    "a state that is a list": number_of("state", value=[1, 2]),
    "no meta": number_of("meta", value={}),
    "a meta that is text": number_of("meta", value="x"),
    "deep": number_of("meta", value=json.loads('{"a":' * 300 + "1" + "}" * 300)),
}
OF_A_MODEL: dict[str, Damage] = {
    f"{at[-1]} is {value}": number_of("meta", *at, value=value)
    for at in (("config", "hidden"), ("config", "horizon"), ("config", "dim"), ("config", "decoder_depth"),
               ("config", "prior_depth"), ("observation_dim",), ("action_dim",))
    for value in (10**9, -1, 0, "x", 1e300)
}  # fmt: skip


# -- arrays --------------------------------------------------------------------------------------------------------------------
def promising(shape: tuple[int, ...]) -> bytes:
    """An .npy of which only the header is there."""
    out = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue()


def npz(name: str, change: Callable[[np.ndarray], Any] | bytes | None) -> Damage:
    """One array of an NPZ changed; None leaves it out; bytes are its file."""

    def damage(path: Path) -> None:
        with np.load(path) as archive:
            arrays = {key: archive[key] for key in archive.files}
        key = name if name in arrays else sorted(arrays)[0]
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
            for one, values in arrays.items():
                if one != key:
                    data = io.BytesIO()
                    np.save(data, values)
                    out.writestr(f"{one}.npy", data.getvalue())
                elif callable(change):
                    data = io.BytesIO()
                    np.save(data, change(values), allow_pickle=True)
                    out.writestr(f"{one}.npy", data.getvalue())
                elif change is not None:
                    out.writestr(f"{one}.npy", change)

    return damage


def hdf5(name: str, change: Callable[[np.ndarray], Any] | None) -> Damage:
    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            where = file["episode_0"] if "episode_0" in file else file
            key = name if name in where else sorted(where)[0]
            values = where[key][()]
            del where[key]
            if change is not None:
                where[key] = change(values)

    return damage


def huge(path: Path) -> None:
    """An HDF5 data set that promises much and has nothing."""
    with h5py.File(path, "r+") as file:
        where = file["episode_0"] if "episode_0" in file else file
        del where["actions"]
        where.create_dataset("actions", (10**12, 2), np.float32, chunks=(1024, 2), compression="gzip")


def bomb(path: Path) -> None:
    """Much that is all the same, in few bytes."""
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out:
        for one, values in arrays.items():
            data = io.BytesIO()
            np.save(data, values)
            if one != sorted(arrays)[0]:
                out.writestr(f"{one}.npy", data.getvalue())
        with out.open(f"{sorted(arrays)[0]}.npy", "w", force_zip64=True) as file:
            file.write(promising((2**24, 2)))
            for _ in range(2**27 // 2**24):
                file.write(bytes(2**24))


def spoiled(where: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def edit(values: np.ndarray) -> np.ndarray:
        made = values.astype(np.float64)
        made.reshape(-1)[where] = value
        return made

    return edit


ARRAYS: dict[str, Callable[[np.ndarray], Any] | None] = {
    "missing": None,
    "with NaN": spoiled(3, np.nan),
    "with infinity": spoiled(3, np.inf),
    "with 1e300": spoiled(3, 1e300),
    "of 1e300": lambda values: np.full(values.shape, 1e300),
    "without rows": lambda values: values[:0],
    "a row short": lambda values: values[:-1],
    "of another rank": lambda values: values[..., None],
    "a number": lambda values: np.float32(1),
    "text": lambda values: values.astype("S8"),
    "complex": lambda values: values.astype(np.complex64),
    "times": lambda values: values.astype("int64").astype("timedelta64[s]") if values.dtype.kind != "b" else values[:0],
    "structured": lambda values: np.zeros(len(values), [("a", "f4"), ("b", "i4")]),
    "of integers": lambda values: (values * 100).astype(np.int64) + 2**62,
}
COLUMNS = ("observations", "actions", "timeouts", "rewards", "terminations")


# -- which damages a file can have ---------------------------------------------------------------------------------------------
def damages(artefact: Artefact, file: str) -> dict[str, Damage]:
    """By construction, by name."""
    path = artefact.path / file if file else artefact.path
    found = dict(BYTES)
    if path.name == "state.json":
        found |= {f"sealed, {name}": damage for name, damage in SEALED.items()}
        if path.parent.name == "model":
            found |= {f"sealed, {name}": damage for name, damage in OF_A_MODEL.items()}
    if path.suffix in (".json", ".jsonl", ".yaml"):
        found |= TEXT
    if path.suffix == ".json" and path.name != "state.json":
        found |= JSON | json_keys(json.loads(path.read_text()), json.loads, json.dumps)
    if path.suffix == ".jsonl":
        rows = path.read_text().splitlines() or ["{}"]
        first = json_keys(
            json.loads(rows[0]), lambda t: json.loads(t.splitlines()[0]), lambda row: json.dumps(row) + "\n"
        )
        rest = "".join(row + "\n" for row in rows[1:])
        for name, damage in first.items():

            def of_row(target: Path, damage: Damage = damage) -> None:
                damage(target)
                target.write_text(target.read_text() + rest)

            found[f"its first row, {name}"] = of_row
        found |= {f"a line: {name}": damage for name, damage in JSON.items()}
    if path.suffix == ".yaml":
        found |= json_keys(
            yaml.safe_load(path.read_text()), yaml.safe_load, lambda v: yaml.safe_dump(v, sort_keys=False)
        )
        found |= {
            "deep": text("a: " + "[" * 2_000),
            "it is a list": text("- 1\n"),
            "a tag": text("a: !!python/name:os.system\n"),
        }
    if path.suffix == ".npz":
        names = [n for n in COLUMNS if n in np.load(path).files] or np.load(path).files
        for name in names:
            found |= {f"{name} {what}": npz(name, change) for what, change in ARRAYS.items()}
            found[f"{name} promises much"] = npz(name, promising((10**12, 4)))
            found[f"{name} promises a billion rows of nothing"] = npz(name, promising((10**12, 0)))
        if names:
            found["objects"] = npz(names[0], lambda values: np.array([{}], dtype=object))
            found["a bomb"] = bomb
    if path.suffix == ".hdf5":
        with h5py.File(path) as opened:
            inside = opened["episode_0"] if "episode_0" in opened else opened
            names = [n for n in COLUMNS if n in inside]
        for name in names:
            found |= {f"{name} {what}": hdf5(name, change) for what, change in ARRAYS.items() if what != "times"}
        found["actions promise much"] = huge
    return found


def at_random(rng: np.random.Generator) -> tuple[str, Damage]:
    """A few changes of bytes."""
    kinds = rng.choice(["flip", "insert", "delete", "copy", "digit"], rng.integers(1, 5)).tolist()
    places = rng.random((len(kinds), 2)).tolist()
    values = rng.integers(0, 256, len(kinds)).tolist()

    def edit(data: bytes) -> bytes:
        for kind, (a, b), value in zip(kinds, places, values, strict=True):
            i, length = int(a * len(data)), 1 + int(b * 16)
            i = min(i, max(0, len(data) - 1))
            if not data:
                break
            if kind == "flip":
                data = data[:i] + bytes([data[i] ^ (value or 1)]) + data[i + 1 :]
            elif kind == "insert":
                data = data[:i] + bytes([value]) * length + data[i:]
            elif kind == "delete":
                data = data[:i] + data[i + length :]
            elif kind == "copy":
                j = int(b * len(data))
                data = data[:i] + data[j : j + length] + data[i + length :]
            elif digits := [k for k, c in enumerate(data) if 48 <= c < 58]:
                k = digits[int(a * len(digits))]
                data = data[:k] + str((data[k] - 48 + 1 + value % 9) % 10).encode() + data[k + 1 :]
        return data

    return "+".join(kinds), change(edit)


# -- a case --------------------------------------------------------------------------------------------------------------------
