"""Windows never cross an episode, miss none, and are gathered as a loop would gather them."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skillmeta.data.episodes import EpisodeDataset, from_episodes, single_episode
from skillmeta.data.replay import Replay
from skillmeta.data.trials import join, stack
from skillmeta.errors import DataError


def make(lengths: list[int], observation_dim: int = 3, action_dim: int = 2) -> EpisodeDataset:
    """Episodes whose numbers say where they are from: column 0 is the episode, column 1 the step."""
    episodes = []
    for e, length in enumerate(lengths):
        observations = np.zeros((length + 1, observation_dim), np.float32)
        observations[:, 0], observations[:, 1] = e, np.arange(length + 1)
        actions = np.zeros((length, action_dim), np.float32)
        actions[:, 0] = np.arange(length) / 1000
        actions[:, 1] = e / 1000
        rewards, last = np.arange(length, dtype=np.float32), np.arange(length) == length - 1
        episodes.append(single_episode(observations, actions, rewards, last & (e % 2 == 1), last & (e % 2 == 0)))
    return from_episodes(episodes, "made up", -np.ones(action_dim), np.ones(action_dim))


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8), horizon=st.integers(1, 12))
def test_windows_are_exactly_those_that_a_double_loop_finds(lengths, horizon):
    dataset = make(lengths)
    expected = {(e, t) for e, n in enumerate(lengths) for t in range(n - horizon + 1)}
    if not expected:
        with pytest.raises(DataError, match="shorter than the horizon"):
            dataset.windows(horizon)
        return
    windows = dataset.windows(horizon)
    batch = windows.gather(torch.arange(len(windows)))
    found = {(int(e), int(t)) for e, t in batch.observation[:, 0, :2].tolist()}
    assert found == expected and len(windows) == len(expected)
    for row in range(len(windows)):
        e, t = (int(v) for v in batch.observation[row, 0, :2])
        assert batch.observation[row, :, 0].tolist() == [e] * (horizon + 1)
        assert batch.observation[row, :, 1].tolist() == list(range(t, t + horizon + 1))
        np.testing.assert_allclose(batch.action[row, :, 0], np.arange(t, t + horizon) / 1000, rtol=1e-6)
        np.testing.assert_allclose(batch.action[row, :, 1], e / 1000, rtol=1e-6)
        last = [t + h == lengths[e] - 1 for h in range(horizon)]
        assert batch.reward[row].tolist() == list(range(t, t + horizon))
        assert batch.terminated[row].tolist() == [end and e % 2 == 1 for end in last]
        assert batch.truncated[row].tolist() == [end and e % 2 == 0 for end in last]


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(5, 20), min_size=2, max_size=12), share=st.floats(0.05, 0.9), seed=st.integers(0, 99)
)
def test_the_split_shares_out_whole_episodes(lengths, share, seed):
    dataset = make(lengths)
    parts = [dataset.windows(5, split, held_out=share, seed=seed) for split in ("train", "held_out")]
    train, held_out = (set(part.episodes.tolist()) for part in parts)
    assert not train & held_out and train | held_out == set(range(len(lengths))) and train and held_out
    assert abs(len(held_out) - share * len(lengths)) <= 1
    again = dataset.windows(5, "train", held_out=share, seed=seed)
    assert torch.equal(parts[0].episodes, again.episodes)


def test_frames_are_the_observations_of_the_splits_own_episodes_once_each():
    dataset = make([7, 5, 3, 9])  # the third is shorter than a window
    train = dataset.windows(5, "train", held_out=0.4, seed=3)
    expected = {(e, t) for e in set(train.episodes.tolist()) for t in range(int(dataset.lengths[e]) + 1)}
    found = [(int(e), int(t)) for e, t in torch.cat([*train.frames()])[:, :2].tolist()]
    assert set(found) == expected and len(found) == len(expected)


def test_sampling_is_uniform_over_windows():
    windows = make([10, 40]).windows(5)
    batch = windows.sample(20_000, torch.Generator().manual_seed(0))
    share = (batch.observation[:, 0, 0] == 0).float().mean()
    assert float(share) == pytest.approx(6 / 42, abs=0.01)


def test_episodes_come_back_as_they_went_in_without_a_copy():
    dataset = make([4, 9, 2])
    assert dataset.lengths.tolist() == [4, 9, 2] and dataset.returns.tolist() == [6, 36, 1]
    for e, length in enumerate([4, 9, 2]):
        episode = dataset.episode(e)
        assert (episode.observation[0, :, 0] == e).all() and episode.observation.shape == (1, length + 1, 3)
        assert episode.reward[0].tolist() == list(range(length))
        assert episode.lengths.tolist() == [dataset.lengths[e]] and episode.returns.tolist() == [dataset.returns[e]]
        assert np.shares_memory(episode.observation, dataset.observation)


def test_episodes_that_were_collected_in_lockstep_are_laid_out_like_those_of_a_log():
    """One episode type: N of them with padding, or each by itself, make the same data set."""
    dataset = make([4, 9, 2])
    singles = [dataset.episode(e) for e in range(3)]
    together = join([stack([episode]) for episode in singles]).episodes(0)
    assert together.reward.shape == (3, 9) and together.lengths.tolist() == [4, 9, 2]
    again = from_episodes([together], "made up", -np.ones(2), np.ones(2))
    for f in fields(EpisodeDataset):
        np.testing.assert_array_equal(getattr(again, f.name), getattr(dataset, f.name))
    replay = Replay(20, 3, 2)
    replay.add(together)
    assert len(replay) == 15 and replay.columns.terminated[:15].nonzero().flatten().tolist() == [12]


def test_decisions_are_not_laid_out_as_primitive_steps():
    episode = make([4]).episode(0)
    with pytest.raises(DataError, match="made up: episode 0: has decisions of several steps"):
        from_episodes([replace(episode, steps=10 * episode.steps)], "made up")


def test_one_long_episode_cannot_be_split():
    with pytest.raises(DataError, match="two are needed"):
        make([30, 2]).windows(10, "train")
