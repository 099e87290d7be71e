"""SAC with a prior: collection, exact repetition, variants of the update, refusals. Its losses: tests/oracles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from skillmeta.algorithms import sac
from skillmeta.collect.source import Budget, OnlineSource
from skillmeta.collect.workers import Workers
from skillmeta.config import build
from skillmeta.data.replay import Transitions
from skillmeta.envs.serial import SerialEnvs
from skillmeta.envs.skill_space import SkillEnvs
from skillmeta.errors import ConfigError, UserError
from skillmeta.objectives.regularizer import RegularizerConfig
from skillmeta.run.checkpoint import load_state, save_state, state_hash
from skillmeta.run.parts import restore_parts, state_of
from skillmeta.seeds import Seeds
from skillmeta.types import Envs
from tests.learners import make_learner
from tests.skills.fakes import CounterEnv, skill_model

BOUND = np.ones(3, np.float32)
GUIDED = RegularizerConfig(prior="skill", target_divergence=1.0, initial_coefficient=0.3)
SMALL = sac.Config(hidden=16, batch_size=32, replay_capacity=500)


def batch(rows: int = 32, observation_dim: int = 2, action_dim: int = 3, seed: int = 0) -> Transitions:
    g = torch.Generator().manual_seed(seed)
    return Transitions(
        torch.randn(rows, observation_dim, generator=g),
        torch.randn(rows, action_dim, generator=g).clamp(-1, 1),
        torch.randn(rows, generator=g),
        torch.randn(rows, observation_dim, generator=g),
        (torch.rand(rows, generator=g) < 0.3).float(),
    )


def guided(seed: int = 0, **changes) -> sac.Learner:
    model = skill_model()
    config = replace(SMALL, policy_start="prior", regularizer=GUIDED, **changes)
    return make_learner(
        sac, config, 2, model.latent_bound.numpy(), prior=model.prior, normalize=model.normalizer, seeds=Seeds(seed)
    )


def test_at_step_0_the_policy_is_the_prior_and_the_divergence_0():
    metrics = dict(zip(sac.METRICS, guided().update(batch()).tolist(), strict=True))
    assert metrics["prior/divergence"] == 0.0


def test_actions_stay_in_their_box():
    learner = guided()
    with torch.no_grad():
        learner.policy.net.layers[-1].bias.fill_(9.0)
    action, _ = learner.acting.act(torch.randn(64, 2), None, torch.Generator(), explore=True)
    assert (action.abs() <= learner.bound).all() and (action.abs() == learner.bound).any()


def counting(num: int) -> Envs:
    return SerialEnvs(CounterEnv, num)


def counting_skills(num: int) -> Envs:
    return SkillEnvs(SerialEnvs(CounterEnv, num, unit_actions=False), skill_model())


def source_of(budget: int = 600, seed: int = 0, make: Callable[[int], Envs] = counting_skills) -> OnlineSource:
    return OnlineSource(Workers(make), lambda g: None, Seeds(seed), Budget(budget))


def train(learner: sac.Learner, source: OnlineSource, episodes: int) -> None:
    for _ in range(episodes):
        learner.iterate(source)


@pytest.mark.parametrize("start", ["prior", "random"])
def test_the_same_seed_gives_the_same_bits(start):
    hashes = set()
    for _ in range(2):
        learner = (
            guided(seed=3)
            if start == "prior"
            else make_learner(sac, SMALL, 2, skill_model().latent_bound.numpy(), seeds=Seeds(3))
        )
        train(learner, source_of(seed=3), 10)
        hashes.add(state_hash(state_of(learner.parts())))
    assert len(hashes) == 1
    other = guided(seed=4)
    train(other, source_of(seed=4), 10)
    assert state_hash(state_of(other.parts())) not in hashes


def test_resume_equals_uninterrupted(tmp_path):
    whole, source = guided(), source_of()
    train(whole, source, 12)
    first, before = guided(), source_of()
    train(first, before, 5)
    state = state_of({"learner": first.parts(), "source": before})
    save_state(tmp_path / "c", state)
    loaded, _ = load_state(tmp_path / "c")
    second, after = guided(seed=99), source_of()
    restore_parts({"learner": second.parts(), "source": after}, loaded)
    train(second, after, 7)
    assert state_hash(state_of(second.parts())) == state_hash(state_of(whole.parts()))
    assert after.state() == source.state()


def test_the_budget_of_steps_is_used_exactly_and_counts_primitive_steps():
    source = source_of(137)
    learner = guided()
    steps = 0
    while not source.spent:
        learner.iterate(source)
        episodes = source.last.episodes(0)
        steps += int(episodes.steps[episodes.valid].sum())
    assert source.env_steps == steps == 137 and episodes.truncated[0, -1] and not episodes.terminated[0, -1]


def test_updates_per_decision_is_kept_on_average():
    source = source_of(250, make=counting)
    learner = make_learner(sac, replace(SMALL, updates_per_decision=0.3), 2, np.ones(1, np.float32), seeds=Seeds(0))
    while not source.spent:
        learner.iterate(source)
    assert learner.counts.decisions == 250 and learner.updates == 75


def test_random_decisions_come_before_the_first_update():
    source = source_of(1000, make=counting)
    learner = make_learner(sac, replace(SMALL, random_decisions=30), 2, np.ones(1, np.float32), seeds=Seeds(0))
    assert learner.iterate(source) == {} and (learner.counts.decisions, learner.updates) == (25, 0)
    assert learner.iterate(source) and (learner.counts.decisions, learner.updates) == (50, 25)


def seen_in_units(scale: float, shift: float = 0.0) -> Callable[[int], Envs]:
    """The counting world whose second number is in other units."""

    class Rescaled(CounterEnv):
        def _observe(self) -> np.ndarray:
            return super()._observe() * np.array([1, scale], np.float32) + np.array([0, shift], np.float32)

    return lambda num: SerialEnvs(Rescaled, num)


def in_units(scale: float, shift: float = 0.0, normalize: bool = True, episodes: int = 2) -> sac.Learner:
    """One that has learned there, the first of its episodes at random."""
    config = replace(SMALL, random_decisions=20, normalize_observations=normalize)
    learner = make_learner(sac, config, 2, np.ones(1, np.float32), seeds=Seeds(0))
    train(learner, source_of(1000, make=seen_in_units(scale, shift)), episodes)
    return learner


def numbers(learner: sac.Learner) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in learner.networks.parameters()])


def test_units_of_observations_do_not_matter_once_they_are_normalised():
    """To the bit in units of a power of two, up to rounding in others; without statistics they do."""
    wanted, seen = in_units(1.0), torch.tensor([[3.0, 50.0], [9.0, 51.0]])
    assert wanted.updates == 50
    for scale in (2.0**13, 2.0**-20):
        learner = in_units(scale)
        assert torch.equal(numbers(learner), numbers(wanted))
        there = seen * torch.tensor([1, scale])
        acted, expected = (one.actor().act(x, None, torch.Generator(), False)[0] for one, x in
                           ((learner, there), (wanted, seen)))  # fmt: skip
        assert torch.equal(acted, expected)
    torch.testing.assert_close(numbers(in_units(1e4, 3e3)), numbers(wanted), rtol=0.02, atol=2e-3)
    as_they_are = [numbers(in_units(scale, normalize=False)) for scale in (1.0, 1e4)]
    assert float((as_they_are[0] - as_they_are[1]).abs().max()) > 0.02


def test_statistics_are_those_of_the_random_decisions_and_stay():
    learner = in_units(1e4, episodes=1)  # all of it at random, and no update before
    seen = learner.replay.columns.observation[:25]
    assert learner.normalizer is not None and learner.updates == 25
    mean, stddev = learner.normalizer.mean.clone(), learner.normalizer.stddev.clone()
    torch.testing.assert_close(mean, seen.mean(0))
    torch.testing.assert_close(stddev, seen.std(0, correction=0))
    train(learner, source_of(1000, seed=5, make=seen_in_units(3.0)), 2)
    assert torch.equal(learner.normalizer.mean, mean) and torch.equal(learner.normalizer.stddev, stddev)


def test_statistics_without_random_decisions_or_beside_those_of_skills_are_refused():
    with pytest.raises(ConfigError, match="algorithm.normalize_observations takes its statistics from the random dec"):
        build(sac.Config, {"normalize_observations": True}, "algorithm")
    with pytest.raises(
        ConfigError, match="the skill model under `skills:` normalises observations by its logs; set it"
    ):
        guided(normalize_observations=True, random_decisions=1)


@pytest.mark.slow
def test_compiled_and_plain_updates_agree():
    """Where there is a compiler; elsewhere the compiled learner falls back, says so, and agrees all the more."""
    learners = [guided(), guided(compile=True)]
    for seed in range(3):
        metrics = [learner.update(batch(seed=seed)) for learner in learners]
        torch.testing.assert_close(metrics[0], metrics[1], rtol=1e-3, atol=1e-4)
    for a, b in zip(learners[0].policy.parameters(), learners[1].policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-4)


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setattr(sac.shutil, "which", lambda name: None)
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler found"):
        learner = guided(compile=True)
    learner.update(batch())


def test_bfloat16_keeps_float32_parameters_and_comes_close():
    exact, half = guided(), guided(bfloat16=True)
    a, b = exact.update(batch()), half.update(batch())
    torch.testing.assert_close(a, b, rtol=0.1, atol=0.05)
    assert all(p.dtype == torch.float32 for p in half.policy.parameters())


def test_a_reward_that_is_not_finite_stops_before_the_buffer():
    class Broken(CounterEnv):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return (observation, float("nan"), *rest)

    learner = make_learner(sac, SMALL, 2, np.ones(1, np.float32), seeds=Seeds(0))
    with pytest.raises(UserError, match="reward that is not finite"):
        learner.iterate(source_of(make=lambda num: SerialEnvs(Broken, num)))
    assert len(learner.replay) == 0


def test_discrete_actions_are_refused(tmp_path):
    from skillmeta.programs.train import train
    from skillmeta.programs.train_config import TrainConfig
    from skillmeta.tasks.base import TaskConfig

    config = TrainConfig(task=TaskConfig("gym", options={"id": "CartPole-v1"}), env_steps=10)
    with pytest.raises(ConfigError, match="the environment has 2 discrete actions"):
        train(config, tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            replace(SMALL, policy_start="prior", regularizer=RegularizerConfig(divergence="none")),
            "asks for a skill prior",
        ),
        (replace(SMALL, regularizer=GUIDED), "asks for a skill prior"),
    ],
)
def test_a_prior_that_is_not_there_is_missed_at_once(config, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make_learner(sac, config, 2, BOUND, seeds=Seeds(0))


def test_a_removed_key_is_one_sentence():
    with pytest.raises(ConfigError, match="discount_per: is no longer a key; discount is per decision"):
        build(sac.Config, {"discount_per": "step"}, "algorithm")


def test_an_unsquashed_policy_is_not_paid_for_entropy():
    with pytest.raises(ConfigError, match="pay for entropy without bound; set regularizer.divergence: none"):
        build(sac.Config, {"policy_start": "prior", "regularizer": {"prior": "uniform"}}, "algorithm")


@pytest.mark.parametrize("change", [{"discount": 1.1}, {"hidden": 0}, {"policy_start": "x"}])
def test_impossible_values_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(SMALL, **change)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"policy_start": "prior", "regularizer": {"divergence": "none"}}, "no divergence and no entropy bonus"),
        (
            {"policy_start": "prior", "regularizer": {"divergence": "none"}, "updates_per_decision": 0},
            "nothing is learned",
        ),
        ({}, "an entropy bonus"),
        (
            {"normalize_observations": True, "random_decisions": 5000},
            "are normalised by its first 5,000 decisions, which",
        ),
        (
            {
                "policy_start": "prior",
                "regularizer": {"prior": "skill", "divergence": "reverse_kl", "target_divergence": 2},
            },
            "a coefficient times KL(prior || policy); the coefficient is controlled towards 2 nats",
        ),
        ({"regularizer": {"controller": "fixed", "initial_coefficient": 0.5}}, "the coefficient is fixed at 0.5"),
    ],
)
def test_a_page_describes_a_method_from_its_config(changes, says):
    told = sac.describe(build(sac.Config, changes), "skills", "p(z|s)")
    assert says in told and "skills" in told and ("p(z|s)" in told) == ("policy_start" in changes)
