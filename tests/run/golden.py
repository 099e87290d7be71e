"""Runs that were stopped halfway, in tests/run/golden/format-N, as a version with run format N left them.

python -m tests.run.golden     writes those of the present run format; those of a format that was released stay as they are
"""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest import mock

from skillmeta.programs.train import train
from skillmeta.programs.train_config import TrainConfig, train_config
from skillmeta.run.identity import RUN_FORMAT
from skillmeta.run.run import Run

FOLDER = Path(__file__).parent / "golden"


def configs() -> dict[str, TrainConfig]:
    """One that learns from a replay, and one from whole trials with a recurrent policy."""
    evaluation = {"episodes": 1}
    sac = {"name": "sac", "hidden": 4, "batch_size": 4, "random_decisions": 5, "replay_capacity": 40}
    rl2 = {"name": "rl2", "tasks": 4, "hidden": 4, "epochs": 1, "minibatches": 1, "episodes": 1}
    point = {"family": "point", "options": {"max_episode_steps": 5}}
    bandit = {"family": "bandit", "split": "any", "options": {"arms": 2, "max_episode_steps": 3}}
    return {
        "sac": train_config({"task": point, "algorithm": sac, "env_steps": 20, "evaluation": evaluation}),
        "rl2": train_config({"kind": "meta-train", "task": bandit, "algorithm": rl2, "env_steps": 36}),
    }


def write(folder: Path) -> None:
    """Each of the runs, stopped after its second iteration. What says on which machine is left out."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, config in configs().items():
        looked = iter([False, False, True])
        with mock.patch.object(Run, "stop_requested", property(lambda run, looked=looked: next(looked))):
            assert train(config, folder / name, quiet=True) is None
        for unneeded in (".lock", "environment.json", "progress.json"):
            (folder / name / unneeded).unlink(missing_ok=True)


if __name__ == "__main__":
    write(FOLDER / f"format-{RUN_FORMAT}")
