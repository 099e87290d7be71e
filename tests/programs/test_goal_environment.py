"""Skills from logs of a goal environment, back in that environment: the prior sees what the logs had, the policy the goal too."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from pretrain.skills import main
from skillmeta import load
from skillmeta.config import build
from skillmeta.errors import CheckpointError
from skillmeta.programs.pretrain import PretrainConfig, pretrain
from skillmeta.programs.train import load_trained, make_envs, train
from skillmeta.programs.train_config import train_config
from skillmeta.reports.content import read_content
from skillmeta.run.checkpoint import load_state
from skillmeta.skills.vae import SkillModel
from skillmeta.tasks.base import TaskConfig, make_family
from skillmeta.types import Observed

TASK = {"family": "gym", "options": {"id": "tests/Goal-v0", "imports": ["tests.skills.fakes"]}}
SMALL = {"model": {"horizon": 2, "dim": 2, "hidden": 4, "prior_depth": 1, "decoder_depth": 1}, "training": {"steps": 6}}


@pytest.fixture(scope="module", autouse=True)
def goal_environment():
    gymnasium.register("tests/Goal-v0", "tests.skills.fakes:GoalEnv", max_episode_steps=12)
    yield
    del gymnasium.registry["tests/Goal-v0"]


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("logs")
    actions = rng.uniform(-1, 1, (40, 1)).astype(np.float32)
    parts = {"step": np.arange(40.0)[:, None] % 10, "a_sum": actions.cumsum(0), "other": actions}
    np.savez(folder / "log.npz", **parts, actions=actions, terminals=np.arange(40) % 20 == 19)
    return folder / "log.npz"


def skills(logs, folder, keys="step,a_sum", **options):
    plain = {"source": f"{logs}?{keys}", "task": TASK, "quality": {"episodes": 1}, **SMALL, **options}
    return pretrain(build(PretrainConfig, plain), folder)


def test_pretraining_keeps_the_keys_and_says_what_was_assumed(logs, tmp_path, capsys):
    result = skills(logs, tmp_path / "skills")
    assert SkillModel.load(tmp_path / "skills").observed == (Observed("step", 1), Observed("a_sum", 1))
    _, meta = load_state(tmp_path / "skills" / "model")
    assert [len(side) for side in meta["about"]["observation_range"]] == [2, 2]
    assert any("terminals without timeouts" in note for note in result["notes"])
    content = read_content([tmp_path / "skills"], trust=True)
    assert any("terminals without timeouts" in line for line in content.warnings)
    (tmp_path / "c.yaml").write_text(f"source: {logs}\n")
    changes = [f"source={logs}?step&time_limit=20", "training.steps=2", "model.horizon=2", "model.hidden=4"]
    assert main([str(tmp_path / "c.yaml"), *changes, "--out", str(tmp_path / "again")]) == 0
    printed = capsys.readouterr().out
    assert "note: no rewards in the file: taken to be 0" in printed and "terminals without" not in printed


def test_a_mismatch_is_said_before_training(logs, tmp_path):
    with pytest.raises(
        CheckpointError, match=r"task: the skills see step \(1\), other \(1\), .* has a_sum \(1\), goal \(3\)"
    ):
        skills(logs, tmp_path / "skills", "step,other")
    assert not (tmp_path / "skills").exists()


def test_training_continues_from_skills_that_see_the_same_keys_in_the_same_order(logs, tmp_path):
    skills(logs, tmp_path / "skills", task=None)
    start = str(tmp_path / "skills")
    assert skills(logs, tmp_path / "more", task=None, start=start)["verdict"][-1].startswith("Training continued from")
    with pytest.raises(
        CheckpointError, match=r"sees step \(1\), a_sum \(1\), the logs .* have a_sum \(1\), step \(1\); name the same"
    ):
        skills(logs, tmp_path / "other", "a_sum,step", task=None, start=start)
    with np.load(logs) as parts:  # logs of one array, whose parts nobody knows
        observations = np.concatenate([parts["step"], parts["a_sum"]], 1)
        np.savez(tmp_path / "plain.npz", observations=observations, actions=parts["actions"], lengths=[20, 20])
    assert skills(tmp_path / "plain.npz", tmp_path / "last", "", task=None, start=start)


def test_fine_tuning_acts_on_such_skills_and_its_actor_comes_back(logs, tmp_path):
    skills(logs, tmp_path / "skills")
    algorithm = {
        "name": "sac",
        "hidden": 8,
        "batch_size": 8,
        "policy_start": "prior",
        "regularizer": {"prior": "skill", "target_divergence": 1.0},
    }
    plain = {
        "task": TASK,
        "skills": str(tmp_path / "skills"),
        "algorithm": algorithm,
        "env_steps": 120,
        "evaluation": {"episodes": 1},
    }
    assert train(train_config(plain), tmp_path / "run", quiet=True) is not None
    family = make_family(build(TaskConfig, TASK))
    trained = load_trained(tmp_path / "run", lambda model, sees: make_envs(family, 1, model, sees))
    assert trained.actor.skills.columns == [4, 0] and trained.actor.policy is not None
    agent = load(tmp_path / "run", trust=True)  # its decoder sees the same parts as its policy's prior
    assert agent.skills.columns == [4, 0]
