"""The replay against a list that is cut to its last rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skillmeta.data.replay import Replay, Transitions
from skillmeta.types import Episodes


def episodes(lengths: list[int], tag: int) -> Episodes:
    """Every number is different, so that each row says where each of its columns is from."""
    n, t = len(lengths), max(lengths)
    rng = np.random.default_rng(tag)
    valid = np.arange(t)[None] < np.array(lengths)[:, None]
    return Episodes(
        observation=rng.normal(size=(n, t + 1, 2)).astype(np.float32),
        action=rng.normal(size=(n, t, 1)).astype(np.float32),
        reward=rng.normal(size=(n, t)).astype(np.float32),
        terminated=rng.random((n, t)) < 0.5,
        truncated=rng.random((n, t)) < 0.5,
        steps=rng.integers(1, 11, (n, t)),
        success=np.zeros((n, t), bool),
        valid=valid,
    )


def rows_of(batch: Transitions) -> list[tuple[float, ...]]:
    columns = [part.reshape(len(batch.reward), -1) for part in batch]
    return [tuple(row) for row in torch.cat(columns, 1).tolist()]


def as_list(done: Episodes) -> list[tuple[float, ...]]:
    found = []
    for i in range(len(done.reward)):
        for t in range(done.reward.shape[1]):
            if done.valid[i, t]:
                numbers = (
                    *done.observation[i, t], *done.action[i, t], done.reward[i, t], *done.observation[i, t + 1],
                    done.terminated[i, t],
                )  # fmt: skip
                found.append(tuple(float(np.float32(number)) for number in numbers))
    return found


@settings(max_examples=25, deadline=None)
@given(
    capacity=st.integers(1, 12),
    added=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=3), min_size=1, max_size=5),
)
def test_it_holds_the_last_decisions_in_order(capacity, added):
    replay, reference = Replay(capacity, 2, 1), []
    for tag, lengths in enumerate(added):
        done = episodes(lengths, tag)
        replay.add(done)
        reference = [*reference, *as_list(done)]
        kept = reference[-capacity:]
        assert replay.added == len(reference) and len(replay) == len(kept)
        oldest_first = (replay.added - len(kept) + torch.arange(len(kept))) % capacity
        assert rows_of(replay.at(oldest_first)) == kept
    again = Replay(capacity, 2, 1)
    again.restore(replay.state())
    assert again.added == replay.added
    assert rows_of(again.at(torch.arange(len(kept)))) == rows_of(replay.at(torch.arange(len(kept))))


@pytest.mark.parametrize(
    ("window", "expected"), [(None, slice(-7, None)), ((8, 11), slice(8, 11)), ((0, 7), slice(5, 7))]
)
def test_samples_are_uniform_over_what_is_kept_and_no_other_rows(window, expected):
    """Twelve decisions into seven places: what has been overwritten is never drawn, whatever the window says."""
    replay = Replay(7, 2, 1)
    done = [episodes([4], tag) for tag in range(3)]
    for one in done:
        replay.add(one)
    reference = [row for one in done for row in as_list(one)][expected]
    drawn = rows_of(replay.sample(7000, torch.Generator().manual_seed(0), window=window))
    counts = [drawn.count(row) for row in reference]
    assert sum(counts) == 7000 and min(counts) > 0.9 * 7000 / len(reference)


def test_ordered_samples_follow_each_other():
    replay = Replay(7, 2, 1)
    done = episodes([5, 6], 0)
    replay.add(done)
    kept = as_list(done)[-7:]
    starts = set()
    for seed in range(60):
        drawn = rows_of(replay.sample(3, torch.Generator().manual_seed(seed), ordered=True))
        first = kept.index(drawn[0])
        assert drawn == kept[first : first + 3]
        starts.add(first)
    assert starts == {0, 1, 2, 3, 4}


def test_a_discount_stops_at_a_termination_alone():
    nothing, one = torch.zeros(2, 1), torch.ones(2)
    batch = Transitions(nothing, nothing, one, nothing, terminated=torch.tensor([0.0, 1.0]))
    assert batch.discount(0.9).tolist() == pytest.approx([0.9, 0.0])
