"""FrankaKitchen with ordered subtasks: four things to do in an order that nobody tells.

The simulator is gymnasium-robotics' FrankaKitchen-v1 (Gupta et al. 2019, relay policy learning, arXiv:1910.11956), whose joints,
actuators and resets are those of D4RL's kitchen (Fu et al. 2020, arXiv:2004.07219). Ordered rewards are SiMPL's (Nam et al.
2022, arXiv:2204.11828); its lists of orders are not public property, so ours are drawn by a rule of our own.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise, permutations
from typing import Annotated, Any, ClassVar, Literal

import gymnasium
import mujoco
import numpy as np
from gymnasium.spaces import Box

from skillmeta.config import NonNegativeInt, OneOf, PositiveInt, checked, to_plain
from skillmeta.errors import UserError
from skillmeta.tasks import picture
from skillmeta.tasks.base import Expert, TaskFamily

SUBTASKS = ("microwave", "kettle", "bottom burner", "top burner", "light switch", "slide cabinet", "hinge cabinet")
WHERE = {  # coordinates of the objects' positions, of which the first nine are the robot's
    "microwave": [22],
    "kettle": [23, 24, 25, 26, 27, 28, 29],
    "bottom burner": [11, 12],
    "top burner": [15, 16],
    "light switch": [17, 18],
    "slide cabinet": [19],
    "hinge cabinet": [20, 21],
}
DONE_AT = {  # where they are to be
    "microwave": [-0.75],
    "kettle": [-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06],
    "bottom burner": [-0.88, -0.01],
    "top burner": [-0.92, -0.01],
    "light switch": [-0.69, -0.05],
    "slide cabinet": [0.37],
    "hinge cabinet": [0.0, 1.45],
}
DONE_WITHIN = 0.3  # of it, Euclidean
NOISE = {"d4rl": (0.1, 0.1), "gymnasium": (0.01, 0.0005), "none": (0.0, 0.0)}  # of what is seen of robot and objects

Subtask = Annotated[str, OneOf(SUBTASKS)]


@checked
class Config:
    """SiMPL's setting: 23 training and 10 test orders, D4RL's observation and noise; 10 more for validation."""

    FORMER_KEYS: ClassVar[dict[str, str]] = {"horizon": "max_episode_steps"}

    observation: Literal[59, 60] = (
        60  # numbers: D4RL's (robot 9, objects 21, goals 30) or Gymnasium's (with velocities)
    )
    noise: Literal["d4rl", "gymnasium", "none"] = "d4rl"  # whose noise of what is seen
    # subtasks whose goals stand in D4RL's last 30 numbers, the others' are zeros; the same in every task, so they tell nothing of
    # it. SiMPL shows microwave, kettle, bottom burner and light switch, for that is what its logs (kitchen-mixed) show
    shown_goals: list[Subtask] = field(default_factory=list)
    subtasks: list[Subtask] = field(default_factory=lambda: list(SUBTASKS[:6]))  # that orders are made of
    length: PositiveInt = 4  # subtasks in an order
    max_episode_steps: PositiveInt = 280  # steps of an episode
    train_tasks: PositiveInt = 23  # tasks of the split `train`
    validation_tasks: PositiveInt = 10  # tasks of the split `validation`
    test_tasks: PositiveInt = 10  # tasks of the split `test`
    tasks_seed: NonNegativeInt = 0  # that the tasks are drawn by

    def __post_init__(self) -> None:
        if self.shown_goals and self.observation == 59:
            raise ValueError("shown_goals needs observation=60; Gymnasium's 59 numbers have no place for goals")
        if self.length > len(set(self.subtasks)):
            raise ValueError(
                f"length is {self.length}; it must lie between 1 and the {len(set(self.subtasks))} subtasks"
            )


@dataclass(frozen=True)
class Order:
    """What is to be done, first to last."""

    subtasks: tuple[str, ...]


def orders(config: Config) -> dict[str, tuple[Order, ...]]:
    """All orders, shuffled: the first ones to train on; then, for tests and after them for validation, those that never train
    but whose every transition from one subtask to the next does, so that they ask for known pieces in an unknown order.

    Raises UserError if there are too few.
    """
    every = list(permutations(dict.fromkeys(config.subtasks), config.length))
    shuffled = [every[i] for i in np.random.default_rng(config.tasks_seed).permutation(len(every))]
    train, rest = shuffled[: config.train_tasks], shuffled[config.train_tasks :]
    known = {(None, order[0]) for order in train} | {pair for order in train for pair in pairwise(order)}
    new = [order for order in rest if {(None, order[0]), *pairwise(order)} <= known]
    wanted = config.test_tasks + config.validation_tasks
    if len(train) < config.train_tasks or len(new) < wanted:
        raise UserError(
            f"kitchen: {len(config.subtasks)} subtasks in orders of {config.length} give {len(train)} training orders and "
            f"{len(new)} for tests and validation, not {config.train_tasks} and {wanted}; ask for fewer, or another tasks_seed"
        )
    parts = {"train": train, "validation": new[config.test_tasks : wanted], "test": new[: config.test_tasks]}
    return {split: tuple(Order(order) for order in part) for split, part in parts.items()}


def simulator(noise: str) -> Any:
    """gymnasium-robotics' environment. Raises UserError where it is not installed."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # every import of it prints a notice about other environments
            from gymnasium_robotics.envs.franka_kitchen.kitchen_env import KitchenEnv as Kitchen
    except ImportError:
        raise UserError(
            "the kitchen needs the package gymnasium-robotics: in the clone, pip install -e '.[robotics]'"
        ) from None
    robot, objects = NOISE[noise]
    return Kitchen(
        tasks_to_complete=list(SUBTASKS),
        terminate_on_tasks_completed=False,
        remove_task_when_completed=False,
        object_noise_ratio=objects,
        robot_noise_ratio=robot,
    )


