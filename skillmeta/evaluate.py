"""Evaluate agents on a split of a family, next to their brackets: the program behind `skillmeta evaluate`.

What each agent did with each seed is kept in OUT/parts, so that an interrupted evaluation goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path

import numpy as np

from skillmeta.config import check_file_name, to_plain
from skillmeta.environments import EnvsFactory, make_envs
from skillmeta.errors import ConfigError, UserError
from skillmeta.evaluation.adaptation import (
    Adaptation,
    Evaluation,
    RandomAgent,
    WithoutAdaptation,
    evaluate,
    join_seeds,
)
from skillmeta.evaluation.adaptation_page import write_adaptation_page
from skillmeta.finetune import Trained, load_trained
from skillmeta.rl.rollout import Agent
from skillmeta.rl.workers import Workers
from skillmeta.run.files import write_npz
from skillmeta.run.progress import Progress
from skillmeta.run.run import Run
from skillmeta.skills.model import SkillModel
from skillmeta.tasks.base import TaskConfig, TaskFamily, make_family


@dataclass(frozen=True)
class EvaluateConfig:
    """Which agents, on which tasks, for how long."""

    task: TaskConfig = field(default_factory=TaskConfig)  # its split is evaluated; `index` is of no matter
    agents: list[str] = field(default_factory=list)  # run folders, one a training seed; none: the brackets alone
    oracle: list[str] = field(
        default_factory=list
    )  # runs of meta-train with see_task=true: a bracket where no expert is
    name: str = "agent"  # what tables call them
    episodes: int = 2  # K, that are adapted on; K + 1 are run
    tasks: int | None = None  # only the first so many of the split
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])  # of resets; one agent folder is run with each of them
    sample: bool = False  # act by samples of the policy after exploration too, not by its mode
    processes: int = 1
    chunk: int = 16  # environments that share a policy's forward pass

    def __post_init__(self) -> None:
        if self.episodes < 0:
            raise ValueError(f"episodes is {self.episodes}; it must be at least 0")
        if self.tasks is not None and self.tasks < 1:
            raise ValueError(f"tasks is {self.tasks}; it must be at least 1")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds is {self.seeds}; some different numbers are expected")
        for what in ("agents", "oracle"):
            count = len(getattr(self, what))
            if count > 1 and count != len(self.seeds):
                raise ValueError(
                    f"{what} names {count} runs and there are {len(self.seeds)} seeds; name as many of both"
                )
        check_file_name(self.name, "name")
        if self.name in ("random", "oracle", "no_adaptation"):
            raise ValueError(f"name is {self.name!r}, which is a bracket's; choose another")


def run_evaluation(
    config: EvaluateConfig, folder: Path, command: str = "", quiet: bool = False, trust: bool = False
) -> Evaluation | None:
    """Run what is missing and write the page. Returns None if it was asked to stop before.

    Args:
        trust: import the modules that the runs under `agents` and `oracle` name; see `load_trained`.
    """
    family = make_family(config.task)
    tasks = family.tasks(config.task.split)[: config.tasks]

    trained, acting, each = load_agents(family, config, "agents", trust)
    skills = trained[0].skills if trained else None
    plan: list[tuple[str, EnvsFactory, list[Agent]]] = []
    if trained:
        plan.append((config.name, acting, each))
    oracle, seeing, oracles = load_agents(family, config, "oracle", trust)
    if oracle and not seeing.see_task:
        raise ConfigError("oracle: these agents do not see the task; train them with see_task=true")
    bound = make_envs(family, 1, SkillModel.load(skills) if skills else None).action_bound
    plan.append(("random", acting, [RandomAgent(bound)] * len(config.seeds)))
    if oracle:
        plan.append(("oracle", seeing, oracles))
    elif family.expert is not None:
        expert = EnvsFactory(config.task, expert=True)
        plan.append(("oracle", expert, [RandomAgent(np.ones(1))] * len(config.seeds)))
    if trained:
        plan.append(("no adaptation", acting, [WithoutAdaptation(agent) for agent in plan[0][2]]))

    results: dict[str, Adaptation] = {}
    with Run.open(folder, to_plain(config), command=command) as run:
        with Progress(len(plan) * len(config.seeds), folder.name, "trials", quiet=quiet) as progress:
            done = 0
            for name, factory, agents in plan:
                parts = []
                with Workers(factory, config.processes, config.chunk) as workers:
                    for seed, agent in zip(config.seeds, agents, strict=True):
                        if run.stop_requested:
                            return None
                        path = folder / "parts" / f"{name.replace(' ', '_')}-{seed}.npz"
                        one = partial(evaluate, agent, workers, tasks, config.episodes, seed, config.sample)
                        parts.append(kept(path, one))
                        done += 1
                        progress.update(done)
                results[name] = join_seeds(parts)
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
            training_steps=sum(t.env_steps for t in trained),
            notes=notes,
        )
        result = {"evaluation_steps": evaluation.summary()["evaluation_steps"]}
        run.finish(result, lambda: write_adaptation_page(folder, evaluation, run.command))
        return evaluation


def load_agents(
    family: TaskFamily, config: EvaluateConfig, what: str, trust: bool
) -> tuple[list[Trained], EnvsFactory, list[Agent]]:
    """The runs under `agents` or `oracle`, the environments that they act in, and an agent for each seed."""
    folders = getattr(config, what)
    trained = [
        load_trained(one, lambda skills, sees_task: make_envs(family, 1, skills, sees_task), trust) for one in folders
    ]
    if len({(t.skills, t.sees_task) for t in trained}) > 1:
        raise ConfigError(f"{what}: some act by other skills, or see more, than others; evaluate them apart")
    skills, sees_task = (trained[0].skills, trained[0].sees_task) if trained else (None, False)
    agents = [t.agent for t in trained] * (len(config.seeds) if len(trained) == 1 else 1)
    return trained, EnvsFactory(config.task, skills, sees_task), agents


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
