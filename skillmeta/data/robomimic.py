"""robomimic's layout, https://robomimic.github.io/docs/datasets/overview.html: a file with a group `data/demo_N` for each episode.

    demos.hdf5?robot0_eef_pos,robot0_gripper_qpos,object      which observations make the state, in this order
    demos.hdf5?object&mask=train                              the demonstrations that `mask/train` lists

`dones` mark the last step of a demonstration or a success; the world did not end there.
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
from skillmeta.types import Episodes

OPTIONS = ("mask",)


def recognises(path: Path) -> bool:
    if path.suffix not in hdf5.SUFFIXES or not path.is_file():
        return False
    with hdf5.opened(path) as file:
        return "data" in list(file) and "observations" not in list(file)


def read(path: Path, request: Request) -> EpisodeDataset:
    """See `skillmeta.data.layouts.Layout`."""
    with hdf5.opened(path) as file:
        data = hdf5.member(file, "data", path)
        names = (
            [name for name in in_order(list(data)) if name.startswith("demo")] if isinstance(data, h5py.Group) else []
        )
        if not names:
            raise DataError(
                f"{path}, data: holds no groups demo_0, demo_1, ..., as robomimic's layout has them; arrays of all steps belong "
                "at the top of the file"
            )
        names = _listed(file, path, names, request)
        demos = [hdf5.member(data, name, path) for name in names]
        steps = [len(hdf5.dataset(demo, "actions", path)) for demo in demos]
        named, lengths, empty = with_steps([*zip(names, demos, strict=True)], steps)
        found = {
            key: values.shape[1:]
            for key, values in hdf5.leaves(hdf5.member(demos[0], "obs", path), path).items()
            if is_vector(values.shape[1:], values.dtype)
        }
        keys, notes = chosen_keys(found, request, f"{path}: robomimic's layout, observations", ())
        complete = all("next_obs" in list(demo) for demo in demos)
        rewarded = any("rewards" in list(demo) for demo in demos)

        def episodes() -> Iterator[Episodes]:
            for name, demo in named:
                last = hdf5.member(demo, "next_obs", path) if complete else None
                yield recorded(
                    [hdf5.array(demo, f"obs/{key}", path) for key in keys],
                    None if last is None else [hdf5.dataset(last, key, path)[-1:] for key in keys],
                    hdf5.array(demo, "actions", path),
                    hdf5.array(demo, "rewards", path) if "rewards" in list(demo) else None,
                    f"{request.source}: {name}",
                )

        return from_episodes(
            episodes(),
            request.source,
            *request.bounds(),
            clip_actions=request.clip_actions,
            notes=(*notes, *empty, *(() if complete else (REPEATED,)), *(() if rewarded else (NO_REWARDS,))),
            lengths=lengths,
            observed=parts(keys, found),
            room=request.room,
        )


def _listed(file: h5py.File, path: Path, names: list[str], request: Request) -> list[str]:
    """The demonstrations of the mask that is asked for; all without one."""
    if (mask := request.options.get("mask")) is None:
        return names
    masks = list(hdf5.member(file, "mask", path)) if "mask" in list(file) else []
    if mask not in masks:
        raise DataError(f"{path}: has no mask {mask!r}; it has {', '.join(masks) or 'none'}")
    values = hdf5.array(file, f"mask/{mask}", path).reshape(-1)
    listed = {value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist()}
    chosen = [name for name in names if name in listed]
    if not chosen:
        raise DataError(f"{path}, mask/{mask}: lists no demonstration of this file")
    return chosen
