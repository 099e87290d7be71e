"""Methods x tasks x seeds on equal environment steps, resumable, and the page that compares them.

One config is the whole path. If it says how, logs are collected, skills are pretrained and agents to start from are meta-trained.
Then every method is trained with every seed: one of kind `finetune` on every task, one of kind `meta-train` on the training tasks
of its split, and these are evaluated on test tasks. Then the page is written. `skillmeta demo` and `skillmeta reproduce` are such
configs.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import OmegaConf

from skillmeta.config import (
    NonNegativeInt,
    PositiveInt,
    build,
    check_file_name,
    checked,
    dump_yaml,
    is_builtin,
    load,
    read_yaml,
    stack,
    to_plain,
)
from skillmeta.data.minari_store import datasets_in, exists
from skillmeta.errors import ConfigError, UserError
from skillmeta.evaluation.records import Comparison
from skillmeta.programs.collect import CollectConfig, collect
from skillmeta.programs.evaluate import EvaluateConfig, run_evaluation
from skillmeta.programs.page import write_page
from skillmeta.programs.pretrain import PretrainConfig, pretrain
from skillmeta.programs.train import check_same, train
from skillmeta.programs.train_config import TrainConfig, algorithm_of, train_config
from skillmeta.programs.train_stack import check_stackable, train_stack
from skillmeta.run.cluster import Cluster
from skillmeta.run.files import locked_folder, remove, write_whole
from skillmeta.run.identity import Identity
from skillmeta.run.jobs import Job, Outcome, run_jobs
from skillmeta.run.run import environment, is_finished, read_result, seal
from skillmeta.tasks.base import evenly_spaced, make_family


@checked
class TestingConfig:
    """How methods of kind `meta-train` are evaluated: trials in the tasks of a split, as `skillmeta evaluate` runs them."""

    split: str = "test"  # whose tasks they are
    episodes: NonNegativeInt = 2  # K, that are adapted on; K + 1 are run
    tasks: PositiveInt | None = None  # only the first so many of the split
    repeats: PositiveInt = 1  # trials in each task, with other resets; averaged within a training seed
    sample: bool = False  # act by samples of the policy after exploration too, not by its mode
    evaluation_seed: NonNegativeInt = 0  # of resets and of what agents draw when they act


@checked
class AblationConfig(Comparison):
    """What is compared with what, and where the logs and the skills come from.

    `skills` says how skills are pretrained, a model a training seed in OUT/skills: one section, for all methods that act in skills,
    or a mapping of named ones, of which a method's `skills` names one. `starts` are runs of kind meta-train by name, one a training
    seed in OUT/starts, that methods of kind finetune start from: `start: {run: NAME}`.
    """

    FORMER_KEYS: ClassVar[dict[str, str]] = {
        "cloning": "is now a named section under `skills:`, e.g. skills: {vae: {...}, cloning: {...}}, which methods name"
    }

    logs: CollectConfig | None = None  # collected into OUT/logs first; null: skills.source exists already
    skills: PretrainConfig | dict[str, PretrainConfig] | None = None  # or named ones; null: methods name folders
    starts: dict[str, Any] = field(
        default_factory=dict
    )  # runs of kind meta-train by name, a seed each, for methods to start from
    changes: dict[str, Any] = field(default_factory=dict)  # to every method: env_steps, task, evaluation, ...
    test: TestingConfig = field(default_factory=TestingConfig)  # how methods of kind meta-train are evaluated
    stack_seeds: bool = False  # a method's runs, of all seeds and tasks, in one process, their updates as one
    workers: PositiveInt = 2  # runs at once; no result depends on it

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.methods and not isinstance(self.skills, dict):
            raise ValueError("methods is empty; at least one is needed, or several sections of skills")
        for name in self.skills if isinstance(self.skills, dict) else ():
            check_file_name(name, "skills: a name")
        for name in self.starts:
            check_file_name(name, "starts: a name")

    @property
    def skill_sections(self) -> dict[str, PretrainConfig]:
        """Skill models by name; a single section is called ""."""
        if isinstance(self.skills, dict):
            return self.skills
        return {} if self.skills is None else {"": self.skills}


def method_config(config: AblationConfig, name: str, out: Path, seed: int) -> TrainConfig:
    """The complete config of a method for a training seed, before the task is filled in."""
    return run_config(config, f"methods.{name}", config.methods[name], config.changes, out, seed)


def run_config(
    config: AblationConfig, at: str, wanted: Any, changes: Mapping[str, Any], out: Path, seed: int
) -> TrainConfig:
    """The complete config of a method or a start, which stands `at` a key, for a training seed."""
    if not isinstance(wanted, (str, Mapping)):
        raise ConfigError(f"{at} is {wanted!r}; the name of a config, or a mapping of keys is expected")
    wanted = {"config": wanted} if isinstance(wanted, str) else dict(wanted)
    base = load(wanted.pop("config")) if "config" in wanted else OmegaConf.create()
    merged = stack(stack(base, OmegaConf.create(dict(changes))), OmegaConf.create(wanted))
    sections, skills = config.skill_sections, merged.get("skills")
    if sections and skills is not None:
        section = "" if "" in sections else skills
        if section not in sections:
            raise ConfigError(f"{at}.skills is {skills!r}; it must name a section of skills: {', '.join(sections)}")
        merged["skills"] = str(out / "skills" / section / f"seed-{seed}")
    named = merged.get("start") if config.starts else None
    if named is not None:
        name = named.get("run") if isinstance(named, Mapping) else named
        if not isinstance(named, Mapping) or not isinstance(name, str) or name not in config.starts:
            raise ConfigError(
                f"{at}.start is {to_plain(named)!r}; its run must name a section of starts: {', '.join(config.starts)}"
            )
        start = run_config(config, f"starts.{name}", config.starts[name], {}, out, seed)
        merged["start"]["run"], merged["start"]["algorithm"] = (
            str(start_folder(out, name, seed)),
            start.algorithm["name"],
        )
    merged["seed"] = seed
    if config.stack_seeds and merged.get("kind") != "meta-train":
        merged["stack_seeds"] = list(config.seeds)
    made = train_config(merged, at=at)
    algorithm_of(made, at)  # imported here, its folder is on the path of the workers
    if named is not None:
        check_start(made, start, at, str(name))
    return made


def start_folder(out: Path, name: str, seed: int) -> Path:
    return out / "starts" / name / f"seed-{seed}"


def check_start(made: TrainConfig, start: TrainConfig, at: str, name: str) -> None:
    """Raises ConfigError for a method that will not be able to start from the agent that it names."""
    if start.kind != "meta-train":
        raise ConfigError(f"starts.{name}.kind is {start.kind!r}; set it to meta-train")
    check_same(made, to_plain(start), f"{at}: starts.{name}")
    if made.skills != start.skills:
        raise ConfigError(f"{at}.skills and starts.{name}.skills are not the same section; set one as the other is")
    (module, own), (agents, others) = (algorithm_of(one, at) for one in (made, start))
    for what, where, has in (
        ("can start from another agent", made, hasattr(module.Learner, "start_from")),
        ("gives an agent to start from", start, hasattr(getattr(agents, "Actor", None), "start")),
    ):
        if is_builtin("algorithms", where.algorithm["name"]) and not has:
            raise ConfigError(f"{at}.start.run is {name!r}: no learner of {where.algorithm['name']!r} {what}")
    ours, theirs = ([getattr(one, key, None) for key in ("hidden", "policy_depth")] for one in (own, others))
    theirs[1] = getattr(others, "depth", theirs[1])
    if made.start is not None and made.start.prior == "skill" and None not in theirs and ours != theirs:
        raise ConfigError(
            f"{at}.algorithm has hidden and policy_depth {ours}, and the policy of starts.{name} has {theirs}; set them as there"
        )


def on_one_task(config: AblationConfig, out: Path) -> dict[str, TrainConfig]:
    """The methods that are trained on each of `tasks`, with the config of their first run."""
    first = {name: method_config(config, name, out, config.seeds[0]) for name in config.methods}
    return {name: one for name, one in first.items() if one.kind == "finetune"}


def task_indices(config: AblationConfig, out: Path) -> list[int]:
    """The tasks of every method that is trained on one. Raises ConfigError if they are named by a rule and those methods differ in
    family or split."""
    if isinstance(config.tasks, list):
        return config.tasks
    if not config.methods:
        return [0]
    tasks = [one.task for one in on_one_task(config, out).values()]
    if not tasks or any(replace(task, index=0) != replace(tasks[0], index=0) for task in tasks):
        raise ConfigError("tasks: a rule needs one family and split for all methods; set `task` under `changes:`")
    return evenly_spaced(make_family(tasks[0]), tasks[0].split, config.tasks.count, config.tasks.by)


def make_jobs(config: AblationConfig, out: Path, command: str) -> list[Job]:
    """All runs, seeds outermost, so that every method has some early.

    Raises ConfigError if budgets of methods of one kind differ.
    """
    jobs, tasks = [], task_indices(config, out)
    stacks: dict[str, list[tuple[TrainConfig, Path]]] = {}
    for seed in config.seeds:
        complete = {name: method_config(config, name, out, seed) for name in config.methods}
        for kind in {one.kind for one in complete.values()}:
            budgets = {name: (c.env_steps, c.max_episodes) for name, c in complete.items() if c.kind == kind}
            if len(set(budgets.values())) > 1:
                raise ConfigError(
                    f"methods have unequal budgets of (env_steps, max_episodes): {budgets}; set them under `changes:`"
                )
        for name, base in complete.items():
            if base.kind != "finetune":
                jobs.append(Job(f"{name} seed {seed}", out / "methods" / name / f"seed-{seed}", (base, command)))
        for index in tasks:
            for name, base in complete.items():
                if base.kind == "finetune":
                    one = replace(base, task=replace(base.task, index=index))
                    folder = out / "methods" / name / f"task-{index}" / f"seed-{seed}"
                    if one.stack_seeds:
                        check_stackable(one)
                        stacks.setdefault(name, []).append((one, folder))
                    else:
                        jobs.append(Job(f"{name} task {index} seed {seed}", folder, (one, command)))
    # A stack is a job of its last run's folder, since that one is finished last.
    return jobs + [Job(name, each[-1][1], (each, command)) for name, each in stacks.items()]


def first_config(job: Job) -> TrainConfig:
    """The config of a job's run, or of the first one of a stack."""
    config, _ = job.payload
    found: TrainConfig = config[0][0] if isinstance(config, list) else config
    return found


