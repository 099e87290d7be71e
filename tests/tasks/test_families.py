"""What every family must keep, over every preset that comes along."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import pickle
import random
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import combinations
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from downstream.tasks import row_of
from skillmeta.cli import main
from skillmeta.config import load, to_plain
from skillmeta.errors import UserError
from skillmeta.evaluation.records import read_paths
from skillmeta.programs.train import train
from skillmeta.programs.train_config import TrainConfig
from skillmeta.tasks.base import TaskConfig, TaskFamily, make_family, task_id, to_json
from tests.tasks.golden import FILE, LISTED, PRESETS, actions, family_of, observed


@cache
def here(preset: str) -> TaskFamily:
    try:
        return family_of(preset)
    except UserError as error:
        if "pip install" in str(error):
            pytest.skip(str(error))
        raise


@cache
def observed_here(preset: str) -> dict[str, Any]:
    return observed(here(preset))


# Presets with the simulator of another one, and seconds to make; golden.json is of another process too.
SAME_SIMULATOR = {
    "kitchen_59", "metaworld_ml1_push", "metaworld_ml1_pick_place", "metaworld_ml45", "ogbench_cube", "ogbench_puzzle",
    "ogbench_scene_singletask",
}  # fmt: skip
MARKED = [pytest.param(p, marks=pytest.mark.slow if p in SAME_SIMULATOR else ()) for p in PRESETS]


@pytest.fixture(scope="module", params=MARKED)
def family(request) -> TaskFamily:
    return here(request.param)


@pytest.fixture(scope="module")
def env(family) -> Iterator[gymnasium.Env]:
    """One for all tests of a preset: some simulators take seconds to make."""
    made = family.make_env()
    yield made
    made.close()


def flat(value: Any) -> np.ndarray:
    """All numbers of nested plain values."""
    if isinstance(value, dict):
        value = [value[key] for key in sorted(value)]
    if isinstance(value, list):
        return np.concatenate([np.zeros(0), *(flat(item) for item in value)])
    return np.array([value], float) if isinstance(value, (int, float)) else np.zeros(0)


def words(value: Any) -> Any:
    """The same values with every float taken out."""
    if isinstance(value, dict):
        return {key: words(item) for key, item in value.items()}
    if isinstance(value, list):
        return [words(item) for item in value]
    return None if isinstance(value, float) else value


def test_where_an_agent_is_does_not_depend_on_a_task_in_view_and_is_kept_as_a_path(family, env, tmp_path):
    if family.positions is not None:
        seen = np.asarray(env.reset(seed=0)[0], np.float32)
        shown = np.append(seen, np.ones(3, np.float32))
        where = family.positions(seen[None])
        assert np.array_equal(family.positions(shown[None])[..., :2], where[..., :2])
        np.savez(tmp_path / "paths.npz", first=where)
        assert np.array_equal(read_paths(tmp_path / "paths.npz")["first"], where[:, :2])


def test_gymnasiums_checker_passes(env):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(env, skip_render_check=True)


def test_tasks_are_values(family):
    assert family.splits.keys() >= {"train", "validation", "test"}
    for tasks in family.splits.values():
        for task in tasks[:5]:
            assert {task: 1}[pickle.loads(pickle.dumps(task))] == 1
            assert json.loads(to_json(task)) == to_plain(task)
    vectors = [family.features(task) for task in (*family.tasks("train")[:3], *family.tasks("test")[:3])]
    assert len({v.shape for v in vectors}) == 1 and all(v.dtype == np.float32 and np.isfinite(v).all() for v in vectors)
    assert all(isinstance(family.group(task), str) for task in family.tasks("test"))
    assert family.definition.endswith(".") and family.max_episode_steps >= 0


def test_training_validation_and_test_tasks_are_apart(family, tmp_path, monkeypatch):
    """Splits of different purposes, and fresh draws, keep the margin that the family states; held-out ones are not trained on."""
    roles: dict[str, set[Any]] = {"train": set(), "validation": set(), "test": set()}
    for split, tasks in family.splits.items():
        assert len(set(tasks)) == len(tasks) > 0
        role = "train" if split in family.training_splits else "validation" if split == "validation" else "test"
        roles[role] |= set(tasks)
    monkeypatch.setattr("skillmeta.programs.train.make_family", lambda config: family)
    for split in family.splits:
        if split not in family.training_splits:
            with pytest.raises(UserError, match=f"{split!r}, whose tasks are held out from training; choose train"):
                train(TrainConfig("meta-train", TaskConfig(split=split)), tmp_path / "run")
    assert not any(map(family.shared, family.splits))
    if family.same_tasks:
        assert roles["train"] == roles["validation"] == roles["test"] and "training task" in family.definition
        return
    pairs = [*combinations(roles.values(), 2)]
    if family.draw_task is not None:
        generator = np.random.default_rng(7)
        fresh = {family.sample(generator, "any") for _ in range(200)}
        pairs += [(fresh, roles["validation"]), (fresh, roles["test"])]
    for some, others in pairs:
        assert not some & others
        if family.margin > 0:
            assert min(family.distance(a, b) for a in some for b in others) >= family.margin


def test_a_seed_names_the_tasks_and_nothing_global_is_touched(family, env):
    np.random.seed(1)
    random.seed(1)
    torch.manual_seed(1)
    before = np.random.get_state()[1].tolist(), np.random.get_state()[2], random.getstate(), torch.get_rng_state()  # type: ignore[index]
    splits = ["train", "any"] if family.draw_task is not None else ["train"]
    drawn = [[family.sample(np.random.default_rng(5), split) for _ in range(2)] for split in splits]
    assert all(a == b for a, b in drawn)
    runs = []
    for _ in range(2):
        first, _ = env.reset(seed=3, options={"task": family.tasks("test")[0]})
        moved = [env.step(action)[:2] for action in actions(env.action_space, 3)]
        runs.append((first, moved))
    assert np.array_equal(runs[0][0], runs[1][0])
    for (a, r), (b, s) in zip(runs[0][1], runs[1][1], strict=True):
        assert np.array_equal(a, b) and r == s
    after = np.random.get_state()[1].tolist(), np.random.get_state()[2], random.getstate(), torch.get_rng_state()  # type: ignore[index]
    assert before[:3] == after[:3] and torch.equal(before[3], after[3])


def test_a_task_stays_until_another_is_set(family, env):
    for task in (family.tasks("test")[0], family.tasks("train")[-1]):
        _, info = env.reset(seed=0, options={"task": task})
        assert info["task"] == to_plain(task)
        *_, info = env.step(actions(env.action_space, 1)[0])
        assert info["task"] == to_plain(task)
        assert env.reset(seed=1)[1]["task"] == to_plain(task)


def test_an_episode_is_cut_off_at_its_time_limit(family, env):
    if not 0 < family.max_episode_steps <= 500:
        pytest.skip(f"its episodes have {family.max_episode_steps} steps: too long to walk here")
    env.reset(seed=0, options={"task": family.tasks("train")[0]})
    nothing = np.zeros(env.action_space.shape, np.float32) if env.action_space.shape else 0
    for step in range(1, family.max_episode_steps + 1):
        *_, terminated, truncated, _ = env.step(nothing)
        if terminated:
            assert not truncated
            break
        assert truncated == (step == family.max_episode_steps)


def test_the_first_tasks_and_rewards_are_as_they_were(request, family):
    """Whoever changes them raises the family's version and writes the file anew."""
    preset = request.node.callspec.params["family"]
    known, now = json.loads(FILE.read_text())[preset], json.loads(json.dumps(observed_here(preset)))
    assert words(now) == words(known)
    assert np.allclose(flat(now), flat(known), rtol=1e-4, atol=1e-4)


