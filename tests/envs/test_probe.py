"""Environments as users have them: what cannot be learned from is a sentence before a folder is taken, the rest is learned from."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from skillmeta.collect.episodes import episode
from skillmeta.collect.failures import Failures
from skillmeta.config import build, load
from skillmeta.envs import serial
from skillmeta.envs.make import make_envs
from skillmeta.envs.probe import examined
from skillmeta.errors import ConfigError, UserError
from skillmeta.evaluation.actors import RandomActor
from skillmeta.programs import beforehand
from skillmeta.programs.collect import CollectConfig, Shard, run_shard
from skillmeta.programs.train import train
from skillmeta.programs.train_config import train_config
from skillmeta.tasks.base import TaskConfig, TaskFamily, make_family
from tests.envs import users
from tests.faults import wanderer
from tests.programs import telltale

SAC = {"name": "sac", "hidden": 4, "batch_size": 4, "replay_capacity": 100}


def task(name: str, **options: Any) -> TaskConfig:
    users.register()
    return TaskConfig("gym", options={"id": f"users/{name}-v0", **options})


def finetune(folder: Path, name: str, algorithm: dict[str, Any] = SAC, **options: Any) -> Any:
    node = {"task": {"family": "gym", "options": task(name, **options).options}, "algorithm": algorithm}
    return train(train_config({**node, "env_steps": 40, "evaluation": {"episodes": 2}}), folder, quiet=True, page=False)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "OldReset",
            "OldReset.reset() does not take seed and options; Gymnasium wants reset(*, seed=None, options=None)",
        ),
        ("NoOptions", "NoOptions.reset(seed) does not take options; Gymnasium wants reset(*, seed=None, options=None)"),
        (
            "OneValue",
            "OneValue.reset returns a ndarray, not two values; Gymnasium wants reset(*, seed=None, options=None)",
        ),
        (
            "FourValues",
            "FourValues.step returns 4 values; Gymnasium wants step(action) -> (observation, reward, terminated",
        ),
        (
            "Narrow",
            "users/Narrow-v0: reset gives an observation of shape (1,), and its observation_space has (2,)",
        ),
        (
            "Endless",
            "has no time limit, and 1,000 steps of random actions did not end an episode; set task.options.max_ep",
        ),
        (
            "Pixels",
            "users/Pixels-v0: the observations hold an image of shape (96, 96, 3), 27,648 numbers of uint8; only st",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_learned_from_is_a_sentence_and_leaves_no_folder(name, sentence, tmp_path):
    with pytest.raises(UserError, match=re.escape(sentence)):
        finetune(tmp_path / "run", name)
    assert not (tmp_path / "run").exists()


def test_a_replay_that_memory_does_not_hold_is_a_sentence(tmp_path, monkeypatch):
    """Whether memory is too small for the decisions of the budget, or does not give what the config asks for."""
    sentence = r"replay_capacity is 1,000,000 decisions, of 3,000,000 observed numbers each: {}, and {}; lower it"
    monkeypatch.setattr(beforehand, "memory", lambda: 2**29)
    with pytest.raises(UserError, match=sentence.format("0.9 GiB", "0.5 GiB are free")):
        finetune(tmp_path / "run", "Wide", {"name": "sac", "hidden": 1})
    monkeypatch.setattr(beforehand, "memory", lambda: None)
    with pytest.raises(UserError, match=sentence.format("22,351.8 GiB", "this machine does not give them")):
        finetune(tmp_path / "run", "Wide", {"name": "sac", "hidden": 1})
    assert not (tmp_path / "run").exists()


def test_memory_is_known_or_is_not(monkeypatch):
    assert (beforehand.memory() or 0) > 2**20
    monkeypatch.delattr(beforehand.os, "sysconf")
    monkeypatch.setattr(beforehand, "Path", lambda name: Path("/nowhere"))
    assert beforehand.memory() is None


def lengths_of(family: TaskFamily, steps: int) -> list[int]:
    """How many of so many steps two environments take."""
    envs = make_envs(family, 2)
    envs.reset([0, 1], [next(iter(family.splits.values()))[0]] * 2)
    done = [envs.step(np.zeros((2, envs.spec.action_dim), np.float32)) for _ in range(steps)]
    assert sum(step.truncated.sum() + step.terminated.sum() for step in done) == 2
    return sum(step.steps for step in done).tolist()


def test_episodes_are_as_long_as_the_config_the_family_or_the_environment_says():
    endless = make_family(task("Endless", max_episode_steps=5))
    assert lengths_of(endless, 8) == [5, 5]
    assert lengths_of(make_family(task("Terminates")), 9) == [7, 7]
    bare = TaskFamily("bare", 1, "", 6, {"train": telltale.TRAIN}, users.Endless)
    assert lengths_of(bare, 9) == [6, 6]


def test_an_episode_without_an_end_is_ended_by_a_sentence(monkeypatch):
    monkeypatch.setattr(serial, "ENDLESS", 10)
    with pytest.raises(UserError, match="an episode has taken 10 steps and the environment has no time limit"):
        lengths_of(make_family(task("Endless")), 20)


def test_without_acting_a_time_limit_has_to_be_stated():
    for name in ("Terminates", "Endless"):
        with pytest.raises(UserError, match=f"{name}-v0 has no time limit; set task.options.max_episode_steps"):
            examined(make_family(task(name)), task(name), act=False)
    config = task("Endless", max_episode_steps=5)
    assert examined(make_family(config), config, act=False).reports_success


@pytest.mark.parametrize(("name", "reports"), [("Reports", True), ("Point", False)])
def test_whether_success_is_reported_is_seen_and_said(name, reports, tmp_path):
    config = task(name)
    assert examined(make_family(config), config).reports_success == reports
    result = finetune(tmp_path, name)
    assert ("success" in result, "mode_success" in result) == (reports, reports)
    assert [note for note in result.get("notes", ()) if "reports no success" in note] == [beforehand.NO_SUCCESS] * (
        not reports
    )


@pytest.mark.parametrize(
    ("rewards", "in_info", "differ"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_tasks_that_give_the_same_are_seen_and_said(rewards, in_info, differ):
    """The fourth of five tasks rewards otherwise, or only the info names it."""

    class Asked(users.Point):
        def reset(self, *, seed=None, options=None):
            self.fourth = (options or {})["task"] == 4
            return super().reset(seed=seed)

        def step(self, action):
            observation, reward, terminated, truncated, info = super().step(action)
            info_task = {"task": {"fourth": self.fourth}} if in_info else {}
            return observation, reward - float(rewards and self.fourth), terminated, truncated, {**info, **info_task}

    family = TaskFamily("asked", 1, "", 6, {"train": (1, 1, 2), "test": (3, 4, 5)}, Asked)
    found = examined(family, TaskConfig("asked"))
    assert found.tasks_differ == differ
    for notes in (beforehand.notes_on(found), beforehand.expected_notes(None, found, 1, False)):
        assert (beforehand.SAME_TASKS in notes) == (not differ)
    one = replace(family, splits={"train": (1,), "test": (1,)})
    assert examined(one, TaskConfig("asked")).tasks_differ


def test_dict_observations_are_flattened_in_the_order_of_their_space():
    envs = make_envs(make_family(task("Goal")), 1)
    (first,) = envs.reset([3], make_family(task("Goal")).tasks("test"))
    place = first[4:]
    np.testing.assert_array_equal(first, [*-place, 9, 9, *place])  # achieved, desired, observation
    (after,) = envs.step(np.ones((1, 2), np.float32)).observation
    np.testing.assert_allclose(after[4:], place + 0.1, rtol=1e-6)


def test_integer_actions_are_rounded_and_a_reward_may_be_an_array_of_one_number():
    envs = make_envs(make_family(task("Whole")), 1)
    envs.reset([0])
    steps = [envs.step(np.array([action], np.float32)) for action in ([-1, -1], [0.3, 0], [1, 0.95], [2, -2])]
    assert envs.envs[0].unwrapped.inner.unwrapped.taken_actions == [[-2, 0], [1, 4], [2, 8], [2, 0]]
    assert all(step.reward.shape == (1,) and step.reward[0] < 0 for step in steps)
    with pytest.raises(ValueError, match=r"a reward has shape \(2,\); one number is expected"):
        serial.single_number(np.zeros(2))


def test_a_module_beside_the_config_is_imported_wherever_the_command_runs(tmp_path, monkeypatch):
    """`python -m` puts the working folder on the path, the installed command does not."""
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "my_point.py").write_text(
        "import gymnasium\nfrom tests.envs.users import Point\ngymnasium.register('MyPoint-v0', entry_point=Point)\n"
    )
    config = tmp_path / "beside" / "mine.yaml"
    config.write_text("family: gym\noptions: {id: MyPoint-v0, imports: [my_point]}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder not in ("", str(tmp_path))])
    made = make_family(build(TaskConfig, load(config)))
    assert made.tasks("test")[0].id == "MyPoint-v0" and make_envs(made, 1).spec.observation_dim == 2
    assert str(config.parent) in sys.path  # which worker processes inherit


def test_collected_episodes_are_as_long_as_the_family_says():
    """Of a family of the user's own, whose environment does not end them."""
    config = CollectConfig(family="tests.envs.corridor", collector="tests.faults.wanderer", expert={"steps": 12})
    done = run_shard(Shard(config, wanderer.Config(steps=12)), lambda steps: None, Failures())
    assert [recording.episode.reward.shape[-1] for recording in done] == [5, 5, 5]


