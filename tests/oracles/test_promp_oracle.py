"""ProMP's clipped outer loss and its steps of Adam, and Reptile's move, against a slow reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from skillmeta.algorithms import promp, reptile
from skillmeta.objectives.inner_step import leaves
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
    "box": Spec(rate=0.4, ratio=True),
    "discrete": Spec(rate=0.4, ratio=True, discrete=True),
    "skills": Spec(rate=0.4, ratio=True, coefficient=0.3),
}
EVERY = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
NOTHING = torch.zeros(0, dtype=torch.float64)


def config_of(spec: Spec, **options: Any) -> promp.Config:
    return promp.Config(
        tasks=3, rollouts=4, inner_lr=spec.rate, hidden=HIDDEN, clip=0.1, inner_kl_coefficient=0.7,
        prior_coefficient=spec.coefficient or None, **options,
    )  # fmt: skip


def made(module: Any, config: Any, spec: Spec) -> Any:
    skills = (prior, normalize) if spec.coefficient else ()
    return make_learner(module, config, OBSERVED, np.ones(ACTIONS, np.float32), spec.discrete, *skills, seeds=Seeds(0))


@EVERY
def test_the_loss_and_its_gradient_away_from_the_old_policy(spec):
    old, theta = parameters(spec), parameters(spec, seed=7)
    theta = [(0.9 * a + 0.1 * b).detach().requires_grad_(True) for a, b in zip(old, theta, strict=True)]
    before, after = samples(spec, 1), samples(spec, 2)
    ours = leaves(tuple(theta))
    value = promp.loss(shape_of(spec), ours, tuple(old), before, after, config_of(spec), spec.coefficient).mean()
    wanted = reference.promp_loss(spec, theta, old, rows(before), rows(after), 0.1, 0.7)
    assert float(value.detach()) == pytest.approx(float(wanted.detach()), abs=1e-10)
    found = torch.autograd.grad(value, ours, allow_unused=True)
    right = torch.autograd.grad(wanted, theta, allow_unused=True)
    for a, b in zip(found, right, strict=True):
        assert a is b is None or torch.allclose(a, b, atol=1e-10)


def test_the_fixed_batch_clips_both_ways():
    spec = SPECS["box"]
    outside = [0, 0, 0, 0]
    for first, then in zip(rows(samples(spec, 1)), rows(samples(spec, 2)), strict=True):
        adapted = reference.policy(spec, *reference.adapt(spec, parameters(spec), first), then)
        ratio = torch.exp(adapted.log_prob(then.action) - then.log_prob)
        for k, sign in enumerate((1, -1)):
            outside[k] += int(((ratio > 1.1) & (sign * then.advantage > 0)).sum())
            outside[2 + k] += int(((ratio < 0.9) & (sign * then.advantage > 0)).sum())
    assert min(outside) > 0


@EVERY
def test_an_iteration_from_episodes_to_parameters(spec):
    """Three steps of Adam on the same episodes, from the arrays of a batch; the third is away from where they were collected."""
    skills, batch, theta = bool(spec.coefficient), trials(spec, 3), parameters(spec)
    config = config_of(spec, steps=3, learning_rate=0.02, discount=0.8)
    learner = made(promp, config, spec)
    put(learner, theta)
    learner.iterate(FixedSource(batch))
    before = data_of(spec, batch, 0, [(theta, NOTHING)] * 3, 0.8, skills)
    after = data_of(spec, batch, 1, [reference.adapt(spec, theta, data) for data in before], 0.8, skills)
    moments: list[Any] = [0, [0.0] * len(theta), [0.0] * len(theta)]
    moved = theta
    for _ in range(3):
        moved = [p.detach().requires_grad_(True) for p in moved]
        loss = reference.promp_loss(spec, moved, theta, before, after, 0.1, 0.7)
        slopes = torch.autograd.grad(loss, moved, allow_unused=True)
        slopes = [np.zeros(p.shape) if g is None else g.numpy() for g, p in zip(slopes, moved, strict=True)]
        moved = reference.adam(moved, slopes, moments, 0.02)
    wanted, start = vector_of(moved), vector_of(theta).detach()
    ours = torch.cat([p.detach().reshape(-1) for p in learner.parameters]).double()
    assert float((ours - wanted).norm()) < 0.01 * float((wanted - start).norm())


@pytest.mark.parametrize("spec", [Spec(rate=0.4), Spec(rate=0.4, discrete=True), Spec(rate=0.4, coefficient=0.3)])
def test_reptiles_iteration_from_episodes_to_parameters(spec):
    """Two full inner steps in each task, each on its own episodes, then 0.3 of the way to the mean of where they lead."""
    skills, batch, theta = bool(spec.coefficient), trials(spec, 3), parameters(spec)
    config = reptile.Config(
        tasks=3, rollouts=4, inner_lr=0.4, inner_steps=2, outer_lr=0.3, discount=0.8, hidden=HIDDEN,
        prior_coefficient=spec.coefficient or None,
    )  # fmt: skip
    learner = made(reptile, config, spec)
    put(learner, theta)
    metrics = learner.iterate(FixedSource(batch))
    tasks = [(theta, NOTHING)] * 3
    for k in range(2):
        data = data_of(spec, batch, k, tasks, 0.8, skills)
        tasks = [reference.adapt(spec, own, one) for (own, _), one in zip(tasks, data, strict=True)]
    mean = torch.stack([vector_of(own).detach() for own, _ in tasks]).mean(0)
    start = vector_of(theta).detach()
    ours = torch.cat([p.reshape(-1) for p in learner.acting.parameters]).double()
    assert torch.allclose(ours, start + 0.3 * (mean - start), atol=1e-4)
    assert learner.updates == 1
    assert metrics["outer/step_norm"] == pytest.approx(float((mean - start).norm()), rel=1e-3)


@pytest.mark.parametrize("halve", [True, False])
def test_reptile_collects_at_the_full_rate_and_acts_with_the_configured_one(halve):
    seen = []

    class Looking(FixedSource):
        def trials(self, actor: Any, tasks: int, episodes: int) -> Any:
            seen.append(actor.halve)
            return super().trials(actor, tasks, episodes)

    config = reptile.Config(tasks=3, rollouts=4, hidden=HIDDEN, halve_at_test=halve)
    learner = make_learner(reptile, config, OBSERVED, np.ones(ACTIONS, np.float32), seeds=Seeds(0))
    learner.iterate(Looking(trials(Spec(), 3)))
    assert seen == [False] and learner.actor().halve is halve
