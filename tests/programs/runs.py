"""Runs of `train` on the telltale family, and what they leave behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from skillmeta.programs.train import train
from skillmeta.programs.train_config import EvaluationConfig, TrainConfig
from skillmeta.run.checkpoint import load_state
from skillmeta.run.run import read_metrics
from skillmeta.tasks.base import TaskConfig


def one_task(algorithm: dict[str, Any], split: str = "test", index: int = 0, **options: Any) -> TrainConfig:
    """Fine-tuning: four episodes of three steps."""
    task = TaskConfig("tests.programs.telltale", split=split, index=index)
    return TrainConfig(
        "finetune", task, **{"env_steps": 12, "evaluation": EvaluationConfig(3), **options}, algorithm=algorithm
    )


def family(algorithm: dict[str, Any], split: str = "train", **options: Any) -> TrainConfig:
    """Meta-training."""
    task = TaskConfig("tests.programs.telltale", split=split)
    return TrainConfig("meta-train", task, **{"env_steps": 30, **options}, algorithm=algorithm)


def run(folder: Path, config: TrainConfig) -> dict[str, Any]:
    """A run from its beginning to its end; its result."""
    result = train(config, folder, quiet=True)
    assert result is not None
    return result


def untimed(result: dict[str, Any]) -> dict[str, Any]:
    """A result without how long it took."""
    return {name: value for name, value in result.items() if name != "seconds"}


def rows(folder: Path, kind: str = "iteration") -> list[dict[str, Any]]:
    return [row for row in read_metrics(folder) if row["kind"] == kind]


def saved_actor(folder: Path) -> dict[str, Any]:
    return load_state(folder / "actor")[0]["actor"]


def paths(folder: Path, which: str = "") -> list[np.ndarray]:
    """Where the `early` or the `final` episodes went; all of them."""
    with np.load(folder / "trajectories.npz") as archive:
        return [archive[name] for name in sorted(archive.files) if name.startswith(which)]
