"""A point that walks to a hidden goal: PEARL's point robots and MAML's 2-D navigation, which differ in a few numbers.

Sources: PEARL, Rakelly et al. 2019 (arXiv:1903.08254), appendix, with the fixed task sets of its code; MAML, Finn et al. 2017
(arXiv:1703.03400), section 5.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from skillmeta.config import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, checked
from skillmeta.tasks.base import Expert, TaskFamily, draw_tasks, validation_generator
from skillmeta.tasks.batched import NativeEnv, Outcome, uniform


@checked
class Config:
    """PEARL's dense point robot by default; configs/tasks has the others."""

    FORMER_KEYS: ClassVar[dict[str, str]] = {"horizon": "max_episode_steps"}

    goals: Literal["square", "half_circle"] = "square"  # uniform in [-extent, extent]^2, or on radius `extent`, 0 to pi
    extent: PositiveFloat = 1.0  # half width of the square, or radius of the half circle
    start_extent: NonNegativeFloat = 1.0  # starts are uniform in [-start_extent, start_extent]^2; 0: always the origin
    max_step: PositiveFloat = 0.1  # how far a step goes along each axis, at most
    sparse: bool = False  # reward 1 - distance within goal_radius and 0 outside, instead of minus the distance
    goal_radius: PositiveFloat = 0.2  # of success, and of the sparse reward
    end_within: NonNegativeFloat = 0.0  # the episode ends this near to the goal in both coordinates; 0: it never does
    max_episode_steps: PositiveInt = 20  # steps of an episode
    train_tasks: PositiveInt = 80  # tasks of the split `train`
    validation_tasks: PositiveInt = 20  # tasks of the split `validation`
    test_tasks: PositiveInt = 20  # tasks of the split `test`
    tasks_seed: NonNegativeInt = 1337  # that the tasks are drawn by


@dataclass(frozen=True)
class Goal:
    """Where to go."""

    x: float
    y: float


class Points:
    """N points in lockstep. Observation [N, 2]: where they are."""

    def __init__(self, config: Config, num: int):
        self.config, self.num, self.max_episode_steps, self.observation_dim = config, num, config.max_episode_steps, 2
        self.action_space = Box(-config.max_step, config.max_step, (2,), np.float32)
        self.at = np.zeros((num, 2))

    def reset(self, seeds: np.ndarray, tasks: Sequence[Goal]) -> np.ndarray:
        self.goal = np.array([(task.x, task.y) for task in tasks])
        start = np.stack([uniform(seeds, 0, axis) for axis in (0, 1)], 1)
        self.at = self.config.start_extent * (2 * start - 1)
        return self.at.astype(np.float32)

    def step(self, action: np.ndarray) -> Outcome:
        config = self.config
        self.at = self.at + np.clip(action, -config.max_step, config.max_step)
        gap = self.at - self.goal
        distance = np.sqrt((gap**2).sum(1))
        near = distance <= config.goal_radius
        reward = np.where(near, 1 - distance, 0.0) if config.sparse else -distance
        ended = (np.abs(gap) < config.end_within).all(1)
        return Outcome(self.at.astype(np.float32), reward, ended, near)


def circle_goal(config: Config, angle: float) -> Goal:
    return Goal(config.extent * float(np.cos(angle)), config.extent * float(np.sin(angle)))


def fixed_goals(config: Config) -> list[Goal]:
    """PEARL's code: legacy draws from seed 1337, or evenly spaced angles, shuffled."""
    count = config.train_tasks + config.test_tasks
    legacy = np.random.RandomState(config.tasks_seed)
    if config.goals == "square":
        return [Goal(float(x), float(y)) for x, y in legacy.uniform(-config.extent, config.extent, (count, 2))]
    angles = np.linspace(0, np.pi, count)
    legacy.shuffle(angles)
    return [circle_goal(config, angle) for angle in angles]


def family(config: Config) -> TaskFamily:
    """Goals in a square or on a half circle."""
    fixed = fixed_goals(config)

    def draw_task(generator: np.random.Generator) -> Goal:
        if config.goals == "half_circle":
            return circle_goal(config, generator.uniform(0, np.pi))
        return Goal(*(float(v) for v in generator.uniform(-config.extent, config.extent, 2)))

    validation = draw_tasks(draw_task, validation_generator(config.tasks_seed), config.validation_tasks)

    def expert(env: gymnasium.Env, generator: np.random.Generator) -> Expert:
        goal: Any = env.unwrapped.task  # type: ignore[attr-defined]
        return lambda observation: np.clip(
            np.array([goal.x, goal.y], np.float32) - observation, -config.max_step, config.max_step
        ).astype(np.float32)

    def draw(axes: Any, task: Goal | None) -> None:
        limit = 1.25 * max(config.extent, config.start_extent)
        axes.set_xlim(-limit, limit)
        axes.set_ylim(-limit, limit)
        if task is not None:
            axes.plot(task.x, task.y, marker="*", color="#d62728", markersize=11)
            if config.sparse:
                angles = np.linspace(0, 2 * np.pi, 60)
                circle = config.goal_radius * np.stack([np.cos(angles), np.sin(angles)])
                axes.plot(task.x + circle[0], task.y + circle[1], color="#d62728", linewidth=0.8)

    def shaped_reward(task: Goal, episodes: Any) -> np.ndarray:
        gap = episodes.observation[:, 1:] - np.array([task.x, task.y], np.float32)
        result: np.ndarray = -np.sqrt((gap**2).sum(-1))
        return result

    where = (
        f"uniform in a square of half width {config.extent:g}, each task an independent draw"
        if config.goals == "square"
        else f"on a half circle of radius {config.extent:g}; training and test goals evenly spaced, others uniform"
    )
    reward = f"1 - distance within {config.goal_radius:g}, 0 outside" if config.sparse else "minus the distance"
    start = f"uniform in half width {config.start_extent:g}" if config.start_extent else "the origin"
    end = f" and ends within {config.end_within:g} of the goal on both axes" if config.end_within else ""
    return TaskFamily(
        name="point",
        version=1,
        definition=(
            f"A point steps up to {config.max_step:g} along each axis towards a hidden goal, {where}. Start: {start}. "
            f"Reward: {reward}. An episode has {config.max_episode_steps} steps{end}. Seen: the position. Success: within "
            f"{config.goal_radius:g}. After PEARL (Rakelly et al. 2019) and MAML (Finn et al. 2017)."
        ),
        max_episode_steps=config.max_episode_steps,
        splits={
            "train": tuple(fixed[: config.train_tasks]),
            "validation": validation,
            "test": tuple(fixed[config.train_tasks :]),
        },
        make_env=lambda: NativeEnv(Points(config, 1), fixed[0]),
        draw_task=draw_task,
        native=lambda num: Points(config, num),
        expert=expert,
        shaped_reward=shaped_reward if config.sparse else None,
        positions=lambda observations: observations[..., :2],  # behind them the goal, where it is shown
        coverage=lambda positions: covered(positions, max(config.extent, config.start_extent)),
        draw=draw,
    )


def covered(positions: np.ndarray, limit: float, cells: int = 20) -> float:
    """Share of a grid over [-limit, limit]^2 that positions [N, 2] fall into."""
    index = np.floor((positions / limit + 1) / 2 * cells).astype(int)
    inside = index[((index >= 0) & (index < cells)).all(1)]
    return len(np.unique(inside, axis=0)) / cells**2
