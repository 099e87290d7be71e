"""Point-mass maze: reach a goal in a 20x20 maze, reward 1 and the end of the episode on arrival, nothing before.

The setting of SPiRL's successors (SiMPL: 20x20 maze, start in the middle, reward within 1.0, 2000 steps), with physics from
gymnasium-robotics' PointMaze: a ball of two force-actuated slides, 0.01 s a step, speed at most 5 cells a second.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Annotated, Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.spaces import Box

from skillmeta.config import Bound, NonNegativeInt, PositiveFloat, PositiveInt, checked
from skillmeta.errors import UserError
from skillmeta.tasks.base import ANY, Expert, TaskFamily
from skillmeta.tasks.maze_generator import Cell, distances, downhill, free_cells, random_layout, to_cell, to_xy

MAXIMUM_SPEED = 5.0  # PointMaze clips the velocity to this before every step
START_NOISE = 0.1
TRAIN_TASKS, TEST_TASKS, NARROW_TASKS = 40, 10, 10  # SiMPL's numbers
VALIDATION_TASKS = 5  # the most that leave the default layout its 40 training goals are 7
PROPORTIONAL, DERIVATIVE = 10.0, 1.0  # gains of the controller, as in D4RL's waypoint controller
NEXT_WAYPOINT, ARRIVED = 0.5, 0.3  # distances at which a way point, and the goal, count as reached

Size = Annotated[int, Bound(at_least=6)]
Coverage = Annotated[float, Bound(at_least=0, at_most=0.4)]


@checked
class Config:
    """The maze and the rules."""

    size: Size = 20  # cells along each side; walls with doors need at least 6
    coverage: Coverage = 0.25  # share of cells that are walls; up to 0.4 a connected maze can be found
    layout_seed: NonNegativeInt = 0  # that the walls are drawn by
    max_episode_steps: PositiveInt = 2000  # an episode ends after so many
    goal_radius: PositiveFloat = 1.0  # distance to the goal that counts as arrival
    min_path: NonNegativeInt = 15  # cells of path from the start to a goal, at least
    goals_seed: NonNegativeInt = 0  # that the goals are drawn by


@dataclass(frozen=True)
class MazeTask:
    """Where to go, (row, column) with the border counted."""

    row: int
    column: int

    @property
    def cell(self) -> Cell:
        return (self.row, self.column)


def distance(goal: MazeTask, other: MazeTask) -> float:
    """Cells between the middles of two goals, as the crow flies: walls do not keep a reward in."""
    return float(np.hypot(goal.row - other.row, goal.column - other.column))


class Maze:
    """One layout, its start, and its goals: free cells whose path from the start is at least `min_path`, in an order that is
    drawn by `goals_seed`."""

    def __init__(self, config: Config):
        self.config = config
        self.walls = random_layout(config.size, config.coverage, config.layout_seed)
        middle = np.array(self.walls.shape) / 2 - 0.5
        self.start: Cell = min(
            free_cells(self.walls), key=lambda cell: (float(np.abs(np.array(cell) - middle).sum()), cell)
        )
        self.from_start = distances(self.walls, self.start)
        self._free = int((~self.walls).sum())
        far = [MazeTask(*cell) for cell in free_cells(self.walls) if self.from_start[cell] >= config.min_path]
        if len(far) < TRAIN_TASKS + TEST_TASKS:
            raise UserError(
                f"maze of size {config.size}, layout_seed {config.layout_seed}: {len(far)} cells lie {config.min_path} or more "
                f"of path from the start, {TRAIN_TASKS + TEST_TASKS} are needed; lower min_path (the longest path is "
                f"{int(self.from_start.max())})"
            )
        self.far = tuple(far)
        self.goals = tuple(far[i] for i in np.random.default_rng(config.goals_seed).permutation(len(far)))

    @property
    def margin(self) -> float:
        """Cells between goals of different splits, at least: discs of `goal_radius` around them do not overlap."""
        return 2 * self.config.goal_radius

    def splits(self) -> dict[str, tuple[MazeTask, ...]]:
        """Which goals are for what. Each split takes the first goals, in the drawn order, that keep the margin.

        `test` (10) comes first, then `validation` (5), then `train`: 40, or as many as have room. SiMPL's narrow splits are of up
        to 10: `train_top` are training goals in the upper half; `test_near`, in the upper half too, and `test_far`, in the
        lower one, keep the margin from `train` and `validation` but share goals with `test` and its neighbourhood.

        Raises UserError if no room is left for validation or training goals.
        """
        middle = (self.walls.shape[0] - 1) / 2
        test = self.goals[:TEST_TASKS]
        validation = self.away(test)[:VALIDATION_TASKS]
        train = self.away(test + validation)[:TRAIN_TASKS]
        if len(validation) < VALIDATION_TASKS or not train:
            raise UserError(
                f"maze of size {self.config.size}, layout_seed {self.config.layout_seed}: beside {TEST_TASKS} test goals there is "
                f"room for {len(validation)} validation and {len(train)} training goals that are {self.margin:g} cells apart, "
                f"{VALIDATION_TASKS} and 1 are needed; lower min_path or goal_radius"
            )
        for_tests = self.away(validation + train)
        splits = {
            "train": train,
            "validation": validation,
            "test": test,
            "train_top": tuple(goal for goal in train if goal.row < middle)[:NARROW_TASKS],
            "test_near": tuple(goal for goal in for_tests if goal.row < middle)[:NARROW_TASKS],
            "test_far": tuple(goal for goal in for_tests if goal.row > middle)[:NARROW_TASKS],
        }
        return {name: goals for name, goals in splits.items() if goals}

    def away(self, others: tuple[MazeTask, ...]) -> tuple[MazeTask, ...]:
        """The goals that keep the margin from others, in the drawn order."""
        return tuple(goal for goal in self.goals if all(distance(goal, other) >= self.margin for other in others))

    def path_length(self, task: MazeTask) -> int:
        """Cells of path from the start to the goal."""
        return int(self.from_start[task.cell])

    def features(self, task: MazeTask) -> np.ndarray:
        """The goal's x and y, for an oracle."""
        return to_xy(task.cell, self.walls).astype(np.float32)

    def expert(self, env: gymnasium.Env, generator: np.random.Generator) -> Expert:
        """The planner of the logs, without its noise, on the way to the goal."""
        inner = env.unwrapped
        assert isinstance(inner, MazeEnv)
        start = to_cell(inner.data.qpos[None], self.walls)[0]
        path = downhill(distances(self.walls, inner.task.cell), (int(start[0]), int(start[1])))
        return WaypointFollower(np.array([to_xy(cell, self.walls) for cell in path]))

    # -- pictures and numbers about where something went --------------------------------------------------------------------
    def positions(self, observations: np.ndarray) -> np.ndarray:
        """x and y, [..., 2], of observations [..., 4]."""
        return observations[..., :2]

    def coverage(self, positions: np.ndarray) -> float:
        """Share of the free cells that positions [N, 2] have visited."""
        cells = to_cell(positions.reshape(-1, 2), self.walls)
        visited = {(int(r), int(c)) for r, c in np.unique(cells, axis=0) if not self.walls[r, c]}
        return len(visited) / self._free

    def draw(self, axes: Any, task: MazeTask | None = None) -> None:
        """Walls, start and, where given, the goal, on matplotlib axes in the simulator's coordinates."""
        rows, columns = self.walls.shape
        extent = (-columns / 2, columns / 2, -rows / 2, rows / 2)
        axes.imshow(
            np.where(self.walls, 0.35, 1.0), cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest"
        )
        axes.plot(*to_xy(self.start, self.walls), marker="s", color="black", markersize=5, zorder=5)
        if task is not None:
            axes.plot(*to_xy(task.cell, self.walls), marker="*", color="#d62728", markersize=12, zorder=6)
        axes.set_xticks([])
        axes.set_yticks([])


