"""Meta-train an agent on a family's training tasks: the program behind `skillmeta meta-train`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from skillmeta.collect.meta import MetaCollector
from skillmeta.collect.workers import Workers
from skillmeta.config import build, module_of, to_plain
from skillmeta.envs.make import EnvsFactory, make_envs
from skillmeta.errors import ConfigError
from skillmeta.run.checkpoint import save_state
from skillmeta.run.progress import Progress
from skillmeta.run.run import RUN_FORMAT, Run, read_metrics
from skillmeta.seeds import Seeds
from skillmeta.skills.vae import SkillModel
from skillmeta.tasks.base import TaskConfig, make_family
from skillmeta.types import Envs

AGENT = "agent"  # the folder of a finished run that holds what acts
SCORES = ("return", "return_first", "return_last", "success_last")  # of an iteration; the last one's end the result


@dataclass(frozen=True)
class MetaTrainConfig:
    """One method on one family with one seed."""

    task: TaskConfig = field(
        default_factory=lambda: TaskConfig(split="train")
    )  # what it is trained on; "any": fresh draws
    skills: str | None = None  # folder of a skill model: actions are skills; null: the environment's own
    see_task: bool = False  # append the task's features to what is observed: an oracle, to be a bracket of others
    algorithm: dict[str, Any] = field(default_factory=lambda: {"name": "rl2"})
    env_steps: int = 1_000_000  # primitive steps of training
    processes: int = 1
    chunk: int = 256  # environments that share a policy's forward pass
    checkpoint_seconds: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("env_steps", "processes", "chunk", "checkpoint_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if "name" not in self.algorithm:
            raise ValueError("algorithm has no name; say which one, e.g. algorithm: {name: rl2}")


def make_meta_agent(config: MetaTrainConfig, envs: Envs, skills: SkillModel | None) -> Any:
    """The learner, fitted to environments."""
    options = dict(config.algorithm)
    module = module_of("algorithms", options.pop("name"), "algorithm.name")
    return module.Agent(
        build(module.Config, options, "algorithm"),
        envs.observation_dim,
        envs.action_bound,
        discrete=envs.discrete,
        prior=skills.prior if skills else None,
        normalize=skills.normalizer if skills else None,
        seeds=Seeds(config.seed),
    )


def meta_train(config: MetaTrainConfig, folder: Path, command: str = "", quiet: bool = False) -> dict[str, Any] | None:
    """Run, or continue, one run in a folder. Returns its result, or None if it was asked to stop before."""
    torch.set_num_threads(1)
    family, split = make_family(config.task), config.task.split
    family.require_training_split(split)
    skills = SkillModel.load(config.skills) if config.skills else None
    probe = make_envs(family, 1, skills, config.see_task)
    agent = make_meta_agent(config, probe, skills)  # what is wrong is said before the folder is taken
    if getattr(agent.config, "shaped_reward", False) and family.shaped_reward is None:
        raise ConfigError(
            f"algorithm.shaped_reward: {family.name}, as it is configured, has no dense reward to learn from"
        )
    probe.close()
    with Run.open(folder, to_plain(config), command=command) as run:
        if run.result is not None:
            return run.finish(run.result, lambda: write_page(folder))
        seconds, started = 0.0, time.monotonic()
        with Workers(
            EnvsFactory(config.task, config.skills, config.see_task), config.processes, config.chunk
        ) as workers:
            collect = MetaCollector(
                workers,
                lambda generator: family.sample(generator, split),
                Seeds(config.seed),
                config.env_steps,
                family.shaped_reward,
            )
            state = run.restore()
            if state is not None:
                agent.restore(state["agent"])
                collect.restore(state["collect"])
                seconds = float(state["seconds"])
            saved = time.monotonic()

            def save() -> None:
                told = seconds + time.monotonic() - started
                run.checkpoint(collect.env_steps, {"agent": agent.state(), "collect": collect.state(), "seconds": told})

            with Progress(config.env_steps, folder.name, "steps", quiet=quiet) as progress:
                while not collect.spent:
                    if run.stop_requested:
                        save()
                        return None
                    batch, metrics = agent.iterate(collect)
                    returns = batch.trials.returns.mean(0)
                    scores = {
                        "trials": len(batch.trials.returns),
                        "return": float(returns.mean()),
                        "return_first": float(returns[0]),
                        "return_last": float(returns[-1]),
                        "success_last": float(batch.trials.succeeded[:, -1].mean()),
                    }
                    run.log("iteration", **collect.state(), **scores, **metrics)
                    progress.update(min(collect.env_steps, config.env_steps), last=scores["return_last"])
                    run.report_progress(collect.env_steps / config.env_steps, f"{collect.env_steps:,} steps")
                    if time.monotonic() - saved > config.checkpoint_seconds:
                        save()
                        saved = time.monotonic()
            save()
        seconds += time.monotonic() - started
        last = read_metrics(folder)[-1]  # not `scores`: after its last checkpoint a run resumes with nothing left to do
        result = {**collect.state(), "updates": agent.updates, "seconds": seconds, **{key: last[key] for key in SCORES}}
        save_state(
            folder / AGENT, {"agent": agent.acting_state(), "env_steps": collect.env_steps}, {"run_format": RUN_FORMAT}
        )
        return run.finish(result, lambda: write_page(folder))


def write_page(folder: Path) -> None:
    """`report.html`, where matplotlib is installed; without it the numbers are in metrics.jsonl."""
    try:
        from skillmeta.reports.meta_page import read_meta_run, write_meta_page
    except ImportError as error:
        if error.name != "matplotlib":
            raise
        return
    write_meta_page(folder, [read_meta_run(folder)], "")
