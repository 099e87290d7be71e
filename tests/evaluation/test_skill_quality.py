"""What acting by the prior is reported to reach, in a world in which everything can be counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from skillmeta.config import build
from skillmeta.envs.probe import examined
from skillmeta.envs.serial import SerialEnvs
from skillmeta.envs.skill_space import SkillEnvs
from skillmeta.evaluation.actors import PriorActor, RandomActor
from skillmeta.evaluation.skill_quality import Fit, compare_rollouts, rollouts, verdict
from skillmeta.programs.pretrain import PretrainConfig, pretrain
from skillmeta.tasks.base import TaskConfig, TaskFamily, make_family
from tests.envs import users
from tests.programs import telltale
from tests.skills.fakes import CounterEnv, skill_model

FAMILY = TaskFamily(
    name="counter",
    version=1,
    definition="",
    max_episode_steps=25,
    splits={"train": (0,), "test": (0,)},
    make_env=CounterEnv,
    positions=lambda observations: observations[..., :2],
    coverage=lambda positions: len(positions) / 100,
)


def test_rollouts_count_steps_successes_and_coverage():
    model = skill_model()
    with_skills = SkillEnvs(SerialEnvs(CounterEnv, unit_actions=False), model)
    told = rollouts("prior", PriorActor(model.prior), with_skills, FAMILY, episodes=4, seed=1)
    assert (told.episodes, told.env_steps, told.success) == (4, 100, 1.0)
    assert told.coverage == pytest.approx(0.04) and told.total_coverage == pytest.approx(
        0.16
    )  # three decisions: 4 places
    assert [len(path) for path in told.paths] == [4] * 4
    primitive = rollouts("random", RandomActor(np.ones(1, np.float32)), SerialEnvs(CounterEnv), FAMILY, 4)
    assert primitive.coverage == pytest.approx(0.26)


def test_a_family_with_positions_and_no_coverage_has_paths_alone():
    bare = replace(FAMILY, coverage=None)
    result = rollouts("random", RandomActor(np.ones(1, np.float32)), SerialEnvs(CounterEnv), bare, 2)
    assert (result.coverage, result.total_coverage) == (None, None) and [len(path) for path in result.paths] == [26] * 2


def test_the_prior_acts_by_its_own_samples_and_random_actions_fill_the_box():
    model, observation = skill_model(), torch.randn(2000, 2)
    action, _ = PriorActor(model.prior).act(observation, None, torch.Generator().manual_seed(0), True)
    prior = model.prior(observation)
    scaled = (action - prior.mean) / prior.stddev
    assert float(scaled.mean()) == pytest.approx(0, abs=0.05) and float(scaled.std()) == pytest.approx(1, abs=0.05)
    uniform, _ = RandomActor(np.array([2.0], np.float32)).act(observation, None, torch.Generator().manual_seed(0), True)
    assert -2 <= uniform.min() < -1.9 and 1.9 < uniform.max() <= 2


def test_the_reports_draws_follow_the_training_seed(tmp_path):
    rng, ends = np.random.default_rng(0), np.zeros(600, bool)
    ends[99::100] = True
    actions = rng.uniform(-1, 1, (600, 2)).astype(np.float32)
    np.savez(
        tmp_path / "log.npz", observations=rng.normal(size=(600, 4)).astype(np.float32), actions=actions, timeouts=ends
    )
    results = []
    for seed in (0, 1):
        config = {
            "source": str(tmp_path / "log.npz"),
            "model": {"horizon": 3, "hidden": 8},
            "training": {"steps": 1, "seed": seed},
            "quality": {"episodes": 2},
            "task": {"family": "maze", "options": {"max_episode_steps": 60}},
        }
        results.append(pretrain(build(PretrainConfig, config), tmp_path / str(seed)))
    assert results[0] is not None and results[1] is not None
    random = [next(r for r in result["rollouts"] if r["name"] == "random actions") for result in results]
    assert random[0] != random[1]


def test_the_prior_is_compared_with_random_skills_and_random_actions_on_equal_episodes():
    told = compare_rollouts(skill_model(), FAMILY, episodes=2)
    assert [one.name for one in told] == ["skills from the prior", "random skills", "random actions"]
    assert [one.env_steps for one in told] == [50, 50, 50]


@pytest.mark.parametrize(
    ("variance", "active", "words"),
    [(0.3, 0, "Lower training.beta"), (0.001, 0, "actions vary by 3.2% of half their range"), (0.001, 2, "")],
)
def test_advice_on_an_unused_latent_names_beta_or_the_scale_of_actions(variance, active, words):
    """No beta helps where actions are so small a part of their range that the loss hardly sees them."""
    found = Fit(9, [0.1], [0.1], [variance], 0.0, 0.0, 1.0, 2.0, active, 2, [1.0, 1.0])
    said = " ".join(verdict(found, []))
    assert words in said and ("No latent dimension" in said) == (active == 0)


@pytest.mark.parametrize("cloned", [False, True])
@pytest.mark.parametrize(
    ("gain", "fits", "words"),
    [(2.0, True, "2.00 nats likelier"), (-0.05, True, "0.05 nats less likely"), (-0.3, False, "0.30 nats less likely")],
)
def test_a_prior_that_fits_worse_than_one_gaussian_is_said_first(gain, fits, words, cloned):
    found = Fit(9, [0.1], [0.1], [0.4], 0.0, 0.0, 1.0, 1.0 + gain, 2, 3, [1.0] * 3)
    said = verdict(found, [], cloned)
    assert said[0].startswith("The prior fits held-out skills worse than one Gaussian") != fits
    assert words in said[-1] and ("2 of 3 latent dimensions" in said[-1]) != cloned
    assert any("explain 75% of the variance" in one for one in said) != cloned


def test_rollouts_end_after_the_familys_length_and_state_no_success_that_is_not_reported():
    users.register()
    config = TaskConfig("gym", options={"id": "users/Endless-v0", "max_episode_steps": 5})
    acted = compare_rollouts(skill_model(action_dim=2), examined(make_family(config), config), episodes=2)
    assert [(one.env_steps, one.success) for one in acted] == [(10, None)] * 3
    bare = TaskFamily("bare", 1, "", 6, {"train": telltale.TRAIN}, users.Endless)
    acted = compare_rollouts(skill_model(action_dim=2), bare, episodes=2)
    assert [(one.env_steps, one.success) for one in acted] == [(12, 0.0)] * 3
