"""From a source of logs to a skill model and the page that says whether its prior is any good."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from skillmeta.config import DeviceName, NonNegativeInt, PositiveInt, build, checked, to_plain
from skillmeta.data.logs import LogConfig, Logs
from skillmeta.data.sources import fingerprint
from skillmeta.envs.probe import examined
from skillmeta.envs.serial import SerialEnvs
from skillmeta.evaluation.skill_quality import Rollouts, compare_rollouts, held_out_fit, verdict
from skillmeta.limits import MAP_ABOVE
from skillmeta.programs.beforehand import continued_notes
from skillmeta.programs.page import write_page
from skillmeta.run.device import CPU, device_of
from skillmeta.run.files import write_npz
from skillmeta.run.identity import Identity, Input, saved_state
from skillmeta.run.ranks import ALONE, Ranks, SharedRun
from skillmeta.run.run import Run, read_result
from skillmeta.run.trackers import TrackerName, Trackers, check_trackers
from skillmeta.skills.observe import check_shapes, columns_of
from skillmeta.skills.training import TrainingConfig, check_start, train_skills
from skillmeta.skills.vae import SkillModel, SkillModelConfig, model_folder
from skillmeta.tasks.base import TaskConfig, TaskFamily, make_family


@checked
class QualityConfig:
    """How the prior is tried out."""

    episodes: PositiveInt = 20  # of rollouts in the environment, where `task` names one


@checked
class PretrainConfig:
    """One skill model."""

    # of the logs, `skillmeta inspect --help` says what there is; a list learns from several, [{source: a.npz, weight: 2}, ...]
    source: str | list[LogConfig] = "minari:skillmeta/maze20-v0"
    start: str | None = None  # folder of a finished skill model that training continues from; null: new weights
    clip_actions: bool = False  # pull actions that are out of bounds into them, instead of refusing the logs
    map_above: NonNegativeInt = MAP_ABOVE  # bytes of a log's arrays above which they are mapped from files, made once
    model: SkillModelConfig = field(default_factory=SkillModelConfig)  # its sizes
    training: TrainingConfig = field(default_factory=TrainingConfig)  # how long and how fast
    device: DeviceName = "cpu"  # that learns; auto: an accelerator where there is one
    quality: QualityConfig = field(default_factory=QualityConfig)  # how the prior is tried out
    task: TaskConfig | None = None  # where the prior is rolled out; null judges it on the logs alone
    trackers: list[TrackerName] = field(default_factory=list)  # that show its metrics too, in its folder


def pretrain(
    config: PretrainConfig, folder: Path, command: str = "", quiet: bool = False, ranks: Ranks = ALONE
) -> dict[str, Any] | None:
    """Train, evaluate, write the page. Returns the result, or None if it was asked to stop before the end.

    Args:
        ranks: the processes that train together; all call this. In those that are not the first the result is empty.
    """
    torch.set_num_threads(1)
    device = device_of(config.device)
    check_trackers(config.trackers)
    ranks.part(config.training.batch_size)
    if not ranks.first:
        return help_to_train(config, folder, ranks)
    # Before the folder is taken: what is wrong with the task or the logs leaves no folder. A finished run needs no logs.
    family = examined(make_family(config.task), config.task) if config.task else None
    finished = read_result(folder) is not None and not identity_of(config, None).grown(folder / "config.yaml")
    ranks.from_first(finished)
    start = SkillModel.load(config.start) if config.start is not None and not finished else None
    logs = None if finished else load_logs(config, start)
    if logs is not None and family is not None:
        check_task(logs, family)
    with Run.open(folder, to_plain(config), command=command, identity=identity_of(config, logs)) as run:
        if run.result is not None:
            return run.finish(run.result, lambda: write_page([folder], family=family))
        assert logs is not None
        run.trackers = Trackers(config.trackers, folder, to_plain(config))
        if not quiet:
            for note in logs.chosen():
                print(f"note: {note}", file=sys.stderr)
        shared = SharedRun(run, folder, ranks)
        model = train_skills(logs, config.model, config.training, shared, quiet, device, ranks, start)
        if model is None:
            return None
        training = config.training
        held_out = logs.windows(model.horizon, "held_out", held_out=training.held_out, seed=training.seed)
        fitted = held_out_fit(model, held_out, seed=training.seed)
        acted = compare_rollouts(model, family, config.quality.episodes, training.seed) if family else []
        if family is not None and family.positions is not None:
            acted.append(logged(logs, family, acted[0]))
        begun = [] if start is None else [f"Training continued from the weights of the skill model in {config.start}."]
        result: dict[str, Any] = {
            "source": logs.source,
            "held_out": asdict(fitted),
            "rollouts": [{k: v for k, v in asdict(r).items() if k != "paths"} for r in acted],
            "verdict": [*verdict(fitted, acted, model.config.cloning), *begun, *continued_notes(run.continued)],
            "notes": logs.notes(),
        }
        result |= {} if device == CPU else {"device": str(device)}
        result |= {"processes": ranks.size} if ranks.size > 1 else {}
        save_paths(run.folder, acted)
        return run.finish(result, lambda: write_page([folder], family=family))


def help_to_train(config: PretrainConfig, folder: Path, ranks: Ranks) -> dict[str, Any] | None:
    """`pretrain` in a process that is not the first."""
    if ranks.from_first(False):  # it is finished
        return {}
    with SharedRun(None, folder, ranks) as run:
        device = device_of(config.device)
        start = None if config.start is None else SkillModel.load(config.start)
        logs = load_logs(config, start)
        model = train_skills(logs, config.model, config.training, run, True, device, ranks, start)
    return None if model is None else {}


def load_logs(config: PretrainConfig, start: SkillModel | None) -> Logs:
    """The logs of a config, in the action space of the model that training starts from, if any.

    Raises DataError, also if they are too few or too short to train on, and CheckpointError for a start of another shape.
    """
    logs = Logs.load(config.source, clip_actions=config.clip_actions, map_above=config.map_above)
    if start is not None:
        check_start(start, str(config.start), config.model, logs)
        low, high = start.action_low.numpy(), start.action_high.numpy()
        whose = f"of the skill model in {config.start}, from which training starts"
        logs = replace(logs.within(low, high, whose, config.clip_actions), observed=logs.observed or start.observed)
    training = config.training
    logs.windows(config.model.horizon, "train", held_out=training.held_out, seed=training.seed)
    return logs


def check_task(logs: Logs, family: TaskFamily) -> None:
    """Raises CheckpointError if skills of the logs could not act in the family's environment."""
    envs = SerialEnvs(family.make_env, 1, unit_actions=False)
    try:
        other = f"task.family={family.name} is where the prior is tried out: name the task of these logs, or write task=null"
        check_shapes((logs.observation_dim, logs.action_dim), envs.spec, "task", other)
        columns_of(logs.observed, logs.observation_dim, envs.spec.observed, "task")
    finally:
        envs.close()


