"""Goldens: the numbers of short runs of every algorithm, to the bit.

    python -m tests.goldens check [NAME ...]     each recorded number occurs again
    python -m tests.goldens record               write them anew; the commit says why

What is recorded of a case are the metrics of its run, its result and the parameters of what acts, as bit patterns without names: a
metric may be renamed and a new one may be added, but no number may change. Bits depend on the processor and on torch's version:
record and check on the same machine. This is a tool for restructuring, not a part of the suite.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.goldens import programs
from tests.goldens.cases import FINETUNE, META, PRETRAIN, save_logs, save_skills

FILE = Path(__file__).with_name("goldens.json")
NAMES = [*(f"finetune/{n}" for n in FINETUNE), *(f"meta/{n}" for n in META), *(f"pretrain/{n}" for n in PRETRAIN)]


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for key, part in value.items():
            if key not in ("seconds", "calls"):
                yield from numbers(part)
    elif isinstance(value, list):
        for part in value:
            yield from numbers(part)
    elif isinstance(value, int | float):
        yield float(value)


def tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, dict):
        for part in value.values():
            yield from tensors(part)
    elif isinstance(value, torch.Tensor):
        yield value


def measure(name: str, folder: Path) -> dict[str, list[str]]:
    kind, case = name.split("/")
    run = folder / name
    metrics, result, state = programs.RUN[kind](case, run, folder)
    parameters = [hashlib.sha256(t.contiguous().numpy().tobytes()).hexdigest()[:16] for t in tensors(state) if t.ndim]
    return {"numbers": sorted({x.hex() for x in numbers([metrics, result])}), "parameters": sorted(parameters)}


def missing(recorded: dict[str, list[str]], now: dict[str, list[str]]) -> dict[str, int]:
    lost = {part: len(set(recorded[part]) - set(now[part])) for part in recorded}
    return {part: count for part, count in lost.items() if count}


def main(arguments: list[str]) -> int:
    torch.set_num_threads(1)
    sys.modules["matplotlib"] = None  # type: ignore[assignment]  # no pages
    names = arguments[1:] or NAMES
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_skills(folder / "skills")
        save_logs(folder / "logs.npz")
        if arguments[:1] == ["record"]:
            FILE.write_text(json.dumps({name: measure(name, folder) for name in NAMES}, indent=0) + "\n")
            return 0
        recorded = json.loads(FILE.read_text())
        wrong = {name: lost for name in names if (lost := missing(recorded[name], measure(name, folder)))}
    for name, lost in wrong.items():
        print(
            f"{name}: not found again: {lost}, of {len(recorded[name]['numbers'])}, {len(recorded[name]['parameters'])}"
        )
    print(f"{len(names) - len(wrong)} of {len(names)} equal to the bit")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
