"""A source of logs, named by one string, in memory.

    minari:NAMESPACE/name-v0      a Minari data set on this machine (add `?observation` to pick a key of a Dict space)
    d4rl:kitchen-mixed-v0         a D4RL set by id, from its cache folder
    path/to/file.hdf5             D4RL's flat layout
    path/to/file.npz              the same keys in an NPZ

Episodes end where `terminals | timeouts` says. Whatever a reader below raises becomes one DataError: nothing is half-loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from skillmeta.data.d4rl_table import dataset_url
from skillmeta.data.episodes import EpisodeDataset, from_episodes, single_episode
from skillmeta.data.minari_store import MANIFEST, check_id, dataset_folder, exists, recover, verify
from skillmeta.errors import DataError, UserError
from skillmeta.reading import check_promise, npz_names, read_json, read_npz, sha256
from skillmeta.trust import check_links
from skillmeta.types import Episodes

# Names that files in circulation use for the same things; the first one found is taken.
ALIASES = {
    "observations": ("observations", "observation", "obs"),
    "actions": ("actions", "action"),
    "rewards": ("rewards", "reward"),
    "terminals": ("terminals", "terminated", "terminations", "dones", "terminal"),
    "timeouts": ("timeouts", "truncated", "truncations", "timeout"),
    "next_observations": ("next_observations", "next_observation", "next_obs"),
    "lengths": ("lengths", "episode_lengths", "ep_lens", "path_lengths"),
    "starts": ("starts", "episode_starts", "ep_starts"),
    "episode": ("episode", "episodes", "episode_index", "episode_ids", "traj_id", "demo"),
}


AGAIN = "export the recording again"


def load_source(source: str, *, clip_actions: bool = False, download: bool = False) -> EpisodeDataset:
    """Load and check a source. See the module for what can be named.

    Args:
        clip_actions: pull actions outside the action space into it instead of refusing them.
        download: fetch a D4RL file that is not in the cache folder.

    Raises:
        DataError: missing, damaged, or not what it should be; names source, episode and field.
        UserError: a package that this kind of source needs is not installed.
    """
    try:
        if source.startswith("minari:"):
            return _minari(source, clip_actions)
        if source.startswith("d4rl:"):
            return _flat_file(_d4rl_file(source.removeprefix("d4rl:"), download), source, clip_actions)
        return _flat_file(Path(source), source, clip_actions)
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
    if source.startswith("minari:"):
        folder = dataset_folder(source.removeprefix("minari:").partition("?")[0])
        if (folder / MANIFEST).exists():  # of the checksums of all
            return folder, sha256(folder / MANIFEST)
        data = [folder / "data" / name for name in ("metadata.json", "main_data.hdf5")]
        return folder, hashlib.sha256("".join(map(sha256, data)).encode()).hexdigest()
    path = _d4rl_file(source.removeprefix("d4rl:"), False) if source.startswith("d4rl:") else Path(source)
    return path, sha256(path)


# -- Minari --------------------------------------------------------------------------------------------------------------
# Read here and not by `minari.load_dataset`: that one makes the environment that the metadata names where they lack a space,
# follows links to other files, and decodes infos, which nothing here needs.
def _minari(source: str, clip_actions: bool) -> EpisodeDataset:
    dataset_id, _, key = source.removeprefix("minari:").partition("?")
    check_id(dataset_id)
    folder = dataset_folder(dataset_id)
    recover(dataset_id)
    root = dataset_folder("")
    if not folder.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{source}: is a link that leads out of {root}; copy the data set there")
    check_links(folder)
    if not exists(dataset_id):
        raise DataError(
            f"{source}: not found in {folder}; make it with `skillmeta collect`, or fetch by `minari download {dataset_id}`"
        )
    verify(dataset_id)
    metadata = read_json(folder / "data" / "metadata.json", DataError, "download or collect the data set again")
    if (stored := metadata.get("data_format")) != "hdf5":
        raise DataError(f"{source}: is stored as {str(stored)[:100]!r}; data sets in hdf5 are read")
    low, high = _box(metadata.get("action_space"), source)
    path = folder / "data" / "main_data.hdf5"
    with h5py.File(path, "r") as file:
        numbers = sorted(int(name.removeprefix("episode_")) for name in file)
        if len(numbers) != (stated := metadata.get("total_episodes")):
            raise DataError(f"{source}: holds {len(numbers)} episodes, its metadata say {str(stated)[:100]}")
        episodes = [_minari_episode(_member(file, f"episode_{n}", path), key, source, n, path) for n in numbers]
    return from_episodes(episodes, source, low, high, clip_actions)


def _box(space: str | None, source: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Bounds [A] of a Box as Minari writes one; None where the metadata name no space."""
    if space is None:
        return None, None
    plain = json.loads(space)
    if plain["type"] != "Box":
        raise DataError(f"{source}: actions are of a {plain['type']!r}; skills need a Box")
    low, high = (np.asarray(plain[bound], np.float64).ravel() for bound in ("low", "high"))
    return low, high


