"""A data set of ours is complete or not there; damage is found; Minari reads it as its own."""

from __future__ import annotations

import json
import os
from typing import Any

import h5py
import numpy as np
import pytest

from skillmeta.cli import main
from skillmeta.data.episodes import single_episode
from skillmeta.data.minari_store import dataset_folder, exists, write_minari, writing
from skillmeta.data.sources import load_source
from skillmeta.errors import DataError
from skillmeta.types import Episodes

NAME = "test/some-v0"


@pytest.fixture(autouse=True)
def datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def episodes(seed: int = 0) -> list[Episodes]:
    rng = np.random.default_rng(seed)
    found = []
    for steps, success in ((5, None), (8, np.eye(8, dtype=bool)[-1])):
        observations = rng.normal(size=(steps + 1, 3)).astype(np.float32)
        actions = rng.uniform(-1, 1, (steps, 2)).astype(np.float32)
        rewards = rng.normal(size=steps).astype(np.float32)
        truncated = np.eye(steps, dtype=bool)[-1]
        found.append(single_episode(observations, actions, rewards, np.zeros(steps, bool), truncated, success))
    return found


def write(seed: int = 0, overwrite: bool = False) -> None:
    write_minari(NAME, episodes(seed), -np.ones(2), np.ones(2), overwrite=overwrite)


def rewards() -> list[float]:
    return load_source(f"minari:{NAME}").episode(0).reward[0].tolist()


def hdf5(name: str) -> list[Any]:
    """Every object of a data set's file: name, attributes, values, type, chunks and limits."""
    found: list[Any] = []

    def add(path: str, node: Any) -> None:
        values = (node[()].tolist(), str(node.dtype), node.chunks, node.maxshape) if hasattr(node, "shape") else ()
        found.append((path, {key: (int(v), v.dtype) for key, v in node.attrs.items()}, values))

    with h5py.File(dataset_folder(name) / "data" / "main_data.hdf5") as file:
        file.visititems(add)
        return [list(file), *found]


def test_the_files_are_those_of_minaris_own_storage():
    import minari
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer

    write()
    buffers = [
        EpisodeBuffer(
            id=number, observations=e.observation[0], actions=e.action[0], rewards=e.reward[0].astype(np.float64).tolist(),
            terminations=e.terminated[0].tolist(), truncations=e.truncated[0].tolist(),
            infos={"success": np.concatenate([[False], e.success[0]])},
        )
        for number, e in enumerate(episodes())
    ]  # fmt: skip
    spaces = {
        "observation_space": Box(-np.inf, np.inf, (3,), np.float32),
        "action_space": Box(-1, 1, (2,), np.float32),
    }
    with pytest.warns(UserWarning):
        minari.create_dataset_from_buffers("test/other-v0", buffers, data_format="hdf5", **spaces)
    assert hdf5(NAME) == hdf5("test/other-v0")
    ours, theirs = (
        json.loads((dataset_folder(name) / "data" / "metadata.json").read_text()) for name in (NAME, "test/other-v0")
    )
    assert ours.pop("dataset_id") == NAME and theirs.pop("dataset_id") == "test/other-v0"
    assert ours == theirs
    assert sorted(minari.list_local_datasets()) == ["test/other-v0", NAME]


def test_nothing_is_written_beside_the_data_sets(tmp_path_factory, monkeypatch):
    here = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(here)
    write()
    assert not list(here.iterdir())


@pytest.mark.parametrize("name", ["data/main_data.hdf5", "data/metadata.json", "manifest.json"])
def test_damage_is_found_and_the_file_is_named(name):
    write()
    path = dataset_folder(NAME) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=f"{name}: (does not match its checksum|is damaged|is of another format)|, or delete"
    ):
        load_source(f"minari:{NAME}")


def test_a_data_set_without_a_manifest_is_not_ours_and_is_read():
    write()
    (dataset_folder(NAME) / "manifest.json").unlink()
    assert rewards() == episodes()[0].reward[0].tolist()


def test_what_a_killed_writer_of_minari_leaves_is_not_a_data_set():
    from gymnasium.spaces import Box
    from minari.dataset.minari_storage import MinariStorage

    folder = dataset_folder(NAME) / "data"
    folder.mkdir(parents=True)
    MinariStorage.new(folder, Box(-1, 1, (3,)), Box(-1, 1, (2,)), data_format="hdf5")
    assert not exists(NAME)
    with pytest.raises(DataError, match="not found"):
        load_source(f"minari:{NAME}")
    write()
    assert rewards() == episodes()[0].reward[0].tolist()


def test_a_folder_that_holds_something_else_is_not_replaced():
    (dataset_folder(NAME) / "others-v0").mkdir(parents=True)
    with pytest.raises(DataError, match="is not empty and holds no data set"):
        write(overwrite=True)
    assert (dataset_folder(NAME) / "others-v0").exists()


def test_a_writer_that_was_killed_between_its_two_renames_loses_nothing():
    write()
    folder = dataset_folder(NAME)
    os.replace(folder, folder.parent / f".old-{folder.name}-123")
    (folder.parent / f".tmp-{folder.name}-123").mkdir()
    (folder.parent / ".tmp-some-v0-b-v1-123").mkdir()  # of another data set's writer, which may be alive
    assert rewards() == episodes()[0].reward[0].tolist()
    left = sorted(path.name for path in folder.parent.iterdir())
    assert left == [".tmp-some-v0-b-v1-123", "namespace_metadata.json", "some-v0"]


def test_each_folder_of_a_nested_name_is_a_namespace_for_minari(tmp_path):
    write_minari("a/b/c-v0", episodes(), -np.ones(2), np.ones(2))
    marked = sorted(str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("namespace_metadata.json"))
    assert marked == ["a", "a/b"]


def test_an_error_keeps_the_old_data_set(monkeypatch):
    write()
    with pytest.raises(ValueError, match="broadcast|shape"):
        write_minari(NAME, episodes(1), -np.ones(2), np.ones(3), overwrite=True)
    assert rewards() == episodes()[0].reward[0].tolist()
    write(seed=1, overwrite=True)
    assert rewards() == episodes(1)[0].reward[0].tolist()


def test_a_second_writer_is_refused_at_once(capsys):
    with writing(NAME):
        assert main(["collect", "pretrain/maze_logs", f"dataset={NAME}"]) == 2
    assert f"minari:{NAME}: another process is writing it" in capsys.readouterr().err
