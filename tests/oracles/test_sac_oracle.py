"""SAC against a slow reference in double precision, and on problems whose solution is known in closed form.

The reference is Algorithm 1 of Haarnoja et al. 2018 with the regulariser of SPiRL (Pertsch et al. 2020, eq. 6 and 7).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from skillmeta.algorithms import sac
from skillmeta.data.replay import Transitions
from skillmeta.nn.distributions import Gaussian, Mixture
from skillmeta.objectives.regularizer import RegularizerConfig
from skillmeta.seeds import Seeds
from skillmeta.types import Episodes
from tests.learners import make_learner
from tests.oracles.reference import (
    Adam,
    Layers,
    double,
    flat,
    gaussian_kl,
    gaussian_log_density,
    layers_of,
    mlp,
    split,
)
from tests.skills.fakes import skill_model

BOUND = torch.tensor([1.0, 0.5, 2.0])
ROWS = 24


class Reference:
    """One learner, its parameters copied from an learner that has not been updated yet."""

    def __init__(self, learner: sac.Learner, components: int = 0):
        self.config, self.settings = learner.config, learner.config.regularizer
        self.residual = learner.config.policy_start == "prior"
        self.policy = layers_of(learner.policy.net)
        self.critics = [layers_of(member) for member in learner.critics.members]
        self.targets = [layers_of(member) for member in learner.targets.members]
        self.log_coefficient = torch.tensor(math.log(self.settings.initial_coefficient), dtype=torch.float64)
        self.policy_adam, self.critic_adam = Adam(self.config.learning_rate), Adam(self.config.learning_rate)
        self.coefficient_adam = Adam(self.settings.learning_rate)
        self.bound = learner.bound.double()
        self.components = components
        if self.residual:
            model = skill_model(components=components)
            self.prior_layers = layers_of(model.prior_network)
        self.mean, self.stddev = torch.tensor([0.5, -1.0]).double(), torch.tensor([2.0, 0.25]).double()

    def normalize(self, observation: Tensor) -> Tensor:
        return ((observation - self.mean) / self.stddev).clip(-10, 10) if self.residual else observation

    def prior(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        mean, stddev = split(mlp(self.prior_layers, self.normalize(observation)))
        return mean.detach(), stddev.detach()

    def mixture(self, observation: Tensor) -> MixtureSameFamily:
        """The prior where it is one: weights, then means and log deviations of each component."""
        out = mlp(self.prior_layers, self.normalize(observation)).detach()
        logits, rest = out[:, : self.components], out[:, self.components :].view(len(out), self.components, 2, -1)
        each = Independent(Normal(rest[:, :, 0], torch.exp(torch.clamp(rest[:, :, 1], -10.0, 2.0))), 1)
        return MixtureSameFamily(Categorical(logits=logits), each)

    def act(self, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The action as it is executed, and the divergence in nats with its constant."""
        out = mlp(self.policy, self.normalize(observation))
        if not self.residual:
            mean, stddev = split(out)
            u = mean + stddev * noise
            log_prob = gaussian_log_density(u, mean, stddev) - torch.log(1 - torch.tanh(u) ** 2).sum(-1)  # in [-1, 1]^A
            return self.bound * torch.tanh(u), log_prob + len(self.bound) * math.log(2)
        if self.components:
            several = self.mixture(observation)
            prior_mean, prior_stddev = several.mean, several.variance.sqrt()
        else:
            prior_mean, prior_stddev = self.prior(observation)
        shift, log_ratio = out.chunk(2, -1)
        mean = prior_mean + shift
        stddev = torch.exp(torch.clamp(torch.log(prior_stddev) + log_ratio, -10.0, 2.0))
        if self.components:
            drawn = mean + stddev * noise
            divergence = gaussian_log_density(drawn, mean, stddev) - several.log_prob(drawn)
        elif self.settings.divergence == "reverse_kl":
            divergence = gaussian_kl(prior_mean, prior_stddev, mean, stddev)
        else:
            divergence = gaussian_kl(mean, stddev, prior_mean, prior_stddev)
        action = mean + stddev * noise
        return torch.maximum(torch.minimum(action, self.bound), -self.bound), divergence

    def values(self, critics: list[Layers], observation: Tensor, action: Tensor) -> Tensor:
        inputs = torch.cat([self.normalize(observation), action], -1)
        return torch.stack([mlp(layers, inputs)[:, 0] for layers in critics])

    def update(self, batch: Transitions, noise: Tensor) -> list[float]:
        s, a, r, following, terminated = (
            double(getattr(batch, name))
            for name in ("observation", "action", "reward", "next_observation", "terminated")
        )
        noise, settings, config = noise.double(), self.settings, self.config
        constant = len(self.bound) * math.log(2) if settings.prior == "uniform" else 0.0
        nothing = settings.divergence == "none"
        coefficient = 0.0 if nothing else float(torch.exp(self.log_coefficient))

        next_action, next_divergence = self.act(following, noise[1])
        if settings.td_divergence_clip is not None:
            next_divergence = torch.where(
                next_divergence > settings.td_divergence_clip,
                torch.full_like(r, settings.td_divergence_clip),
                next_divergence,
            )
        q1, q2 = self.values(self.targets, following, next_action)
        soft_value = torch.where(q1 < q2, q1, q2) - coefficient * (next_divergence - constant)
        target = (r + config.discount * (1 - terminated) * soft_value).detach()

        online = self.values(self.critics, s, a)
        critic_loss = sum(0.5 * ((q - target) ** 2).mean() for q in online)
        assert isinstance(critic_loss, Tensor)
        critic_parameters = [p for layers in self.critics for p in flat(layers)]
        critic_gradient = torch.autograd.grad(critic_loss, critic_parameters)

        action, divergence = self.act(s, noise[0])
        q1, q2 = self.values(self.critics, s, action)
        policy_loss = (coefficient * (divergence - constant) - torch.where(q1 < q2, q1, q2)).mean()
        policy_gradient = torch.autograd.grad(policy_loss, flat(self.policy))

        self.critic_adam.step(critic_parameters, list(critic_gradient))
        self.policy_adam.step(flat(self.policy), list(policy_gradient))
        if settings.controller != "fixed" and not nothing:
            wanted = settings.target_divergence
            if wanted is None:
                wanted = len(self.bound) + len(self.bound) * math.log(2)  # an entropy of -A in [-1, 1]^A
            excess = float(divergence.detach().mean()) - wanted
            if settings.controller == "one_way":
                excess = max(0.0, excess)
            self.coefficient_adam.step([self.log_coefficient], [torch.tensor(-excess).double()])
            low, high = math.log(settings.minimum_coefficient), math.log(settings.maximum_coefficient)
            self.log_coefficient = torch.clamp(self.log_coefficient, low, high)
        for slow, fast in zip(self.targets, self.critics, strict=True):
            for old, new in zip(flat(slow), flat(fast), strict=True):
                old.data = (1 - config.tau) * old.data + config.tau * new.data
        reported = 0.0 if nothing else divergence.mean().item()
        return [critic_loss.item(), policy_loss.item(), reported, target.mean().item()]