def _minari_episode(group: h5py.Group, key: str, source: str, number: int, path: Path) -> Episodes:
    observations = _member(group, "observations", path)
    if isinstance(observations, h5py.Group):
        chosen = key or "observation"
        if chosen not in list(observations):
            raise DataError(
                f"{source}: episode {number}, observations: are a mapping of {', '.join(observations)}; "
                f"name one, as in {source.partition('?')[0]}?{next(iter(observations))}"
            )
        seen = _hdf5_array(observations, chosen, path)
    else:
        seen = _hdf5_array(group, "observations", path)
    actions = _hdf5_array(group, "actions", path)
    return single_episode(
        seen.reshape(len(seen), -1),
        actions.reshape(len(actions), -1),
        _hdf5_array(group, "rewards", path),
        _hdf5_array(group, "terminations", path),
        _hdf5_array(group, "truncations", path),
        _success(group, len(actions), path),
        f"{source}: episode {number}",
    )


def _success(group: h5py.Group, steps: int, path: Path) -> np.ndarray | None:
    """What the infos call success [T], without that of the reset; None where they have none that can be read as flags."""
    if "infos" not in list(group):
        return None
    infos = _member(group, "infos", path)
    if not isinstance(infos, h5py.Group) or "success" not in list(infos):
        return None
    flags = np.asarray(_hdf5_array(infos, "success", path))
    if flags.dtype.kind not in "biuf" or flags.size not in (steps, steps + 1):
        return None
    return flags.reshape(-1)[-steps:] > 0.5


# -- D4RL ----------------------------------------------------------------------------------------------------------------
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


# -- flat files: HDF5 and NPZ --------------------------------------------------------------------------------------------
def _flat_file(path: Path, source: str, clip_actions: bool) -> EpisodeDataset:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    if path.suffix in (".hdf5", ".h5"):
        with h5py.File(path, "r") as file:
            return _flat(path, source, list(file.keys()), lambda key: _hdf5_array(file, key, path), clip_actions)
    if path.suffix == ".npz":
        names = npz_names(path)
        arrays = read_npz(
            path, {alias for aliases in ALIASES.values() for alias in aliases} & set(names), DataError, AGAIN
        )
        return _flat(path, source, names, arrays.__getitem__, clip_actions)
    raise DataError(f"{path}: ends in {path.suffix or 'nothing'!r}; .hdf5, .h5 and .npz are read")


def _member(group: h5py.Group, key: str, path: Path) -> h5py.Group | h5py.Dataset:
    """What a file holds itself under one key. Raises DataError for a link, which may lead to another file, before following it."""
    where, links = (
        f"{group.name}/{key}".lstrip("/"),
        group.id.links,
    )  # h5py's own `get` follows a link to see if it ends
    if not links.exists(key.encode()):
        raise DataError(f"{path}, {where}: is missing")
    if links.get_info(key.encode()).type != h5py.h5l.TYPE_HARD:
        raise DataError(f"{path}, {where}: is a link; copy what it leads to into its place")
    return group[key]


def _hdf5_array(group: h5py.Group, key: str, path: Path) -> np.ndarray:
    """An array that the file holds itself, its promised size held against the file's before anything is allocated."""
    data = _member(group, key, path)
    where = data.name.lstrip("/")
    if not isinstance(data, h5py.Dataset):
        raise DataError(f"{path}, {where}: is a group; an array is expected there")
    if data.is_virtual or data.external:
        raise DataError(f"{path}, {where}: has its values in other files; copy them into this one")
    check_promise(path, where, data.size * data.dtype.itemsize, DataError)
    result: np.ndarray = data[()]
    return result


