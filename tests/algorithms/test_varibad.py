"""VariBAD: what acting believed is what learning computes; what its losses depend on, and what not."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from skillmeta.algorithms import varibad
from skillmeta.algorithms.varibad import Config, elbo_terms
from skillmeta.collect.trials import trial
from skillmeta.data.replay import Transitions
from skillmeta.data.trials import sequences
from skillmeta.envs.make import make_envs
from skillmeta.nn.distributions import Gaussian
from skillmeta.seeds import Seeds
from skillmeta.tasks.base import TaskConfig, make_family
from skillmeta.types import Batch, Trials
from tests.learners import make_learner

GRID = TaskConfig("gridworld", split="train", options={"max_episode_steps": 5})
ENDS = TaskConfig("point", split="any", options={"end_within": 0.5, "extent": 0.5, "max_episode_steps": 9})
SMALL = Config(episodes=3, tasks=5, minibatches=1, memory=8, hidden=8, latent_dim=3, inference_trials=5)


def acted(task: TaskConfig, config: Config = SMALL) -> tuple[Any, Trials, list[torch.Tensor]]:
    """Trials of a policy that listens to its belief, and the log probabilities that acting gave its actions."""
    family = make_family(task)
    envs, log_probs = make_envs(family, 5), list[torch.Tensor]()
    spec = envs.spec
    learner = make_learner(varibad, config, spec.observation_dim, spec.action_bound, spec.discrete, seeds=Seeds(1))
    with torch.no_grad():
        learner.network.policy_head.layers[-1].weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(2))

    class Listening(varibad.Actor):
        def act(self, observation, belief, generator, explore):
            action, after = super().act(observation, belief, generator, explore)
            features = varibad.seen_by_policy(observation, Gaussian(belief.mean, belief.log_stddev))
            log_probs.append(self.network.policy(features, None).log_prob(action))
            return action, after

    actor = Listening(learner.network, None, config.reward_scale)
    tasks = [family.sample(np.random.default_rng(i), task.split) for i in range(5)]
    trials, _ = trial(actor, envs, tasks, np.arange(15).reshape(5, 3), torch.Generator().manual_seed(0))
    learner.store.add(trials)
    return learner, trials, log_probs


@pytest.mark.parametrize("core", ["gru", "lstm"])
@pytest.mark.parametrize("task", [GRID, ENDS])
def test_learning_sees_what_acting_believed(task, core):
    """Also where environments in lockstep end at different times, and over the ends of episodes."""
    learner, trials, log_probs = acted(task, replace(SMALL, core=core))
    sample = learner.prepare(sequences(trials))
    lengths = trials.valid.sum(2)
    assert task is GRID or len(set(lengths.ravel().tolist())) > 1
    for n in range(5):
        position = call = 0
        for k in range(3):
            for t in range(lengths[:, k].max()):
                if trials.valid[n, k, t]:
                    assert float(sample.log_prob[n, position]) == pytest.approx(float(log_probs[call][n]), abs=1e-4)
                    position += 1
                call += 1
        assert sample.valid[n].sum() == position


@pytest.mark.parametrize("task", [GRID, ENDS])
def test_returns_and_advantages_are_of_scaled_rewards_over_the_ends_of_episodes(task):
    """Without bootstrapping at a trial's end, gae_lambda 1 gives the discounted sum of all that is still to come of the trial."""
    learner, trials, _ = acted(task, replace(SMALL, reward_scale=3.0, gae_lambda=1.0, discount=0.8))
    sample = learner.prepare(sequences(trials))
    for n in range(5):
        rewards = trials.reward[n][trials.valid[n]]  # of all episodes, one after the other
        expected = [3.0 * sum(0.8**k * r for k, r in enumerate(rewards[t:])) for t in range(len(rewards))]
        assert sample.returns[n, : len(rewards)].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    there = sample.valid > 0
    assert float(sample.advantage[there].mean()) == pytest.approx(0, abs=1e-5)
    assert float(sample.advantage[there].std()) == pytest.approx(1, abs=0.05)
    values = learner.network.value_head
    assert float(values.mean) == pytest.approx(
        float(sample.returns[there].mean()), rel=1e-4
    )  # in units of what is paid
    assert float(values.stddev) == pytest.approx(float(sample.returns[there].std(correction=0)), rel=1e-4)


