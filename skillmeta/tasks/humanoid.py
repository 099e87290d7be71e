"""Humanoid: walk in a hidden direction. PEARL, Rakelly et al. 2019 (arXiv:1903.08254)."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from skillmeta.config import NonNegativeInt, PositiveInt, checked
from skillmeta.tasks.ant import Heading, features
from skillmeta.tasks.base import TaskFamily, draw_tasks, validation_generator
from skillmeta.tasks.locomotion import HUMANOID, LocomotionEnv, Motion, heading


@checked
class Config:
    """PEARL's numbers."""

    FORMER_KEYS: ClassVar[dict[str, str]] = {"horizon": "max_episode_steps"}

    contact_cost: bool = True  # false: as MuJoCo 2.0 had it, whose contact forces were always 0
    max_episode_steps: PositiveInt = 200  # steps of an episode
    train_tasks: PositiveInt = 100  # tasks of the split `train`
    validation_tasks: PositiveInt = 30  # tasks of the split `validation`
    test_tasks: PositiveInt = 30  # tasks of the split `test`
    tasks_seed: NonNegativeInt = 1337  # that the tasks are drawn by


def reward(motion: Motion, task: Heading, config: Config) -> tuple[float, bool]:
    """1.25 v along the heading - 0.1 |a|^2 - min(0.5e-6 |contact forces|^2, 10) + 5; v is the centre of mass's.

    The old code's 0.25 (moved) / (timestep 0.003) is 1.25 v at five substeps a step. Success: 0.5 m/s along it.
    """
    speed = float(motion.velocity @ heading(task.angle))
    impact = min(0.5e-6 * float(np.square(motion.data.cfrc_ext).sum()), 10.0) if config.contact_cost else 0.0
    return 1.25 * speed - 0.1 * float(motion.action @ motion.action) - impact + 5.0, speed >= 0.5


def family(config: Config) -> TaskFamily:
    """Directions all around."""
    legacy = np.random.RandomState(config.tasks_seed)
    drawn = [Heading(float(a)) for a in legacy.uniform(0.0, 2.0 * np.pi, config.train_tasks + config.test_tasks)]

    def draw_task(generator: np.random.Generator) -> Heading:
        return Heading(float(generator.uniform(0.0, 2.0 * np.pi)))

    robot = replace(HUMANOID, contact_forces=True)  # they are seen, whatever they cost
    impact = " - min(0.5e-6 |contact forces|^2, 10)" if config.contact_cost else ""
    return TaskFamily(
        name="humanoid",
        version=1,
        definition=(
            f"Walk in a hidden direction, each task an independent draw. Reward: 1.25 times the centre of mass's velocity in it "
            f"- 0.1 |a|^2{impact} + 5. "
            f"{config.max_episode_steps} steps, or until the torso leaves heights 1 to 2 m. Seen: Humanoid-v5's 348 "
            "numbers. Success: 0.5 m/s in the direction. Gymnasium's Humanoid-v5 model; after PEARL (Rakelly et al. 2019)."
        ),
        max_episode_steps=config.max_episode_steps,
        splits={
            "train": tuple(drawn[: config.train_tasks]),
            "validation": draw_tasks(draw_task, validation_generator(config.tasks_seed), config.validation_tasks),
            "test": tuple(drawn[config.train_tasks :]),
        },
        make_env=lambda: LocomotionEnv(
            robot, lambda motion, task: reward(motion, task, config), drawn[0], config.max_episode_steps, ends=True
        ),
        draw_task=draw_task,
        features=features,
    )
