"""OGBench's manipulation scenes with hidden goals: cubes, a drawer and a window behind locks, puzzles of buttons.

Park et al. 2024 (arXiv:2410.20092), package ogbench 1.2. A task is a start and a goal, spelled out. The test tasks are OGBench's
own five; the training tasks are drawn here.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import gymnasium
import mujoco
import numpy as np
from gymnasium.spaces import Box

from skillmeta.config import NonNegativeInt, OneOf, PositiveInt, checked, to_plain
from skillmeta.errors import UserError
from skillmeta.tasks import picture
from skillmeta.tasks.base import TaskFamily, draw_tasks, validation_generator

SCENES = {  # OGBench's lengths of an episode
    "cube-single": 200,
    "cube-double": 500,
    "cube-triple": 1000,
    "scene": 750,
    "puzzle-3x3": 500,
    "puzzle-4x4": 500,
    "puzzle-4x5": 1000,
    "puzzle-4x6": 1000,
}
DRAWER_OPEN, WINDOW_OPEN = -0.16, 0.2  # metres; 0 is closed
IN_DRAWER = (0.33, -0.356, 0.065986)  # where OGBench wants a cube that shall lie in the shut drawer
CENTER, SCALE = np.array([0.425, 0.0, 0.0]), 10.0  # of places among OGBench's observations
MARGIN = 0.08  # metres between a cube's goals: twice OGBench's tolerance, so that no place is success for both
DRAWER_SCALE, WINDOW_SCALE = 18.0, 15.0  # of how far they are open
WORK_LOW, WORK_HIGH = np.array([0.25, -0.35]), np.array([0.6, 0.35])  # metres that the effector can reach


@checked
class Config:
    """Two cubes by default."""

    FORMER_KEYS: ClassVar[dict[str, str]] = {"horizon": "max_episode_steps"}

    scene: Annotated[str, OneOf(tuple(SCENES))] = "cube-double"  # OGBench's environment
    reward: Literal["sparse", "singletask"] = "sparse"  # 1 at success, or minus the number of things not in place
    goal_visible: bool = False  # append the goal to the observation, as OGBench's oracle representation has it
    max_episode_steps: PositiveInt | None = None  # steps of an episode; null: OGBench's
    train_tasks: PositiveInt = 40  # tasks of the split `train`
    validation_tasks: PositiveInt = 10  # tasks of the split `validation`
    tasks_seed: NonNegativeInt = 0  # that the tasks are drawn by


@dataclass(frozen=True)
class Things:
    """Where everything is. What a scene does not have is empty."""

    cubes: tuple[tuple[float, float, float], ...] = ()  # metres
    buttons: tuple[int, ...] = ()  # 0 or 1
    drawer: float = 0.0
    window: float = 0.0


@dataclass(frozen=True)
class Rearrangement:
    """From a start, which is shaken by a centimetre at every reset, to a goal."""

    name: str
    start: Things
    goal: Things


def make_scene(scene: str, mode: str = "task") -> Any:
    """OGBench's environment. Raises UserError naming the extra where it is not installed.

    Made by its class: `gymnasium.make` would wrap it, and its own time limit is not ours. Cubes keep their numbers: OGBench's
    default deals them out anew at every reset, so that one task would ask for another goal in each episode; its single-task
    environments do as we do.
    """
    try:
        from ogbench.manipspace.envs.cube_env import CubeEnv
        from ogbench.manipspace.envs.puzzle_env import PuzzleEnv
        from ogbench.manipspace.envs.scene_env import SceneEnv
    except ImportError:
        raise UserError("OGBench needs the package ogbench: in the clone, pip install -e '.[ogbench]'") from None
    kind, _, size = scene.partition("-")
    made = {"cube": CubeEnv, "puzzle": PuzzleEnv, "scene": SceneEnv}[kind]
    numbered = {} if kind == "puzzle" else {"permute_blocks": False}
    return made(env_type=size or "scene", mode=mode, terminate_at_goal=False, visualize_info=False, **numbered)


def as_theirs(task: Rearrangement, scene: str) -> dict[str, Any]:
    """The task as OGBench's `task_info`."""
    start, goal = task.start, task.goal
    if scene.startswith("cube"):
        return {"task_name": task.name, "init_xyzs": np.array(start.cubes), "goal_xyzs": np.array(goal.cubes)}
    if scene.startswith("puzzle"):
        states = {"init_button_states": np.array(start.buttons), "goal_button_states": np.array(goal.buttons)}
        return {"task_name": task.name, **states}

    def plain(things: Things) -> dict[str, Any]:
        return {
            "block_xyzs": np.array(things.cubes),
            "button_states": np.array(things.buttons),
            "drawer_pos": things.drawer,
            "window_pos": things.window,
        }

    return {"task_name": task.name, "init": plain(start), "goal": plain(goal)}


