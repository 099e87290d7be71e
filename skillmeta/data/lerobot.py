"""LeRobot's folders of the format versions 2.x and 3.x, https://github.com/huggingface/lerobot: `meta/info.json` and Parquet files.

    path/to/folder                                                 `observation.state`
    path/to/folder?observation.state,observation.environment_state    several features, in this order

Version 2 has a Parquet file an episode, version 3 many episodes in one; in both each row is a step with its `episode_index`, so the
files are read alike. Video and images are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from skillmeta.data.episodes import EpisodeDataset, from_episodes
from skillmeta.data.layouts import NO_REWARDS, REPEATED, Request, chosen_keys, in_order, parts, recorded, width
from skillmeta.errors import DataError, UserError
from skillmeta.reading import check_promise, read_json
from skillmeta.trust import check_links
from skillmeta.types import Episodes

OPTIONS = ()
NUMBERS = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "bool")
STATE, ACTION, REWARD, NUMBER = "observation.state", "action", "next.reward", "episode_index"
AGAIN = "download the data set again"


def recognises(path: Path) -> bool:
    return (path / "meta" / "info.json").is_file()


def read(path: Path, request: Request) -> EpisodeDataset:
    """See `skillmeta.data.layouts.Layout`. Raises UserError without the package pyarrow."""
    check_links(path)
    info = read_json(path / "meta" / "info.json", DataError, AGAIN)
    version, features = str(info.get("codebase_version", "")), info.get("features")
    if not version.startswith(("v2.", "v3.")) or not isinstance(features, dict):
        raise DataError(
            f"{path}: is of LeRobot's format {version[:20]!r}; v2.x and v3.x are read, convert it by lerobot's script"
        )
    shapes = {key: _shape(path, key, feature) for key, feature in features.items()}
    found = {key: shape for key, shape in shapes.items() if key.startswith("observation.") and shape is not None}
    left = [key for key, shape in shapes.items() if key.startswith("observation.") and shape is None]
    action = shapes.get(ACTION)
    if action is None:
        raise DataError(f"{path}, meta/info.json: has no feature 'action' of numbers")
    keys, notes = chosen_keys(found, request, f"{path}: LeRobot's layout, observations", (STATE,))
    if left:
        notes += (f"video and images are left out: {', '.join(left)}",)
    if REWARD not in shapes:
        notes += (NO_REWARDS,)
    wanted = {key: width(found[key]) for key in keys} | {ACTION: width(action), NUMBER: 1}
    wanted |= {REWARD: 1} if REWARD in shapes else {}
    held = request.room.fits(list((path / "data").rglob("*.parquet")))
    episodes = list(_episodes(path, wanted, keys)) if held else _episodes(path, wanted, keys)
    lengths = [episode.reward.shape[1] for episode in (episodes if held else _episodes(path, wanted, keys))]
    if len(lengths) != (stated := info.get("total_episodes", len(lengths))):
        raise DataError(f"{path}: holds {len(lengths)} episodes, its meta/info.json says {str(stated)[:20]}; {AGAIN}")
    return from_episodes(
        episodes,
        request.source,
        *request.bounds(),
        clip_actions=request.clip_actions,
        notes=(*notes, REPEATED),
        lengths=lengths,
        observed=parts(keys, found),
        room=request.room,
    )


def _shape(path: Path, key: str, feature: Any) -> tuple[int, ...] | None:
    """The shape of a feature at one step; None for video, images and text."""
    if not isinstance(feature, Mapping) or feature.get("dtype") not in NUMBERS:
        return None
    shape = feature.get("shape")
    if not isinstance(shape, list) or not all(isinstance(n, int) and 0 < n < 2**20 for n in shape):
        raise DataError(f"{path}, meta/info.json: the shape of {key} is {str(shape)[:60]}; a list of sizes is expected")
    return tuple(shape) if len(shape) < 3 else None


def _episodes(path: Path, wanted: Mapping[str, int], keys: tuple[str, ...]) -> Iterator[Episodes]:
    """The episodes in the order of the files, which is that of their numbers.

    Args:
        wanted: how many numbers a row of each column has.
        keys: the columns that are observed.
    """
    before = -1
    files = in_order([file.relative_to(path).as_posix() for file in (path / "data").rglob("*.parquet")])
    for name in files:
        columns = _columns(path / name, wanted)
        number = columns[NUMBER][:, 0]
        begins = np.flatnonzero(np.append(True, number[1:] != number[:-1])) if len(number) else np.zeros(0, int)
        for begin, end in zip(begins, np.append(begins[1:], len(number)), strict=True):
            if number[begin] <= before:
                raise DataError(f"{path / name}, {NUMBER}: {number[begin]:.0f} comes after {before}; {AGAIN}")
            before = int(number[begin])
            rows = {key: values[begin:end] for key, values in columns.items()}
            yield recorded([rows[k] for k in keys], None, rows[ACTION], rows.get(REWARD), f"{path}: episode {before}")


def _columns(file: Path, wanted: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Columns of a Parquet file, [rows, numbers], float32; the numbers of episodes in double precision."""
    parquet = _pyarrow()
    try:
        table = parquet.ParquetFile(file)
        missing = [key for key in wanted if key not in table.schema_arrow.names]
        if missing:
            raise DataError(f"{file}: has no column {missing[0]!r} (it has {', '.join(table.schema_arrow.names)})")
        check_promise(file, "the table", 4 * table.metadata.num_rows * sum(wanted.values()), DataError)
        read = table.read(columns=list(wanted))
        found = {}
        for key, size in wanted.items():
            values = read.column(key).combine_chunks()
            while hasattr(values, "flatten") and str(values.type).startswith(("list", "fixed_size_list", "large_list")):
                values = values.flatten()
            numbers = values.to_numpy(zero_copy_only=False).astype(np.float64 if key == NUMBER else np.float32)
            found[key] = numbers.reshape(table.metadata.num_rows, size)
        return found
    except UserError:
        raise
    except Exception as error:  # pyarrow raises a dozen kinds for a damaged file
        raise DataError(f"{file}: cannot be read ({type(error).__name__}: {error}); {AGAIN}") from None


def _pyarrow() -> Any:
    """pyarrow.parquet. Raises UserError naming the extra where it is not installed."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(
            "LeRobot data sets need the package pyarrow: in the clone, pip install -e '.[lerobot]'"
        ) from None
    return parquet
