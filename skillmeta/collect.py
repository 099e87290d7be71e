"""Logs made here: run a planner or scripted expert, write what it did as a Minari data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from skillmeta.config import build
from skillmeta.data.episodes import Episode
from skillmeta.data.minari_store import exists, write_minari
from skillmeta.errors import ConfigError, DataError
from skillmeta.run.progress import Progress
from skillmeta.tasks import maze, maze_planner


@dataclass(frozen=True)
class CollectConfig:
    """What is recorded, and under which name."""

    dataset: str = "skillmeta/maze20-v0"  # Minari id
    family: str = "maze"
    options: dict[str, Any] = field(default_factory=dict)  # the family's Config
    expert: dict[str, Any] = field(default_factory=dict)  # the planner's Config
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.family != "maze":
            raise ValueError(f"family is {self.family!r}; logs can be collected for maze")


@dataclass(frozen=True)
class Collected:
    """What a collection came to."""

    folder: Path
    episodes: int
    steps: int
    coverage: float  # share of the maze's free cells that were visited


def collect(config: CollectConfig) -> Collected:
    """Record and write. Nothing is written if it is interrupted. Raises DataError if the data set exists already."""
    if exists(config.dataset) and not config.overwrite:
        raise DataError(
            f"minari:{config.dataset}: exists already; add overwrite=true to replace it, or dataset=OTHER/ID-v0"
        )
    family = maze.Family(build(maze.Config, config.options, "options"))
    planner = build(maze_planner.PlannerConfig, config.expert, "expert")
    if planner.steps < 1:
        raise ConfigError("expert.steps must be at least 1")
    episodes: list[Episode] = []
    with Progress(planner.steps, "collecting", "steps") as progress:
        for episode in maze_planner.collect(family, planner, progress=progress.update):
            episodes.append(episode)
    space = family.make_env().action_space
    assert isinstance(space, Box)
    description = (
        f"Planner in a point-mass maze: {config.options or 'default maze'}, {config.expert or 'default planner'}"
    )
    folder = write_minari(
        config.dataset, episodes, space.low, space.high, overwrite=config.overwrite, description=description
    )
    positions = np.concatenate([family.positions(episode.observations) for episode in episodes])
    steps = sum(len(episode.actions) for episode in episodes)
    return Collected(folder, len(episodes), steps, family.coverage(positions))
