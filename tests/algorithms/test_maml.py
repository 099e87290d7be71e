"""MAML on real episodes; tests/oracles holds its losses, gradients and steps against a reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from skillmeta.algorithms import maml
from skillmeta.algorithms.maml import Config, Learner
from skillmeta.collect.source import Budget, OnlineSource
from skillmeta.collect.workers import Workers
from skillmeta.envs.make import EnvsFactory
from skillmeta.evaluation.actors import NoAdaptation
from skillmeta.evaluation.adaptation import evaluate
from skillmeta.objectives.inner_step import flat
from skillmeta.seeds import Seeds
from skillmeta.tasks.base import TaskConfig, make_family
from skillmeta.types import Batch, Metrics, Trials
from tests.learners import make_learner

POINTS = TaskConfig("point", split="any", options={"extent": 0.5, "start_extent": 0.0, "max_episode_steps": 12})
SMALL = Config(tasks=3, rollouts=4, hidden=8, cg_iterations=5)


def iterated(config: Config) -> tuple[Learner, Trials, Metrics]:
    """A learner after one iteration, and what it learned from."""
    family, learner = make_family(POINTS), make_learner(maml, config, 2, np.ones(2, np.float32), seeds=Seeds(0))
    with Workers(EnvsFactory(POINTS), envs_per_batch=12) as workers:
        source = OnlineSource(workers, lambda g: family.sample(g, "any"), Seeds(0), Budget(10_000))
        metrics = learner.iterate(source)
        assert source.last is not None
        return learner, source.last, metrics


def test_a_context_starts_each_task_at_zero_whatever_was_learned():
    learner, _, metrics = iterated(replace(SMALL, context=3))
    assert metrics["outer/step"] > 0
    assert learner.actor().begin(2, torch.Generator()).parameters[-1].tolist() == [[0.0] * 3] * 2


def test_exploration_credit_needs_two_tasks():
    with pytest.raises(ValueError, match="tasks is 1; set tasks to 2 or more"):
        replace(SMALL, tasks=1, exploration_credit=True)
    learner, trials, _ = iterated(replace(SMALL, tasks=1))
    assert learner.samples(Batch(trials, ()))[2].tolist() == [0.0]


def test_an_evaluation_by_modes_adapts_all_the_same():
    family, learner = make_family(POINTS), make_learner(maml, SMALL, 2, np.ones(2, np.float32), seeds=Seeds(0))
    with Workers(EnvsFactory(POINTS), envs_per_batch=12) as workers:
        evaluated = evaluate(
            learner.actor(), workers, [family.sample(np.random.default_rng(0), "any")], 1, 0, sample=False
        )
        still = evaluate(NoAdaptation(learner.actor()), workers, [family.sample(np.random.default_rng(0), "any")], 1, 0)
    ours, theirs = evaluated.returns[0, 0, :, 0], still.returns[0, 0, :, 0]  # [rollouts, episodes]
    assert (ours[:, 0] == theirs[:, 0]).all() and (ours[:, 1] != theirs[:, 1]).any()


def test_a_step_of_trpo_helps_within_its_radius():
    learner, trials, metrics = iterated(SMALL)
    assert metrics["outer/step"] > 0 and 0 < metrics["outer/divergence"] <= SMALL.max_kl
    start = make_learner(maml, SMALL, 2, np.ones(2, np.float32), seeds=Seeds(0)).acting.parameters
    assert not torch.equal(flat(learner.acting.parameters), flat(start)) and trials.reward.shape[:2] == (12, 2)
