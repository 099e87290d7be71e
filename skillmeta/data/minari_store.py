"""Logs of our own, written as Minari data sets. Buffers, not Minari's recorder: that one needs jax."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box

from skillmeta.data.episodes import one_by_one
from skillmeta.errors import DataError, UserError
from skillmeta.reading import checksums, read_json, sha256
from skillmeta.reading import verify as hold_against_checksums
from skillmeta.run.files import acquire_lock, replacing_folder, settle, whole, write_synced
from skillmeta.types import Episodes

MANIFEST = "manifest.json"  # SHA-256 of the files of a data set of ours, beside Minari's own folder `data`
NAMESPACE = "namespace_metadata.json"
VARIABLE = "MINARI_DATASETS_PATH"  # Minari's own: the folder that its data sets are in


def minari_package() -> Any:
    """The minari module. Raises UserError naming the extra where it is not installed."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # it imports environments that print notices
            import minari
    except ImportError:
        raise UserError("Minari data sets need the package minari: in the clone, pip install -e '.[minari]'") from None
    return minari


def dataset_folder(dataset_id: str) -> Path:
    """Where Minari keeps a data set: below $MINARI_DATASETS_PATH, or ~/.minari/datasets."""
    minari_package()
    from minari.storage.datasets_root_dir import get_dataset_path

    return Path(get_dataset_path(dataset_id))


@contextlib.contextmanager
def datasets_in(folder: Path | None) -> Iterator[None]:
    """Minari's data sets are in this folder, for this process and those that it starts; None: where they are."""
    before = os.environ.get(VARIABLE)
    if folder is not None:
        os.environ[VARIABLE] = str(folder.resolve())
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        os.environ.update({} if before is None else {VARIABLE: before})


def check_id(dataset_id: str) -> None:
    """Raises DataError for an id that Minari will not write."""
    minari_package()
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError):  # the latter for an id without a version
        raise DataError(
            f"minari:{dataset_id}: is no id that Minari knows; write NAMESPACE/name-vN, e.g. mine/maze-v0, the name two letters "
            "or longer"
        ) from None


@contextlib.contextmanager
def writing(dataset_id: str) -> Iterator[None]:
    """Hold the right to write a data set, and remove what a killed writer left.

    Raises UserError if another process is writing it, or if the folder of data sets cannot be written.
    """
    lock = acquire_lock(
        dataset_folder("") / f".{dataset_id.replace('/', '-')}.lock",  # not in the namespace: Minari deletes empty ones
        f"minari:{dataset_id}: another process is writing it; wait for it or use dataset=OTHER/ID-v0",
    )
    try:
        settle(dataset_folder(dataset_id))
        yield
    finally:
        lock.release()


def recover(dataset_id: str) -> None:
    """Put back a data set whose writer was killed while it replaced it."""
    folder = dataset_folder(dataset_id)
    if whole(folder) != folder:
        with contextlib.suppress(UserError), writing(dataset_id):
            pass


def exists(dataset_id: str) -> bool:
    """Whether a data set is there, complete: one without an episode, which Minari leaves when its writer is killed, is not."""
    metadata = dataset_folder(dataset_id) / "data" / "metadata.json"
    try:
        return metadata.exists() and bool(read_json(metadata).get("total_episodes", 1))
    except UserError:
        return True  # damaged: not to be replaced without being asked


def verify(dataset_id: str) -> None:
    """Hold the files of a data set of ours against their checksums; one without a manifest is not ours, and passes.

    Raises DataError that names the file.
    """
    hold_against_checksums(
        dataset_folder(dataset_id), MANIFEST, DataError, "collect the data set again with overwrite=true"
    )


