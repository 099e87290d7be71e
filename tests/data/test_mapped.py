"""A log in files is the log in memory: the same windows, statistics and checks, whatever ends its conversion."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import warnings
from dataclasses import fields
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from skillmeta.cli import main
from skillmeta.data import room
from skillmeta.data.episodes import EpisodeDataset, single_episode
from skillmeta.data.flat import read
from skillmeta.data.minari_store import write_minari
from skillmeta.data.sources import load_source
from skillmeta.data.summary import summarize
from skillmeta.errors import DataError, UserError
from tests.faults.harness import Command, contents, differences, renames, run_forked, run_whole

LENGTHS = (700, 3, 900, 400)


@pytest.fixture(autouse=True)
def _small(monkeypatch, tmp_path):
    """Pieces of a few rows, and a cache folder of the test's own."""
    monkeypatch.setattr(room, "PART", 1_000)
    monkeypatch.setenv("SKILLMETA_CACHE", str(tmp_path / "cache"))


def content(seed: int = 0) -> dict[str, np.ndarray]:
    """Four episodes that wander; the second is shorter than a window, and the first jumps once."""
    rng, steps = np.random.default_rng(seed), sum(LENGTHS)
    ends = np.cumsum(LENGTHS) - 1
    seen = np.cumsum(rng.normal(size=(steps, 3)), 0) + 100
    seen[350:700] += 1_000
    return {
        "observations": seen.astype(np.float32),
        "actions": rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        "rewards": rng.normal(size=(steps, 1)).astype(np.float32),
        "terminals": np.arange(steps) == ends[1],
        "timeouts": np.isin(np.arange(steps), ends[[0, 2, 3]]),
        "lengths": np.array(LENGTHS),
    }


def write(tmp_path: Path, kind: str, arrays: dict[str, np.ndarray]) -> str:
    """A log in some layout, and what names it."""
    if kind == "npz":
        arrays = {**arrays, "observations": np.asfortranarray(arrays["observations"])}
        np.savez_compressed(tmp_path / "log.npz", **arrays)
        return str(tmp_path / "log.npz")
    per_step = {name: values for name, values in arrays.items() if name != "lengths"}
    cuts = np.cumsum(LENGTHS)[:-1]
    each = [
        dict(zip(per_step, parts, strict=True))
        for parts in zip(*(np.split(v, cuts) for v in per_step.values()), strict=True)
    ]
    if kind == "folder":
        (tmp_path / "logs").mkdir()
        for i, episode in enumerate(each):
            if i % 2:
                np.savez(tmp_path / "logs" / f"{i}.npz", **episode)
            else:
                write_hdf5(tmp_path / "logs" / f"{i}.hdf5", episode)
        return str(tmp_path / "logs")
    if kind == "minari":
        episodes = []
        for e in each:
            after = np.concatenate([e["observations"], e["observations"][-1:] + 1])
            episodes.append(
                single_episode(
                    after, e["actions"], e["rewards"].reshape(-1), e["terminals"], e["timeouts"], e["timeouts"]
                )
            )
        write_minari("test/large-v0", episodes, -np.ones(2), np.ones(2))
        return "minari:test/large-v0"
    if kind == "stacked":
        padded = {
            name: np.zeros((len(each), max(LENGTHS), *values.shape[1:]), values.dtype)
            for name, values in per_step.items()
        }
        for i, episode in enumerate(each):
            for name, values in episode.items():
                padded[name][i, : len(values)] = values
        arrays = {**padded, "lengths": arrays["lengths"]}
    if kind == "unmarked":
        arrays = {name: arrays[name] for name in ("observations", "actions", "terminals")}
    return write_hdf5(tmp_path / "log.hdf5", arrays, chunks=(400, 1) if kind == "chunked" else None)


def write_hdf5(path: Path, arrays: dict[str, np.ndarray], chunks: tuple[int, int] | None = None) -> str:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, chunks=chunks if values.ndim == 2 else None)
    return str(path)


