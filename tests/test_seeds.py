"""Streams of random numbers: frozen values, and no two keys alike."""

import itertools

import numpy as np
import pytest
import torch

from skillmeta.seeds import NAMES, Seeds


def test_values_are_frozen():
    """A change here changes every committed result."""
    stream = Seeds(7, "a1b2c3d4").stream("resets", 2)
    assert stream.entropy() == FROZEN_ENTROPY
    assert stream.integers(2).tolist() == FROZEN_INTEGERS
    assert stream.numpy().integers(2**31) == FROZEN_NUMPY
    assert torch.randint(2**31, (1,), generator=stream.torch()).item() == FROZEN_TORCH


FROZEN_ENTROPY = 329874332496283867607876827999039611941
FROZEN_INTEGERS = [1619569908, 3119029614]
FROZEN_NUMPY = 111636676
FROZEN_TORCH = 134584278


def test_no_two_keys_are_alike():
    runs, tasks, counters = range(4), ("", "0", "1", "01"), ((), (0,), (1,), (0, 0), (1, 0), (0, 1), (10,))
    keys = list(itertools.product(runs, tasks, NAMES, counters))
    found = {Seeds(run, task).stream(name, *counter).entropy() for run, task, name, counter in keys}  # type: ignore[arg-type]
    assert len(found) == len(keys)


def test_a_counter_is_a_level_and_not_a_sum():
    seeds = Seeds(1)
    assert seeds.stream("acting", 0).at(3).entropy() == seeds.stream("acting", 0, 3).entropy()
    assert seeds.stream("acting").entropy() != seeds.stream("acting", 0).entropy()
    assert Seeds(1).stream("updates").entropy() != Seeds(2).stream("weights").entropy()


def test_numpy_integers_are_counters_too():
    """np.int64(3) and 3 name the same stream."""
    assert Seeds(int(np.int64(3))).stream("resets", np.int64(3)) == Seeds(3).stream("resets", 3)  # type: ignore[arg-type]


def test_prefixes_of_integers_agree():
    """Fewer resets are the first of more."""
    stream = Seeds(0).stream("resets")
    assert stream.integers(3).tolist() == stream.integers(5)[:3].tolist() and stream.integers(5).min() >= 0


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="there is no stream 'wieghts'"):
        Seeds(0).stream("wieghts")  # type: ignore[arg-type]