def pretraining_jobs(config: AblationConfig, out: Path, command: str) -> list[Job]:
    """One model of each section a training seed: runs that share a model are not independent."""
    jobs = []
    for name, section in config.skill_sections.items():
        for seed in config.seeds:
            one = replace(section, training=replace(section.training, seed=seed))
            called = " ".join(["skills", *([name] if name else []), f"seed {seed}"])
            jobs.append(Job(called, out / "skills" / name / f"seed-{seed}", (one, command)))
    return jobs


def starting_jobs(config: AblationConfig, out: Path, command: str) -> list[Job]:
    """The agents that methods start from, one of each a training seed. Raises ConfigError for one that no method starts from."""
    jobs = []
    used = {one.start.run for one in on_one_task(config, out).values() if one.start is not None}
    for name, wanted in config.starts.items():
        if str(start_folder(out, name, config.seeds[0])) not in used:
            raise ConfigError(
                f"starts.{name}: no method starts from it; name it in start: {{run: {name}}}, or leave it out"
            )
        for seed in config.seeds:
            one = run_config(config, f"starts.{name}", wanted, {}, out, seed)
            jobs.append(Job(f"{name} seed {seed}", start_folder(out, name, seed), (one, command)))
    return jobs


def test_job(config: AblationConfig, jobs: Sequence[Job], out: Path, command: str) -> Job | None:
    """The evaluation of the methods that are trained on tasks of a split; None where there are none.

    Raises ConfigError if those methods differ in family: they are evaluated on the same tasks.
    """
    runs: dict[str, list[str]] = {}
    tasks = []
    for job in jobs:
        if first_config(job).kind != "finetune":
            runs.setdefault(job.folder.parent.name, []).append(str(job.folder))
            tasks.append(replace(first_config(job).task, split=config.test.split, index=0))
    if not runs:
        return None
    if any(task != tasks[0] for task in tasks):
        raise ConfigError("methods of kind meta-train have different families or options; set `task` under `changes:`")
    options = {f.name: getattr(config.test, f.name) for f in fields(TestingConfig) if f.name != "split"}
    return Job("evaluation", out / "evaluation", (EvaluateConfig(tasks[0], runs, **options), command))


