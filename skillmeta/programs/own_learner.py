"""What an algorithm of the user's own lacks, found before its budget is spent."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from skillmeta.errors import ConfigError, raised
from skillmeta.types import Learner


def check_signature(module: ModuleType) -> None:
    """Raises ConfigError for an algorithm of the user's own whose Learner does not take what it is made with."""
    try:
        inspect.signature(module.Learner).bind("config", "spec", "skills", "seeds")
    except TypeError:
        raise ConfigError(
            f"algorithm.name is {module.__name__!r}: its Learner takes {inspect.signature(module.Learner)}; it is made as "
            "Learner(config, spec, skills, seeds)"
        ) from None


def check_learner(learner: Learner[Any], module: str) -> None:
    """Raises ConfigError for what a learner of the user's own lacks, before its budget is spent."""

    def lacking(has: object, what: str, names: Sequence[str]) -> None:
        if lacks := [name for name in names if not hasattr(has, name)]:
            raise ConfigError(
                f"algorithm.name is {module!r}: its {what} has no {', '.join(lacks)}; skillmeta/types.py says what is needed"
            )

    lacking(learner, "Learner", ("iterate", "actor", "parts", "updates"))
    try:
        actor = learner.actor()
    except Exception as error:
        raise ConfigError(f"algorithm.name is {module!r}: its Learner's actor() raised {raised(error)}") from error
    lacking(actor, "actor", ("rollouts", "exploration_episodes", "begin", "act", "observe", "adapt", "parts"))
