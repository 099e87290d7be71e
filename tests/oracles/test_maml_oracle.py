"""MAML, first-order MAML, E-MAML and CAVIA against a slow reference: losses, gradients, curvature, the outer step, adaptation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from skillmeta.algorithms import maml
from skillmeta.algorithms.maml import Config, Learner, Problem
from skillmeta.objectives.inner_step import Actor
from skillmeta.seeds import Seeds
from tests.learners import make_learner
from tests.oracles import maml_reference as reference
from tests.oracles.batches import (
    ACTIONS,
    HIDDEN,
    OBSERVED,
    FixedSource,
    data_of,
    normalize,
    parameters,
    prior,
    put,
    rows,
    samples,
    shape_of,
    trials,
)
from tests.oracles.maml_reference import Spec, vector_of

SPECS = {
    "maml": Spec(rate=0.4),
    "first order": Spec(rate=0.4, first_order=True),
    "e-maml": Spec(rate=0.4, credit=True),
    "cavia": Spec(rate=0.8, context=2),
    "discrete": Spec(rate=0.4, discrete=True),
    "skills": Spec(rate=0.4, coefficient=0.3),
    "cavia on skills": Spec(rate=0.8, context=2, coefficient=0.3),
}
SCORE = np.array([1.3, -0.2, -1.1])
EVERY = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


def config_of(spec: Spec, **options: Any) -> Config:
    return Config(
        tasks=3, rollouts=4, inner_lr=spec.rate, first_order=spec.first_order, exploration_credit=spec.credit,
        context=spec.context, hidden=HIDDEN, cg_iterations=200, prior_coefficient=spec.coefficient or None, **options,
    )  # fmt: skip


def problem(spec: Spec, **options: Any) -> Problem:
    return Problem(
        shape_of(spec), config_of(spec, **options), tuple(parameters(spec)), samples(spec, 1), samples(spec, 2),
        torch.from_numpy(SCORE), spec.coefficient,
    )  # fmt: skip


@EVERY
@pytest.mark.parametrize("tasks_at_once", [1, 2])
def test_the_outer_loss_and_its_gradient(spec, tasks_at_once):
    made, theta = problem(spec, tasks_at_once=tasks_at_once), parameters(spec)
    batch = rows(samples(spec, 1)), rows(samples(spec, 2)), SCORE
    assert made.loss == pytest.approx(float(reference.outer_loss(spec, theta, *batch).detach()), abs=1e-10)
    assert np.allclose(made.gradient.numpy(), reference.gradient(spec, theta, *batch), atol=1e-10)


@EVERY
def test_products_with_the_curvature_are_the_kls_hessian_and_damping(spec):
    matrix = reference.curvature(spec, parameters(spec), rows(samples(spec, 1)), rows(samples(spec, 2)))
    made = problem(spec, damping=0.7)
    eye = torch.eye(len(matrix), dtype=torch.float64)
    products = torch.stack([made.product(column) for column in eye[:: 7 if len(eye) > 30 else 1]])
    assert np.allclose(products.numpy(), (matrix + 0.7 * np.eye(len(matrix)))[:: 7 if len(eye) > 30 else 1], atol=1e-9)


@EVERY
def test_loss_and_divergence_elsewhere(spec):
    theta = parameters(spec)
    away = [(p + 0.1 * torch.sin(torch.arange(p.numel()).view(p.shape))).detach().requires_grad_(True) for p in theta]
    before, after = rows(samples(spec, 1)), rows(samples(spec, 2))
    loss, divergence = problem(spec).loss_and_kl(vector_of(away))
    wanted = float(reference.outer_loss(spec, away, before, after, SCORE).detach())
    assert loss == pytest.approx(wanted, abs=1e-10)
    wanted = float(reference.mean_kl(spec, away, theta, before, after).detach())
    assert divergence == pytest.approx(wanted, abs=1e-10) and wanted > 1e-3


@pytest.mark.parametrize("radius", [0.01, 0.5])
@pytest.mark.parametrize("name", ["maml", "first order", "cavia", "discrete", "skills"])
def test_the_outer_step_is_that_of_a_dense_solve(name, radius):
    spec = SPECS[name]
    step = problem(spec, max_kl=radius, damping=0.1).step()
    wanted, part = reference.trust_region(
        spec, parameters(spec), rows(samples(spec, 1)), rows(samples(spec, 2)), SCORE, radius, 0.1
    )
    assert part > 0 and step.part == pytest.approx(part) and step.divergence <= radius
    assert np.allclose(step.parameters.detach().numpy(), wanted, atol=1e-7)


def learner_of(spec: Spec, **options: Any) -> Learner:
    """A learner at the reference's parameters."""
    learner = make_learner(maml, config_of(spec, **options), OBSERVED, np.ones(ACTIONS, np.float32), spec.discrete,
        *((prior, normalize) if spec.coefficient else ()), seeds=Seeds(0),
    )  # fmt: skip
    put(learner, parameters(spec))
    return learner