def write_minari(
    dataset_id: str,
    episodes: Sequence[Episodes],
    action_low: np.ndarray,
    action_high: np.ndarray,
    *,
    overwrite: bool = False,
    description: str = "",
    environment: EnvSpec | None = None,
) -> Path:
    """Write episodes of primitive steps as the Minari data set `NAMESPACE/name-vN` and return its folder.

    It is written beside its place, with a manifest of checksums, and renamed: readers see the old data set or the new one.
    The caller holds `writing(dataset_id)` where several processes may write.

    Args:
        environment: what Minari's `recover_environment` makes again.

    Raises:
        DataError: the id is none, there are no episodes, or the data set exists and `overwrite` is not set.
        UserError: it cannot be written, the disk is full perhaps; an older data set is still there.
    """
    minari = minari_package()
    from minari.dataset.minari_storage import MinariStorage

    check_id(dataset_id)
    episodes = one_by_one(episodes)
    if not episodes:
        raise DataError(f"minari:{dataset_id}: there are no episodes to write")
    if exists(dataset_id) and not overwrite:
        raise DataError(f"minari:{dataset_id}: exists already; use another id, or overwrite it explicitly")
    folder = dataset_folder(dataset_id)
    if folder.exists() and not (folder / "data").is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder}: is not empty and holds no data set; use another id, or delete the folder")
    metadata: dict[str, Any] = {"dataset_id": dataset_id, "minari_version": minari.__version__}
    if description:
        metadata["description"] = description
    metadata["total_episodes"] = len(episodes)
    metadata["total_steps"] = sum(episode.reward.size for episode in episodes)
    image = _hdf5(episodes)
    metadata["dataset_size"] = round(len(image) / 1e6, 1)  # Minari's unit is 1e6 bytes
    try:
        _make_namespace(dataset_id)
        with replacing_folder(folder) as temporary:
            (temporary / "data").mkdir()
            storage = MinariStorage.new(
                temporary / "data",
                observation_space=Box(-np.inf, np.inf, episodes[0].observation.shape[2:], np.float32),
                action_space=Box(
                    np.asarray(action_low, np.float32), np.asarray(action_high, np.float32), dtype=np.float32
                ),
                env_spec=environment,
                data_format="hdf5",
            )
            storage.update_metadata(metadata)
            write_synced(temporary / "data" / "main_data.hdf5", image)
            files = sorted(path for path in temporary.rglob("*") if path.is_file())
            digests = {path.relative_to(temporary).as_posix(): sha256(path) for path in files}
            write_synced(temporary / MANIFEST, checksums(digests).encode())
    except OSError as error:
        raise UserError(
            f"minari:{dataset_id}: cannot be written in {folder.parent} ({error}); free some space there or set "
            "MINARI_DATASETS_PATH, then run the command again"
        ) from None
    return folder


def _hdf5(episodes: Sequence[Episodes]) -> bytes:
    """The HDF5 file of Minari's storage, made in memory: on a disk that is full, HDF5 ends the process by a segmentation fault.

    Infos have `success` if any episode has it at some step: where nothing ever succeeds there may be nothing to succeed at.
    """
    with_success = any(episode.success.any() for episode in episodes)
    with h5py.File("episodes", "w", driver="core", backing_store=False, track_order=True) as file:
        for number, episode in enumerate(episodes):
            group = file.create_group(f"episode_{number}")
            group.attrs["id"], group.attrs["total_steps"] = number, episode.reward.size
            _write_column(group, "observations", episode.observation[0].astype(np.float32))
            _write_column(group, "actions", episode.action[0].astype(np.float32))
            _write_column(group, "rewards", episode.reward[0].astype(np.float64))
            _write_column(group, "terminations", episode.terminated[0].astype(bool))
            _write_column(group, "truncations", episode.truncated[0].astype(bool))
            infos = group.create_group("infos")
            if with_success:
                _write_column(infos, "success", np.concatenate([[False], episode.success[0]]))
        file.flush()
        result: bytes = file.id.get_file_image()
        return result


def _write_column(group: h5py.Group, name: str, values: np.ndarray) -> None:
    group.create_dataset(name, data=values, chunks=True, maxshape=(None, *values.shape[1:]))


def _make_namespace(dataset_id: str) -> None:
    """The folders of a data set's namespace, each with the file by which Minari knows it, also where a kill cut that short."""
    root = dataset_folder("")
    for folder in reversed(dataset_folder(dataset_id).relative_to(root).parents[:-1]):
        (root / folder).mkdir(parents=True, exist_ok=True)
        path = root / folder / NAMESPACE
        if not path.exists() or path.stat().st_size < 2:
            path.write_text("{}")
