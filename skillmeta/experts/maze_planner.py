"""Logs of a planner in the maze: breadth-first paths from a random start to a random goal, followed by a noisy PD controller.

The recipe behind SPiRL's and D4RL's maze data. Nothing in it knows of the tasks that are learned later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated

import numpy as np

from skillmeta.config import Bound, NonNegativeFloat, NonNegativeInt, PositiveInt, checked
from skillmeta.data.episodes import Recording, single_episode
from skillmeta.seeds import Seeds
from skillmeta.tasks.base import TaskFamily
from skillmeta.tasks.maze import ARRIVED, DERIVATIVE, NEXT_WAYPOINT, PROPORTIONAL, MazeEnv
from skillmeta.tasks.maze_generator import distances, downhill, free_cells, to_xy


@checked
class Config:
    """How much, and how clumsy."""

    steps: PositiveInt = 1_000_000  # environment steps to record
    action_noise: NonNegativeFloat = 0.5  # standard deviation, added to each force
    waypoint_noise: Annotated[float, Bound(at_least=0, below=0.5)] = 0.2  # that way points are moved by, at most
    max_episode_steps: PositiveInt = 1600  # an episode ends after so many
    min_episode_steps: NonNegativeInt = 21  # shorter ones are dropped
    seed: NonNegativeInt = 0  # of paths and noise

    def __post_init__(self) -> None:
        if self.min_episode_steps > self.max_episode_steps:
            raise ValueError(
                f"min_episode_steps is {self.min_episode_steps} and max_episode_steps {self.max_episode_steps}: no episode would "
                "be kept; lower the one or raise the other"
            )


def collect(
    family: TaskFamily, config: Config, progress: Callable[[int], None] = lambda steps: None
) -> Iterator[Recording]:
    """Episodes until `config.steps` steps are recorded. Actions are recorded with their noise, as they were executed.

    An episode ends near its goal or after `max_episode_steps`; both are truncations, for the recording ends and not the world.
    """
    generator = Seeds(config.seed).stream("collector").numpy()
    env = family.make_env()
    assert isinstance(env, MazeEnv)
    env.reset(seed=config.seed)
    walls = env.maze.walls
    cells = free_cells(walls)
    recorded = 0
    while recorded < config.steps:
        start, goal = (cells[i] for i in generator.choice(len(cells), 2, replace=False))
        path = downhill(distances(walls, goal), start)
        jitter = generator.uniform(-config.waypoint_noise, config.waypoint_noise, (len(path), 2))
        way = np.array([to_xy(cell, walls) for cell in path]) + jitter
        env.place(to_xy(start, walls) + generator.uniform(-0.1, 0.1, 2))
        noise = config.action_noise * generator.normal(size=(config.max_episode_steps, 2))
        observations, actions = [env.observe()], []
        reached = 0
        for t in range(config.max_episode_steps):
            position, velocity = env.data.qpos, env.data.qvel
            gap = way[reached] - position
            distance = float(np.hypot(*gap))
            if reached == len(way) - 1:
                if distance < ARRIVED:
                    break
            elif distance < NEXT_WAYPOINT:
                reached += 1
                gap = way[reached] - position
            action = np.clip(PROPORTIONAL * gap - DERIVATIVE * velocity + noise[t], -1, 1).astype(np.float32)
            env.advance(action)
            actions.append(action)
            observations.append(env.observe())
        if len(actions) >= config.min_episode_steps:
            recorded += len(actions)
            progress(recorded)
            rewards = np.zeros(len(actions), np.float32)
            episode = single_episode(np.stack(observations), np.stack(actions), rewards)
            yield Recording(episode, (("goal", len(actions) < config.max_episode_steps),))