def is_done(positions: np.ndarray, subtask: str) -> bool:
    """Whether the simulator's positions [30] have it done."""
    return bool(np.linalg.norm(positions[WHERE[subtask]] - DONE_AT[subtask]) < DONE_WITHIN)


def count(positions: np.ndarray, order: Sequence[str], counted: int) -> int:
    """How many subtasks of the order count once the world is so, `counted` of them before.

    One counts when it is done and all before it count; done too early, it counts as soon as its turn comes, if it still is. What
    has counted stays. (SiMPL judges by the positions with their noise, which is 0.01 at most; here they are true.)
    """
    while counted < len(order) and is_done(positions, order[counted]):
        counted += 1
    return counted


class KitchenEnv(gymnasium.Env):
    """One robot in one kitchen."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}

    def __init__(self, config: Config, task: Order):
        self.config, self.task = config, task
        self.render_mode = "rgb_array"
        self.inner = simulator(config.noise)
        self.model, self.data = self.inner.model, self.inner.data
        self.observation_space = Box(-np.inf, np.inf, (config.observation,), np.float32)
        self.action_space = Box(-1.0, 1.0, (9,), np.float32)
        self._goals = np.zeros(30)
        for subtask in config.shown_goals:
            self._goals[WHERE[subtask]] = DONE_AT[subtask]
        self._pictures: dict[str, Any] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.task = (options or {}).get("task") or self.task
        self._steps = self.counted = 0
        observation, _ = self.inner.reset(seed=seed if seed is not None else int(self.np_random.integers(2**31)))
        return self._observe(observation), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, *_ = self.inner.step(np.asarray(action, np.float64))
        before, self._steps = self.counted, self._steps + 1
        self.counted = count(self.data.qpos, self.task.subtasks, before)
        ended = self.counted == len(self.task.subtasks)
        truncated = self._steps >= self.config.max_episode_steps and not ended
        return self._observe(observation), float(self.counted - before), ended, truncated, self._info()

    def _observe(self, observation: dict[str, Any]) -> np.ndarray:
        seen = observation["observation"]  # robot 9, its velocities 9, objects 21, their velocities 20
        if self.config.observation == 60:
            seen = np.concatenate([seen[:9], seen[18:39], self._goals])
        result: np.ndarray = seen.astype(np.float32)
        return result

    def _info(self) -> dict[str, Any]:
        whole = self.counted == len(self.task.subtasks)
        return {"success": whole, "completed": self.counted, "task": to_plain(self.task)}

    def render(self) -> np.ndarray:
        camera = mujoco.MjvCamera()
        camera.distance, camera.azimuth, camera.elevation = 2.2, 70.0, -35.0
        camera.lookat[:] = (-0.2, 0.5, 2.0)
        return picture.frame(self._pictures, self.model, self.data, camera=camera)

    def close(self) -> None:
        picture.close(self._pictures)
        self.inner.close()


def family(config: Config) -> TaskFamily:
    """Orders of subtasks."""
    splits = orders(config)
    places = [([i - 9 for i in WHERE[name]], DONE_AT[name]) for name in dict.fromkeys(config.subtasks)]

    def features(task: Order) -> np.ndarray:
        """Which subtask comes at each place, one-hot, float32."""
        return np.array([[name == subtask for name in SUBTASKS] for subtask in task.subtasks], np.float32).ravel()

    def expert(env: gymnasium.Env, generator: np.random.Generator) -> Expert:
        from skillmeta.experts.kitchen import script

        inner: Any = env.unwrapped
        actions = script(inner, inner.task.subtasks, generator)
        return lambda observation: next(actions)

    def positions(observations: np.ndarray) -> np.ndarray:
        """x and y on the wheel, then which of the family's subtasks are done, [..., 2 + subtasks]."""
        objects = observations[..., 9:30] if config.observation == 60 else observations[..., 18:39]
        done = [np.linalg.norm(objects[..., at] - goal, axis=-1) < DONE_WITHIN for at, goal in places]
        return np.concatenate([wheel(objects), np.stack(done, axis=-1)], axis=-1)

    def coverage(positions: np.ndarray) -> float:
        """Share of the family's subtasks that were done at any of positions [N, 2 + subtasks]."""
        return float(positions[:, 2:].any(0).mean())

    seen = "D4RL's 60 numbers" if config.observation == 60 else "Gymnasium's 59 numbers"
    goals = f"in every task those of {', '.join(config.shown_goals)}" if config.shown_goals else "none"
    return TaskFamily(
        name="kitchen",
        version=1,
        definition=(
            f"FrankaKitchen: do {config.length} of {', '.join(dict.fromkeys(config.subtasks))} in a hidden order. "
            f"Reward: 1 for each that is done when all before it are. "
            f"{config.max_episode_steps} steps, or until all are. Actions: nine "
            f"joint velocities. Seen: {seen}, noise: {config.noise}, goals among them: {goals}. Validation and test orders "
            "are not trained on, their transitions are. Success: all done. After D4RL (Fu et al. 2020) and SiMPL "
            "(Nam et al. 2022); orders of our own."
        ),
        max_episode_steps=config.max_episode_steps,
        splits=splits,
        make_env=lambda: KitchenEnv(config, splits["train"][0]),
        features=features,
        group=lambda task: task.subtasks[0],
        expert=expert,
        positions=positions,
        coverage=coverage,
        draw=draw,
    )


