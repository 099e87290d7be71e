"""A scripted arm for FrankaKitchen: way points beside a handle, reached by resolved-rate inverse kinematics.

The way points were found once by the cross-entropy method on this simulator. The hinge cabinet needs a grasp and an arc that
way points do not give; it is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import mujoco
import numpy as np

from skillmeta.config import NonNegativeFloat, NonNegativeInt, OneOf, PositiveInt, checked
from skillmeta.data.episodes import Recording, single_episode
from skillmeta.errors import ConfigError
from skillmeta.seeds import Seeds
from skillmeta.tasks.base import TaskFamily
from skillmeta.tasks.kitchen import KitchenEnv, Order, is_done

Actions = Iterator[np.ndarray]  # of [9], one a step of the environment
REACH = 0.16  # radians that a joint's target moves at most in a step: velocity limit 2 rad/s times 0.08 s
FORWARD = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])  # the hand: fingers towards the furniture


@dataclass(frozen=True)
class Way:
    """How one subtask is done."""

    site: str  # of the model, that way points are relative to
    points: tuple[tuple[float, float, float], ...]  # metres
    grip: float  # how far the fingers are open, metres
    turn: float  # weight of the hand's orientation against its place


WAYS = {
    "microwave": Way("microhandle_site", ((0.0907, -0.2101, 0.0699), (-0.095, -0.1345, -0.0147), (0.012, 0.0657, -0.0029),
                                          (-0.0861, -0.3764, -0.0121), (-0.2544, -0.5232, 0.116)), 0.0092, 0.044),
    "kettle": Way("kettle_site", ((-0.0318, -0.24, 0.0311), (-0.012, -0.2155, -0.0842), (0.0187, 0.0521, -0.173),
                                  (0.011, 0.2461, -0.088)), 0.0, 0.1123),
    "light switch": Way("light_site", ((0.0312, -0.1966, -0.1225), (0.0712, -0.0076, -0.0037), (-0.0028, -0.0106, 0.0001),
                                       (-0.4203, -0.031, -0.0035)), 0.0, 0.179),
    "slide cabinet": Way("slide_site", ((-0.2194, -0.2828, -0.0504), (-0.0426, 0.0506, -0.008), (0.0038, 0.0108, -0.0372),
                                        (0.1089, 0.0114, -0.1069)), 0.0, 0.1938),
    "bottom burner": Way("knob2_site", ((0.0636, -0.1703, -0.0238), (0.0632, -0.0221, -0.0683), (0.0841, 0.0019, -0.0464),
                                        (-0.0638, 0.0614, -0.0514)), 0.0, 0.1301),
    "top burner": Way("knob4_site", ((0.0372, -0.1618, 0.0143), (0.0529, -0.0147, -0.0452), (0.0808, -0.007, -0.0485),
                                     (-0.1039, -0.0231, -0.0318)), 0.0, 0.0606),
}  # fmt: skip


class Arm:
    """Turns places for the hand into actions, looking at the simulator's true state."""

    def __init__(self, env: KitchenEnv, generator: np.random.Generator, action_noise: float = 0.0):
        self.model, self.data = env.model, env.data
        self.generator, self.action_noise = generator, action_noise
        self.hand = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_SITE, "end_effector")
        self.home = self.data.qpos[:7].copy()
        self.stiffness = self.model.actuator_gainprm[:7, 0]

    def place(self) -> np.ndarray:
        result: np.ndarray = self.data.site_xpos[self.hand].copy()
        return result

    def site(self, name: str) -> np.ndarray:
        result: np.ndarray = self.data.site_xpos[mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_SITE, name)].copy()
        return result

    def action(self, joints: np.ndarray, grip: float) -> np.ndarray:
        """The action [9] that moves the arm's joints by [7] against gravity, and the fingers towards `grip`."""
        gravity = self.data.qfrc_bias[:7] / self.stiffness  # without it the arm sags by millimetres a step
        arm = (joints + gravity) / REACH + self.action_noise * self.generator.normal(size=7)
        result: np.ndarray = np.clip(np.concatenate([arm, (grip - self.data.qpos[7:9]) / REACH]), -1, 1).astype(
            np.float32
        )
        return result

    def towards(self, target: np.ndarray, grip: float, turn: float, fastest: float, drift: np.ndarray) -> np.ndarray:
        """The action that brings the hand nearer to `target`: damped least squares, the null space towards home."""
        step = 0.6 * (target - self.place())
        step = step * min(1.0, fastest / max(1e-9, float(np.linalg.norm(step)))) + drift
        axes = self.data.site_xmat[self.hand].reshape(3, 3)
        twist = 0.5 * np.cross(axes.T, FORWARD.T).sum(0)
        twist = twist * min(1.0, 0.15 / max(1e-9, float(np.linalg.norm(twist))))
        linear, angular = np.zeros((3, self.model.nv)), np.zeros((3, self.model.nv))
        mujoco.mj_jacSite(self.model, self.data, linear, angular, self.hand)
        jacobian = np.vstack([linear[:, :7], turn * angular[:, :7]])
        inverse = jacobian.T @ np.linalg.inv(jacobian @ jacobian.T + 1e-4 * np.eye(6))
        idle = 0.05 * (self.home - self.data.qpos[:7])
        joints = inverse @ np.concatenate([step, 0.5 * turn * twist]) + idle - inverse @ (jacobian @ idle)
        return self.action(joints, grip)

    def go(
        self, target: np.ndarray, within: float, most: int, grip: float, turn: float, fastest: float,
        until: Callable[[], bool] = lambda: False,
    ) -> Actions:  # fmt: skip
        """Actions until the hand is there, `until` holds, or `most` steps are over. An integral term pushes where it sticks."""
        drift = np.zeros(3)
        for _ in range(most):
            drift = np.clip(drift + 0.15 * (target - self.place()), -0.06, 0.06)
            yield self.towards(target, grip, turn, fastest, drift)
            if until() or np.linalg.norm(target - self.place()) < within:
                return

    def go_home(self) -> Actions:
        """Back off from the furniture, then the first posture, joint by joint.

        Way points were searched from that posture: starting within 0.04 rad of it, nine in ten episodes have four done in
        order, within 0.08 seven in ten.
        """
        x, y, z = self.place()
        yield from self.go(np.array([x, min(y - 0.15, 0.3), z]), 0.06, 8, 0.0, 0.1, 0.06)
        for _ in range(40):
            left = self.home - self.data.qpos[:7]
            yield self.action(left, 0.0)
            if np.abs(left).max() < 0.04:
                return


