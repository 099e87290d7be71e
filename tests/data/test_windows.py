"""Windows never cross an episode, miss none, and are gathered as a loop would gather them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skillmeta.data.episodes import Episode, EpisodeDataset, from_episodes
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
        flags = np.zeros(length, bool)
        episodes.append(Episode(observations, actions, np.arange(length, dtype=np.float32), flags, flags))
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
    found = {(int(e), int(t)) for e, t in batch.observations[:, 0, :2].tolist()}
    assert found == expected and len(windows) == len(expected)
    for row in range(len(windows)):
        e, t = (int(v) for v in batch.observations[row, 0, :2])
        assert batch.observations[row, :, 0].tolist() == [e] * (horizon + 1)
        assert batch.observations[row, :, 1].tolist() == list(range(t, t + horizon + 1))
        np.testing.assert_allclose(batch.actions[row, :, 0], np.arange(t, t + horizon) / 1000, rtol=1e-6)
        np.testing.assert_allclose(batch.actions[row, :, 1], e / 1000, rtol=1e-6)


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
    assert torch.equal(parts[0].starts, again.starts)


def test_frames_are_the_observations_of_the_splits_own_episodes_once_each():
    dataset = make([7, 5, 3, 9])  # the third is shorter than a window
    train = dataset.windows(5, "train", held_out=0.4, seed=3)
    expected = {(e, t) for e in set(train.episodes.tolist()) for t in range(int(dataset.lengths[e]) + 1)}
    found = [(int(e), int(t)) for e, t in train.frames()[:, :2].tolist()]
    assert set(found) == expected and len(found) == len(expected)


def test_sampling_is_uniform_over_windows_and_follows_weights():
    windows = make([10, 40]).windows(5)
    batch = windows.sample(20_000, torch.Generator().manual_seed(0))
    share = (batch.observations[:, 0, 0] == 0).float().mean()
    assert float(share) == pytest.approx(6 / 42, abs=0.01)
    windows.weights = torch.zeros(len(windows))
    windows.weights[3] = 1.0
    assert set(windows.sample(50, torch.Generator()).observations[:, 0, 1].tolist()) == {3.0}


def test_episodes_come_back_as_they_went_in():
    dataset = make([4, 9, 2])
    assert dataset.lengths.tolist() == [4, 9, 2] and dataset.returns.tolist() == [6, 36, 1]
    for e, length in enumerate([4, 9, 2]):
        episode = dataset.episode(e)
        assert (episode.observations[:, 0] == e).all() and len(episode.observations) == length + 1
        assert episode.rewards.tolist() == list(range(length))


def test_one_long_episode_cannot_be_split():
    with pytest.raises(DataError, match="two are needed"):
        make([30, 2]).windows(10, "train")