def assert_same(mapped: EpisodeDataset, held: EpisodeDataset) -> None:
    assert mapped.mapped and not held.mapped
    for f in fields(EpisodeDataset):
        if f.name != "room":
            np.testing.assert_array_equal(getattr(mapped, f.name), getattr(held, f.name))
    assert summarize(mapped, 10) == summarize(held, 10)
    for split in ("train", "held_out"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            windows, others = (dataset.windows(10, split, 0.4) for dataset in (mapped, held))
        batch, other = (w.sample(200, torch.Generator().manual_seed(0)) for w in (windows, others))
        for name in batch._fields:
            assert torch.equal(getattr(batch, name), getattr(other, name))
        assert torch.equal(torch.cat([*windows.frames()]), torch.cat([*others.frames()]))
        for moment, expected in zip(windows.moments(), others.moments(), strict=True):
            torch.testing.assert_close(moment, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["hdf5", "chunked", "npz", "folder", "minari", "stacked", "unmarked"])
def test_a_log_in_files_is_the_log_in_memory(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setattr("skillmeta.data.hdf5.CHUNK", 1_000)
    if kind == "chunked":
        monkeypatch.setattr(os, "sysconf", lambda name: 1)  # as where the log does not fit into memory
    source = write(tmp_path, kind, content())
    held, mapped, again = (load_source(source, map_above=above) for above in (10**9, 40_000, 40_000))
    assert held.num_steps == sum(LENGTHS) and summarize(held, 10)["jumps"] == (0 if kind == "unmarked" else 1)
    assert_same(mapped, held)
    assert_same(again, held)
    assert load_source(source).mapped is False
    with pytest.raises(ValueError, match="read-only"):
        mapped.action[0] = 0


def test_what_is_wrong_is_said_as_in_memory(tmp_path):
    for name, at, value, words in (
        ("observations", 1_500, np.nan, "episode 2, observations: step 797 is not finite"),
        ("actions", 1_200, 3.0, "episode 2, actions: step 497 is .*3.0.*, outside"),
    ):
        arrays = content()
        arrays[name][at, 1] = value
        source = f"{write(tmp_path, 'hdf5', arrays)}?actions=unit"
        said = []
        for above in (10**9, 0):
            with pytest.raises(DataError, match=words) as error:
                load_source(source, map_above=above)
            said.append(str(error.value))
        assert said[0] == said[1]
        assert not list((tmp_path / "cache" / "logs").glob(".tmp-*"))
    clipped = load_source(source, map_above=0, clip_actions=True)
    assert clipped.mapped and clipped.action.max() == 1.0


def test_pieces_that_memory_cannot_hold_and_rows_in_turns_are_refused(tmp_path):
    with h5py.File(tmp_path / "log.hdf5", "w") as file:
        for name, values in content().items():
            file.create_dataset(name, data=values, chunks=values.shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skillmeta.data.hdf5.CHUNK", 1_000)
        with pytest.raises(
            DataError, match=r"log.hdf5, observations: is stored in pieces of \(2003, 3\), which take 24,036 bytes"
        ):
            load_source(str(tmp_path / "log.hdf5"), map_above=20_000)
    turns = {**content(), "episode": np.arange(sum(LENGTHS)) % 2}
    del turns["lengths"], turns["terminals"], turns["timeouts"]
    with pytest.raises(DataError, match="take turns, and are too many to be put in order in memory"):
        load_source(write(tmp_path, "hdf5", turns), map_above=20_000)


def test_a_log_is_converted_once_and_again_when_it_or_what_was_made_of_it_changed(tmp_path, monkeypatch):
    conversions = []
    monkeypatch.setattr("skillmeta.data.flat.read", lambda path, request: conversions.append(1) or read(path, request))
    source = write(tmp_path, "hdf5", content())
    first = load_source(source, map_above=0)
    assert np.array_equal(load_source(source, map_above=0).action, first.action) and len(conversions) == 1
    changed = content(seed=1)
    write(tmp_path, "hdf5", changed)
    assert np.array_equal(load_source(source, map_above=0).action, changed["actions"]) and len(conversions) == 2
    (folder,) = (path for path in (tmp_path / "cache" / "logs").iterdir() if path.is_dir())
    for name in ("action.npy", "about.json", "manifest.json", "offsets.npy"):
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)
        assert np.array_equal(load_source(source, map_above=0).action, changed["actions"])
    (folder / "reward.npy").unlink()
    assert np.array_equal(load_source(source, map_above=0).action, changed["actions"]) and len(conversions) == 7
    os.utime(source, ns=(0, 0))
    load_source(source, map_above=0)
    assert len(conversions) == 8


def test_a_second_process_waits_for_the_first(tmp_path, monkeypatch, capsys):
    conversions = []
    monkeypatch.setattr("skillmeta.data.flat.read", lambda path, request: conversions.append(1) or read(path, request))
    source = write(tmp_path, "hdf5", content())
    expected = load_source(source, map_above=0)
    (folder,) = (path for path in (tmp_path / "cache" / "logs").iterdir() if path.is_dir())
    aside = folder.rename(tmp_path / "aside")
    lock = folder.with_name(f".{folder.name}.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)  # as another process does

    def finishes() -> None:
        aside.rename(folder)
        lock.close()

    timer = threading.Timer(0.5, finishes)
    timer.start()
    found = load_source(source, map_above=0)
    timer.join()
    assert np.array_equal(found.action, expected.action) and found.mapped
    assert len(conversions) == 2  # the second one began, and found the lock
    assert capsys.readouterr().err == f"{source}: another process is converting it; this one waits\n"


def test_a_disk_that_is_full_is_one_sentence(tmp_path, monkeypatch):
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    source = write(tmp_path, "hdf5", content())
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"cache/logs.*cannot take the arrays of the log \(.*No space.*SKILLMETA_CACHE"):
        load_source(source, map_above=0)
    monkeypatch.delattr(os, "posix_fallocate")  # as where the system has none
    assert load_source(source, map_above=0).mapped


def test_a_killed_conversion_is_made_by_the_same_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SKILLMETA_CACHE", str(tmp_path / "there" / "cache"))
    (tmp_path / "there").mkdir()
    arguments = ("inspect", write(tmp_path, "npz", content()), "--json", "--map-above", "1000")
    command = Command(arguments, tmp_path / "there" / "cache")
    left, places = run_whole(command)
    shown = json.loads(capsys.readouterr().out)
    for place in [*renames(places), places[len(places) // 2], next(p for p in places if "reward.npy" in p)]:
        for path in (command.out / "logs").iterdir():
            for file in [*path.glob("*"), path]:
                file.rmdir() if file.is_dir() else file.unlink()
        assert run_forked(command, place)[0] == -9, place
        assert main(arguments) == 0 and json.loads(capsys.readouterr().out) == shown
        assert differences(contents(command.out), left) == [], place
