"""Evaluate agents on a split of a family, next to their reference agents: the program behind `skillmeta evaluate`.

What each agent did in each repeat is kept in OUT/parts, so that an interrupted evaluation resumes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from skillmeta.collect.failures import EnvironmentConfig, Failures
from skillmeta.collect.workers import Workers
from skillmeta.config import (
    NonNegativeInt,
    PositiveInt,
    build,
    check_file_name,
    checked,
    differences,
    to_plain,
)
from skillmeta.envs.make import EnvsFactory, make_envs
from skillmeta.envs.probe import examined
from skillmeta.errors import ConfigError
from skillmeta.evaluation.actors import NoAdaptation, RandomActor
from skillmeta.evaluation.adaptation import Adaptation, BenchmarkTable, Evaluation, evaluate, exploration_notes
from skillmeta.evaluation.records import part, paths_part, read_evaluation, read_part
from skillmeta.programs.beforehand import notes_on, trained_on, training_tasks
from skillmeta.programs.page import write_page
from skillmeta.programs.train import Trained, load_trained, paths, run_input
from skillmeta.programs.train_config import TrainConfig
from skillmeta.programs.train_config import complete_config as complete_training
from skillmeta.run.checkpoint import load_state, save_state
from skillmeta.run.files import write_npz
from skillmeta.run.identity import Identity
from skillmeta.run.progress import Progress
from skillmeta.run.run import Run
from skillmeta.skills.vae import SkillModel
from skillmeta.tasks.base import TaskConfig, TaskFamily, chosen_task, make_family, task_id
from skillmeta.types import Actor, Task, Trials

ORIGIN = "origin"  # the folder within OUT that has the fingerprints of the runs
RESERVED = ("random", "random skills", "oracle", "no adaptation")  # names of reference agents


@checked
class EvaluateConfig:
    """Which agents, on which tasks, for how long."""

    FORMER_KEYS: ClassVar[dict[str, str]] = {
        "seeds": "is now `evaluation_seed`, one number, and `repeats`, how often each task is evaluated; `agents` names one run a "
        "training seed"
    }

    task: TaskConfig = field(default_factory=TaskConfig)  # its split is evaluated; `index` is ignored
    agents: list[str] | dict[str, list[str]] = field(
        default_factory=list
    )  # run folders, one a training seed, or name: such
    oracle: list[str] = field(default_factory=list)  # runs with see_task=true: a reference agent where no expert is
    name: str = "agent"  # what tables call a single list of agents
    episodes: NonNegativeInt = 2  # K, that are adapted on; K + 1 are run
    tasks: PositiveInt | None = None  # only the first so many of the split
    evaluation_seed: NonNegativeInt = 0  # of resets and of what agents draw when they act; the same for every agent
    repeats: PositiveInt = 1  # trials of each agent in each task, with other resets; averaged within a training seed
    sample: bool = False  # act by samples of the policy after exploration too, not by its mode
    processes: PositiveInt | Literal["ray"] = 1  # that run environments; ray: of a cluster (docs/cluster.md)
    envs_per_batch: PositiveInt = 16  # environments that share a policy's forward pass
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)  # what is done where one fails

    def __post_init__(self) -> None:
        for name in [self.name, *self.named]:
            check_file_name(name, "name")
            if name.replace("_", " ") in RESERVED:
                raise ValueError(f"name is {name!r}, which is a reference agent's; choose another")
            if name in self.named and not self.named[name]:
                raise ValueError(f"agents.{name} is empty; name its runs, one a training seed")

    @property
    def named(self) -> dict[str, list[str]]:
        """Runs of each agent."""
        if isinstance(self.agents, dict):
            return self.agents
        return {self.name: self.agents} if self.agents else {}


@dataclass(frozen=True)
class Planned:
    """Actors that are called by one name, one a training seed, and the environments that each acts in."""

    actors: list[tuple[EnvsFactory, Actor[Any]]]
    training_seeds: tuple[int, ...] = ()  # none for an actor without training


def run_evaluation(
    config: EvaluateConfig, folder: Path, command: str = "", quiet: bool = False, trust: bool = False, page: bool = True
) -> Evaluation | None:
    """Run what is missing and write the page. Returns None if it was asked to stop before.

    Args:
        trust: import the modules that the runs under `agents` and `oracle` name; see `load_trained`.
        page: write the page too.
    """
    how = config.environment
    family = examined(make_family(config.task), config.task, how.step_seconds, not how.isolated)
    tasks = family.tasks(config.task.split)[: config.tasks]
    trained = {name: load_runs(family, folders, f"agents.{name}", trust) for name, folders in config.named.items()}
    oracle = load_runs(family, config.oracle, "oracle", trust)
    if not all(one.sees_task for one in oracle):
        raise ConfigError("oracle: these agents do not see the task; train them with see_task=true")
    plan, references = planned(config, family, trained, oracle)
    runs = {f"run {one}": run_input(one) for folders in [*config.named.values(), config.oracle] for one in folders}
    identity = Identity(complete_config(to_plain(config)), complete_config, inputs=runs)
    with Run.open(folder, to_plain(config), command=command, identity=identity) as run:
        check_origin(folder / ORIGIN, identity)
        failures = Failures(config.environment, folder)
        if not acted(plan, config, family, tasks, run, failures, quiet):
            return None
        result: dict[str, Any] = {
            "family": family.name,
            "split": config.task.split,
            "tasks": [task_id(task) for task in tasks],
            "groups": [family.group(task) for task in tasks],
            "actors": {name: len(one.actors) for name, one in plan.items()},
            "repeats": config.repeats,
            "training_seeds": {name: list(one.training_seeds) for name, one in plan.items()},
            "references": references,
            "training_steps": {name: [t.env_steps for t in runs] for name, runs in trained.items()},
            "new_tasks": about_new_tasks(family, config.task.split),
            "reports_success": family.reports_success,
            "notes": [*notes(config, family, tasks, trained, oracle), *failures.note()],
            "benchmark": None,
        }
        parts = {
            name: [
                read_part(part(folder, name, i, r), len(tasks), config.episodes + 1)
                for i in range(len(one.actors))
                for r in range(config.repeats)
            ]
            for name, one in plan.items()
        }
        result["evaluation_steps"] = sum(int(one.env_steps.sum()) for every in parts.values() for one in every)
        if family.benchmark_score is not None:
            result["benchmark"] = asdict(benchmark_table(family, parts, result["groups"]))
        run.finish(result, (lambda: write_page([folder], family=family)) if page else None)
        return read_evaluation(folder)


def check_origin(folder: Path, identity: Identity) -> None:
    """Keep what an evaluation is of, as checkpoints do, or hold it against what was kept: its parts are of the same agents.

    Raises UserError if a run has changed since.
    """
    if folder.exists():
        identity.check(folder, load_state(folder)[1])
    else:
        save_state(folder, {}, identity.meta())


def complete_config(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A config with every default, without what is done about failures, which may change from session to session."""
    full: dict[str, Any] = to_plain(build(EvaluateConfig, plain))
    del full["environment"]
    return full