SPOKES = np.stack([(np.cos(a), np.sin(a)) for a in np.linspace(0, 2 * np.pi, len(SUBTASKS), endpoint=False)])
AT_FIRST = {"kettle": [-0.269, 0.35, 1.619, 1.006, 0.004, -0.0066, -0.0003]}  # the others start at 0


def wheel(objects: np.ndarray) -> np.ndarray:
    """Where the objects' positions [..., 21] stand on a wheel with a spoke for each subtask, [..., 2].

    Progress of a subtask, 0 at the start and 1 at its goal, goes out along its spoke; several add up.
    """
    place = np.zeros((*objects.shape[:-1], 2))
    for spoke, subtask in zip(SPOKES, SUBTASKS, strict=True):
        at = objects[..., [i - 9 for i in WHERE[subtask]]]
        start, goal = np.array(AT_FIRST.get(subtask, np.zeros(len(WHERE[subtask])))), np.array(DONE_AT[subtask])
        left = np.linalg.norm(at - goal, axis=-1) / np.linalg.norm(start - goal)
        place += np.clip(1 - left, 0, 1)[..., None] * spoke
    return place


def draw(axes: Any, task: Order | None) -> None:
    axes.set_xlim(-2, 2)
    axes.set_ylim(-2, 2)
    axes.set_xticks([])
    axes.set_yticks([])
    for spoke, subtask in zip(SPOKES, SUBTASKS, strict=True):
        axes.plot(*np.stack([0 * spoke, spoke]).T, color="#cccccc", linewidth=1, zorder=0)
        axes.text(*(1.25 * spoke), subtask, fontsize=6, ha="center", va="center", color="#777777")
    if task is not None:
        axes.set_xlabel(" > ".join(task.subtasks), fontsize=6)
