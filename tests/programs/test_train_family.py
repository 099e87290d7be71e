"""Meta-training: on which tasks, how many steps and updates, with which draws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from skillmeta.errors import UserError
from skillmeta.programs import train as program
from skillmeta.run.checkpoint import load_state
from tests.programs.runs import family, rows, run, saved_actor
from tests.programs.scripted import scripted
from tests.programs.telltale import FRESH, TEST, TRAIN

STEPS = 3
LEARNERS = [
    {"name": "rl2", "tasks": 4, "hidden": 4, "epochs": 1, "minibatches": 1},
    {"name": "maml", "tasks": 2, "rollouts": 2, "hidden": 4},
    {"name": "promp", "tasks": 2, "rollouts": 2, "hidden": 4, "steps": 1},
    {"name": "reptile", "tasks": 2, "rollouts": 2, "hidden": 4},
    {
        "name": "pearl", "training_tasks": 2, "tasks_per_iteration": 1, "prior_episodes": 1, "posterior_episodes": 1,
        "first_episodes": 2, "updates": 1, "tasks": 2, "batch_size": 4, "context_size": 3, "hidden": 4, "latent_dim": 2,
        "replay_capacity": 40, "context_capacity": 40,
    },
    {"name": "mql", "tasks": 2, "random_decisions": 0, "updates": 1, "batch_size": 4, "hidden": 4, "replay_capacity": 40},
    {
        "name": "mier", "training_tasks": 2, "tasks_per_iteration": 1, "tasks": 2, "updates": 1, "batch_size": 4, "hidden": 4,
        "model": {"hidden": 4}, "replay_capacity": 40, "context_capacity": 40,
    },
]  # fmt: skip


def train(folder: Path, algorithm: dict, split: str = "train", **options) -> dict:
    return run(folder, family(algorithm, split, **options))


def returns_of(tasks) -> tuple[float, float]:
    """The lowest and the highest return that an episode in these tasks can have."""
    return STEPS * (min(t.code for t in tasks) - 2), STEPS * max(t.code for t in tasks)


@pytest.mark.parametrize("algorithm", LEARNERS, ids=lambda algorithm: algorithm["name"])
def test_every_learner_is_trained_on_training_tasks(algorithm, tmp_path):
    result = train(tmp_path, algorithm, env_steps=60)
    low, high = returns_of(TRAIN)
    logged = rows(tmp_path)
    assert all(
        low <= row[name] <= high for row in [*logged, result] for name in ("return", "return_first", "return_last")
    )
    assert result["env_steps"] == result["episodes"] * STEPS >= 60


@pytest.mark.parametrize(("split", "codes"), [("train", {t.code for t in TRAIN}), ("any", {FRESH.code})])
def test_tasks_are_those_of_the_split(split, codes, tmp_path):
    """One task an iteration, so that each mean reward names it; every task of the split is met."""
    train(tmp_path, scripted(tasks=1), split, env_steps=60)
    met = [row["mean_reward"] for row in rows(tmp_path)]
    assert {round(reward / 10) * 10 for reward in met} == codes
    state, meta = load_state(tmp_path / "actor")
    total, count = state["actor"]["rewards"].tolist()
    assert count == state["env_steps"] == 60 and total / count == pytest.approx(sum(met) / len(met))


def test_steps_episodes_and_updates_are_counted_once(tmp_path):
    """An iteration is 2 tasks x 2 episodes x 3 steps; the budget is checked between iterations."""
    result = train(tmp_path, scripted(tasks=2), env_steps=30)
    logged = rows(tmp_path)
    assert [row["env_steps"] for row in logged] == [12, 24, 36] and [row["episodes"] for row in logged] == [4, 8, 12]
    assert (result["env_steps"], result["episodes"], result["updates"]) == (36, 12, 3)
    assert {result[name] for name in ("return_last", "success_last")} == {logged[-1]["return_last"], 0.0}


def test_first_and_last_episodes_of_a_trial_are_logged_apart(tmp_path):
    """A trial's second action is PER_EPISODE nearer to the best one, in every training task."""
    train(tmp_path, scripted(tasks=2, adapt=True))
    for row in rows(tmp_path):
        assert row["return_last"] - row["return_first"] == pytest.approx(STEPS * 0.125, abs=1e-4)
        assert row["return"] == pytest.approx((row["return_first"] + row["return_last"]) / 2)


@pytest.mark.parametrize(("see_task", "success"), [(True, 1.0), (False, 0.0)])
def test_the_task_is_seen_where_that_is_asked_for(see_task, success, tmp_path):
    assert train(tmp_path, scripted(tasks=2, follow=True), see_task=see_task)["success_last"] == success


def test_test_tasks_are_refused(tmp_path):
    with pytest.raises(Exception, match="task.split is"):
        train(tmp_path / "run", scripted(tasks=2), "test")
    assert not (tmp_path / "run").exists() and TEST


def test_a_seed_decides_weights_tasks_and_resets(tmp_path):
    """`follow` acts by the noise of the reset, so returns show it."""
    runs = {}
    for name, seed in (("a", 0), ("again", 0), ("other", 1)):
        train(tmp_path / name, scripted(tasks=2, follow=True), seed=seed)
        weight = saved_actor(tmp_path / name)["weight"].item()
        runs[name] = weight, [row["return_first"] for row in rows(tmp_path / name)]
    assert runs["a"] == runs["again"] != runs["other"]
    assert runs["a"][0] != runs["other"][0] and not set(runs["a"][1]) & set(runs["other"][1])
    assert len(set(runs["a"][1])) == len(runs["a"][1])  # and the iterations of a run differ


def test_a_result_that_lacks_a_number_is_one_sentence(tmp_path):
    config = family({**LEARNERS[0]}, env_steps=1)
    assert program.train(config, tmp_path / "run", quiet=True)
    path = tmp_path / "run" / "result.json"
    kept = json.loads(path.read_text())
    for name in ("env_steps", "return", "return_first", "return_last"):
        path.write_text(json.dumps({**kept, name: None}))
        (tmp_path / "run" / "checksums.json").unlink(missing_ok=True)
        with pytest.raises(UserError, match=f"result.json: has no number {name}; restore it, or delete the folder"):
            program.train(config, tmp_path / "run", quiet=True)
