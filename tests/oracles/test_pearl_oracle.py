"""PEARL against a slow reference written from the paper (Rakelly et al. 2019, algorithm 1) in double precision, with whose data it
learns, and on a problem whose solution is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from skillmeta.algorithms import pearl
from skillmeta.algorithms.pearl import Config, Drawn, Learner, OriginalConfig, TeacherConfig
from skillmeta.collect.source import Budget, OnlineSource
from skillmeta.collect.trials import trial
from skillmeta.collect.workers import Workers
from skillmeta.data.replay import Transitions
from skillmeta.objectives.regularizer import RegularizerConfig
from skillmeta.seeds import Seeds
from skillmeta.types import EnvSpec, Step
from tests.learners import make_learner
from tests.oracles.batches import normalize, wide_prior
from tests.oracles.by_hand import Adam, Weights, assert_same, kl_normal, log_normal, mlp, weights

S, A, Z, M, B, C, K = 3, 2, 2, 3, 4, 5, 3  # state, action, latent; tasks, transitions, context; components
BOUND = np.array([0.4, 0.5], np.float32)


# -- one update ------------------------------------------------------------------------------------------------------------
class Reference:
    """Parameters, targets and optimisers in double precision; `learn` is one update of algorithm 1."""

    def __init__(self, agent: Learner):
        self.config, self.skills = agent.config, agent.acting.skills is not None
        self.encoder, self.policy = weights(agent.encoder), weights(agent.policy)
        self.critics = [weights(member) for member in agent.critics.members]
        self.teacher = weights(agent.teacher) if agent.teacher else []
        self.values = weights(agent.values) if agent.values else []
        online = [self.values] if self.values else self.critics
        self.targets = [[p.detach().clone() for p in member] for member in online]
        self.log_coefficient = torch.tensor(
            [math.log(self.config.regularizer.initial_coefficient)], dtype=torch.float64
        )
        lr = self.config.learning_rate
        self.critic_adam = Adam([*itertools.chain(*self.critics), *self.encoder, *self.teacher], lr)
        self.policy_adam, self.value_adam = Adam(self.policy, lr), Adam(self.values, lr)
        self.weight_adam = Adam([self.log_coefficient], self.config.regularizer.learning_rate)

    def normalize(self, x: Tensor) -> Tensor:
        return normalize(x) if self.skills else x

    def product(self, w: Weights, context: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of a product of Gaussians, [Z] each, of one task's context."""
        if not valid.any():
            return torch.zeros(Z).double(), torch.ones(Z).double()
        prior = self.config.prior_factor
        precision, total = torch.full((Z,), float(prior)).double(), torch.zeros(Z).double()
        for transition in context[valid]:
            mean, raw = mlp(w, transition).chunk(2)
            own = (1 + (raw - 4).exp()).log() if prior else 1 / (1 + raw.exp()).log()
            precision, total = precision + own, total + own * mean
        return total / precision, 1 / precision

    def mixture(self, w: Weights, context: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights [K], means and log deviations [K, Z] that attention reads from one task's context."""
        net, ask, read = w[:-6], w[-6:-4], w[-4:]
        seen = torch.zeros(4, self.config.hidden).double()
        if valid.any():
            features = mlp(net, context[valid])
            features = torch.where(features > 0, features, 0.2 * features)
            share = torch.softmax(features @ ask[0].T + ask[1], 0)  # over transitions, for each of 4 heads
            seen = share.T @ features
        numbers = mlp(read, seen.flatten())
        rest = numbers[K:].view(K, 2 * Z)
        return torch.log_softmax(numbers[:K], 0), rest[:, :Z], rest[:, Z:].clamp(-3.5, 2)

    def act(self, observation: Tensor, z: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Executed actions, divergences from the prior, and the policy's means and log deviations."""
        mean, log_stddev = mlp(self.policy, torch.cat([self.normalize(observation), z], 1)).chunk(2, 1)
        bound = torch.from_numpy(BOUND).double()
        if self.skills:
            prior = wide_prior(observation)
            mean, log_stddev = prior.mean + mean, prior.log_stddev + log_stddev
            divergence = kl_normal(mean, log_stddev, prior.mean, prior.log_stddev)
            return (mean + log_stddev.exp() * noise).clamp(-bound, bound), divergence, mean, log_stddev
        u = mean + log_stddev.exp() * noise
        log_prob = log_normal(u, mean, log_stddev) - (bound * (1 - u.tanh() ** 2)).log().sum(1)
        return bound * u.tanh(), log_prob + (2 * bound).log().sum(), mean, log_stddev

    def learn(self, drawn: Drawn) -> list[Tensor]:
        config, batch = self.config, Transitions(*(part.double() for part in drawn.batch))
        weight, scale = self.log_coefficient.exp(), config.reward_scale
        told, valid = drawn.context.double(), drawn.valid.bool()
        error = kl = nll = torch.zeros(()).double()
        s, a, r, s2, end = ([] for _ in range(5))
        latents = []
        for m in range(M):
            if drawn.privileged is None:
                mean, variance = self.product(self.encoder, told[m], valid[m])
            else:
                everything = torch.ones(len(drawn.privileged[m]), dtype=torch.bool)
                mean, variance = self.product(self.teacher, drawn.privileged[m].double(), everything)
            z = mean if config.deterministic else mean + variance.sqrt() * drawn.latent_noise[m].double()
            kl = kl + ((variance + mean**2 - 1 - variance.log()) / 2).sum()
            if drawn.privileged is not None:
                logits, means, logs = self.mixture(self.encoder, told[m], valid[m])
                if config.deterministic:
                    nll = nll + ((logits.exp()[:, None] * means).sum(0) - z.detach()).square().sum() / M
                else:
                    nll = nll - torch.logsumexp(logits + log_normal(z.detach(), means, logs), 0) / M
            for b in range(B):
                latents.append(z)
                for rows, column in ((s, batch.observation), (a, batch.action), (r, batch.reward)):
                    rows.append(column[m, b])
                s2.append(batch.next_observation[m, b])
                end.append(batch.terminated[m, b])
        state, action, reward, following, ended, z = (torch.stack(rows) for rows in (s, a, r, s2, end, latents))
        kl = kl / M if config.original.kl_reduction == "mean" else kl
        held, noise = z.detach(), drawn.noise.double()

        clip = config.regularizer.td_divergence_clip or math.inf
        constant = 0.0 if self.skills else A * math.log(2)  # values count log pi in the unit box: SAC's entropy bonus
        with torch.no_grad():
            if self.values:
                later = mlp(self.targets[0], torch.cat([self.normalize(following), held], 1))[:, 0]
            else:
                later_action, divergence, _, _ = self.act(following, held, noise[0])
                seen = torch.cat([self.normalize(following), held, later_action], 1)
                later = torch.minimum(*(mlp(member, seen)[:, 0] for member in self.targets))
                later = later - weight * (divergence.clamp(max=clip) - constant)
            target = scale * reward + config.discount * (1 - ended) * later
        seen = torch.cat([self.normalize(state), z, action], 1)
        for member in self.critics:
            error = error + ((mlp(member, seen)[:, 0] - target) ** 2).mean()
        self.critic_adam.step(error + (0 if config.deterministic else config.kl_coefficient) * kl + nll)

        own, divergence, mean, log_stddev = self.act(state, held, noise[1])
        seen = torch.cat([self.normalize(state), held, own], 1)
        q = torch.minimum(*(mlp(member, seen)[:, 0] for member in self.critics))
        penalty = (mean**2).mean() + (log_stddev**2).mean()
        actor = (weight * divergence - q).mean() + config.original.policy_penalty * penalty
        self.policy_adam.step(actor)
        if self.values:
            wanted = (q - weight * (divergence.clamp(max=clip) - constant)).detach()
            self.value_adam.step(
                ((mlp(self.values, torch.cat([self.normalize(state), held], 1))[:, 0] - wanted) ** 2).mean()
            )
        if config.regularizer.controller == "two_way":
            self.weight_adam.apply([(config.regularizer.target_divergence - divergence.detach()).mean()])
        with torch.no_grad():
            for slow, fast in zip(self.targets, [self.values] if self.values else self.critics, strict=True):
                for p, q_ in zip(slow, fast, strict=True):
                    p.copy_((1 - config.tau) * p + config.tau * q_)
        return [error, actor, kl, divergence.mean(), *([nll] if self.teacher else [])]


def random_draw(generator: torch.Generator, teacher: bool) -> Drawn:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    batch = Transitions(
        normal(M, B, S), normal(M, B, A).clamp(-0.4, 0.4), normal(M, B), normal(M, B, S),
        (torch.rand(M, B, generator=generator) < 0.3).float(),
    )  # fmt: skip
    valid = (torch.arange(C) < torch.tensor([[C], [2], [0 if teacher else 1]])).float()
    inputs = S + A + 1
    return Drawn(batch, normal(M, C, inputs), valid, normal(M, 6, inputs) if teacher else None, normal(M, Z),
                 normal(2, M * B, A))  # fmt: skip


BASE = Config(
    training_tasks=M, tasks=M, batch_size=B, context_size=C, latent_dim=Z, hidden=8, depth=2, kl_coefficient=0.7,
    reward_scale=3.0, discount=0.8, tau=0.3, learning_rate=1e-2, replay_capacity=200,
    context_capacity=200,
    regularizer=RegularizerConfig(initial_coefficient=0.3, target_divergence=0.4, learning_rate=0.1),
)  # fmt: skip
FIXED = RegularizerConfig(initial_coefficient=0.3, controller="fixed")
SKILL = RegularizerConfig(
    prior="skill", initial_coefficient=0.3, target_divergence=0.1, learning_rate=0.1, td_divergence_clip=0.02
)
TEACHER = {"teacher": TeacherConfig(components=K), "shaped_reward": True, "context": "trial", "encoder": "attention"}
CASES = {
    "product of Gaussians": {},
    "the prior is a factor": {"prior_factor": True},
    "original": {"original": OriginalConfig("sum", value_network=True, policy_penalty=0.3), "regularizer": FIXED},
    "skills": {"regularizer": replace(SKILL, td_divergence_clip=None)},
    "skills, clipped divergence": {"regularizer": SKILL},
    "skills, value network": {"regularizer": SKILL, "original": OriginalConfig(value_network=True)},
    "deterministic": {"deterministic": True},
    "teacher": TEACHER,
    "teacher, deterministic": {**TEACHER, "deterministic": True},
}


@pytest.mark.parametrize("case", CASES)
def test_updates_are_those_of_the_reference(case):
    config = replace(BASE, **CASES[case])
    skills = config.regularizer.prior == "skill"
    given = {"prior": wide_prior, "normalize": normalize} if skills else {}
    agent = make_learner(pearl, config, S, BOUND, **given, seeds=Seeds(4))
    generator = torch.Generator().manual_seed(0)
    if skills:  # a policy that has left the prior
        with torch.no_grad():
            agent.policy.net.layers[-1].weight.normal_(0, 0.3, generator=generator)
    reference, start = Reference(agent), Reference(agent)
    for _ in range(3):
        drawn = random_draw(generator, config.teacher)
        told, wanted = agent.learn(drawn), reference.learn(drawn)
        torch.testing.assert_close(told.double(), torch.stack(wanted).detach(), rtol=2e-4, atol=2e-5)
    parts = [
        "encoder",
        "policy",
        *(["values"] if config.original.value_network else []),
        *(["teacher"] if config.teacher else []),
    ]
    for part in parts:
        assert_same(getattr(agent, part).parameters(), getattr(reference, part), getattr(start, part), atol=5e-4)
    slow = [agent.targets] if config.original.value_network else agent.targets.members
    for i, member in enumerate(agent.critics.members):
        assert_same(member.parameters(), reference.critics[i], start.critics[i], atol=5e-4)
    for i, member in enumerate(slow):
        assert_same(member.parameters(), reference.targets[i], start.targets[i], atol=5e-4)
    assert float(agent.regularizer.log_coefficient) == pytest.approx(float(reference.log_coefficient), abs=1e-4)


@pytest.mark.parametrize("value_network", [False, True])
def test_the_encoder_learns_from_critics_and_kl_alone(value_network):
    """With critics that do not look at z and no KL, it stays where it is, though policy and values do look at z and move."""
    agent = make_learner(
        pearl,
        replace(BASE, kl_coefficient=0.0, original=OriginalConfig(value_network=value_network)),
        S,
        BOUND,
        seeds=Seeds(0),
    )
    with torch.no_grad():
        for critic in agent.critics.members:
            critic.layers[0].weight[:, S : S + Z] = 0.0
    start, generator = Reference(agent), torch.Generator().manual_seed(0)
    agent.learn(random_draw(generator, False))
    assert all(torch.equal(p.double(), w) for p, w in zip(agent.encoder.parameters(), start.encoder, strict=True))
    assert not any(torch.equal(p.double(), w) for p, w in zip(agent.policy.parameters(), start.policy, strict=True))


# -- whose data --------------------------------------------------------------------------------------------------------------
class Labelled:
    """Environments whose every reward is the number of the task, and whose observation is when the episode began."""

    spec = EnvSpec(2, np.array([0.5, 2.0], np.float32))

    def __init__(self, num: int, clock: itertools.count):
        self.num, self.clock = num, clock

    def reset(self, seeds: Sequence[int], tasks: Sequence[object] | None = None) -> np.ndarray:
        self.labels, self.time, self.began = np.array(tasks, np.float32), 0, next(self.clock)
        return self.look()

    def look(self) -> np.ndarray:
        return np.tile(np.array([self.began, self.time], np.float32), (self.num, 1))

    def step(self, action: np.ndarray, limit: int | None = None) -> Step:
        self.time += 1
        no = np.zeros(self.num, bool)
        return Step(self.look(), self.labels.copy(), no, no | (self.time == 3), np.ones(self.num, np.int64), no)

    def close(self) -> None:
        pass


VISITS = replace(
    BASE, training_tasks=6, tasks=4, tasks_per_iteration=2, prior_episodes=2, posterior_episodes=1, first_episodes=2,
    updates=0, next_observation=True,
)  # fmt: skip


@pytest.mark.parametrize("change", [{}, {"context": "visit"}, {"context": "trial"}, TEACHER])
def test_transitions_and_contexts_are_of_the_same_task_and_contexts_of_its_last_visit(change):
    config, clock = replace(VISITS, **change), itertools.count()
    skills, scale = not config.shaped_reward, 1 if config.shaped_reward else 10
    given = {"prior": wide_prior, "normalize": lambda x: 10 * x} if skills else {}
    config = replace(config, regularizer=SKILL) if skills else config
    agent = make_learner(pearl, config, 2, Labelled.spec.action_bound, **given, seeds=Seeds(0))
    shaped = (lambda task, episodes: np.full_like(episodes.reward, -task)) if config.shaped_reward else None
    began = [0] * 6
    with Workers(lambda num: Labelled(num, clock), envs_per_batch=64) as workers:
        source = OnlineSource(workers, lambda g: int(g.integers(1, 7)), Seeds(0), Budget(10**6), shaped_reward=shaped)
        tasks = source.draw_tasks(6)
        for _ in range(4):
            now = next(clock) + 1
            agent.iterate(source)
            last = agent.last_visit.tolist()
            began = [now if at == agent.counts.iterations else was for was, at in zip(began, last, strict=True)]
    assert len(set(began)) > 1 and sorted(tasks) == [1, 2, 3, 4, 5, 6]
    sign, seen = -1 if config.shaped_reward else 1, set()
    for _ in range(30):
        drawn = agent.draw()
        labels = sign * drawn.batch.reward[:, 0]
        assert (sign * drawn.batch.reward == labels[:, None]).all() and len(set(labels.tolist())) == 4
        observation, action, reward, following = drawn.context.split([2, 2, 1, 2], -1)
        valid = drawn.valid.bool()
        assert (reward[..., 0] == labels[:, None]).logical_or(~valid).all()
        if config.teacher:
            assert (-drawn.privileged[..., 4] == labels[:, None]).all()
        for m, label in enumerate(labels.tolist()):
            first = began[tasks.index(label)]  # of a visit: episodes with z from the prior, then two of the trial
            of = {"recent": {first}, "visit": {first, first + 1, first + 2}, "trial": {first + 1, first + 2}}
            allowed = of[config.context]
            assert {t / scale for t in observation[m, valid[m], 0].tolist()} <= allowed
            seen.add((label, valid[m].sum().item()))
        assert torch.equal(following[valid][:, 1], observation[valid][:, 1] + scale)
        assert (action[valid].abs() <= 1).all()  # in parts of the bound
    assert {label for label, _ in seen} == {1, 2, 3, 4, 5, 6}
    assert {count for _, count in seen} == (
        {0, 3, 5} if config.teacher else {3, 5} if config.context == "trial" else {5}
    )


def test_tasks_are_drawn_with_replacement_where_asked():
    agent = make_learner(
        pearl, replace(VISITS, original=OriginalConfig(replacement=True)), 2, Labelled.spec.action_bound, seeds=Seeds(0)
    )
    assert {len(set(agent.drawn(4, 6))) for _ in range(50)} >= {2, 3, 4}


# -- a problem with a known solution -----------------------------------------------------------------------------------------
class Signed(Labelled):
    """Reward: the task, which is -1 or 1, times the action. Nothing is seen."""

    spec = EnvSpec(2, np.ones(1, np.float32))

    def look(self) -> np.ndarray:
        return np.zeros((self.num, 2), np.float32)

    def step(self, action: np.ndarray, limit: int | None = None) -> Step:
        return super().step(action)._replace(reward=(self.labels * action[:, 0]).astype(np.float32))


def test_two_tasks_with_opposite_actions_are_distinguished():
    """The optimum is 3 in three steps; without adapting 0 on average, as what helps in one task hurts in the other."""
    config = Config(
        training_tasks=2, tasks=2, tasks_per_iteration=2, prior_episodes=1, posterior_episodes=2, first_episodes=4,
        context="trial", context_visits=5, context_size=9, updates=40, batch_size=16, latent_dim=2, hidden=32,
        learning_rate=3e-3, discount=0.5, tau=0.05, regularizer=FIXED, exploration_episodes=1,
        replay_capacity=2000, context_capacity=200,
    )  # fmt: skip
    agent, clock = make_learner(pearl, config, 2, Signed.spec.action_bound, seeds=Seeds(0)), itertools.count()
    with Workers(lambda num: Signed(num, clock), envs_per_batch=64) as workers:
        source = OnlineSource(workers, lambda g: int(g.choice([-1, 1])), Seeds(0), Budget(10**6))
        for _ in range(7):
            agent.iterate(source)
    envs, generator = Signed(2, clock), torch.Generator().manual_seed(0)
    resets, explore = np.zeros((2, 4), np.int64), [True, False, False, False]
    trials, belief = trial(agent.acting, envs, [-1, 1], resets, generator, explore)
    assert (trials.returns[:, -1] > 2.4).all()
    swapped = belief._replace(z=belief.z[[1, 0]])
    acts = [agent.acting.act(torch.zeros(2, 2), b, generator, explore=False)[0][:, 0] for b in (belief, swapped)]
    assert acts[0][0] < -0.8 and acts[0][1] > 0.8 and acts[1][0] > 0.8 and acts[1][1] < -0.8
