"""SiMPL: whose episodes a context holds, its start at the prior, how a trial adapts, what its coefficients do, and resuming."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from skillmeta.algorithms import simpl
from skillmeta.algorithms.simpl import Config, Learner, TaskBatchConfig
from skillmeta.collect.episodes import episode
from skillmeta.collect.source import Budget, OnlineSource
from skillmeta.collect.trials import trial
from skillmeta.collect.workers import Workers
from skillmeta.config import build
from skillmeta.errors import ConfigError
from skillmeta.evaluation.adaptation import evaluate
from skillmeta.nn.distributions import Gaussian
from skillmeta.nn.encoders import OF_SETS, infer
from skillmeta.objectives.regularizer import CoefficientConfig, RegularizerConfig
from skillmeta.run.checkpoint import state_hash
from skillmeta.run.parts import restore_parts, state_of
from skillmeta.seeds import Seeds
from skillmeta.types import EnvSpec, InformedActor, Metrics, Step
from tests.learners import make_learner


class Labelled:
    """Environments whose every reward is the number of the task, and whose observation is from the seed, and the time."""

    spec = EnvSpec(2, np.array([0.5, 2.0], np.float32))

    def __init__(self, num: int):
        self.num = num

    def reset(self, seeds: Sequence[int], tasks: Sequence[Any] | None = None) -> np.ndarray:
        self.labels, self.began, self.time = np.array(tasks, np.float32), np.array(seeds) % 50, 0
        return self.look()

    def look(self) -> np.ndarray:
        return np.stack([self.began, np.full(self.num, self.time)], 1).astype(np.float32)

    def step(self, action: np.ndarray, limit: int | None = None) -> Step:
        self.time += 1
        no = np.zeros(self.num, bool)
        return Step(self.look(), self.labels.copy(), no, no | (self.time == 3), np.ones(self.num, np.int64), no)

    def close(self) -> None:
        pass


def skill_prior(observation: Tensor) -> Gaussian:
    return Gaussian(0.1 * observation.clamp(-2, 2), torch.full_like(observation, -1.0))


def kind(tasks: int, size: int, **changes: Any) -> TaskBatchConfig:
    usual = {"prior": "skill", "controller": "one_way", "target_divergence": 0.5, "initial_coefficient": 0.1}
    own = {"controller": "one_way", "target_divergence": 0.5, "initial_coefficient": 0.1}
    return TaskBatchConfig(
        tasks, size, changes.get("share", 0.5), RegularizerConfig(**{**usual, **changes.get("regularizer", {})}),
        CoefficientConfig(**{**own, **changes.get("encoder", {})}),
    )  # fmt: skip


SMALL = Config(
    training_tasks=6, tasks_per_iteration=2, first_episodes=2, prior_episodes=2, posterior_episodes=2, reuse=4.0,
    small_context=kind(1, 2), large_context=kind(3, 8, encoder={"per_task": True}), batch_size=8, latent_dim=3, hidden=16,
    depth=2, context_episodes=3, replay_capacity=200, context_capacity=200,
)  # fmt: skip


def made(config: Config = SMALL, seed: int = 0) -> Learner:
    return make_learner(
        simpl, config, 2, Labelled.spec.action_bound, prior=skill_prior, normalize=lambda x: 0.1 * x, seeds=Seeds(seed)
    )


def test_the_encoder_may_have_a_width_of_its_own():
    learner = made(replace(SMALL, encoder_hidden=5))
    assert {layer.out_features for layer in learner.encoder.net.layers[:-1]} == {5}
    assert {layer.out_features for layer in learner.policy.net.layers[:-1]} == {16}


def source_of(workers: Workers) -> OnlineSource:
    return OnlineSource(workers, lambda g: int(g.integers(1, 7)), Seeds(0), Budget(10**6))


def trained(learner: Learner, iterations: int = 2, envs_per_batch: int = 64) -> Learner:
    with Workers(Labelled, envs_per_batch=envs_per_batch) as workers:
        source = source_of(workers)
        for _ in range(iterations):
            learner.iterate(source)
    return learner


def reported(learner: Learner) -> Metrics:
    """What the second iteration reports; nothing is learned in the first one."""
    with Workers(Labelled) as workers:
        source = source_of(workers)
        assert learner.iterate(source) == {}
        return learner.iterate(source)


# -- the prior -----------------------------------------------------------------------------------------------------------------
def test_the_first_policy_is_the_prior_whatever_e_is():
    learner, generator = made(), torch.Generator().manual_seed(0)
    observation = torch.randn(5, 2, generator=generator)
    belief = learner.acting.begin(5, generator)
    prior, bound = skill_prior(observation), torch.from_numpy(Labelled.spec.action_bound)
    mode, _ = learner.acting.act(observation, belief, generator, explore=False)
    assert torch.equal(mode, prior.mean.clamp(-bound, bound))
    sample, _ = learner.acting.act(observation, belief, torch.Generator().manual_seed(3), explore=True)
    noise = torch.randn(5, 2, generator=torch.Generator().manual_seed(3))
    assert torch.equal(sample, prior.rsample(noise).clamp(-bound, bound))


def test_without_skills_it_is_refused():
    with pytest.raises(ConfigError, match="algorithm.name is simpl, whose actions are skills; name a skill model"):
        make_learner(simpl, SMALL, 2, np.ones(2, np.float32), seeds=Seeds(0))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"large_context": {"regularizer": {"prior": "uniform"}}}, "regularizer.prior is uniform; SiMPL's is skill"),
        ({"training_tasks": 5}, "are 12 together; training_tasks is 5"),
        ({"encoder": "mean"}, "prior_factor is of encoder: product"),
        ({"adaptation": "mode"}, "choose mean or sample"),
        ({"latent_dim": 0}, "at least 1"),
        ({"small_context": {"encoder": {"maximum_coefficient": 1e-6}}}, "initial_coefficient is 1e-05; it must lie"),
    ],
)
def test_impossible_configs_are_refused(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(Config, options, "algorithm")


def test_a_kind_of_task_batch_keeps_its_own_defaults_where_a_config_says_less():
    found = build(Config, {"small_context": {"regularizer": {"controller": "two_way"}}}, "algorithm").small_context
    usual = Config().small_context
    assert found == replace(usual, regularizer=replace(usual.regularizer, controller="two_way"))


# -- contexts ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("envs_per_batch", [64, 3])
def test_contexts_hold_the_episodes_with_e_from_the_prior_alone_and_the_replay_all(envs_per_batch):
    learner, told = made(replace(SMALL, reuse=0.0)), {}
    with Workers(Labelled, envs_per_batch=envs_per_batch) as workers:
        source = source_of(workers)
        run = source.trials_in

        def watched(actor: Any, tasks: Any, episodes: int) -> Any:
            batch = run(actor, tasks, episodes)
            for task, rows in zip(tasks, batch.trials.action[:, 0], strict=True):
                told.setdefault((task, actor.known is None), []).append(rows)
            return batch

        source.trials_in = watched  # type: ignore[method-assign]
        for _ in range(3):
            learner.iterate(source)
        tasks = source.draw_tasks(6)
    visits = [2 + 2 * n for n in (0, 1, 2)]
    for task, replay, context in zip(tasks, learner.replays, learner.contexts, strict=True):
        prior, posterior = told[task, True], told[task, False]
        assert len(prior) in visits and len(prior) == len(posterior)
        assert np.array_equal(context.columns.action[: len(context)], np.concatenate(prior))
        assert len(replay) == 3 * (len(prior) + len(posterior))
        assert (replay.columns.reward[: len(replay)] == task).all()
    assert learner.counts.decisions == sum(len(replay) for replay in learner.replays)


def test_batches_and_contexts_are_of_the_same_tasks_and_no_task_is_in_both_kinds():
    learner = trained(made(replace(SMALL, reuse=0.0)), 3)
    with Workers(Labelled) as workers:
        tasks = torch.tensor(source_of(workers).draw_tasks(6)).float()
    for _ in range(20):
        small, large = learner.draw()
        assert not set(small.tasks.tolist()) & set(large.tasks.tolist())
        for part, size in ((small, 2), (large, 8)):
            label = tasks[part.tasks][:, None]
            observation, skill, reward, following = part.context.split([2, 2, 1, 2], -1)
            assert part.context.shape[1] == size and (reward[..., 0] == label).all()
            assert (part.batch.reward == label).all() and (skill.abs() <= 1).all()  # in parts of the bound
            torch.testing.assert_close(following[..., 1], observation[..., 1] + 0.1)


def test_posterior_episodes_get_the_context_of_their_own_task_whatever_the_batches_of_environments():
    learner = trained(made(), 2)
    with torch.no_grad():
        known = infer(learner.encoder, learner.contexts_of([0, 1, 2, 3, 4], SMALL.large_context))
    actor = replace(learner.acting, known=known)
    assert isinstance(actor, InformedActor)
    for rows in (slice(0, 2), slice(4, 8)):
        number = len(range(5)[rows])
        belief = actor.of_tasks(rows).begin(number, torch.Generator().manual_seed(0))
        noise = torch.randn(number, 3, generator=torch.Generator().manual_seed(0))
        assert torch.equal(belief.e, known.mean[rows] + known.stddev[rows] * noise)


def test_a_context_has_what_was_rewarded_up_to_its_share():
    reward, generator = torch.zeros(400), torch.Generator().manual_seed(0)
    reward[[7, 90, 333]] = 1.0
    how = kind(1, 8)
    for share, count in ((0.5, 3), (0.25, 2), (0.0, 0)):
        rows = simpl.context_rows(reward, replace(how, rewarded_share=share), generator)
        assert rows.shape == (8,) and len(set(rows[:count].tolist())) == count and (reward[rows[:count]] == 1).all()
    many = torch.stack([simpl.context_rows(reward, replace(how, rewarded_share=0.0), generator) for _ in range(500)])
    assert float(reward[many].mean()) == pytest.approx(3 / 400, abs=0.006)  # as chance has it


# -- a trial -------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("adaptation", ["mean", "sample"])
def test_e_is_drawn_anew_in_context_episodes_and_then_inferred_from_them_alone(adaptation, monkeypatch):
    learner, generator = trained(made(replace(SMALL, adaptation=adaptation))), torch.Generator().manual_seed(0)
    actor, envs, tasks = learner.actor(), Labelled(2), [1, 5]
    choose, chosen = simpl.context_rows, []

    def recorded(reward: Tensor, *how: Any) -> Tensor:
        chosen.append((reward, choose(reward, *how)))
        return chosen[-1][1]

    monkeypatch.setattr(simpl, "context_rows", recorded)
    belief, seen, shown = actor.begin(2, generator), [], []
    for _ in range(5):
        done, during = episode(actor, envs, belief, [0, 0], generator, tasks=tasks)
        assert torch.equal(during.e, belief.e)  # held over an episode
        seen.append(belief.e)
        shown.append(done)
        belief = actor.adapt(during, done, generator)
    assert len({tuple(e.flatten().tolist()) for e in seen[:3]}) == 3
    context = [
        actor.context(*(torch.from_numpy(x) for x in (d.observation[:, :-1], d.action, d.reward, d.observation[:, 1:])))
        for d in shown[:3]
    ]
    every, kept = torch.cat(context, 1), Gaussian(belief.posterior_mean, belief.posterior_log_stddev)  # [2, 9, D]
    assert belief.context.shape[1] == 0 and torch.equal(during.posterior_mean, kept.mean)  # nothing was added later
    assert [len(reward) for reward, _ in chosen] == [9, 9] and all(len(rows) == 8 for _, rows in chosen)
    with torch.no_grad():
        posterior = infer(actor.encoder, torch.stack([own[rows] for own, (_, rows) in zip(every, chosen, strict=True)]))
    torch.testing.assert_close(kept.mean, posterior.mean)
    for e in (seen[3], seen[4], belief.e):
        assert torch.equal(e, kept.mean) == (adaptation == "mean")
    assert torch.equal(seen[3], seen[4]) == (adaptation == "mean")
    assert not torch.allclose(kept.mean[0], kept.mean[1])


def test_a_context_shows_nothing_of_what_follows_the_end_of_an_episode():
    """Episodes in lockstep are filled up to the longest one; their numbers after the end are nobody's decisions."""
    learner, generator = trained(made()), torch.Generator().manual_seed(0)
    actor, belief, beliefs = learner.actor(), learner.actor().begin(2, generator), []
    done, _ = episode(actor, Labelled(2), belief, [0, 0], generator, tasks=[1, 5])
    ends = done.valid & (np.arange(done.valid.shape[1]) < np.array([[1], [3]]))
    for fill in (0.0, 1e3):
        padded = replace(
            done,
            valid=ends,
            reward=np.where(ends, done.reward, fill),
            action=np.where(ends[..., None], done.action, fill),
        )
        known = belief
        for _ in range(3):
            known = actor.adapt(known, padded, torch.Generator().manual_seed(1))
        beliefs.append(known.posterior_mean)
    assert torch.equal(*beliefs)


