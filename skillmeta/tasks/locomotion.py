"""Gymnasium's MuJoCo v5 robots under our own rewards: what the cheetah, ant, humanoid and walker families share.

The robots' models, resets and observations are those of Gymnasium's v5 environments; rewards, ends and lengths are those of
the meta-RL literature, which never agree with v5's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import mujoco
import numpy as np
from gymnasium.spaces import Box

from skillmeta.config import Range, to_plain
from skillmeta.tasks import picture

MODELS_KEPT = 32  # compiled models of changed robots, the last ones used


def legacy_draws(
    seed: int, train_range: Range, test_range: Range | None, train: int, test: int
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of training and of test tasks as PEARL's code draws them, by numpy's legacy generator: the test tasks are the last of
    one draw, or have a range of their own."""
    legacy = np.random.RandomState(seed)
    if test_range is None:
        drawn = legacy.uniform(train_range[0], train_range[1], train + test)
        return drawn[:train], drawn[train:]
    return legacy.uniform(train_range[0], train_range[1], train), legacy.uniform(test_range[0], test_range[1], test)


@dataclass(frozen=True)
class Robot:
    """What Gymnasium's v5 environment of that name simulates and sees."""

    xml: str
    frame_skip: int
    observe: Callable[[mujoco.MjModel, mujoco.MjData], np.ndarray]
    reset_noise: float
    velocity_noise: str  # normal | uniform: how the initial velocities are drawn
    place: Callable[[mujoco.MjModel, mujoco.MjData], np.ndarray]  # what its velocity is the difference of, [2]
    healthy: Callable[[mujoco.MjData], bool] = field(default=lambda data: True)
    contact_forces: bool = False  # cfrc_ext must be computed: MuJoCo does it only when asked


class Motion(NamedTuple):
    """What a reward is made of."""

    velocity: np.ndarray  # [2] mean over the step, metres a second
    place: np.ndarray  # [2]
    action: np.ndarray  # [A]
    data: mujoco.MjData


Reward = Callable[[Motion, Any], tuple[float, bool]]  # (motion, task) -> reward, success


def assets(name: str) -> str:
    return str(Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / name)


@lru_cache(maxsize=8)
def compiled(xml: str) -> mujoco.MjModel:
    """The model of a file that comes with Gymnasium; callers copy what they change."""
    return mujoco.MjModel.from_xml_path(assets(xml))


