"""Best of N against a slow reference in double precision, order statistics, and a bandit that is known in closed form."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from skillmeta.algorithms import best_of, sac
from skillmeta.data.replay import Transitions
from skillmeta.errors import ConfigError
from skillmeta.nn.distributions import Gaussian
from skillmeta.objectives.regularizer import RegularizerConfig
from skillmeta.seeds import Seeds
from skillmeta.types import Episodes
from tests.learners import make_learner
from tests.oracles.reference import Adam, double, flat, layers_of, mlp, split
from tests.skills.fakes import skill_model

ROWS, COUNT = 7, 5
SMALL = best_of.Config(candidates=COUNT, hidden=16, batch_size=ROWS, replay_capacity=500)


def standard(observation: torch.Tensor) -> Gaussian:
    """N(0, 1) over one number, whatever is observed."""
    zeros = torch.zeros(len(observation), 1)
    return Gaussian(zeros, zeros)


def guided(**changes) -> best_of.Learner:
    model = skill_model()
    bound = model.latent_bound.numpy()
    config = replace(SMALL, **changes)
    return make_learner(best_of, config, 2, bound, prior=model.prior, normalize=model.normalizer, seeds=Seeds(0))


def batch(seed: int) -> Transitions:
    g = torch.Generator().manual_seed(seed)
    action = 3 * torch.randn(ROWS, 3, generator=g)  # some leave the box
    ends = torch.tensor([1.0, 0, 0, 1, 0, 0, 0])
    return Transitions(
        torch.randn(ROWS, 2, generator=g),
        action,
        torch.randn(ROWS, generator=g),
        torch.randn(ROWS, 2, generator=g),
        ends,
    )


def test_updates_are_those_of_the_reference():
    learner, model = guided(learning_rate=1e-2, tau=0.3, discount=0.9), skill_model()
    bound, prior = model.latent_bound.double(), layers_of(model.prior_network)
    critics, targets = ([layers_of(m) for m in net.members] for net in (learner.critics, learner.targets))
    adam, noises = Adam(1e-2), torch.Generator()
    noises.set_state(learner.generator.get_state())
    for seed in range(4):
        rows = batch(seed)
        metrics = learner.update(rows)
        noise = double(torch.randn(COUNT, ROWS, 3, generator=noises))
        now, action, reward, following, ends = map(double, rows)
        target = torch.zeros(ROWS, dtype=torch.float64)
        gains = []
        for row in range(ROWS):
            seen = double(model.normalizer(rows.next_observation[row]))
            mean, stddev = split(mlp(prior, seen))
            found = []
            for n in range(COUNT):
                z = torch.minimum(torch.maximum(mean + stddev * noise[n, row], -bound), bound)
                found.append(min(mlp(one, torch.cat([seen, z])).item() for one in targets))
            target[row] = reward[row] + 0.9 * (1 - ends[row]) * max(found)
            gains.append(max(found) - sum(found) / COUNT)
        inputs = torch.cat([double(model.normalizer(rows.observation)), action.clamp(-bound, bound)], -1)
        loss = sum(0.5 * ((mlp(one, inputs).squeeze(-1) - target) ** 2).mean() for one in critics)
        parameters = [p for one in critics for p in flat(one)]
        adam.step(parameters, list(torch.autograd.grad(loss, parameters)))
        for slow, fast in zip((p for one in targets for p in flat(one)), parameters, strict=True):
            slow.data = 0.7 * slow.data + 0.3 * fast.data
        expected = [loss.item(), target.mean().item(), sum(gains) / ROWS]
        assert metrics.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    ours = [p for net in (learner.critics, learner.targets) for member in net.members for p in flat(layers_of(member))]
    theirs = [p for nets in (critics, targets) for one in nets for p in flat(one)]
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_best_of_one_is_a_rollout_of_the_prior_to_the_bit():
    model = skill_model()
    config = sac.Config(policy_start="prior", regularizer=RegularizerConfig(divergence="none"))
    of_sac = make_learner(
        sac, config, 2, model.latent_bound.numpy(), prior=model.prior, normalize=model.normalizer, seeds=Seeds(0)
    )
    seen = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
    for explore in (True, False):
        one, _ = guided(candidates=1).actor().act(seen, None, torch.Generator().manual_seed(2), explore)
        other, _ = of_sac.actor().act(seen, None, torch.Generator().manual_seed(2), True)
        assert torch.equal(one, other)


@pytest.mark.parametrize(("count", "expected"), [(1, 0.0), (2, 0.5642), (8, 1.4236)])
def test_what_acts_is_the_largest_of_n_draws(count, expected):
    """With Q(s, z) = z the best of N is the maximum of N normal numbers, whose mean is a known order statistic."""
    config = replace(SMALL, candidates=count)
    learner = make_learner(best_of, config, 1, [9.0], prior=standard, seeds=Seeds(0))
    actor = replace(learner.actor(), critics=lambda seen, action: action.squeeze(-1).expand(2, -1))
    action, _ = actor.act(torch.zeros(20_000, 1), None, torch.Generator().manual_seed(0), True)
    assert action.mean().item() == pytest.approx(expected, abs=0.03)


def test_each_observation_has_its_own_best_skill_inside_the_box():
    """With Q(s, z) = s z, half of which see 1 and half -1, and draws that mostly leave a narrow box."""
    learner = make_learner(best_of, replace(SMALL, candidates=8), 1, [0.5], prior=standard, seeds=Seeds(0))
    actor = replace(learner.actor(), critics=lambda seen, action: (seen * action).squeeze(-1).expand(2, -1))
    seen = torch.ones(400, 1)
    seen[::2] = -1
    action, _ = actor.act(seen, None, torch.Generator().manual_seed(0), True)
    assert action.abs().max() == 0.5 and (seen * action).mean() > 0.45


@pytest.mark.parametrize("count", [1, 2, 8, 32])
def test_its_divergence_from_the_prior_is_bounded(count):
    """The rank u of what is taken has density N u^(N - 1) where draws have density 1: the KL by numerical integration."""
    u = (np.arange(200_000) + 0.5) / 200_000
    density = count * u ** (count - 1)
    assert best_of.largest_divergence(count) == pytest.approx(float((density * np.log(density)).mean()), abs=1e-4)


class Bandit:
    """Stands for `OnlineSource`: one decision an episode, whose reward is -(z - 1)^2."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(7)

    def episode(self, actor) -> Episodes:
        seen = torch.ones(16, 1)
        with torch.no_grad():
            action, _ = actor.act(seen, None, self.generator, True)
        reward = -((action[:, 0] - 1) ** 2).numpy()[:, None]
        yes, no = np.ones((16, 1), bool), np.zeros((16, 1), bool)
        observation = np.ones((16, 2, 1), np.float32)
        return Episodes(observation, action.numpy()[:, None], reward, yes, no, yes.astype(np.int64), no, yes)