@pytest.mark.parametrize(("coefficient", "predicts"), [(0.0, False), (0.1, True), (2.0, True)])
def test_next_observations_are_predicted_where_they_count(coefficient, predicts):
    config = replace(SMALL, decoder=replace(SMALL.decoder, observation_coefficient=coefficient))
    learner = make_learner(varibad, config, 2, np.ones(1, np.float32), discrete=False, seeds=Seeds(0))
    assert (learner.decoders.observation is not None) == predicts


def test_the_first_policy_is_uniform_and_a_residual_is_the_prior():
    learner = make_learner(varibad, SMALL, 1, np.ones(4, np.float32), discrete=True, seeds=Seeds(0))
    belief = learner.acting.begin(2000, torch.Generator())
    action, _ = learner.acting.act(torch.zeros(2000, 1), belief, torch.Generator().manual_seed(1), True)
    assert action.mean(0).tolist() == pytest.approx([0.25] * 4, abs=0.04)

    def prior(observation: torch.Tensor) -> Gaussian:
        return Gaussian(observation[..., :2] + 3.0, torch.full((*observation.shape[:-1], 2), -1.0))

    guided = make_learner(varibad, SMALL, 2, np.full(2, 5.0, np.float32), prior=prior, seeds=Seeds(0))
    action, _ = guided.acting.act(
        torch.zeros(1, 2), guided.acting.begin(1, torch.Generator()), torch.Generator(), False
    )
    assert action.tolist() == [[3.0, 3.0]]


@pytest.mark.parametrize("shared", [False, True])
def test_the_loss_of_the_policy_reaches_the_encoder_only_if_it_is_let(shared):
    learner, trials, _ = acted(GRID, replace(SMALL, rl_loss_in_encoder=shared))
    sample = learner.prepare(sequences(trials))
    total, _ = learner.policy_loss(sample, 1.0)
    total.backward()
    reached = [p.grad is not None and bool(p.grad.any()) for p in learner.network.encoder.parameters()]
    assert all(reached) if shared else not any(reached)
    before = [p.detach().clone() for p in learner.inference.parameters()]
    learner.update(sample, 1.0)
    moved = [not torch.equal(p, q) for p, q in zip(learner.inference.parameters(), before, strict=True)]
    assert any(moved) == shared
    assert not any(moved[len(reached) :])  # decoders never
    heads = [p.detach().clone() for p in learner.heads.parameters()]
    learner.infer()
    assert all(torch.equal(p, q) for p, q in zip(learner.heads.parameters(), heads, strict=True))


