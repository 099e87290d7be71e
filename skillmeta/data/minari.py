"""Minari data sets on this machine, as arrays. `skillmeta.data.minari_store` writes them.

Read here and not by `minari.load_dataset`: that one makes the environment that the metadata names where they lack a space,
follows links to other files, and decodes infos, which nothing here needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from skillmeta.data import hdf5
from skillmeta.data import room as rooms
from skillmeta.data.episodes import EpisodeDataset, from_episodes, single_episode
from skillmeta.data.layouts import ActionBounds, Request, chosen_keys, is_vector, joined, parts, width, with_steps
from skillmeta.data.minari_store import check_id, dataset_folder, exists, recover, verify
from skillmeta.errors import DataError
from skillmeta.reading import read_json
from skillmeta.trust import check_links
from skillmeta.types import Episodes

OPTIONS = ()


def read(dataset_id: str, request: Request) -> EpisodeDataset:
    """A data set by its id. Raises DataError that names episode and field."""
    check_id(dataset_id)
    folder = dataset_folder(dataset_id)
    recover(dataset_id)
    root = dataset_folder("")
    source = request.source
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
    low, high = _bounds(metadata.get("action_space"), request)
    path = folder / "data" / "main_data.hdf5"
    with hdf5.opened(path) as file:
        numbers = sorted(int(name.removeprefix("episode_")) for name in file)
        if len(numbers) != (stated := metadata.get("total_episodes")):
            raise DataError(f"{source}: holds {len(numbers)} episodes, its metadata say {str(stated)[:100]}")
        if not numbers:
            raise DataError(f"{source}: holds no episodes; nothing can be learned from it")

        def group(n: int) -> h5py.Group:
            return hdf5.member(file, f"episode_{n}", path)

        steps = [len(hdf5.dataset(group(n), "actions", path)) for n in numbers]
        kept, lengths, empty = with_steps(numbers, steps)
        found = _observations(group(numbers[0]), path, metadata.get("observation_space"))
        keys, notes = (
            chosen_keys(found, request, f"{source}: episode {numbers[0]}, observations") if found else ((), ())
        )
        if request.keys and not found:
            raise DataError(f"{source}: its observations are one array; leave out ?{','.join(request.keys)}")

        def episodes() -> Iterator[Episodes]:
            for n, steps in zip(kept, lengths, strict=True):
                yield from _episode(group(n), steps, keys, f"{source}: episode {n}", path)

        return from_episodes(
            episodes(),
            source,
            low,
            high,
            request.clip_actions,
            (*notes, *empty),
            lengths,
            parts(keys, found),
            room=request.room,
        )


def _bounds(space: str | None, request: Request) -> ActionBounds:
    """Bounds [A] of a Box as Minari writes one, unless the request says otherwise; None where the metadata name no space."""
    if space is None:
        return request.bounds()
    plain = json.loads(space)
    if plain["type"] != "Box":
        raise DataError(f"{request.source}: actions are of a {plain['type']!r}; skills need a Box")
    low, high = (np.asarray(plain[bound], np.float64).ravel() for bound in ("low", "high"))
    return request.bounds(low, high)


def _observations(group: h5py.Group, path: Path, space: str | None) -> dict[str, Sequence[int]]:
    """Key and shape of each part of a mapping of observations, in the order of the space; none where they are one array."""
    observations = hdf5.member(group, "observations", path)
    if not isinstance(observations, h5py.Group):
        return {}
    found = hdf5.leaves(observations, path)
    stated = [key for key in _keys(json.loads(space) if space else None) if key in found]
    ordered = {key: found[key] for key in [*stated, *found]}
    return {key: data.shape[1:] for key, data in ordered.items() if is_vector(data.shape[1:], data.dtype)}


def _keys(space: Any, prefix: str = "") -> Iterator[str]:
    """The keys of a Dict space as Minari writes one, a/b where nested."""
    if isinstance(space, Mapping) and space.get("type") == "Dict":
        for key, inside in space["subspaces"].items():
            yield from _keys(inside, f"{prefix}{key}/")
    else:
        yield prefix.rstrip("/")


def _episode(group: h5py.Group, steps: int, keys: Sequence[str], where: str, path: Path) -> Iterator[Episodes]:
    """An episode, in pieces where it is long."""
    inside = hdf5.member(group, "observations", path) if keys else group
    columns = {key: hdf5.dataset(inside, key, path) for key in keys or ("observations",)}
    for key, values in columns.items():
        first = next(iter(columns))
        if len(values) != len(columns[first]):
            raise DataError(f"{where}, {key}: has {len(values)} rows, {first} has {len(columns[first])}")
    per_step = {name: hdf5.dataset(group, name, path) for name in ("actions", "rewards", "terminations", "truncations")}
    success = _success(group, steps, path)
    row_bytes = 4 * sum(width(values.shape[1:]) for values in (*columns.values(), per_step["actions"]))
    for begin, end in rooms.parts(steps, row_bytes):
        last = None if end == steps else end  # all rows that there are: their number is checked
        seen = [values[begin : None if last is None else end + 1] for values in columns.values()]
        actions, rewards, terminated, truncated = (values[begin:last] for values in per_step.values())
        yield single_episode(
            joined(seen) if keys else seen[0].reshape(len(seen[0]), -1),
            actions.reshape(len(actions), -1),
            rewards,
            terminated,
            truncated,
            None if success is None else success[begin:end],
            where,
        )


def _success(group: h5py.Group, steps: int, path: Path) -> np.ndarray | None:
    """What the infos call success [T], without that of the reset; None where they have none that can be read as flags."""
    if "infos" not in list(group):
        return None
    infos = hdf5.member(group, "infos", path)
    if not isinstance(infos, h5py.Group) or "success" not in list(infos):
        return None
    flags = np.asarray(hdf5.array(infos, "success", path))
    if flags.dtype.kind not in "biuf" or flags.size not in (steps, steps + 1):
        return None
    return flags.reshape(-1)[-steps:] > 0.5