def test_it_is_listed_as_it_is(request, family, env):
    preset = request.node.callspec.params["family"]
    now = json.loads(json.dumps(row_of(family, env, load(f"tasks/{preset}"))))
    assert json.loads(LISTED.read_text())[preset] == now, "run `python -m tests.tasks.golden`"


def seen_elsewhere(presets: list[str]) -> dict[str, tuple[bytes, list[str], list[float]]]:
    told = {}
    for preset in presets:
        found = family_of(preset)
        tasks = found.tasks("test")[:2]
        told[preset] = pickle.dumps(tasks), [task_id(task) for task in tasks], observed(found)["rewards"]
    return told


@pytest.mark.slow
def test_another_process_sees_the_same():
    """Spawned, so that nothing is inherited: the same tasks under the same names, the same rewards."""
    present = []
    for preset in sorted(set(PRESETS) - SAME_SIMULATOR):
        with contextlib.suppress(pytest.skip.Exception):
            here(preset)
            present.append(preset)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        told = pool.apply(seen_elsewhere, (present,))
    for preset, (pickled, ids, rewards) in told.items():
        tasks = here(preset).tasks("test")[:2]
        assert pickle.loads(pickled) == tasks, preset
        assert ids == [task_id(task) for task in tasks]
        assert rewards == observed_here(preset)["rewards"]


def test_a_training_split_that_shares_tasks_with_tests_is_refused_and_shown(tmp_path, monkeypatch, capsys):
    """The family's author forgot to keep them apart, and an agent would be evaluated on what it was trained on."""
    whole = make_family(TaskConfig("point"))
    mixed = replace(whole, splits={**whole.splits, "train": (*whole.tasks("train")[:3], *whole.tasks("test")[:2])})
    for module in ("skillmeta.programs.train", "skillmeta.tasks.base"):
        monkeypatch.setattr(f"{module}.make_family", lambda config: mixed)
    with pytest.raises(UserError, match="of whose 5 tasks 2 are held out from training"):
        train(TrainConfig("meta-train", TaskConfig("point", split="train")), tmp_path / "run")
    assert main(["tasks", "point_robot", "task.options.goals=square"]) == 0
    assert "train: 5 tasks, to train on; but 2 are held out" in capsys.readouterr().out
