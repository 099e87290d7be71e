"""SiMPL against a slow reference written from the paper (Nam et al. 2022) in double precision, one decision after another, and on a
bandit over skills whose solution is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from skillmeta.algorithms import simpl
from skillmeta.algorithms.simpl import Config, Drawn, Learner, TaskBatchConfig
from skillmeta.collect.source import Budget, OnlineSource
from skillmeta.collect.trials import trial
from skillmeta.collect.workers import Workers
from skillmeta.data.replay import Transitions
from skillmeta.nn.distributions import Gaussian
from skillmeta.nn.encoders import OF_SETS
from skillmeta.objectives.regularizer import CoefficientConfig, RegularizerConfig
from skillmeta.seeds import Seeds
from skillmeta.types import EnvSpec, Step
from tests.learners import make_learner
from tests.oracles.batches import normalize, wide_prior
from tests.oracles.by_hand import Adam, Weights, assert_same, kl_normal, mlp, weights

S, A, E, B, TRAINING = 3, 2, 2, 4, 5  # state, skill, task vector; decisions of a task, training tasks
TASKS, CONTEXTS = (2, 3), (1, 6)  # of a small and of a large context: tasks, decisions
BOUND = np.array([0.4, 0.5], np.float32)


# -- one update ------------------------------------------------------------------------------------------------------------
class Reference:
    """Parameters, slow critics, coefficients and optimisers in double precision; `learn` is one update."""

    def __init__(self, learner: Learner):
        self.config = learner.config
        self.encoder, self.policy = weights(learner.encoder), weights(learner.policy)
        self.critics = [weights(member) for member in learner.critics.members]
        self.targets = [[p.detach().clone() for p in member] for member in self.critics]
        lr = self.config.learning_rate
        self.critic_adam = Adam([*itertools.chain(*self.critics), *self.encoder], lr)
        self.policy_adam = Adam(self.policy, lr)
        self.policy_logs, self.encoder_logs, self.steps = [], [], []
        for kind in (self.config.small_context, self.config.large_context):
            many = TRAINING if kind.encoder.per_task else 1
            log = torch.full((1,), math.log(kind.regularizer.initial_coefficient)).double()
            logs = torch.full((many,), math.log(kind.encoder.initial_coefficient)).double()
            self.policy_logs.append(log)
            self.encoder_logs.append(logs)
            self.steps.append((Adam([log], kind.regularizer.learning_rate), Adam([logs], kind.encoder.learning_rate)))

    def infer(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of e, [E] each, given one task's context."""
        if self.config.encoder == "mean":
            net, read = self.encoder[:-4], self.encoder[-4:]
            features = torch.stack([mlp(net, row) for row in context])
            seen = torch.where(features > 0, features, 0.2 * features).sum(0) / len(context)
            mean, raw = mlp(read, seen).chunk(2)
            return mean, (1 + raw.exp()).log()
        precision = torch.full((E,), float(self.config.prior_factor)).double()
        total = torch.zeros(E).double()
        for row in context:
            mean, raw = mlp(self.encoder, row).chunk(2)
            own = (1 + (raw - 4).exp()).log() if self.config.prior_factor else 1 / (1 + raw.exp()).log()
            precision, total = precision + own, total + own * mean
        return total / precision, 1 / precision

    def act(self, observation: Tensor, e: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The executed skill [A] and the divergence from the prior, at one observation."""
        shift, log_ratio = mlp(self.policy, torch.cat([normalize(observation), e])).chunk(2)
        prior = wide_prior(observation[None])
        prior_mean, prior_log = prior.mean[0], prior.log_stddev[0]
        mean, log_stddev = prior_mean + shift, prior_log + log_ratio
        bound = torch.from_numpy(BOUND).double()
        divergence = kl_normal(mean, log_stddev, prior_mean, prior_log)
        return (mean + log_stddev.exp() * noise).clamp(-bound, bound), divergence

    def value(self, critic: Weights, observation: Tensor, e: Tensor, skill: Tensor) -> Tensor:
        return mlp(critic, torch.cat([normalize(observation), e, skill]))[0]

    def learn(self, drawn: Sequence[Drawn]) -> list[Tensor]:
        config, total = self.config, sum(TASKS) * B
        kinds = (config.small_context, config.large_context)
        error = penalty = torch.zeros(()).double()
        held, kls = [], []
        for k, (kind, part) in enumerate(zip(kinds, drawn, strict=True)):
            weight, own = self.policy_logs[k].exp()[0], []
            for m in range(TASKS[k]):
                mean, variance = self.infer(part.context[m].double())
                own.append(((variance + mean**2 - 1 - variance.log()) / 2).sum())
                at = int(part.tasks[m]) if kind.encoder.per_task else 0
                penalty = penalty + self.encoder_logs[k].exp()[at] * own[-1] / sum(TASKS)
                for b in range(B):
                    e = mean + variance.sqrt() * part.latent_noise[m, b].double()
                    held.append((k, m, b, e.detach()))
                    row = {name: values[m, b].double() for name, values in part.batch._asdict().items()}
                    with torch.no_grad():
                        skill, divergence = self.act(
                            row["next_observation"], e.detach(), part.noise[0, m * B + b].double()
                        )
                        later = min(self.value(q, row["next_observation"], e, skill) for q in self.targets)
                        clip = kind.regularizer.td_divergence_clip or math.inf
                        later = later - weight * min(float(divergence), clip)
                        target = row["reward"] + config.discount * (1 - row["terminated"]) * later
                    for q in self.critics:
                        error = error + (self.value(q, row["observation"], e, row["action"]) - target) ** 2 / total
            kls.append(torch.stack(own))
        self.critic_adam.step(error + penalty)

        loss, divergences = torch.zeros(()).double(), ([], [])
        for k, m, b, e in held:
            observation = drawn[k].batch.observation[m, b].double()
            skill, divergence = self.act(observation, e, drawn[k].noise[1, m * B + b].double())
            q = torch.minimum(*(self.value(critic, observation, e, skill) for critic in self.critics))
            loss = loss + (self.policy_logs[k].exp()[0] * divergence - q) / total
            divergences[k].append(divergence.detach())
        self.policy_adam.step(loss)

        for k, (kind, part) in enumerate(zip(kinds, drawn, strict=True)):
            gap = kind.regularizer.target_divergence - torch.stack(divergences[k]).mean()
            self.step(k, 0, kind.regularizer, gap[None], self.policy_logs[k])
            own = kls[k].detach()
            gap = (kind.encoder.target_divergence - own.mean())[None]
            if kind.encoder.per_task:
                gap = torch.zeros(TRAINING).double()
                gap[part.tasks] = kind.encoder.target_divergence - own
            self.step(k, 1, kind.encoder, gap, self.encoder_logs[k])
        with torch.no_grad():
            for slow, fast in zip(itertools.chain(*self.targets), itertools.chain(*self.critics), strict=True):
                slow.copy_((1 - config.tau) * slow + config.tau * fast)
        means = [x for k in range(2) for x in (torch.stack(divergences[k]).mean(), kls[k].mean())]
        return [error, loss, *means]

    def step(self, k: int, which: int, how: Any, gap: Tensor, logs: Tensor) -> None:
        """A coefficient's step: with the gap to its target for gradient, inside its limits."""
        if how.controller == "fixed":
            return
        self.steps[k][which].apply([gap.clamp(max=0) if how.controller == "one_way" else gap])
        logs.clamp_(math.log(how.minimum_coefficient), math.log(how.maximum_coefficient))


def random_draw(generator: torch.Generator) -> list[Drawn]:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    numbers, drawn = torch.randperm(TRAINING, generator=generator), []
    for tasks, size in zip(TASKS, CONTEXTS, strict=True):
        own, numbers = numbers[:tasks], numbers[tasks:]
        ended = (torch.rand(tasks, B, generator=generator) < 0.3).float()
        batch = Transitions(
            normal(tasks, B, S), normal(tasks, B, A).clamp(-0.4, 0.4), normal(tasks, B), normal(tasks, B, S), ended
        )
        context = normal(tasks, size, 2 * S + A + 1)
        drawn.append(Drawn(own, batch, context, normal(tasks, B, E), normal(2, tasks * B, A)))
    return drawn


def kind(tasks: int, size: int, regularizer: dict[str, Any], encoder: dict[str, Any]) -> TaskBatchConfig:
    return TaskBatchConfig(
        tasks,
        size,
        0.0,
        RegularizerConfig(**{"prior": "skill", "learning_rate": 0.1, **regularizer}),
        CoefficientConfig(**{"learning_rate": 0.1, **encoder}),
    )


ONE_WAY, TWO_WAY = {"controller": "one_way"}, {"controller": "two_way"}
LOW, HIGH = {"target_divergence": 0.01}, {"target_divergence": 50.0}
SMALL = {"initial_coefficient": 0.7, "td_divergence_clip": 0.02, **LOW}
LARGE = {"initial_coefficient": 0.2, "target_divergence": 0.1}
BASE = Config(
    training_tasks=TRAINING, batch_size=B, latent_dim=E, hidden=8, depth=2, discount=0.8, tau=0.3, learning_rate=1e-2,
    small_context=kind(2, 1, {**ONE_WAY, **SMALL}, {**ONE_WAY, **LOW, "initial_coefficient": 0.5}),
    large_context=kind(3, 6, {**ONE_WAY, **LARGE}, {**ONE_WAY, **LOW, "initial_coefficient": 0.1, "per_task": True}),
)  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "one way, up": {},
    "product without N(0, I)": {"prior_factor": False},
    "deep set": {"encoder": "mean", "prior_factor": False},
    "two way": {
        "small_context": kind(2, 1, {**TWO_WAY, **SMALL, **HIGH}, {**TWO_WAY, **HIGH, "per_task": True}),
        "large_context": kind(3, 6, {**TWO_WAY, **LARGE}, {**TWO_WAY, **LOW}),
    },
    "one way, below the target": {
        "small_context": kind(2, 1, {**ONE_WAY, **SMALL, **HIGH}, {**ONE_WAY, **HIGH}),
        "large_context": kind(3, 6, {**ONE_WAY, **LARGE, **HIGH}, {**ONE_WAY, **HIGH, "per_task": True}),
    },
    "cap, floor and fixed": {
        "small_context": kind(
            2,
            1,
            {**ONE_WAY, **SMALL, "maximum_coefficient": 0.75},
            {"controller": "fixed", "initial_coefficient": 0.3},
        ),
        "large_context": kind(
            3,
            6,
            {**TWO_WAY, **LARGE, **HIGH, "minimum_coefficient": 0.19},
            {**ONE_WAY, **LOW, "maximum_coefficient": 1.05},
        ),
    },
}


