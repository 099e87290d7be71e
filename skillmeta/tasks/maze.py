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
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.spaces import Box

from skillmeta.errors import UserError
from skillmeta.tasks.maze_layout import Cell, distances, free_cells, random_layout, to_cell, to_xy

MAXIMUM_SPEED = 5.0  # PointMaze clips the velocity to this before every step
START_NOISE = 0.1
TRAIN_TASKS, TEST_TASKS = 40, 10  # SiMPL's numbers


@dataclass(frozen=True)
class Config:
    """The maze and the rules."""

    size: int = 20
    coverage: float = 0.25
    layout_seed: int = 0
    max_episode_steps: int = 2000
    goal_radius: float = 1.0
    min_path: int = 15  # cells of path from the start to a goal, at least
    goals_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("size", "max_episode_steps", "goal_radius"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.size < 6:
            raise ValueError(f"size is {self.size}; walls with doors need at least 6 cells")
        if not 0 <= self.coverage <= 0.4:
            raise ValueError(f"coverage is {self.coverage}; between 0 and 0.4 a connected maze can be found")


@dataclass(frozen=True)
class MazeTask:
    """Where to go, (row, column) with the border counted."""

    row: int
    column: int

    @property
    def cell(self) -> Cell:
        return (self.row, self.column)


class Family:
    """One maze; its tasks are goals far from the start.

    Splits `train` (40 goals) and `test` (10) are drawn once by `goals_seed`, without repetition, uniformly over the free cells
    whose path from the start is at least `min_path`; `sample(..., "any")` draws from all of those.
    """

    name = "maze"

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
        order = np.random.default_rng(config.goals_seed).permutation(len(far))
        chosen = [far[i] for i in order]
        self._splits = {
            "test": tuple(chosen[:TEST_TASKS]),
            "train": tuple(chosen[TEST_TASKS : TEST_TASKS + TRAIN_TASKS]),
            "any": tuple(far),
        }

    def tasks(self, split: str) -> tuple[MazeTask, ...]:
        if split not in self._splits:
            raise UserError(f"maze: there is no split {split!r}; choose one of {', '.join(self._splits)}")
        return self._splits[split]

    def sample(self, generator: np.random.Generator, split: str = "train") -> MazeTask:
        tasks = self.tasks(split)
        return tasks[int(generator.integers(len(tasks)))]

    def make_env(self) -> MazeEnv:
        return MazeEnv(self)

    def path_length(self, task: MazeTask) -> int:
        """Cells of path from the start to the goal."""
        return int(self.from_start[task.cell])

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


class MazeEnv(gymnasium.Env):
    """The maze as a Gymnasium environment.

    Observation: float32 [4], x, y and the two velocities; the goal is not in it. Action: float32 [2], forces in [-1, 1].
    `reset(options={"task": MazeTask})` sets the goal, which then stays; `options={"start": (row, column)}` starts elsewhere.
    The simulator is stepped directly: the wrappers around PointMaze cost as much again as its physics.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 100}

    def __init__(self, family: Family, render_mode: str | None = None):
        self.family, self.render_mode = family, render_mode
        self.model = point_maze_model(family.walls.tobytes(), family.walls.shape)
        self.data = mujoco.MjData(self.model)
        self._position, self._velocity, self._control = self.data.qpos, self.data.qvel, self.data.ctrl  # views
        self.observation_space = Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = Box(-1.0, 1.0, (2,), np.float32)
        self.task = family.tasks("test")[0]
        self._set_task(self.task)
        self._steps = 0

    def _set_task(self, task: MazeTask) -> None:
        self.task = task
        self._goal = to_xy(task.cell, self.family.walls)
        self._told = asdict(task)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        options = options or {}
        if options.get("task") is not None:
            self._set_task(options["task"])
        start = options.get("start") or self.family.start
        noise = self.np_random.uniform(-START_NOISE, START_NOISE, 2)
        self.place(to_xy(start, self.family.walls) + noise)
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
        velocity = self._velocity  # minimum and maximum, twice: np.clip takes three times as long for two numbers
        np.minimum(velocity, MAXIMUM_SPEED, out=velocity)
        np.maximum(velocity, -MAXIMUM_SPEED, out=velocity)
        np.minimum(action, 1.0, out=self._control)
        np.maximum(self._control, -1.0, out=self._control)
        mujoco.mj_step(self.model, self.data)
        self._steps += 1

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.advance(action)
        x, y = self._position
        arrived = bool((x - self._goal[0]) ** 2 + (y - self._goal[1]) ** 2 <= self.family.config.goal_radius**2)
        cut_off = self._steps >= self.family.config.max_episode_steps and not arrived
        return self.observe(), float(arrived), arrived, cut_off, self._info(arrived)

    def _info(self, arrived: bool) -> dict[str, Any]:
        return {"success": arrived, "task": {**self._told}}

    def render(self) -> np.ndarray:
        """Top view, uint8 [height, width, 3], 16 pixels a cell; drawn by hand, so no graphics library is needed."""
        scale = 16
        walls = np.kron(self.family.walls, np.ones((scale, scale), bool))
        image = np.where(walls[..., None], 90, 255).astype(np.uint8).repeat(3, -1)
        for xy, colour in ((self._goal, (214, 39, 40)), (self.data.qpos, (31, 119, 180))):
            column = int((xy[0] + self.family.walls.shape[1] / 2) * scale)
            row = int((self.family.walls.shape[0] / 2 - xy[1]) * scale)
            image[max(0, row - 5) : row + 5, max(0, column - 5) : column + 5] = colour
        return image


@lru_cache(maxsize=8)
def point_maze_model(walls: bytes, shape: tuple[int, int]) -> mujoco.MjModel:
    """PointMaze's compiled model for a layout. Raises UserError where gymnasium-robotics is not installed."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # every import of it prints a notice about other environments
            from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv
    except ImportError:
        raise UserError("the maze needs the package gymnasium-robotics: pip install 'skillmeta[robotics]'") from None
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
