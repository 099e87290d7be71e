"""What a task and a family of tasks are. A family may also have `draw(axes)`, `positions(observations)`, `coverage(...)`."""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium
import numpy as np


class TaskFamily(Protocol):
    """A distribution over tasks, and the environment that they live in.

    A task is a frozen dataclass of plain numbers: hashable, printable, `dataclasses.asdict` gives its JSON.
    """

    name: str

    def tasks(self, split: str) -> tuple[Any, ...]: ...  # the fixed tasks of a named split
    def sample(self, generator: np.random.Generator, split: str = "train") -> Any: ...
    def make_env(self) -> gymnasium.Env: ...  # its reset takes options={"task": task}