class WaypointFollower:
    """A PD controller along way points [W, 2], gains as in D4RL's; `arrived` near the last one."""

    def __init__(self, way: np.ndarray):
        self.way, self.reached, self.arrived = way, 0, False

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        gap = self.way[self.reached] - observation[:2]
        distance = float(np.hypot(*gap))
        if self.reached == len(self.way) - 1:
            self.arrived = distance < ARRIVED
        elif distance < NEXT_WAYPOINT:
            self.reached += 1
            gap = self.way[self.reached] - observation[:2]
        result: np.ndarray = np.clip(PROPORTIONAL * gap - DERIVATIVE * observation[2:], -1, 1).astype(np.float32)
        return result


class MazeEnv(gymnasium.Env):
    """The maze as a Gymnasium environment.

    Observation: float32 [4], x, y and the two velocities; the goal is not in it. Action: float32 [2], forces in [-1, 1].
    `reset(options={"task": MazeTask})` sets the goal, which then stays; `options={"start": (row, column)}` starts elsewhere.
    The simulator is stepped directly: the wrappers around PointMaze cost as much again as its physics.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 100}

    def __init__(self, maze: Maze, render_mode: str | None = None):
        self.maze, self.render_mode = maze, render_mode
        self.model = point_maze_model(maze.walls.tobytes(), maze.walls.shape)
        self.data = mujoco.MjData(self.model)
        self._position, self._velocity, self._control = self.data.qpos, self.data.qvel, self.data.ctrl  # views
        self.observation_space = Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = Box(-1.0, 1.0, (2,), np.float32)
        self.task = maze.goals[0]
        self._set_task(self.task)
        self._steps = 0

    def _set_task(self, task: MazeTask) -> None:
        self.task = task
        self._goal = to_xy(task.cell, self.maze.walls).tolist()
        self._task_info = asdict(task)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        options = options or {}
        if options.get("task") is not None:
            self._set_task(options["task"])
        start = options.get("start") or self.maze.start
        noise = self.np_random.uniform(-START_NOISE, START_NOISE, 2)
        self.place(to_xy(start, self.maze.walls) + noise)
        return self.observe(), self._info(False)

    def place(self, xy: np.ndarray) -> None:
        """Put the ball at rest at xy [2]."""
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = xy
        mujoco.mj_forward(self.model, self.data)
        self._steps = 0

    def observe(self) -> np.ndarray:
        return np.concatenate((self._position, self._velocity), dtype=np.float32)

    def advance(self, action: np.ndarray) -> None:
        """One step of physics, as PointMaze does it."""
        self._control[:] = action
        clip(self._velocity, MAXIMUM_SPEED)
        clip(self._control, 1.0)
        mujoco.mj_step(self.model, self.data)
        self._steps += 1

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.advance(action)
        (x, y), (goal_x, goal_y) = self._position.tolist(), self._goal
        arrived = (x - goal_x) ** 2 + (y - goal_y) ** 2 <= self.maze.config.goal_radius**2
        cut_off = self._steps >= self.maze.config.max_episode_steps and not arrived
        return self.observe(), float(arrived), arrived, cut_off, self._info(arrived)

    def _info(self, arrived: bool) -> dict[str, Any]:
        return {"success": arrived, "task": {**self._task_info}}

    def render(self) -> np.ndarray:
        """Top view, uint8 [height, width, 3], 16 pixels a cell; drawn by hand, so no graphics library is needed."""
        scale = 16
        walls = np.kron(self.maze.walls, np.ones((scale, scale), bool))
        image = np.where(walls[..., None], 90, 255).astype(np.uint8).repeat(3, -1)
        for xy, colour in ((self._goal, (214, 39, 40)), (self.data.qpos, (31, 119, 180))):
            column = int((xy[0] + self.maze.walls.shape[1] / 2) * scale)
            row = int((self.maze.walls.shape[0] / 2 - xy[1]) * scale)
            image[max(0, row - 5) : row + 5, max(0, column - 5) : column + 5] = colour
        return image


def clip(pair: np.ndarray, bound: float) -> None:
    """Clip two numbers to [-bound, bound], in place. They seldom need it, and to look first takes a fifth of the time."""
    x, y = pair.tolist()
    if not (-bound <= x <= bound and -bound <= y <= bound):
        np.clip(pair, -bound, bound, out=pair)


@lru_cache(maxsize=8)
def point_maze_model(walls: bytes, shape: tuple[int, int]) -> mujoco.MjModel:
    """PointMaze's compiled model for a layout. Raises UserError where gymnasium-robotics is not installed."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # every import of it prints a notice about other environments
            from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv
    except ImportError:
        raise UserError(
            "the maze needs the package gymnasium-robotics: in the clone, pip install -e '.[robotics]'"
        ) from None
    layout = np.frombuffer(walls, bool).reshape(shape).astype(int).tolist()
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as folder:  # PointMaze leaves its generated XML in the temporary folder
        tempfile.tempdir = folder
        try:
            environment = PointMazeEnv(maze_map=layout)
        finally:
            tempfile.tempdir = before
        model = environment.model
    return model


