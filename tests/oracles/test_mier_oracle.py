"""MIER's updates against a slow reference in double precision, and on a problem whose solution is known.

The reference is a Gaussian model with PETS's limits of log variances (Chua et al. 2018, appendix A.1), gradient steps on a context
task by task (Mendonca et al. 2020, equations 2 and 3), and SAC (Haarnoja et al. 2018) on decisions that the model relabels.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from skillmeta.algorithms import mier
from skillmeta.algorithms.mier import Config, Drawn, ModelConfig, RelabellingConfig
from skillmeta.data.replay import Transitions
from skillmeta.objectives.regularizer import RegularizerConfig
from skillmeta.seeds import Seeds
from tests.learners import make_learner
from tests.oracles.adapting import BOUND, A, S, base, decisions, disturb, prior, train, tried
from tests.oracles.by_hand import Adam, Weights, assert_same, kl_normal, log_normal, mlp, weights

C, M, N, B = 4, 2, 5, 7
CONFIG = Config(
    training_tasks=M, tasks=M, context_dim=C, inner_steps=2, inner_lr=0.3, inner_clip=0.4, hidden=6, batch_size=B,
    learning_rate=1e-2, tau=0.1, discount=0.8, reward_scale=1.5,
    model=ModelConfig(hidden=6, learning_rate=2e-2, gradient_clip=0.5, width_coefficient=0.03),
    regularizer=RegularizerConfig(initial_coefficient=0.3, learning_rate=1e-2),
)  # fmt: skip
SKILL = RegularizerConfig(prior="skill", target_divergence=0.7, initial_coefficient=0.3, learning_rate=1e-2)


class Reference:
    """One learner's networks, as lists of weights in double precision."""

    def __init__(self, learner: mier.Learner, config: Config, rate: float, model_rate: float):
        networks = learner.acting.networks
        self.config, self.skill = config, config.regularizer.prior == "skill"
        self.model, self.policy, self.critics = map(weights, (networks.model, networks.policy, networks.critics))
        self.first = [[p.detach().clone() for p in part] for part in (self.model, self.policy, self.critics)]
        self.slow = [p.detach() for p in weights(learner.acting.slow)]
        self.model_adam, self.policy_adam = Adam(self.model, model_rate), Adam(self.policy, rate)
        self.critic_adam = Adam(self.critics, rate)
        self.log = torch.tensor([math.log(0.3)]).double().requires_grad_()
        self.log_adam = Adam([self.log], 1e-2)

    def nll(self, rows: Transitions, phi: Tensor) -> Tensor:
        """Mean over decisions [n, ...] of one task."""
        mean, log_variance = self.predict(rows, phi)
        y = rows.reward.unsqueeze(1)
        if self.config.model.predicts == "all":
            y = torch.cat([rows.next_observation - rows.observation, y], 1)
        return -log_normal(y, mean, log_variance / 2).mean()

    def predict(self, rows: Transitions, phi: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([rows.observation, rows.action / BOUND, phi.expand(len(rows.reward), C)], 1)
        highest, lowest, *layers = self.model
        out = mlp(layers, x)
        half = out.shape[1] // 2
        low = highest - torch.log(1 + torch.exp(highest - out[:, half:]))
        return out[:, :half], lowest + torch.log(1 + torch.exp(low - lowest))

    def steps(self, rows: Transitions, phi: Tensor, count: int, rate: float) -> Tensor:
        for _ in range(count):
            (g,) = torch.autograd.grad(self.nll(rows, phi), phi, create_graph=True)
            size = (g**2).sum().sqrt()
            phi = phi - rate * (g * 0.4 / size if size > 0.4 else g)
        return phi

    def inner(self, rows: Transitions) -> Tensor:
        return self.steps(rows, torch.zeros(C).double().requires_grad_(), 2, 0.3)

    def act(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Actions, what they pay, and their divergence from the prior."""
        mean, log_stddev = mlp(self.policy, x).chunk(2, 1)
        if self.skill:
            center, width = base(x[:, :S])
            mean, log_stddev = center + mean, (width + log_stddev).clamp(-10, 2)
            paid = kl_normal(mean, log_stddev, center, width)
            return mean + log_stddev.exp() * noise, paid, paid
        u = mean + log_stddev.clamp(-10, 2).exp() * noise
        log_prob = log_normal(u, mean, log_stddev.clamp(-10, 2)) - torch.log(BOUND * (1 - torch.tanh(u) ** 2)).sum(1)
        free = log_prob + math.log(float(BOUND.prod()))
        return BOUND * torch.tanh(u), free, free + A * math.log(2)

    def q(self, critics: Weights, x: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        x, half = torch.cat([x, torch.maximum(torch.minimum(action, BOUND), -BOUND)], 1), len(critics) // 2
        return mlp(critics[:half], x)[:, 0], mlp(critics[half:], x)[:, 0]

    def sac(self, rows: Transitions, phi: Tensor, noise: Tensor, coefficient: float) -> tuple[float, float, Tensor]:
        """One update on decisions [B, ...] with contexts [B, C]."""
        now, then = (torch.cat([seen, phi.detach()], 1) for seen in (rows.observation, rows.next_observation))
        with torch.no_grad():
            action, paid, _ = self.act(then, noise[0])
            value = torch.minimum(*self.q(self.slow, then, action)) - coefficient * paid
            y = 1.5 * rows.reward + 0.8 * (1 - rows.terminated) * value
        error = sum(((q - y) ** 2 for q in self.q(self.critics, now, rows.action)), torch.zeros(()))
        self.critic_adam.step(error.mean())
        action, paid, divergence = self.act(now, noise[1])
        fixed = [p.detach() for p in self.critics]
        loss = (coefficient * divergence - torch.minimum(*self.q(fixed, now, action))).mean()
        self.policy_adam.step(loss)
        self.slow = [0.9 * s + 0.1 * p.detach() for s, p in zip(self.slow, self.critics, strict=True)]
        return error.mean().item(), loss.item(), divergence.detach()

    def update(self, drawn: Drawn) -> list[float]:
        losses, contexts = [], []
        for m in range(M):
            there = drawn.valid[m] > 0
            phi = self.inner(double(drawn.evidence, m, there))
            contexts.append(phi)
            losses.append(self.nll(double(drawn.rows, m), phi))
        loss = sum(losses, torch.zeros(())) / M
        total = loss + 0.03 * (self.model[0] - self.model[1]).sum()
        gradients = torch.autograd.grad(total, self.model)
        size = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        self.model_adam.apply([g * min(1.0, 0.5 / size) for g in gradients])
        every = Transitions(*(part.flatten(0, 1).double() for part in drawn.rows))
        phi = torch.cat([context.expand(B, C) for context in contexts])
        coefficient = self.log.exp().item()
        critic, policy, divergence = self.sac(every, phi, drawn.noise.flatten(1, 2).double(), coefficient)
        target = 0.7 if self.skill else A * (1 + math.log(2))
        self.log_adam.step(self.log.sum() * (target - divergence.mean()))
        length = sum((context**2).sum().sqrt().item() for context in contexts) / M
        return [critic, policy, float(divergence.mean()), loss.item(), length]


def double(rows: Transitions, *index: object) -> Transitions:
    for one in index:
        rows = Transitions(*(part[one] for part in rows))
    return Transitions(*(part.double() for part in rows))


def rows(seed: int, *lead: int) -> Transitions:
    return decisions(torch.Generator().manual_seed(seed), *lead)


def learner_of(config: Config) -> mier.Learner:
    skills = config.regularizer.prior == "skill"
    learner = make_learner(mier, config, S, BOUND.numpy(), prior=prior if skills else None, seeds=Seeds(0))
    disturb(learner.acting.slow, learner.acting.networks)
    return learner


def case(predicts: str, skills: bool) -> Config:
    config = replace(CONFIG, model=replace(CONFIG.model, predicts=predicts))
    return replace(config, regularizer=SKILL) if skills else config


@pytest.mark.parametrize(("predicts", "skills"), [("all", False), ("reward", False), ("all", True)])
def test_updates_are_those_of_the_reference(predicts, skills):
    """The model's second-order gradient through clipped inner steps, SAC with phi' a constant, and the coefficient."""
    config = case(predicts, skills)
    learner = learner_of(config)
    reference = Reference(learner, config, 1e-2, 2e-2)
    valid = torch.ones(M, N)
    valid[0, 3:] = 0
    for k in range(3):
        noise = torch.randn(2, M, B, A, generator=torch.Generator().manual_seed(9 + k))
        drawn = Drawn(rows(k, M, N), valid, rows(20 + k, M, B), noise)
        assert learner.learn(drawn).tolist() == pytest.approx(reference.update(drawn), rel=1e-3, abs=1e-4)
    networks = learner.acting.networks
    found = networks.model, networks.policy, networks.critics
    wanted = reference.model, reference.policy, reference.critics
    for module, own, start in zip(found, wanted, reference.first, strict=True):
        assert_same(module.parameters(), own, start, 2e-4)
    assert_same(learner.acting.slow.parameters(), reference.slow, reference.first[2], 2e-4)
    assert float(learner.regularizer.log_coefficient) == pytest.approx(float(reference.log), abs=1e-4)


@pytest.mark.parametrize(("predicts", "skills"), [("all", False), ("reward", False), ("all", True)])
def test_relabelled_training_is_that_of_the_reference(predicts, skills):
    """Of two tasks at once, each like the reference of its own: steps on phi, then on its model, then SAC on a mixture."""
    how = RelabellingConfig(
        updates=3, context_steps=3, context_lr=0.05, model_steps=2, model_lr=3e-3, carried=30, batch_size=B, own_share=0.3,
        learning_rate=5e-3,
    )  # fmt: skip
    config = replace(case(predicts, skills), relabelling=how)
    learner = learner_of(config)
    learner.acting.carried.take(*rows(5, 30), torch.tensor(0.2))
    actor, evidence, valid = learner.actor(), rows(6, M, N), torch.ones(M, N)
    valid[0, 3:] = 0
    found = actor.relabelled(actor.carried, evidence, valid, torch.Generator().manual_seed(3))
    references = [Reference(learner, config, 5e-3, 3e-3) for _ in range(M)]
    contexts = []
    for m, reference in enumerate(references):
        own = double(evidence, m, valid[m] > 0)
        phi = reference.steps(own, reference.inner(own), 3, 0.05).detach()
        contexts.append(phi)
        torch.testing.assert_close(found.context[m].double(), phi, rtol=0, atol=1e-5)
        for _ in range(2):
            width = (reference.model[0] - reference.model[1]).sum()
            reference.model_adam.step(reference.nll(own, phi) + 0.03 * width)
    generator, outputs, old = torch.Generator().manual_seed(3), 1 if predicts == "reward" else S + 1, rows(5, 30)
    for _ in range(3):
        at = torch.randint(30, (M, B - 2), generator=generator)
        shake = torch.randn(M, B - 2, outputs, generator=generator)
        own_at = torch.multinomial(valid, 2, replacement=True, generator=generator)
        noise = torch.randn(2, M, B, A, generator=generator)
        for m, reference in enumerate(references):
            one, own = double(old, at[m]), double(evidence, m, own_at[m])
            mean, log_variance = (part.detach() for part in reference.predict(one, contexts[m]))
            one = one._replace(reward=mean[:, -1])
            if predicts == "all":
                moved = mean + (log_variance / 2).exp() * shake[m].double()
                one = one._replace(next_observation=one.observation + moved[:, :-1])
            mixed = Transitions(*(torch.cat(both) for both in zip(one, own, strict=True)))
            reference.sac(mixed, contexts[m].expand(B, C), noise[:, m].double(), 0.2)
    for m, reference in enumerate(references):
        trained = found.model, found.sac.policy, found.sac.critics
        wanted = reference.model, reference.policy, reference.critics
        for several, own, start in zip(trained, wanted, reference.first, strict=True):
            assert_same([p[m] for p in several.parameters()], own, start, 1e-4)


# -- a problem with a known solution -----------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_context_finds_the_sign_and_relabelling_keeps_it_beyond_training():
    """phi' of one episode is enough for tasks of training; tasks three times as strong are acted in as well."""
    how = RelabellingConfig(
        updates=150, model_steps=30, model_lr=1e-2, carried=200, batch_size=32, learning_rate=1e-2, context_lr=0.05
    )
    config = Config(
        training_tasks=4, tasks_per_iteration=4, tasks=4, updates=60, batch_size=16, inner_lr=0.1, context_dim=2, hidden=16,
        discount=0.5, learning_rate=5e-3, model=ModelConfig(hidden=16, learning_rate=5e-3, predicts="reward"), relabelling=how,
    )  # fmt: skip
    learner = make_learner(mier, config, 1, np.ones(1, np.float32), seeds=Seeds(0))
    kinds = [-1.0, -0.6, 0.6, 1.0]
    train(learner, lambda g: kinds[int(g.integers(4))], iterations=12, num=4)
    inner = tried(replace(learner.actor(), carried=None), [-1.0, 1.0])
    relabelled = tried(learner.actor(), [-3.0, 3.0])
    assert (inner.action[:, 1, :, 0] * [[-1], [1]] > 0.5).all()
    assert (relabelled.action[:, 1, :, 0] * [[-1], [1]] > 0.8).all()