def test_a_bandit_is_solved_as_far_as_the_prior_reaches():
    """Of 8 draws from N(0, 1) the one nearest to 1 errs by 0.05 on average, by numerical integration; a draw alone by 2."""
    config = best_of.Config(hidden=32, batch_size=64)
    learner, source = make_learner(best_of, config, 1, [9.0], prior=standard, seeds=Seeds(0)), Bandit()
    first = source.episode(learner.actor()).reward.mean()
    for _ in range(40):
        metrics = learner.iterate(source)
    found = np.mean([source.episode(learner.actor()).reward.mean() for _ in range(50)])
    draws = np.random.default_rng(0).normal(size=(20_000, 8))
    assert -found == pytest.approx(((draws - 1) ** 2).min(1).mean(), abs=0.06)
    assert found > first + 0.5 and metrics["candidates/gain"] > 0 and learner.updates == 640


def test_without_skills_there_is_nothing_to_draw_from():
    with pytest.raises(ConfigError, match="best_of, which draws skills from their prior"):
        make_learner(best_of, SMALL, 2, [1.0], seeds=Seeds(0))


def test_it_says_how_far_it_may_go():
    assert math.isclose(best_of.largest_divergence(8), 1.204, abs_tol=1e-3)
    assert "the best of 8" in best_of.describe(best_of.Config(), "skills", "p(z|s)")
    assert "the prior, p(z|s), acts in skills" in best_of.describe(best_of.Config(candidates=1), "skills", "p(z|s)")
