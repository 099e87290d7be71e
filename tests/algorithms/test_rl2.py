"""RL2: what acting computed is what learning computes; state across episodes; masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from skillmeta.algorithms import rl2
from skillmeta.algorithms.rl2 import Config
from skillmeta.collect.source import Budget, OnlineSource
from skillmeta.collect.trials import trial
from skillmeta.collect.workers import Workers
from skillmeta.data.trials import sequences
from skillmeta.envs.make import EnvsFactory, make_envs
from skillmeta.nn.distributions import Gaussian
from skillmeta.nn.heads import HeadConfig, output_of
from skillmeta.objectives.on_policy import Sample
from skillmeta.seeds import Seeds
from skillmeta.tasks.base import TaskConfig, make_family
from tests.learners import make_learner

BANDIT = TaskConfig("bandit", split="any", options={"arms": 3, "max_episode_steps": 6})
ENDS = TaskConfig("point", split="any", options={"end_within": 0.5, "extent": 0.5, "max_episode_steps": 9})


def acted(config: TaskConfig, core: str, episodes: int = 3, previous: bool = False):
    """Trials in which episodes end early, and the log probabilities that acting gave its own actions."""
    family = make_family(config)
    envs = make_envs(family, 5)
    head = HeadConfig({"lstm": "film", "transformer": "hyper"}.get(core, "mlp"))
    options = Config(core=core, head=head, hidden=16, receptive_field=4, previous_observation=previous)
    learner = make_learner(
        rl2, options, envs.spec.observation_dim, envs.spec.action_bound, discrete=envs.spec.discrete, seeds=Seeds(1)
    )
    with torch.no_grad():  # a policy that listens to its memory
        output_of(learner.network.policy_head)[0][0].normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
    told: list[torch.Tensor] = []
    original = learner.acting.network.policy

    class Listening(type(learner.acting)):
        def act(self, observation, belief, generator, explore):
            action, after = super().act(observation, belief, generator, explore)
            before = belief.previous_observation
            inputs = self.network.inputs(
                observation, before, belief.previous_action, belief.previous_reward, belief.begins
            )
            numbers, _ = self.network.step(inputs, observation, belief.state)
            told.append(original(numbers, None).log_prob(action))
            return action, after

    actor = Listening(**{name: getattr(learner.acting, name) for name in learner.acting.__dataclass_fields__})
    generator = np.random.default_rng(0)
    tasks = [family.sample(generator, "any") for _ in range(5)]
    seeds = np.arange(5 * episodes).reshape(5, episodes)
    trials, _ = trial(actor, envs, tasks, seeds, torch.Generator().manual_seed(0))
    return learner, trials, told


@pytest.mark.parametrize("core", ["gru", "lstm", "snail", "transformer"])
@pytest.mark.parametrize("config, previous", [(BANDIT, False), (ENDS, False), (ENDS, True)])
def test_learning_sees_what_acting_saw(config, previous, core):
    """Also where environments in lockstep end at different times, and over the ends of episodes."""
    learner, trials, told = acted(config, core, previous=previous)
    sample = learner.prepare(sequences(trials))
    lengths = trials.valid.sum(2)
    assert config is BANDIT or len(set(lengths.ravel().tolist())) > 1
    for n in range(5):
        position = call = 0
        for k in range(3):
            for t in range(lengths[:, k].max()):
                if trials.valid[n, k, t]:
                    assert float(sample.log_prob[n, position]) == pytest.approx(float(told[call][n]), abs=1e-5)
                    position += 1
                call += 1
        assert sample.valid[n].sum() == position


def test_the_first_policy_is_uniform_and_a_residual_is_the_prior():
    learner = make_learner(rl2, Config(hidden=8), 1, np.ones(4, np.float32), discrete=True, seeds=Seeds(0))
    belief = learner.acting.begin(2000, torch.Generator().manual_seed(0))
    action, _ = learner.acting.act(torch.zeros(2000, 1), belief, torch.Generator().manual_seed(1), True)
    assert action.mean(0).tolist() == pytest.approx([0.25] * 4, abs=0.04)
    wide = make_learner(
        rl2, Config(hidden=8, initial_stddev=0.5), 1, np.array([2.0, 4.0], np.float32), seeds=Seeds(0)
    ).acting
    belief = wide.begin(2000, torch.Generator())
    action, _ = wide.act(torch.zeros(2000, 1), belief, torch.Generator().manual_seed(1), True)
    assert action.std(0).tolist() == pytest.approx([1.0, 2.0], rel=0.1)  # in parts of the bound

    def prior(observation: torch.Tensor) -> Gaussian:
        return Gaussian(observation[..., :2] + 3.0, torch.full((*observation.shape[:-1], 2), -1.0))

    guided = make_learner(rl2, Config(hidden=8), 2, np.full(2, 5.0, np.float32), prior=prior, seeds=Seeds(0))
    action, _ = guided.acting.act(torch.zeros(1, 2), guided.acting.begin(1, None), torch.Generator(), False)
    assert action.tolist() == [[3.0, 3.0]]


def test_the_policy_is_not_linear_in_state_and_memory():
    """One hidden layer, as published policies have: a linear head could not act by whether a state and a memory agree."""
    network = make_learner(rl2, Config(hidden=8), 2, np.ones(3, np.float32), seeds=Seeds(0)).network
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        network.policy_head.layers[-1].weight.normal_(generator=generator)
        a, b = torch.randn(2, 5, 10, generator=generator)
        joint = network.policy_head(a + b) + network.policy_head(torch.zeros(5, 10))
        apart = network.policy_head(a) + network.policy_head(b)
    assert ((joint - apart).abs().amax(1) > 1e-2).all()


def test_a_trial_ends_with_its_last_episode_and_not_before():
    """The advantage of a trial's first decision sums rewards over the ends of its episodes."""
    learner, trials, _ = acted(ENDS, "gru")
    learner.config = replace(learner.config, discount=1.0, gae_lambda=1.0)
    sample = learner.prepare(sequences(trials))
    assert np.allclose(sample.returns[:, 0].numpy(), trials.returns.sum(1), atol=1e-4)


