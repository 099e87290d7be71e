"""A checkpoint is whole or it is refused; nothing that happens to the process in between changes that."""

from __future__ import annotations

import errno
import itertools
import json
import multiprocessing
import random
import resource
import signal
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest
import torch

from skillmeta.errors import CheckpointError
from skillmeta.run.checkpoint import generator_state, load_state, restore_generator, save_state, state_hash


def state(seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        "net": {"w": torch.randn(5, 3, generator=generator), "scalar": torch.tensor(1.5), "flag": torch.tensor([True])},
        "count": torch.tensor(7, dtype=torch.int64),
        "array": np.arange(6, dtype=np.float32).reshape(2, 3),
        "plain": {"step": 3, "rate": 0.1, "name": "x", "none": None, "yes": True, "list": [1, 2]},
        "draws": generator_state(generator),
        "empty": {},
    }


def test_everything_comes_back_as_it_went_in(tmp_path):
    save_state(tmp_path / "c", state(), {"step": 1})
    loaded, meta = load_state(tmp_path / "c")
    assert meta == {"step": 1} and state_hash(loaded) == state_hash(state())
    assert loaded["plain"] == state()["plain"] and loaded["empty"] == {} and loaded["net"]["scalar"].shape == ()
    assert isinstance(loaded["array"], np.ndarray) and loaded["count"].dtype == torch.int64


def test_generators_continue_where_they_were():
    a, b = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    torch.randn(3, generator=a)
    restore_generator(b, generator_state(a))
    assert torch.equal(torch.randn(5, generator=a), torch.randn(5, generator=b))
    x, y = np.random.default_rng(1), np.random.default_rng(2)
    x.normal(size=3)
    restore_generator(y, generator_state(x))
    assert (x.normal(size=5) == y.normal(size=5)).all()


def test_the_hash_knows_every_leaf_and_no_order():
    one = state()
    assert state_hash(dict(reversed(one.items()))) == state_hash(one)
    other = state()
    other["net"]["w"][0, 0] += 1e-6
    assert state_hash(other) != state_hash(one)


def test_any_damage_is_found(tmp_path):
    """Flipped bits, zeroed stretches and truncations, in every file of the checkpoint."""
    rng = random.Random(0)
    save_state(tmp_path / "c", state())
    for file in sorted((tmp_path / "c").iterdir()):
        whole = file.read_bytes()
        for _ in range(25):
            data = bytearray(whole)
            kind = rng.choice(["flip", "zero", "cut"])
            at = rng.randrange(len(data))
            if kind == "flip":
                data[at] ^= 1 << rng.randrange(8)
            elif kind == "zero":
                data[at : at + 16] = b"\x00" * len(data[at : at + 16])
            else:
                del data[at:]
            if bytes(data) == whole:
                continue
            file.write_bytes(data)
            try:
                loaded, _ = load_state(tmp_path / "c")
            except CheckpointError as error:
                assert "\n" not in str(error)
            else:  # white space of the manifest is the one thing that may change without meaning
                assert file.name == "manifest.json" and state_hash(loaded) == state_hash(state())
        file.write_bytes(whole)


def test_a_missing_file_a_newer_format_and_no_checkpoint_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such folder"):
        load_state(tmp_path / "none")
    (tmp_path / "other").mkdir()
    with pytest.raises(CheckpointError, match="manifest.json: is missing"):
        load_state(tmp_path / "other")
    save_state(tmp_path / "c", state())
    manifest = tmp_path / "c" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        load_state(tmp_path / "c")
    save_state(tmp_path / "d", state())
    (tmp_path / "d" / "state.json").unlink()
    with pytest.raises(CheckpointError, match="state.json: cannot be read"):
        load_state(tmp_path / "d")


def test_what_cannot_be_stored_is_refused_and_the_old_one_stays(tmp_path):
    save_state(tmp_path / "c", state())
    with pytest.raises(TypeError, match="/thing is a object"):
        save_state(tmp_path / "c", {"thing": object()})
    assert state_hash(load_state(tmp_path / "c")[0]) == state_hash(state())


FORK = multiprocessing.get_context("fork")  # children have everything imported already


def save_for_ever(folder: Path, saved: Event) -> None:
    for n in itertools.count():
        save_state(folder / "c", {"w": torch.full((200_000,), float(n))}, {"n": n})
        saved.set()


def test_a_killed_saver_leaves_a_whole_checkpoint(tmp_path):
    rng = random.Random(1)
    for _ in range(6):
        saved = FORK.Event()
        process = FORK.Process(target=save_for_ever, args=(tmp_path, saved))
        process.start()
        assert saved.wait(60)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.join()
        candidates = [
            tmp_path / "c",
            *tmp_path.glob(".old-c-*"),
        ]  # killed between two renames: the older one is still there
        found = next(path for path in candidates if path.exists())
        loaded, meta = load_state(found)
        assert (loaded["w"] == meta["n"]).all()


def save_what_has_no_room(folder: Path, told: Connection) -> None:
    save_state(folder / "c", {"w": torch.zeros(10)})
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        save_state(folder / "c", {"w": torch.ones(1_000_000)})
    except OSError as error:
        told.send(error.errno)


def test_a_full_disk_leaves_the_old_checkpoint_and_no_litter(tmp_path):
    here, there = FORK.Pipe()
    process = FORK.Process(target=save_what_has_no_room, args=(tmp_path, there))
    process.start()
    process.join(60)
    assert process.exitcode == 0 and here.poll() and here.recv() == errno.EFBIG
    assert load_state(tmp_path / "c")[0]["w"].tolist() == [0.0] * 10
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_nan_is_refused_by_name_and_the_old_checkpoint_stays(tmp_path):
    save_state(tmp_path / "c", {"w": torch.ones(2)})
    for bad in ({"w": torch.tensor([1.0, float("nan")])}, {"w": np.array([np.nan])}, {"w": float("nan")}):
        with pytest.raises(CheckpointError, match="/w"):
            save_state(tmp_path / "c", bad)
    assert load_state(tmp_path / "c")[0]["w"].tolist() == [1, 1]


def test_tensors_that_share_memory_come_back_apart(tmp_path):
    whole = torch.arange(4.0)
    save_state(tmp_path / "c", {"a": whole, "b": whole, "tail": whole[2:]})
    state, _ = load_state(tmp_path / "c")
    assert state["a"].tolist() == state["b"].tolist() == [0, 1, 2, 3] and state["tail"].tolist() == [2, 3]


def test_a_saver_killed_between_its_two_renames_has_lost_nothing(tmp_path):
    save_state(tmp_path / "c", {"w": torch.ones(2)})
    (tmp_path / "c").rename(tmp_path / ".old-c-123")
    assert load_state(tmp_path / "c")[0]["w"].tolist() == [1, 1]
    save_state(tmp_path / "c", {"w": torch.zeros(2)})
    assert load_state(tmp_path / "c")[0]["w"].tolist() == [0, 0] and not list(tmp_path.glob(".old-*"))


def test_the_hash_takes_any_tensor_type():
    assert state_hash({"w": torch.ones(2, dtype=torch.bfloat16)}) != state_hash({"w": torch.ones(2)})
