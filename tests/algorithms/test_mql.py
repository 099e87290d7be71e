"""MQL: contexts that acting and learning share, and an adaptation that stays within its belief. Each habit of the authors' code
that is not here has a test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from skillmeta.algorithms import mql
from skillmeta.algorithms.mql import AdaptationConfig, Config, MqlBelief
from skillmeta.collect.episodes import episode
from skillmeta.envs.make import make_envs
from skillmeta.errors import ConfigError
from skillmeta.nn.distributions import Gaussian
from skillmeta.objectives.propensities import effective_sample_size
from skillmeta.objectives.td3 import squared_distance
from skillmeta.run.checkpoint import state_hash
from skillmeta.run.parts import state_of
from skillmeta.seeds import Seeds
from skillmeta.tasks.base import TaskConfig, make_family
from skillmeta.types import Episodes
from tests.learners import make_learner

ENDS = TaskConfig("point", split="any", options={"end_within": 0.5, "extent": 0.5, "max_episode_steps": 9})
SMALL = Config(
    tasks=3, context_length=4, context_dim=5, hidden=8, batch_size=16, random_decisions=0, replay_capacity=150,
    adaptation=AdaptationConfig(new_updates=3, meta_updates=5, batch_size=12, carried=40),
)  # fmt: skip


def adapting(**changes: Any) -> Config:
    return replace(SMALL, adaptation=replace(SMALL.adaptation, **changes))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def played(num: int, seed: int, config: Config = SMALL) -> tuple[Any, list[Episodes]]:
    """A learner with a store of several ragged episodes, and the episodes."""
    family = make_family(ENDS)
    envs = make_envs(family, num)
    learner = make_learner(mql, config, 2, envs.spec.action_bound, seeds=Seeds(1))
    rng, noise, episodes = np.random.default_rng(seed), generator(seed), []
    for _ in range(6):
        tasks = [family.sample(rng, "any") for _ in range(num)]
        resets, actor = rng.integers(1000, size=num).tolist(), replace(learner.acting, random=True)
        done, _ = episode(actor, envs, actor.begin(num, generator()), resets, noise, tasks=tasks)
        episodes.append(done)
        learner.store.add(done.as_trials())
    learner.carried.take(*learner.sample(torch.tensor(learner.store.begins), config.adaptation.carried))
    return learner, episodes


def parameters(module: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


# -- contexts -----------------------------------------------------------------------------------------------------------------
def test_learning_sees_the_windows_that_acting_saw():
    """Of each decision, before and after it; where environments in lockstep end at different times, too."""
    family, windows = make_family(ENDS), list[torch.Tensor]()
    envs = make_envs(family, 5)
    learner = make_learner(mql, SMALL, 2, envs.spec.action_bound, seeds=Seeds(1))

    class Watched(mql.Actor):
        def act(self, observation, belief, generator, explore):
            windows.append(belief.window)
            return super().act(observation, belief, generator, explore)

    actor = Watched(learner.td3.networks, learner.td3.slow, None, None, SMALL)
    tasks = [family.sample(np.random.default_rng(i), "any") for i in range(5)]
    done, belief = episode(actor, envs, actor.begin(5, generator()), list(range(5)), generator(), tasks=tasks)
    rows, lengths = learner.acting.rows_of(done), done.valid.sum(1)
    assert len(set(lengths.tolist())) > 1 and lengths.max() > SMALL.context_length
    for n, length in enumerate(lengths):
        for t in range(length):
            assert torch.equal(rows.window[n, t, :-1], windows[t][n])
            after = windows[t + 1][n] if t + 1 < len(windows) else belief.window[n]
            assert torch.equal(rows.window[n, t, 1:], after)
            assert bool(rows.window[n, t, -1].any()) and not rows.window[n, t, : max(0, 4 - t)].any()


def test_the_store_gives_rows_with_the_windows_of_their_own_episodes():
    """Also when the oldest episodes were overwritten."""
    learner, episodes = played(4, 0, replace(SMALL, replay_capacity=90))
    assert learner.store.replay.added > 90
    known = {}
    for done in episodes:
        rows = learner.acting.rows_of(done)
        for n, t in zip(*done.valid.nonzero(), strict=True):
            known[rows.action[n, t].numpy().tobytes()] = rows.at(torch.tensor(n), torch.tensor(t))
    drawn = learner.sample(torch.tensor(learner.store.begins), 300)
    assert len(set(drawn.reward.tolist())) > 40
    for k in range(300):
        one = drawn.at(torch.tensor(k))
        for found, wanted in zip(one, known[one.action.numpy().tobytes()], strict=True):
            torch.testing.assert_close(found, wanted)


def test_a_new_episode_begins_without_a_context():
    learner, (done, *_) = played(3, 0)
    actor = learner.actor()
    assert bool(actor.rows_of(done).window.any())
    belief = actor.begin(3, generator())._replace(window=torch.ones(3, 4, 5))
    assert not actor.adapt(belief, done, generator()).window.any()


def test_of_n_tasks_each_acts_with_its_own_parameters():
    learner, (done, *_) = played(3, 0)
    actor = learner.actor()
    belief = actor.adapt(actor.begin(3, generator()), done, generator())
    seen = torch.randn(3, 2, generator=generator(1))
    action, _ = actor.act(seen, belief, generator(), False)
    for n in range(3):
        policy = actor.networks.policy
        with torch.no_grad():
            for own, adapted in zip(policy.parameters(), belief.parameters, strict=True):
                own.copy_(adapted[n])
            torch.testing.assert_close(action[n], policy(seen[n : n + 1], belief.window[n : n + 1], None)[0])


# -- adaptation ---------------------------------------------------------------------------------------------------------------
def test_a_task_like_those_of_training_has_propensity_1_and_nothing_is_weighted_or_held():
    learner, (done, *_) = played(3, 0)
    actor = learner.actor()
    old = mql.Rows(*actor.carried.buffers())
    new = mql.Rows(*(part.unsqueeze(0) for part in old))  # the same rows
    valid = torch.ones(1, len(old.reward))
    beta = actor.propensities(old, new, valid)
    assert beta.flatten().tolist() == pytest.approx([1.0] * 40, abs=1e-5)
    assert float(1 - effective_sample_size(beta)) == pytest.approx(0.0, abs=1e-6)
    found = actor.adapted(old, new, valid, generator())[0].networks
    free = replace(actor, config=adapting(proximal_coefficient=0.0)).adapted(old, new, valid, generator())[0].networks
    for one, other in zip(found.parameters(), free.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_adaptation_changes_the_belief_and_never_the_actor():
    """So there is nothing to roll back, which the authors' code has to do."""
    learner, (done, *_) = played(3, 0)
    actor = learner.actor()
    before = state_hash(state_of(actor.parts())), state_hash(state_of(learner.parts()))
    belief = actor.begin(3, generator())
    known = actor.adapt(belief, done, generator())
    assert (state_hash(state_of(actor.parts())), state_hash(state_of(learner.parts()))) == before
    assert known.updates == 8 and belief.updates == 0
    for own, first, moved in zip(actor.networks.policy.parameters(), belief.parameters, known.parameters, strict=True):
        assert all(torch.equal(own, first[n]) and not torch.equal(own, moved[n]) for n in range(3))
    again = actor.adapt(actor.begin(3, generator()), done, generator())
    assert all(torch.equal(*both) for both in zip(known.parameters, again.parameters, strict=True))


