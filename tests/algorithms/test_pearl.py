"""PEARL: the product of Gaussians, what the context is made of, who learns from what, and that it uses what it has seen."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from skillmeta.algorithms import pearl
from skillmeta.algorithms.pearl import Agent, Config, Encoder, infer, kl_loss, nothing_seen
from skillmeta.environments import EnvsFactory, make_envs
from skillmeta.errors import ConfigError
from skillmeta.evaluation.adaptation import evaluate
from skillmeta.nn.distributions import Gaussian
from skillmeta.rl.meta import MetaCollector
from skillmeta.rl.rollout import episode
from skillmeta.rl.trial import trial
from skillmeta.rl.workers import Workers
from skillmeta.tasks.base import TaskConfig, make_family

POINTS = TaskConfig("point", split="train", options={"horizon": 6})
FAMILY = make_family(POINTS)
SMALL = Config(
    training_tasks=6, tasks_per_iteration=2, prior_episodes=2, posterior_episodes=1, first_episodes=2, updates=3, tasks=3,
    batch_size=8, context_size=5, hidden=16, replay_capacity=200, context_capacity=50,
)  # fmt: skip


def learner(config: Config = SMALL, seed: int = 0) -> Agent:
    return Agent(config, 2, np.ones(2, np.float32), seed=seed)


def collected(agent: Agent) -> Agent:
    with Workers(EnvsFactory(POINTS), chunk=32) as workers:
        collect = MetaCollector(workers, lambda g: FAMILY.sample(g), 0, 10**6)
        agent.iterate(collect)
    return agent


def factors(rows: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, rows, 3, generator=generator), torch.rand(2, rows, 3, generator=generator) + 0.1


def test_the_posterior_is_the_product_of_the_factors():
    """Against the density: the log of the product differs from the posterior's by a constant."""
    mean, variance = factors()
    posterior = nothing_seen(2, 3).plus(mean, variance, torch.ones(2, 7)).posterior()
    points = torch.linspace(-2, 2, 9)
    for task, dim in itertools.product(range(2), range(3)):
        product = sum(
            torch.distributions.Normal(mean[task, n, dim], variance[task, n, dim].sqrt()).log_prob(points)
            for n in range(7)
        )
        ours = torch.distributions.Normal(posterior.mean[task, dim], posterior.stddev[task, dim]).log_prob(points)
        assert torch.allclose(product - ours, (product - ours)[:1].expand(9), atol=1e-4)


def test_the_order_of_a_context_is_of_no_matter_and_evidence_adds_up():
    encoder = Encoder(4, SMALL, torch.Generator().manual_seed(0))
    context = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1))
    ones = torch.ones(2, 6)
    whole = infer(encoder, context, ones)
    turned = infer(encoder, context[:, [3, 1, 5, 0, 2, 4]], ones)
    assert torch.allclose(whole.mean, turned.mean, atol=1e-5) and torch.allclose(
        whole.log_stddev, turned.log_stddev, atol=1e-5
    )
    mean, variance = encoder(context)
    evidence = nothing_seen(2, SMALL.latent_dim)
    for part in (slice(0, 2), slice(2, 6)):
        evidence = evidence.plus(mean[:, part], variance[:, part], ones[:, part])
    assert torch.allclose(evidence.posterior().mean, whole.mean, atol=1e-5)
    masked = infer(encoder, context, torch.tensor([[1.0, 1, 0, 0, 0, 0]] * 2))
    assert torch.allclose(masked.mean, infer(encoder, context[:, :2], torch.ones(2, 2)).mean, atol=1e-6)


def test_more_evidence_is_more_certain_and_none_is_the_prior():
    mean, variance = factors()
    nothing = nothing_seen(2, 3).posterior()
    assert torch.equal(nothing.mean, torch.zeros(2, 3)) and torch.equal(nothing.stddev, torch.ones(2, 3))
    few = nothing_seen(2, 3).plus(mean[:, :2], variance[:, :2], torch.ones(2, 2)).posterior()
    many = nothing_seen(2, 3).plus(mean.repeat(1, 100, 1), variance.repeat(1, 100, 1), torch.ones(2, 700)).posterior()
    assert (many.stddev < few.stddev).all() and float(many.stddev.max()) < 0.1


def test_the_kls_scale_does_not_depend_on_the_number_of_tasks_unless_asked():
    posterior = Gaussian(torch.ones(1, 4), torch.zeros(1, 4))
    eight = Gaussian(torch.ones(8, 4), torch.zeros(8, 4))
    assert kl_loss(posterior, False) == kl_loss(eight, False) == 2.0  # 4 dimensions of 1/2 each
    assert kl_loss(eight, True) == 16.0


