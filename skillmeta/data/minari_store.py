"""Logs of our own, written as Minari data sets. Buffers, not Minari's recorder: that one needs jax."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box

from skillmeta.data.episodes import Episode
from skillmeta.errors import DataError, UserError


def minari_package() -> Any:
    """The minari module. Raises UserError naming the extra where it is not installed."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # it imports environments that print notices
            import minari
    except ImportError:
        raise UserError("Minari data sets need the package minari: pip install 'skillmeta[minari]'") from None
    return minari


def dataset_folder(dataset_id: str) -> Path:
    """Where Minari keeps a data set: below $MINARI_DATASETS_PATH, or ~/.minari/datasets."""
    minari_package()
    from minari.storage.datasets_root_dir import get_dataset_path

    return Path(get_dataset_path(dataset_id))


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


def exists(dataset_id: str) -> bool:
    return (dataset_folder(dataset_id) / "data").is_dir()


def write_minari(
    dataset_id: str,
    episodes: Sequence[Episode],
    action_low: np.ndarray,
    action_high: np.ndarray,
    *,
    overwrite: bool = False,
    description: str = "",
    environment: EnvSpec | None = None,
) -> Path:
    """Write episodes as the Minari data set `NAMESPACE/name-vN` and return its folder.

    `environment` is what Minari's `recover_environment` makes again.

    Raises DataError if there are no episodes, or if the data set exists and `overwrite` is not set.
    """
    minari = minari_package()
    from minari.data_collector import EpisodeBuffer

    if not episodes:
        raise DataError(f"minari:{dataset_id}: there are no episodes to write")
    if exists(dataset_id):
        if not overwrite:
            raise DataError(f"minari:{dataset_id}: exists already; use another id, or overwrite it explicitly")
        minari.delete_dataset(dataset_id)
    buffers = [
        EpisodeBuffer(
            id=number,
            observations=episode.observations.astype(np.float32),
            actions=episode.actions.astype(np.float32),
            rewards=episode.rewards.astype(np.float64).tolist(),
            terminations=episode.terminated.astype(bool).tolist(),
            truncations=episode.truncated.astype(bool).tolist(),
            infos={} if episode.success is None else {"success": np.concatenate([[False], episode.success])},
        )
        for number, episode in enumerate(episodes)
    ]
    space = Box(-np.inf, np.inf, episodes[0].observations.shape[1:], np.float32)
    with warnings.catch_warnings():  # about an author and a permalink, which a log made on one's own machine has not
        warnings.simplefilter("ignore", UserWarning)
        minari.create_dataset_from_buffers(
            dataset_id,
            buffers,
            observation_space=space,
            action_space=Box(np.asarray(action_low, np.float32), np.asarray(action_high, np.float32), dtype=np.float32),
            env=environment,
            data_format="hdf5",
            description=description or None,
        )
    return dataset_folder(dataset_id)