def run_one(job: Job) -> None:
    """One run, in a worker."""
    config, command = job.payload
    if isinstance(config, PretrainConfig):
        pretrain(config, job.folder, command, quiet=True)
    elif isinstance(config, list):
        train_stack([one for one, _ in config], [folder for _, folder in config], command, quiet=True, page=False)
    elif isinstance(config, EvaluateConfig):
        run_evaluation(config, job.folder, command, quiet=True, trust=True, page=False)
    else:
        train(config, job.folder, command, quiet=True, page=False)


def ablate(config: AblationConfig, out: Path, command: str = "", cluster: str | None = None) -> Outcome:
    """Everything the config asks for, continuing where an earlier call stopped. The report is written even for a part.

    Args:
        cluster: the address of a Ray cluster whose machines do the runs; None: `config.workers` processes of this one.

    Raises ConfigError if `out` holds another ablation, UserError if another process runs one there or a link in it leads out of it.
    """
    tasks = task_indices(config, out)
    workers: int | Cluster = config.workers
    if cluster is not None:
        workers = Cluster(cluster, (out,))
        workers.connect()  # what is wrong with it is said before anything is written
    logs = None if config.logs is None else out / "logs"  # beside the runs that they belong to
    with locked_folder(out), datasets_in(logs):
        return _ablate(config, tasks, out, command, workers)


