"""Evaluate agents on a split of a family, next to their reference agents: the program behind `skillmeta evaluate`.

What each agent did in each repeat is kept in OUT/parts, so that an interrupted evaluation resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from skillmeta.collect.workers import Workers
from skillmeta.config import NonNegativeInt, PositiveInt, check_file_name, checked, to_plain
from skillmeta.envs.make import EnvsFactory, make_envs
from skillmeta.errors import ConfigError, UserError
from skillmeta.evaluation.actors import NoAdaptation, RandomActor
from skillmeta.evaluation.adaptation import Adaptation, Evaluation, evaluate, joined
from skillmeta.programs.train import Trained, load_trained
from skillmeta.reports.adaptation_page import write_adaptation_page
from skillmeta.run.files import write_npz
from skillmeta.run.progress import Progress
from skillmeta.run.run import Run
from skillmeta.skills.vae import SkillModel
from skillmeta.tasks.base import TaskConfig, TaskFamily, make_family
from skillmeta.types import Actor


@checked
class EvaluateConfig:
    """Which agents, on which tasks, for how long."""

    FORMER_KEYS: ClassVar[dict[str, str]] = {
        "seeds": "is now `evaluation_seed`, one number, and `repeats`, how often each task is evaluated; `agents` names one run a "
        "training seed"
    }

    task: TaskConfig = field(default_factory=TaskConfig)  # its split is evaluated; `index` is ignored
    agents: list[str] = field(default_factory=list)  # run folders, one a training seed; none: reference agents alone
    oracle: list[str] = field(default_factory=list)  # runs with see_task=true: a reference agent where no expert is
    name: str = "agent"  # what tables call them
    episodes: NonNegativeInt = 2  # K, that are adapted on; K + 1 are run
    tasks: PositiveInt | None = None  # only the first so many of the split
    evaluation_seed: NonNegativeInt = 0  # of resets and of what agents draw when they act; the same for every agent
    repeats: PositiveInt = 1  # trials of each agent in each task, with other resets; averaged within a training seed
    sample: bool = False  # act by samples of the policy after exploration too, not by its mode
    processes: PositiveInt = 1  # that run environments; no result depends on it
    chunk: PositiveInt = 16  # environments that share a policy's forward pass

    def __post_init__(self) -> None:
        check_file_name(self.name, "name")
        if self.name in ("random", "oracle", "no_adaptation"):
            raise ValueError(f"name is {self.name!r}, which is a reference agent's; choose another")


def run_evaluation(
    config: EvaluateConfig, folder: Path, command: str = "", quiet: bool = False, trust: bool = False
) -> Evaluation | None:
    """Run what is missing and write the page. Returns None if it was asked to stop before.

    Args:
        trust: import the modules that the runs under `agents` and `oracle` name; see `load_trained`.
    """
    family = make_family(config.task)
    tasks = family.tasks(config.task.split)[: config.tasks]

    trained, acting = load_agents(family, config, "agents", trust)
    skills = trained[0].skills if trained else None
    plan: list[Planned] = []
    if trained:
        plan.append(Planned(config.name, acting, [t.actor for t in trained], seeds_of(trained)))
    oracle, seeing = load_agents(family, config, "oracle", trust)
    if oracle and not seeing.see_task:
        raise ConfigError("oracle: these agents do not see the task; train them with see_task=true")
    bound = make_envs(family, 1, SkillModel.load(skills) if skills else None).spec.action_bound
    plan.append(Planned("random", acting, [RandomActor(bound)]))
    if oracle:
        plan.append(Planned("oracle", seeing, [t.actor for t in oracle], seeds_of(oracle)))
    elif family.expert is not None:
        plan.append(Planned("oracle", EnvsFactory(config.task, expert=True), [RandomActor(np.ones(1))]))
    if trained:
        without: list[Actor[Any]] = [NoAdaptation(t.actor) for t in trained]
        plan.append(Planned("no adaptation", acting, without, seeds_of(trained)))

    results: dict[str, Adaptation] = {}
    with Run.open(folder, to_plain(config), command=command) as run:
        total = sum(len(one.agents) for one in plan) * config.repeats
        with Progress(total, folder.name, "trials", quiet=quiet) as progress:
            done = 0
            for one in plan:
                each = []
                with Workers(one.envs, config.processes, config.chunk) as workers:
                    for number, agent in enumerate(one.agents):
                        parts = []
                        for repeat in range(config.repeats):
                            if run.stop_requested:
                                return None
                            path = folder / "parts" / f"{one.name.replace(' ', '_')}-{number}-{repeat}.npz"
                            arguments = (config.episodes, config.evaluation_seed, config.sample, repeat)
                            parts.append(kept(path, partial(evaluate, agent, workers, tasks, *arguments)))
                            done += 1
                            progress.update(done)
                        each.append(joined(parts, 1))
                results[one.name] = joined(each, 0)
        notes: tuple[str, ...] = ()
        if family.same_tasks:
            notes = (f"{family.name}, as it is configured, trains and tests on the same tasks, by definition.",)
        elif config.task.split in family.training_splits:
            notes = (f"{config.task.split!r} is a training split: its scores say nothing about new tasks.",)
        if oracle:
            notes += ("The oracle is an agent trained with the task in view: " + ", ".join(config.oracle) + ".",)
        elif family.expert is None:
            notes += ("The family has no expert and no oracle was named, so there is none beside the agent.",)
        evaluation = Evaluation(
            family=family.name,
            split=config.task.split,
            tasks=tasks,
            groups=tuple(family.group(task) for task in tasks),
            agent=config.name if trained else "",
            results=results,
            training_seeds={one.name: one.training_seeds for one in plan},
            training_steps=sum(t.env_steps for t in trained),
            new_tasks=about_new_tasks(family, config.task.split),
            notes=notes,
        )
        result = {"evaluation_steps": evaluation.summary()["evaluation_steps"]}
        run.finish(result, lambda: write_adaptation_page(folder, evaluation, run.command))
        return evaluation


@dataclass(frozen=True)
class Planned:
    """Agents that are called by one name, an agent a training seed, and the environments that they act in."""

    name: str
    envs: EnvsFactory
    agents: list[Actor[Any]]
    training_seeds: tuple[int, ...] = ()  # none for an agent without training


def about_new_tasks(family: TaskFamily, split: str) -> bool:
    """Whether scores on a split are a sample of those on new tasks, and intervals are to say so: where the family draws its tasks
    and the split is held out from training. Otherwise scores are about these very tasks."""
    return family.draw_task is not None and not family.same_tasks and split not in family.training_splits


def load_agents(
    family: TaskFamily, config: EvaluateConfig, what: str, trust: bool
) -> tuple[list[Trained], EnvsFactory]:
    """The runs under `agents` or `oracle`, and the environments that they act in."""
    folders = getattr(config, what)
    trained = [
        load_trained(one, lambda skills, sees_task: make_envs(family, 1, skills, sees_task), trust) for one in folders
    ]
    if len({(t.skills, t.sees_task) for t in trained}) > 1:
        raise ConfigError(f"{what}: some act by other skills, or see more, than others; evaluate them apart")
    seeds = seeds_of(trained)
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"{what}: training seeds of the runs are {list(seeds)}; name one run of each seed")
    skills, sees_task = (trained[0].skills, trained[0].sees_task) if trained else (None, False)
    return trained, EnvsFactory(config.task, skills, sees_task)


def seeds_of(trained: Sequence[Trained]) -> tuple[int, ...]:
    return tuple(t.training_seed for t in trained)


def kept(path: Path, make: Callable[[], Adaptation]) -> Adaptation:
    """What is in the file, or what `make` returns, written there whole. Raises UserError for a damaged file."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = make()
        write_npz(path, {f.name: getattr(made, f.name) for f in fields(Adaptation)})
    try:
        with np.load(path, allow_pickle=False) as archive:
            return Adaptation(**{f.name: archive[f.name] for f in fields(Adaptation)})
    except Exception as error:  # numpy and zipfile raise half a dozen kinds
        raise UserError(f"{path}: is damaged ({type(error).__name__}); delete it and run the command again") from None
