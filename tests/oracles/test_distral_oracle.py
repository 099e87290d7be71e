"""Distral against a slow reference written from the paper (Teh et al. 2017) in double precision, one decision after another, and on
bandits over skills whose solution is a fixed point in closed form."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from skillmeta.algorithms import distral
from skillmeta.algorithms.distral import Config, Learner
from skillmeta.collect.source import Budget, OnlineSource
from skillmeta.collect.workers import Workers
from skillmeta.config import build
from skillmeta.data.replay import Transitions
from skillmeta.errors import ConfigError
from skillmeta.objectives.regularizer import RegularizerConfig
from skillmeta.seeds import Seeds
from tests.learners import make_learner
from tests.oracles.batches import normalize, wide_prior
from tests.oracles.by_hand import Adam, Weights, assert_same, kl_normal, mlp, weights
from tests.oracles.test_simpl_oracle import Bandit, bandit_prior

S, A, TRAINING, TASKS, ROWS = 3, 2, 4, 2, 5  # state, skill; training tasks, of an update, decisions of each
BOUND = np.array([0.4, 0.5], np.float32)


class Reference:
    """Parameters, slow critics, coefficient and optimisers in double precision; `learn` is one update."""

    def __init__(self, learner: Learner):
        self.config, how = learner.config, learner.config.regularizer
        self.distilled, self.policies = weights(learner.distilled), weights(learner.policies)
        self.critics = [weights(member) for member in learner.critics.members]
        self.targets = [[p.detach().clone() for p in member] for member in self.critics]
        lr = learner.config.learning_rate
        self.critic_adam = Adam([*itertools.chain(*self.critics)], lr)
        self.policy_adam, self.distilled_adam = Adam(self.policies, lr), Adam(self.distilled, lr)
        self.log = torch.full((1,), math.log(how.initial_coefficient)).double()
        self.log_adam = Adam([self.log], how.learning_rate)

    def policy(self, network: Weights, seen: Tensor, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of a residual on the prior, [A] each."""
        prior = wide_prior(observation[None])
        shift, log_ratio = mlp(network, seen).chunk(2)
        return prior.mean[0] + shift, prior.log_stddev[0] + log_ratio

    def chosen(self, observation: Tensor, task: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the policy of a task executes, D of it, KL(pi_i || pi_0) of a constant pi_i, and KL(pi_0 || p)."""
        own = self.policy(self.policies, torch.cat([normalize(observation), task]), observation)
        shared = self.policy(self.distilled, normalize(observation), observation)
        prior = wide_prior(observation[None])
        plain = (prior.mean[0], prior.log_stddev[0])
        held = [x.detach() for x in shared]
        share, bound = self.config.distilled_share, torch.from_numpy(BOUND).double()
        divergence = share * kl_normal(*own, *held) + (1 - share) * kl_normal(*own, *plain)
        skill = (own[0] + own[1].exp() * noise).clamp(-bound, bound)
        return skill, divergence, kl_normal(*(x.detach() for x in own), *shared), kl_normal(*shared, *plain)

    def value(self, critic: Weights, observation: Tensor, task: Tensor, skill: Tensor) -> Tensor:
        return mlp(critic, torch.cat([normalize(observation), task, skill]))[0]

    def learn(self, batch: Transitions, tasks: Tensor, noise: Tensor) -> list[Tensor]:
        config, how, weight = self.config, self.config.regularizer, self.log.exp()[0]
        count = len(tasks)
        error, loss, distilled = (torch.zeros(()).double() for _ in range(3))
        divergences, far = [], []
        for b in range(count):
            row = {name: values[b].double() for name, values in batch._asdict().items()}
            task = tasks[b].double()
            with torch.no_grad():
                skill, divergence, *_ = self.chosen(row["next_observation"], task, noise[1, b].double())
                later = min(self.value(q, row["next_observation"], task, skill) for q in self.targets)
                later = later - weight * min(float(divergence), how.td_divergence_clip or math.inf)
                target = row["reward"] + config.discount * (1 - row["terminated"]) * later
            for q in self.critics:
                error = error + 0.5 * (self.value(q, row["observation"], task, row["action"]) - target) ** 2 / count
            skill, divergence, own, away = self.chosen(row["observation"], task, noise[0, b].double())
            q = torch.minimum(*(self.value(critic, row["observation"], task, skill) for critic in self.critics))
            loss = loss + (weight * divergence - q) / count
            distilled = distilled + own / count
            divergences.append(divergence.detach())
            far.append(away.detach())
        steps = [
            torch.autograd.grad(value, adam.parameters, retain_graph=True)
            for value, adam in ((error, self.critic_adam), (loss, self.policy_adam), (distilled, self.distilled_adam))
        ]
        for adam, step in zip((self.critic_adam, self.policy_adam, self.distilled_adam), steps, strict=True):
            adam.apply(step)
        gap = (how.target_divergence - torch.stack(divergences).mean())[None]
        self.log_adam.apply([gap.clamp(max=0) if how.controller == "one_way" else gap])
        self.log.clamp_(math.log(how.minimum_coefficient), math.log(how.maximum_coefficient))
        with torch.no_grad():
            for slow, fast in zip(itertools.chain(*self.targets), itertools.chain(*self.critics), strict=True):
                slow.copy_((1 - config.tau) * slow + config.tau * fast)
        return [error, loss, distilled, torch.stack(divergences).mean(), torch.stack(far).mean()]


def draw(generator: torch.Generator) -> tuple[Transitions, Tensor, Tensor]:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    count = TASKS * ROWS
    ended = (torch.rand(count, generator=generator) < 0.3).float()
    batch = Transitions(normal(count, S), normal(count, A).clamp(-0.4, 0.4), normal(count), normal(count, S), ended)
    chosen = torch.randperm(TRAINING, generator=generator)[:TASKS]
    return batch, torch.eye(TRAINING)[chosen].repeat_interleave(ROWS, 0), normal(2, count, A)


BASE = Config(
    training_tasks=TRAINING, tasks_per_iteration=1, tasks=TASKS, batch_size=ROWS, distilled_share=0.3, discount=0.8, tau=0.3,
    learning_rate=1e-2, hidden=8, depth=2, replay_capacity=100,
    regularizer=RegularizerConfig(
        prior="skill", initial_coefficient=0.4, target_divergence=0.01, learning_rate=0.1, td_divergence_clip=0.05
    ),
)  # fmt: skip


def moved(config: Config) -> Learner:
    """A learner whose policies have left the prior, each its own way."""
    learner = make_learner(distral, config, S, BOUND, prior=wide_prior, normalize=normalize, seeds=Seeds(4))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for network in (learner.policies, learner.distilled):
            network.net.layers[-1].weight.normal_(0, 0.3, generator=generator)
    return learner


@pytest.mark.parametrize("case", ["up", "one way, below the target", "far share, no clip"])
def test_updates_are_those_of_the_reference(case):
    how = BASE.regularizer
    config = {
        "up": BASE,
        "one way, below the target": replace(
            BASE, regularizer=replace(how, controller="one_way", target_divergence=50.0)
        ),
        "far share, no clip": replace(
            BASE, distilled_share=0.9, regularizer=replace(how, td_divergence_clip=None, target_divergence=50.0)
        ),
    }[case]
    learner, generator = moved(config), torch.Generator().manual_seed(0)
    reference, start = Reference(learner), Reference(learner)
    for _ in range(3):
        drawn = draw(generator)
        found, expected = learner.learn(drawn), reference.learn(*drawn)
        torch.testing.assert_close(found.double(), torch.stack(expected).detach(), rtol=2e-4, atol=2e-5)
    for part in ("policies", "distilled"):
        assert_same(getattr(learner, part).parameters(), getattr(reference, part), getattr(start, part), atol=5e-4)
    for i in range(2):
        assert_same(learner.critics.members[i].parameters(), reference.critics[i], start.critics[i], atol=5e-4)
        assert_same(learner.targets.members[i].parameters(), reference.targets[i], start.targets[i], atol=5e-4)
    log = float(learner.regularizer.log_coefficient)
    assert log == pytest.approx(float(reference.log), abs=1e-4)
    assert (log == pytest.approx(math.log(0.4))) is (case == "one way, below the target")


def test_all_policies_start_as_the_prior():
    learner = make_learner(distral, BASE, S, BOUND, prior=wide_prior, normalize=normalize, seeds=Seeds(4))
    found = learner.learn(draw(torch.Generator().manual_seed(0)))
    assert found[2] == found[3] == found[4] == 0


STDDEV, COEFFICIENT, SHARE = 0.25, 0.5, 0.5  # of `bandit_prior`; fixed; alpha


def fixed_point() -> tuple[float, float, float]:
    """Mean of a task's policy, its variance, and that of the distilled policy, where reward is z or -z and the prior N(0, s^2).

    Given pi_0 = N(0, v), the best policy is pi_0^alpha p^(1 - alpha) exp(z / a) up to a constant. Given two policies N(+-m, w),
    KL(pi_i || pi_0) is least on average at their moments: v = w + m^2.
    """
    v = STDDEV**2
    for _ in range(1000):
        w = 1 / (SHARE / v + (1 - SHARE) / STDDEV**2)
        m = w / COEFFICIENT
        v = w + m**2
    return m, w, v


def bandits(**changes: Any) -> tuple[Learner, OnlineSource, Workers]:
    config = Config(
        training_tasks=2, tasks_per_iteration=2, episodes=20, tasks=2, batch_size=64, reuse=300.0, distilled_share=SHARE,
        regularizer=RegularizerConfig(prior="skill", controller="fixed", initial_coefficient=COEFFICIENT),
        tau=0.05, learning_rate=3e-3, hidden=32, depth=2,
    )  # fmt: skip
    learner = make_learner(
        distral, replace(config, **changes), 1, np.ones(1, np.float32), prior=bandit_prior, seeds=Seeds(0)
    )
    workers = Workers(Bandit, envs_per_batch=25)  # fewer than an iteration's episodes
    return learner, OnlineSource(workers, lambda g: int(g.choice([-1, 1])), Seeds(0), Budget(10**6)), workers


def test_two_tasks_and_what_is_distilled_from_them_are_the_fixed_point():
    m, w, v = fixed_point()
    learner, source, workers = bandits()
    with workers:
        for _ in range(8):
            learner.iterate(source)
        tasks = source.draw_tasks(2)
    seen = torch.zeros(2, 1)
    own = learner.policies(torch.cat([seen, torch.eye(2)], -1), bandit_prior(seen))
    shared = learner.distilled(seen, bandit_prior(seen))
    assert v > w + 0.02  # so that the other direction of the KL, or none, is another result
    for row, task in enumerate(tasks):
        assert own.mean[row].item() == pytest.approx(task * m, abs=0.03)
        assert own.log_stddev[row].exp().item() ** 2 == pytest.approx(w, abs=0.012)
    assert shared.mean[0].item() == pytest.approx(0.0, abs=0.03)
    assert shared.log_stddev[0].exp().item() ** 2 == pytest.approx(v, abs=0.012)


def test_each_task_is_visited_by_its_own_policy_and_a_new_one_by_the_distilled():
    learner, source, workers = bandits(reuse=0.0, tasks_per_iteration=1)
    with torch.no_grad():  # task 0 goes to 0.9, task 1 to -0.9, what is distilled to 0.5
        for network, shifts in ((learner.policies, (0.9, -0.9)), (learner.distilled, (0.5,))):
            for layer in network.net.layers:
                layer.weight.zero_()
            network.net.layers[-1].bias[0] = shifts[0]
        learner.policies.net.layers[0].bias.zero_()
        learner.policies.net.layers[0].weight[0, 1:] = torch.tensor([0.0, 1.0])
        learner.policies.net.layers[1].weight[0, 0] = 1.0
        learner.policies.net.layers[-1].weight[0, 0] = -1.8
        learner.policies.net.layers[1].bias.zero_()
    with workers:
        learner.iterate(source)
        assert [len(replay) for replay in learner.replays] == [20, 20]  # every task at first, then one
        learner.iterate(source)
    assert sorted(len(replay) for replay in learner.replays) == [20, 40]
    for replay, mean in zip(learner.replays, (0.9, -0.9), strict=True):
        assert replay.columns.action[: len(replay)].mean().item() == pytest.approx(mean, abs=0.2)
    actor = learner.actor()
    skill, _ = actor.act(torch.zeros(3, 1), None, torch.Generator().manual_seed(0), False)
    assert torch.equal(skill, torch.full((3, 1), 0.5))
    start = actor.start(None)
    assert start.policy is actor.distilled and start.critics is None and start.skills is actor.skills


def test_it_acts_on_normalised_observations_and_updates_as_often_as_new_decisions_are_worth():
    learner, seen = moved(BASE), torch.randn(6, S, generator=torch.Generator().manual_seed(2))
    action, _ = learner.actor().act(seen, None, torch.Generator(), False)
    mean = learner.distilled(normalize(seen), wide_prior(seen)).mean
    torch.testing.assert_close(
        action, torch.maximum(torch.minimum(mean, learner.distilled.bound), -learner.distilled.bound)
    )

    learner, source, workers = bandits(reuse=10.0, tasks_per_iteration=1)
    with workers:
        for _ in range(3):  # 40 decisions, then 20 in each; 128 in an update
            learner.iterate(source)
    assert learner.updates == 3 + 2 + 2 and learner.counts.iterations == 3
    first, later = learner.config.iteration_episodes
    assert source.cost()["episodes"] == first + 2 * later
    drawn = {tuple(learner.which(learner.drawn(1)).argmax(-1).tolist()) for _ in range(20)}
    assert drawn == {(0,), (1,)}


def test_what_cannot_be_is_said():
    with pytest.raises(ConfigError, match="distral, whose actions are skills"):
        make_learner(distral, BASE, S, BOUND, seeds=Seeds(0))
    with pytest.raises(ConfigError, match="at most training_tasks, which is 5"):
        build(Config, {"training_tasks": 5})
    with pytest.raises(ConfigError, match="divergence must be kl; set them so"):
        build(Config, {"regularizer": {"divergence": "none"}})
    assert "distilled from those of 40 tasks" in distral.describe(Config(), "skills", "p(z|s)")