def _flat(
    path: Path, source: str, keys: list[str], read: Callable[[str], np.ndarray], clip_actions: bool
) -> EpisodeDataset:
    found = {name: next((alias for alias in aliases if alias in keys), None) for name, aliases in ALIASES.items()}
    for needed in ("observations", "actions"):
        if found[needed] is None:
            raise DataError(f"{path}: has no array {needed!r} (it has {', '.join(keys) or 'nothing'})")
    arrays = {name: np.asarray(read(key)) for name, key in found.items() if key is not None}
    for name, values in arrays.items():
        if values.ndim == 0:
            raise DataError(f"{path}, {name}: is a single number; a row a step is expected")
    steps = len(arrays["actions"])
    for name in ("actions", "observations"):
        if arrays[name].size == 0:  # also rows of no numbers, of which a file may promise any number
            raise DataError(f"{path}, {name}: is empty; nothing can be learned from it")
    notes: list[str] = []
    if "rewards" not in arrays:
        arrays["rewards"] = np.zeros(steps, np.float32)
        notes.append("no rewards in the file: taken to be 0")
    for name in ("rewards", "terminals", "timeouts"):
        if name in arrays:
            arrays[name] = arrays[name].reshape(-1)
    for name in ("observations", "rewards", "terminals", "timeouts", "next_observations"):
        if name in arrays and len(arrays[name]) != steps:
            raise DataError(
                f"{path}, {name}: has {len(arrays[name])} rows, actions have {steps}; export the recording again"
            )
    for name in ("terminals", "timeouts"):
        if name in arrays and arrays[name].dtype.kind not in "biuf":
            raise DataError(f"{path}, {name}: is of type {arrays[name].dtype}; flags or 0/1 numbers are expected")
    terminals = arrays["terminals"] > 0.5 if "terminals" in arrays else np.zeros(steps, bool)
    timeouts = arrays["timeouts"] > 0.5 if "timeouts" in arrays else np.zeros(steps, bool)
    ends = _ends(path, arrays, terminals | timeouts, notes)
    if "timeouts" not in arrays and "terminals" in arrays and arrays["terminals"].dtype.kind == "f":
        # D4RL's kitchen marks the last step of each demonstration; the world did not end there
        notes.append("terminals are 0/1 numbers without timeouts (kitchen layout): read as the end of a recording")
        terminals = np.zeros(steps, bool)
    begins = [0, *ends[:-1]]
    episodes = [
        _flat_episode(arrays, begin, end, terminals, f"{source}: episode {number}")
        for number, (begin, end) in enumerate(zip(begins, ends, strict=True))
    ]
    if "next_observations" not in arrays:
        notes.append("no next_observations in the file: the last observation of each episode is repeated")
    return from_episodes(episodes, source, clip_actions=clip_actions, notes=tuple(notes))


def _ends(path: Path, arrays: dict[str, np.ndarray], flags: np.ndarray, notes: list[str]) -> np.ndarray:
    """One past the last step of each episode, [E]."""
    steps = len(arrays["actions"])
    if flags.any():
        ends = np.flatnonzero(flags) + 1
        if ends[-1] != steps:
            notes.append(f"the last {steps - ends[-1]} steps have no end flag: read as an episode that was cut off")
            ends = np.append(ends, steps)
        return ends
    if "lengths" in arrays:
        ends = np.cumsum(arrays["lengths"].astype(np.int64))
        if len(ends) == 0 or ends[-1] != steps or (np.diff(ends, prepend=0) <= 0).any():
            raise DataError(f"{path}, lengths: sum to {int(ends[-1]) if len(ends) else 0}, actions have {steps} rows")
        return ends
    if "starts" in arrays:
        starts = arrays["starts"].astype(np.int64)
        if len(starts) == 0 or starts[0] != 0 or (np.diff(starts) <= 0).any() or starts[-1] >= steps:
            raise DataError(f"{path}, starts: must begin with 0, grow, and stay below the {steps} rows of actions")
        return np.append(starts[1:], steps)
    if "episode" in arrays:
        number = arrays["episode"].reshape(-1)
        if len(number) != steps:
            raise DataError(f"{path}, episode: has {len(number)} rows, actions have {steps}")
        return np.append(np.flatnonzero(number[1:] != number[:-1]) + 1, steps)
    notes.append("no end of an episode is marked: read as one episode")
    return np.array([steps])


def _flat_episode(arrays: dict[str, np.ndarray], begin: int, end: int, terminals: np.ndarray, where: str) -> Episodes:
    span = slice(begin, end)
    observations = arrays["observations"][span]
    last = arrays["next_observations"][end - 1 : end] if "next_observations" in arrays else observations[-1:]
    truncated = np.zeros(end - begin, bool)
    truncated[-1] = not terminals[end - 1]
    return single_episode(
        np.concatenate([observations, last]),
        arrays["actions"][span],
        arrays["rewards"][span],
        terminals[span],
        truncated,
        where=where,
    )