def test_evaluation_explores_in_context_episodes_and_sees_no_training_buffer():
    learner = trained(made())
    with Workers(Labelled) as workers:
        clean = evaluate(learner.actor(), workers, [1, 2], episodes=4, evaluation_seed=0)
        for buffer in (*learner.replays, *learner.contexts):
            for column in ("observation", "action", "reward", "next_observation"):
                getattr(buffer.columns, column)[:] = 1e6
        poisoned = evaluate(learner.actor(), workers, [1, 2], episodes=4, evaluation_seed=0)
    assert clean.explored.tolist() == [True, True, True, False, False]
    assert np.array_equal(clean.returns, poisoned.returns)


def test_swapping_what_is_known_of_two_tasks_swaps_what_is_done():
    learner, generator = trained(made(), 4), torch.Generator().manual_seed(0)
    _, belief = trial(learner.acting, Labelled(2), [1, 6], np.zeros((2, 4), np.int64), generator)
    swapped = belief._replace(e=belief.e[[1, 0]])
    one, _ = learner.acting.act(torch.zeros(2, 2), belief, generator, explore=False)
    other, _ = learner.acting.act(torch.zeros(2, 2), swapped, generator, explore=False)
    torch.testing.assert_close(one[[1, 0]], other)
    assert (one[0] - one[1]).abs().max() > 1e-5


