"""MQL's updates against a slow reference in double precision, and on a problem whose solution is known.

The reference is TD3 (Fujimoto et al. 2018, algorithm 1) with a GRU over each row's window (Cho et al. 2014, as torch's), and the
adaptation of MQL (Fakoor et al. 2020, equations 18 and 19).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from skillmeta.algorithms import mql
from skillmeta.algorithms.mql import AdaptationConfig, Config
from skillmeta.objectives.td3 import Batch
from skillmeta.seeds import Seeds
from tests.learners import make_learner
from tests.oracles.adapting import BOUND, A, S, decisions, disturb, prior, train, tried
from tests.oracles.by_hand import Adam, Weights, assert_same, mlp, weights

T, C, B = 4, 5, 9
CONFIG = Config(
    context_length=T, context_dim=C, hidden=6, batch_size=B, learning_rate=1e-2, tau=0.1, target_noise=0.7, target_noise_clip=0.4,
    prior_coefficient=0.3, discount=0.8, reward_scale=1.5,
)  # fmt: skip


class Reference:
    """One learner's networks, as lists of weights in double precision."""

    def __init__(self, learner: mql.Learner, rate: float):
        networks, slow = learner.td3.networks, learner.td3.slow
        self.policy, self.critics = weights(networks.policy), weights(networks.critics)
        self.first = [p.detach().clone() for p in (*self.policy, *self.critics)]
        self.slow = [p.detach() for p in (*weights(slow.policy), *weights(slow.critics))]
        self.policy_adam, self.critic_adam = Adam(self.policy, rate), Adam(self.critics, rate)

    def context(self, gru: Weights, window: Tensor) -> Tensor:
        of_inputs, input_bias, of_state, state_bias = gru
        states = []
        for rows in window:
            h = torch.zeros(C).double()
            for x in rows:
                i_r, i_z, i_n = (of_inputs @ x + input_bias).split(C)
                h_r, h_z, h_n = (of_state @ h + state_bias).split(C)
                z = 1 / (1 + torch.exp(-(i_z + h_z)))
                n = torch.tanh(i_n + h_n / (1 + torch.exp(-(i_r + h_r))))
                h = (1 - z) * n + z * h
            states.append(h)
        return torch.stack(states)

    def act(self, policy: Weights, seen: Tensor, window: Tensor, mean: Tensor | None) -> Tensor:
        out = mlp(policy[4:], torch.cat([seen, self.context(policy[:4], window)], 1))
        return BOUND * torch.tanh(out) if mean is None else mean + out

    def q(self, critics: Weights, seen: Tensor, window: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        x, half = torch.cat([seen, self.context(critics[:4], window), action], 1), (len(critics) - 4) // 2
        return mlp(critics[4 : 4 + half], x)[:, 0], mlp(critics[4 + half :], x)[:, 0]

    def update(self, batch: Batch, noise: Tensor, of_policy: bool, pull: float = 0.0) -> list[float]:
        """Returns the losses of critics and policy, and the mean target."""
        b = Batch(*(part.double() if isinstance(part, Tensor) else part for part in batch))
        mean = next_mean = None
        scale = next_scale = BOUND.double()
        if b.prior is not None and b.next_prior is not None:
            mean, next_mean = b.prior.mean.double(), b.next_prior.mean.double()
            scale, next_scale = b.prior.log_stddev.double().exp(), b.next_prior.log_stddev.double().exp()
        count = len(self.policy)
        held = [p.detach() for p in self.slow]
        then = self.act(held[:count], b.following, b.after, next_mean)
        shaken = then + torch.clip(0.7 * noise.double(), -0.4, 0.4) * next_scale
        shaken = torch.maximum(torch.minimum(shaken, BOUND), -BOUND)
        y = b.reward + b.discount * torch.minimum(*self.q(held[count:], b.following, b.after, shaken))

        def away(moved: Weights, first: Weights) -> Tensor:
            return pull * sum((((p - f) ** 2).sum() for p, f in zip(moved, first, strict=True)), torch.zeros(()))

        error = sum(((q - y) ** 2 for q in self.q(self.critics, b.now, b.before, b.action)), torch.zeros(B))
        of_critics = sum(b.weight[k] * error[k] for k in range(B)) / B
        self.critic_adam.step(of_critics + away(self.critics, self.first[count:]))
        if not of_policy:
            return [of_critics.item(), 0.0, y.mean().item()]
        action = self.act(self.policy, b.now, b.before, mean)
        inside = torch.maximum(torch.minimum(action, BOUND), -BOUND)
        loss = -self.q([p.detach() for p in self.critics], b.now, b.before, inside)[0]
        if mean is not None:
            loss = loss + 0.3 * (((action - mean) / scale) ** 2).sum(1) / 2
        loss = (b.weight * loss).mean()
        self.policy_adam.step(loss + away(self.policy, self.first[:count]))
        now = [p.detach() for p in (*self.policy, *self.critics)]
        self.slow = [0.9 * s + 0.1 * p for s, p in zip(self.slow, now, strict=True)]
        return [of_critics.item(), loss.item(), y.mean().item()]


def rows(seed: int, *lead: int) -> mql.Rows:
    generator = torch.Generator().manual_seed(seed)
    return mql.Rows(*decisions(generator, *lead), torch.randn(*lead, T + 1, S + A + 1, generator=generator))


def learner_of(skills: bool, config: Config = CONFIG) -> mql.Learner:
    learner = make_learner(mql, config, S, BOUND.numpy(), prior=prior if skills else None, seeds=Seeds(0))
    disturb(learner.td3.slow, learner.td3.networks)
    return learner


def batch_of(drawn: mql.Rows, weight: Tensor, skills: bool) -> Batch:
    """Rows as the paper's losses see them, by their definitions."""
    priors = [prior(seen) if skills else None for seen in (drawn.observation, drawn.next_observation)]
    return Batch(
        now=drawn.observation, following=drawn.next_observation, before=drawn.window[:, :T], after=drawn.window[:, -T:],
        action=drawn.action, reward=1.5 * drawn.reward, discount=torch.where(drawn.terminated > 0, 0.0, 0.8),
        prior=priors[0], next_prior=priors[1], weight=weight,
    )  # fmt: skip


@pytest.mark.parametrize("skills", [False, True])
def test_updates_are_those_of_the_reference(skills):
    learner = learner_of(skills)
    reference = Reference(learner, 1e-2)
    start = reference.first
    for k in range(3):
        drawn, noise = rows(k, B), torch.randn(B, A, generator=torch.Generator().manual_seed(9 + k))
        weight = torch.rand(B, generator=torch.Generator().manual_seed(k))
        critic, target, policy = learner.td3.update(learner.acting.batch(drawn, weight), noise, k != 1).tolist()
        wanted = reference.update(batch_of(drawn, weight, skills), noise, k != 1)
        assert [critic, policy, target] == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    networks, count = learner.td3.networks, len(reference.policy)
    assert_same(networks.policy.parameters(), reference.policy, start[:count], 1e-4)
    assert_same(networks.critics.parameters(), reference.critics, start[count:], 1e-4)
    assert_same(learner.td3.slow.parameters(), reference.slow, start, 1e-4)


@pytest.mark.parametrize("skills", [False, True])
def test_adaptation_is_that_of_the_reference(skills):
    """Of two tasks at once, each like the reference of its own: its rows and draws, weights by propensity, and what holds it."""
    how = AdaptationConfig(new_updates=2, meta_updates=4, batch_size=B, carried=30, learning_rate=5e-3)
    learner = learner_of(skills, replace(CONFIG, adaptation=how))
    learner.carried.take(*rows(5, 30))
    actor, old, new, valid = learner.actor(), mql.Rows(*learner.carried.buffers()), rows(6, 2, 14), torch.ones(2, 14)
    valid[0, 8:] = 0
    beta = actor.propensities(old, new, valid)
    found, updates = actor.adapted(old, new, valid, torch.Generator().manual_seed(3))
    generator, references = torch.Generator().manual_seed(3), [Reference(learner, 5e-3) for _ in range(2)]
    for k in range(6):
        if k < 2:
            at = torch.multinomial(valid, B, replacement=True, generator=generator)
        else:
            at = torch.randint(30, (2, B), generator=generator)
        noise = torch.randn(2, B, A, generator=generator)
        for n, reference in enumerate(references):
            own = float(beta[n].sum()) ** 2 / (30 * float((beta[n] ** 2).sum()))
            one = mql.Rows(*((part[n] if k < 2 else part)[at[n]] for part in (new if k < 2 else old)))
            batch = batch_of(one, torch.ones(B) if k < 2 else beta[n, at[n]], skills)
            reference.update(batch, noise[n], k % 2 == 1, 1 - own)
    assert updates == 6 and 0.05 < float(beta.std())
    count = len(references[0].policy)
    for n, reference in enumerate(references):
        for name, wanted in (("policy", reference.policy), ("critics", reference.critics)):
            start = reference.first[:count] if name == "policy" else reference.first[count:]
            assert_same([p[n] for p in getattr(found.networks, name).parameters()], wanted, start, 1e-4)


# -- a problem with a known solution -----------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_context_finds_the_sign_and_adaptation_does_so_before_the_first_decision():
    """By context alone an episode earns 3 and the first reward, which is a guess: its best policy is the same in both tasks. With
    parameters that know the task the first decision earns as well."""
    how = AdaptationConfig(
        new_updates=60, meta_updates=0, batch_size=32, carried=100, proximal_coefficient=0.0, learning_rate=1e-2
    )
    config = Config(
        tasks=40, random_decisions=400, updates=40, batch_size=64, context_length=3, context_dim=6, hidden=16, discount=0.5,
        learning_rate=5e-3, adaptation=how,
    )  # fmt: skip
    learner = make_learner(mql, config, 1, np.ones(1, np.float32), seeds=Seeds(0))
    train(learner, lambda g: int(2 * g.integers(2) - 1), iterations=20, num=40)
    done = tried(learner.actor(), [1, -1])
    assert done.reward[:, 0, 1:].mean() > 0.7
    assert done.reward[:, 0, 0].min() < 0  # the first decision is the same in both
    assert (done.reward[:, 1] > 0.8).all()
