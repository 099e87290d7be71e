"""What commands make of damaged files (`tests.faults.damage`), each in a forked child.

A case is an artefact (`tests.faults.artefacts`), one of its files, a damage, and a reader that uses that file.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from skillmeta.config import build, to_plain
from skillmeta.programs.ablate import AblationConfig
from skillmeta.programs.evaluate import EvaluateConfig
from skillmeta.programs.pretrain import PretrainConfig
from skillmeta.programs.train_config import complete_config
from tests.faults.artefacts import Artefact, Reader
from tests.faults.damage import Damage, at_random, damages
from tests.forked import forked

UNCHANGED = "the damage has changed nothing"
LOGS = ("npz", "hdf5", "minari")
SECONDS, MEMORY = 20, 2**30  # what a command may take with a damaged file, memory in bytes beyond what the process has


@dataclass(frozen=True)
class Case:
    artefact: str
    reader: Reader
    file: str  # within the artefact
    damage: str
    apply: Damage
    unsealed: bool = False  # a stranger's, or an earlier version's, without checksums

    @property
    def name(self) -> str:
        return (
            f"{self.artefact} | {self.reader.name} | {self.file} | {self.damage}{', unsealed' if self.unsealed else ''}"
        )


@dataclass(frozen=True)
class Ending:
    """What a command made of a damaged file."""

    status: int  # negative for a signal
    said: str
    seconds: float
    memory: int  # bytes at most, beyond what the process had

    @property
    def kind(self) -> str:
        """`refused`, `said` and `unchanged` are right; the others are faults."""
        if "Traceback" in self.said or self.status < 0 and self.seconds < SECONDS or self.status == 70:
            return "traceback"
        if self.seconds >= SECONDS:
            return "hang"
        if self.memory > MEMORY or any(word in self.said for word in ("MemoryError", "into memory", "allocate")):
            return "memory"
        if self.status in (1, 2):
            sentences = [line for line in self.said.splitlines() if line.startswith(("error: ", "failed: "))]
            return "refused" if sentences else "no sentence"
        lines = self.said.splitlines()
        return "said" if any(line.startswith(("skipped: ", "warning: ", UNCHANGED)) for line in lines) else "silent"


def cases(artefacts: dict[str, Artefact], constructed: int, random: int, seed: int = 0) -> list[Case]:
    """So many of each, spread over artefacts, readers and files alike."""
    rng = np.random.default_rng(seed)
    targets = [
        (name, reader, file)
        for name, artefact in artefacts.items()
        for reader in artefact.readers
        for file in artefact.files(reader)
        if not file.endswith((".lock", "progress.json", "error.txt", "report.html", ".png", ".csv", "summary.json"))
        and (artefact.path / file if file else artefact.path).stat().st_size
    ]
    queues: list[list[Case]] = []
    for name, reader, file in targets:
        possible = list(damages(artefacts[name], file).items())
        order = rng.permutation(len(possible)).tolist()
        found = [Case(name, reader, file, *possible[i], unsealed=bool(number % 2)) for number, i in enumerate(order)]
        share = 4 if name in LOGS else 1  # logs are one file each, and have the most to be wrong
        queues += [found[first::share] for first in range(share)]
    made = [queue[i] for i in range(max(map(len, queues))) for queue in queues if i < len(queue)][:constructed]
    for number in range(random):
        chosen = [target for target in targets if target[0] in LOGS] if number % 4 == 0 else targets
        name, reader, file = chosen[int(rng.integers(len(chosen)))]
        what, apply = at_random(rng)
        made.append(Case(name, reader, file, f"random {number}: {what}", apply, unsealed=number % 4 == 3))
    return made


def unchanged(name: str, before: bytes, after: bytes) -> bool:
    """Whether nothing was damaged that has a meaning."""
    if name == "state.json":  # its tensors were, perhaps
        return False
    if name == "config.yaml":
        try:
            one, other = yaml.safe_load(before), yaml.safe_load(after)
            return bool(one == other or complete(one) == complete(other))
        except Exception:  # YAML has a dozen
            return False
    return before == after


def complete(config: dict[str, Any]) -> dict[str, Any]:
    """A config with its defaults: a key that is missing has its default, so that older runs resume."""
    if "algorithm" in config:
        return complete_config(config, config["algorithm"]["name"])
    schema = PretrainConfig if "source" in config else AblationConfig if "methods" in config else EvaluateConfig
    return to_plain(build(schema, config))


def run_case(artefacts: dict[str, Artefact], case: Case, scratch: Path) -> Ending | None:
    """Damage a copy, and let the reader read it in a child of this process. None where this damage cannot be done."""
    place = Path(tempfile.mkdtemp(dir=scratch))
    whole = artefacts[case.artefact].path
    copy = place / whole.name
    (shutil.copytree if whole.is_dir() else shutil.copy)(whole, copy)
    target = copy / case.file if case.file else copy
    before = target.read_bytes()
    if case.unsealed and not case.file.endswith("checksums.json"):
        for path in copy.rglob("checksums.json") if copy.is_dir() else ():
            path.unlink()
    try:
        case.apply(target)
    except (TypeError, ValueError, IndexError, KeyError, UnicodeError):  # it cannot be done to this file
        shutil.rmtree(place)
        return None
    same = target.is_file() and unchanged(target.name, before, target.read_bytes())
    said, started = place / "said.txt", time.monotonic()

    def act() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (pages + MEMORY, pages + MEMORY))
        return case.reader.act(copy)()

    child = forked(act, said)
    while True:
        ended, code, used = os.wait4(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() - started > SECONDS:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    seconds = time.monotonic() - started
    text = said.read_text(errors="replace") if said.exists() else ""
    mine = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shutil.rmtree(place, ignore_errors=True)
    ending = Ending(os.waitstatus_to_exitcode(code), text, seconds, 1024 * max(0, used.ru_maxrss - mine))
    return Ending(0, UNCHANGED, 0, 0) if same else ending