def planned(
    config: EvaluateConfig, family: TaskFamily, trained: dict[str, list[Trained]], oracle: list[Trained]
) -> tuple[dict[str, Planned], dict[str, dict[str, str]]]:
    """The agents and what stands beside them, by name; and which of those each agent is compared with."""

    def acting(one: Trained) -> EnvsFactory:
        return EnvsFactory(config.task, one.skills, one.sees_task)

    plan = {name: Planned([(acting(t), t.actor) for t in runs], seeds_of(runs)) for name, runs in trained.items()}
    references: dict[str, dict[str, str]] = {name: {} for name in trained}
    spaces: dict[tuple[str | None, ...], str] = {}  # skills of the runs -> the name of random actions there
    for name, runs in trained.items():
        skills = tuple(dict.fromkeys(t.skills for t in runs))
        if skills not in spaces:
            called = "random" if skills == (None,) else "random skills"
            spaces[skills] = called if called not in spaces.values() else f"{called} of {name}"
            seeds = seeds_of(runs) if len(skills) > 1 else ()  # a model a seed
            plan[spaces[skills]] = Planned([random_actor(config, family, one) for one in skills], seeds)
        references[name]["random"] = spaces[skills]
    if not trained:
        plan["random"] = Planned([random_actor(config, family, None)])
    if oracle:
        plan["oracle"] = Planned([(acting(t), t.actor) for t in oracle], seeds_of(oracle))
    elif family.expert is not None:
        plan["oracle"] = Planned([(EnvsFactory(config.task, expert=True), RandomActor(np.ones(1)))])
    if family.bayes_optimal is not None:
        plan["Bayes-optimal"] = Planned([(EnvsFactory(config.task), family.bayes_optimal(config.episodes + 1))])
    for name, runs in trained.items():
        if runs[0].actor.begin(1, torch.Generator()) is None:
            continue  # it has no belief: without adaptation it would be the same
        called = "no adaptation" if len(trained) == 1 else f"{name}, no adaptation"
        plan[called] = Planned([(acting(t), NoAdaptation(t.actor)) for t in runs], seeds_of(runs))
        references[name]["no adaptation"] = called
    return plan, references