def test_what_fine_tuning_starts_from_is_saved_with_what_acts():
    learner = trained(made())
    saved, other = state_of(learner.actor().parts()), made(seed=5).actor()
    restore_parts(other.parts(), saved)
    inputs = torch.randn(4, 2 + 3, generator=torch.Generator().manual_seed(0)), torch.ones(4, 2)
    assert torch.equal(other.critics(*inputs), learner.critics(*inputs))
    assert other.log_coefficient == learner.kinds[-1].regularizer.log_coefficient


# -- coefficients --------------------------------------------------------------------------------------------------------------
def test_one_way_coefficients_never_fall_and_capped_ones_stop():
    always = {"target_divergence": 0.0, "learning_rate": 0.05}
    capped = {**always, "maximum_coefficient": 0.12}
    learner = made(
        replace(
            SMALL,
            small_context=kind(1, 2, regularizer=capped, encoder=capped),
            large_context=kind(3, 8, regularizer={"target_divergence": 0.02}, encoder={**always, "per_task": True}),
        )
    )
    trained(learner, 1)
    history = []
    for _ in range(40):
        learner.learn(learner.draw())
        history.append(
            torch.cat([v.view(-1) for k in learner.kinds for v in (k.regularizer.log_coefficient, k.encoder.log)])
        )
    steps = torch.stack(history).diff(dim=0)
    assert (steps >= 0).all() and (steps[:, -6:].amax(0) > 0).all()  # each task's own has moved
    for coefficient in (learner.kinds[0].regularizer.coefficient(), learner.kinds[0].encoder.value()):
        assert float(coefficient) == pytest.approx(0.12)


