"""State on disk: a folder of tensors and JSON with a SHA-256 manifest, renamed into place whole, with no code in it.

No tensor format notices a flipped bit by itself, hence the manifest; no process survives every signal, hence the rename.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from skillmeta.errors import CheckpointError
from skillmeta.reading import parse_json, read_json
from skillmeta.run.files import replacing_folder, whole, write_synced
from skillmeta.run.rows import NAME as ROWS
from skillmeta.run.rows import Files, Piece, Written, assemble, columns_of, link_files, missing, next_name, pieces_of
from skillmeta.types import Growing

FORMAT = 1
ANOTHER = "use another checkpoint or model, or run its command again"
State = dict[str, Any]  # nested; leaves are tensors, arrays, numbers, strings, bools, None or lists of these scalars
TENSORS, SCALARS, MANIFEST = "state.safetensors", "state.json", "manifest.json"


def save_state(folder: Path, state: State, meta: dict[str, Any] | None = None, before: Written | None = None) -> None:
    """Write `state` and `meta` (JSON values) as `folder`, replacing an older one; all of it or nothing.

    Args:
        before: what the same run saved last, or continued from. Rows of growing parts that are in its files are not written
            again (`skillmeta.run.rows`).

    Raises, with an older folder still there:
        CheckpointError: a number is NaN; what is wrong should not replace what was right.
        OSError: the disk is full or read-only.
        TypeError: something cannot be stored.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    growing: dict[str, Growing] = {}
    scalars = _split(state, "", tensors, growing)
    with replacing_folder(folder) as temporary:
        files: Files = {}
        digests: dict[str, str] = {}
        if before is not None:
            files, digests = _row_files(before.folder)
            files = link_files(before, files, temporary, growing)
        contents = {}
        if new := missing(growing, files):
            name = next_name(digests)
            columns = {part: columns_of(growing[part], spans) for part, spans in new.items()}
            rows = {f"{part}/{key}": values for part, held in columns.items() for key, values in held.items()}
            contents[name] = save({key: _without_nan(key, values) for key, values in rows.items()})
            files[name] = new
        about = {"state": scalars, "meta": meta or {}, "rows": files}
        contents[TENSORS] = save(_apart(tensors))
        contents[SCALARS] = json.dumps(about, sort_keys=True).encode()
        digests = {name: digests[name] for name in files if name not in contents}
        digests |= {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
        contents[MANIFEST] = json.dumps({"format": FORMAT, "sha256": digests}, sort_keys=True, indent=1).encode()
        for name, data in contents.items():
            write_synced(temporary / name, data, sync=False)  # `replacing_folder` syncs all of them


def load_state(folder: Path) -> tuple[State, dict[str, Any]]:
    """The state and meta of a folder written by `save_state`.

    Raises CheckpointError, naming the file, if anything is missing, damaged, or of a newer format.
    """
    folder = whole(Path(folder))
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is no such folder; name one that a finished run has written")
    manifest = read_json(folder / MANIFEST, CheckpointError, ANOTHER)
    version, digests = manifest.get("format"), manifest.get("sha256")
    if not isinstance(digests, dict):
        raise CheckpointError(f"{folder / MANIFEST}: is damaged (it has no sha256); {ANOTHER}")
    if version != FORMAT:
        raise CheckpointError(
            f"{folder}: written in format {str(version)[:20]}, this version reads {FORMAT}; use a newer skillmeta"
        )
    contents = {}
    for name in (TENSORS, SCALARS, *filter(ROWS.fullmatch, digests)):
        try:
            if not (folder / name).is_file():  # a pipe would be waited for
                raise OSError("no such file")
            contents[name] = (folder / name).read_bytes()
        except (OSError, MemoryError) as error:
            raise CheckpointError(f"{folder / name}: cannot be read ({error}); the checkpoint is incomplete") from None
        if hashlib.sha256(contents[name]).hexdigest() != digests.get(name):
            raise CheckpointError(
                f"{folder / name}: does not match its checksum; it is damaged, use another checkpoint"
            )
    try:
        scalars = parse_json(contents[SCALARS])
        pieces: dict[str, list[Piece]] = {}
        for name, spans in scalars.get("rows", {}).items():
            rows = load(contents.pop(name))
            for tensor in rows.values():
                _without_nan(name, tensor)
            for part, piece in pieces_of(spans, rows):
                pieces.setdefault(part, []).append(piece)
        tensors = load(contents[TENSORS])
        for name, tensor in tensors.items():
            _without_nan(name, tensor)  # `save_state` lets none pass
        state, meta = _join(scalars["state"], "", tensors, pieces), scalars["meta"]
    except Exception as error:  # the checksum says that it is what somebody wrote, not that we did
        raise CheckpointError(
            f"{folder}: was not written by skillmeta ({type(error).__name__}); use another checkpoint"
        ) from None
    if not isinstance(state, dict) or not isinstance(meta, dict):
        raise CheckpointError(
            f"{folder / SCALARS}: holds no state; it was not written by skillmeta, use another checkpoint"
        )
    return state, meta


def state_hash(state: State) -> str:
    """SHA-256 over all leaves in the order of their sorted names: equal states, equal hash."""
    tensors: dict[str, Tensor] = {}
    growing: dict[str, Growing] = {}
    scalars = _split(state, "", tensors, growing)
    for part, grown in growing.items():
        columns = grown.rows(grown.kept.start, grown.kept.stop)
        tensors.update({f"{part}/{name}": values for name, values in columns.items() if len(values)})
    digest = hashlib.sha256(json.dumps(scalars, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def generator_state(generator: torch.Generator | np.random.Generator) -> State:
    """The state of a generator as storable values."""
    if isinstance(generator, torch.Generator):
        return {"torch": generator.get_state()}
    return {"numpy": json.dumps(generator.bit_generator.state)}


def restore_generator(generator: torch.Generator | np.random.Generator, state: State) -> None:
    """Put a state from `generator_state` back."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state["torch"])
    else:
        generator.bit_generator.state = json.loads(state["numpy"])


def _row_files(folder: Path) -> tuple[Files, dict[str, str]]:
    """What each file of rows in a checkpoint has, and their SHA-256; none, if it has been removed."""
    try:
        files = json.loads((folder / SCALARS).read_text())["rows"]
        digests = json.loads((folder / MANIFEST).read_text())["sha256"]
        return files, {name: digests[name] for name in files}
    except (OSError, ValueError, KeyError):
        return {}, {}


_TENSOR, _ARRAY, _ROWS = "<tensor>", "<array>", "<rows>"


def _split(value: Any, name: str, tensors: dict[str, Tensor], growing: dict[str, Growing]) -> Any:
    """The JSON skeleton of a state; tensors and arrays go into `tensors` under their path, and what grows into `growing`."""
    if isinstance(value, dict):
        bad = [key for key in value if not isinstance(key, str) or "/" in key]
        if bad:
            raise TypeError(f"checkpoint: key {bad[0]!r} under {name or 'the top'!r} is not a string without '/'")
        return {key: _split(item, f"{name}/{key}", tensors, growing) for key, item in value.items()}
    if isinstance(value, Tensor):
        tensors[name] = _without_nan(name, value.detach().cpu())
        return _TENSOR
    if isinstance(value, np.ndarray):
        tensors[name] = _without_nan(name, torch.from_numpy(np.ascontiguousarray(value)).reshape(value.shape))
        return _ARRAY
    if isinstance(value, (list, tuple)):
        return [_split(item, f"{name}/{i}", tensors, growing) for i, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and math.isnan(value):
        raise CheckpointError(f"checkpoint: {name} is NaN and is not saved; an older checkpoint is from before that")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Growing):
        growing[name] = value
        return {_ROWS: [value.kept.start, value.kept.stop]}
    raise TypeError(f"checkpoint: {name} is a {type(value).__name__}, which is not storable")


def _without_nan(name: str, tensor: Tensor) -> Tensor:
    if tensor.is_floating_point() and bool(tensor.isnan().any()):
        raise CheckpointError(f"checkpoint: {name} holds NaN and is not saved; an older checkpoint is from before that")
    return tensor


def _join(skeleton: Any, name: str, tensors: dict[str, Tensor], pieces: dict[str, list[Piece]]) -> Any:
    if isinstance(skeleton, dict):
        if skeleton.keys() == {_ROWS}:
            return assemble(range(*skeleton[_ROWS]), pieces.pop(name, []))
        return {key: _join(item, f"{name}/{key}", tensors, pieces) for key, item in skeleton.items()}
    if isinstance(skeleton, list):
        return [_join(item, f"{name}/{i}", tensors, pieces) for i, item in enumerate(skeleton)]
    if name not in tensors:
        return skeleton
    return tensors[name] if skeleton == _TENSOR else tensors[name].numpy()


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sorted and contiguous, and copied where two share memory, which the format refuses."""
    seen: set[int] = set()
    apart = {}
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return apart
