"""A family whose environment never ends an episode: five steps are all that it says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from gymnasium.spaces import Box

from skillmeta.tasks.base import TaskFamily
from tests.envs.users import Endless


@dataclass(frozen=True)
class Config:
    pass


@dataclass(frozen=True)
class Corridor:
    number: int


class OneForce(Endless):
    action_space = Box(-1.0, 1.0, (1,))


def family(config: Config) -> TaskFamily:
    return TaskFamily("corridor", 1, "Walk.", 5, {"train": (Corridor(0),), "test": (Corridor(1),)}, OneForce)
