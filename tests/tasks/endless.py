"""A family of a user's own whose environment never ends by itself."""

from __future__ import annotations

import gymnasium

from skillmeta.config import checked
from skillmeta.tasks.base import TaskFamily
from tests.envs import users


@checked
class Config:
    """Nothing to choose."""


class Endless(users.Endless):
    """It takes its task, and does nothing with it."""


def family(config: Config) -> TaskFamily:
    return TaskFamily(
        name="endless",
        version=1,
        definition="two numbers that are pushed about",
        max_episode_steps=20,
        splits={"train": (0, 1), "validation": (2,), "test": (3, 4)},
        make_env=made,
        draw_task=lambda generator: int(generator.integers(10, 1000)),
    )


def made() -> gymnasium.Env:
    return Endless()