def test_gradients_come_from_the_declared_losses():
    """The encoder learns from critics and KL, not from the policy; the policy's loss moves nothing else."""
    agent = collected(learner())
    before = {name: [p.clone() for p in getattr(agent, name).parameters()] for name in ("encoder", "critics", "policy")}
    seen: dict[str, list] = {}
    original = torch.autograd.grad

    def grad(outputs, inputs, **kwargs):
        inputs = list(inputs)
        names = {id(p): n for n in before for p in getattr(agent, n).parameters()}
        found = original(outputs, inputs, **kwargs)
        seen["+".join(sorted({names[id(p)] for p in inputs}))] = [float(g.abs().sum()) for g in found]
        return found

    torch.autograd.grad = grad
    try:
        agent.update()
    finally:
        torch.autograd.grad = original
    assert set(seen) == {"critics+encoder", "policy"} and all(sum(v) > 0 for v in seen.values())
    # Were z not held constant in the policy's loss, the encoder would have a path from it.
    z = torch.randn(3, SMALL.latent_dim, requires_grad=True)
    assert torch.cat([torch.zeros(3, 2), z], -1).detach().requires_grad is False


def test_a_poisoned_training_buffer_changes_nothing_in_evaluation():
    """Garage's PEARL adapted from its training buffer."""
    agent = collected(learner())
    workers, tasks = Workers(EnvsFactory(POINTS)), FAMILY.tasks("test")[:4]
    clean = evaluate(agent.actor(), workers, tasks, episodes=3, seed=0)
    for buffer in (*agent.replays, *agent.contexts):
        for column in ("observation", "action", "reward", "next_observation"):
            getattr(buffer.columns, column)[:] = 1e6
    poisoned = evaluate(agent.actor(), workers, tasks, episodes=3, seed=0)
    assert np.array_equal(clean.returns, poisoned.returns)


def test_evaluation_works_before_any_training():
    result = evaluate(learner().actor(), Workers(EnvsFactory(POINTS)), FAMILY.tasks("test")[:3], episodes=2, seed=0)
    assert np.isfinite(result.returns).all() and result.explored.tolist() == [True, True, False]


def test_swapping_the_contexts_of_two_tasks_swaps_behaviour():
    agent, generator = collected(learner()), torch.Generator().manual_seed(0)
    envs, tasks = make_envs(FAMILY, 2), list(FAMILY.tasks("test")[:2])
    _, belief = trial(agent.acting, envs, tasks, np.array([[1, 2], [1, 2]]), generator)
    observation = torch.zeros(2, 2)
    swapped = pearl.Believed(pearl.Evidence(*(x[[1, 0]] for x in belief.evidence)), belief.z[[1, 0]])
    a, _ = agent.acting.act(observation, belief, generator, explore=False)
    b, _ = agent.acting.act(observation, swapped, generator, explore=False)
    assert torch.equal(a[[1, 0]], b) and not torch.equal(a[0], a[1])


def test_z_is_held_over_an_episode_and_drawn_anew_after_it():
    agent, generator = learner(), torch.Generator().manual_seed(0)
    envs, tasks = make_envs(FAMILY, 2), list(FAMILY.tasks("test")[:2])
    first = agent.acting.begin(2, generator)
    done, during = episode(agent.acting, envs, first, [0, 1], generator, tasks=tasks)
    assert torch.equal(during.z, first.z)
    after = agent.acting.adapt(during, done, generator)
    assert not torch.equal(after.z, first.z) and after.evidence.factors.tolist() == [6, 6]
    still = agent.exploring.adapt(during, done, generator)  # collects with z ~ N(0, I)
    assert still.evidence.factors.tolist() == [0, 0] and not torch.equal(still.z, first.z)


def test_the_context_buffer_holds_the_last_visit_alone():
    agent = learner()
    with Workers(EnvsFactory(POINTS), chunk=32) as workers:
        collect = MetaCollector(workers, lambda g: FAMILY.sample(g), 0, 10**6)
        agent.iterate(collect)
        assert [len(c) for c in agent.contexts] == [12] * 6  # two episodes of six steps
        assert [len(r) for r in agent.replays] == [12 + 12] * 6  # and two of the acting policy
        _, metrics = agent.iterate(collect)
        assert metrics["context/age"] > 0
        _, again = agent.iterate(collect)
    assert [len(c) for c in agent.contexts] == [12] * 6 and len(set(agent.tasks)) == 6


def test_deterministic_latents_have_no_spread():
    agent, generator = collected(learner(replace(SMALL, deterministic=True))), torch.Generator().manual_seed(0)
    belief = agent.acting.begin(2, generator)
    assert torch.equal(belief.z, torch.zeros(2, SMALL.latent_dim))


def test_impossible_configs_are_refused():
    with pytest.raises(ValueError, match="latent_dim is 0"):
        Config(latent_dim=0)
    with pytest.raises(ConfigError, match="actions are choices"):
        Agent(SMALL, 2, np.ones(2, np.float32), discrete=True)
    with Workers(EnvsFactory(POINTS)) as workers, pytest.raises(ConfigError, match="has 80 different tasks"):
        learner(replace(SMALL, training_tasks=81)).iterate(MetaCollector(workers, lambda g: FAMILY.sample(g), 0, 10))
