"""A source of logs, named by one string, in memory or, where it is large, in files.

    minari:NAMESPACE/name-v0      a Minari data set on this machine
    d4rl:kitchen-mixed-v0         a D4RL set by id, from its cache folder
    path/to/file.hdf5             D4RL's flat layout, robomimic's or ALOHA's, distinguished by what is in it
    path/to/file.npz              the flat layout in an NPZ
    path/to/folder                flat or ALOHA files, an episode each, or LeRobot's layout

Behind a question mark follow the observations that make the state, and options: `?joints,gripper`, `?*`, `?time_limit=200`,
`?object&mask=train`. Whatever a reader raises becomes one DataError: nothing is half-loaded.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

from skillmeta.data import aloha, flat, lerobot, minari, minari_store, robomimic
from skillmeta.data.d4rl_table import dataset_url
from skillmeta.data.episodes import EpisodeDataset
from skillmeta.data.layouts import Layout, Request
from skillmeta.data.mapped import Converted
from skillmeta.errors import DataError, UserError
from skillmeta.limits import MAP_ABOVE
from skillmeta.reading import sha256

LAYOUTS: tuple[Layout, ...] = (lerobot, aloha, robomimic, flat)  # the first that recognises a path reads it
SUFFIXES = (".npz", ".hdf5", ".h5", ".parquet", ".json")  # of files that hold something


def load_source(
    source: str, *, clip_actions: bool = False, download: bool = False, map_above: int = MAP_ABOVE
) -> EpisodeDataset:
    """Load and check a source. See the module for what can be named.

    Args:
        clip_actions: pull actions outside the action space into it instead of refusing them.
        download: fetch a D4RL file that is not in the cache folder.
        map_above: bytes; larger arrays are converted once into files (`skillmeta.data.mapped`).

    Raises:
        DataError: missing, damaged, or not what it should be; names source, episode and field.
        UserError: a package that this kind of source needs is not installed.
    """
    request = Request.parse(source, clip_actions)
    try:
        path, files = _located(request.place, download)
        converted = Converted.of(request, path, files)
        return converted.load(map_above, lambda room: _read(path, replace(request, room=room)))
    except UserError:
        raise
    except MemoryError:
        raise DataError(f"{source}: does not fit into memory") from None
    except (
        Exception
    ) as error:  # h5py, numpy and zlib raise a dozen kinds for a damaged file; all mean the same to a user
        raise DataError(
            f"{source}: cannot be read ({type(error).__name__}: {error}); the file is damaged or not what it seems"
        ) from None


def _read(path: Path, request: Request) -> EpisodeDataset:
    if request.place.startswith("minari:"):
        request.check_options(minari.OPTIONS)
        return minari.read(request.place.removeprefix("minari:"), request)
    layout = next((layout for layout in LAYOUTS if layout.recognises(path)), None)
    if layout is None:
        raise DataError(_unknown(path))
    request.check_options(layout.OPTIONS)
    return layout.read(path, request)


def fingerprint(source: str) -> tuple[Path, str]:
    """Where the data of a source that loads lie, and a SHA-256 that changes when they do."""
    path, files = _located(Request.parse(source).place, False)
    if len(files) == 1 and files[0].name in (path.name, minari_store.MANIFEST):
        return path, sha256(files[0])
    return path, hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()


def _located(place: str, download: bool) -> tuple[Path, list[Path]]:
    """Where a source is, and the files that change when its data do."""
    if place.startswith("minari:"):
        dataset_id = place.removeprefix("minari:")
        minari_store.check_id(dataset_id)
        path = minari_store.dataset_folder(dataset_id)
        data = [path / "data" / name for name in ("metadata.json", "main_data.hdf5")]
        manifest = path / minari_store.MANIFEST  # of the checksums of all
        return path, [manifest] if manifest.exists() else [file for file in data if file.exists()]
    path = _path(place, download)
    if not path.is_dir():
        return path, [path]
    return path, sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES)


def _path(place: str, download: bool) -> Path:
    if place.startswith("d4rl:"):
        return _d4rl_file(place.removeprefix("d4rl:"), download)
    path = Path(place)
    if not path.is_file() and not path.is_dir():
        raise DataError(f"{path}: there is no such file")
    return path


def _unknown(path: Path) -> str:
    if path.is_dir() and (path / "config.yaml").exists():
        return f"{path}: is the --out of a command, not logs; name the recordings that it was made from"
    if path.is_dir():
        return f"{path}: is a folder without .npz, .hdf5 or .h5 files and without LeRobot's meta/info.json"
    return f"{path}: ends in {path.suffix or 'nothing'!r}; .hdf5, .h5 and .npz are read"


def _d4rl_file(dataset_id: str, download: bool) -> Path:
    url = dataset_url(dataset_id)
    cache = Path(os.environ.get("D4RL_DATASET_DIR", Path.home() / ".d4rl" / "datasets"))
    path = cache / url.rpartition("/")[2]
    if path.exists():
        return path
    if not download:
        raise DataError(f"d4rl:{dataset_id}: not in {cache}; fetch {url} into that folder, or pass download=true")
    import urllib.request

    cache.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    try:
        urllib.request.urlretrieve(url, part)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DataError(f"d4rl:{dataset_id}: {url} could not be fetched ({error}); nothing was stored") from None
    os.replace(part, path)
    return path
