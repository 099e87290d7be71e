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

from skillmeta.collect.failures import EnvironmentConfig, Failures, watched
from skillmeta.config import OptionsOf, PositiveInt, build, checked, is_builtin, module_of
from skillmeta.data.episodes import Recording
from skillmeta.data.minari_store import check_id, exists, write_minari, writing
from skillmeta.envs.failure import NotFinite, finite
from skillmeta.envs.probe import examined
from skillmeta.errors import ConfigError, DataError, EnvironmentFailed, UserError
from skillmeta.run import watch
from skillmeta.run.pool import Pool, WorkerDied, report
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
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)  # what is done where one fails


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
    dropped: int = 0  # episodes in which the environment failed


def collect(config: CollectConfig) -> Collected:
    """Record and write. The data set, or the one that it replaces, is complete at any time; an interrupted call leaves no part.

    Raises:
        DataError: the data set exists already, or its id is none.
        ConfigError: no such family, collector or option.
        UserError: another process is writing the data set, or it cannot be written.
    """
    check_id(config.dataset)
    task, how = TaskConfig(family=config.family, options=config.options), config.environment
    family = examined(make_family(task), task, how.step_seconds, not how.isolated)
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
        failures = Failures(config.environment)
        recordings = list(recorded(config, expert, progress, failures))
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
        failures.count,
    )


def recorded(config: CollectConfig, expert: Any, progress: Progress, failures: Failures) -> Iterator[Recording]:
    """All recordings, shard after shard, whatever the number of processes."""
    if config.shards == 1 and not config.environment.isolated:
        yield from run_shard(Shard(config, expert), progress.update, failures)
        return
    parts = shards(config, expert)
    done = [0] * config.shards

    def report(number: int, steps: int) -> None:
        done[number] = steps
        progress.update(sum(done))

    def again(part: Shard, error: UserError) -> Shard:
        if not isinstance(error, WorkerDied) or error.act is None:
            raise error
        failures.add([], f"shard {part.number}, {error.act}", error.how)
        return replace(part, attempt=part.attempt + 1)

    with Pool(shard, min(config.shards, os.cpu_count() or 1)) as pool:
        for recordings, dropped in pool.results(parts, report, again):
            failures.count += dropped
            yield from recordings
    if failures.count > config.environment.max_errors:
        raise UserError(
            f"{failures.count} episodes have failed in all shards and environment.max_errors is "
            f"{config.environment.max_errors}: repair the environment or raise it"
        )


@dataclass(frozen=True)
class Shard:
    """A part of a collection."""

    config: CollectConfig
    expert: Any  # its `Config`, with the steps and the seed of this part
    number: int = 0
    attempt: int = 0  # how often it began again without an episode that failed

    @property
    def seed(self) -> int:
        if self.attempt == 0:
            return int(self.expert.seed)
        return int(Seeds(self.expert.seed).stream("replacements", self.attempt).integers(1)[0])


def shards(config: CollectConfig, expert: Any) -> list[Shard]:
    if config.shards == 1:
        return [Shard(config, expert)]
    shares = [expert.steps // config.shards + (i < expert.steps % config.shards) for i in range(config.shards)]
    seeds = Seeds(expert.seed).stream("collector_shards").integers(config.shards).tolist()
    return [
        Shard(config, replace(expert, steps=share, seed=seed), number)
        for number, (share, seed) in enumerate(zip(shares, seeds, strict=True))
    ]


def shard(part: Shard) -> tuple[list[Recording], int]:
    """One part and how many episodes of it failed, in a worker process."""
    failures = Failures(part.config.environment)
    return list(run_shard(part, report, failures)), failures.count


def run_shard(part: Shard, progress: Callable[[int], None], failures: Failures) -> Iterator[Recording]:
    """Recordings of so many steps. After a failure the collector begins again, with another seed, for the steps that are left."""
    config = part.config
    family = make_family(TaskConfig(family=config.family, options=config.options))
    collector = module_of("experts", config.collector, "collector").collect
    watch.start(config.environment.step_seconds)
    length = 0 if is_builtin("tasks", config.family) else family.max_episode_steps  # ours end their episodes
    made = replace(family, make_env=lambda: watched(family.make_env(), length))
    before = done = episodes = 0

    def so_far(steps: int) -> None:
        progress(before + steps)

    while done < part.expert.steps:
        expert = replace(part.expert, steps=part.expert.steps - done, seed=part.seed)
        before = done
        try:
            for recording in collector(made, expert, progress=so_far):
                check(recording, expert.seed)
                done, episodes = done + recording.episode.reward.size, episodes + 1
                yield recording
            return
        except EnvironmentFailed as error:
            task = f"{error.task}, " if error.task else ""
            where = f"{task}reset seed {error.seed}, episode {episodes} of shard {part.number}, {error.moment}"
            failures.add([], where, error.what, error.trace)
            part = replace(part, attempt=part.attempt + 1)


def check(recording: Recording, seed: int) -> None:
    """Raises EnvironmentFailed for an episode with a number that is not finite: a collector may have looked past `step`."""
    episode = recording.episode
    for name in ("observation", "action", "reward"):
        try:
            finite(getattr(episode, name), f"an {name}" if name != "reward" else "a reward")
        except NotFinite as error:
            raise EnvironmentFailed(str(error), 0, seed, "end") from None
