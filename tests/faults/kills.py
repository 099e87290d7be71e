"""Kills at random times and places, and at every place of the code that changes a file: what is left has to be the same.

    python -m tests.faults.kills                        all of it, one process at a time
    python -m tests.faults.kills --random 0 adapt       every place of one command
    python -m tests.faults.kills --results DIR          writes kills.json and kills.md there, too

After a kill the same command has to end with the parameters, metrics, results and pages of a run that nothing disturbed, to the
bit, without wall-clock times. It has to end at all, and five seconds after a kill no process of the killed command may be left.

Every place: each line of this project that opens, writes, syncs, links, renames or removes a file, at its first, a middle and its
last call; then the same of each chain of functions that leads there, as far as `--most` kills go. Where a command has workers,
operations of theirs are counted too; there the worker is killed or, in turn, the command.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.conftest import UNDRAWN
from tests.faults.harness import Command, commands, contents, differences, printed, run_whole, start
from tests.faults.shim import SharedPlaces, Shim

STUCK_SECONDS = 120.0
ORPHAN_SECONDS = 5.0
MOST = 200  # kills of a command at places
POINT = "{family: point, options: {max_episode_steps: 4}}"
SAC = {"hidden": 4, "batch_size": 4, "random_decisions": 4}
PEARL = {
    "name": "pearl", "training_tasks": 3, "tasks_per_iteration": 2, "tasks": 2, "first_episodes": 1, "prior_episodes": 1,
    "posterior_episodes": 1, "updates": 1, "hidden": 4, "batch_size": 4, "context_size": 4, "replay_capacity": 20,
    "latent_dim": 2, "exploration_episodes": 1,
}  # fmt: skip
MAML = {"name": "maml", "tasks": 2, "rollouts": 2, "hidden": 4}
ABLATION = {
    "title": "Kills",
    "claim": "Nothing is lost.",
    "methods": {
        "sac": {"config": "downstream/maze_sac", "algorithm": SAC},
        "spirl": {"config": "downstream/maze_spirl", "algorithm": SAC},
        "maml": {"kind": "meta-train", "algorithm": MAML},
    },
    "changes": {
        "task": {"family": "point", "options": {"max_episode_steps": 4}},
        "env_steps": 16, "checkpoint_seconds": 1e-300, "evaluation": {"episodes": 1, "tasks": 1},
    },
    "reference": "sac", "tasks": [0], "seeds": [0], "test": {"tasks": 1, "episodes": 1}, "workers": 1,
}  # fmt: skip


def all_commands(root: Path) -> dict[str, Command]:
    """Those of the suite, two more kinds of learner, an ablation, and two commands with workers."""
    found = commands(root)
    meta = [f"task={POINT}", "checkpoint_seconds=1e-300", "evaluation={tasks: 1, repeats: 1}"]
    log = dict(np.load(root / "log.npz"))
    np.savez(root / "points.npz", **{**log, "actions": np.clip(0.1 * log["observations"], -0.1, 0.1)})
    skills = {
        "source": str(root / "points.npz"), "task": None, "model": {"hidden": 4, "horizon": 2, "dim": 2},
        "training": {"steps": 2, "held_out_every": 1, "batch_size": 4},
    }  # fmt: skip
    (root / "ablation.yaml").write_text(json.dumps({**ABLATION, "skills": skills}))
    collect, evaluate = found["collect"].arguments, found["evaluate"].arguments[:-1]
    more = {
        "meta-train PEARL": ["meta-train", "meta/pearl_point", f"algorithm={json.dumps(PEARL)}", "env_steps=60", *meta],
        "meta-train MAML": ["meta-train", "meta/maml_navigation", f"algorithm={json.dumps(MAML)}", "env_steps=48", *meta],
        "ablate": ["ablate", str(root / "ablation.yaml")],
        "collect, workers": [*collect[:-1], "dataset=test/shards-v0", "shards=2"],
        "evaluate, workers": [*evaluate[:-1], "processes=2", "envs_per_batch=1"],
    }  # fmt: skip
    for name, arguments in more.items():
        out = found["collect"].out if name == "collect, workers" else root / name / "out"
        found[name] = Command(tuple(arguments if "collect" in name else [*arguments, "--out", str(out)]), out)
    return found


@dataclass
class Reference:
    """A command, what it leaves when nothing disturbs it, its file operations, and the seconds that it takes."""

    command: Command
    left: dict[str, Any]
    places: list[str]
    seconds: float


@dataclass
class Row:
    """What became of the kills of one command."""

    command: str
    operations: int = 0
    places: int = 0  # distinct lines
    kills: dict[str, int] = field(default_factory=lambda: {"random": 0, "place": 0})
    passed: dict[str, int] = field(default_factory=lambda: {"random": 0, "place": 0})
    stuck: int = 0
    orphans: int = 0
    wrong: list[str] = field(default_factory=list)


def ended(pid: int, kill_after: float | None = None) -> int | None:
    """Wait for a command. Returns its exit status; None if it was stuck, and killed for that."""
    begin, killed = time.monotonic(), False
    while True:
        found, code = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(code)
        now = time.monotonic() - begin
        if kill_after is not None and not killed and now > kill_after:
            os.kill(pid, signal.SIGKILL)
            killed = True
        if now > STUCK_SECONDS:
            for one in members(pid):
                os.kill(one, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.002)


def members(session: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def orphans(session: int) -> int:
    """How many processes of a session are left after five seconds; they are killed then."""
    end = time.monotonic() + ORPHAN_SECONDS
    while (left := members(session)) and time.monotonic() < end:
        time.sleep(0.02)
    for one in left:
        os.kill(one, signal.SIGKILL)
    return len(left)


class Sweep:
    """Kills of the commands in a folder."""

    def __init__(self, root: Path, names: Sequence[str], tell: Callable[[str], None]):
        self.tell, self.references = tell, {}
        self.commands = all_commands(root)
        for name, command in self.commands.items():
            needed = name in names or name == "meta-train"  # which others read
            if needed:
                run_whole(command)  # everything is imported now
                self.references[name] = self.reference(command)
                tell(f"{name}: {len(self.references[name].places)} operations, {self.references[name].seconds:.1f} s")
        self.rows = {name: Row(name) for name in names}

    def reference(self, command: Command) -> Reference:
        shutil.rmtree(command.out)
        begin = time.monotonic()
        status, places = self.run(command)
        seconds = time.monotonic() - begin
        assert status == 0, printed(command).read_text()
        return Reference(command, contents(command.out), places, seconds)

    def run(
        self, command: Command, at: int | None = None, whom: str = "self", after: float | None = None, row: Row | None = None
    ) -> tuple[int | None, list[str]]:  # fmt: skip
        """Run a command once, with a kill at an operation or after some seconds. Returns its exit status and its operations."""
        log = command.out.parent.with_suffix(".places")
        command.out.parent.mkdir(parents=True, exist_ok=True)
        places = SharedPlaces(log)
        victim = os.getpid if whom == "self" else lambda: os.getsid(0)
        pid = start(command, Shim(command.out.parent, at, places=places, victim=victim))
        status = ended(pid, after)
        left = orphans(pid)
        places.close()
        if row is not None:
            row.orphans += left
            row.stuck += status is None
        return status, log.read_text().splitlines()

    def complete(self, reference: Reference, row: Row) -> list[str]:
        """Run the command once more, undisturbed. Returns what is wrong then."""
        status, _ = self.run(reference.command, row=row)
        said = printed(reference.command).read_text()
        if status != 0 and "exists already" not in said:  # a data set that was complete when its writer was killed
            return [f"exit status {status}: {said[-2000:]}"]
        return differences(contents(reference.command.out), reference.left)

    def note(self, row: Row, kind: str, what: str, wrong: list[str], count: int = 1) -> None:
        row.kills[kind] += count
        if wrong:
            row.wrong.append(f"{what}: {'; '.join(wrong)}")
            self.tell(f"WRONG {row.command}: {row.wrong[-1]}")
        else:
            row.passed[kind] += count

    def at_places(self, name: str, most: int, seed: int) -> None:
        """A kill at the first, a middle and the last call of every place."""
        reference, row = self.references[name], self.rows[name]
        row.operations, row.places = len(reference.places), len({line_of(place) for place in reference.places})
        for number, at in enumerate(chosen(reference.places, most, random.Random(seed))):
            whom = "command" if number % 2 and (name == "ablate" or "workers" in name) else "self"
            shutil.rmtree(reference.command.out)
            status, _ = self.run(reference.command, at, whom, row=row)
            wrong = [] if status in (-9, 0) else [f"exit status {status} where it was killed"]
            wrong += self.complete(reference, row)
            self.note(row, "place", f"{at} {reference.places[at]} ({whom})", wrong)

    def at_random(self, count: int, seed: int) -> None:
        """Kills of the commands in turn at random times and places; up to three before what is left is compared."""
        rng, names, done = random.Random(seed), itertools.cycle(self.rows), 0
        while done < count:
            name = next(names)
            reference, row, told = self.references[name], self.rows[name], []
            shutil.rmtree(reference.command.out)
            for _ in range(min(rng.choice([1, 1, 2, 3]), count - done)):
                if rng.random() < 0.5:
                    after = rng.uniform(0, reference.seconds)
                    status, _ = self.run(reference.command, after=after, row=row)
                    told.append(f"after {after:.3f} s")
                else:
                    at, whom = rng.randrange(len(reference.places)), rng.choice(["self", "command"])
                    status, places = self.run(reference.command, at, whom, row=row)
                    told.append(f"at {at} ({whom})")
                    if status == 0 and len(places) > at and whom == "self":
                        status = -9  # a worker, which was replaced
                if status != -9:  # it had ended before
                    told.pop()
                    break
            wrong = self.complete(reference, row)
            if told or wrong:
                self.note(row, "random", ", ".join(told), wrong, len(told))
                done += len(told)


def line_of(place: str) -> str:
    """The line that an operation is in, and its kind."""
    found = re.search(r"(@\S+: \S+)", place)
    return found[1] if found else place


def chosen(places: Sequence[str], most: int, rng: random.Random) -> list[int]:
    """First, middle and last call of each line; then, as far as they go, of each chain of functions and file."""
    found: dict[int, None] = {}
    for key in (line_of, str):
        calls: dict[str, list[int]] = {}
        for at, place in enumerate(places):
            calls.setdefault(key(place), []).append(at)
        wanted = [at for where in calls.values() for at in (where[0], where[len(where) // 2], where[-1])]
        if key is str:
            rng.shuffle(wanted)
        found.update(dict.fromkeys(wanted))
    return sorted(list(found)[:most])


def table(rows: Sequence[Row]) -> str:
    lines = [
        "| command | file operations | lines | kills at places | passed | kills at random | passed | stuck | left after 5 s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        kills, passed = row.kills, row.passed
        numbers = [row.operations, row.places, kills["place"], passed["place"], kills["random"], passed["random"]]
        lines.append(f"| {row.command} | {' | '.join(map(str, [*numbers, row.stuck, row.orphans]))} |")
    sums = [
        sum(getattr(row, what)[kind] for row in rows) for kind in ("place", "random") for what in ("kills", "passed")
    ]
    last = [*sums, sum(row.stuck for row in rows), sum(row.orphans for row in rows)]
    return "\n".join([*lines, f"| all | | | {' | '.join(map(str, last))} |"])


def sweep(
    root: Path, names: Sequence[str], count: int, most: int, seed: int, tell: Callable[[str], None], results: Path | None = None
) -> list[Row]:  # fmt: skip
    """All kills of some commands. What is known is written into the folder `results` after each command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root / "collect" / "logs"))
        run = Sweep(root, names, tell)
        run.at_random(count, seed)
        tell(table(list(run.rows.values())))
        for name in names if most else ():
            run.at_places(name, most, seed)
            tell(table([run.rows[name]]).splitlines()[2])
            write(list(run.rows.values()), results)
        write(list(run.rows.values()), results)
        return list(run.rows.values())


def write(rows: Sequence[Row], results: Path | None) -> None:
    if results is not None:
        results.mkdir(parents=True, exist_ok=True)
        (results / "kills.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        (results / "kills.md").write_text(table(rows) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.kills", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commands", nargs="*", help="all by default")
    parser.add_argument("--random", type=int, default=200, help="kills at random times and places")
    parser.add_argument("--most", type=int, default=MOST, help="kills of a command at places, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="a folder for kills.json and kills.md")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, file, **unused: file.write(UNDRAWN[type(file)]))
        Path(place, "names").mkdir()
        names = options.commands or list(all_commands(Path(place, "names")))
        count, most, seed = options.random, options.most, options.seed
        rows = sweep(Path(place), names, count, most, seed, lambda line: print(line, flush=True), options.results)
    print(table(rows))
    for row in rows:
        print("\n".join(f"{row.command}: {one}" for one in row.wrong), end="\n" if row.wrong else "")
    return int(any(row.wrong or row.stuck or row.orphans for row in rows))


if __name__ == "__main__":
    sys.exit(main())
