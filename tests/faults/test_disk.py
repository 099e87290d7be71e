"""A disk that cannot be written, and two commands in one folder: one sentence, exit status 2, nothing lost.

The sweep lets every command meet a full and a read-only disk at operations all along its way, some 100 in all:

    python -m pytest -m slow tests/faults/test_disk.py
"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import AbstractContextManager

import pytest

from skillmeta.cli import main
from skillmeta.data.minari_store import writing
from skillmeta.programs import ablate
from skillmeta.run.files import locked_folder
from tests.faults.artefacts import ablation, one_by_one
from tests.faults.harness import Command, contents, run_forked, run_whole
from tests.faults.strangers import meta_run
from tests.faults.test_kills import NAMES, Reference, ends_as_if_nothing_had_been, references

__all__ = ["references"]  # a fixture
POINT = "task={family: point, options: {max_episode_steps: 5}}"
OUT = ("--out", "mine")
TWICE = {
    "adapt": ("adapt", "theirs", "tasks/point_robot", *OUT),
    "evaluate": ("evaluate", "tasks/point_robot", "agents=[theirs]", *OUT),
    "finetune": ("finetune", "downstream/maze_sac", POINT, *OUT),
    "meta-train": ("meta-train", "meta/rl2_bandit_5", *OUT),
    "ablate": ("ablate", "ablation.yaml", *OUT),
    "collect": ("collect", "pretrain/maze_logs", "expert.steps=60", "dataset=test/tiny-v0"),
}


@pytest.mark.parametrize("name", TWICE)
def test_the_second_of_two_commands_is_refused_at_once(place, capsys, monkeypatch, name):
    meta_run(place.theirs)
    ablation(place.home)
    mine = place.home / "mine"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(mine))
    held: AbstractContextManager[None] = writing("test/tiny-v0") if name == "collect" else locked_folder(mine)
    with held:
        before = contents(mine)
        assert main(TWICE[name]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1 and "another process is" in said
        assert contents(mine) == before


def test_the_second_of_two_ablations_finds_the_first_ones_runs_taken(place, monkeypatch, capsys):
    """Each run has a lock of its own, so a command inside an ablation's folder meets it."""
    monkeypatch.setattr(ablate, "run_jobs", one_by_one)
    command = ablation(place.home)
    with locked_folder(command.out / "methods" / "m" / "task-0" / "seed-0"):
        assert main(command.arguments) == 1
    printed = capsys.readouterr()
    assert "failed: m task 0 seed 0: " in printed.err and "another process is running in this folder" in printed.err
    assert main(command.arguments) == 0


def refused(command: Command, at: int, error: int) -> bool:
    """Whether the command met the fault; it then says so in a sentence."""
    status, said = run_forked(command, at, full=True, error=error)
    assert "Traceback" not in said, said
    if status == 0:
        return False
    assert status in (1, 2) and os.strerror(error) in said, said
    assert said.count("error: ") + said.count("failed: ") == 1, said
    return True


def test_a_read_only_disk_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(ablate, "run_jobs", one_by_one)
    command = ablation(tmp_path)
    left, places = run_whole(command)
    shutil.rmtree(command.out)
    assert refused(command, int(0.6 * len(places)), errno.EROFS)
    ends_as_if_nothing_had_been(Reference(command, left, places))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES], ids=lambda e: errno.errorcode[e])
@pytest.mark.parametrize("name", [*NAMES, "ablate"])
def test_a_disk_that_cannot_be_written(references, tmp_path, name, error):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablate, "run_jobs", one_by_one)
        if name == "ablate":
            command = ablation(tmp_path)
            reference = Reference(command, *run_whole(command))
        else:
            reference = references[name]
        met, count = 0, len(reference.places)
        for at in range(0, count, max(1, count // 8)):
            shutil.rmtree(reference.command.out, ignore_errors=True)
            met += refused(reference.command, at, error)
            ends_as_if_nothing_had_been(reference)
        assert met > 4
