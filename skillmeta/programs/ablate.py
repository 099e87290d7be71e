"""Methods x tasks x seeds on equal environment steps, resumable, and the page that compares them.

One config is the whole path: logs are collected if it says how, skills are pretrained if it says from what, then every method
runs on every task with every seed, then the report is written. `skillmeta demo` and `skillmeta reproduce` are such configs.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from skillmeta.config import PositiveInt, checked, differences, dump_yaml, load, read_yaml, stack, to_plain
from skillmeta.data.minari_store import exists
from skillmeta.errors import ConfigError, UserError
from skillmeta.evaluation.records import Comparison
from skillmeta.programs.collect import CollectConfig, collect
from skillmeta.programs.page import write_page
from skillmeta.programs.pretrain import PretrainConfig, pretrain
from skillmeta.programs.train import TrainConfig, algorithm_of, train, train_config
from skillmeta.run.files import locked_folder, write_whole
from skillmeta.run.jobs import Job, Outcome, run_jobs
from skillmeta.run.run import environment, read_result
from skillmeta.tasks.base import evenly_spaced, make_family


@checked
class AblationConfig(Comparison):
    """What is compared with what, and where the logs and the skills come from."""

    logs: CollectConfig | None = None  # collected into OUT/logs first; null: skills.source exists already
    skills: PretrainConfig | None = None  # one model a training seed, in OUT/skills; null: each method names its own
    cloning: PretrainConfig | None = None  # likewise in OUT/cloning, for the methods that say `skills: cloning`
    changes: dict[str, Any] = field(default_factory=dict)  # to every method: env_steps, task, evaluation, ...
    workers: PositiveInt = 2  # runs at once; no result depends on it


def method_config(config: AblationConfig, name: str, out: Path, seed: int) -> TrainConfig:
    """The complete fine-tuning config of a method for a training seed, before the task is filled in."""
    wanted = config.methods[name]
    wanted = {"config": wanted} if isinstance(wanted, str) else dict(wanted)
    base = load(wanted.pop("config")) if "config" in wanted else OmegaConf.create()
    merged = stack(stack(base, OmegaConf.create(config.changes)), OmegaConf.create(wanted))
    section = "cloning" if merged.get("skills") == "cloning" else "skills"
    if getattr(config, section) is not None and merged.get("skills") is not None:
        merged["skills"] = str(out / section / f"seed-{seed}")
    elif section == "cloning":
        raise ConfigError(
            f"methods.{name}.skills is cloning; there is no section `cloning:` that says how it is pretrained"
        )
    merged["seed"] = seed
    made = train_config(merged, at=f"methods.{name}")
    algorithm_of(made, f"methods.{name}")  # imported here, its folder is on the path of the workers
    return made


def task_indices(config: AblationConfig, out: Path) -> list[int]:
    """The tasks of every method. Raises ConfigError if they are named by a rule and the methods differ in family or split."""
    if isinstance(config.tasks, list):
        return config.tasks
    tasks = [method_config(config, name, out, config.seeds[0]).task for name in config.methods]
    if any(replace(task, index=0) != replace(tasks[0], index=0) for task in tasks):
        raise ConfigError("tasks: a rule needs one family and split for all methods; set `task` under `changes:`")
    return evenly_spaced(make_family(tasks[0]), tasks[0].split, config.tasks.count, config.tasks.by)


def make_jobs(config: AblationConfig, out: Path, command: str) -> list[Job]:
    """All runs, seeds outermost, so that every method has some early. Raises ConfigError if their budgets differ."""
    jobs, tasks = [], task_indices(config, out)
    for seed in config.seeds:
        complete = {name: method_config(config, name, out, seed) for name in config.methods}
        budgets = {name: (c.env_steps, c.max_episodes) for name, c in complete.items()}
        if len(set(budgets.values())) > 1:
            raise ConfigError(
                f"methods have unequal budgets of (env_steps, max_episodes): {budgets}; set them under `changes:`"
            )
        for index in tasks:
            for name, base in complete.items():
                one = replace(base, task=replace(base.task, index=index))
                folder = out / "methods" / name / f"task-{index}" / f"seed-{seed}"
                jobs.append(Job(f"{name} task {index} seed {seed}", folder, (one, command)))
    return jobs


def pretraining_jobs(config: AblationConfig, out: Path, command: str) -> list[Job]:
    """One model of each kind a training seed: runs that share a model are not independent."""
    jobs = []
    for name, section in (("skills", config.skills), ("cloning", config.cloning)):
        if section is None:
            continue
        for seed in config.seeds:
            one = replace(section, training=replace(section.training, seed=seed))
            jobs.append(Job(f"{name} seed {seed}", out / name / f"seed-{seed}", (one, command)))
    return jobs


def run_one(job: Job) -> None:
    """One run, in a worker."""
    config, command = job.payload
    if isinstance(config, PretrainConfig):
        pretrain(config, job.folder, command, quiet=True)
    else:
        train(config, job.folder, command, quiet=True, page=False)


def ablate(config: AblationConfig, out: Path, command: str = "") -> Outcome:
    """Everything the config asks for, continuing where an earlier call stopped. The report is written even for a part.

    Raises ConfigError if `out` holds another ablation, UserError if another process runs one there or a link in it leads out of it.
    """
    tasks = task_indices(config, out)
    with locked_folder(out):
        return _ablate(config, tasks, out, command)


def _ablate(config: AblationConfig, tasks: list[int], out: Path, command: str) -> Outcome:
    plain = {**to_plain(config), "tasks": tasks}
    saved = out / "config.yaml"
    keep = {key: value for key, value in plain.items() if key != "workers"}  # how many at once changes no result
    if saved.exists() and (changed := differences(read_yaml(saved), keep)):
        raise ConfigError(
            f"{out}: holds an ablation with another config ({'; '.join(changed[:5])}); use another --out or delete the folder"
        )
    jobs = make_jobs(config, out, command)  # before anything is written: a wrong method must not take the folder
    write_whole(saved, dump_yaml(keep))
    write_whole(out / "environment.json", json.dumps(environment(command), indent=1))
    started = time.monotonic()
    prepare(config, out, command)
    print(f"3/4  {len(config.methods)} methods x {len(tasks)} tasks x {len(config.seeds)} seeds", flush=True)
    outcome = run_jobs(jobs, run_one, config.workers, "learning")
    print(f"4/4  report ({time.monotonic() - started:.0f} s so far)", flush=True)
    if outcome.done:
        try:
            write_page([out], family=make_family(jobs[0].payload[0].task), required=True)
        except UserError:
            if not outcome.stopped:  # stopped so early that no method is complete: nothing to show yet
                raise
    return outcome


def prepare(config: AblationConfig, out: Path, command: str) -> None:
    """Logs and skills, unless they are there. Raises UserError if pretraining failed, KeyboardInterrupt if it was stopped."""
    if config.logs is not None:
        os.environ["MINARI_DATASETS_PATH"] = str((out / "logs").resolve())  # beside the runs that they belong to
        print(f"1/4  logs: {config.logs.collector} -> minari:{config.logs.dataset} in {out / 'logs'}", flush=True)
        if not exists(config.logs.dataset):
            done = collect(config.logs)
            print(f"     {done.episodes:,} episodes, {done.steps:,} steps", flush=True)
    jobs = pretraining_jobs(config, out, command)
    if not jobs:
        return
    print(f"2/4  skills and their prior, a model a seed -> {out / 'skills'}", flush=True)
    outcome = run_jobs(jobs, run_one, config.workers, "skills")
    if outcome.failed:
        raise UserError("; ".join(f"{name}: {why}" for name, why in outcome.failed.items()))
    if outcome.stopped:
        raise KeyboardInterrupt
    for job in jobs:
        result = read_result(job.folder)
        assert result is not None  # it is done
        print("\n".join(f"     {job.name}: {sentence}" for sentence in result["verdict"][:1]), flush=True)