def family(config: Config) -> TaskFamily:
    """One maze; its tasks are goals far from the start."""
    maze = Maze(config)
    splits = maze.splits()
    return TaskFamily(
        name="maze",
        version=2,
        definition=(
            f"A ball pushed through a maze of {config.size}x{config.size} cells (SPiRL's generator, layout seed "
            f"{config.layout_seed}) to a hidden goal {config.min_path} or more cells of path away. Reward 1 and the end within "
            f"{config.goal_radius:g} of it, 0 before. Seen: x, y and velocities. After SiMPL (Nam et al. 2022): "
            f"{len(splits['train'])} training and {TEST_TASKS} test goals, and its narrow splits. Goals to train on, of validation "
            f"and of tests are {maze.margin:g} or more cells apart, so that their discs of success do not overlap."
        ),
        max_episode_steps=config.max_episode_steps,
        splits=splits,
        make_env=lambda: MazeEnv(maze),
        draw_task=lambda generator: maze.far[int(generator.integers(len(maze.far)))],
        training_splits=("train", "train_top", ANY),
        distance=distance,
        margin=maze.margin,
        features=maze.features,
        facts=lambda task: {"path_cells": maze.path_length(task)},
        expert=maze.expert,
        positions=maze.positions,
        coverage=maze.coverage,
        draw=maze.draw,
    )
