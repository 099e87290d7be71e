"""PEARL: the product of Gaussians, what the context is made of, who learns from what, and that it uses what it has seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from skillmeta.algorithms import pearl
from skillmeta.algorithms.pearl import Config, Learner, OriginalConfig, TeacherConfig, kl_loss
from skillmeta.collect.episodes import episode
from skillmeta.collect.source import Budget, OnlineSource
from skillmeta.collect.trials import trial
from skillmeta.collect.workers import Workers
from skillmeta.data.replay import Replay
from skillmeta.envs.make import EnvsFactory, make_envs
from skillmeta.errors import ConfigError
from skillmeta.evaluation.adaptation import evaluate
from skillmeta.nn.distributions import Gaussian
from skillmeta.nn.encoders import ENCODERS, Evidence, infer, make_encoder
from skillmeta.objectives.regularizer import RegularizerConfig
from skillmeta.run.parts import state_of
from skillmeta.seeds import Seeds
from skillmeta.tasks.base import TaskConfig, TaskFamily, make_family
from skillmeta.types import Episodes
from tests.learners import make_learner

POINTS = TaskConfig("point", split="train", options={"max_episode_steps": 6})
FAMILY = make_family(POINTS)
SMALL = Config(
    training_tasks=6, tasks_per_iteration=2, prior_episodes=2, posterior_episodes=1, first_episodes=2, updates=3, tasks=3,
    batch_size=8, context_size=5, hidden=16, replay_capacity=200, context_capacity=50,
)  # fmt: skip


def made(config: Config = SMALL, seed: int = 0) -> Learner:
    return make_learner(pearl, config, 2, np.ones(2, np.float32), seeds=Seeds(seed))


def source_of(workers: Workers, family: TaskFamily = FAMILY, budget: int = 10**6) -> OnlineSource:
    return OnlineSource(workers, family.sample, Seeds(0), Budget(budget), shaped_reward=family.shaped_reward)


def collected(learner: Learner) -> Learner:
    with Workers(EnvsFactory(POINTS), envs_per_batch=32) as workers:
        learner.iterate(source_of(workers))
    return learner


def test_the_kls_scale_does_not_depend_on_the_number_of_tasks_unless_asked():
    posterior = Gaussian(torch.ones(1, 4), torch.zeros(1, 4))
    eight = Gaussian(torch.ones(8, 4), torch.zeros(8, 4))
    assert kl_loss(posterior, "mean") == kl_loss(eight, "mean") == 2.0  # 4 dimensions of 1/2 each
    assert kl_loss(eight, "sum") == 16.0


def test_only_executed_actions_are_valued():
    """A skill outside the latent bound is executed clipped; in targets and policy loss its value is that of the clipped one."""

    def far(observation: torch.Tensor) -> Gaussian:
        return Gaussian(torch.full((len(observation), 2), 5.0), torch.zeros(len(observation), 2))

    config = replace(SMALL, regularizer=RegularizerConfig(prior="skill", target_divergence=1.0))
    learner = collected(make_learner(pearl, config, 2, np.ones(2, np.float32), prior=far, seeds=Seeds(0)))
    valued: list[torch.Tensor] = []
    for critics in (learner.critics, learner.targets):
        critics.register_forward_hook(lambda module, inputs, output: valued.append(inputs[1].detach()))
    learner.learn(learner.draw())
    assert len(valued) == 3 and all(float(action.abs().max()) == 1.0 for action in valued)  # target, replayed, policy


def test_a_poisoned_training_buffer_changes_nothing_in_evaluation():
    """Garage's PEARL adapted from its training buffer."""
    learner = collected(made())
    workers, tasks = Workers(EnvsFactory(POINTS)), FAMILY.tasks("test")[:4]
    clean = evaluate(learner.actor(), workers, tasks, episodes=3, evaluation_seed=0)
    for buffer in (*learner.replays, *(visits.buffer for visits in learner.contexts)):
        for column in ("observation", "action", "reward", "next_observation"):
            getattr(buffer.columns, column)[:] = 1e6
    poisoned = evaluate(learner.actor(), workers, tasks, episodes=3, evaluation_seed=0)
    assert np.array_equal(clean.returns, poisoned.returns)


