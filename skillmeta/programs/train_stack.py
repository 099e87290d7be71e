"""Several runs of one method at once, of other seeds and other tasks, each in its folder: their networks are updated as one."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skillmeta.errors import ConfigError
from skillmeta.nn.stack import Stack, Stackable
from skillmeta.programs.train import Started, opened
from skillmeta.programs.train_config import TrainConfig
from skillmeta.run.loop import run_loop
from skillmeta.types import Metrics


def train_stack(
    configs: Sequence[TrainConfig], folders: Sequence[Path], command: str = "", quiet: bool = False, page: bool = True
) -> list[dict[str, Any]] | None:
    """Run, or continue, a run for each config. Returns their results, or None if they were asked to stop before.

    Each run collects an episode with its own actor, one run after the other; then all make their updates together. What a run gets
    is what it gets alone, up to rounding.

    Args:
        configs: that differ in `seed`, `skills` and `task.index` alone.
        folders: of the runs. The last one is finished last.

    Raises ConfigError for a config of which no stack can be made.
    """
    check_stackable(configs[0])
    with contextlib.ExitStack() as every:
        runs = [
            every.enter_context(opened(config, folder, command, quiet or k > 0))
            for k, (config, folder) in enumerate(zip(configs, folders, strict=True))
        ]
        left: list[tuple[Started, Stackable[Any, Any, Any]]] = []
        for one in runs:
            if one.started is not None:
                if not isinstance(one.learner, Stackable):
                    raise ConfigError(refused(one.config))
                left.append((one.started, one.learner))
        if left:
            stack = Stack([learner for _, learner in left])

            def iterate(live: Sequence[int]) -> list[Metrics]:
                owed = [0] * len(left)
                for k in live:
                    started, learner = left[k]
                    owed[k] = learner.take(started.source.episode(learner.explorer()))
                found = stack.learn(owed)
                return [found[k] for k in live]

            if not run_loop([started.training for started, _ in left], iterate):
                return None
        return [one.finish(page) for one in runs]


def check_stackable(config: TrainConfig) -> None:
    """Raises ConfigError for what goes with one seed alone, as far as the config says."""
    if config.kind != "finetune" or config.start is not None:
        raise ConfigError("stack_seeds is of kind: finetune, without start; leave it out")
    for key in ("compile", "bfloat16"):
        if config.algorithm.get(key):
            raise ConfigError(f"algorithm.{key} is of one seed; set it to false, or leave out stack_seeds")


def refused(config: TrainConfig) -> str:
    name = config.algorithm["name"]
    return f"stack_seeds: the updates of algorithm.name {name!r} cannot be stacked, those of sac can; leave it out"
