"""The store of whole trials: what comes out is what went in, trial by trial."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skillmeta.data.trial_store import TrialStore
from skillmeta.errors import ConfigError
from skillmeta.types import Trials


def numbered(lengths: list[list[int]], first: int = 0) -> Trials:
    """Trials whose decisions are numbered by rewards, in their order; padding has others."""
    num, rounds, time = len(lengths), len(lengths[0]), max(map(max, lengths))
    valid = np.arange(time) < np.array(lengths)[..., None]
    reward = np.full((num, rounds, time), -1.0, np.float32)
    reward[valid] = first + np.arange(valid.sum())
    observation = np.concatenate([reward, reward[..., -1:] + 1], -1)[..., None]
    nothing = np.zeros_like(valid)
    return Trials(observation, reward[..., None], reward, nothing, nothing, valid.astype(np.int64), nothing, valid)


def contents(store: TrialStore) -> set[tuple[float, ...]]:
    some, valid = store.sample(100, torch.Generator().manual_seed(0))
    assert torch.equal(some.reward * (1 - valid), torch.zeros_like(valid))  # padding is zero
    return {tuple(row[:n].tolist()) for row, n in zip(some.reward, valid.sum(1).int().tolist(), strict=True)}


def test_trials_are_whole_in_order_and_the_oldest_are_forgotten():
    store = TrialStore(12, 1, 1)
    store.add(numbered([[2, 1], [1, 1]]))
    assert contents(store) == {(0, 1, 2), (3, 4)}
    store.add(numbered([[3, 2], [1, 2]], 5))
    assert contents(store) == {(3, 4), (5, 6, 7, 8, 9), (10, 11, 12)}  # round the ring; of the first not all fits
    full = TrialStore(5, 1, 1)
    full.add(numbered([[2, 1], [1, 1]]))
    assert contents(full) == {(0, 1, 2), (3, 4)}  # which just fit
    with pytest.raises(ConfigError, match="replay_capacity is 12; a trial here has 14 decisions"):
        store.add(numbered([[7, 7]]))


def test_a_sample_is_of_different_trials_and_a_restored_store_gives_the_same():
    store, other = TrialStore(50, 1, 1), TrialStore(50, 1, 1)
    store.add(numbered([[3, 2]] * 6))
    other.restore(store.state())
    some, valid = store.sample(4, torch.Generator().manual_seed(1))
    again, _ = other.sample(4, torch.Generator().manual_seed(1))
    assert valid.shape == (4, 5) and len(set(some.reward[:, 0].tolist())) == 4
    assert all(map(torch.equal, some, again))
    assert (some.next_observation - some.observation)[:, 0].eq(1).all()