def test_it_adapts_after_the_last_exploration_episode_and_holds_then():
    """So every episode that is evaluated afterwards counts alike, however many; the authors' results are means of two."""
    learner, episodes = played(3, 0)
    actor = replace(learner.actor(), config=replace(SMALL, exploration_episodes=2))
    belief, states = actor.begin(3, generator()), list[MqlBelief]()
    for done in episodes[:4]:
        belief = actor.adapt(belief, done, generator())
        states.append(belief)
    assert [state.updates for state in states] == [0, 8, 8, 8]
    assert states[0].valid.sum() == episodes[0].valid.sum() and states[1].valid.numel() == 0
    assert all(torch.equal(*both) for both in zip(states[1].parameters, states[3].parameters, strict=True))
    one = actor.adapt(states[0], episodes[2], generator())
    other = actor.adapt(states[0], episodes[1], generator())
    assert not torch.equal(one.parameters[0], other.parameters[0])  # the second episode is learned from too
    first = actor.adapt(actor.begin(3, generator()), episodes[2], generator())
    other = actor.adapt(first, episodes[1], generator())
    assert not torch.equal(states[1].parameters[0], other.parameters[0])  # and the first


@pytest.mark.parametrize("rate", [3e-4, None])
def test_adaptation_takes_steps_of_its_own_learning_rate(rate):
    """The authors' code makes Adam anew with its default of 0.001, whatever is asked for. Its first step is as long as its rate."""
    learner, (done, *_) = played(3, 0, replace(SMALL, learning_rate=2e-3))
    actor = learner.actor()
    how = adapting(new_updates=1, meta_updates=0, learning_rate=rate, proximal_coefficient=0.0)
    actor = replace(actor, config=replace(how, learning_rate=2e-3, policy_delay=1))
    rows, valid = actor.rows_of(done), torch.from_numpy(done.valid).float()
    td3, _ = actor.adapted(mql.Rows(*actor.carried.buffers()), rows, valid, generator())
    for one in ("policy", "critics"):
        own, moved = (parameters(getattr(of, one)) for of in (actor.networks, td3.networks))
        steps = [float((m - p).abs().max()) for p, m in zip(own, moved, strict=True)]
        assert max(steps) == pytest.approx(2e-3 if rate is None else rate, rel=1e-2)


