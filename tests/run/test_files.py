"""Files and folders are whole or as they were."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from skillmeta.config import build, load
from skillmeta.errors import UserError
from skillmeta.programs.ablate import ablate
from skillmeta.run.files import lock_folder, locked_folder, replacing_folder, settle, whole, write_npz, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def full_disk(*unused: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_file_that_cannot_be_written_is_as_it_was(tmp_path, monkeypatch, call):
    write_whole(tmp_path / "a", "old")
    monkeypatch.setattr(os, call, full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == ["a"]


def test_a_folder_is_replaced_whole_or_not(tmp_path, monkeypatch):
    for content in ("old", "new"):
        with replacing_folder(tmp_path / "a") as folder:
            (folder / content).touch()
        assert names(tmp_path / "a") == [content] and names(tmp_path) == ["a"]
    with pytest.raises(KeyError), replacing_folder(tmp_path / "a") as folder:
        raise KeyError
    plain = os.replace

    def second_fails(source: Path, target: Path) -> None:
        plain(source, target) if target.name.startswith(".old") or source.name.startswith(".old") else full_disk()

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(OSError, match="No space left"), replacing_folder(tmp_path / "a") as folder:
        (folder / "newer").touch()
    assert names(tmp_path / "a") == ["new"] and names(tmp_path) == ["a"]


def test_a_folder_whose_writer_died_between_the_renames_is_found(tmp_path):
    (tmp_path / ".old-a-1").mkdir()
    (tmp_path / ".tmp-a-1").mkdir()
    assert whole(tmp_path / "a") == tmp_path / ".old-a-1"
    settle(tmp_path / "a")
    assert names(tmp_path) == ["a"]


def test_equal_arrays_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_npz(tmp_path / f"{name}.npz", {"x/0": np.arange(3), "y": np.zeros((2, 2))})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz") as archive:
        assert archive["x/0"].tolist() == [0, 1, 2]


def test_a_lock_removes_what_dead_processes_left(tmp_path):
    (tmp_path / "pictures").mkdir()
    for path in (tmp_path / ".tmp-a-1", tmp_path / "pictures" / ".tmp-b-1", tmp_path / "c"):
        path.touch()
    lock_folder(tmp_path).release()
    assert names(tmp_path) == [".lock", "c", "pictures"] and names(tmp_path / "pictures") == []


def test_a_second_ablation_in_a_folder_is_refused_at_once(tmp_path):
    from skillmeta.programs.ablate import AblationConfig

    with locked_folder(tmp_path / "a"), pytest.raises(UserError, match="another process is running in this folder"):
        ablate(build(AblationConfig, load("demo")), tmp_path / "a")
    assert names(tmp_path / "a") == [".lock"]
