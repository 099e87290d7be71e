"""Any registered Gymnasium environment as a family with one task: `task: {family: gym, options: {id: Pendulum-v1}}`."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from skillmeta.errors import ConfigError


@dataclass(frozen=True)
class Config:
    """What to make."""

    id: str = "Pendulum-v1"
    kwargs: dict[str, Any] = field(default_factory=dict)  # for gymnasium.make
    imports: list[str] = field(default_factory=list)  # modules that register the id, e.g. [gymnasium_robotics]


@dataclass(frozen=True)
class OnlyTask:
    """The environment as it comes."""

    id: str


class Family:
    """One environment, one task."""

    name = "gym"

    def __init__(self, config: Config):
        self.config = config
        for module in config.imports:
            try:
                gymnasium.register_envs(importlib.import_module(module))
            except ImportError as error:
                raise ConfigError(
                    f"task.options.imports: {module!r} cannot be imported ({error}); install it"
                ) from None

    def tasks(self, split: str) -> tuple[OnlyTask, ...]:
        return (OnlyTask(self.config.id),)

    def sample(self, generator: np.random.Generator, split: str = "train") -> OnlyTask:
        return OnlyTask(self.config.id)

    def make_env(self) -> gymnasium.Env:
        """Raises ConfigError if Gymnasium cannot make it."""
        try:
            return gymnasium.make(self.config.id, **self.config.kwargs)
        except Exception as error:  # a wrong id, a missing package, a wrong keyword: all are the user's to mend
            raise ConfigError(f"task.options: gymnasium.make({self.config.id!r}) failed: {error}") from None
