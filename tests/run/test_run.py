"""A run that was interrupted, however, ends in the same state and the same metrics file as one that was not."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from multiprocessing.context import ForkProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch

from skillmeta.config import read_yaml
from skillmeta.errors import ConfigError, UserError
from skillmeta.run.checkpoint import generator_state, load_state, restore_generator, save_state, state_hash
from skillmeta.run.run import Run, is_finished, read_metrics, read_result

FORK = multiprocessing.get_context("fork")  # children have everything imported already


def toy(folder: Path, pause: float, begun: Event) -> None:
    """A run of 60 steps that saves every 7."""
    with Run.open(folder, {"a": 1}) as run:
        begun.set()
        if run.result:
            return
        w, step, g = torch.zeros(4), 0, torch.Generator().manual_seed(0)
        if (state := run.restore()) is not None:
            w, step = state["w"], state["step"]
            restore_generator(g, state["g"])
        while step < 60:
            if run.stop_requested:
                run.checkpoint(step, {"w": w, "step": step, "g": generator_state(g)})
                sys.exit(130)
            w = 0.9 * w + torch.randn(4, generator=g)
            step += 1
            run.log("step", step=step, norm=float(w.norm()))
            time.sleep(pause)
            if step % 7 == 0:
                run.checkpoint(step, {"w": w, "step": step, "g": generator_state(g)})
        run.finish({"hash": state_hash({"w": w})})


def start(folder: Path, pause: float) -> ForkProcess:
    begun = FORK.Event()
    process = FORK.Process(target=toy, args=(folder, pause, begun))
    process.start()
    assert begun.wait(60)
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_equals_an_uninterrupted_one(tmp_path, number):
    rng = random.Random(int(number))
    whole = start(tmp_path / "whole", 0)
    whole.join(60)
    assert whole.exitcode == 0
    interruptions = 0
    while read_result(tmp_path / "cut") is None:
        process = start(tmp_path / "cut", 0.02)
        process.join(rng.uniform(0.05, 0.25) if interruptions < 3 else 60)
        if process.is_alive():
            os.kill(process.pid, number)
            interruptions += 1
            process.join(30)
            assert process.exitcode == (-number if number == signal.SIGKILL else 130)
    assert interruptions == 3
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert read_result(tmp_path / "cut") == read_result(tmp_path / "whole")
    assert [row["step"] for row in read_metrics(tmp_path / "cut")] == list(range(1, 61))


def test_a_second_process_is_refused(tmp_path):
    with (
        Run.open(tmp_path / "r", {"a": 1}),
        pytest.raises(UserError, match="another process is running in this folder"),
    ):
        Run.open(tmp_path / "r", {"a": 1})


def test_another_config_is_refused_with_what_differs(tmp_path):
    with Run.open(tmp_path / "r", {"a": 1, "b": {"c": 2}}):
        pass
    with pytest.raises(ConfigError, match=r"b.c: 2 -> 3"):
        Run.open(tmp_path / "r", {"a": 1, "b": {"c": 3}})
    with Run.open(tmp_path / "r", {"a": 1, "b": {"c": 2}}):
        pass


def test_a_config_that_could_not_be_read_again_is_refused_before_the_folder_is_taken(tmp_path):
    for config, sentence in (
        (
            {"algorithm": {"replay_capacity": 10_000_001}},
            "algorithm.replay_capacity is 10000001; at most 10,000,000 is read",
        ),
        ({"seed": 2**70}, "seed is an integer of more than 64 bits"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            Run.open(tmp_path / "run", config)
        assert not (tmp_path / "run").exists()
    with Run.open(tmp_path / "run", {"max_episodes": 200_000}):
        assert read_yaml(tmp_path / "run" / "config.yaml") == {"max_episodes": 200_000}


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        Run.open(tmp_path / "file" / "r", {})


def test_a_damaged_checkpoint_is_skipped_and_said(tmp_path, capsys):
    with Run.open(tmp_path / "r", {}) as run:
        for step in (1, 2):
            run.log("step", step=step)
            run.checkpoint(step, {"w": torch.full((3,), float(step))})
        run.log("step", step=3)
    newest = sorted((tmp_path / "r" / "checkpoints").iterdir())[-1] / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    with Run.open(tmp_path / "r", {}) as run:
        state = run.restore()
    assert state is not None and state["w"].tolist() == [1, 1, 1]
    assert [row["step"] for row in read_metrics(tmp_path / "r")] == [1]
    assert "skipped" in capsys.readouterr().err


def test_two_checkpoints_are_kept_and_the_last_one_after_the_end(tmp_path):
    with Run.open(tmp_path / "r", {}) as run:
        for step in range(5):
            run.checkpoint(step, {"w": torch.zeros(1)})
        assert len(list((tmp_path / "r" / "checkpoints").iterdir())) == 2
        run.finish({"x": 1})
    assert not (tmp_path / "r" / "checkpoints").exists() and read_result(tmp_path / "r") == {"x": 1}
    assert [path.name for path in (tmp_path / "r" / "last").iterdir()] == ["ckpt-000000000004"]


def test_a_run_that_was_killed_at_its_end_is_completed_by_its_command(tmp_path):
    with Run.open(tmp_path / "r", {}, command="first") as run:
        run.finish({"x": 1})
    (tmp_path / "r" / "checkpoints" / "ckpt-1").mkdir(parents=True)
    assert not is_finished(tmp_path / "r")
    pages = []
    with Run.open(tmp_path / "r", {}, command="second") as run:
        assert run.result is not None
        assert run.finish(run.result, lambda: pages.append(run.command)) == {"x": 1}
    assert is_finished(tmp_path / "r") and pages == ["first"]


def test_a_number_that_is_not_finite_is_named_and_not_written(tmp_path):
    with Run.open(tmp_path / "r", {}) as run:
        run.log("update", loss=1.0)
        with pytest.raises(UserError, match="loss became nan"):
            run.log("update", loss=float("nan"))
    assert len(read_metrics(tmp_path / "r")) == 1


def test_a_torn_last_line_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "a"}\n{"kind": "b", "x')
    assert read_metrics(tmp_path) == [{"kind": "a"}]


def test_what_a_result_depends_on_is_written_down(tmp_path):
    with Run.open(tmp_path / "r", {}, command="skillmeta demo"):
        told = json.loads((tmp_path / "r" / "environment.json").read_text())
    assert told["command"] == "skillmeta demo"
    assert {"torch", "numpy", "mujoco"} <= set(told["versions"]) and told["machine"]["cores"] == os.cpu_count()


def test_a_checkpoint_of_another_version_is_refused_and_not_continued(tmp_path):
    """Its random streams and its learner are others: what would follow is neither run."""
    with Run.open(tmp_path, {"seed": 0}) as run:
        run.checkpoint(3, {"x": 1})
    folder = next((tmp_path / "checkpoints").iterdir())
    state, meta = load_state(folder)
    del meta["run_format"]  # as version 0.1.0 wrote it
    save_state(folder, state, meta)
    with Run.open(tmp_path, {"seed": 0}) as run, pytest.raises(UserError, match="another version of skillmeta"):
        run.restore()


def test_a_save_killed_between_its_renames_keeps_the_checkpoint_that_it_replaced(tmp_path):
    with Run.open(tmp_path, {"seed": 0}) as run:
        run.checkpoint(3, {"x": 1})
    folder = next((tmp_path / "checkpoints").iterdir())
    folder.rename(folder.parent / f".old-{folder.name}-123")
    with Run.open(tmp_path, {"seed": 0}) as run:
        assert run.restore() == {"x": 1}


def test_a_run_counts_as_complete_only_with_its_page(tmp_path):
    def killed() -> None:
        raise KeyboardInterrupt

    with Run.open(tmp_path, {"seed": 0}) as run:
        run.checkpoint(3, {"x": 1})
        with pytest.raises(KeyboardInterrupt):
            run.finish({"a": 1}, killed)
    assert not is_finished(tmp_path)
    with Run.open(tmp_path, {"seed": 0}) as run:
        run.finish({"a": 1}, lambda: (tmp_path / "page").write_text("whole"))
    assert is_finished(tmp_path) and (tmp_path / "page").exists()


@pytest.mark.parametrize("what", ["folder", "config.yaml", "metrics.jsonl"])
@pytest.mark.parametrize("then", ["checkpoint", "report", "finish", "write"])
def test_a_folder_that_is_deleted_under_a_run_is_one_sentence(what, then, tmp_path):
    folder = tmp_path / "r"

    def run_on() -> None:
        with Run.open(folder, {}) as run:
            run.log("step", step=1)
            shutil.rmtree(folder) if what == "folder" else (folder / what).unlink()
            if then == "checkpoint":
                run.checkpoint(1, {"w": 1})
            elif then == "report":
                run.report_progress(0.5, "half")
            elif then == "finish":
                run.finish({"x": 1})
            else:
                raise FileNotFoundError("something that a program writes into the folder")

    with pytest.raises(UserError, match="was deleted or moved"):
        run_on()
    assert not (folder / "result.json").exists()


def test_a_folder_that_is_moved_under_a_run_is_one_sentence(tmp_path):
    with Run.open(tmp_path / "r", {}) as run, pytest.raises(UserError, match="was deleted or moved"):
        (tmp_path / "r").rename(tmp_path / "elsewhere")
        run.checkpoint(1, {"w": 1})
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("kept", [None, b"{"])
def test_metrics_that_are_gone_are_said_and_not_padded(kept, tmp_path):
    with Run.open(tmp_path, {}) as run:
        run.log("step", step=1)
        run.checkpoint(1, {"w": 1})
    if kept is None:
        (tmp_path / "metrics.jsonl").unlink()
    else:
        (tmp_path / "metrics.jsonl").write_bytes(kept)
    with Run.open(tmp_path, {}) as run, pytest.raises(UserError, match=r"metrics.jsonl: has .* it was deleted or cut"):
        run.restore()
    assert (tmp_path / "metrics.jsonl").read_bytes() == (kept or b"")
