"""A source of logs, named by one string, in memory.

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
from pathlib import Path

from skillmeta.data import aloha, flat, lerobot, minari, robomimic
from skillmeta.data.d4rl_table import dataset_url
from skillmeta.data.episodes import EpisodeDataset
from skillmeta.data.layouts import Layout, Request
from skillmeta.data.minari_store import MANIFEST, dataset_folder
from skillmeta.errors import DataError, UserError
from skillmeta.reading import sha256

LAYOUTS: tuple[Layout, ...] = (lerobot, aloha, robomimic, flat)  # the first that recognises a path reads it


def load_source(source: str, *, clip_actions: bool = False, download: bool = False) -> EpisodeDataset:
    """Load and check a source. See the module for what can be named.

    Args:
        clip_actions: pull actions outside the action space into it instead of refusing them.
        download: fetch a D4RL file that is not in the cache folder.

    Raises:
        DataError: missing, damaged, or not what it should be; names source, episode and field.
        UserError: a package that this kind of source needs is not installed.
    """
    request = Request.parse(source, clip_actions)
    try:
        if request.place.startswith("minari:"):
            request.check_options(minari.OPTIONS)
            return minari.read(request.place.removeprefix("minari:"), request)
        path = _path(request.place, download)
        layout = next((layout for layout in LAYOUTS if layout.recognises(path)), None)
        if layout is None:
            raise DataError(_unknown(path))
        request.check_options(layout.OPTIONS)
        return layout.read(path, request)
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


def fingerprint(source: str) -> tuple[Path, str]:
    """Where the data of a source that loads lie, and a SHA-256 that changes when they do."""
    place = Request.parse(source).place
    if place.startswith("minari:"):
        path = dataset_folder(place.removeprefix("minari:"))
        if (path / MANIFEST).exists():  # of the checksums of all
            return path, sha256(path / MANIFEST)
        files = [path / "data" / name for name in ("metadata.json", "main_data.hdf5")]
    else:
        path = _path(place, False)
        if not path.is_dir():
            return path, sha256(path)
        files = sorted(file for file in path.rglob("*") if file.suffix in (".npz", ".hdf5", ".h5", ".parquet", ".json"))
    return path, hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()


def _path(place: str, download: bool) -> Path:
    if place.startswith("d4rl:"):
        return _d4rl_file(place.removeprefix("d4rl:"), download)
    path = Path(place)
    if not path.is_file() and not path.is_dir():
        raise DataError(f"{path}: there is no such file")
    return path


def _unknown(path: Path) -> str:
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
