"""Contexts of the last visits: which transitions may be drawn, from which visits, and what is forgotten."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skillmeta.data.contexts import ContextBuffer
from skillmeta.errors import ConfigError
from skillmeta.types import Episodes


def numbered(first: int, episodes: int = 1, length: int = 6) -> Episodes:
    """Episodes whose rewards count on from `first`."""
    shape = (episodes, length)
    no = np.zeros(shape, bool)
    return Episodes(
        observation=np.zeros((episodes, length + 1, 1), np.float32), action=np.zeros((*shape, 1), np.float32),
        reward=first + np.arange(episodes * length, dtype=np.float32).reshape(shape), terminated=no, truncated=no,
        steps=np.ones(shape, np.int64), success=no, valid=~no,
    )  # fmt: skip


def visited(keep: int, visits: int, capacity: int = 100, prior: bool = True) -> ContextBuffer:
    """Contexts of twelve transitions with z from the prior and a trial of three episodes: visit v has 100 v, ..., 100 v + 29."""
    kept = ContextBuffer(capacity, keep, 1, 1)
    for v in range(visits):
        kept.add(numbered(100 * v, 2) if prior else None, [numbered(100 * v + 12 + 6 * k) for k in range(3)])
    return kept


@pytest.mark.parametrize("trial", [False, True])
def test_a_recent_context_is_of_the_last_visit(trial):
    part, valid = visited(1, 3).recent(500, torch.Generator().manual_seed(0), False, trial)
    assert sorted(set(part.reward.tolist())) == list(range(200, 230 if trial else 212)) and valid.all()


def test_an_ordered_one_is_of_transitions_that_followed_each_other():
    part, _ = visited(1, 2).recent(7, torch.Generator().manual_seed(3), True, True)
    assert (part.reward.diff() == 1).all()


@pytest.mark.parametrize("nothing", [False, True])
@pytest.mark.parametrize("size", [50, 8], ids=["all of it", "more than fits"])
def test_a_beginning_is_the_first_episodes_of_a_trial(nothing, size):
    kept, generator, counts = visited(2, 3), torch.Generator().manual_seed(0), set()
    for _ in range(80):
        part, valid = kept.beginning(size, generator, False, nothing)
        there, shown = int(valid.sum()), part.reward[valid.bool()].tolist()
        first = 112 if shown and shown[0] < 200 else 212
        whole = range(first, first + 18)
        assert shown == (list(whole[:there]) if there < size else sorted(shown)) and set(shown) <= set(whole)
        counts.add((first if there else 0, there))
    lengths = {6, 12, 18} if size == 50 else {6, 8}
    assert counts == {(first, n) for first in (112, 212) for n in lengths} | ({(0, 0)} if nothing else set())


def test_an_ordered_beginning_is_of_transitions_that_followed_each_other_anywhere_in_it():
    kept, firsts = visited(1, 1), set()
    for seed in range(200):
        part, valid = kept.beginning(4, torch.Generator().manual_seed(seed), True, False)
        assert (part.reward.diff() == 1).all() and valid.all()
        firsts.add(float(part.reward[0]))
    assert firsts == set(range(12, 27))  # of 12 to 29


def test_visits_that_no_longer_fit_are_forgotten():
    kept = visited(9, 4, capacity=70, prior=False)
    assert len(kept.marks) == 3 and kept.buffer.added - kept.marks[0][0] == 54  # 18 each; a fourth makes 72
    seen = {
        float(kept.beginning(6, torch.Generator().manual_seed(s), False, False)[0].reward[0]) // 100 for s in range(40)
    }
    assert seen == {1, 2, 3}


def test_a_visit_that_does_not_fit_is_refused():
    kept = visited(1, 1, capacity=29)
    with pytest.raises(
        ConfigError, match="context_capacity is 29; a visit to a task of this family has 30 transitions"
    ):
        kept.beginning(5, torch.Generator().manual_seed(0), False, False)


def test_saved_and_restored_they_give_the_same_contexts():
    kept, again = visited(2, 3), ContextBuffer(100, 2, 1, 1)
    assert kept.state()["buffer"]["rows"].kept == range(30, 90)  # the last two visits
    again.restore(kept.state())
    for seed in range(5):
        ours, theirs = (v.beginning(8, torch.Generator().manual_seed(seed), False, True) for v in (kept, again))
        assert torch.equal(ours[0].reward, theirs[0].reward) and torch.equal(ours[1], theirs[1])