def as_ours(info: dict[str, Any]) -> Rearrangement:
    """One of OGBench's own tasks."""

    def cubes(array: Any) -> tuple[tuple[float, float, float], ...]:
        return tuple((float(x), float(y), float(z)) for x, y, z in array)

    def buttons(array: Any) -> tuple[int, ...]:
        return tuple(int(b) for b in np.ravel(array))

    def things(plain: dict[str, Any]) -> Things:
        states = buttons(plain["button_states"])
        return Things(cubes(plain["block_xyzs"]), states, float(plain["drawer_pos"]), float(plain["window_pos"]))

    if "init" in info:
        start, goal = things(info["init"]), things(info["goal"])
    elif "init_xyzs" in info:
        start, goal = Things(cubes(info["init_xyzs"])), Things(cubes(info["goal_xyzs"]))
    else:
        start = Things(buttons=buttons(info["init_button_states"]))
        goal = Things(buttons=buttons(info["goal_button_states"]))
    return Rearrangement(str(info["task_name"]), start, goal)


def draw_task(scene: str, generator: np.random.Generator) -> Rearrangement:
    """A task that can be done, of the kinds that OGBench tests: cubes go to free places on the table, onto each other or into the
    drawer, buttons to where presses can bring them."""
    if scene.startswith("cube"):
        start, goal = draw_cubes(scene, generator)
    elif scene.startswith("puzzle"):
        start, goal = draw_lights(scene, generator)
    else:
        start, goal = draw_room(generator)
    return Rearrangement("drawn", start, goal)


def distance(task: Rearrangement, other: Rearrangement) -> float:
    """Between two goals, from wherever: metres by which the cubes' places differ at most; infinite if another thing differs."""
    a, b = task.goal, other.goal
    if (a.buttons, a.drawer, a.window) != (b.buttons, b.drawer, b.window):
        return np.inf
    return max((float(np.linalg.norm(np.subtract(x, y))) for x, y in zip(a.cubes, b.cubes, strict=True)), default=0.0)


def draw_cubes(scene: str, generator: np.random.Generator) -> tuple[Things, Things]:
    """One or more cubes are moved; in a quarter of the tasks with several, one of them onto another."""
    count = {"single": 1, "double": 2, "triple": 3}[scene.partition("-")[2]]
    low, high = np.array([0.3, -0.25]), np.array([0.55, 0.25])
    cubes = free_places(generator, count, low, high)
    moved = 1 + int(generator.integers(count))
    goal = free_places(generator, count, low, high, cubes)[:moved] + cubes[moved:]
    if count > 1 and generator.random() < 0.25:
        x, y, z = goal[-1]
        goal = ((x, y, z + 0.04), *goal[1:])
    return Things(cubes), Things(goal)


def draw_lights(scene: str, generator: np.random.Generator) -> tuple[Things, Things]:
    """Any lights, and what one to four different presses make of them."""
    rows, columns = (int(n) for n in scene.partition("-")[2].split("x"))
    state = generator.integers(2, size=(rows, columns))
    lit = tuple(int(b) for b in state.ravel())
    for press in generator.choice(rows * columns, int(generator.integers(1, 5)), replace=False):
        toggle(state, int(press))
    return Things(buttons=lit), Things(buttons=tuple(int(b) for b in state.ravel()))


def draw_room(generator: np.random.Generator) -> tuple[Things, Things]:
    """The cube stays in half of the tasks, goes elsewhere in a quarter, and in a quarter into the drawer, which is then shut."""
    low, high = np.array([0.32, -0.05]), np.array([0.43, 0.16])
    cubes = free_places(generator, 1, low, high)
    kind = generator.random()
    after = cubes if kind < 0.5 else free_places(generator, 1, low, high, cubes) if kind < 0.75 else (IN_DRAWER,)
    states = generator.integers(2, size=(2, 4)).tolist()  # before and after: two buttons, drawer, window
    if after == (IN_DRAWER,):
        states[1][2] = 0
    start, goal = (
        Things(places, (s[0], s[1]), DRAWER_OPEN if s[2] else 0.0, WINDOW_OPEN if s[3] else 0.0)
        for places, s in zip((cubes, after), states, strict=True)
    )
    return draw_room(generator) if goal == start else (start, goal)