def made(config: Config, generator: torch.Generator | None = None) -> Learner:
    learner = make_learner(simpl, config, S, BOUND, prior=wide_prior, normalize=normalize, seeds=Seeds(4))
    if generator is not None:  # a policy that has left the prior
        with torch.no_grad():
            learner.policy.net.layers[-1].weight.normal_(0, 0.3, generator=generator)
    return learner


@pytest.mark.parametrize("case", CASES)
def test_updates_are_those_of_the_reference(case):
    generator = torch.Generator().manual_seed(0)
    learner = made(replace(BASE, **CASES[case]), generator)
    reference, start = Reference(learner), Reference(learner)
    for _ in range(3):
        drawn = random_draw(generator)
        found, expected = learner.learn(drawn), reference.learn(drawn)
        torch.testing.assert_close(found.double(), torch.stack(expected).detach(), rtol=2e-4, atol=2e-5)
    for part in ("encoder", "policy"):
        assert_same(getattr(learner, part).parameters(), getattr(reference, part), getattr(start, part), atol=5e-4)
    for i in range(2):
        assert_same(learner.critics.members[i].parameters(), reference.critics[i], start.critics[i], atol=5e-4)
        assert_same(learner.targets.members[i].parameters(), reference.targets[i], start.targets[i], atol=5e-4)
        own = learner.kinds[i]
        assert float(own.regularizer.log_coefficient) == pytest.approx(float(reference.policy_logs[i]), abs=1e-4)
        torch.testing.assert_close(own.encoder.log.double().view(-1), reference.encoder_logs[i], rtol=0, atol=1e-4)


