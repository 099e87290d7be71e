"""The point-mass maze with layouts that were never seen: what is learned is how mazes are, not how this one is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from skillmeta.config import NonNegativeInt, PositiveFloat, PositiveInt, checked, to_plain
from skillmeta.errors import UserError
from skillmeta.tasks import maze
from skillmeta.tasks.base import Expert, TaskFamily, validation_generator
from skillmeta.tasks.maze_generator import to_cell, to_xy

LAYOUTS_KEPT = 8  # simulators of an environment, the last ones used
TRIED = 100  # mazes in a row


@checked
class Config:
    """Forty goals in twenty layouts to train on, ten goals in ten others to test on, ten in ten more for validation."""

    size: maze.Size = 20  # cells along each side; walls with doors need at least 6
    coverage: maze.Coverage = 0.25  # share of cells that are walls; up to 0.4 a connected maze can be found
    view: NonNegativeInt = 0  # also see the walls of so many cells around, each way; 0: nothing but place and velocity
    max_episode_steps: PositiveInt = 2000  # an episode ends after so many
    goal_radius: PositiveFloat = 1.0  # distance to the goal that counts as arrival
    min_path: NonNegativeInt = 15  # cells of path from the start to a goal, at least
    train_layouts: PositiveInt = 20  # of the split `train`
    validation_layouts: PositiveInt = 10  # of the split `validation`
    test_layouts: PositiveInt = 10  # of the split `test`
    train_tasks: PositiveInt = 40  # tasks of the split `train`
    validation_tasks: PositiveInt = 10  # tasks of the split `validation`
    test_tasks: PositiveInt = 10  # tasks of the split `test`
    tasks_seed: NonNegativeInt = 0  # that the tasks are drawn by

    def __post_init__(self) -> None:
        if self.view >= self.size:
            raise ValueError(f"view is {self.view}; it must be below the maze's size, {self.size}")


@dataclass(frozen=True)
class LayoutTask:
    """A goal, (row, column) with the border counted, in the layout of a seed."""

    layout: int
    row: int
    column: int


@lru_cache(maxsize=64)
def layout_of(config: Config, seed: int) -> maze.Maze:
    """The maze of a seed. Raises UserError for the few that have too little room."""
    own = maze.Config(config.size, config.coverage, seed, config.max_episode_steps, config.goal_radius, config.min_path)
    return maze.Maze(own)


def good_layouts(config: Config, first: int, count: int) -> list[int]:
    """So many seeds from `first` on whose mazes have room for goals. Raises UserError after `TRIED` mazes in a row without it."""
    seeds, begun = list[int](), first
    while len(seeds) < count:
        try:
            layout_of(config, first)
            seeds.append(first)
        except UserError as error:
            if first - (seeds[-1] if seeds else begun) >= TRIED:
                raise UserError(f"none of {TRIED} mazes has room for goals: {error}") from None
        first += 1
    return seeds


def simulator_of(config: Config, seed: int) -> maze.MazeEnv:
    return maze.MazeEnv(layout_of(config, seed))


class LayoutsEnv(gymnasium.Env):
    """A `MazeEnv` for each layout that it was asked for, the last ones kept."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 100}

    def __init__(self, config: Config, task: LayoutTask):
        self.config, self.task, self.render_mode = config, task, "rgb_array"
        self._simulator = lru_cache(LAYOUTS_KEPT)(simulator_of)
        self.inner = self._simulator(config, task.layout)
        dim = 4 + ((2 * config.view + 1) ** 2 if config.view else 0)
        self.observation_space = Box(-np.inf, np.inf, (dim,), np.float32)
        self.action_space = Box(-1.0, 1.0, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.task = (options or {}).get("task") or self.task
        self.inner = self._simulator(self.config, self.task.layout)
        goal = maze.MazeTask(self.task.row, self.task.column)
        own = seed if seed is not None else int(self.np_random.integers(2**31))
        observation, info = self.inner.reset(seed=own, options={"task": goal})
        return self._seen(observation), {**info, "task": to_plain(self.task)}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.inner.step(action)
        return self._seen(observation), reward, terminated, truncated, {**info, "task": to_plain(self.task)}

    def _seen(self, observation: np.ndarray) -> np.ndarray:
        """Place and velocity and, with a view, the walls around as 0 and 1, the maze's outside as wall."""
        if not self.config.view:
            return observation
        reach = self.config.view
        walls = np.pad(self.inner.maze.walls, reach, constant_values=True)
        row, column = to_cell(observation[None, :2].astype(float), self.inner.maze.walls)[0]
        around = walls[row : row + 2 * reach + 1, column : column + 2 * reach + 1]
        return np.concatenate([observation, around.ravel()]).astype(np.float32)

    def render(self) -> np.ndarray:
        return self.inner.render()


def family(config: Config) -> TaskFamily:
    """Goals in layouts; every layout belongs to one split."""
    train = good_layouts(config, 1, config.train_layouts)  # seed 0 is the maze of the family `maze`
    test = good_layouts(config, train[-1] + 1, config.test_layouts)
    validation = good_layouts(config, test[-1] + 1, config.validation_layouts)

    def goal_in(layout: int, generator: np.random.Generator) -> LayoutTask:
        found = layout_of(config, layout)
        goal = found.far[int(generator.integers(len(found.far)))]
        return LayoutTask(layout, goal.row, goal.column)

    def goals(layouts: list[int], count: int, generator: np.random.Generator) -> tuple[LayoutTask, ...]:
        chosen: dict[LayoutTask, None] = {}
        for i, layout in enumerate(layouts):
            wanted, there = len(range(i, count, len(layouts))), len(layout_of(config, layout).far)
            if wanted > there:
                raise UserError(
                    f"maze_unseen: {wanted} tasks in the maze of layout_seed {layout}, which has {there} goals; ask for fewer "
                    "tasks, or for more layouts"
                )
        while len(chosen) < count:
            chosen[goal_in(layouts[len(chosen) % len(layouts)], generator)] = None
        return tuple(chosen)

    generator = np.random.default_rng(config.tasks_seed)
    train_tasks, test_tasks = (
        goals(layouts, count, generator) for layouts, count in ((train, config.train_tasks), (test, config.test_tasks))
    )
    splits = {
        "train": train_tasks,
        "validation": goals(validation, config.validation_tasks, validation_generator(config.tasks_seed)),
        "test": test_tasks,
    }

    def features(task: LayoutTask) -> np.ndarray:
        """The goal's x and y, and the walls inside the border, float32."""
        walls = layout_of(config, task.layout).walls
        return np.concatenate([to_xy((task.row, task.column), walls), walls[1:-1, 1:-1].ravel()]).astype(np.float32)

    def expert(env: gymnasium.Env, own: np.random.Generator) -> Expert:
        inner: Any = env.unwrapped
        follow = inner.inner.maze.expert(inner.inner, own)
        return lambda observation: follow(observation[:4])

    def draw(axes: Any, task: LayoutTask | None) -> None:
        shown = task or splits["train"][0]
        layout = layout_of(config, shown.layout)
        assert layout is not None
        layout.draw(axes, maze.MazeTask(task.row, task.column) if task is not None else None)

    def coverage(positions: np.ndarray) -> float:
        return layout_of(config, train[0]).coverage(positions)

    around = f", and the walls {config.view} cells around" if config.view else ""
    return TaskFamily(
        name="maze_unseen",
        version=1,
        definition=(
            f"A ball pushed through an unseen maze of {config.size}x{config.size} cells to a hidden goal {config.min_path} or "
            f"more cells of path away: {len(train)} layouts to train on, {len(validation)} others for validation and {len(test)} "
            f"others to test on. Reward 1 and the end within {config.goal_radius:g} of it, 0 before; {config.max_episode_steps} "
            f"steps. Seen: x, y and velocities{around}. Physics and layouts as in the family maze."
        ),
        max_episode_steps=config.max_episode_steps,
        splits=splits,
        make_env=lambda: LayoutsEnv(config, splits["train"][0]),
        draw_task=lambda own: goal_in(train[int(own.integers(len(train)))], own),
        distance=lambda task, other: float(task.layout != other.layout),
        margin=1.0,
        features=features,
        group=lambda task: f"layout {task.layout}",
        expert=expert,
        positions=lambda observations: observations[..., :2],
        coverage=coverage,
        draw=draw,
    )
