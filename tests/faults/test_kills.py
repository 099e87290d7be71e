"""A command that is killed, or meets a full disk, at any of its file operations ends as if it had not been, by the same command.

The suite kills some commands before five renames along their way, one after another in one folder. The long checks sweep through
all commands and places (`tests/faults/kills.py`), and fill the disk at every single operation:

    python -m pytest -m slow tests/faults
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from skillmeta.cli import main
from skillmeta.data.sources import load_source
from tests.faults.harness import Command, commands, contents, differences, renames, run_forked, run_whole
from tests.faults.kills import MOST, all_commands, sweep, table
from tests.faults.shim import Shim

NAMES = ("collect", "skills", "meta-train", "evaluate", "adapt", "finetune")
LONG = ("skills", "meta-train", "evaluate")  # which the sweep kills too; the suite has the others
SOME = [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in NAMES]


@dataclass(frozen=True)
class Reference:
    """A command, what it leaves when nothing disturbs it, and the places of its file operations."""

    command: Command
    left: dict[str, Any]
    places: list[str]


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    root = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root / "collect" / "logs"))
        yield {name: Reference(c, *run_whole(c)) for name, c in commands(root).items()}


def some_of(places: Sequence[str]) -> list[str]:
    """Five of the distinct places, along all the way; the sweep of kills has every one."""
    distinct = list(dict.fromkeys(places))
    return [distinct[round(at)] for at in np.linspace(0, len(distinct) - 1, min(5, len(distinct)))]


def ends_as_if_nothing_had_been(reference: Reference) -> None:
    status, said = run_forked(reference.command)
    assert status == 0 or "exists already" in said, said  # a data set that was complete when its writer was killed
    assert differences(contents(reference.command.out), reference.left) == []


@pytest.mark.parametrize("name", SOME)
def test_killed_before_each_rename(references, name):
    reference = references[name]
    shutil.rmtree(reference.command.out)
    for place in some_of(renames(reference.places)):
        status, said = run_forked(reference.command, place)
        if status != -9:  # an earlier run of the chain has been there
            assert status == 0 or "exists already" in said, said
            shutil.rmtree(reference.command.out)
            assert run_forked(reference.command, place)[0] == -9, place
    ends_as_if_nothing_had_been(reference)


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_one_sentence(references, name):
    reference = references[name]
    shutil.rmtree(reference.command.out)
    status, said = run_forked(reference.command, len(reference.places) // 2, full=True)
    assert status == 2 and said.count("error: ") == 1 and "No space left on device" in said, said
    assert "Traceback" not in said
    ends_as_if_nothing_had_been(reference)


@pytest.mark.slow
def test_while_a_data_set_is_replaced_one_is_always_there(references, tmp_path, monkeypatch):
    command = references["collect"].command
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "there" / "logs"))

    def load() -> list[float]:
        return load_source("minari:test/tiny-v0").action.tolist()

    there = Command(command.arguments, tmp_path / "there" / "logs")
    assert run_forked(there)[0] == 0
    old = load()
    other = Command((*there.arguments, "expert.seed=1", "overwrite=true"), there.out)
    with Shim(there.out) as shim:
        assert main(other.arguments) == 0
    new = load()
    assert old != new
    for place in some_of([p for p in shim.places if "replacing_folder" in p and (": replace " in p or "settle" in p)]):
        assert run_forked(Command((*there.arguments, "overwrite=true"), there.out))[0] == 0
        assert load() == old
        assert run_forked(other, place)[0] == -9, place
        assert load() in (old, new)


def test_the_command_of_a_finished_run_writes_its_page_again(references, drawn):
    """Pictures and all, to the byte."""
    command = references["skills"].command
    shutil.rmtree(command.out)
    assert main(command.arguments) == 0
    before = contents(command.out)
    assert {"report.html", "pictures/training.png", "result.json"} <= set(before)
    (command.out / "report.html").unlink()
    (command.out / "pictures" / "training.png").write_bytes(b"torn")
    assert main(command.arguments) == 0
    assert differences(contents(command.out), before) == []


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_everywhere(tmp_path):
    names = list(all_commands(tmp_path))
    rows = sweep(tmp_path, names, count=200, most=MOST, seed=0, tell=print)
    assert [row.command for row in rows if row.wrong or row.stuck or row.orphans] == [], table(rows)
    assert sum(row.passed["random"] for row in rows) >= 200 and all(row.passed["place"] for row in rows)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_at_every_operation(references, name):
    reference = references[name]
    wrong = []
    for k, place in enumerate(reference.places):
        shutil.rmtree(reference.command.out)
        status, said = run_forked(reference.command, k, full=True)
        if status not in (0, 2):
            wrong.append(f"{k} {place}: exit status {status}: {said[-2000:]}")
        try:
            ends_as_if_nothing_had_been(reference)
        except AssertionError as error:
            wrong.append(f"{k} {place}: {error}")
    assert not wrong, "\n".join(wrong)