def test_the_encoder_learns_from_critics_and_kl_alone():
    """With critics that do not look at e and hardly a KL, it stays where it is, though the policy does look at e and moves."""
    fixed = {"controller": "fixed", "initial_coefficient": 1e-30, "minimum_coefficient": 1e-30}
    config = replace(BASE, small_context=kind(2, 1, SMALL, fixed), large_context=kind(3, 6, LARGE, fixed))
    learner = made(config, torch.Generator().manual_seed(1))
    with torch.no_grad():
        for critic in learner.critics.members:
            critic.layers[0].weight[:, S : S + E] = 0.0
    start = Reference(learner)
    learner.learn(random_draw(torch.Generator().manual_seed(0)))
    means = [learner.critic_optimizer.state[p]["exp_avg"] for p in learner.encoder.parameters()]
    assert means and max(float(mean.abs().max()) for mean in means) < 1e-25
    assert not any(torch.equal(p.double(), w) for p, w in zip(learner.policy.parameters(), start.policy, strict=True))


@pytest.mark.parametrize("encoder", OF_SETS)
def test_the_order_of_a_context_changes_nothing(encoder):
    learner = made(replace(BASE, encoder=encoder, prior_factor=False))
    drawn = random_draw(torch.Generator().manual_seed(0))[1]
    other = drawn.context[:, torch.randperm(CONTEXTS[1], generator=torch.Generator().manual_seed(2))]
    for one, another in zip(
        *(vars(simpl.infer(learner.encoder, c)).values() for c in (drawn.context, other)), strict=True
    ):
        torch.testing.assert_close(one, another, rtol=1e-5, atol=1e-6)


