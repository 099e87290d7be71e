"""MIER: what phi is adapted on, what relabelling changes, and the quirks of the authors' code that are not here."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from skillmeta.algorithms import mier
from skillmeta.algorithms.mier import Config, ModelConfig, RelabellingConfig
from skillmeta.collect.source import Budget, OnlineSource
from skillmeta.collect.workers import Workers
from skillmeta.data.replay import Transitions, decisions_of
from skillmeta.envs.make import EnvsFactory
from skillmeta.errors import ConfigError
from skillmeta.nn.distributions import Gaussian
from skillmeta.objectives.regularizer import RegularizerConfig
from skillmeta.run.checkpoint import state_hash
from skillmeta.run.parts import state_of
from skillmeta.seeds import Seeds
from skillmeta.tasks.base import TaskConfig, make_family
from skillmeta.types import Episodes
from tests.learners import make_learner

ENDS = TaskConfig(
    "point",
    split="train",
    options={"end_within": 0.4, "extent": 0.5, "start_extent": 0.6, "max_step": 0.3, "max_episode_steps": 9},
)
SMALL = Config(
    training_tasks=4, tasks_per_iteration=2, updates=2, tasks=3, batch_size=6, hidden=8, inner_lr=0.1, model=ModelConfig(hidden=8),
    relabelling=RelabellingConfig(updates=3, context_steps=2, model_steps=2, carried=30, batch_size=20),
)  # fmt: skip


def relabelling(**changes: Any) -> Config:
    return replace(SMALL, relabelling=replace(SMALL.relabelling, **changes))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Watched(OnlineSource):
    """A source that remembers what it gave, and for which actor."""

    def trials_in(self, actor, tasks, episodes):
        found = super().trials_in(actor, tasks, episodes)
        self.given = [*getattr(self, "given", []), (actor, found)]
        return found


def trained(config: Config = SMALL, iterations: int = 1) -> tuple[Any, Watched]:
    """A learner after some iterations, and its source."""
    family = make_family(ENDS)
    learner = make_learner(mier, config, 2, np.full(2, 0.3, np.float32), seeds=Seeds(1))
    workers = Workers(EnvsFactory(ENDS, None, False), 1, 8)
    source = Watched(workers, lambda g: family.sample(g, "train"), Seeds(3), Budget(10_000))
    for _ in range(iterations):
        learner.iterate(source)
    return learner, source


@pytest.fixture(scope="module")
def one() -> tuple[Any, Episodes]:
    """A learner and an exploration episode in each of its four tasks, which end at different times."""
    learner, source = trained()
    done = source.given[0][1].trials.episodes(0)
    assert not done.valid.all() and done.valid[:, 0].all()
    return learner, done


# -- what phi is adapted on -----------------------------------------------------------------------------------------------------
def test_a_visit_explores_with_phi_0_and_then_acts_with_phi_of_what_it_saw():
    learner, source = trained(replace(SMALL, exploration_episodes=2, updates=0))
    actor, batch = source.given[0]
    beliefs = []
    belief = actor.begin(4, generator())
    for k in range(3):
        beliefs.append(belief)
        belief = actor.adapt(belief, batch.trials.episodes(k), generator())
    assert not beliefs[0].context.any() and not beliefs[1].context.any() and beliefs[2].context.any(1).all()
    assert (
        torch.equal(belief.context, beliefs[2].context) and not belief.parameters and batch.trials.reward.shape[1] == 3
    )
    fresh = actor.adapt(actor.begin(4, generator()), batch.trials.episodes(1), generator())
    assert torch.equal(fresh.evidence.reward, torch.from_numpy(batch.trials.reward[:, 1]))
    other = actor.adapt(fresh, batch.trials.episodes(1), generator())
    assert not torch.equal(other.context, belief.context)  # the first episode is learned from too
    for n, (replay, explored) in enumerate(zip(learner.replays, learner.explored, strict=True)):
        valid = batch.trials.valid[n]
        assert len(replay) == valid.sum() and explored.buffer.added == valid[:2].sum()
        seen = explored.beginning(200, generator(), ordered=False, nothing=False)
        wanted = np.concatenate([batch.trials.reward[n, k][valid[k]] for k in range(2)])
        assert seen[0].reward[seen[1] > 0].tolist() == wanted.tolist()


def test_no_inner_steps_are_the_policy_at_phi_0_exactly(one):
    learner, done = one
    actor = replace(learner.actor(), config=replace(SMALL, inner_steps=0), carried=None)
    belief = actor.begin(4, generator())
    known = actor.adapt(belief, done, generator())
    assert not known.context.any()
    seen = torch.randn(4, 2, generator=generator(1))
    found, wanted = (actor.act(seen, b, generator(2), False)[0] for b in (known, belief))
    at_zero = actor.networks.policy(torch.cat([seen, torch.zeros(4, 5)], -1)).mode()
    assert torch.equal(found, wanted) and torch.equal(found, at_zero)
    moved = replace(actor, config=SMALL).adapt(belief, done, generator())
    assert not torch.equal(actor.act(seen, moved, generator(2), False)[0], found)


def test_each_task_is_adapted_to_by_itself_and_from_valid_decisions_alone(one):
    learner, done = one
    actor = learner.actor()
    known = actor.adapt(actor.begin(4, generator()), done, generator())
    shown = done.valid.copy()
    shown[3] = False  # the other tasks' decisions stay
    reward = np.where(shown, done.reward, 7.0).astype(np.float32)
    other = actor.adapt(actor.begin(4, generator()), replace(done, reward=reward), generator())
    for before, after in zip((known.context, *known.parameters), (other.context, *other.parameters), strict=True):
        torch.testing.assert_close(before[:3], after[:3])
        assert not torch.equal(before[3], after[3])


def test_learning_adapts_on_decisions_of_one_visit_and_never_on_padding():
    learner, _ = trained(iterations=3)
    drawn = learner.draw()
    assert drawn.valid.sum(1).max() == drawn.valid.shape[1] and drawn.valid.min() == 0
    noise = Transitions(*(part + 100 * torch.randn(part.shape) for part in drawn.evidence))
    masks = [drawn.valid.view(*drawn.valid.shape, *[1] * (part.dim() - 2)) > 0 for part in noise]
    other = Transitions(*(torch.where(m, p, n) for m, p, n in zip(masks, drawn.evidence, noise, strict=True)))
    found, wanted = (learner.acting.inner(rows, drawn.valid, False) for rows in (other, drawn.evidence))
    torch.testing.assert_close(found, wanted)


def test_policy_and_critics_teach_phi_and_the_model_nothing(one):
    learner, _ = one
    drawn = learner.draw()
    context = learner.acting.inner(drawn.evidence, drawn.valid, True)
    batch = learner.acting.batch(drawn.rows, context)
    assert context.requires_grad and not batch.now.requires_grad and not batch.following.requires_grad


def test_a_visit_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"algorithm.context_capacity is 8; the exploration episodes .* have 9 "):
        trained(replace(SMALL, context_capacity=8))


# -- relabelling ----------------------------------------------------------------------------------------------------------------
def test_adaptation_changes_the_belief_and_never_the_actor(one):
    learner, done = one
    actor = learner.actor()
    before = state_hash(state_of(actor.parts())), state_hash(state_of(learner.parts()))
    belief = actor.begin(4, generator())
    known = actor.adapt(belief, done, generator())
    assert (state_hash(state_of(actor.parts())), state_hash(state_of(learner.parts()))) == before
    assert (belief.updates, known.updates) == (0, 3)
    for own, first, moved in zip(actor.networks.policy.parameters(), belief.parameters, known.parameters, strict=True):
        assert all(torch.equal(own, first[n]) and not torch.equal(own, moved[n]) for n in range(4))
    again = actor.adapt(actor.begin(4, generator()), done, generator())
    assert all(torch.equal(*both) for both in zip(known.parameters, again.parameters, strict=True))
    later = actor.adapt(known, done, generator())
    assert all(one is other for one, other in zip(known.parameters, later.parameters, strict=True))


def test_of_n_tasks_each_acts_with_its_own_parameters_and_context(one):
    learner, done = one
    actor = learner.actor()
    belief = actor.adapt(actor.begin(4, generator()), done, generator())
    seen = torch.randn(4, 2, generator=generator(1))
    action, _ = actor.act(seen, belief, generator(), False)
    for n in range(4):
        policy = actor.networks.policy
        with torch.no_grad():
            for own, adapted in zip(policy.parameters(), belief.parameters, strict=True):
                own.copy_(adapted[n])
            alone = policy(torch.cat([seen[n], belief.context[n]])[None]).mode()[0]
        torch.testing.assert_close(action[n], alone)


@pytest.mark.parametrize("predicts", ["all", "reward"])
def test_relabelled_are_rewards_and_unless_rewards_alone_are_predicted_next_observations(predicts):
    learner, source = trained(replace(SMALL, model=ModelConfig(hidden=8, predicts=predicts), reward_scale=3.0))
    actor = learner.actor()
    rows = Transitions(*list(actor.carried.buffers())[:5]).at(torch.arange(20).view(4, 5))
    context, outputs = torch.randn(4, 5, generator=generator()), 1 if predicts == "reward" else 3
    noise = torch.randn(4, 5, outputs, generator=generator(1))
    found = actor.relabel(actor.networks.model, rows, context, noise)
    inputs = torch.cat([rows.observation, rows.action / actor.bound], -1)
    expected = actor.networks.model(inputs, context)
    torch.testing.assert_close(found.reward, expected.mean[..., -1])
    for name in ("observation", "action", "terminated"):
        assert torch.equal(getattr(found, name), getattr(rows, name))
    if predicts == "reward":
        assert torch.equal(found.next_observation, rows.next_observation)
    else:
        moved = expected.mean + expected.stddev * noise
        torch.testing.assert_close(found.next_observation, rows.observation + moved[..., :2])


@pytest.mark.parametrize(("share", "count"), [(0.05, 1), (0.5, 10), (0.0, 0), (1.0, 20)])
def test_batches_mix_relabelled_decisions_with_the_tasks_own(one, monkeypatch, share, count):
    learner, done = one
    actor, batches = replace(learner.actor(), config=relabelling(own_share=share)), []
    monkeypatch.setattr(mier.Sac, "update", lambda self, batch, *rest: batches.append(batch))
    actor.adapt(actor.begin(4, generator()), done, generator())
    assert len(batches) == 3
    for batch in batches:
        for n in range(4):
            own = set(done.reward[n][done.valid[n]].tolist())
            assert sum(reward in own for reward in batch.reward[n].tolist()) == count
            assert batch.reward.shape == (4, 20)


def test_without_updates_nothing_is_carried_and_no_parameters_are_believed():
    learner, source = trained(relabelling(updates=0), iterations=2)
    actor = learner.actor()
    assert actor.carried is None and "carried" not in actor.parts() and "carried" not in learner.parts()
    known = actor.adapt(actor.begin(4, generator()), source.given[0][1].trials.episodes(0), generator())
    assert known.parameters == () and known.context.any() and known.updates == 0
    with_it, _ = trained(iterations=2)
    for name in ("networks", "slow"):  # training does not depend on it
        assert state_hash(state_of({name: learner.parts()[name]})) == state_hash(
            state_of({name: with_it.parts()[name]})
        )


def test_an_actor_carries_decisions_of_all_training_tasks_and_the_coefficient():
    learner, source = trained(iterations=2)
    carried = learner.actor().carried
    assert float(carried.coefficient) == float(learner.regularizer.coefficient()) > 0
    found = carried.reward.tolist()
    counts = [
        sum(reward in set(replay.columns.reward[: len(replay)].tolist()) for reward in found)
        for replay in learner.replays
    ]
    assert counts == [8, 8, 7, 7]


def test_more_steps_on_phi_and_the_model_fit_the_tasks_own_decisions_better(one):
    learner, done = one
    actor, losses = learner.actor(), []
    evidence = actor.adapt(
        replace(actor, config=replace(SMALL, exploration_episodes=2)).begin(4, generator()), done, generator()
    ).evidence
    assert evidence.reward.shape[1] == 0  # learned from
    for changes in (
        {"context_steps": 0, "model_steps": 0},
        {"model_steps": 0, "context_steps": 20},
        {"model_steps": 30},
    ):
        config = relabelling(updates=0, context_lr=0.1, model_lr=1e-2, **changes)
        rows = decisions_of(done)
        valid = torch.from_numpy(done.valid).float()
        found = replace(actor, config=config).relabelled(actor.carried, rows, valid, generator())
        losses.append(mier.model_loss(found.model, *actor.entries(rows), valid, found.context))
    assert (losses[1] < losses[0]).all() and (losses[2] < losses[1]).all()


# -- what the authors' code does and this does not ------------------------------------------------------------------------------
def test_a_model_of_rewards_alone_trains_and_adapts():
    """Their code calls a method that does not exist in this mode."""
    config = replace(SMALL, model=ModelConfig(hidden=8, predicts="reward"))
    learner, source = trained(config, iterations=2)
    assert learner.acting.networks.model.highest.shape == (1,) and learner.updates == 4
    actor = learner.actor()
    known = actor.adapt(actor.begin(4, generator()), source.given[0][1].trials.episodes(0), generator())
    assert known.updates == 3 and known.context.any()


def test_the_target_entropy_is_of_the_actions_number():
    """Theirs is -1, however many numbers an action has."""
    for actions in (2, 6):
        learner = make_learner(mier, SMALL, 2, np.ones(actions, np.float32), seeds=Seeds(0))
        entropy = actions * math.log(2) - learner.regularizer.target
        assert entropy == pytest.approx(-actions)


# -- actions ------------------------------------------------------------------------------------------------------------------
def test_the_first_policy_on_skills_is_the_prior():
    def prior(observation: torch.Tensor) -> Gaussian:
        return Gaussian(observation[..., :2] + 0.5, torch.full((*observation.shape[:-1], 2), -2.0))

    skill = RegularizerConfig(prior="skill", target_divergence=1.0)
    config = replace(SMALL, regularizer=skill)
    learner = make_learner(mier, config, 2, np.full(2, 5.0, np.float32), prior=prior, seeds=Seeds(0))
    seen, actor = torch.randn(400, 2, generator=generator()), learner.actor()
    for each in (actor, replace(actor, carried=None)):
        action, _ = each.act(seen, each.begin(400, generator()), generator(), False)
        torch.testing.assert_close(action, seen + 0.5)
        drawn, _ = each.act(seen, each.begin(400, generator()), generator(), True)
        assert (drawn - action).std().item() == pytest.approx(np.exp(-2.0), rel=0.1)


def test_discrete_actions_are_refused():
    with pytest.raises(ConfigError, match="algorithm.name is mier.*discrete"):
        make_learner(mier, SMALL, 2, np.ones(3, np.float32), discrete=True, seeds=Seeds(0))


def test_a_skill_prior_and_skills_go_together():
    config = replace(SMALL, regularizer=RegularizerConfig(prior="skill", target_divergence=1.0))
    with pytest.raises(ConfigError, match="regularizer.prior: skill and a skill model"):
        make_learner(mier, config, 2, np.ones(2, np.float32), seeds=Seeds(0))


@pytest.mark.parametrize(
    "wrong", [{"context_dim": 0}, {"exploration_episodes": 0}, {"inner_steps": -1}, {"inner_lr": 0.0}]
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Config(**wrong)