def random_actor(config: EvaluateConfig, family: TaskFamily, skills: str | None) -> tuple[EnvsFactory, Actor[Any]]:
    bound = make_envs(family, 1, SkillModel.load(skills) if skills else None).spec.action_bound
    return EnvsFactory(config.task, skills), RandomActor(bound)


def acted(
    plan: dict[str, Planned],
    config: EvaluateConfig,
    family: TaskFamily,
    tasks: Sequence[Any],
    run: Run,
    failures: Failures,
    quiet: bool,
) -> bool:
    """Make the parts that are missing. Returns False if the run was asked to stop before all were there."""
    total, done = sum(len(one.actors) for one in plan.values()) * config.repeats, 0
    with Progress(total, run.folder.name, "trials", quiet=quiet) as progress:
        for name, one in plan.items():
            for number, (envs, actor) in enumerate(one.actors):
                with Workers(envs, config.processes, config.envs_per_batch, failures) as workers:
                    for repeat in range(config.repeats):
                        if run.stop_requested:
                            return False
                        path = part(run.folder, name, number, repeat)
                        if not path.exists():
                            path.parent.mkdir(parents=True, exist_ok=True)
                            how = (config.episodes, config.evaluation_seed, config.sample, repeat)
                            keep = partial(keep_paths, run.folder, name, family, actor.rollouts)
                            first = name in config.named and number == repeat == 0
                            watch = keep if first and family.positions is not None else None
                            made = evaluate(actor, workers, tasks, *how, watch)
                            write_npz(path, {f.name: getattr(made, f.name) for f in fields(Adaptation)})
                        done += 1
                        progress.update(done)
                        run.report_progress(done / total, name)
    return True


def keep_paths(folder: Path, name: str, family: TaskFamily, rollouts: int, trials: Trials) -> None:
    """Write where an agent went in the first task."""
    named: dict[str, np.ndarray] = {}
    for k in range(trials.returns.shape[1]):
        each = paths(family, trials.episodes(k).rows(slice(rollouts)))
        named |= {f"{k}/{i}": path for i, path in enumerate(each)}
    write_npz(paths_part(folder, name), named)


def notes(
    config: EvaluateConfig,
    family: TaskFamily,
    tasks: Sequence[Task],
    trained: Mapping[str, Sequence[Trained]],
    oracle: list[Trained],
) -> list[str]:
    """What a reader has to know about the split, the success and the oracle."""
    seen = frozenset[Task]().union(*(tasks_of(one, config.task, family) for runs in trained.values() for one in runs))
    said = [*trained_on(tasks, seen, config.task.split), *notes_on(family)]
    for name, runs in trained.items():
        said += [f"{name}: {note}" for note in exploration_notes(runs[0].actor, config.episodes, "episodes")]
    if family.same_tasks:
        said.append(f"{family.name}, as it is configured, trains and tests on the same tasks, by definition.")
    elif config.task.split in family.training_splits and not seen:
        said.append(f"{config.task.split!r} is a training split: its scores say nothing about new tasks.")
    if oracle:
        said.append("The oracle is an agent trained with the task in view: " + ", ".join(config.oracle) + ".")
    elif family.expert is None:
        said.append("No oracle is shown: the family has no expert, and `oracle` names no run.")
    return said


