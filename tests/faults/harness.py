"""Runs a command in a forked child of this process, which has everything imported already, with a fault or without."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from skillmeta.cli import main
from tests.faults.shim import Shim

TICK = 1e-200  # seconds a call: above any checkpoint interval here, and nothing beside a time that is printed


@dataclass(frozen=True)
class Command:
    """A command and where it writes."""

    arguments: tuple[str, ...]
    out: Path  # everything that it leaves is below


def prepare(patch: pytest.MonkeyPatch) -> None:
    """A clock that does not depend on the machine: every iteration saves a checkpoint, and equal runs take equal times."""
    now = [0.0]

    def monotonic() -> float:
        now[0] += TICK
        return now[0]

    patch.setattr(time, "monotonic", monotonic)


def run_whole(command: Command) -> tuple[dict[str, Any], list[str]]:
    """Run a command in this process. Returns what it leaves and the places of its file operations."""
    shutil.rmtree(command.out, ignore_errors=True)
    command.out.parent.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, Shim(command.out.parent) as shim:
        prepare(patch)
        assert main(command.arguments) == 0
    return contents(command.out), shim.places


def run_forked(command: Command, at: int | str | None = None, full: bool = False) -> tuple[int, str]:
    """Run a command in a child. Returns its exit status, negative for a signal, and what it printed."""
    said = command.out.parent.with_suffix(".txt")
    child = os.fork()
    if child == 0:
        status = 70
        try:
            with open(said, "w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
            prepare(pytest.MonkeyPatch())
            with Shim(command.out.parent, at, full):
                status = main(command.arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    _, code = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(code), said.read_text()


def contents(out: Path) -> dict[str, Any]:
    """What a command has left: the bytes of each file, of JSON files and results.csv the values without wall-clock times."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = str(path.relative_to(out))
        if path.name in ("result.json", "summary.json"):
            found[name] = without_seconds(json.loads(path.read_bytes()))
        elif path.name == "results.csv":
            found[name] = [without_seconds(row) for row in csv.DictReader(path.read_text().splitlines())]
        elif not path.name.endswith(".lock"):
            found[name] = path.read_bytes()
    return found


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_seconds(item) for key, item in value.items() if key != "seconds"}
    return value


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Names of the files that are not equal."""
    return [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]


def renames(places: Sequence[str]) -> list[str]:
    """The distinct places where something complete takes its name, one of all pictures, and the last place of all."""
    found = dict.fromkeys(place for place in places if ": replace " in place)
    pictures = [place for place in found if place.endswith(".png")]
    return [place for place in found if place not in pictures[1:]] + [places[-1]]