def test_evaluation_works_before_any_training():
    result = evaluate(
        made().actor(), Workers(EnvsFactory(POINTS)), FAMILY.tasks("test")[:3], episodes=2, evaluation_seed=0
    )
    assert np.isfinite(result.returns).all() and result.explored.tolist() == [True, True, False]


def test_swapping_the_contexts_of_two_tasks_swaps_behaviour():
    learner, generator = collected(made()), torch.Generator().manual_seed(0)
    envs, tasks = make_envs(FAMILY, 2), list(FAMILY.tasks("test")[:2])
    _, belief = trial(learner.acting, envs, tasks, np.array([[1, 2], [1, 2]]), generator)
    observation = torch.zeros(2, 2)
    swapped = pearl.PearlBelief(Evidence(*(x[[1, 0]] for x in belief.evidence)), belief.z[[1, 0]])
    a, _ = learner.acting.act(observation, belief, generator, explore=False)
    b, _ = learner.acting.act(observation, swapped, generator, explore=False)
    torch.testing.assert_close(a[[1, 0]], b)
    assert (a[0] - a[1]).abs().max() > 1e-3


def test_z_is_held_over_an_episode_and_drawn_anew_after_it():
    learner, generator = made(), torch.Generator().manual_seed(0)
    envs, tasks = make_envs(FAMILY, 2), list(FAMILY.tasks("test")[:2])
    first = learner.acting.begin(2, generator)
    done, during = episode(learner.acting, envs, first, [0, 1], generator, tasks=tasks)
    assert torch.equal(during.z, first.z)
    after = learner.acting.adapt(during, done, generator)
    assert not torch.equal(after.z, first.z) and after.evidence.seen.tolist() == [6, 6]
    still = replace(learner.acting, adapts=False).adapt(during, done, generator)  # collects with z ~ N(0, I)
    assert still.evidence.seen.tolist() == [0, 0] and not torch.equal(still.z, first.z)


def test_the_context_buffer_holds_the_last_visit_alone():
    learner = made()
    with Workers(EnvsFactory(POINTS), envs_per_batch=32) as workers:
        source = source_of(workers)
        learner.iterate(source)
        assert [len(c.buffer) for c in learner.contexts] == [12] * 6  # two episodes of six steps
        assert [len(r) for r in learner.replays] == [12 + 12] * 6  # and two of the acting policy
        assert learner.iterate(source)["context/age"] > 0
        learner.iterate(source)
    assert [len(c.buffer) for c in learner.contexts] == [12] * 6 and len(set(source.draw_tasks(6))) == 6


def test_deterministic_latents_have_no_spread():
    learner, generator = collected(made(replace(SMALL, deterministic=True))), torch.Generator().manual_seed(0)
    belief = learner.acting.begin(2, generator)
    assert torch.equal(belief.z, torch.zeros(2, SMALL.latent_dim))


@pytest.mark.parametrize("kind", ["product", "attention"])
def test_without_latents_a_trial_changes_nothing(kind):
    """The no-context learner: whatever it has seen, it acts the same, to the bit; and it does learn."""
    learner = made(replace(SMALL, latent_dim=0, encoder=kind))
    start = [p.clone() for p in learner.policy.parameters()]
    collected(learner)
    assert not any(torch.equal(old, new) for old, new in zip(start, learner.policy.parameters(), strict=True))
    envs, tasks = make_envs(FAMILY, 2), list(FAMILY.tasks("test")[:2])
    generator, observation = torch.Generator().manual_seed(0), torch.full((2, 2), 0.3)
    wanted, _ = learner.acting.act(observation, learner.acting.begin(2, generator), generator, explore=False)
    assert torch.equal(wanted[0], wanted[1])
    trials, belief = trial(learner.acting, envs, tasks, np.array([[1, 2], [3, 4]]), generator)
    assert not np.allclose(trials.reward[0], trials.reward[1])
    assert torch.equal(learner.acting.act(observation, belief, generator, explore=False)[0], wanted)