def tasks_of(run: Trained, evaluated: TaskConfig, family: TaskFamily) -> frozenset[Task]:
    """The fixed tasks that a run was trained on, where they can be distinguished from those of the family that is evaluated."""
    own = run.config.task
    if own.family != evaluated.family:
        return frozenset()
    if own.options != evaluated.options:
        if family.name == "gym":  # whose options may name modules; those of a run's folder are not imported here
            return frozenset()
        family = make_family(own)
    return training_tasks(family, own, chosen_task(family, own) if run.config.kind == "finetune" else None)


def benchmark_table(family: TaskFamily, parts: dict[str, list[Adaptation]], groups: list[str]) -> BenchmarkTable:
    """The benchmark's own score, a mean over training seeds, repeats and rollouts, of the episodes after exploration."""
    score = family.benchmark_score
    assert score is not None
    values = {}
    for name, every in parts.items():
        if every[0].explored.all():
            continue
        stated = [
            score.score(steps[:, ~one.explored], success[:, ~one.explored], groups)
            for one in every
            for steps, success in zip(one.steps_to_success[0, 0], one.success[0, 0], strict=True)
        ]
        values[name] = float(np.mean(stated))
    return BenchmarkTable(score.title, score.text, score.label, values)


def about_new_tasks(family: TaskFamily, split: str) -> bool:
    """Whether scores on a split are a sample of those on new tasks, and intervals are to say so: where the family draws its tasks
    and the split is held out from training. Otherwise scores are about these very tasks."""
    return family.draw_task is not None and not family.same_tasks and split not in family.training_splits


def load_runs(family: TaskFamily, folders: Sequence[str], what: str, trust: bool) -> list[Trained]:
    """The runs in some folders, one a training seed."""
    trained = [
        load_trained(one, lambda skills, sees_task: make_envs(family, 1, skills, sees_task), trust) for one in folders
    ]
    if len({(t.skills is None, t.sees_task) for t in trained}) > 1:
        raise ConfigError(f"{what}: some act by skills, or see the task, and others do not; evaluate them apart")
    for folder, one in zip(folders[1:], trained[1:], strict=True):
        if changed := differences(method_of(trained[0].config), method_of(one.config)):
            raise ConfigError(
                f"{what}: {folders[0]} and {folder} are no training seeds of one method ({'; '.join(changed[:3])}); give each a "
                f"name of its own, agents={{one: [{folders[0]}], other: [{folder}]}}"
            )
    seeds = seeds_of(trained)
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"{what}: training seeds of the runs are {list(seeds)}; name one run of each seed")
    return trained


def method_of(config: TrainConfig) -> dict[str, Any]:
    """What training seeds of one method have in common; each may have a skill model and a start of its own."""
    full = complete_training(to_plain(config), config.algorithm["name"])
    for key in ("seed", "skills", "processes", "envs_per_batch", "evaluation", "checkpoint_seconds"):
        del full[key]
    if full["start"] is not None:
        del full["start"]["run"]
    return full


def seeds_of(trained: Sequence[Trained]) -> tuple[int, ...]:
    return tuple(t.training_seed for t in trained)


def scores_text(evaluation: Evaluation) -> str:
    """A few lines for the terminal."""
    score, label = ("success", "success at any step") if evaluation.succeeds else ("returns", "return")
    lines = []
    for name in evaluation.results:
        every, returns = evaluation.estimates(name, score), evaluation.estimates(name, "returns")
        first, last = (f" ({how})" if (how := evaluation.how(name, k)) else "" for k in (0, evaluation.episodes - 1))
        ends = f"episode 0{first} {every[0].text()}, last{last} {every[-1].text()}"
        lines.append(f"{name:<14} {label}: {ends}; return of the last {returns[-1].text()}")
    return "\n".join(lines)