def identity_of(config: PretrainConfig, logs: Logs | None) -> Identity:
    """What a run with this config is; without `logs` that of a finished run, which is not continued."""

    def complete(plain: Mapping[str, Any]) -> dict[str, Any]:
        full: dict[str, Any] = to_plain(build(PretrainConfig, plain))
        del full["device"], full["trackers"]  # may change from session to session
        return full

    whole = complete(to_plain(config))
    grows = "training.prior_steps" if config.training.prior_steps else "training.steps"
    if logs is None:
        return Identity(whole, complete, lengths=(grows,))
    count, inputs = len(logs.logs), {}
    for number, log in enumerate(logs.logs, 1):
        path, digest = fingerprint(log.dataset.source)
        inputs["logs" if count == 1 else f"log {number} of {count}"] = Input(str(path), digest)
    if config.start is not None:
        inputs["skill model"] = saved_state(config.start, model_folder(config.start))
    shapes = {"observation_dim": logs.observation_dim, "action_dim": logs.action_dim}
    return Identity(whole, complete, shapes, inputs, (grows,))


def logged(logs: Logs, family: Any, like: Rollouts) -> Rollouts:
    """The logs, as many steps as the rollouts took and in as many pieces: the bar for coverage. Paths are of episodes."""
    seen = [
        rows
        for log, share in zip(logs.logs, logs.shares, strict=True)
        for rows in log.first(round(share * like.env_steps))
    ]
    where = family.positions(np.concatenate(seen))
    pieces = np.array_split(where, like.episodes)
    each = float(np.mean([family.coverage(piece) for piece in pieces]))
    total = family.coverage(where)
    paths = np.split(where, np.cumsum([len(rows) for rows in seen])[:-1])
    return Rollouts(
        "the logs", like.episodes, len(where), each, total, None, like.split, [path[::10] for path in paths]
    )


def save_paths(folder: Path, acted: list[Rollouts]) -> None:
    named = {f"{r.name}/{i}": path.astype(np.float32) for r in acted for i, path in enumerate(r.paths)}
    write_npz(folder / "paths.npz", named)
