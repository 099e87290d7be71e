"""HalfCheetah: run at a hidden velocity, in a hidden direction, or with motors that turn the wrong way.

Sources: PEARL, Rakelly et al. 2019 (arXiv:1903.08254), whose fixed velocities are kept; MAML, Finn et al. 2017
(arXiv:1703.03400), U(0, 2) drawn afresh; MetaCURE, Zhang et al. 2021 (sparse rewards); HyperX, Zintgraf et
al. 2021 (arXiv:2010.01062; a direction that pays only far from the start); MIER, Mendonca et al. 2020
(arXiv:2006.07178; tasks to test on that lie outside those to train on).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, ClassVar, Literal

import numpy as np

from skillmeta.config import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Range, checked
from skillmeta.tasks.base import TaskFamily, draw_tasks, validation_generator
from skillmeta.tasks.locomotion import HALF_CHEETAH, LocomotionEnv, Motion, legacy_draws, planar_with_torso

JOINTS = 6


@checked
class Config:
    """PEARL's cheetah-vel by default; configs/tasks has the others."""

    FORMER_KEYS: ClassVar[dict[str, str]] = {"horizon": "max_episode_steps"}

    goal: Literal["velocity", "direction", "negated"] = "velocity"  # negated: run forward with some motors negated
    train_range: Range = field(default_factory=lambda: [0.0, 3.0])  # of velocities, metres a second
    test_range: Range | None = None  # another range to test on; null: the same
    sparse: bool = False  # reward 2 - |v - v*| within `radius` and 0 outside (MetaCURE)
    radius: PositiveFloat = 0.5  # of the sparse reward, and of success
    free_distance: NonNegativeFloat = 0.0  # metres from the start within which running in a direction pays nothing
    control_cost: float = 0.05  # coefficient of the squared actions in the reward
    observation: Literal[17, 20] = 17  # numbers: v5's 17; 20 appends the torso's place, as PEARL does
    max_episode_steps: PositiveInt = 200  # steps of an episode
    train_tasks: PositiveInt = 100  # tasks of the split `train`
    validation_tasks: PositiveInt = 30  # tasks of the split `validation`
    test_tasks: PositiveInt = 30  # tasks of the split `test`
    tasks_seed: NonNegativeInt = 1337  # that the tasks are drawn by


@dataclass(frozen=True)
class Velocity:
    """Metres a second along x."""

    velocity: float


@dataclass(frozen=True)
class Direction:
    """1: forward, -1: backward."""

    direction: int


@dataclass(frozen=True)
class Negated:
    """Motors, 0 to 5, that do the opposite of their command."""

    motors: tuple[int, ...]


def velocity_reward(motion: Motion, task: Velocity, config: Config) -> tuple[float, bool]:
    """PEARL: -|v - v*| - cost |a|^2; sparse, MetaCURE: 2 - |v - v*| within the radius."""
    away = abs(motion.velocity[0] - task.velocity)
    near = bool(away <= config.radius)
    gain = (2.0 - away if near else 0.0) if config.sparse else -away
    return float(gain - config.control_cost * motion.action @ motion.action), near


def direction_reward(motion: Motion, task: Direction, config: Config) -> tuple[float, bool]:
    """PEARL: d v - cost |a|^2; HyperX pays d v only from 5 m on."""
    speed = task.direction * motion.velocity[0]
    gain = speed if abs(motion.place[0]) >= config.free_distance else 0.0
    return float(gain - config.control_cost * motion.action @ motion.action), bool(speed >= 1.0)


def forward_reward(motion: Motion, task: Negated, config: Config) -> tuple[float, bool]:
    return direction_reward(motion, Direction(1), config)


def negate(action: np.ndarray, task: Negated) -> np.ndarray:
    signs = np.ones(JOINTS)
    signs[list(task.motors)] = -1
    result: np.ndarray = signs * action
    return result


def velocities(config: Config) -> tuple[list[Velocity], list[Velocity]]:
    counts = (config.train_tasks, config.test_tasks)
    train, test = legacy_draws(config.tasks_seed, config.train_range, config.test_range, *counts)
    return [Velocity(float(v)) for v in train], [Velocity(float(v)) for v in test]


