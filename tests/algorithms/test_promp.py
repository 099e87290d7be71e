"""ProMP's and Reptile's outer steps against what their papers write."""

from __future__ import annotations

import numpy as np
import torch

from skillmeta.algorithms import promp, reptile
from skillmeta.algorithms.promp import Agent, Config
from skillmeta.environments import EnvsFactory
from skillmeta.rl.inner import inner_step, leaves, policy_of, stack
from skillmeta.rl.meta import MetaCollector
from skillmeta.rl.workers import Workers
from skillmeta.seeds import Seeds
from skillmeta.tasks.base import TaskConfig, make_family

POINTS = TaskConfig("point", split="any", options={"start_extent": 0.0, "horizon": 8})
FAMILY = make_family(POINTS)
SMALL = Config(tasks=3, rollouts=3, hidden=8, steps=2)


def collector(workers: Workers) -> MetaCollector:
    return MetaCollector(workers, lambda g: FAMILY.sample(g, "any"), Seeds(0), 10**6)


def samples(agent: Agent):
    with Workers(EnvsFactory(POINTS), chunk=9) as workers:
        batch = collector(workers).trials(agent.actor(), 3, 2)
    actor = agent.actor()
    before = actor.samples(batch.trials.episodes(0), stack(actor.parameters, 3))
    adapted = inner_step(actor.shape, leaves(stack(actor.parameters, 3)), before, 0.1, True, 0.0, create_graph=False)
    after = actor.samples(batch.trials.episodes(1), tuple(p.detach() for p in adapted))
    return actor, before, after


def test_at_the_old_parameters_the_loss_is_minus_the_mean_advantage():
    actor, before, after = samples(Agent(SMALL, 2, np.ones(2, np.float32), seeds=Seeds(0)))
    value = promp.loss(actor.shape, leaves(actor.parameters), actor.parameters, before, after, SMALL)
    mean = (after.advantage * after.valid).sum(1) / after.valid.sum(1)
    assert torch.allclose(value, -mean, atol=1e-5)  # ratios are 1 and the policy before has not moved


def test_its_gradient_is_that_of_finite_differences():
    actor, before, after = samples(Agent(SMALL, 2, np.ones(2, np.float32), seeds=Seeds(0)))
    before, after = (type(s)(*(part.double() for part in s)) for s in (before, after))
    old = tuple(p.double() for p in actor.parameters)
    generator = torch.Generator().manual_seed(0)
    moved = tuple(p + 0.01 * torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in old)
    direction = tuple(torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in old)

    def at(step: float) -> float:
        there = leaves(tuple(p + step * d for p, d in zip(moved, direction, strict=True)))
        return float(promp.loss(actor.shape, there, old, before, after, SMALL).mean().detach())

    parameters = leaves(moved)
    value = promp.loss(actor.shape, parameters, old, before, after, SMALL).mean()
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True) if g is not None)
    assert abs(slope - (at(1e-6) - at(-1e-6)) / 2e-6) < 1e-5


def test_the_policy_before_is_held_near():
    """The penalty alone: its value is the KL that the definition gives."""
    actor, before, after = samples(Agent(SMALL, 2, np.ones(2, np.float32), seeds=Seeds(0)))
    quiet = after._replace(advantage=torch.zeros_like(after.advantage))
    moved = tuple(p + 0.05 for p in actor.parameters)
    heavy = Config(tasks=3, rollouts=3, hidden=8, inner_kl_weight=1.0)
    value = promp.loss(actor.shape, leaves(moved), actor.parameters, before, quiet, heavy)
    old = policy_of(actor.shape, stack(actor.parameters, 3), before)
    new = policy_of(actor.shape, stack(moved, 3), before)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(old.mean, old.stddev), torch.distributions.Normal(new.mean, new.stddev)
    ).sum(-1)
    assert torch.allclose(value, (kl * before.valid).sum(1) / before.valid.sum(1), atol=1e-5)


def test_an_iteration_moves_the_parameters_and_acting_follows():
    agent = Agent(SMALL, 2, np.ones(2, np.float32), seeds=Seeds(0))
    before = [p.detach().clone() for p in agent.parameters]
    with Workers(EnvsFactory(POINTS), chunk=9) as workers:
        agent.iterate(collector(workers))
    assert any(not torch.equal(a, b) for a, b in zip(agent.parameters, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(agent.actor().parameters, agent.parameters, strict=True))


def test_reptile_goes_towards_the_mean():
    start = (torch.zeros(2), torch.ones(3))
    adapted = (torch.tensor([[2.0, 0.0], [4.0, 2.0]]), torch.ones(2, 3))
    moved = reptile.towards(start, adapted, 0.5)
    assert moved[0].tolist() == [1.5, 0.5] and moved[1].tolist() == [1.0] * 3


def test_reptiles_iteration_is_its_inner_steps():
    agent = reptile.Agent(
        reptile.Config(tasks=2, rollouts=3, hidden=8, step=1.0), 2, np.ones(2, np.float32), seeds=Seeds(0)
    )
    start = agent.acting.parameters
    with Workers(EnvsFactory(POINTS), chunk=6) as workers:
        batch, metrics = agent.iterate(collector(workers))
    assert batch.trials.reward.shape[:2] == (6, 2) and metrics["outer/way"] > 0
    adapted = stack(start, 2)
    for k in range(2):
        part = agent.acting.samples(batch.trials.episodes(k), adapted)
        adapted = tuple(
            p.detach() for p in inner_step(agent.acting.shape, leaves(adapted), part, 0.1, False, 0.0, False)
        )
    for ours, wanted in zip(agent.acting.parameters, adapted, strict=True):
        assert torch.allclose(ours, wanted.mean(0), atol=1e-6)
