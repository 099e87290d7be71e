"""Damaged files: each command that reads one says so in a sentence, at once, in little memory, and never takes it for whole.

The suite tries a few. The sweep tries 600, by construction and at random, some six minutes on one core:

    python -m pytest -m slow tests/faults/test_damage.py -s
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from skillmeta.programs import ablate
from tests.faults.artefacts import Artefact, build, one_by_one
from tests.faults.damaged import Ending, cases, run_case

FAULTS = ("traceback", "hang", "memory", "no sentence")
UNSEALED = (".npz", ".hdf5")  # formats of others, which have no checksum of the whole


@contextlib.contextmanager
def made(root: Path, only: Collection[str] | None = None) -> Iterator[dict[str, Artefact]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root / "collect" / "logs"))
        patch.setattr(ablate, "run_jobs", one_by_one)
        yield build(root, only)


def sweep(artefacts, tmp_path, constructed: int, random: int, seed: int = 0) -> tuple[dict[str, Counter], list[str]]:
    """Endings by artefact, and a line for each fault."""
    table: dict[str, Counter] = defaultdict(Counter)
    wrong = []
    for case in cases(artefacts, constructed, random, seed):
        ending = run_case(artefacts, case, tmp_path)
        if ending is None:
            continue
        kind = ending.kind
        name = case.file or artefacts[case.artefact].path.name
        if kind == "silent" and (case.unsealed or name.endswith(UNSEALED)):
            kind = "silent, NPZ or HDF5" if name.endswith(UNSEALED) else "silent, its checksums deleted"
        table[case.artefact][kind] += 1
        if kind in (*FAULTS, "silent"):
            print(f"{kind}: {case.name}", flush=True)
            wrong.append(f"{kind}: {case.name}: status {ending.status}, {ending.seconds:.1f} s: {ending.said[-1500:]}")
    return table, wrong


def test_a_few_damaged_files(tmp_path):
    with made(tmp_path, ("npz", "hdf5", "skills", "meta-train")) as artefacts:
        table, wrong = sweep(artefacts, tmp_path, 14, 6)
    assert not wrong, "\n".join(wrong)
    assert sum(row["refused"] for row in table.values()) > 12


def test_this_check_can_fail():
    assert Ending(0, "", 1, 0).kind == "silent" and Ending(0, "skipped: x", 1, 0).kind == "said"
    assert Ending(2, "error: x is damaged", 1, 0).kind == "refused" and Ending(2, "usage", 1, 0).kind == "no sentence"
    assert Ending(70, "Traceback", 1, 0).kind == "traceback" and Ending(-11, "", 1, 0).kind == "traceback"
    assert Ending(-9, "", 20, 0).kind == "hang"
    assert Ending(2, "error: x", 1, 2**31).kind == Ending(2, "error: does not fit into memory", 1, 0).kind == "memory"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_six_hundred_damaged_files(tmp_path):
    with made(tmp_path) as artefacts:
        table, wrong = sweep(artefacts, tmp_path, 360, 250)
    kinds = sorted({kind for row in table.values() for kind in row})
    print("\n" + f"{'':<24}" + "".join(f"{kind:>30}" for kind in kinds))
    for name, row in table.items():
        print(f"{name:<24}" + "".join(f"{row[kind]:>30}" for kind in kinds))
    total: Counter = sum(table.values(), Counter())
    print(f"{sum(total.values())} files: " + ", ".join(f"{kind} {count}" for kind, count in total.items()))
    if place := os.environ.get("SKILLMETA_DAMAGE_JSON"):
        Path(place).write_text(json.dumps({"files": sum(total.values()), **total, "wrong": wrong}, indent=1))
    assert not wrong, "\n".join(wrong)