def do(arm: Arm, subtask: str, waypoint_noise: float) -> Actions:
    """One subtask, from the home posture."""
    way, site = WAYS[subtask], arm.site(WAYS[subtask].site)
    for number, point in enumerate(way.points):
        target = site + point + waypoint_noise * arm.generator.normal(size=3)
        most = 22 if number < 2 else 28
        yield from arm.go(target, 0.03, most, way.grip, way.turn, 0.045, lambda: is_done(arm.data.qpos, subtask))
        if is_done(arm.data.qpos, subtask):
            return


def script(
    env: KitchenEnv,
    subtasks: Sequence[str],
    generator: np.random.Generator,
    action_noise: float = 0.0,
    waypoint_noise: float = 0.003,
) -> Actions:
    """Actions that do the subtasks one after another, then hold still. One that fails is tried twice more.

    Raises ConfigError for a subtask that has no script.
    """
    unknown = [subtask for subtask in subtasks if subtask not in WAYS]
    if unknown:
        raise ConfigError(f"kitchen: {unknown[0]!r} has no script; there are {', '.join(WAYS)}")
    arm = Arm(env, generator, action_noise)
    for number, subtask in enumerate(subtasks):
        for attempt in range(3):
            if number or attempt:
                yield from arm.go_home()
            yield from do(arm, subtask, waypoint_noise)
            if is_done(arm.data.qpos, subtask):
                break
    while True:
        yield arm.action(np.zeros(7), 0.0)


@checked
class Config:
    """How much, what, and how clumsy."""

    steps: PositiveInt = 100_000  # environment steps to record
    subtasks: list[Annotated[str, OneOf(tuple(WAYS))]] = field(default_factory=lambda: list(WAYS))  # that are done
    per_episode: PositiveInt = 4  # subtasks of an episode, in random order
    # lowest and highest standard deviation of an episode's noise
    action_noise: list[NonNegativeFloat] = field(default_factory=lambda: [0.02, 0.08])
    waypoint_noise: NonNegativeFloat = 0.003  # metres that way points are moved by
    max_episode_steps: PositiveInt = 500  # an episode ends after so many
    seed: NonNegativeInt = 0  # of orders and noise

    def __post_init__(self) -> None:
        if self.per_episode > len(set(self.subtasks)):
            raise ValueError(f"per_episode is {self.per_episode}; it must lie between 1 and the number of subtasks")
        if len(self.action_noise) != 2 or self.action_noise[0] > self.action_noise[1]:
            raise ValueError(f"action_noise is {self.action_noise}; two numbers, the lower one first, are expected")


def collect(
    family: TaskFamily, config: Config, progress: Callable[[int], None] = lambda steps: None
) -> Iterator[Recording]:
    """Episodes of random orders until there are `config.steps` steps, each recorded to its end or its last subtask."""
    env = family.make_env()
    if not isinstance(env, KitchenEnv):
        raise ConfigError("collector: kitchen knows the family kitchen only")
    generator = Seeds(config.seed).stream("collector").numpy()
    recorded = 0
    while recorded < config.steps:
        chosen = [config.subtasks[i] for i in generator.permutation(len(config.subtasks))[: config.per_episode]]
        recording = record(env, chosen, config, generator)
        recorded += recording.episode.reward.size
        progress(recorded)
        yield recording
    env.close()


def record(env: KitchenEnv, subtasks: list[str], config: Config, generator: np.random.Generator) -> Recording:
    """One episode. A subtask worked if it was done at any step: later ones may knock it over again."""
    observation, _ = env.reset(seed=int(generator.integers(2**31)), options={"task": Order(tuple(subtasks))})
    noise = float(generator.uniform(config.action_noise[0], config.action_noise[1]))
    actions = script(env, subtasks, generator, noise, config.waypoint_noise)
    observations, taken, rewards, success = [observation], list[np.ndarray](), list[float](), list[bool]()
    done: set[str] = set()
    while len(taken) < config.max_episode_steps and not (success and success[-1]):
        action = next(actions)
        observation, reward, _, _, info = env.step(action)
        observations.append(observation)
        taken.append(action)
        rewards.append(reward)
        success.append(info["success"])
        done.update(subtask for subtask in subtasks if is_done(env.data.qpos, subtask))
    episode = single_episode(
        np.stack(observations), np.stack(taken), np.array(rewards, np.float32), success=np.array(success)
    )
    return Recording(episode, tuple((subtask, subtask in done) for subtask in subtasks))
