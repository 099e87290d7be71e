"""Rows that grow are written once, and every checkpoint has all that its part kept, whatever was added, forgotten or killed."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from skillmeta.data.replay import Replay
from skillmeta.errors import CheckpointError
from skillmeta.run import rows
from skillmeta.run.checkpoint import load_state, save_state, state_hash
from skillmeta.run.rows import Written
from skillmeta.run.run import Run
from skillmeta.types import Episodes


def episodes(count: int, first: int) -> Episodes:
    """One episode, whose rewards count on from `first`."""
    no = np.zeros((1, count), bool)
    return Episodes(
        observation=np.full((1, count + 1, 2), first, np.float32), action=np.ones((1, count, 1), np.float32),
        reward=first + np.arange(count, dtype=np.float32)[None], terminated=no, truncated=no,
        steps=np.ones((1, count), np.int64), success=no, valid=~no,
    )  # fmt: skip


def add(replay: Replay, count: int) -> None:
    replay.add(episodes(count, replay.added))


def files(folder: Path) -> dict[str, int]:
    """The inode of each file of rows."""
    return {path.name: path.stat().st_ino for path in folder.glob("rows-*")}


def test_a_run_that_is_killed_again_and_again_has_the_rows_of_one_that_is_not(tmp_path, monkeypatch):
    """Rings of several capacities that are filled unevenly and overwritten, through `Run`, with and without small files."""
    monkeypatch.setattr(os, "fsync", lambda file: None)  # processes do not lose what the disk may
    for seed in range(5):
        rng = random.Random(seed)
        monkeypatch.setattr(rows, "WHOLE", [0, 1, 2500, 4000, 8 << 20][seed])
        capacities = [rng.randint(1, 60) for _ in range(3)]
        wanted, learning = ([Replay(capacity, 2, 1) for capacity in capacities] for _ in range(2))
        folder = tmp_path / str(seed)
        for step in range(8):
            with Run.open(folder, {}) as run:
                if step:
                    state = run.restore()
                    learning = [Replay(capacity, 2, 1) for capacity in capacities]
                    for replay, saved in zip(learning, state["replays"], strict=True):
                        replay.restore(saved)
                for _ in range(rng.randint(1, 3)):  # saves by one process
                    for mine, theirs in zip(learning, wanted, strict=True):
                        if count := rng.randint(0, 30):
                            add(mine, count)
                            add(theirs, count)
                        if rng.random() < 0.2:
                            mine.first = theirs.first = rng.randint(mine.kept.start, mine.added)
                    run.checkpoint(step, {"replays": [replay.state() for replay in learning]})
                add(rng.choice(learning), 5)  # lost
            state, _ = load_state(max((folder / "checkpoints").iterdir()))
            assert state_hash(state) == state_hash({"replays": [replay.state() for replay in wanted]})


def test_only_new_rows_are_written_and_files_of_forgotten_rows_go(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "WHOLE", 1000)
    replay, before, seen = Replay(100, 2, 1), None, []
    for step in range(20):
        add(replay, 25)  # 700 bytes, and a header
        save_state(tmp_path / str(step), replay.state(), before=before)
        before = Written.of(tmp_path / str(step), replay.state())
        seen.append(files(before.folder))
        assert load_state(before.folder)[0]["rows"].kept == replay.kept
    written = [set(now.values()) - set(last.values()) for last, now in zip(seen, seen[1:], strict=False)]
    assert all(len(new) == 1 for new in written)  # one file each time; the others are links
    assert all(len(now) <= 5 for now in seen)  # of four that are needed, and one that is half forgotten
    sizes = [sum(path.stat().st_size for path in (tmp_path / str(step)).glob("rows-*")) for step in range(20)]
    assert max(sizes) <= 2 * 100 * 4 * 7 + 1000 + 5 * 600


def test_a_resumed_run_writes_only_what_is_new(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "WHOLE", 0)
    replay, again = Replay(50, 2, 1), Replay(50, 2, 1)
    add(replay, 10)
    with Run.open(tmp_path, {}) as run:
        run.checkpoint(0, replay.state())
    with Run.open(tmp_path, {}) as run:
        again.restore(run.restore())
        add(again, 10)
        run.checkpoint(1, again.state())
    first, second = (files(folder) for folder in sorted((tmp_path / "checkpoints").iterdir()))
    assert first.items() < second.items() and len(second) == 2


def test_small_files_do_not_become_many(tmp_path):
    replay, before = Replay(1000, 2, 1), None
    for step in range(9):
        add(replay, 3)
        save_state(tmp_path / str(step), replay.state(), before=before)
        before = Written.of(tmp_path / str(step), replay.state())
        assert len(files(before.folder)) == 1
    assert load_state(before.folder)[0]["rows"].kept == range(27)


@pytest.mark.parametrize("trouble", ["no links", "file removed", "folder removed", "another replay"])
def test_rows_that_cannot_be_shared_are_written_again(trouble, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "WHOLE", 0)
    replay, other = Replay(50, 2, 1), Replay(50, 2, 1)
    add(replay, 10)
    add(other, 10)
    save_state(tmp_path / "a", {"one": replay.state(), "other": other.state()})
    before = Written.of(tmp_path / "a", {"one": replay.state(), "other": other.state()})
    if trouble == "no links":
        monkeypatch.setattr(os, "link", lambda *unused: (_ for _ in ()).throw(PermissionError("no hard links")))
    elif trouble == "file removed":
        next((tmp_path / "a").glob("rows-*")).unlink()
    elif trouble == "folder removed":
        shutil.rmtree(tmp_path / "a")
    else:  # as a learner makes whose replay is of the last iteration alone
        replay = Replay(50, 2, 1)
        replay.add(episodes(10, 100))
    add(replay, 10)
    now = {"one": replay.state(), "other": other.state()}
    save_state(tmp_path / "c", now, before=before)
    assert len(files(tmp_path / "c")) == (2 if trouble == "another replay" else 1)
    loaded, _ = load_state(tmp_path / "c")
    assert state_hash(loaded) == state_hash(now)
    again = Replay(50, 2, 1)
    again.restore(loaded["one"])
    save_state(tmp_path / "d", {"one": again.state()}, before=Written.of(tmp_path / "c", loaded))
    assert state_hash(load_state(tmp_path / "d")[0]) == state_hash({"one": replay.state()})


def test_damage_in_shared_rows_is_found_and_the_run_starts_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rows, "WHOLE", 0)
    replay = Replay(50, 2, 1)
    with Run.open(tmp_path, {}) as run:
        for step in range(2):
            add(replay, 10)
            run.checkpoint(step, replay.state())
    shared = max((tmp_path / "checkpoints").iterdir()) / "rows-000001.safetensors"
    assert shared.stat().st_nlink == 2
    data = bytearray(shared.read_bytes())
    data[-1] ^= 1
    shared.write_bytes(data)
    with pytest.raises(CheckpointError, match="rows-000001.safetensors: does not match its checksum"):
        load_state(shared.parent)
    with Run.open(tmp_path, {}) as run:
        assert run.restore() is None
        run.checkpoint(2, replay.state())  # nothing of the damaged file is taken over
    assert state_hash(load_state(max((tmp_path / "checkpoints").iterdir()))[0]) == state_hash(replay.state())
    assert capsys.readouterr().err.count("skipped: ") == 2


def test_a_checkpoint_that_lacks_rows_is_refused(tmp_path):
    replay = Replay(50, 2, 1)
    add(replay, 10)
    with pytest.raises(ValueError, match="no row 5"):
        rows.assemble(replay.kept, [(0, 5, replay.rows(0, 5)), (6, 10, replay.rows(6, 10))])
    with pytest.raises(ValueError, match="no row 0"):
        rows.assemble(replay.kept, [(0, 10, {**replay.rows(0, 10), "reward": torch.zeros(9)})])
    with pytest.raises(ValueError, match="no row 0"):
        rows.assemble(replay.kept, [(0, 10, {})])


def test_a_nan_among_new_rows_is_named(tmp_path):
    replay = Replay(50, 2, 1)
    add(replay, 10)
    replay.columns.reward[3] = float("nan")
    with pytest.raises(CheckpointError, match="/rows/reward holds NaN"):
        save_state(tmp_path / "c", replay.state())
    assert list(tmp_path.iterdir()) == []