def terms(learner: Any, trials: Transitions, valid: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    inputs = learner.acting.inputs(trials.action, trials.reward, trials.next_observation)
    return elbo_terms(learner.network.encoder, learner.decoders, inputs, trials, valid, noise).detach()


def drawn(learner: Any) -> tuple[Transitions, torch.Tensor, torch.Tensor]:
    trials, valid = learner.store.sample(5, torch.Generator().manual_seed(0))
    return trials, valid, torch.randn(5, 1 + valid.shape[1], 3, generator=torch.Generator().manual_seed(1))


def test_the_loss_does_not_depend_on_the_number_of_trials():
    """The authors' code sums the KL over the trials of a batch and averages the rest: its weight grows with the batch."""
    learner, _, _ = acted(ENDS)
    trials, valid, noise = drawn(learner)
    twice = Transitions(*(torch.cat([part, part]) for part in trials))
    doubled = terms(learner, twice, torch.cat([valid, valid]), torch.cat([noise, noise]))
    assert torch.allclose(doubled, terms(learner, trials, valid, noise), rtol=1e-5)


def test_the_first_belief_is_held_to_a_standard_gaussian_and_each_other_to_the_one_before():
    learner, _, _ = acted(GRID)
    trials, valid, noise = drawn(learner)
    encoder = learner.network.encoder
    with torch.no_grad():  # a belief that nothing moves
        encoder.read.weight.zero_()
        encoder.read.bias.copy_(torch.tensor([1.0, 0.0, -2.0, 0.0, 0.5, -1.0]))
    closed = 0.5 * (5 + sum(np.exp(2 * s) - 2 * s - 1 for s in (0.0, 0.5, -1.0)))
    assert float(terms(learner, trials, valid, noise)[2]) == pytest.approx(closed, rel=1e-5)
    with torch.no_grad():
        encoder.read.bias.zero_()
    assert float(terms(learner, trials, valid, noise)[2]) == 0.0


@pytest.mark.parametrize("which", [0, -1])
def test_each_belief_is_to_tell_the_past_and_the_future(which):
    """Another reward, the first or the last, changes what each belief of a trial is asked for."""
    learner, _, _ = acted(GRID)
    trials, valid, noise = drawn(learner)
    changed = trials.reward.clone()
    changed[:, which] += 5.0
    inputs = learner.acting.inputs(trials.action, trials.reward, trials.next_observation)  # what beliefs are made from

    def pulls(some: Transitions) -> torch.Tensor:
        at = noise.clone().requires_grad_()
        terms = elbo_terms(learner.network.encoder, learner.decoders, inputs, some, valid, at)
        return torch.autograd.grad(terms[0], at)[0]

    assert (pulls(trials) != pulls(trials._replace(reward=changed))).any(-1).all()


def test_padding_changes_nothing():
    learner, trials, _ = acted(ENDS)
    trials, valid, noise = drawn(learner)
    longer = Transitions(*(torch.cat([part, 7 + part[:, :2]], 1) for part in trials))
    wider = torch.cat([noise, noise[:, :2]], 1)
    padded = terms(learner, longer, torch.cat([valid, torch.zeros(5, 2)], 1), wider)
    assert torch.allclose(padded, terms(learner, trials, valid, noise), rtol=1e-4)


@pytest.mark.parametrize("wrong", [{"core": "snail"}, {"minibatches": 65}, {"latent_dim": 0}, {"inference_rate": 0.0}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Config(**wrong)


class Spent:
    """A source whose budget is spent to a share."""

    def __init__(self, fraction: float, trials: Trials):
        self.fraction, self.batch = fraction, Batch(trials, ())

    def trials(self, actor: Any, tasks: int, episodes: int) -> Batch:
        return self.batch


@pytest.mark.parametrize(("begin", "left"), [(0.5, 0.5), (0.0, 0.25), (1.0, 1.0)])
def test_the_rate_of_inference_stays_and_then_falls_to_zero(begin, left):
    assert [varibad.falling(spent, 0.5) for spent in (0.0, 0.5, 0.75, 1.0)] == [1.0, 1.0, 0.5, 0.0]
    learner, trials, _ = acted(GRID, replace(SMALL, inference_anneal_from=begin, inference_updates=1))
    learner.iterate(Spent(0.75, trials))
    (group,) = learner.inference_optimizer.param_groups
    assert group["lr"] == pytest.approx(left * SMALL.inference_rate)


@pytest.mark.parametrize(("anneal", "left"), [(True, 0.25), (False, 1.0)])
def test_steps_of_the_policy_shrink_with_the_budget(anneal, left):
    learner, trials, _ = acted(GRID, replace(SMALL, anneal=anneal))
    assert learner.iterate(Spent(0.75, trials))["budget/left"] == left
    (group,) = learner.optimizer.param_groups
    assert group["lr"] == pytest.approx(left * SMALL.learning_rate)


def test_what_a_policy_pays_for_its_divergence_shrinks_with_the_budget():
    learner, trials, _ = acted(GRID, replace(SMALL, prior_coefficient=0.5))
    sample = learner.prepare(sequences(trials))
    (whole, metrics), (part, _), (none, _) = (learner.policy_loss(sample, left) for left in (1.0, 0.25, 0.0))
    assert float((whole - none).detach()) == pytest.approx(0.5 * float(metrics[2]), rel=1e-4)
    assert float((part - none).detach()) == pytest.approx(0.25 * 0.5 * float(metrics[2]), rel=1e-4)


def test_the_falling_rate_is_that_of_ppo_too_where_its_loss_changes_the_encoder(monkeypatch):
    """Else a resumed run, which knows no rate before its first iteration, would make other updates."""
    learner, trials, _ = acted(GRID, replace(SMALL, inference_anneal_from=0.0, rl_loss_in_encoder=True))
    rates = []
    monkeypatch.setattr(
        learner,
        "update",
        lambda *taken: rates.append(learner.inference_optimizer.param_groups[0]["lr"]) or torch.zeros(3),
    )

    with contextlib.suppress(Exception):
        learner.iterate(Spent(0.5, trials))
    assert rates and set(rates) == {0.5 * SMALL.inference_rate}
