"""What is said of a training run before it begins, and of its result: nothing on a screen or a page is false."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from skillmeta.errors import UserError
from skillmeta.evaluation.records import side_by_side
from skillmeta.programs.beforehand import action_notes, expected_notes, name_notes, range_notes
from skillmeta.programs.train import train
from skillmeta.programs.train_config import EvaluationConfig, TrainConfig, algorithm_of, train_config
from skillmeta.reports.content import headline, of_runs
from skillmeta.run.run import read_metrics
from skillmeta.skills.vae import SkillModel
from skillmeta.tasks.base import TaskConfig, make_family
from skillmeta.types import Observed
from tests.envs import users
from tests.goldens.cases import save_skills
from tests.programs.runs import family, one_task, run
from tests.programs.scripted import scripted
from tests.programs.test_train_family import LEARNERS

SAC = {"name": "sac", "hidden": 4, "batch_size": 4, "replay_capacity": 100}


@pytest.mark.parametrize(
    ("rate", "at_random", "said", "updates"), [(1, 13, 1, 0), (1, 12, 1, 3), (1, 11, 0, 3), (0, 12, 0, 0)]
)
def test_random_decisions_that_fill_the_budget_are_said_unless_nothing_shall_be_learned(
    rate, at_random, said, updates, tmp_path
):
    sentence = f"algorithm.random_decisions is {at_random} and env_steps 12: every action of training will be random; lower the "
    config = one_task({**SAC, "random_decisions": at_random, "updates_per_decision": float(rate)})
    notes = expected_notes(algorithm_of(config)[1], make_family(config.task), config.env_steps, False)
    assert [note.startswith(sentence) for note in notes] == [True] * said
    assert not expected_notes(algorithm_of(config)[1], make_family(config.task), config.env_steps, True)
    result = run(tmp_path, config)
    assert result["updates"] == updates and len(result.get("notes", ())) == (updates == 0 and rate > 0)


def test_a_run_without_an_update_says_so(tmp_path):
    """Episodes that the number of episodes ends before the random decisions are made."""
    result = run(tmp_path, one_task({**SAC, "random_decisions": 11}, max_episodes=2))
    sentence = "No update was made, nothing was learned: algorithm.random_decisions is 11 and 6 decisions were made."
    assert result["notes"] == [sentence]
    content = of_runs(side_by_side([tmp_path]), "", True, None)
    assert sentence in content.warnings


@pytest.mark.parametrize("algorithm", [*LEARNERS, {
    "name": "varibad", "tasks": 2, "episodes": 2, "memory": 4, "hidden": 4, "epochs": 1, "minibatches": 1,
    "inference_updates": 1, "replay_capacity": 40,
}, {
    "name": "simpl", "training_tasks": 2, "tasks_per_iteration": 1, "first_episodes": 2, "small_context": None,
    "large_context": {"tasks": 1, "context_size": 3},
}], ids=lambda algorithm: algorithm["name"])  # fmt: skip
def test_what_an_iteration_takes_is_known_before(algorithm, tmp_path):
    """A budget of one step is overshot by what the first iteration takes, one of a step more by the second one's too."""
    config = family(algorithm, env_steps=1)
    options, made = algorithm_of(config)[1], make_family(config.task)
    first, later = options.iteration_episodes
    (note,) = expected_notes(options, made, 1, False)
    assert f"training may take {first * 3:,} steps, {first * 3 - 1:,} more than env_steps" in note
    assert f"may take {3 * (first + later)} steps" in expected_notes(options, made, 3 * first + 1, False)[0]
    assert not expected_notes(options, made, 3 * first, False)
    if algorithm["name"] == "simpl":
        return  # acts in skills alone
    result = run(tmp_path, replace(config, env_steps=3 * first + 1))
    assert result["env_steps"] == 3 * (first + later) and [row["episodes"] for row in rows(tmp_path)] == [
        first,
        first + later,
    ]
    assert (
        f"took {3 * (first + later):,} environment steps, {3 * later - 1:,} more than env_steps" in result["notes"][-1]
    )


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for row in read_metrics(folder) if row["kind"] == "iteration"]


def test_success_that_is_not_reported_stands_nowhere(tmp_path, capsys):
    users.register()
    task = TaskConfig("gym", options={"id": "users/Point-v0"})
    for seed in (0, 1):
        config = TrainConfig(
            task=task, algorithm=SAC, env_steps=40, evaluation=EvaluationConfig(2, every=20), seed=seed
        )
        assert train(config, tmp_path / f"run-{seed}", page=False) is not None
    assert "note: The environment reports no success" in capsys.readouterr().err
    assert not any("success" in name for row in read_metrics(tmp_path / "run-0") for name in row)
    study = side_by_side([tmp_path / "run-0", tmp_path / "run-1"])
    assert headline(study, None)[0].startswith("Return within 40 environment steps (mean of episodes, actions sampled")


def test_one_run_is_no_two_seeds(tmp_path):
    for name in ("a", "b"):
        run(tmp_path / name, one_task(scripted()))
    with pytest.raises(UserError, match=r"have one config and the training seeds \[0, 0\]; name one run of each seed"):
        side_by_side([tmp_path / "a", tmp_path / "b"])


def test_runs_of_two_methods_are_not_shown_as_seeds_of_one(tmp_path):
    for seed, action in enumerate((0.0, 0.5)):
        run(tmp_path / f"mine-{seed}", one_task(scripted(action=action), seed=seed))
    study = side_by_side([tmp_path / "mine-0", tmp_path / "mine-1"])
    (sentence,) = of_runs(study, "", True, None).warnings[:1]
    assert list(study.methods) == ["mine", "mine 2"]
    assert sentence.startswith("mine 2 is no mine with another training seed, they differ in algorithm.action: ")
    assert "seed:" not in sentence