def free_places(
    generator: np.random.Generator,
    count: int,
    low: np.ndarray,
    high: np.ndarray,
    taken: tuple[tuple[float, float, float], ...] = (),
) -> tuple[tuple[float, float, float], ...]:
    """Places on the table that are 8 cm and more from each other and from those taken."""
    places: list[tuple[float, float, float]] = []
    while len(places) < count:
        x, y = (round(float(v), 3) for v in generator.uniform(low, high))
        if all(np.hypot(x - other[0], y - other[1]) >= 0.08 for other in (*taken, *places)):
            places.append((x, y, 0.02))
    return tuple(places)


def toggle(state: np.ndarray, button: int) -> None:
    """Press a button of a puzzle: it and its neighbours change. `state` [rows, columns] is changed in place."""
    row, column = divmod(button, state.shape[1])
    for r, c in ((row, column), (row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
        if 0 <= r < state.shape[0] and 0 <= c < state.shape[1]:
            state[r, c] = 1 - state[r, c]


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """OGBench makes its action space anew each time that it looks at it, with a warning about precision."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def numpy_seeded(generator: np.random.Generator) -> Iterator[None]:
    """Third-party code inside may draw from numpy's global generator: it gets one of ours, and finds its own as it was."""
    before = np.random.get_state()
    np.random.seed(int(generator.integers(2**32)))
    try:
        yield
    finally:
        np.random.set_state(before)


class OGBenchEnv(gymnasium.Env):
    """A UR5e arm at its table; actions are relative moves of the gripper, its yaw and its opening, [5]."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, config: Config, task: Rearrangement):
        self.config, self.task = config, task
        self.render_mode = "rgb_array"
        self.max_episode_steps = config.max_episode_steps or SCENES[config.scene]
        self.inner = make_scene(config.scene)
        with quietly():
            self.inner.reset(seed=0, options={"task_info": as_theirs(task, config.scene)})
        self.observation_space = Box(-np.inf, np.inf, self._observe().shape, np.float32)
        self.action_space = Box(-1.0, 1.0, (5,), np.float32)
        self._pictures: dict[str, Any] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.task = (options or {}).get("task") or self.task
        self._steps = 0
        own = seed if seed is not None else int(self.np_random.integers(2**31))
        with quietly():
            self.inner.reset(seed=own, options={"task_info": as_theirs(self.task, self.config.scene)})
        # On its way OGBench takes two steps of unseeded noise to look at the goal: what they leave behind goes.
        data = self.inner.data
        data.qvel[:], data.qacc_warmstart[:], data.ctrl[:], data.time = 0, 0, 0, 0
        buttons = [self.inner._cur_button_states] if self.task.start.buttons else []
        self.inner.set_state(data.qpos.copy(), data.qvel.copy(), *buttons)
        mujoco.mj_rnePostConstraint(self.inner.model, data)  # forces of contact, which are seen, too
        self.inner.pre_step()
        self.inner.post_step()
        self.info = self.inner.compute_ob_info()
        return self._observe(), self._info(False)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        _, _, _, _, self.info = self.inner.step(np.asarray(action, np.float64))
        self._steps += 1
        success = bool(self.info["success"])
        reward = float(success) if self.config.reward == "sparse" else -float(len(unplaced(self.inner)))
        truncated = self._steps >= self.max_episode_steps and not success
        return self._observe(), reward, success, truncated, self._info(success)

    def _observe(self) -> np.ndarray:
        seen = self.inner.compute_observation()
        if self.config.goal_visible:
            seen = np.concatenate([seen, goal_numbers(self.task)])
        return np.asarray(seen, np.float32)

    def _info(self, success: bool) -> dict[str, Any]:
        return {"success": success, "task": to_plain(self.task)}

    def render(self) -> np.ndarray:
        return picture.frame(self._pictures, self.inner.model, self.inner.data, camera="front")

    def close(self) -> None:
        picture.close(self._pictures)


def unplaced(scene: Any) -> list[str]:
    """What of OGBench's environment in task mode is not yet where it shall be: cube_0, button_1, drawer, window."""
    successes = scene._compute_successes()
    if not isinstance(successes, tuple):
        kind = "button" if hasattr(scene, "_num_buttons") else "cube"
        return [f"{kind}_{i}" for i, placed in enumerate(successes) if not placed]
    cubes, buttons, drawer, window = successes
    missing = [f"cube_{i}" for i, placed in enumerate(cubes) if not placed]
    missing += [f"button_{i}" for i, placed in enumerate(buttons) if not placed]
    return missing + ([] if drawer else ["drawer"]) + ([] if window else ["window"])


def goal_numbers(task: Rearrangement) -> np.ndarray:
    """The goal, float32: cubes' places, buttons' states, drawer, window, scaled as in OGBench's oracle representation."""
    goal = task.goal
    numbers = [*np.ravel([(np.array(cube) - CENTER) * SCALE for cube in goal.cubes]), *goal.buttons]
    if goal.cubes and goal.buttons:  # the scene, which alone has the two
        numbers += [goal.drawer * DRAWER_SCALE, goal.window * WINDOW_SCALE]
    return np.array(numbers, np.float32)


def family(config: Config) -> TaskFamily:
    """A scene's rearrangements."""
    theirs = make_scene(config.scene)
    test = tuple(as_ours(info) for info in theirs.task_infos)

    def draw(generator: np.random.Generator) -> Rearrangement:
        return draw_task(config.scene, generator)

    def away(tasks: Sequence[Rearrangement]) -> Callable[[Rearrangement], bool]:
        return lambda task: all(distance(task, other) >= MARGIN for other in tasks)

    own = validation_generator(config.tasks_seed)
    validation = draw_tasks(draw, own, config.validation_tasks, away(test))
    train = draw_tasks(draw, np.random.default_rng(config.tasks_seed), config.train_tasks, away(test + validation))
    max_episode_steps = config.max_episode_steps or SCENES[config.scene]

    def outline(axes: Any, task: Rearrangement | None) -> None:
        (near, right), (far, left) = WORK_LOW, WORK_HIGH
        axes.set_xlim(right - 0.05, left + 0.05)
        axes.set_ylim(near - 0.05, far + 0.05)
        axes.plot([right, left, left, right, right], [near, near, far, far, near], color="#555555", linewidth=1)
        for x, y, _ in task.goal.cubes if task is not None else ():
            axes.plot(y, x, marker="s", color="#d62728", markersize=6)

    def expert(env: gymnasium.Env, own: np.random.Generator) -> Any:
        from skillmeta.experts.ogbench import Solver

        inner: Any = env.unwrapped
        return Solver(inner, own)

    paid = "1 at success" if config.reward == "sparse" else "minus the number of things out of place after the step"
    shown = "and the goal" if config.goal_visible else "not the goal"
    drawn = {
        "cube": "one or more cubes moved to free places, in a quarter of the tasks with several one of them onto another",
        "puzzle": "any lights and what one to four presses make of them",
        "scene": "buttons, drawer and window at random, the cube left alone (1/2), moved (1/4) or shut in the drawer (1/4)",
    }[config.scene.partition("-")[0]]
    return TaskFamily(
        name="ogbench",
        version=3,
        definition=(
            f"OGBench's {config.scene}: bring everything to a hidden goal. Reward: {paid}; an episode ends there, or after "
            f"{max_episode_steps} steps. Actions: relative moves of the gripper (3), its yaw and opening. Seen: arm and objects, "
            f"OGBench's numbers, {shown}. Cubes keep their numbers, as in its single-task environments. Test tasks: OGBench's own "
            f"five; {len(train)} training and {len(validation)} validation tasks drawn here: {drawn}. Their goals and those of the "
            f"tests differ in a button, in the drawer or the window, or in a cube's place by {100 * MARGIN:g} cm or more. "
            "Park et al. 2024 (arXiv:2410.20092), package ogbench 1.2."
        ),
        max_episode_steps=max_episode_steps,
        splits={"train": train, "validation": validation, "test": test},
        make_env=lambda: OGBenchEnv(config, train[0]),
        draw_task=draw,
        distance=distance,
        margin=MARGIN,
        features=goal_numbers,
        group=lambda task: task.name,
        expert=expert,
        positions=positions,
        coverage=coverage,
        draw=outline,
    )


def positions(observations: np.ndarray) -> np.ndarray:
    """Where the gripper is, seen from the front: left to right, near to far, [..., 2] metres."""
    place = observations[..., 12:14] / SCALE + CENTER[:2]
    result: np.ndarray = place[..., ::-1]
    return result


def coverage(places: np.ndarray) -> float:
    """Share of a 20x20 grid over the table that positions [N, 2] fall into."""
    low, high = WORK_LOW[::-1], WORK_HIGH[::-1]
    cells = np.floor((places - low) / (high - low) * 20).astype(int)
    inside = cells[((cells >= 0) & (cells < 20)).all(1)]
    return len(np.unique(inside, axis=0)) / 400
