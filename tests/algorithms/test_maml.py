"""MAML's gradients against loops, double backward and finite differences; what adapts, and what it is adapted from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.func import functional_call

from skillmeta.algorithms import maml
from skillmeta.algorithms.maml import Agent, Config, Problem
from skillmeta.environments import EnvsFactory
from skillmeta.evaluation.adaptation import WithoutAdaptation, evaluate
from skillmeta.rl.inner import Shape, chunks, flat, inner_loss, inner_step, leaves, mean_of, policy_of, stack, unflat
from skillmeta.rl.meta import MetaCollector
from skillmeta.rl.workers import Workers
from skillmeta.seeds import Seeds
from skillmeta.tasks.base import TaskConfig, make_family

POINTS = TaskConfig("point", split="any", options={"extent": 0.5, "start_extent": 0.0, "horizon": 12})
SMALL = Config(tasks=3, rollouts=4, hidden=8, iterations=5)


def problem(config: Config = SMALL, seed: int = 0) -> tuple[Problem, Agent]:
    """A real batch, its numbers in double precision."""
    family = make_family(POINTS)
    agent = Agent(config, 2, np.ones(2, np.float32), seeds=Seeds(seed))
    with Workers(EnvsFactory(POINTS), chunk=12) as workers:
        collect = MetaCollector(workers, lambda g: family.sample(g, "any"), Seeds(0), 10_000)
        batch = collect.trials(agent.acting, config.tasks, 2)
    before, after, score = agent.samples(batch)
    double = [type(s)(*(part.double() for part in s)) for s in (before, after)]
    start = tuple(p.double() for p in agent.acting.parameters)
    return Problem(agent.acting.shape, config, start, *double, score.double()), agent


def outer_loss(made: Problem, vector: torch.Tensor) -> torch.Tensor:
    """One task after another, written out: adapt by autograd, then the surrogate on the episodes after."""
    total = torch.zeros((), dtype=torch.float64)
    tasks = len(made.after.valid)
    for task in range(tasks):
        rows = slice(task, task + 1)
        parameters = unflat(vector, made.start)
        before, after = made.before.tasks(rows), made.after.tasks(rows)
        stacked = stack(parameters, 1)
        log_prob = policy_of(made.shape, stacked, before).log_prob(before.action)
        inner = -(log_prob * before.advantage * before.valid).sum() / before.valid.sum()
        gradients = torch.autograd.grad(inner, stacked, create_graph=True)
        adapted = tuple(p - made.config.inner_rate * g for p, g in zip(stacked, gradients, strict=True))
        new = policy_of(made.shape, adapted, after).log_prob(after.action)
        total = total - (torch.exp(new - after.log_prob) * after.advantage * after.valid).sum() / after.valid.sum()
    return total / tasks


def test_the_network_is_torchs():
    shape = Shape(3, 2, hidden=5, depth=2)
    parameters = shape.start(torch.Generator().manual_seed(0))
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)
    )
    named = dict(zip([name for name, _ in net.named_parameters()], parameters, strict=False))
    observation = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(1))
    from skillmeta.rl.inner import policy

    ours = policy(shape, stack(parameters, 2), observation, torch.zeros(2, 7, 2), torch.zeros(2, 7, 2))
    assert torch.allclose(ours.mean, functional_call(net, named, (observation,)), atol=1e-6)


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_the_gradient_is_double_backwards_however_many_tasks_go_at_once(at_once):
    made, _ = problem(replace(SMALL, tasks_at_once=at_once))
    vector = flat(made.start).clone().requires_grad_(True)
    (wanted,) = torch.autograd.grad(outer_loss(made, vector), vector)
    assert torch.allclose(made.gradient, wanted, atol=1e-10)


def test_the_gradient_is_that_of_finite_differences():
    made, _ = problem()
    assert made.loss == pytest.approx(made.judge(flat(made.start))[0], abs=1e-10)
    start, rng = flat(made.start), torch.Generator().manual_seed(2)
    for _ in range(3):
        direction = torch.randn(len(start), generator=rng, dtype=torch.float64)
        step = 1e-5
        slope = (made.judge(start + step * direction)[0] - made.judge(start - step * direction)[0]) / (2 * step)
        assert float(made.gradient @ direction) == pytest.approx(slope, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("discrete", [False, True])
def test_the_curvature_is_the_kls_hessian(discrete):
    made, _ = problem()
    if discrete:
        shape = replace(made.shape, discrete=True)
        choose = torch.nn.functional.one_hot
        samples = []
        for part in (made.before, made.after):
            action = choose(part.action.argmax(-1), 2).double()
            log_prob = policy_of(shape, stack(made.start, 3), part).log_prob(action).detach()
            samples.append(part._replace(action=action, log_prob=log_prob))
        made = Problem(shape, replace(SMALL, damping=0.0), made.start, *samples, made.score)
    else:
        made.config = replace(SMALL, damping=0.0)

    def divergence(vector: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for rows, part in zip(made.parts, made.linear, strict=True):
            adapted = made.adapt(unflat(vector, made.start), rows, create_graph=True)
            after = made.after.tasks(rows)
            total = total + mean_of(policy_of(made.shape, adapted, after).kl(part.old), after.valid).sum() / 3
        return total

    start = flat(made.start)
    direction = torch.randn(len(start), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    vector = start.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(divergence(vector), vector, create_graph=True)
    assert float(slope.detach().abs().max()) < 1e-8  # at the old parameters the KL is at its minimum
    (wanted,) = torch.autograd.grad(slope @ direction, vector)
    assert torch.allclose(made.product(direction), wanted, atol=1e-8)


def test_first_order_takes_the_inner_gradient_for_a_constant():
    made, _ = problem(replace(SMALL, first_order=True))
    adapted = leaves(made.adapt(leaves(made.start), slice(0, 3), create_graph=False))
    gradients = torch.autograd.grad(
        maml.surrogate(policy_of(made.shape, adapted, made.after), made.after).mean(), adapted, allow_unused=True
    )
    filled = [torch.zeros_like(a) if g is None else g for g, a in zip(gradients, adapted, strict=True)]
    assert torch.allclose(made.gradient, flat(tuple(g.sum(0) for g in filled)), atol=1e-10)


def test_exploration_is_credited_with_the_return_after():
    made, _ = problem(replace(SMALL, exploration_credit=True))
    plain = Problem(made.shape, SMALL, made.start, made.before, made.after, made.score)
    difference = made.gradient - plain.gradient
    vector = flat(made.start).clone().requires_grad_(True)
    stacked = stack(unflat(vector, made.start), 3)
    log_prob = policy_of(made.shape, stacked, made.before).log_prob(made.before.action)
    term = -(made.score * mean_of(log_prob, made.before.valid)).mean()
    assert torch.allclose(difference, torch.autograd.grad(term, vector)[0], atol=1e-10)


def test_exploration_credit_needs_two_tasks():
    with pytest.raises(ValueError, match="tasks is 1; set tasks to 2 or more"):
        replace(SMALL, tasks=1, exploration_credit=True)
    assert problem(replace(SMALL, tasks=1))[0].score.tolist() == [0.0]


def test_an_evaluation_by_modes_adapts_all_the_same():
    family, agent = make_family(POINTS), Agent(SMALL, 2, np.ones(2, np.float32), seeds=Seeds(0))
    with Workers(EnvsFactory(POINTS), chunk=12) as workers:
        judged = evaluate(agent.actor(), workers, [family.sample(np.random.default_rng(0), "any")], 1, 0, sample=False)
        still = evaluate(
            WithoutAdaptation(agent.actor()), workers, [family.sample(np.random.default_rng(0), "any")], 1, 0
        )
    assert judged.returns[0, 0, 0] == still.returns[0, 0, 0] and judged.returns[0, 0, 1] != still.returns[0, 0, 1]


def test_a_context_alone_adapts():
    made, agent = problem(replace(SMALL, context=3))
    stacked = leaves(stack(made.start, 3, context=3))
    moved = inner_step(made.shape, stacked, made.before, 0.5, False, 0.0, create_graph=False)
    changed = [not torch.equal(a, b) for a, b in zip(moved, stacked, strict=True)]
    assert changed == [False] * (len(changed) - 1) + [True]
    assert float(made.gradient[: made.start[0].numel()].abs().max()) > 0  # the outer step moves the weights


def test_a_context_starts_each_task_at_zero_whatever_was_learned():
    family, agent = make_family(POINTS), Agent(replace(SMALL, context=3), 2, np.ones(2, np.float32), seeds=Seeds(0))
    with Workers(EnvsFactory(POINTS), chunk=12) as workers:
        collect = MetaCollector(workers, lambda g: family.sample(g, "any"), Seeds(0), 10_000)
        metrics = agent.iterate(collect)[1]
    assert metrics["outer/step"] > 0
    assert agent.actor().begin(2, torch.Generator()).parameters[-1].tolist() == [[0.0] * 3] * 2


def test_ratio_and_log_likelihood_agree_to_first_order_and_not_to_second():
    made, _ = problem()
    stacked = leaves(stack(made.start, 3))
    first = [
        torch.autograd.grad(inner_loss(made.shape, stacked, made.before, r, 0.0).sum(), stacked[0])[0]
        for r in (False, True)
    ]
    assert torch.allclose(*first, atol=1e-10)
    second = []
    for ratio in (False, True):
        (slope,) = torch.autograd.grad(
            inner_loss(made.shape, stacked, made.before, ratio, 0.0).sum(), stacked[0], create_graph=True
        )
        second.append(torch.autograd.grad((slope**2).sum(), stacked[0])[0])
    assert not torch.allclose(*second, atol=1e-6)


def test_a_step_of_trpo_helps_within_its_radius():
    family = make_family(POINTS)
    agent = Agent(SMALL, 2, np.ones(2, np.float32), seeds=Seeds(0))
    with Workers(EnvsFactory(POINTS), chunk=12) as workers:
        collect = MetaCollector(workers, lambda g: family.sample(g, "any"), Seeds(0), 10_000)
        before = flat(agent.acting.parameters)
        batch, metrics = agent.iterate(collect)
    assert metrics["outer/step"] > 0 and 0 < metrics["outer/divergence"] <= SMALL.radius
    assert not torch.equal(flat(agent.acting.parameters), before) and batch.trials.reward.shape[:2] == (12, 2)
    assert list(chunks(5, 2)) == [slice(0, 2), slice(2, 4), slice(4, 5)]


def test_adaptation_is_in_each_task_alone_and_halves_its_rate():
    agent = Agent(replace(SMALL, rollouts=2), 2, np.ones(2, np.float32), seeds=Seeds(0))
    family = make_family(POINTS)
    tasks = family.tasks("train")[:4]
    result = evaluate(agent.acting, Workers(EnvsFactory(POINTS), chunk=4), tasks, episodes=2, seed=0, sample=True)
    alone = evaluate(agent.acting, Workers(EnvsFactory(POINTS), chunk=100), tasks, episodes=2, seed=0, sample=True)
    assert result.returns.shape == (1, 4, 3) and (result.env_steps == 24).all() and np.isfinite(alone.returns).all()
    still = evaluate(
        WithoutAdaptation(agent.acting), Workers(EnvsFactory(POINTS), chunk=4), tasks, episodes=2, seed=0, sample=True
    )
    assert np.array_equal(still.returns[:, :, 0], result.returns[:, :, 0])
    assert not np.array_equal(still.returns[:, :, 1], result.returns[:, :, 1])
