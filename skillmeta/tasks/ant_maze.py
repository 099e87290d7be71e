"""AntMaze: an ant walks through a maze to a hidden goal. gymnasium-robotics' AntMaze-v5, after D4RL (Fu et al. 2020)."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar, Literal

import mujoco
import numpy as np

from skillmeta.config import NonNegativeInt, PositiveInt, checked
from skillmeta.errors import UserError
from skillmeta.tasks.ant import Place
from skillmeta.tasks.base import TaskFamily, draw_tasks, validation_generator
from skillmeta.tasks.locomotion import ANT, LocomotionEnv, Motion, ant_pose_and_place
from skillmeta.tasks.maze_generator import distances, to_cell, to_xy

MAPS = {"umaze": "U_MAZE", "medium": "MEDIUM_MAZE", "large": "LARGE_MAZE"}
CELL = 4.0  # metres
NEAR = 0.45  # metres: gymnasium-robotics' success
MARGIN = (
    2 * NEAR
)  # metres between goals of different splits: where an ant arrives at two at once, they are of one split
SHAKEN = 0.25  # of a cell: how far starts and goals lie from the middle of theirs, at most
START = (1, 1)


@checked
class Config:
    """The U-shaped maze by default."""

    FORMER_KEYS: ClassVar[dict[str, str]] = {"horizon": "max_episode_steps"}

    map: Literal["umaze", "medium", "large"] = "umaze"  # D4RL's and gymnasium-robotics' mazes
    reward: Literal["sparse", "dense"] = "sparse"  # sparse: 1 within 0.45 m; dense: exp(-distance)
    min_path: PositiveInt = 2  # cells of path from the start to a goal, at least
    max_episode_steps: PositiveInt | None = None  # steps of an episode; null: 700 for umaze, 1000 for the others
    train_tasks: PositiveInt = 40  # tasks of the split `train`
    validation_tasks: PositiveInt = 10  # tasks of the split `validation`
    test_tasks: PositiveInt = 10  # tasks of the split `test`
    tasks_seed: NonNegativeInt = 0  # that the tasks are drawn by


@lru_cache(maxsize=3)
def maze(name: str) -> tuple[np.ndarray, mujoco.MjModel]:
    """Walls [rows, columns] and the compiled model. Raises UserError where gymnasium-robotics is not installed."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # every import of it prints a notice about other environments
            from gymnasium_robotics.envs.maze import maps
            from gymnasium_robotics.envs.maze.ant_maze_v5 import AntMazeEnv
    except ImportError:
        raise UserError(
            "AntMaze needs the package gymnasium-robotics: in the clone, pip install -e '.[robotics]'"
        ) from None
    layout = getattr(maps, MAPS[name])
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as folder:  # AntMaze leaves its generated XML in the temporary folder
        tempfile.tempdir = folder
        try:
            model = AntMazeEnv(maze_map=layout).model
        finally:
            tempfile.tempdir = before
    return np.array([[cell == 1 for cell in row] for row in layout]), model


def distance(goal: Place, other: Place) -> float:
    """Metres."""
    return float(np.hypot(goal.x - other.x, goal.y - other.y))


def reward(motion: Motion, task: Place, config: Config) -> tuple[float, bool]:
    distance = float(np.hypot(motion.place[0] - task.x, motion.place[1] - task.y))
    return (float(distance <= NEAR) if config.reward == "sparse" else float(np.exp(-distance))), distance <= NEAR


def family(config: Config) -> TaskFamily:
    """Goals in the free cells away from the start."""
    walls, model = maze(config.map)
    paths = distances(walls, START)
    far = [(int(r), int(c)) for r, c in np.argwhere(paths >= config.min_path)]
    if not far:
        raise UserError(f"ant_maze {config.map}: no cell lies {config.min_path} cells from the start; lower min_path")
    max_episode_steps = config.max_episode_steps or (700 if config.map == "umaze" else 1000)

    def shaken(cell: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
        return CELL * (to_xy(cell, walls) + generator.uniform(-SHAKEN, SHAKEN, 2))

    def draw_task(generator: np.random.Generator) -> Place:
        x, y = shaken(far[int(generator.integers(len(far)))], generator)
        return Place(float(x), float(y))

    def away(goals: Sequence[Place]) -> Callable[[Place], bool]:
        return lambda goal: all(distance(goal, other) >= MARGIN for other in goals)

    # Tests are drawn after so many, as in version 1; training goals are the draws that keep away from the others.
    generator = np.random.default_rng(config.tasks_seed)
    test = tuple(draw_task(generator) for _ in range(config.train_tasks + config.test_tasks))[config.train_tasks :]
    own = validation_generator(config.tasks_seed)
    validation = draw_tasks(draw_task, own, config.validation_tasks, away(test))
    generator = np.random.default_rng(config.tasks_seed)
    train = draw_tasks(draw_task, generator, config.train_tasks, away(test + validation))
    robot = replace(ANT, observe=ant_pose_and_place, reset_noise=0.0, contact_forces=False, place=root)

    def make_env() -> LocomotionEnv:
        return LocomotionEnv(
            robot, lambda motion, task: reward(motion, task, config), train[0], max_episode_steps, ends_at_success=True,
            body=lambda task: model, start=lambda own: shaken(START, own), camera=above(walls),
        )  # fmt: skip

    def coverage(positions: np.ndarray) -> float:
        cells = to_cell(positions.reshape(-1, 2) / CELL, walls)
        return len({(r, c) for r, c in cells.tolist() if not walls[r, c]}) / int((~walls).sum())

    def draw(axes: Any, task: Place | None) -> None:
        rows, columns = CELL * np.array(walls.shape)
        extent = (-columns / 2, columns / 2, -rows / 2, rows / 2)
        axes.imshow(np.where(walls, 0.35, 1.0), cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
        axes.plot(*(CELL * to_xy(START, walls)), marker="s", color="black", markersize=5, zorder=5)
        if task is not None:
            axes.plot(task.x, task.y, marker="*", color="#d62728", markersize=12, zorder=6)
        axes.set_xticks([])
        axes.set_yticks([])

    paid = "1 within 0.45 m of it, else 0" if config.reward == "sparse" else "exp(-distance)"
    return TaskFamily(
        name="ant_maze",
        version=2,
        definition=(
            f"An ant walks through the {config.map} maze, cells of 4 m, to a hidden goal {config.min_path} or more cells away. "
            f"Goals to train on, of validation and of tests are {MARGIN:g} m or more apart. Reward: {paid}. "
            f"{max_episode_steps} steps, or "
            "until it arrives. Seen: place, pose and velocities, 29 numbers; neither the "
            "goal nor contact forces. gymnasium-robotics' AntMaze-v5, after D4RL (Fu et al. 2020)."
        ),
        max_episode_steps=max_episode_steps,
        splits={"train": train, "validation": validation, "test": test},
        make_env=make_env,
        draw_task=draw_task,
        distance=distance,
        margin=MARGIN,
        positions=lambda observations: observations[..., :2],
        coverage=coverage,
        draw=draw,
    )


def root(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    """Where the ant is by its coordinates: what AntMaze compares with the goal."""
    result: np.ndarray = data.qpos[:2].copy()
    return result


def above(walls: np.ndarray) -> mujoco.MjvCamera:
    """A camera that sees the whole maze; from the side its walls hide the ant."""
    camera = mujoco.MjvCamera()
    camera.azimuth, camera.elevation = 90.0, -80.0
    camera.distance = 1.3 * CELL * max(walls.shape)
    return camera