def test_a_coefficient_of_each_task_moves_by_that_tasks_divergence():
    config = CoefficientConfig("two_way", 0.1, 1.0, learning_rate=0.1, per_task=True)
    coefficient = simpl.Coefficient(config, 1.0, (4,))
    coefficient.update(torch.tensor([3.0, 0.2]), torch.tensor([2, 0]))
    moved = coefficient.value() / 0.1
    assert moved[2] > 1.05 and moved[0] < 0.95 and moved[1] == pytest.approx(1.0) and moved[3] == pytest.approx(1.0)


# -- all of it -----------------------------------------------------------------------------------------------------------------
def test_decisions_are_learned_from_as_often_as_asked_after_the_first_visit():
    learner = trained(made(), 1)
    assert learner.updates == 0
    trained(learner, 2)
    assert learner.updates == 2 * round(4.0 * (2 * 4 * 3) / (4 * 8))  # two tasks, four episodes of three decisions


def test_one_kind_of_task_batch_is_enough():
    learner = made(replace(SMALL, small_context=None))
    metrics = reported(learner)
    assert set(metrics) == {
        *simpl.LOSSES,
        *(f"{a}/coefficient" for a in ("prior", "posterior")),
        "prior/divergence",
        "posterior/kl",
    }
    assert len(learner.draw()) == 1 and "small_context" not in learner.parts()