def test_the_encoder_may_have_a_width_of_its_own():
    learner = made(replace(SMALL, encoder_hidden=5))
    assert {layer.out_features for layer in learner.encoder.net.layers[:-1]} == {5}
    assert {layer.out_features for layer in learner.policy.net.layers[:-1]} == {16}


def test_impossible_configs_are_refused():
    with pytest.raises(ValueError, match="latent_dim is -1"):
        Config(latent_dim=-1)
    with pytest.raises(ValueError, match="encoder is 'sum'"):
        Config(encoder="sum")
    with pytest.raises(ValueError, match="prior_factor is of encoder: product"):
        Config(encoder="mean", prior_factor=True)
    with pytest.raises(ValueError, match="context_visits is of context: trial"):
        Config(context_visits=3)
    with (
        Workers(EnvsFactory(POINTS)) as workers,
        pytest.raises(ConfigError, match="12 transitions, and context: trial"),
    ):
        small = replace(SMALL, context="trial", context_capacity=11)
        made(small).iterate(source_of(workers, budget=10))
    for change in ({"context": "recent", "context_visits": 1}, {"shaped_reward": False}, {"encoder": "product"}):
        with pytest.raises(ValueError, match="teacher needs shaped_reward"):
            replace(TAUGHT, **change)
    with pytest.raises(ValueError, match="latent_dim is 0"):
        replace(TAUGHT, latent_dim=0)
    with pytest.raises(ValueError, match="kl_reduction is 'max'"):
        OriginalConfig(kl_reduction="max")
    with pytest.raises(ConfigError, match="2 discrete actions"):
        make_learner(pearl, SMALL, 2, np.ones(2, np.float32), discrete=True, seeds=Seeds(0))
    with Workers(EnvsFactory(POINTS)) as workers, pytest.raises(ConfigError, match="there are 80 different tasks"):
        made(replace(SMALL, training_tasks=81)).iterate(source_of(workers, budget=10))


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_encoder_learns_and_acts(kind):
    learner = collected(made(replace(SMALL, encoder=kind)))
    before = [p.clone() for p in learner.encoder.parameters()]
    learner.learn(learner.draw())
    assert any(not torch.equal(old, new) for old, new in zip(before, learner.encoder.parameters(), strict=True))
    result = evaluate(
        learner.actor(), Workers(EnvsFactory(POINTS)), FAMILY.tasks("test")[:3], episodes=2, evaluation_seed=0
    )
    assert np.isfinite(result.returns).all()


def test_shaped_rewards_are_learned_from_and_not_shown():
    """The sparse point robot: the replay has dense rewards, the context those of the task; so has what is reported."""
    sparse = TaskConfig("point", split="train", options={"sparse": True, "max_episode_steps": 6, "goal_radius": 0.01})
    family = make_family(sparse)
    learner = made(replace(SMALL, shaped_reward=True, context="visit"))
    with Workers(EnvsFactory(sparse), envs_per_batch=32) as workers:
        source = source_of(workers, family)
        learner.iterate(source)
        assert source.last is not None and (source.last.returns == 0).all()
        without = OnlineSource(workers, family.sample, Seeds(0), Budget(10**6))
        with pytest.raises(ConfigError, match="has no dense reward to learn from"):
            made(learner.config).iterate(without)
    for task, replay, context in zip(source.draw_tasks(6), learner.replays, learner.contexts, strict=True):
        count = len(replay)
        gap = replay.columns.next_observation[:count] - torch.tensor([task.x, task.y])
        assert torch.allclose(replay.columns.reward[:count], -gap.norm(dim=-1), atol=1e-6)
        assert len(context.buffer) == count and (context.buffer.columns.reward[:count] == 0).all()


@pytest.mark.parametrize("original", [OriginalConfig(), OriginalConfig(value_network=True)])
def test_bfloat16_keeps_float32_parameters_and_comes_close(original):
    """Steps are so long that a loss with the weights from before a step would be another."""
    metrics = []
    for short in (False, True):
        learner = collected(made(replace(SMALL, updates=0, learning_rate=0.03, bfloat16=short, original=original)))
        metrics.append(torch.stack([learner.learn(learner.draw()) for _ in range(2)]))
        assert all(p.dtype == torch.float32 for p in learner.policy.parameters())
    assert not torch.equal(*metrics)
    torch.testing.assert_close(*metrics, rtol=0.03, atol=0.01)


