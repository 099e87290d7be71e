"""Robots whose bodies differ from task to task: masses, inertias, frictions, dampings.

After PEARL, Rakelly et al. 2019 (arXiv:1903.08254), whose robots are Walker2d and Hopper: every number is multiplied by
1.5 ** U(-3, 3), dampings by 1.3 ** U(-3, 3). HalfCheetah is for tests out of distribution, as MIER's (Mendonca et al. 2020,
arXiv:2006.07178).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, Literal

import mujoco
import numpy as np

from skillmeta.config import NonNegativeInt, PositiveFloat, PositiveInt, checked
from skillmeta.tasks.base import TaskFamily, draw_tasks, validation_generator
from skillmeta.tasks.locomotion import HALF_CHEETAH, HOPPER, WALKER, LocomotionEnv, Motion, Robot, compiled


@checked
class Config:
    """PEARL's Walker by default."""

    FORMER_KEYS: ClassVar[dict[str, str]] = {"horizon": "max_episode_steps"}

    robot: Literal["walker", "hopper", "half_cheetah"] = "walker"  # whose body is changed
    log_scale: PositiveFloat = 3.0  # exponents are uniform in [-log_scale, log_scale]
    test_log_scale: PositiveFloat | None = None  # another range to test on; null: the same
    timestep: PositiveFloat = 0.004  # seconds of a substep, PEARL's; Gymnasium's are 0.002, of HalfCheetah 0.01
    set_const: bool = (
        False  # MuJoCo derives its constants (invweight0, ...) from the new masses; the old code never did
    )
    max_episode_steps: PositiveInt = 200  # steps of an episode
    train_tasks: PositiveInt = 40  # tasks of the split `train`
    validation_tasks: PositiveInt = 10  # tasks of the split `validation`
    test_tasks: PositiveInt = 10  # tasks of the split `test`
    tasks_seed: NonNegativeInt = 1337  # that the tasks are drawn by


@dataclass(frozen=True)
class Body:
    """Exponents of the multipliers, in MuJoCo's order of bodies, geoms and degrees of freedom."""

    mass: tuple[float, ...]
    inertia: tuple[float, ...]  # three a body; nothing keeps the triangle inequality, which MuJoCo does not check here
    friction: tuple[float, ...]  # three a geom
    damping: tuple[float, ...]


def changed(task: Body, config: Config) -> mujoco.MjModel:
    """The robot with the task's body."""
    model = base(config)
    model.body_mass *= 1.5 ** np.array(task.mass)
    model.body_inertia *= 1.5 ** np.array(task.inertia).reshape(-1, 3)
    model.geom_friction *= 1.5 ** np.array(task.friction).reshape(-1, 3)
    model.dof_damping *= 1.3 ** np.array(task.damping)
    if config.set_const:
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def base(config: Config) -> mujoco.MjModel:
    model = copy.copy(compiled(RUNNERS[config.robot].robot.xml))
    model.opt.timestep = config.timestep
    return model


@dataclass(frozen=True)
class Runner:
    """A robot, and what running is worth: v + alive - cost |a|^2. Success: 1 m/s forward."""

    robot: Robot
    alive: float
    cost: float
    end: str  # of an episode, before its steps are over; empty: never

    def reward(self, motion: Motion, task: Body) -> tuple[float, bool]:
        speed = float(motion.velocity[0])
        return speed + self.alive - self.cost * float(motion.action @ motion.action), speed >= 1.0


RUNNERS = {
    "walker": Runner(WALKER, 1.0, 1e-3, "the height leaves 0.8 to 2 m or the pitch 1 rad"),
    "hopper": Runner(HOPPER, 1.0, 1e-3, "it falls below 0.7 m or tilts 0.2 rad"),
    "half_cheetah": Runner(HALF_CHEETAH, 0.0, 0.1, ""),  # Gymnasium's reward
}


def family(config: Config) -> TaskFamily:
    """Bodies around the one that comes with Gymnasium."""
    runner, model = RUNNERS[config.robot], base(config)
    sizes = (model.nbody, 3 * model.nbody, 3 * model.ngeom, model.nv)

    def cut(exponents: np.ndarray) -> Body:
        parts = np.split(exponents, np.cumsum(sizes)[:-1])
        return Body(*(tuple(float(v) for v in part) for part in parts))

    def draw_task(generator: np.random.Generator) -> Body:
        return cut(generator.uniform(-config.log_scale, config.log_scale, sum(sizes)))

    legacy = np.random.RandomState(config.tasks_seed)
    scales = [config.log_scale] * config.train_tasks + [config.test_log_scale or config.log_scale] * config.test_tasks
    drawn = [cut(legacy.uniform(-scale, scale, sum(sizes))) for scale in scales]
    beyond = f" (tests: U(-{scales[-1]:g}, {scales[-1]:g}))" if config.test_log_scale else ""
    ends = f", or until {runner.end}" if runner.end else ", never an early end"
    alive = f" + {runner.alive:g}" if runner.alive else ""
    return TaskFamily(
        name="random_params",
        version=1,
        definition=(
            f"Run forward in a hidden body: Gymnasium's {config.robot}, each mass, inertia and friction times "
            f"1.5 ** U(-{config.log_scale:g}, {config.log_scale:g}){beyond}, each damping times 1.3 ** the same ({sum(sizes)} "
            f"numbers), each task an independent draw. Reward: v{alive} - {runner.cost:g} |a|^2, over the "
            f"{model.opt.timestep * runner.robot.frame_skip:g} s of a step. "
            f"{config.max_episode_steps} steps{ends}. Seen: joint angles and velocities. Success: 1 m/s. After PEARL "
            "(Rakelly et al. 2019)."
        ),
        max_episode_steps=config.max_episode_steps,
        splits={
            "train": tuple(drawn[: config.train_tasks]),
            "validation": draw_tasks(draw_task, validation_generator(config.tasks_seed), config.validation_tasks),
            "test": tuple(drawn[config.train_tasks :]),
        },
        make_env=lambda: LocomotionEnv(
            runner.robot, runner.reward, drawn[0], config.max_episode_steps, ends=bool(runner.end),
            body=lambda task: changed(task, config),
        ),
        draw_task=draw_task,
    )  # fmt: skip