class LocomotionEnv(gymnasium.Env):
    """One robot, whose task is what it is rewarded for or what its body is like.

    Args:
        robot: see `Robot`.
        reward: see `Reward`.
        task: the first one.
        max_episode_steps: steps of an episode.
        ends: whether an episode ends when the robot is not healthy.
        ends_at_success: whether it ends at success.
        body: the model that a task has, where bodies differ.
        drive: what the motors do with an action, where that differs.
        start: where the robot starts, [2], where that is not the origin of its model.
        camera: that it is filmed by.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(
        self,
        robot: Robot,
        reward: Reward,
        task: Any,
        max_episode_steps: int,
        ends: bool = False,
        ends_at_success: bool = False,
        body: Callable[[Any], mujoco.MjModel] | None = None,
        drive: Callable[[np.ndarray, Any], np.ndarray] | None = None,
        start: Callable[[np.random.Generator], np.ndarray] | None = None,
        camera: Any = "track",
    ):
        self.robot, self.reward, self.task, self.max_episode_steps, self.ends = (
            robot,
            reward,
            task,
            max_episode_steps,
            ends,
        )
        self.ends_at_success, self.camera = ends_at_success, camera
        self.body = body and lru_cache(MODELS_KEPT)(body)
        self.drive, self.start, self.frame_skip = drive, start, robot.frame_skip
        self.render_mode = "rgb_array"
        self._pictures: dict[str, Any] = {}
        self._enter(copy.copy(compiled(robot.xml)) if self.body is None else self.body(task))
        self.action_space = Box(*self.model.actuator_ctrlrange.T.astype(np.float32), dtype=np.float32)
        dim = len(robot.observe(self.model, self.data))
        self.observation_space = Box(-np.inf, np.inf, (dim,), np.float32)

    def _enter(self, model: mujoco.MjModel) -> None:
        self.model, self.data = model, mujoco.MjData(model)
        self.dt = model.opt.timestep * self.frame_skip

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.task = (options or {}).get("task") or self.task
        self._task_info, self._steps = to_plain(self.task), 0
        if self.body is not None and (model := self.body(self.task)) is not self.model:
            self._enter(model)
        model, data, noise = self.model, self.data, self.robot.reset_noise
        mujoco.mj_resetData(model, data)
        data.qpos += self.np_random.uniform(-noise, noise, model.nq)
        if self.robot.velocity_noise == "normal":
            data.qvel += noise * self.np_random.standard_normal(model.nv)
        else:
            data.qvel += self.np_random.uniform(-noise, noise, model.nv)
        if self.start is not None:
            data.qpos[:2] = self.start(self.np_random)
        mujoco.mj_forward(model, data)
        return self._observe(), self._info(False, np.zeros(2))

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        robot, data = self.robot, self.data
        action = np.clip(action, self.action_space.low, self.action_space.high)  # type: ignore[attr-defined]
        before = robot.place(self.model, data)
        data.ctrl[:] = action if self.drive is None else self.drive(action, self.task)
        mujoco.mj_step(self.model, data, self.frame_skip)
        if robot.contact_forces:
            mujoco.mj_rnePostConstraint(self.model, data)
        after = robot.place(self.model, data)
        velocity = (after - before) / self.dt
        reward, success = self.reward(Motion(velocity, after, action, data), self.task)
        self._steps += 1
        ended = (self.ends and not robot.healthy(data)) or (self.ends_at_success and success)
        truncated = self._steps >= self.max_episode_steps and not ended
        return self._observe(), reward, ended, truncated, self._info(success, velocity)

    def _observe(self) -> np.ndarray:
        return self.robot.observe(self.model, self.data).astype(np.float32)

    def _info(self, success: bool, velocity: np.ndarray) -> dict[str, Any]:
        task = {name: list(value) if isinstance(value, list) else value for name, value in self._task_info.items()}
        return {"success": success, "task": task, "x_velocity": float(velocity[0]), "y_velocity": float(velocity[1])}

    def render(self) -> np.ndarray:
        return picture.frame(self._pictures, self.model, self.data, camera=self.camera)

    def close(self) -> None:
        picture.close(self._pictures)


# -- the robots ------------------------------------------------------------------------------------------------------------
def root(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    """Where a planar robot is: its first coordinate, which is exact after a step."""
    return np.array([data.qpos[0], 0.0])


def torso(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    """Where the torso is by its pose, which MuJoCo leaves one substep behind the coordinates."""
    result: np.ndarray = data.xpos[1, :2].copy()
    return result


def mass_center(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    result: np.ndarray = (model.body_mass @ data.xipos[:, :2]) / model.body_mass.sum()
    return result


def planar(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    return np.concatenate([data.qpos[1:], data.qvel])


def planar_with_torso(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    return np.concatenate([data.qpos[1:], data.qvel, data.xpos[1]])


def planar_clipped(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    return np.concatenate([data.qpos[1:], np.clip(data.qvel, -10, 10)])


def ant_pose(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    return np.concatenate([data.qpos[2:], data.qvel])


def ant_pose_and_place(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    return np.concatenate([data.qpos, data.qvel])


def ant_all(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    return np.concatenate([data.qpos, data.qvel, np.clip(data.cfrc_ext[1:], -1, 1).ravel()])


def humanoid_all(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    return np.concatenate(
        [data.qpos[2:], data.qvel, data.cinert[1:].ravel(), data.cvel[1:].ravel(), data.qfrc_actuator[6:],
         data.cfrc_ext[1:].ravel()]
    )  # fmt: skip


def ant_healthy(data: mujoco.MjData) -> bool:
    return bool(np.isfinite(data.qpos).all() and np.isfinite(data.qvel).all() and 0.2 <= data.qpos[2] <= 1.0)


def humanoid_healthy(data: mujoco.MjData) -> bool:
    return bool(1.0 < data.qpos[2] < 2.0)


def walker_healthy(data: mujoco.MjData) -> bool:
    return bool(0.8 < data.qpos[1] < 2.0 and -1.0 < data.qpos[2] < 1.0)


def hopper_healthy(data: mujoco.MjData) -> bool:
    state = np.concatenate([data.qpos[2:], data.qvel])
    return bool(
        np.isfinite(state).all() and (np.abs(state) < 100).all() and data.qpos[1] > 0.7 and abs(data.qpos[2]) < 0.2
    )


HALF_CHEETAH = Robot("half_cheetah.xml", 5, planar, 0.1, "normal", root)
ANT = Robot("ant.xml", 5, ant_pose, 0.1, "normal", torso, ant_healthy, contact_forces=True)
HUMANOID = Robot("humanoid.xml", 5, humanoid_all, 0.01, "uniform", mass_center, humanoid_healthy, contact_forces=True)
WALKER = Robot("walker2d_v5.xml", 4, planar_clipped, 0.005, "uniform", root, walker_healthy)
HOPPER = Robot("hopper.xml", 4, planar_clipped, 0.005, "uniform", root, hopper_healthy)


def heading(angle: float) -> np.ndarray:
    return np.array([np.cos(angle), np.sin(angle)])