def test_the_value_network_and_its_optimiser_are_saved():
    parts = made(replace(SMALL, original=OriginalConfig(value_network=True))).parts()
    assert {"values", "value_optimizer"} == set(parts) - set(made(SMALL).parts())


def same(one: Gaussian, other: Gaussian) -> bool:
    return torch.allclose(one.mean, other.mean, atol=1e-5) and torch.allclose(
        one.log_stddev, other.log_stddev, atol=1e-5
    )


def test_what_acting_believes_after_an_episode_is_what_learning_infers_from_it():
    learner, generator = made(replace(SMALL, context="trial", context_size=50)), torch.Generator().manual_seed(0)
    envs, task = make_envs(FAMILY, 1), list(FAMILY.tasks("train")[:1])
    trials, belief = trial(learner.acting, envs, task, np.array([[5, 6]]), generator)
    learner.contexts[0].add(None, [trials.episodes(0), trials.episodes(1)])
    learner.contexts[0].marks = [[0, 0, 12]]  # after both
    with torch.no_grad():
        assert same(infer(learner.encoder, *learner.contexts_of([0])), learner.encoder.posterior(belief.evidence))


TAUGHT = replace(
    SMALL, teacher=TeacherConfig(), shaped_reward=True, context="trial", context_visits=2, encoder="attention"
)
SPARSE = TaskConfig("point", split="train", options={"sparse": True, "max_episode_steps": 6, "goal_radius": 0.01})


def taught(config: Config = TAUGHT) -> Learner:
    learner, family = made(config), make_family(SPARSE)
    with Workers(EnvsFactory(SPARSE), envs_per_batch=32) as workers:
        learner.iterate(source_of(workers, family))
    return learner


def test_a_teacher_sees_dense_rewards_and_the_encoder_those_that_a_test_has():
    learner = taught()
    assert (learner.privileged([0, 1, 2], 64)[..., -1] < 0).all()
    context, valid = learner.contexts_of([0, 1, 2] * 20)
    assert (context[..., -1] == 0).all()
    assert {int(n) for n in valid.sum(1)} == {0, 5}  # nothing at all, or episodes, of which five transitions are shown


def test_the_encoder_learns_from_distillation_alone_and_the_teacher_not_from_it(monkeypatch):
    def gradients(scale: float) -> dict[str, list[torch.Tensor]]:
        learner, found = taught(replace(TAUGHT, updates=0)), {}
        loss = pearl.posterior_distillation_loss
        monkeypatch.setattr(pearl, "posterior_distillation_loss", lambda *told: scale * loss(*told))
        learner.learn(learner.draw())
        monkeypatch.setattr(pearl, "posterior_distillation_loss", loss)
        for part in ("encoder", "teacher", "critics"):
            state = learner.critic_optimizer.state  # after one step of Adam its mean is a tenth of the gradient
            found[part] = [state[p]["exp_avg"] for p in getattr(learner, part).parameters()]
        return found

    once, none = gradients(1.0), gradients(0.0)
    assert all(float(g.abs().sum()) > 0 for part in once.values() for g in part)
    assert all(torch.equal(g, torch.zeros_like(g)) for g in none["encoder"])
    for part in ("teacher", "critics"):
        assert all(torch.equal(a, b) for a, b in zip(once[part], none[part], strict=True))


def test_how_well_the_belief_predicts_is_reported():
    family, learner = make_family(SPARSE), made(TAUGHT)
    with Workers(EnvsFactory(SPARSE), envs_per_batch=32) as workers:
        source = source_of(workers, family)
        told, plain = learner.iterate(source), made().iterate(source)
    assert np.isfinite(told["belief/nll"]) and set(told) - set(plain) == {"belief/nll"}


