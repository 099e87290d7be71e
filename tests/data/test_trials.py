"""Trials against a loop that looks at each transition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skillmeta.collect.trials import trial
from skillmeta.data.trials import join, sequences, stack
from skillmeta.envs.serial import SerialEnvs
from skillmeta.evaluation.actors import RandomActor
from tests.skills.fakes import CounterEnv


class Uneven(CounterEnv):
    """Episodes of different lengths, known by the seed."""

    def reset(self, *, seed=None, options=None):
        self.length = 2 + seed % 3
        return super().reset(seed=seed, options=options)


def run(seeds):
    envs = SerialEnvs(Uneven, len(seeds))
    agent = RandomActor(envs.spec.action_bound)
    return trial(agent, envs, [None] * len(seeds), np.array(seeds), torch.Generator().manual_seed(0))[0]


def test_sequences_follow_the_true_transitions():
    trials = run([[0, 1, 2], [2, 2, 0]])
    packed = sequences(trials)
    assert trials.lengths.tolist() == [[2, 3, 4], [4, 4, 2]]
    for n in range(2):
        rows = [
            (trials.observation[n, k, t], trials.action[n, k, t], trials.reward[n, k, t], t == 0, trials.observation[n, k, t + 1],
             trials.terminated[n, k, t], trials.truncated[n, k, t])
            for k in range(3) for t in range(4) if trials.valid[n, k, t]
        ]  # fmt: skip
        assert packed.valid[n].sum() == len(rows) and packed.valid[n, : len(rows)].all()
        for i, (observation, action, reward, begins, following, terminated, truncated) in enumerate(rows):
            assert np.array_equal(packed.observation[n, i], observation)
            assert np.array_equal(packed.next_observation[n, i], following)
            assert np.array_equal(packed.action[n, i], action) and packed.reward[n, i] == reward
            assert (packed.begins[n, i], packed.terminated[n, i], packed.truncated[n, i]) == (
                begins,
                terminated,
                truncated,
            )
            before = rows[i - 1] if i else (None, np.zeros_like(action), 0.0)
            assert np.array_equal(packed.previous_action[n, i], before[1])
            assert packed.previous_reward[n, i] == before[2]


def test_an_episode_comes_out_of_a_stack_as_it_went_in():
    trials = run([[0, 1], [2, 0]])
    again = stack([trials.episodes(0), trials.episodes(1)])
    assert np.array_equal(again.observation, trials.observation) and np.array_equal(again.valid, trials.valid)


def test_trials_of_different_lengths_are_joined():
    short, long = run([[0, 0]]), run([[2, 1], [0, 2]])
    both = join([short, long])
    assert both.reward.shape == (3, 2, 4)
    assert both.lengths.tolist() == [[2, 2], [4, 3], [2, 4]]
    assert np.array_equal(both.returns, np.concatenate([short.returns, long.returns]))
    assert np.array_equal(both.observation[0, 0, 2:], np.repeat(short.observation[0, 0, 2:3], 3, 0))  # it holds still


def test_trials_of_different_numbers_of_episodes_are_not_joined():
    with pytest.raises(ValueError, match="different numbers of episodes"):
        join([run([[0, 0]]), run([[0, 0, 0]])])


def test_success_at_any_step_and_at_the_end_are_distinguished():
    trials = run([[2]])
    success = np.zeros_like(trials.success)
    success[0, 0, 1] = True
    from dataclasses import replace

    passing = replace(trials, success=success)
    assert passing.succeeded.tolist() == [[True]] and passing.succeeded_at_end.tolist() == [[False]]
    success[:] = False
    success[0, 0, trials.valid.sum() - 1] = True
    kept = replace(trials, success=success)
    assert kept.succeeded.tolist() == kept.succeeded_at_end.tolist() == [[True]]