@dataclass
class Unhashable:
    number: int = 0


def test_a_family_without_tasks_or_whose_tasks_cannot_be_looked_up_is_a_sentence(monkeypatch):
    bare = TaskFamily("bare", 1, "", 6, {"train": ()}, users.Endless)
    with pytest.raises(ConfigError, match="the family bare has no tasks; give `splits` some"):
        examined(bare, TaskConfig("bare"))
    unhashable: Any = ModuleType("tests.envs.unhashable")
    unhashable.Config, unhashable.family = (
        telltale.Config,
        lambda config: replace(bare, splits={"train": (Unhashable(),)}),
    )
    monkeypatch.setitem(sys.modules, "tests.envs.unhashable", unhashable)
    with pytest.raises(ConfigError, match="tasks of split 'train' are not hashable; make their class @dataclass"):
        make_family(TaskConfig("tests.envs.unhashable"))


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (torch.zeros(2, 1), "actions of shape (2, 1); a tensor of shape (2, 2) is expected"),
        (torch.zeros(1, 2), "actions of shape (1, 2); a tensor of shape (2, 2) is expected"),
        (np.zeros((2, 2)), "actions a ndarray; a tensor of shape (2, 2) is expected"),
    ],
)
def test_actions_of_another_shape_are_a_sentence(action, said):
    class Wrong(RandomActor):
        def act(self, *unused: Any) -> Any:
            return action, None

    envs = make_envs(make_family(task("Point")), 2)
    with pytest.raises(UserError, match=re.escape(said)):
        episode(Wrong(envs.spec.action_bound), envs, None, [0, 1], torch.Generator())
