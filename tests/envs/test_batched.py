"""Environments that are arrays against the same ones, one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from skillmeta.config import build, load
from skillmeta.envs.batched import BatchedEnvs
from skillmeta.envs.serial import SerialEnvs
from skillmeta.tasks.base import TaskConfig, make_family


@pytest.mark.parametrize("preset", ["point_robot", "navigation", "bandit_5", "tabular", "gridworld"])
def test_arrays_of_environments_are_the_same_environments(preset):
    """Four at once, or one by one through Gymnasium's interface: the same observations, rewards and ends."""
    family = make_family(build(TaskConfig, load(f"tasks/{preset}")))
    assert family.native is not None
    arrays, serial = BatchedEnvs(family.native(4), 4), SerialEnvs(family.make_env, 4)
    assert arrays.spec.discrete == serial.spec.discrete and np.array_equal(
        arrays.spec.action_bound, serial.spec.action_bound
    )
    generator = np.random.default_rng(0)
    tasks = family.tasks("train")[:4]
    if preset == "navigation":  # one goal lies at the start: its episode ends at once
        tasks = (replace(tasks[0], x=0.0, y=0.0), *tasks[1:])
    assert np.array_equal(arrays.reset([1, 2, 3, 4], tasks), serial.reset([1, 2, 3, 4], tasks))
    for _ in range(family.max_episode_steps + 2):
        action = generator.uniform(-1, 1, (4, serial.spec.action_dim)).astype(np.float32) * (preset != "navigation")
        a, b = arrays.step(action), serial.step(action)
        assert np.allclose(a.reward, b.reward, atol=1e-6)  # rescaling an action rounds in another order
        assert np.allclose(a.observation, b.observation, atol=1e-6)
        for name in ("terminated", "truncated", "steps", "success"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name