def start_of(spec: Spec) -> tuple[reference.Theta, torch.Tensor]:
    return parameters(spec), torch.zeros(spec.context, dtype=torch.float64, requires_grad=True)


@EVERY
def test_an_iteration_from_episodes_to_parameters(spec):
    """Discounted returns, baseline, normalisation, inner step, credit and outer step, from the arrays of a batch."""
    options = {"discount": 0.8, "damping": 0.1, "max_kl": 0.02}
    learner, batch, theta = learner_of(spec, **options), trials(spec, 3), parameters(spec)
    metrics = learner.iterate(FixedSource(batch))
    skills = bool(spec.coefficient)
    before = data_of(spec, batch, 0, [start_of(spec)] * 3, 0.8, skills)
    after = data_of(spec, batch, 1, [reference.adapt(spec, theta, data) for data in before], 0.8, skills)
    returns = (batch.reward * batch.valid).sum(2)[:, 1].reshape(3, 4).mean(1)
    score = (returns - returns.mean()) / returns.std()
    wanted, part = reference.trust_region(spec, theta, before, after, score, 0.02, 0.1)
    assert part > 0 and metrics["outer/step"] == pytest.approx(part)
    start = vector_of(theta).detach().numpy()
    moved = torch.cat([p.reshape(-1) for p in learner.acting.parameters]).double().numpy()
    assert np.linalg.norm(moved - wanted) < 0.01 * np.linalg.norm(wanted - start)


@pytest.mark.parametrize("name", ["maml", "cavia", "skills", "discrete"])
@pytest.mark.parametrize("halve", [True, False])
def test_adaptation_at_test_halves_its_rate_from_the_second_step(name, halve):
    spec = SPECS[name]
    actor: Actor = learner_of(spec, discount=0.8, halve_at_test=halve).actor()
    batch, skills = trials(spec, 4), bool(spec.coefficient)
    belief = actor.begin(3, torch.Generator())
    tasks = [start_of(spec)] * 3
    for k, rate in enumerate((spec.rate, spec.rate / 2 if halve else spec.rate)):
        belief = actor.adapt(belief, batch.episodes(k), torch.Generator())
        data = data_of(spec, batch, k, tasks, 0.8, skills)
        stepped = replace(spec, rate=rate)
        tasks = [
            reference.adapt(stepped, theta, one, context if spec.context else None)
            for (theta, context), one in zip(tasks, data, strict=True)
        ]
    for i, (theta, context) in enumerate(tasks):
        wanted = [*theta, context] if spec.context else theta
        for ours, right in zip(belief.parameters, wanted, strict=True):
            assert torch.allclose(ours[i].double(), right, atol=1e-4)


@pytest.mark.parametrize("name", ["maml", "cavia", "skills"])
@pytest.mark.parametrize("explore", [True, False])
def test_it_acts_by_samples_of_each_tasks_policy(name, explore):
    spec = SPECS[name]
    actor = learner_of(spec).actor()
    batch = trials(spec, 5)
    belief = actor.adapt(actor.begin(3, torch.Generator()), batch.episodes(0), torch.Generator())
    seen = batch.observation[:, 1, 0]
    action, _ = actor.act(torch.from_numpy(seen), belief, torch.Generator().manual_seed(3), explore)
    noise = torch.randn(3, 4, ACTIONS, generator=torch.Generator().manual_seed(3))
    data = data_of(spec, batch, 0, [start_of(spec)] * 3, 0.99, bool(spec.coefficient))
    raw = torch.from_numpy(seen).double().view(3, 4, -1)
    for task in range(3):
        base = prior(raw[task])
        one = data[task]._replace(
            observation=normalize(raw[task]), base_mean=base.mean, base_log_stddev=base.log_stddev
        )
        if not spec.coefficient:
            nothing = torch.zeros(4, ACTIONS)
            one = one._replace(observation=raw[task], base_mean=nothing, base_log_stddev=nothing)
        adapted: Any = reference.policy(spec, *reference.adapt(spec, parameters(spec), data[task]), one)
        assert torch.allclose(
            action.view(3, 4, -1)[task].double(), adapted.mean + adapted.stddev * noise[task], atol=1e-3
        )