@pytest.mark.parametrize("kind_of_encoder", OF_SETS)
def test_every_encoder_learns_and_reports(kind_of_encoder):
    learner = made(replace(SMALL, encoder=kind_of_encoder, prior_factor=kind_of_encoder == "product"))
    before = [p.clone() for p in learner.encoder.parameters()]
    metrics = reported(learner)
    assert len(metrics) == 2 + 4 * 2 and all(np.isfinite(value) for value in metrics.values())
    assert not all(torch.equal(old, new) for old, new in zip(before, learner.encoder.parameters(), strict=True))


def test_bfloat16_keeps_float32_parameters_and_comes_close():
    """Steps are so long that a loss with the weights from before a step would be another."""
    metrics = []
    for short in (False, True):
        learner = trained(made(replace(SMALL, learning_rate=0.03, bfloat16=short)), 1)
        metrics.append(torch.stack([learner.learn(learner.draw()) for _ in range(2)]))
        assert all(p.dtype == torch.float32 for p in learner.policy.parameters())
    assert not torch.equal(*metrics)
    torch.testing.assert_close(*metrics, rtol=0.03, atol=0.01)


def test_a_restored_learner_continues_to_the_bit():
    with Workers(Labelled) as workers:
        one, source = made(), source_of(workers)
        one.iterate(source)
        one.iterate(source)
        saved, spent = copy.deepcopy(state_of(one.parts())), source.state()
        one.iterate(source)
        other, again = made(seed=9), source_of(workers)
        restore_parts(other.parts(), saved)
        again.restore(spent)
        other.iterate(again)
    assert state_hash(state_of(one.parts())) == state_hash(state_of(other.parts()))
    actor = made(seed=7).actor()
    restore_parts(actor.parts(), state_of(one.actor().parts()))
    beliefs = [a.begin(3, torch.Generator().manual_seed(0)) for a in (actor, one.actor())]
    acts = [
        a.act(torch.ones(3, 2), b, torch.Generator(), False)[0]
        for a, b in zip((actor, one.actor()), beliefs, strict=True)
    ]
    assert torch.equal(*acts)