def test_what_holds_the_parameters_follows_the_effective_sample_size():
    """The authors' code holds with a fixed 0.1 by default. A task unlike those of training is held more."""
    learner, (near, *_) = played(3, 0)
    far = replace(near, reward=near.reward + np.float32(30.0))
    actor = replace(learner.actor(), config=replace(SMALL, adaptation=replace(SMALL.adaptation, new_updates=0)))
    held = []
    for done in (near, far):
        rows, valid = actor.rows_of(done), torch.from_numpy(done.valid).float()
        size = effective_sample_size(actor.propensities(mql.Rows(*actor.carried.buffers()), rows, valid))
        pulls = []

        class Watched(mql.Td3):
            def update(self, batch, noise, of_policy, anchor=None, pull=None, pulls=pulls):
                pulls.append(pull)
                return super().update(batch, noise, of_policy, anchor, pull)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mql, "Td3", Watched)
            actor.adapted(mql.Rows(*actor.carried.buffers()), rows, valid, generator())
        assert all(torch.equal(pull, 1 - size) for pull in pulls) and len(pulls) == 5
        held.append(float(pulls[0].mean()))
    assert held[1] > held[0] + 0.2 > 0.2


def test_parameters_that_are_held_stay_nearer():
    learner, (done, *_) = played(3, 0)
    done = replace(done, reward=done.reward + np.float32(30.0))
    distances = []
    for coefficient in (0.0, 100.0):
        actor = replace(learner.actor(), config=adapting(meta_updates=40, proximal_coefficient=coefficient))
        rows, valid = actor.rows_of(done), torch.from_numpy(done.valid).float()
        networks = actor.adapted(mql.Rows(*actor.carried.buffers()), rows, valid, generator())[0].networks
        distances.append(squared_distance(networks, actor.networks))
    assert (distances[1] < 0.5 * distances[0]).all()


def test_each_task_is_adapted_to_by_itself_and_from_valid_decisions_alone():
    learner, (done, *_) = played(3, 0)
    actor = learner.actor()
    assert not done.valid.all()
    known = actor.adapt(actor.begin(3, generator()), done, generator())
    shown = done.valid.copy()
    shown[2] = False  # the other tasks' decisions stay
    reward = np.where(shown, done.reward, 7.0).astype(np.float32)
    other = actor.adapt(actor.begin(3, generator()), replace(done, reward=reward), generator())
    for one, two in zip(known.parameters, other.parameters, strict=True):
        torch.testing.assert_close(one[:2], two[:2])
        assert not torch.equal(one[2], two[2])


def test_training_does_not_depend_on_how_is_adapted():
    """So a run without adaptation is the same agent as one with it."""
    found = []
    for config in (SMALL, adapting(new_updates=0, meta_updates=0)):
        learner, _ = played(3, 0, config)
        begins = torch.tensor(learner.store.begins)
        for _ in range(3):
            rows = learner.sample(begins, 16)
            batch = learner.acting.batch(rows, torch.ones(16))
            learner.td3.update(batch, torch.randn(16, 2, generator=learner.generator), True)
        found.append(state_hash(state_of(learner.parts())))
    assert found[0] == found[1]
    actor = replace(learner.actor(), config=adapting(new_updates=0, meta_updates=0))
    _, (done, *_) = played(3, 1)
    known = actor.adapt(actor.begin(3, generator()), done, generator())
    for own, adapted in zip(actor.networks.policy.parameters(), known.parameters, strict=True):
        assert torch.equal(own.expand_as(adapted), adapted) and known.updates == 0


# -- actions ------------------------------------------------------------------------------------------------------------------
def test_the_first_policy_on_skills_is_the_priors_mean_and_pays_nothing():
    def prior(observation: torch.Tensor) -> Gaussian:
        return Gaussian(observation[..., :2] + 0.5, torch.full((*observation.shape[:-1], 2), -2.0))

    learner = make_learner(mql, SMALL, 2, np.full(2, 5.0, np.float32), prior=prior, seeds=Seeds(0))
    seen, actor = torch.randn(400, 2, generator=generator()), learner.acting
    action, _ = actor.act(seen, actor.begin(400, generator()), generator(), False)
    torch.testing.assert_close(action, seen + 0.5)
    drawn, _ = replace(actor, random=True).act(seen, actor.begin(400, generator()), generator(), True)
    assert float((drawn - action).std()) == pytest.approx(np.exp(-2.0), rel=0.1)
    noisy, _ = actor.act(seen, actor.begin(400, generator()), generator(), True)
    assert float((noisy - action).std()) == pytest.approx(0.1 * np.exp(-2.0), rel=0.1)


def test_first_decisions_are_uniform_in_the_box():
    learner, _ = played(3, 0)
    actor = replace(learner.acting, random=True)
    action, _ = actor.act(torch.zeros(2000, 2), actor.begin(2000, generator()), generator(), True)
    bound = float(actor.bound[0])
    assert float(action.abs().max()) <= bound and float(action.std()) == pytest.approx(bound / 3**0.5, rel=0.05)


def test_discrete_actions_are_refused():
    with pytest.raises(ConfigError, match="algorithm.name is mql.*discrete"):
        make_learner(mql, SMALL, 2, np.ones(3, np.float32), discrete=True, seeds=Seeds(0))


@pytest.mark.parametrize("wrong", [{"context_length": 0}, {"exploration_episodes": 0}, {"policy_delay": 0}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Config(**wrong)
