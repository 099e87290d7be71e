"""The point robot with a simulator that takes its time: runs of some seconds that leave the cores to others."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from skillmeta.tasks import point
from skillmeta.tasks.base import TaskFamily

SECONDS = 0.02  # of a step


@dataclass(frozen=True)
class Config:
    pass


class Waiting:
    """Environments that wait before every step."""

    def __init__(self, envs: Any):
        self._envs = envs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._envs, name)

    def step(self, action: Any) -> Any:
        time.sleep(SECONDS)
        return self._envs.step(action)


def family(config: Config) -> TaskFamily:
    made = point.family(point.Config())
    assert made.native is not None
    native = made.native
    return replace(made, native=lambda num: Waiting(native(num)))