def batch(seed: int) -> Transitions:
    g = torch.Generator().manual_seed(seed)
    return Transitions(
        torch.randn(ROWS, 2, generator=g),
        BOUND * (2 * torch.rand(ROWS, 3, generator=g) - 1),
        torch.randn(ROWS, generator=g),
        torch.randn(ROWS, 2, generator=g),
        (torch.rand(ROWS, generator=g) < 0.3).float(),
    )


def make(regularizer: RegularizerConfig, policy_start: str, components: int = 0, **changes: float) -> sac.Learner:
    """A learner whose policy, critics and target critics differ from one another and from their start."""
    config = sac.Config(
        regularizer, policy_start, hidden=8, policy_depth=2, critic_depth=1, learning_rate=2e-3, discount=0.9,
        tau=0.1, batch_size=ROWS, replay_capacity=8, **changes,
    )  # fmt: skip
    model = skill_model(components=components)
    model.normalizer.mean.copy_(torch.tensor([0.5, -1.0]))
    model.normalizer.stddev.copy_(torch.tensor([2.0, 0.25]))
    start = {"prior": model.prior, "normalize": model.normalizer} if policy_start == "prior" else {}
    learner = make_learner(sac, config, 2, BOUND.numpy(), **start, seeds=Seeds(3))
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in [*learner.policy.net.layers[-1].parameters(), *learner.targets.parameters()]:
            parameter += 0.4 * torch.randn(parameter.shape, generator=g)
    return learner


