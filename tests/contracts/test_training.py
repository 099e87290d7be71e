"""Any algorithm takes either kind of training: a learner of one task many tasks, a meta-learner one."""

from __future__ import annotations

import pytest

from skillmeta.envs.make import make_envs
from skillmeta.errors import ConfigError
from skillmeta.programs.train import load_trained, train
from skillmeta.programs.train_config import train_config
from skillmeta.tasks.base import TaskConfig, make_family
from tests.goldens.cases import MAML, MIER, MQL, PEARL, RL2, SAC, VARIBAD

POINT = {"family": "point", "split": "train", "options": {"max_episode_steps": 5}}
ALGORITHMS = {"sac": SAC, "pearl": PEARL, "rl2": RL2, "varibad": VARIBAD, "mql": MQL, "mier": MIER, "maml": MAML}


@pytest.mark.parametrize("kind", ["finetune", "meta-train"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_both_kinds_of_training_take_it(name, kind, tmp_path):
    algorithm = {**ALGORITHMS[name]}
    if name in ("pearl", "mier") and kind == "finetune":
        algorithm |= {"training_tasks": 1, "tasks": 1}
    options = {"task": POINT, "algorithm": algorithm, "env_steps": 120, "evaluation": {"episodes": 2}}
    result = train(train_config(options, kind), tmp_path, quiet=True, page=False)
    assert result is not None and result["env_steps"] >= 120 and result["updates"] > 0
    assert ("num_episodes" in result) == (kind == "finetune") and ("return_last" in result) == (kind == "meta-train")
    family = make_family(TaskConfig(**POINT))
    trained = load_trained(tmp_path, lambda skills, sees_task: make_envs(family, 1, skills, sees_task))
    assert trained.env_steps == result["env_steps"]


def test_one_task_is_not_many(tmp_path):
    options = {"task": POINT, "algorithm": PEARL, "env_steps": 60}
    with pytest.raises(ConfigError, match="training_tasks is 4; there are 1 different tasks to train on"):
        train(train_config(options, "finetune"), tmp_path, quiet=True, page=False)