def test_what_acts_has_no_teacher():
    learner = taught()
    assert not any("teacher" in name for name in state_of(learner.actor().parts()))
    clean = evaluate(
        learner.actor(), Workers(EnvsFactory(SPARSE)), FAMILY.tasks("test")[:3], episodes=2, evaluation_seed=0
    )
    with torch.no_grad():
        for parameter in learner.teacher.parameters():
            parameter.fill_(float("nan"))
    again = evaluate(
        learner.actor(), Workers(EnvsFactory(SPARSE)), FAMILY.tasks("test")[:3], episodes=2, evaluation_seed=0
    )
    assert np.array_equal(clean.env_steps, again.env_steps) and np.array_equal(clean.returns, again.returns)


def test_a_belief_that_predicts_is_of_every_z_that_may_still_be():
    """A coin of two tasks, z = +-1. A transition with reward 0 tells nothing, +-1 tells all: from nothing and from zeros the
    belief has both modes at equal weight, and none between; otherwise it has the one."""
    generator = torch.Generator().manual_seed(0)
    encoder = make_encoder("attention", 1, 1, 16, 1, generator, components=4)
    optimizer = torch.optim.Adam(encoder.parameters(), 1e-2)
    for _ in range(600):
        z = (torch.randint(2, (64, 1), generator=generator) * 2 - 1).float()
        context = z[:, None] * torch.tensor([0.0, 0.0, 1.0])[:, None]
        valid = (torch.arange(3) < torch.randint(4, (64, 1), generator=generator)).float()
        loss = pearl.posterior_distillation_loss(infer(encoder, context, valid), z, False)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        nothing = encoder.posterior(encoder.nothing(1))
        zeros = infer(encoder, torch.zeros(1, 2, 1))
        told = infer(encoder, torch.tensor([[[0.0], [0.0], [1.0]]]))
    noise = torch.randn(400, 2, generator=generator)
    for belief, share in ((nothing, 0.5), (zeros, 0.5), (told, 1.0)):
        z = torch.cat([belief.rsample(row[None]) for row in noise])  # 400 samples
        assert float((z > 0).float().mean()) == pytest.approx(share, abs=0.15)
        assert float(((z.abs() - 1).abs() < 0.3).float().mean()) > 0.95


def test_deterministic_latents_of_a_mixture_are_its_mean():
    learner, generator = taught(replace(TAUGHT, deterministic=True)), torch.Generator().manual_seed(0)
    belief = learner.acting.begin(2, generator)
    assert torch.equal(belief.z, learner.encoder.posterior(belief.evidence).mean)
    z = torch.randn(2, SMALL.latent_dim, generator=generator)
    loss = pearl.posterior_distillation_loss(learner.encoder.posterior(belief.evidence), z, True)
    assert float(loss.detach()) == pytest.approx(float(((z - belief.z) ** 2).sum(1).mean()), rel=1e-5)


def test_ordered_encoders_are_shown_what_followed_each_other():
    learner = collected(made(replace(SMALL, encoder="gru")))
    seen = learner.contexts[0].buffer.sample(5, torch.Generator().manual_seed(3), ordered=True)
    assert torch.equal(seen.next_observation[0], seen.observation[1]) or torch.equal(
        seen.next_observation[2], seen.observation[3]
    )
    short = learner.contexts[0].buffer.sample(30, torch.Generator().manual_seed(3), ordered=True)
    assert torch.equal(short.observation[:12], short.observation[12:24])  # it has twelve, and begins again


def test_what_followed_each_other_is_known_by_age_also_where_the_ring_has_wrapped():
    replay = Replay(10, 1, 1)
    times = np.arange(14, dtype=np.float32)
    whole = Episodes(
        observation=np.arange(15, dtype=np.float32).reshape(1, 15, 1), action=np.zeros((1, 14, 1), np.float32),
        reward=times[None], terminated=np.zeros((1, 14), bool), truncated=np.zeros((1, 14), bool),
        steps=np.ones((1, 14), np.int64), success=np.zeros((1, 14), bool), valid=np.ones((1, 14), bool),
    )  # fmt: skip
    replay.add(whole)
    for seed in range(20):
        told = replay.sample(4, torch.Generator().manual_seed(seed), ordered=True).reward
        assert (told.diff() == 1).all() and told[0] >= 4  # the first four are gone
