"""Logs made here: a planner or scripted expert acts, what it did is written as a Minari data set."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from gymnasium.spaces import Box

from skillmeta.config import OptionsOf, PositiveInt, build, checked, module_of
from skillmeta.data.episodes import Recording
from skillmeta.data.minari_store import check_id, exists, write_minari, writing
from skillmeta.errors import ConfigError, DataError
from skillmeta.run.pool import Pool, report
from skillmeta.run.progress import Progress
from skillmeta.seeds import Seeds
from skillmeta.tasks.base import TaskConfig, TaskFamily, environment_spec, make_family


@checked
class CollectConfig:
    """What is recorded, by whom, and under which name.

    `collector` names a module of skillmeta.experts, or one of your own, with a `Config` (that has `steps` and `seed`) and
    `collect(family, config, progress)`, which yields `Recording`s.
    """

    dataset: str = "skillmeta/maze20-v0"  # Minari id
    family: str = "maze"  # module of skillmeta.tasks, or yours
    options: Annotated[dict[str, Any], OptionsOf("tasks", named_by="family")] = field(default_factory=dict)
    collector: str = "maze_planner"  # module of skillmeta.experts, or yours
    expert: Annotated[dict[str, Any], OptionsOf("experts", named_by="collector")] = field(default_factory=dict)
    shards: PositiveInt = 1  # parts with seeds of their own, each in a process; the data depend on it, not on the cores
    overwrite: bool = False  # replace a data set of that name


@dataclass(frozen=True)
class Collected:
    """What a collection came to."""

    folder: Path
    episodes: int
    steps: int
    seconds: float
    bytes: int
    success: dict[
        str, tuple[float, int]
    ]  # of each thing that was tried: the share that worked, and how often it was tried
    coverage: float | None  # share of the world that was visited, where the family can tell


def collect(config: CollectConfig) -> Collected:
    """Record and write. The data set, or the one that it replaces, is complete at any time; an interrupted call leaves no part.

    Raises:
        DataError: the data set exists already, or its id is none.
        ConfigError: no such family, collector or option.
        UserError: another process is writing the data set, or it cannot be written.
    """
    check_id(config.dataset)
    family = make_family(TaskConfig(family=config.family, options=config.options))
    expert = expert_of(config)  # what is wrong is said before anything is written
    with writing(config.dataset):
        return _collect(config, family, expert)


def expert_of(config: CollectConfig) -> Any:
    """The collector's `Config`, filled. Raises ConfigError if it does not exist or has too few steps."""
    module = module_of("experts", config.collector, "collector")
    expert = build(module.Config, config.expert, "expert")
    if expert.steps < config.shards:
        raise ConfigError(f"expert.steps is {expert.steps}; it must be at least 1 for each of {config.shards} shards")
    return expert


def _collect(config: CollectConfig, family: TaskFamily, expert: Any) -> Collected:
    if exists(config.dataset) and not config.overwrite:
        raise DataError(
            f"minari:{config.dataset}: exists already; add overwrite=true to replace it, or dataset=OTHER/ID-v0"
        )
    started = time.monotonic()
    with Progress(expert.steps, "collecting", "steps") as progress:
        recordings = list(recorded(config, expert, progress))
    seconds = time.monotonic() - started
    episodes = [recording.episode for recording in recordings]
    space = family.make_env().action_space
    assert isinstance(space, Box)
    description = f"{family.definition} Collected by {config.collector}: {config.expert or 'defaults'}."
    folder = write_minari(
        config.dataset,
        episodes,
        space.low,
        space.high,
        overwrite=config.overwrite,
        description=description,
        environment=environment_spec(TaskConfig(config.family, options=config.options)),
    )
    tried = defaultdict(list)
    for recording in recordings:
        for name, worked in recording.outcomes:
            tried[name].append(worked)
    coverage = None
    if family.positions is not None and family.coverage is not None:
        coverage = family.coverage(np.concatenate([family.positions(episode.observation[0]) for episode in episodes]))
    return Collected(
        folder,
        len(episodes),
        sum(episode.reward.size for episode in episodes),
        seconds,
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        {name: (float(np.mean(worked)), len(worked)) for name, worked in sorted(tried.items())},
        coverage,
    )


def recorded(config: CollectConfig, expert: Any, progress: Progress) -> Iterator[Recording]:
    """All recordings, shard after shard, whatever the number of processes."""
    if config.shards == 1:
        yield from run_shard(config, expert, progress.update)
        return
    shares = [expert.steps // config.shards + (i < expert.steps % config.shards) for i in range(config.shards)]
    seeds = Seeds(expert.seed).stream("collector_shards").integers(config.shards).tolist()
    parts = [(config, replace(expert, steps=share, seed=seed)) for share, seed in zip(shares, seeds, strict=True)]
    done = [0] * config.shards

    def report(number: int, steps: int) -> None:
        done[number] = steps
        progress.update(sum(done))

    with Pool(shard, min(config.shards, os.cpu_count() or 1)) as pool:
        for recordings in pool.results(parts, report):
            yield from recordings


def shard(part: tuple[CollectConfig, Any]) -> list[Recording]:
    """One part, in a worker process."""
    return list(run_shard(*part, report))


def run_shard(config: CollectConfig, expert: Any, progress: Callable[[int], None]) -> Iterator[Recording]:
    family = make_family(TaskConfig(family=config.family, options=config.options))
    yield from module_of("experts", config.collector, "collector").collect(family, expert, progress=progress)