def test_a_clipped_target_is_finite_where_the_policy_is_the_prior():
    """SiMPL's own code scales by clamp(KL) / KL, which is 0 / 0 there."""
    learner = made(BASE)
    assert all(kind.config.regularizer.td_divergence_clip for kind in learner.kinds[:1])
    found = learner.learn(random_draw(torch.Generator().manual_seed(0)))
    assert torch.isfinite(found).all() and found[2] == found[4] == 0  # the divergences
    for part in (learner.policy, learner.encoder, learner.critics):
        assert all(torch.isfinite(p).all() for p in part.parameters())


# -- a problem with a known solution -----------------------------------------------------------------------------------------
class Bandit:
    """Reward: the task, which is -1 or 1, times the skill. Nothing is seen; the episode ends after one decision."""

    spec = EnvSpec(1, np.ones(1, np.float32))

    def __init__(self, num: int):
        self.num = num

    def reset(self, seeds: Sequence[int], tasks: Sequence[Any] | None = None) -> np.ndarray:
        self.tasks = np.array(tasks, np.float32)
        return np.zeros((self.num, 1), np.float32)

    def step(self, action: np.ndarray, limit: int | None = None) -> Step:
        yes, no = np.ones(self.num, bool), np.zeros(self.num, bool)
        reward = (self.tasks * action[:, 0]).astype(np.float32)
        return Step(np.zeros((self.num, 1), np.float32), reward, yes, no, np.ones(self.num, np.int64), no)

    def close(self) -> None:
        pass


STDDEV, COEFFICIENT = 0.25, 0.25


def bandit_prior(observation: Tensor) -> Gaussian:
    return Gaussian(torch.zeros(len(observation), 1), torch.full((len(observation), 1), math.log(STDDEV)))


def test_two_goals_over_skills_are_distinguished_and_reached_as_far_as_the_prior_allows():
    """The best policy under a fixed coefficient a is p(z) exp(r z / a): N(r s^2 / a, s^2). With s = a = 1/4 the means are +-1/4,
    a KL of 1/2, and the mean return of samples is 1/4; without adapting it is 0."""
    fixed = {"controller": "fixed", "initial_coefficient": COEFFICIENT}
    weak = {"controller": "fixed", "initial_coefficient": 1e-3}
    config = Config(
        training_tasks=2, tasks_per_iteration=2, first_episodes=30, prior_episodes=10, posterior_episodes=10,
        small_context=kind(1, 2, fixed, weak), large_context=kind(1, 10, fixed, weak), batch_size=32, reuse=150.0,
        latent_dim=2, context_episodes=10, tau=0.05, learning_rate=3e-3, hidden=32, depth=2,
    )  # fmt: skip
    learner = make_learner(simpl, config, 1, np.ones(1, np.float32), prior=bandit_prior, seeds=Seeds(0))
    with Workers(Bandit, envs_per_batch=64) as workers:
        source = OnlineSource(workers, lambda g: int(g.choice([-1, 1])), Seeds(0), Budget(10**6))
        for _ in range(7):
            learner.iterate(source)
    tasks, generator = [-1, 1] * 40, torch.Generator().manual_seed(0)
    trials, belief = trial(learner.acting, Bandit(80), tasks, np.zeros((80, 11), np.int64), generator)
    mean, _ = learner.acting.act(torch.zeros(80, 1), belief, generator, explore=False)
    signed = mean[:, 0].detach() * torch.tensor(tasks)
    assert float(signed.mean()) == pytest.approx(STDDEV**2 / COEFFICIENT, abs=0.06)
    assert float((signed > 0.1).float().mean()) > 0.9
    assert abs(trials.returns[:, :10].mean()) < 0.08 < 0.15 < trials.returns[:, 10].mean()