def _ablate(config: AblationConfig, tasks: list[int], out: Path, command: str, workers: int | Cluster) -> Outcome:
    plain = {**to_plain(config), "tasks": tasks}
    saved = out / "config.yaml"
    keep = {key: value for key, value in plain.items() if key != "workers"}  # how many at once changes no result
    before = read_yaml(saved, limited=False).get("seeds") if saved.exists() else None
    more_seeds = seeds_grew(before, config.seeds)
    same = {**keep, "seeds": before} if more_seeds else keep
    if saved.exists() and (changed := Identity(same, complete_config).changes_of(saved, same)):
        raise ConfigError(
            f"{out}: holds an ablation with another config ({'; '.join(changed[:5])}); use another --out or delete the folder"
        )
    jobs = make_jobs(config, out, command)  # before anything is written: a wrong method must not take the folder
    starts = starting_jobs(config, out, command)
    test = test_job(config, jobs, out, command)
    if isinstance(workers, Cluster) and any(first_config(job).processes == "ray" for job in [*jobs, *starts]):
        raise ConfigError(
            "processes: ray: the runs of an ablation on a cluster would wait for one another's CPUs; set a number"
        )
    if more_seeds:
        remove(out / "evaluation")  # of fewer agents
    write_whole(saved, dump_yaml(keep))
    pretraining, origin = pretraining_jobs(config, out, command), out / "environment.json"
    every = [*pretraining, *starts, *jobs, *([] if test is None else [test])]
    if not origin.exists() or not all(
        is_finished(job.folder) for job in every
    ):  # else it keeps where its results came from
        write_whole(origin, json.dumps(environment(command), indent=1))
    seal(out, ("config.yaml", "environment.json"))
    started = time.monotonic()
    total = sum((config.logs is not None, bool(pretraining), bool(jobs), True))
    stages = (f"{number}/{total}" for number in range(1, total + 1))
    models = prepare(config, out, pretraining, workers, stages)
    begun, ready = Outcome(), jobs
    if starts:
        print(f"     agents to start from, one a seed -> {out / 'starts'}", flush=True)
        begun = run_jobs(starts, run_one, workers, "meta-training")
        ready = [] if begun.stopped else [job for job in jobs if has_start(job)]
    if ready:
        runs = sum(len(job.payload[0]) if isinstance(job.payload[0], list) else 1 for job in ready)
        print(f"{next(stages)}  {len(config.methods)} methods x {len(config.seeds)} seeds: {runs} runs", flush=True)
    outcome = run_jobs(ready, run_one, workers, "learning") if ready else Outcome(done=[] if jobs else models)
    outcome.failed |= begun.failed
    outcome.stopped |= begun.stopped
    if test is not None and len(outcome.done) == len(jobs):
        tested = run_jobs([test], run_one, workers, f"evaluation on {config.test.split} tasks")
        outcome.failed |= tested.failed
        outcome.stopped |= tested.stopped
    if test is not None and outcome.failed and len(outcome.done) < len(jobs):
        left = f"{len(jobs) - len(outcome.done)} of {len(jobs)} runs have no result"
        print(
            f"note: no evaluation on {config.test.split} tasks: {left}; the same command tries them again",
            file=sys.stderr,
        )
    print(f"{total}/{total}  report ({time.monotonic() - started:.0f} s so far)", flush=True)
    if outcome.done:
        try:
            write_page([out], family=make_family(first_config(jobs[0]).task) if jobs else None, required=True)
        except UserError:
            if not outcome.stopped:  # stopped so early that no method is complete: nothing to show yet
                raise
    return outcome


