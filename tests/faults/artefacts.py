"""What every command of a user leaves on disk, small, finished and not: the files that tests then damage."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from skillmeta.cli import main
from skillmeta.errors import UserError
from skillmeta.programs.adapt import load_adapted
from skillmeta.run.jobs import Job, Outcome
from skillmeta.run.run import is_finished
from tests.faults.harness import Command, run_forked, run_whole
from tests.faults.test_kills import commands

Act = Callable[[], int]  # in a forked child; returns an exit status


@dataclass(frozen=True)
class Reader:
    """Something that reads an artefact, and which of its files it uses."""

    name: str
    act: Callable[[Path], Act]  # of the damaged copy
    uses: tuple[str, ...]  # patterns of names within the artefact


@dataclass(frozen=True)
class Artefact:
    """A file or a folder, whole, and what reads it."""

    path: Path
    readers: Sequence[Reader]

    def files(self, reader: Reader) -> list[str]:
        """The files that a reader uses, relative; "" for an artefact that is a file."""
        if self.path.is_file():
            return [""]
        found = {
            str(p.relative_to(self.path)) for pattern in reader.uses for p in self.path.glob(pattern) if p.is_file()
        }
        newest = max((name.split("/")[1] for name in found if name.startswith("checkpoints/")), default="")
        return sorted(name for name in found if not name.startswith("checkpoints/") or name.split("/")[1] == newest)


RUN = ("config.yaml", "environment.json", "metrics.jsonl", "result.json", "checksums.json")
MODEL = ("model/*",)
STOPPED = ("config.yaml", "metrics.jsonl", "checkpoints/*/*")


def logs(root: Path) -> dict[str, Path]:
    """The same recording as a flat HDF5 and as an NPZ."""
    with np.load(root / "log.npz") as archive, h5py.File(root / "log.hdf5", "w") as file:
        for name in archive.files:
            file[name] = archive[name]
    return {"npz": root / "log.npz", "hdf5": root / "log.hdf5"}


def stopped(command: Command, before: str) -> Path:
    """What a command leaves that is killed before it writes a file."""
    out = command.out.parent.with_name(f"{command.out.parent.name}-stopped") / "out"
    arguments = [str(out) if part == str(command.out) else part for part in command.arguments]
    again = Command(tuple(arguments), out)
    _, places = run_whole(again)
    at = next(i for i, place in enumerate(places) if place.endswith(before))
    shutil.rmtree(out)
    assert run_forked(again, at)[0] == -9
    return out


def ablation(root: Path) -> Command:
    out = root / "ablate" / "out"
    task = "{family: point, options: {max_episode_steps: 5}}"
    changes = f"changes={{task: {task}, env_steps: 10, evaluation: {{episodes: 1}}}}"
    method = "{config: downstream/maze_sac, algorithm: {hidden: 4, batch_size: 4, random_decisions: 5}}"
    path = root / "ablation.yaml"
    path.write_text(f"methods: {{m: {method}}}\n{changes.replace('=', ': ', 1)}\nseeds: [0]\nworkers: 1\n")
    return Command(("ablate", str(path), "--out", str(out)), out)


def one_by_one(jobs: Sequence[Job], target: Callable[[Job], None], workers: int, label: str = "") -> Outcome:
    """`run_jobs` in this process: workers would import everything again, which takes seconds."""
    outcome = Outcome(done=[job.name for job in jobs if is_finished(job.folder)])
    for job in jobs:
        if job.name not in outcome.done:
            try:
                target(job)
                outcome.done.append(job.name)
            except UserError as error:
                outcome.failed[job.name] = str(error)
    return outcome


def build(root: Path, only: Collection[str] | None = None) -> dict[str, Artefact]:
    """Every artefact, by name, or some; a few seconds.

    MINARI_DATASETS_PATH must be `root / "collect" / "logs"`, and `one_by_one` in the place of `run_jobs`.
    """
    made = commands(root)
    one = ablation(root)
    for name, needed in {**made, "ablate": one}.items():
        if only is None or name in only:
            run_whole(needed)
    flat = logs(root)

    def with_out(command: Command) -> Callable[[Path], Act]:
        arguments = [*command.arguments[:-1]]
        return lambda copy: lambda: main([*arguments, str(copy)])

    def command(*arguments: str) -> Callable[[Path], Act]:
        """`@` stands for the damaged copy, `%` for a folder beside it."""
        return lambda copy: (
            lambda: main([a.replace("@", str(copy)).replace("%", str(copy.with_name("beside"))) for a in arguments])
        )

    def of_minari(*arguments: str) -> Callable[[Path], Act]:
        def act(copy: Path) -> Act:
            def run() -> int:
                os.environ["MINARI_DATASETS_PATH"] = str(copy)
                return command(*arguments)(copy)()

            return run

        return act

    def python(read: Callable[[Path], Any]) -> Callable[[Path], Act]:
        def act(copy: Path) -> Act:
            def run() -> int:
                from skillmeta.cli import run_program

                def call(argv: Sequence[str] | None) -> int:
                    read(copy)
                    return 0

                return run_program(call, [])

            return run

        return act

    bandit = ("tasks/bandit_5", "task.options={arms: 2, max_episode_steps: 3}", "tasks=2", "episodes=1")
    small = ["task=null", "training.steps=2", "training.held_out_every=2", "training.batch_size=4", "model.hidden=4",
             "model.horizon=5"]  # fmt: skip
    point = ["task={family: point, options: {max_episode_steps: 5}}", "env_steps=10", "evaluation.episodes=1"]
    of_log = (
        Reader("inspect", command("inspect", "@"), ("*",)),
        Reader("skills", command("skills", "pretrain/maze", "source=@", *small, "--out", "%"), ("*",)),
    )
    report = Reader("report", command("report", "@"), (*RUN, "trajectories.npz", "paths.npz", "parts/*.npz"))
    runs = {name: made[name].out for name in made}
    skills_of = Reader(
        "finetune",
        command(
            "finetune",
            "downstream/maze_spirl",
            *point,
            "algorithm={hidden: 4, batch_size: 4}",
            "skills=@",
            "--out",
            "%",
        ),
        MODEL,
    )
    agent = ("actor/*", "config.yaml", "result.json")
    makers: dict[str, Callable[[], Artefact]] = {
        "npz": lambda: Artefact(flat["npz"], of_log),
        "hdf5": lambda: Artefact(flat["hdf5"], of_log),
        "minari": lambda: Artefact(
            runs["collect"],
            (Reader("inspect", of_minari("inspect", "minari:test/tiny-v0"), ("test/tiny-v0/**/*",)),),
        ),
        "skills": lambda: Artefact(
            runs["skills"], (skills_of, report, Reader("skills", with_out(made["skills"]), RUN))
        ),
        "skills, stopped": lambda: Artefact(
            stopped(made["skills"], ": replace result.json"), (Reader("skills", with_out(made["skills"]), STOPPED),)
        ),
        "meta-train": lambda: Artefact(
            runs["meta-train"],
            (
                Reader("adapt", command("adapt", "@", "tasks/bandit_5", bandit[1][5:], "--out", "%"), agent),
                Reader("evaluate", command("evaluate", *bandit, "agents=[@]", "--out", "%"), agent),
                report,
                Reader("meta-train", with_out(made["meta-train"]), RUN),
            ),
        ),
        "meta-train, stopped": lambda: Artefact(
            stopped(made["meta-train"], ": replace result.json"),
            (Reader("meta-train", with_out(made["meta-train"]), STOPPED), Reader("report", report.act, RUN)),
        ),
        "finetune": lambda: Artefact(runs["finetune"], (report, Reader("finetune", with_out(made["finetune"]), RUN))),
        "finetune, stopped": lambda: Artefact(
            stopped(made["finetune"], ": replace result.json"),
            (Reader("finetune", with_out(made["finetune"]), STOPPED),),
        ),
        "adapt": lambda: Artefact(
            runs["adapt"],
            (
                Reader("load_adapted", python(load_adapted), ("adapted.yaml", "belief/*")),
                Reader("adapt", with_out(made["adapt"]), ("adapted.yaml",)),
            ),
        ),
        "evaluate": lambda: Artefact(
            runs["evaluate"], (report, Reader("evaluate", with_out(made["evaluate"]), (*RUN, "parts/*.npz")))
        ),
        "evaluate, stopped": lambda: Artefact(
            stopped(made["evaluate"], ": replace result.json"),
            (Reader("evaluate", with_out(made["evaluate"]), ("config.yaml", "parts/*.npz")),),
        ),
        "ablate": lambda: Artefact(
            one.out,
            (
                Reader(
                    "report",
                    report.act,
                    ("config.yaml", "environment.json", "methods/*/*/*/*.json*", "methods/*/*/*/*.*"),
                ),
                Reader("ablate", with_out(one), ("config.yaml", "methods/*/*/*/*.json*", "methods/*/*/*/*.*")),
            ),
        ),
        "a config": lambda: Artefact(
            root / "ablation.yaml", (Reader("ablate", command("ablate", "@", "--out", "%"), ("*",)),)
        ),
    }
    return {name: make() for name, make in makers.items() if only is None or name in only}
