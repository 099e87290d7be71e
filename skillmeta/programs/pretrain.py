"""From a source of logs to a skill model and the page that says whether its prior is any good."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from skillmeta.config import DeviceName, NonNegativeInt, PositiveInt, build, checked, to_plain
from skillmeta.data.continuity import jumps
from skillmeta.data.episodes import EpisodeDataset
from skillmeta.data.sources import fingerprint, load_source
from skillmeta.envs.probe import examined
from skillmeta.envs.serial import SerialEnvs
from skillmeta.evaluation.skill_quality import Rollouts, compare_rollouts, fit, verdict
from skillmeta.limits import MAP_ABOVE
from skillmeta.programs.beforehand import continued_notes
from skillmeta.programs.page import write_page
from skillmeta.run.device import CPU, device_of
from skillmeta.run.files import write_npz
from skillmeta.run.identity import Identity, Input
from skillmeta.run.ranks import ALONE, Ranks, SharedRun
from skillmeta.run.run import Run, read_result
from skillmeta.run.trackers import TrackerName, Trackers, check_trackers
from skillmeta.skills.observe import check_shapes, columns_of
from skillmeta.skills.training import TrainingConfig, train_skills
from skillmeta.skills.vae import SkillModelConfig
from skillmeta.tasks.base import TaskConfig, TaskFamily, make_family

LENGTHS = ("training.steps",)  # what may grow in a folder


@checked
class QualityConfig:
    """How the prior is tried out."""

    episodes: PositiveInt = 20  # of rollouts in the environment, where `task` names one


@checked
class PretrainConfig:
    """One skill model."""

    source: str = "minari:skillmeta/maze20-v0"  # of the logs; `skillmeta inspect --help` says what there is
    clip_actions: bool = False  # pull actions that are out of bounds into them, instead of refusing the logs
    map_above: NonNegativeInt = MAP_ABOVE  # bytes of the logs' arrays above which they are mapped from files, made once
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
    dataset = None if finished else load_logs(config)
    if dataset is not None and family is not None:
        check_task(dataset, family)
    with Run.open(folder, to_plain(config), command=command, identity=identity_of(config, dataset)) as run:
        if run.result is not None:
            return run.finish(run.result, lambda: write_page([folder], family=family))
        assert dataset is not None
        run.trackers = Trackers(config.trackers, folder, to_plain(config))
        shared = SharedRun(run, folder, ranks)
        model = train_skills(dataset, config.model, config.training, shared, quiet, device, ranks)
        if model is None:
            return None
        training = config.training
        held_out = dataset.windows(model.horizon, "held_out", held_out=training.held_out, seed=training.seed)
        fitted = fit(model, held_out, seed=training.seed)
        acted = compare_rollouts(model, family, config.quality.episodes, training.seed) if family else []
        if family is not None and family.positions is not None:
            acted.append(logged(dataset, family, acted[0]))
        result: dict[str, Any] = {
            "source": config.source,
            "held_out": asdict(fitted),
            "rollouts": [{k: v for k, v in asdict(r).items() if k != "paths"} for r in acted],
            "verdict": [*verdict(fitted, acted, model.config.cloning), *continued_notes(run.continued)],
            "notes": [*dataset.notes, *jumps(dataset).notes()],
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
        model = train_skills(load_logs(config), config.model, config.training, run, True, device, ranks)
    return None if model is None else {}


def load_logs(config: PretrainConfig) -> EpisodeDataset:
    """The logs of a config. Raises DataError if they are too few or too short to train on, too."""
    dataset = load_source(config.source, clip_actions=config.clip_actions, map_above=config.map_above)
    training = config.training
    dataset.windows(config.model.horizon, "train", held_out=training.held_out, seed=training.seed)
    return dataset


def check_task(dataset: EpisodeDataset, family: TaskFamily) -> None:
    """Raises CheckpointError if skills of the logs could not act in the family's environment."""
    envs = SerialEnvs(family.make_env, 1, unit_actions=False)
    try:
        check_shapes((dataset.observation_dim, dataset.action_dim), envs.spec, "task")
        columns_of(dataset.observed, dataset.observation_dim, envs.spec.observed, "task")
    finally:
        envs.close()


def identity_of(config: PretrainConfig, dataset: EpisodeDataset | None) -> Identity:
    """What a run with this config is; without `dataset` that of a finished run, which is not continued."""

    def complete(plain: Mapping[str, Any]) -> dict[str, Any]:
        full: dict[str, Any] = to_plain(build(PretrainConfig, plain))
        del full["device"], full["trackers"]  # may change from session to session
        return full

    whole = complete(to_plain(config))
    if dataset is None:
        return Identity(whole, complete, lengths=LENGTHS)
    path, digest = fingerprint(config.source)
    shapes = {"observation_dim": dataset.observation_dim, "action_dim": dataset.action_dim}
    return Identity(whole, complete, shapes, {"logs": Input(str(path), digest)}, LENGTHS)


def logged(dataset: EpisodeDataset, family: Any, like: Rollouts) -> Rollouts:
    """The logs, as many steps as the rollouts took and in as many pieces: the bar for coverage. Paths are of episodes."""
    where = family.positions(dataset.observation[: like.env_steps])
    pieces = np.array_split(where, like.episodes)
    each = float(np.mean([family.coverage(piece) for piece in pieces]))
    total = family.coverage(where)
    begins = dataset.offsets[1:-1] + np.arange(
        1, dataset.num_episodes
    )  # of the observations of each episode but the first
    paths = np.split(where, begins[begins < len(where)])
    return Rollouts(
        "the logs", like.episodes, len(where), each, total, None, like.split, [path[::10] for path in paths]
    )


def save_paths(folder: Path, acted: list[Rollouts]) -> None:
    named = {f"{r.name}/{i}": path.astype(np.float32) for r in acted for i, path in enumerate(r.paths)}
    write_npz(folder / "paths.npz", named)