def test_validation_tasks_that_are_trained_on_are_said(tmp_path):
    users.register()
    task = TaskConfig("gym", split="train", options={"id": "users/Point-v0"})
    algorithm = {"name": "rl2", "tasks": 2, "hidden": 4, "epochs": 1, "minibatches": 1}
    config = TrainConfig("meta-train", task, algorithm=algorithm, env_steps=40, evaluation=EvaluationConfig(every=40))
    result = run(tmp_path, config)
    assert "1 of 1 validation tasks was trained on; the score says nothing about new ones" in result["notes"]


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-12.0, 12.0, None),
        (-0.012, 0.012, "Observation "),
        (-12e4, 12e4, "In the first episodes no observation moved by 1% of what it did"),
    ],
)
def test_observations_that_are_far_from_those_of_the_logs_are_said(low, high, said, tmp_path, capsys):
    """The maze's positions lie within 10 of its centre: skills whose logs say so, and ones in other units."""
    save_skills(tmp_path / "skills")
    model = SkillModel.load(tmp_path / "skills")
    constant = 0.5  # the last number, which the logs never moved
    model.save(tmp_path / "skills", {"observation_range": [[low] * 3 + [constant], [high] * 3 + [constant]]})
    plain = {
        "task": {"family": "maze", "options": {"max_episode_steps": 40}},
        "skills": str(tmp_path / "skills"),
        "algorithm": {
            "name": "sac",
            "hidden": 4,
            "batch_size": 4,
            "policy_start": "prior",
            "regularizer": {"prior": "skill", "target_divergence": 1.0},
        },
        "env_steps": 80,
        "evaluation": {"episodes": 1},
    }
    result = train(train_config(plain), tmp_path / "run", quiet=True)
    assert result is not None
    assert not [note for note in result["notes"] if note.startswith("Action")] if said else "notes" not in result
    notes = [note for note in result.get("notes", []) if "in the logs of the skills" in note]
    assert [note.startswith(str(said)) for note in notes] == [True] * (said is not None)
    assert capsys.readouterr().err.count("in the logs of the skills") == (said is not None)


@pytest.mark.parametrize(
    ("least", "most", "low", "high", "said"),
    [
        (0.3, 1.5, 316.0, 1494.0, True),  # metres where the logs have millimetres
        (300.0, 330.0, 316.0, 1494.0, False),  # a little of it is outside
        (310.0, 311.0, 316.0, 1494.0, False),  # hardly outside
        (40.0, 40.0, 0.04, 0.04, True),  # constant in the logs, and elsewhere
        (0.5, 0.5, 0.04, 0.04, False),
    ],
)
def test_observations_that_lie_outside_those_of_the_logs_or_are_another_constant_are_said(least, most, low, high, said):
    ranges = np.array([[-1.0, low], [1.0, high]], np.float32)
    skills = SimpleNamespace(observation_range=ranges, observe=lambda seen: seen)
    notes = range_notes(skills, np.array([[-0.5, least], [0.5, most]], np.float32))
    assert [note[:13] for note in notes] == ["Observation 1"] * said


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        (3.0, "Action 1 of the skills' logs goes from -6 to 3, and the environment takes up to 1: skills do not scale"),
        (
            0.005,
            "Action 1 of the skills' logs goes from -0.01 to 0.005, and the environment takes up to 1: no action of",
        ),
        (0.5, None),
    ],
)
def test_actions_of_the_logs_that_are_not_in_the_units_of_the_environment_are_said(scale, said, tmp_path):
    save_skills(tmp_path)
    model = SkillModel.load(tmp_path)
    model.action_high.fill_(scale)
    model.action_low.copy_(scale * torch.tensor([-1.0, -2.0]))
    found = action_notes(model, np.ones(2, np.float32))
    assert [note.startswith(str(said)) for note in found] == [True] * (said is not None)
    assert not action_notes(model, np.array([np.inf, 1.0]))


def test_names_of_the_logs_that_were_compared_with_none_are_said(tmp_path):
    save_skills(tmp_path)
    model = SkillModel.load(tmp_path)
    assert name_notes(model, ()) == []
    model.observed = (Observed("arm/q", 2), Observed("gripper", 2))
    assert [note.partition(". ")[0] for note in name_notes(model, ())] == [
        "The skills' logs name what they observe: arm/q (2), gripper (2)"
    ]
    assert name_notes(model, model.observed) == []


def test_such_actions_are_said_of_a_run(tmp_path):
    save_skills(tmp_path / "skills")
    model = SkillModel.load(tmp_path / "skills")
    model.action_high.fill_(3.0)
    model.save(tmp_path / "skills")
    spirl = {**SAC, "policy_start": "prior", "regularizer": {"prior": "skill", "target_divergence": 1.0}}
    plain = {
        "task": {"family": "maze", "options": {"max_episode_steps": 40}},
        "skills": str(tmp_path / "skills"),
        "algorithm": spirl,
        "env_steps": 40,
        "evaluation": {"episodes": 1},
    }
    for sees in (False, True):
        result = train(train_config({**plain, "see_task": sees}), tmp_path / f"run-{sees}", quiet=True)
        assert result is not None and result["notes"][0].startswith("Action 0 of the skills' logs goes from -1 to 3")
