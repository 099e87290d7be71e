"""Train one learner: the program behind `skillmeta finetune` and `skillmeta meta-train`.

Both are one loop on one kind of config. Fine-tuning is on one task, meta-training on tasks drawn from a split; any algorithm takes
either.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from skillmeta.collect.failures import Failures
from skillmeta.collect.source import Budget, OnlineSource
from skillmeta.collect.workers import Workers
from skillmeta.config import (
    first_line,
    read_yaml,
    to_plain,
)
from skillmeta.envs.make import EnvsFactory, TaskSeen, make_envs
from skillmeta.envs.probe import examined
from skillmeta.envs.skill_space import SkillEnvs
from skillmeta.errors import ConfigError, UserError
from skillmeta.evaluation.adaptation import exploration_notes, final_scores, held_out_scores
from skillmeta.programs.beforehand import (
    action_notes,
    check_memory,
    continued_notes,
    expected_notes,
    name_notes,
    range_notes,
    replay_bytes,
    result_notes,
    too_large,
    trained_on,
    training_tasks,
)
from skillmeta.programs.own_learner import check_learner, check_signature
from skillmeta.programs.page import write_page
from skillmeta.programs.start import StartedLearner
from skillmeta.programs.train_config import TrainConfig, algorithm_of, complete_config, config_of_run
from skillmeta.reading import verify
from skillmeta.run.checkpoint import load_state, save_state
from skillmeta.run.device import CPU, device_of, move, placed
from skillmeta.run.files import write_npz
from skillmeta.run.identity import Identity, Input, check_inputs, check_run_format, saved_state, shapes_of
from skillmeta.run.loop import Evaluation, Training, run_loop
from skillmeta.run.parts import restore_parts, state_of
from skillmeta.run.run import Run, read_metrics, read_result, trained_config
from skillmeta.run.trackers import Trackers, check_trackers
from skillmeta.seeds import Seeds
from skillmeta.skills.priors import Marginal, WithPrior
from skillmeta.skills.vae import SkillModel, model_folder
from skillmeta.tasks.base import VALIDATION, Task, TaskFamily, chosen_task, make_family, task_id
from skillmeta.trust import check_modules, named_modules
from skillmeta.types import Actor, Envs, EnvSpec, Episodes, Learner, Metrics, Skills, State

ACTOR = "actor"  # the folder of a finished run that holds what acts
EARLY_EPISODES = 5  # their paths are kept for the pictures
SCORES = ("return", "return_first", "return_last", "success_last")  # of an iteration; the last one's end in the result


def make_learner(
    config: TrainConfig, spec: EnvSpec, skills: SkillModel | None, seeds: Seeds, device: torch.device = CPU
) -> Learner[Any]:
    """The learner that a config names, on a device. Raises ConfigError for options that it lacks or that do not go together."""
    module, options = algorithm_of(config)
    used: Skills | None = None
    if skills is not None:
        seen = placed(skills.seen_in(spec.observed, "skills"), device)
        used = WithPrior(seen, Marginal(seen.latent_stddev)) if config.skill_prior == "marginal" else seen

    def make(features: int, agent: WithPrior | None = None) -> Any:
        check_signature(module)
        try:
            sees = replace(spec, observation_dim=spec.observation_dim + features)
            learner = module.Learner(options, sees, used if agent is None else placed(agent, device), seeds)
        except (RuntimeError, MemoryError) as error:
            if "allocate" not in str(error) or not (need := replay_bytes(options, spec)):
                raise
            raise ConfigError(too_large(options, spec, need, "this machine does not give them")) from None
        if not module.__name__.startswith("skillmeta."):
            check_learner(learner, module.__name__)
        move(learner.parts(), device)
        return learner

    if config.start is None:
        learner: Learner[Any] = make(0)
        return learner
    check_alike(config, Path(config.start.run))
    own = (config.algorithm["name"], config.start.algorithm)  # which the user has named, so that a run may name it too
    agent = load_trained(config.start.run, lambda *unused: SpecAlone(spec), own=own)
    if fingerprint(config.skills) != fingerprint(agent.skills):
        raise ConfigError(f"start.run: {config.start.run}: acts by another skill model than skills: {config.skills}")
    return StartedLearner(config.start, agent.actor, make, seeds)


def check_alike(config: TrainConfig, run: Path) -> None:
    """Raises ConfigError where a run that is started from acts, or sees, otherwise than this one will."""
    if (run / "config.yaml").exists():  # else what loads it says so
        check_same(config, read_yaml(run / "config.yaml", limited=True), f"start.run: {run}")


def check_same(config: TrainConfig, there: Mapping[str, Any], start: str) -> None:
    """Raises ConfigError where the config of what is started from differs in what an agent acts by, or sees."""
    for key, own, other in (
        ("skills", config.skills, there.get("skills")),
        ("see_task", config.see_task, there.get("see_task", False)),
        ("skill_prior", config.skill_prior, there.get("skill_prior", "state")),
    ):
        if own != other and (key != "skills" or own is None or other is None):
            wanted, has = ("null" if value is None else value for value in (other, own))
            raise ConfigError(f"{key} is {has}, and {start}: was trained with {wanted}; set {key} as it is there")


def train(
    config: TrainConfig, folder: Path, command: str = "", quiet: bool = False, page: bool = True
) -> dict[str, Any] | None:
    """Run, or continue, one run in a folder, and write its page. Returns its result, or None if it was asked to stop before."""
    with opened(config, folder, command, quiet) as one:
        if one.started is not None and not run_loop([one.started.training]):
            return None
        return one.finish(page)


@dataclass(frozen=True)
class Started:
    """What a run trains with."""

    source: OnlineSource
    workers: Workers
    early: Early
    training: Training[OnlineSource]


@dataclass(frozen=True)
class Opened:
    """A run between its start and its end."""

    config: TrainConfig
    family: TaskFamily
    task: Task | None  # of fine-tuning
    run: Run
    identity: Identity
    learner: Learner[Any]
    seeds: Seeds
    noted: list[str]  # of its tasks and actions, before it began
    started: Started | None  # None where the run is finished

    def finish(self, page: bool) -> dict[str, Any]:
        """The final evaluation, the result, what acts, and the page."""
        run, family, config = self.run, self.family, self.config
        pages = (lambda: write_page([run.folder], family=family)) if page else None
        if self.started is None:
            return run.finish(finished_result(run, REPORTED[config.kind]), pages)
        source, learner, training = self.started.source, self.learner, self.started.training
        result: dict[str, Any] = {**source.cost(), "updates": learner.updates, "seconds": training.clock.seconds}
        device = device_of(config.device)
        result |= {"device": str(device)} if device != CPU else {}
        result |= {"dropped": source.dropped} if source.dropped else {}
        result |= steps_before(config)
        if self.task is None:
            # Read, not kept: after its last checkpoint a run resumes with nothing left to do.
            last = [row for row in read_metrics(run.folder) if row["kind"] == "iteration"][-1]
            result |= {key: last[key] for key in SCORES if key in last}
        else:
            workers, early = self.started.workers, self.started.early
            scores = evaluated(learner.actor(), workers, family, self.task, config, self.seeds, early, run.folder)
            result |= stated(family, scores)
        _, options = algorithm_of(config)
        longer = continued_notes(run.continued, options)
        seen = self.started.early.notes()
        if notes := [*self.noted, *longer, *seen, *result_notes(options, family, config.env_steps, result)]:
            result["notes"] = notes
        save_actor(run.folder, learner.actor(), source.env_steps, self.identity)
        return run.finish(result, pages)


def steps_before(config: TrainConfig) -> dict[str, int]:
    """The environment steps that the run had learned from, and those before it, from which this one starts."""
    before = None if config.start is None else read_result(config.start.run)
    return {} if before is None else {"env_steps_before": before["env_steps"] + before.get("env_steps_before", 0)}


REPORTED = {  # numbers of a result that its command prints
    "finetune": ("env_steps", "episodes", "num_episodes", "return"),
    "meta-train": ("env_steps", "return", "return_first", "return_last"),
}


def finished_result(run: Run, names: Sequence[str]) -> dict[str, Any]:
    """The result of a finished run. Raises UserError if it lacks one of these numbers."""
    result = run.result or {}
    for name in names:
        if not isinstance(result.get(name), int | float):
            raise UserError(
                f"{run.folder / 'result.json'}: has no number {name}; restore it, or delete the folder and run its command again"
            )
    return result


@contextlib.contextmanager
def opened(config: TrainConfig, folder: Path, command: str, quiet: bool) -> Iterator[Opened]:
    """A run, started or continued, with the workers that it acts in; one that is finished has none."""
    torch.set_num_threads(1)
    device = device_of(config.device)
    check_trackers(config.trackers)
    _, options = algorithm_of(config)
    family = make_family(config.task)
    task = task_of(family, config)
    family = examined(family, config.task, config.environment.step_seconds, not config.environment.isolated)
    seeds = Seeds(config.seed) if task is None else Seeds(config.seed, task_id(task))
    skills = SkillModel.load(config.skills) if config.skills else None
    probe = make_envs(family, 1, skills, config.see_task)
    spec = spec_of(probe, family)
    inner = probe.envs if isinstance(probe, TaskSeen) else probe
    noted = action_notes(skills, inner.envs.spec.action_bound) if skills and isinstance(inner, SkillEnvs) else []
    noted += name_notes(skills, spec.observed) if skills else []
    check_memory(options, spec, config.env_steps)
    learner = make_learner(config, spec, skills, seeds, device)  # before the folder is taken: it refuses
    probe.close()
    if isinstance(learner, StartedLearner):
        noted += exploration_notes(learner.agent, learner.config.episodes, "start.episodes")
    identity = identity_of(config, spec)
    if task is None and config.evaluation.every is not None:
        noted += exploration_notes(learner.actor(), config.evaluation.trial_episodes, "evaluation.trial_episodes")
        validation = family.tasks(VALIDATION)[: config.evaluation.tasks]
        noted += trained_on(validation, training_tasks(family, config.task, None), VALIDATION)
    with Run.open(folder, to_plain(config), command=command, identity=identity) as run:
        if run.result is not None:
            yield Opened(config, family, task, run, identity, learner, seeds, noted, None)
            return
        run.trackers = Trackers(config.trackers, folder, to_plain(config))
        if not quiet:
            longer = continued_notes(run.continued, options)
            for note in [*noted, *longer, *expected_notes(options, family, config.env_steps, config.start is not None)]:
                print(f"note: {note}", file=sys.stderr)
        factory = EnvsFactory(config.task, config.skills, config.see_task)
        failures = Failures(config.environment, folder)
        with Workers(factory, config.processes, config.envs_per_batch, failures) as workers:
            source = OnlineSource(
                workers,
                (lambda generator: family.sample(generator, config.task.split)) if task is None else lambda _: task,
                seeds,
                Budget(config.env_steps, config.max_episodes),
                config.num_envs,
                family.shaped_reward,
                family.reports_success,
            )
            known = None if skills is None else skills.seen_in(spec.observed, "skill space")
            early, held_out = Early(family, source, known), while_training(learner, workers, family, task, config)
            training = Training(
                run,
                learner,
                source,
                config.env_steps,
                config.checkpoint_seconds,
                held_out,
                early,
                quiet,
                config.health,
            )
            started = Started(source, workers, early, training)
            yield Opened(config, family, task, run, identity, learner, seeds, noted, started)


def identity_of(config: TrainConfig, spec: EnvSpec) -> Identity:
    """What a run with this config is, in environments as `spec` says."""

    def complete(plain: Mapping[str, Any]) -> dict[str, Any]:
        return complete_config(plain, config.algorithm["name"])

    lengths = ("env_steps", "max_episodes")
    return Identity(complete(to_plain(config)), complete, shapes_of(spec), inputs_of(config), lengths)


def fingerprint(skills: str | None) -> str | None:
    """Of a skill model, wherever it lies."""
    return saved_state(skills, model_folder(skills)).sha256 if skills is not None else None


def inputs_of(config: TrainConfig) -> dict[str, Input]:
    """What training and acting depend on, beside the config."""
    found = {} if config.skills is None else {"skill model": saved_state(config.skills, model_folder(config.skills))}
    return found | ({} if config.start is None else {"run": run_input(config.start.run)})


def run_input(folder: str | Path) -> Input:
    """A finished run as what an evaluation or an adapted agent depends on. Its actor keeps the fingerprint of its skill model."""
    if not (Path(folder) / ACTOR).is_dir():
        raise UserError(f"{folder}: holds no finished run; put it back, or name the --out of one")
    return saved_state(str(Path(folder).resolve()), Path(folder) / ACTOR)


def task_of(family: TaskFamily, config: TrainConfig) -> Task | None:
    """The task of fine-tuning; None for meta-training. Raises UserError for a split that must not be trained on."""
    if config.kind == "finetune":
        return chosen_task(family, config.task)
    family.require_training_split(config.task.split)
    return None


def spec_of(envs: Envs, family: TaskFamily) -> EnvSpec:
    return replace(envs.spec, shaped_reward=family.shaped_reward is not None)


def while_training(
    learner: Learner[Any], workers: Workers, family: TaskFamily, task: Task | None, config: TrainConfig
) -> Evaluation | None:
    """Evaluations of the actor while it trains, if any. Raises UserError for a family without validation tasks."""
    how = config.evaluation
    if how.every is None:
        return None
    tasks = family.tasks(VALIDATION)[: how.tasks] if task is None else (task,)
    rounds = how.trial_episodes if task is None else 0

    def scores() -> Metrics:
        return stated(family, held_out_scores(learner.actor(), workers, tasks, rounds, repeats=how.repeats))

    return Evaluation(scores, how.every)


def stated(family: TaskFamily, scores: Mapping[str, float]) -> dict[str, float]:
    """Scores, without those of success where the environment reports none."""
    return {name: value for name, value in scores.items() if family.reports_success or "success" not in name}


# -- the final policy on its task --------------------------------------------------------------------------------------------
class Early:
    """What the first episodes of a run showed: where they went, for its pictures, and whether they look like the skills' logs.

    Args:
        skills: that act; None for primitive actions.
    """

    def __init__(self, family: TaskFamily, source: OnlineSource, skills: SkillModel | None):
        self.family, self.source, self.skills = family, source, skills
        self.paths: list[np.ndarray] = []
        self.range = np.zeros((0, 0), np.float32)  # least and largest of each observed number in the first call, [2, O]

    def watch(self) -> None:
        if self.source.last is None:
            return
        episodes = self.source.last.episodes(0)
        if self.family.positions is not None and len(self.paths) < EARLY_EPISODES:
            self.paths.extend(paths(self.family, episodes))
        if self.skills is not None and not self.range.size:
            seen = episodes.observation[:, :-1][episodes.valid]
            self.range = np.stack([seen.min(0), seen.max(0)])
            for note in self.notes():
                print(f"note: {note}", file=sys.stderr, flush=True)

    def notes(self) -> list[str]:
        return range_notes(self.skills, self.range) if self.skills is not None and self.range.size else []

    def state(self) -> State:
        return {"range": self.range, **{str(i): path for i, path in enumerate(self.paths)}}

    def restore(self, state: State) -> None:
        self.range = np.asarray(state["range"])
        self.paths = [np.asarray(state[str(i)]) for i in range(len(state) - 1)]


def evaluated(
    actor: Actor[Any],
    workers: Workers,
    family: TaskFamily,
    task: Task,
    config: TrainConfig,
    seeds: Seeds,
    early: Early,
    folder: Path,
) -> dict[str, float]:
    """The final evaluation on the task, see `final_scores`; paths of the first and the last episodes are kept for pictures."""
    scores, trials = final_scores(actor, workers, task, config.evaluation.episodes, seeds)
    final = paths(family, trials.episodes(0).rows(slice(EARLY_EPISODES)))
    named = {f"early_{i}": path for i, path in enumerate(early.paths)}
    write_npz(folder / "trajectories.npz", named | {f"final_{i}": path for i, path in enumerate(final)})
    return scores


def paths(family: TaskFamily, episodes: Episodes) -> list[np.ndarray]:
    """Where each episode went, [T, 2] and at most 200 points; nothing for a family that has no positions."""
    if family.positions is None:
        return []
    found = []
    for i, valid in enumerate(episodes.valid):
        where = family.positions(episodes.observation[i, : int(valid.sum()) + 1])
        found.append(where[:: max(1, len(where) // 200), :2].astype(np.float32))
    return found


# -- what acts, on disk ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Trained:
    """What acts of a finished run."""

    actor: Actor[Any]
    env_steps: int  # that training took
    training_seed: int
    skills: str | None
    config: TrainConfig
    sees_task: bool = False  # the task's features are part of what it observes


def save_actor(folder: Path, actor: Actor[Any], env_steps: int, identity: Identity) -> None:
    save_state(folder / ACTOR, {"actor": state_of(actor.parts()), "env_steps": env_steps}, identity.meta())


class HasSpec(Protocol):
    """Environments, of which only their spec is looked at."""

    @property
    def spec(self) -> EnvSpec: ...


@dataclass(frozen=True)
class SpecAlone:
    """The spec of environments that need not be made."""

    spec: EnvSpec


def load_trained(
    folder: str | Path, make: Callable[[SkillModel | None, bool], HasSpec], trust: bool = False, own: Sequence[str] = ()
) -> Trained:
    """The actor of a finished run of `train`.

    Args:
        make: the environments that it shall act in, given its skills and whether it sees the task.
        trust: import the module that the run's config names as its algorithm, where that is not part of skillmeta.
        own: such modules that the user has named elsewhere.

    Raises UserError for a folder that holds no finished run, one whose actor does not fit the environments, one whose skill model
    has changed since, or one that names a module of its own without `trust`.
    """
    folder = Path(folder)
    node = trained_config(folder, trust)
    if (folder / "agent").exists():
        raise UserError(
            f"{folder}: was made by an earlier version of skillmeta, which kept what acts in `agent`; run its command again in "
            "another --out"
        )
    if not (folder / ACTOR).exists() or read_result(folder) is None:
        raise UserError(f"{folder}: the run is not finished; run its command again first")
    verify(folder)
    named = {"algorithm": node.get("algorithm"), "start": node.get("start")}
    if not all(name in own for _, name in named_modules(named)):
        check_modules(named, folder / "config.yaml", trust)
    state, meta = load_state(folder / ACTOR)
    check_run_format(folder / ACTOR, meta)
    config = config_of_run(folder, node)
    skills = SkillModel.load(config.skills) if config.skills else None
    check_inputs(folder / ACTOR, meta, inputs_of(config))
    envs = make(skills, config.see_task)
    spec = replace(envs.spec, shaped_reward=True)  # of training alone: acting needs none
    try:
        actor = make_learner(config, spec, skills, Seeds(config.seed)).actor()
    except (RuntimeError, MemoryError) as error:  # torch's and NumPy's for want of memory
        raise UserError(f"{folder / 'config.yaml'}: asks for more memory than there is ({first_line(error)})") from None
    try:
        restore_parts(actor.parts(), state["actor"])
        env_steps = int(state["env_steps"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{folder / ACTOR}: holds no actor of its algorithm ({error!r}): an earlier version wrote it, or it is damaged; run "
            "its command again in another --out"
        ) from None
    except RuntimeError as error:
        raise UserError(
            f"{folder}: its actor was trained on other dimensions than {spec.observation_dim} observed numbers and "
            f"{spec.action_dim} actions; use a family like its own ({first_line(error)})"
        ) from None
    return Trained(actor, env_steps, config.seed, config.skills, config, config.see_task)