def skill(**changes: object) -> RegularizerConfig:
    given = {"prior": "skill", "target_divergence": 1.0, "initial_coefficient": 0.3, "learning_rate": 2e-2, **changes}
    return RegularizerConfig(**given)  # type: ignore[arg-type]


CASES = {
    "sac": (RegularizerConfig(initial_coefficient=0.4, learning_rate=2e-2), "random"),
    "sac, fixed, clipped": (RegularizerConfig(initial_coefficient=0.4, controller="fixed", td_divergence_clip=1.5), "random"),
    "sac, a target": (RegularizerConfig(initial_coefficient=0.4, target_divergence=0.2, learning_rate=2e-2), "random"),
    "sac, no divergence": (RegularizerConfig(divergence="none"), "random"),
    "spirl": (skill(), "prior"),
    "spirl, below the target": (skill(target_divergence=50.0), "prior"),
    "spirl, one way up": (skill(controller="one_way"), "prior"),
    "spirl, one way stays": (skill(controller="one_way", target_divergence=50.0), "prior"),
    "spirl, fixed": (skill(controller="fixed"), "prior"),
    "spirl, clipped": (skill(td_divergence_clip=0.7), "prior"),
    "spirl, reverse": (skill(divergence="reverse_kl"), "prior"),
    "spirl, no divergence": (skill(divergence="none"), "prior"),
    "spirl, at the floor": (skill(target_divergence=50.0, minimum_coefficient=0.295), "prior"),
    "spirl, at the ceiling": (skill(maximum_coefficient=0.305), "prior"),
    "spirl, a mixture": (skill(), "prior", 4),
    "spirl, a mixture, clipped": (skill(td_divergence_clip=0.7), "prior", 4),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_three_updates_equal_the_reference(case):
    learner = make(*CASES[case])
    reference = Reference(learner, *CASES[case][2:])
    for seed in range(3):
        noise = torch.randn(2, ROWS, 3, generator=torch.Generator().set_state(learner.generator.get_state()))
        expected = reference.update(batch(seed), noise)
        assert learner.update(batch(seed)).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    # An update moves a parameter by up to 6e-3; the tolerances are thousandths of it.
    close = {"rtol": 1e-4, "atol": 2e-5}
    torch.testing.assert_close([p.double() for p in learner.policy.parameters()], flat(reference.policy), **close)
    for mine, theirs in ((learner.critics, reference.critics), (learner.targets, reference.targets)):
        for member, layers in zip(mine.members, theirs, strict=True):
            torch.testing.assert_close([p.double() for p in member.parameters()], flat(layers), **close)
    torch.testing.assert_close(
        learner.regularizer.log_coefficient.double(), reference.log_coefficient, rtol=1e-5, atol=1e-6
    )
    assert learner.updates == 3


@pytest.mark.parametrize("case", ["sac", "spirl", "spirl, a mixture"])
def test_acting_equals_the_reference(case):
    learner = make(*CASES[case])
    reference = Reference(learner, *CASES[case][2:])
    observation = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    for explore in (True, False):
        action, _ = learner.acting.act(observation, None, torch.Generator().manual_seed(1), explore)
        expected, _ = reference.act(observation.double(), noise.double() if explore else torch.zeros(50, 3).double())
        torch.testing.assert_close(action.double(), expected.detach(), rtol=1e-4, atol=1e-5)


class ThreeDecisions:
    """Stands for `OnlineSource`: the same episode of three decisions every time."""

    def episode(self, actor: sac.Actor) -> Episodes:
        self.actor, no = actor, np.zeros((1, 3), bool)
        observation, action = np.zeros((1, 4, 2), np.float32), np.zeros((1, 3, 3), np.float32)
        return Episodes(observation, action, np.ones((1, 3), np.float32), no, no, np.ones((1, 3), int), no, ~no)


def test_the_first_decisions_are_uniform_in_the_box_and_followed_by_no_update():
    learner, source = make(RegularizerConfig(), "random", random_decisions=5), ThreeDecisions()
    assert learner.iterate(source) == {} and learner.updates == 0
    action, _ = source.actor.act(torch.zeros(4000, 2), None, torch.Generator().manual_seed(0), explore=True)
    share = (action / BOUND + 1) / 2
    assert share.min() >= 0 and share.max() <= 1
    for column in share.T:
        assert torch.histc(column, 4, 0, 1).tolist() == pytest.approx([1000] * 4, abs=110)
    quiet, _ = learner.actor().act(torch.zeros(3, 2), None, torch.Generator(), explore=False)
    assert torch.equal(quiet[0], quiet[1])
    for uniform, updates in ((True, 3), (False, 6)):  # of six decisions, and of nine
        assert learner.iterate(source) and learner.updates == updates
        later, _ = source.actor.act(torch.zeros(4000, 2), None, torch.Generator().manual_seed(0), explore=True)
        assert torch.equal(later, action) == uniform


# -- closed forms ------------------------------------------------------------------------------------------------------------
@dataclass
class Problem:
    """Transitions from which a learner is trained without an environment: rows of (s, r(a), s', terminated)."""

    observation: Tensor
    action: Tensor
    reward: Tensor
    following: Tensor
    terminated: Tensor

    def fill(self, learner: sac.Learner) -> None:
        count = len(self.reward)
        columns = learner.replay.columns
        rows = (self.observation, self.action, self.reward, self.following, self.terminated)
        for name, values in zip(
            ("observation", "action", "reward", "next_observation", "terminated"), rows, strict=True
        ):
            getattr(columns, name)[:count] = values
        learner.replay.added = count


def small(regularizer: RegularizerConfig, prior=None, **changes) -> sac.Learner:
    config = sac.Config(
        regularizer, "prior" if prior else "random", hidden=32, learning_rate=3e-3, batch_size=128, replay_capacity=2000,
        **{"tau": 0.05, "discount": 0.5, **changes},
    )  # fmt: skip
    return make_learner(sac, config, 1, np.ones(1, np.float32), prior=prior, seeds=Seeds(0))


def uniform_actions(count: int = 2000) -> Tensor:
    return 2 * torch.rand(count, 1, generator=torch.Generator().manual_seed(0)) - 1


def test_a_bandit_is_solved():
    """One decision, reward -(a - 0.5)^2: the best action is 0.5, whatever the signs of the others' mistakes would make of it."""
    action = uniform_actions()
    learner = small(RegularizerConfig(initial_coefficient=0.01, controller="fixed"))
    zeros = torch.zeros(len(action), 1)
    Problem(zeros, action, -((action[:, 0] - 0.5) ** 2), zeros, torch.ones(len(action))).fill(learner)
    learner.learn(300)
    mode, _ = learner.acting.act(torch.zeros(1, 1), None, torch.Generator(), explore=False)
    assert float(mode.detach()) == pytest.approx(0.5, abs=0.1)


def test_the_regularised_optimum_of_a_bandit_is_the_product_of_prior_and_exponentiated_reward():
    """pi* ~ prior exp(r / coefficient). With prior N(-0.2, 0.2^2), r = -(a - 0.3)^2 / 2 and coefficient 0.04 both factors have the
    same precision 25: a mean of 0.05 and a deviation of 0.2 / sqrt(2)."""

    def prior(observation: Tensor) -> Gaussian:
        mean = torch.full((len(observation), 1), -0.2)
        return Gaussian(mean, torch.full_like(mean, math.log(0.2)))

    learner = small(skill(controller="fixed", initial_coefficient=0.04), prior)
    action = uniform_actions()
    zeros = torch.zeros(len(action), 1)
    Problem(zeros, action, -((action[:, 0] - 0.3) ** 2) / 2, zeros, torch.ones(len(action))).fill(learner)
    learner.learn(400)
    policy = learner.policy(zeros[:1], prior(zeros[:1]))
    assert isinstance(policy, Gaussian)
    assert float(policy.mean) == pytest.approx(0.05, abs=0.05)
    assert float(policy.stddev) == pytest.approx(0.2 / math.sqrt(2), abs=0.03)


def test_with_a_mixture_for_a_prior_the_policy_takes_the_mode_that_pays():
    """Two modes at -0.5 and 0.5, a flat Gaussian between them at first. Rewards that are slightly higher on the right, by far too
    little to leave a Gaussian of the same mean and variances for: the policy goes into the right mode and has its width."""

    def prior(observation: Tensor) -> Mixture:
        mean = torch.tensor([-0.5, 0.5]).view(1, 2, 1).expand(len(observation), 2, 1)
        return Mixture(torch.zeros(len(observation), 2), Gaussian(mean, torch.full_like(mean, math.log(0.1))))

    learner = small(skill(controller="fixed", initial_coefficient=0.1), prior)
    action, zeros = uniform_actions(), torch.zeros(2000, 1)
    started = learner.policy(zeros[:1], prior(zeros[:1]))
    assert float(started.mean) == 0 and float(started.stddev) == pytest.approx(math.sqrt(0.25 + 0.01))
    Problem(zeros, action, 0.2 * action[:, 0], zeros, torch.ones(len(action))).fill(learner)
    learner.learn(600)
    policy = learner.policy(zeros[:1], prior(zeros[:1]))
    # At a coefficient of 0.1 the optimum within the mode is N(0.5 + 0.2 * 0.1^2 / 0.1, 0.1^2).
    assert float(policy.mean) == pytest.approx(0.52, abs=0.05)
    assert float(policy.stddev) == pytest.approx(0.1, abs=0.03)


def test_values_of_a_chain_are_known():
    """Two states: 0 leads to 1 for nothing, 1 ends with a reward of 1; a third goes round for 1 a decision, and is only ever cut
    off. Actions change nothing, so the soft optimal policy is uniform with an entropy of log 2, and with discount 1/2 and
    coefficient c: Q(1) = 1, Q(0) = (1 + c log 2) / 2, Q(2) = 1 + (Q(2) + c log 2) / 2 = 2 + c log 2."""
    coefficient, count = 0.5, 1998
    learner = small(RegularizerConfig(initial_coefficient=coefficient, controller="fixed"))
    state = torch.arange(count).remainder(3).float()[:, None]
    following = torch.where(state == 2, 2.0, 1.0)
    ended = (state[:, 0] == 1).float()
    Problem(state - 1, uniform_actions(count), (state[:, 0] >= 1).float(), following - 1, ended).fill(learner)
    learner.learn(400)
    with torch.no_grad():
        q = learner.critics(torch.tensor([[-1.0], [0.0], [1.0]]), torch.zeros(3, 1)).mean(0)
    bonus = coefficient * math.log(2)
    assert q.tolist() == pytest.approx([(1 + bonus) / 2, 1.0, 2 + bonus], abs=0.07)