def family(config: Config) -> TaskFamily:
    """The families that share the robot and differ in what is hidden."""
    reward, draw_task, drive = velocity_reward, None, None
    train: Sequence[Any]
    validation: Sequence[Any]
    test: Sequence[Any]
    if config.goal == "velocity":
        train, test = velocities(config)
        low, high = config.train_range
        beyond = f" (tests: U({config.test_range[0]:g}, {config.test_range[1]:g}))" if config.test_range else ""
        what = f"Run at a hidden velocity v* ~ U({low:g}, {high:g}) m/s{beyond}, each task an independent draw."
        paid = f"2 - |v - v*| within {config.radius:g}, else 0" if config.sparse else "-|v - v*|"
        success = f"v within {config.radius:g} of v*"

        def draw_task(generator: np.random.Generator) -> Velocity:
            return Velocity(float(generator.uniform(low, high)))

        validation = draw_tasks(draw_task, validation_generator(config.tasks_seed), config.validation_tasks)
    elif config.goal == "direction":
        reward = direction_reward  # type: ignore[assignment]
        train = validation = test = (Direction(1), Direction(-1))
        what = "Run forward or backward; there are no other tasks, so the validation and test tasks are the training tasks."
        far = f" from {config.free_distance:g} m on, before that 0" if config.free_distance else ""
        paid, success = f"v in the hidden direction{far}", "1 m/s in it"
    else:
        reward, drive = forward_reward, negate  # type: ignore[assignment]
        train = [Negated(m) for count in (0, 1, 2) for m in combinations(range(JOINTS), count)]
        test = [Negated(m) for m in combinations(range(JOINTS), 3)]
        validation = [Negated(m) for m in combinations(range(JOINTS), 4)]
        what = "Run forward with hidden motors negated: up to two of six in training, four in validation, three in the tests."
        paid, success = "v", "1 m/s forward"
    robot = replace(HALF_CHEETAH, observe=planar_with_torso) if config.observation == 20 else HALF_CHEETAH
    first = train[0]

    def make_env() -> LocomotionEnv:
        return LocomotionEnv(
            robot, lambda motion, task: reward(motion, task, config), first, config.max_episode_steps, drive=drive
        )

    seen = "joint angles and velocities" + (", the torso's place" if config.observation == 20 else "")
    placed = config.observation == 20
    return TaskFamily(
        name="half_cheetah",
        version=1,
        definition=(
            f"{what} Reward: {paid} - {config.control_cost:g} |a|^2, v over the 0.05 s of a step. "
            f"{config.max_episode_steps} steps, never an "
            f"early end. Seen: {seen}. Success: {success}. Gymnasium's HalfCheetah-v5 model; after PEARL, MAML, MetaCURE and MIER."
        ),
        max_episode_steps=config.max_episode_steps,
        splits={"train": tuple(train), "validation": tuple(validation), "test": tuple(test)},
        make_env=make_env,
        draw_task=draw_task,
        same_tasks=config.goal == "direction",
        features=features,
        positions=positions if placed else None,
        coverage=coverage if placed else None,
        draw=draw if placed else None,
    )  # fmt: skip


def features(task: Velocity | Direction | Negated) -> np.ndarray:
    """What an oracle sees, float32: the velocity, the direction, or a 1 for each negated motor."""
    if isinstance(task, Negated):
        mask = np.zeros(JOINTS, np.float32)
        mask[list(task.motors)] = 1
        return mask
    return np.array([task.velocity if isinstance(task, Velocity) else task.direction], np.float32)


def positions(observations: np.ndarray) -> np.ndarray:
    """Where the torso is and how fast, the speed in eighths of a metre a second, so that both span about the same."""
    return np.stack([observations[..., 17], 8 * observations[..., 8]], -1)


def coverage(positions: np.ndarray) -> float:
    """Share of a grid over x from -40 to 40 metres and velocities from -5 to 5 m/s that was visited."""
    cells = np.floor((positions + 40) / 4).astype(int)
    inside = cells[((cells >= 0) & (cells < 20)).all(1)]
    return len(np.unique(inside, axis=0)) / 400


def draw(axes: Any, task: Any) -> None:
    """Place against velocity: the plane that coverage is counted in."""
    axes.set_xlim(-40, 40)
    axes.set_ylim(-40, 40)
    axes.set_yticks([-32, -16, 0, 16, 32], ["-4", "-2", "0", "2", "4"])
    axes.set_xlabel("x (m)")
    axes.set_ylabel("velocity (m/s)")
    if isinstance(task, Velocity):
        axes.axhline(8 * task.velocity, color="#d62728", linewidth=0.8)
