"""Learn one task: the loop that every downstream run goes through, resumable to the bit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from skillmeta.collect.episodes import Collector, episode
from skillmeta.config import build, first_line, module_of, read_yaml, to_plain
from skillmeta.envs.make import make_envs
from skillmeta.errors import UserError
from skillmeta.run.checkpoint import load_state, save_state
from skillmeta.run.files import write_npz
from skillmeta.run.progress import Progress
from skillmeta.run.run import RUN_FORMAT, Run, check_run_format
from skillmeta.seeds import Seeds
from skillmeta.skills.vae import SkillModel
from skillmeta.tasks.base import TaskConfig, TaskFamily, chosen_task, make_family, task_id
from skillmeta.trust import check_links, check_modules
from skillmeta.types import Envs, Episodes

AGENT = "agent"  # the folder of a finished run that holds what acts
EARLY_EPISODES = 5  # their paths are kept for the pictures


@dataclass(frozen=True)
class EvaluationConfig:
    """How the trained policy is judged."""

    episodes: int = 20

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"episodes is {self.episodes}; at least 1 is needed")


@dataclass(frozen=True)
class FinetuneConfig:
    """One method on one task with one seed."""

    task: TaskConfig = field(default_factory=TaskConfig)
    skills: str | None = None  # folder of a skill model; null acts in the environment's own actions
    skill_prior: str = "state"  # state: p(z|s); marginal: one Gaussian for all states, a reference
    algorithm: dict[str, Any] = field(default_factory=lambda: {"name": "sac"})
    env_steps: int = 100_000  # primitive steps, all methods alike
    max_episodes: int | None = None  # stop after this many episodes even if steps are left
    num_envs: int = 1
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint_seconds: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("env_steps", "num_envs", "checkpoint_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.skill_prior not in ("state", "marginal"):
            raise ValueError(f"skill_prior is {self.skill_prior!r}; choose state or marginal")
        if self.skill_prior != "state" and self.skills is None:
            raise ValueError(
                f"skill_prior is {self.skill_prior!r} and skills is null; name a skill model, or leave it out"
            )
        if "name" not in self.algorithm:
            raise ValueError("algorithm has no name; say which one, e.g. algorithm: {name: sac}")


def make_agent(config: FinetuneConfig, envs: Envs, skills: SkillModel | None, seeds: Seeds) -> Any:
    options = dict(config.algorithm)
    module = module_of("algorithms", options.pop("name"), "algorithm.name")
    prior = None
    if skills is not None:
        prior = skills.prior if config.skill_prior == "state" else skills.marginal_prior
    return module.Agent(
        build(module.Config, options, "algorithm"),
        envs.observation_dim,
        envs.action_bound,
        discrete=envs.discrete,
        prior=prior,
        normalize=skills.normalizer if skills else None,
        seeds=seeds,
    )


def finetune(config: FinetuneConfig, folder: Path, command: str = "", quiet: bool = False) -> dict[str, Any] | None:
    """Run, or continue, one fine-tuning run in a folder. Returns its result, or None if it was asked to stop before."""
    torch.set_num_threads(1)
    algorithm = dict(config.algorithm)
    build(module_of("algorithms", algorithm.pop("name"), "algorithm.name").Config, algorithm, "algorithm")
    family = make_family(config.task)
    task = chosen_task(family, config.task)  # what is wrong is said before the folder is taken
    with Run.open(folder, to_plain(config), command=command) as run:
        if run.result is not None:
            return run.finish(run.result)
        skills = SkillModel.load(config.skills) if config.skills else None
        envs = make_envs(family, config.num_envs, skills)
        seeds = Seeds(config.seed, task_id(task))
        agent = make_agent(config, envs, skills, seeds)
        collect = Collector(envs, seeds, config.env_steps, [task] * config.num_envs)
        early: list[np.ndarray] = []
        seconds = restore(run, agent, collect, early)
        started = saved = time.monotonic()

        with Progress(config.env_steps, folder.name, "steps", quiet=quiet) as progress:
            while not finished(config, collect):
                if run.stop_requested:
                    checkpoint(run, agent, collect, early, seconds + time.monotonic() - started)
                    return None
                episodes, metrics = agent.iterate(collect)
                if len(early) < EARLY_EPISODES:
                    early.extend(paths(family, episodes))
                log(run, collect, agent, episodes, metrics)
                success = float(episodes.succeeded.mean())
                progress.update(min(collect.env_steps, config.env_steps), success=success, **shown(metrics))
                run.report_progress(
                    fraction(config, collect), f"{collect.env_steps:,} steps, {collect.episodes} episodes"
                )
                if time.monotonic() - saved > config.checkpoint_seconds:
                    checkpoint(run, agent, collect, early, seconds + time.monotonic() - started)
                    saved = time.monotonic()
        checkpoint(run, agent, collect, early, seconds + time.monotonic() - started)
        result = {
            **collect.state(),
            "updates": agent.updates,
            "seconds": seconds + time.monotonic() - started,
            **evaluate(agent, envs, family, task, config, seeds, run, early),
        }
        save_state(
            run.folder / AGENT,
            {"agent": agent.acting_state(), "env_steps": collect.env_steps},
            {"run_format": RUN_FORMAT},
        )
        envs.close()
        return run.finish(result)


@dataclass(frozen=True)
class Trained:
    """What acts of a finished run."""

    agent: Any  # an actor, see `skillmeta.types.Agent`
    env_steps: int  # that training took
    training_seed: int
    skills: str | None
    sees_task: bool = False  # the task's features are part of what it observes


def load_trained(folder: str | Path, make: Callable[[SkillModel | None, bool], Envs], trust: bool = False) -> Trained:
    """The agent of a finished run, of `finetune` or `meta_train`.

    Args:
        make: the environments that it shall act in, given its skills and whether it sees the task.
        trust: import the module that the run's config names as its algorithm, where that is not part of skillmeta.

    Raises UserError for a folder that holds no finished run, one whose agent does not fit the environments, or one that names a
    module of its own without `trust`.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").exists():
        raise UserError(f"{folder}: holds no run; name the --out of `skillmeta finetune` or `skillmeta meta-train`")
    if not (folder / AGENT).exists():
        raise UserError(f"{folder}: the run is not finished; run its command again first")
    check_links(folder, trust)
    node = read_yaml(folder / "config.yaml")
    check_modules({"algorithm": node.get("algorithm")}, folder / "config.yaml", trust)
    state, meta = load_state(folder / AGENT)
    check_run_format(folder / AGENT, meta)
    skills = SkillModel.load(node["skills"]) if node.get("skills") else None
    sees_task = bool(node.get("see_task", False))
    envs = make(skills, sees_task)
    agent: Any
    if "max_episodes" in node:
        config = build(FinetuneConfig, node, str(folder / "config.yaml"))
        agent = make_agent(config, envs, skills, Seeds(config.seed))
    else:
        from skillmeta.programs.meta_train import MetaTrainConfig, make_meta_agent

        agent = make_meta_agent(build(MetaTrainConfig, node, str(folder / "config.yaml")), envs, skills)
    try:
        agent.load_acting(state["agent"])
        env_steps = int(state["env_steps"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{folder / AGENT}: holds no agent of its algorithm ({error!r}); run its command again"
        ) from None
    except RuntimeError as error:
        raise UserError(
            f"{folder}: its agent was trained on other dimensions than {envs.observation_dim} observed numbers and "
            f"{len(envs.action_bound)} actions; use a family like its own ({first_line(error)})"
        ) from None
    return Trained(agent.actor(), env_steps, int(node["seed"]), node.get("skills"), sees_task)


def finished(config: FinetuneConfig, collect: Collector) -> bool:
    return collect.spent or (config.max_episodes is not None and collect.episodes >= config.max_episodes)


def fraction(config: FinetuneConfig, collect: Collector) -> float:
    by_episodes = collect.episodes / config.max_episodes if config.max_episodes else 0.0
    return max(collect.env_steps / config.env_steps, by_episodes)


def log(run: Run, collect: Collector, agent: Any, episodes: Episodes, metrics: dict[str, float]) -> None:
    """A row for every episode, and one for the updates that followed."""
    bill = collect.state()
    for i in range(len(episodes.returns)):
        values = {
            "return": float(episodes.returns[i]),
            "success": int(episodes.succeeded[i]),
            "length": int(episodes.lengths[i]),
        }
        number = bill["episodes"] - len(episodes.returns) + i + 1
        run.log("episode", **{**bill, "episodes": number}, **values)
    if metrics:
        run.log("update", **bill, updates=agent.updates, **metrics)


def shown(metrics: dict[str, float]) -> dict[str, float]:
    return {"divergence": metrics["prior/divergence"]} if "prior/divergence" in metrics else {}


def evaluate(
    agent: Any,
    envs: Envs,
    family: TaskFamily,
    task: Any,
    config: FinetuneConfig,
    seeds: Seeds,
    run: Run,
    early: list[np.ndarray],
) -> dict[str, float]:
    """Judge the final policy as it samples and by its mode, on seeds of their own; nothing is learned from it.

    `success` and `return` are the sampled policy's, the one that was trained; `mode_*` those of its mode.
    """
    scores: dict[str, float] = {"num_episodes": config.evaluation.episodes}
    final: list[np.ndarray] = []
    for prefix, explore in (("", True), ("mode_", False)):
        successes, returns = [], []
        for done in evaluation_episodes(agent, envs, task, config, seeds, explore):
            successes.extend(done.succeeded.tolist())
            returns.extend(done.returns.tolist())
            if explore and len(final) < EARLY_EPISODES:
                final.extend(paths(family, done))
        count = config.evaluation.episodes
        scores |= {
            f"{prefix}success": float(np.mean(successes[:count])),
            f"{prefix}return": float(np.mean(returns[:count])),
        }
    named = {f"early_{i}": path for i, path in enumerate(early)} | {f"final_{i}": path for i, path in enumerate(final)}
    write_npz(run.folder / "trajectories.npz", named)
    return scores


def evaluation_episodes(
    agent: Any, envs: Envs, task: Any, config: FinetuneConfig, seeds: Seeds, explore: bool
) -> Iterator[Episodes]:
    for first in range(0, config.evaluation.episodes, envs.num):
        resets = seeds.stream("evaluation_resets", first).integers(envs.num).tolist()
        generator = seeds.stream("evaluation_acting", first).torch()
        belief = agent.begin(envs.num, generator)
        done, _ = episode(agent, envs, belief, resets, generator, explore=explore, tasks=[task] * envs.num)
        yield done


def paths(family: TaskFamily, episodes: Episodes) -> list[np.ndarray]:
    """Where each episode went, [T, 2] and at most 200 points; nothing for a family that has no positions."""
    if family.positions is None:
        return []
    found = []
    for i, valid in enumerate(episodes.valid):
        where = family.positions(episodes.observation[i, : int(valid.sum()) + 1])
        found.append(where[:: max(1, len(where) // 200)].astype(np.float32))
    return found


def checkpoint(run: Run, agent: Any, collect: Collector, early: list[np.ndarray], seconds: float) -> None:
    run.checkpoint(
        collect.env_steps,
        {
            "agent": agent.state(),
            "collect": collect.state(),
            "early": {str(i): path for i, path in enumerate(early)},
            "seconds": seconds,
        },
    )


def restore(run: Run, agent: Any, collect: Collector, early: list[np.ndarray]) -> float:
    """Continue from the newest checkpoint, if there is one. Returns the seconds that the run has taken so far."""
    state = run.restore()
    if state is None:
        return 0.0
    agent.restore(state["agent"])
    collect.restore(state["collect"])
    early.extend(np.asarray(state["early"][str(i)]) for i in range(len(state["early"])))
    return float(state["seconds"])