def test_padding_changes_nothing():
    learner, trials, _ = acted(ENDS, "gru")
    sample = learner.prepare(sequences(trials))
    longer = Sample(*(torch.cat([part, part[:, :2]], 1) for part in sample))  # by decisions that would matter
    longer = longer._replace(valid=torch.cat([sample.valid, torch.zeros(5, 2)], 1))
    copies = []
    for batch in (sample, longer):
        other = make_learner(rl2, Config(hidden=16), 2, np.ones(2, np.float32), seeds=Seeds(1))
        other.network.load_state_dict(learner.network.state_dict())
        other.update(batch)
        copies.append(torch.cat([p.detach().ravel() for p in other.network.parameters()]))
    assert torch.allclose(*copies, atol=1e-6)


def test_free_episodes_are_seen_but_not_learned_from():
    """E-RL2: only the rewards of later episodes make returns; the inputs are those of RL2."""
    learner, trials, _ = acted(ENDS, "gru")
    plain = learner.prepare(sequences(trials))
    learner.config = replace(learner.config, episodes=3, free_episodes=2, discount=1.0, gae_lambda=1.0)
    free = learner.prepare(sequences(trials))
    assert np.allclose(free.returns[:, 0].numpy(), trials.returns[:, 2], atol=1e-4)
    assert torch.equal(free.inputs, plain.inputs)
    for config, explored in ((Config(episodes=3, free_episodes=2), 2), (Config(), 0)):
        assert (
            make_learner(rl2, config, 1, np.ones(1, np.float32), seeds=Seeds(0)).actor().exploration_episodes
            == explored
        )


@pytest.mark.parametrize("wrong", [{"core": "lstn"}, {"receptive_field": 0}, {"free_episodes": 1}, {"layers": 0}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Config(**wrong)


def test_following_the_scale_of_returns_changes_no_value():
    learner, trials, _ = acted(ENDS, "gru")
    learner.config = replace(learner.config, reward_scale=1.0)
    sample = learner.prepare(sequences(trials))
    _, before, _ = learner.evaluate(sample.inputs, sample.observation, sample.raw)
    learner.network.value_head.rescale(1000 * sample.returns - 7, sample.valid)
    _, after, _ = learner.evaluate(sample.inputs, sample.observation, sample.raw)
    assert learner.network.value_head.deviation > 50 * sample.returns.std()
    assert torch.allclose(before, after, atol=1e-3)


def test_the_scale_of_rewards_does_not_decide_what_is_learned():
    """The first update of the policy is the same for rewards in thousands, as seen rewards are left as they were."""
    moved = []
    for scale in (1.0, 1000.0):
        learner, trials, _ = acted(ENDS, "gru")
        sample = learner.prepare(replace(sequences(trials), reward=scale * sequences(trials).reward))
        learner.config = replace(learner.config, max_grad_norm=1e9)
        start = learner.network.policy_head.layers[-1].weight.detach().clone()
        for group in learner.optimizer.param_groups:
            group["eps"] = 0.0
        learner.update(sample)
        moved.append(learner.network.policy_head.layers[-1].weight.detach() - start)
    assert torch.allclose(*moved, atol=2e-4)


def test_steps_shrink_with_the_budget():
    family = make_family(BANDIT)
    told = []
    with Workers(EnvsFactory(BANDIT), envs_per_batch=64) as workers:
        for anneal in (True, False):
            options = Config(tasks=64, hidden=8, epochs=1, minibatches=1, anneal=anneal)
            learner = make_learner(rl2, options, 1, np.ones(3, np.float32), discrete=True, seeds=Seeds(0))
            source = OnlineSource(workers, lambda g: family.sample(g, "any"), Seeds(0), Budget(4 * 64 * 6))
            for _ in range(4):
                metrics = learner.iterate(source)
                rate = learner.optimizer.param_groups[0]["lr"]
                assert rate == pytest.approx(options.learning_rate * metrics["budget/left"])
                told.append(metrics["budget/left"])
    assert told == pytest.approx([1, 0.75, 0.5, 0.25, 1, 1, 1, 1])