def has_start(job: Job) -> bool:
    """Whether what a run starts from is there, if it starts from anything."""
    start = first_config(job).start
    return start is None or read_result(start.run) is not None


def seeds_grew(before: Any, now: Sequence[int]) -> bool:
    """Whether an ablation has all seeds that it had, in their order, and more of them."""
    return isinstance(before, list) and len(before) < len(now) and list(now[: len(before)]) == before


def complete_config(plain: Mapping[str, Any]) -> dict[str, Any]:
    """An ablation's config with every default, without what changes no result."""
    full: dict[str, Any] = to_plain(build(AblationConfig, plain))
    del full["workers"]
    return full


def prepare(
    config: AblationConfig, out: Path, jobs: Sequence[Job], workers: int | Cluster, stages: Iterator[str]
) -> list[str]:
    """Logs and skills, unless they are there: the names of the models. Skills are learned by `jobs`, run as `run_jobs` does.

    Args:
        stages: what stands before the headline of each stage, as 1/4.

    Raises UserError if pretraining failed, KeyboardInterrupt if it was stopped.
    """
    if config.logs is not None:
        print(
            f"{next(stages)}  logs: {config.logs.collector} -> minari:{config.logs.dataset} in {out / 'logs'}",
            flush=True,
        )
        if not exists(config.logs.dataset):
            done = collect(config.logs)
            print(f"     {done.episodes:,} episodes, {done.steps:,} steps", flush=True)
    if not jobs:
        return []
    print(f"{next(stages)}  skills and their prior, a model a seed -> {out / 'skills'}", flush=True)
    outcome = run_jobs(jobs, run_one, workers, "skills")
    if outcome.failed:
        raise UserError("; ".join(f"{name}: {why}" for name, why in outcome.failed.items()))
    if outcome.stopped:
        raise KeyboardInterrupt
    for job in jobs:
        result = read_result(job.folder)
        assert result is not None  # it is done
        print("\n".join(f"     {job.name}: {sentence}" for sentence in result["verdict"][:1]), flush=True)
    return outcome.done
