"""ALOHA's layout: an episode a file, `action` [T, A] beside a group `observations` with `qpos` [T, O] and, left out here, images.

A path names one file, or a folder of them. `?qpos,qvel` takes several.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py

from skillmeta.data import hdf5
from skillmeta.data.episodes import EpisodeDataset, from_episodes
from skillmeta.data.layouts import (
    NO_REWARDS,
    REPEATED,
    Request,
    chosen_keys,
    in_order,
    is_vector,
    parts,
    recorded,
    with_steps,
)
from skillmeta.errors import DataError
from skillmeta.trust import check_links
from skillmeta.types import Episodes

OPTIONS = ()
ACTIONS = ("action", "actions")


def recognises(path: Path) -> bool:
    if path.is_dir():
        return any(recognises(file) for file in _files(path)[:1])
    if path.suffix not in hdf5.SUFFIXES or not path.is_file():
        return False
    with hdf5.opened(path) as file:
        grouped = (
            "observations" in list(file) and file.get("observations", getclass=True, getlink=True) is h5py.HardLink
        )
        return grouped and file.get("observations", getclass=True) is h5py.Group


def read(path: Path, request: Request) -> EpisodeDataset:
    """See `skillmeta.data.layouts.Layout`."""
    if path.is_dir():
        check_links(path)
    files = _files(path) if path.is_dir() else [path]
    with hdf5.opened(files[0]) as file:
        held = hdf5.leaves(hdf5.member(file, "observations", files[0]), files[0])
        found = {key: data.shape[1:] for key, data in held.items() if is_vector(data.shape[1:], data.dtype)}
    images = [key for key in held if key not in found]
    keys, notes = chosen_keys(found, request, f"{files[0]}: ALOHA's layout, observations", ("qpos",))
    if images:
        notes += (f"images are left out: {', '.join(images)}",)
    steps = []
    for one in files:
        with hdf5.opened(one) as file:
            steps.append(len(hdf5.dataset(file, _actions(file, one), one)))
    files, lengths, empty = with_steps(files, steps)

    def episodes() -> Iterator[Episodes]:
        for one in files:
            with hdf5.opened(one) as file:
                yield recorded(
                    [hdf5.array(file, f"observations/{key}", one) for key in keys],
                    None,
                    hdf5.array(file, _actions(file, one), one),
                    None,
                    str(one),
                )

    return from_episodes(
        episodes(),
        request.source,
        *request.bounds(),
        clip_actions=request.clip_actions,
        notes=(*notes, *empty, NO_REWARDS, REPEATED),
        lengths=lengths,
        observed=parts(keys, found),
        room=request.room,
    )


def _files(folder: Path) -> list[Path]:
    return [folder / name for name in in_order([p.name for p in folder.iterdir() if p.suffix in hdf5.SUFFIXES])]


def _actions(file: h5py.File, path: Path) -> str:
    found = next((name for name in ACTIONS if name in list(file)), None)
    if found is None:
        raise DataError(f"{path}: has no array 'action' (it has {', '.join(file)})")
    return found
