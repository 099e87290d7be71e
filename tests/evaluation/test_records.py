"""What a page reads from a folder is what was written there, or is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skillmeta.errors import UserError
from skillmeta.evaluation.records import read_part, read_paths

SHAPE = (1, 1, 2, 3, 4)  # seed, repeat, rollouts, tasks, rounds


def part() -> dict[str, np.ndarray]:
    """What an actor did in three tasks and four rounds."""
    flags, steps = np.zeros(SHAPE, bool), np.ones(SHAPE, np.int64)
    rounds = np.zeros(4, bool)
    return {
        "returns": np.random.default_rng(0).normal(size=SHAPE), "success": flags, "success_at_end": flags,
        "env_steps": steps, "steps_to_success": steps, "explored": rounds, "sampled": rounds,
    }  # fmt: skip


def test_a_part_comes_back_as_it_was_kept(tmp_path: Path):
    np.savez(tmp_path / "0.npz", **part())
    for rounds in (4, None):
        found = read_part(tmp_path / "0.npz", 3, rounds)
        assert all(np.array_equal(getattr(found, name), values) for name, values in part().items())


@pytest.mark.parametrize("tasks, rounds", [(2, 4), (3, 5)])
def test_a_part_of_other_tasks_or_rounds_is_refused(tasks: int, rounds: int, tmp_path: Path):
    np.savez(tmp_path / "0.npz", **part())
    with pytest.raises(UserError, match=rf"0.npz, returns: is float64 \(1, 1, 2, 3, 4\) for {tasks} tasks"):
        read_part(tmp_path / "0.npz", tasks, rounds)


@pytest.mark.parametrize(
    "name, values",
    [
        ("returns", np.zeros(SHAPE[1:])), ("returns", np.zeros((1, 0, 2, 3, 4))), ("returns", np.full(SHAPE, np.inf)),
        ("returns", np.zeros(SHAPE, bool)), ("success", np.zeros(SHAPE)), ("success", np.zeros(SHAPE[:-1], bool)),
        ("env_steps", np.zeros(SHAPE)), ("explored", np.zeros(SHAPE, bool)),
    ],
)  # fmt: skip
def test_a_part_of_another_shape_or_kind_is_refused(name: str, values: np.ndarray, tmp_path: Path):
    np.savez(tmp_path / "0.npz", **(part() | {name: values}))
    with pytest.raises(UserError, match=r"0.npz, \w+: (is|are) "):
        read_part(tmp_path / "0.npz", 3)


@pytest.mark.parametrize(
    "path",
    [np.zeros(3), np.zeros((3, 1)), np.zeros((0, 2)), np.zeros((3, 2), int), np.full((3, 2), np.nan)],
    ids=["flat", "one column", "no rows", "integers", "not finite"],
)
def test_what_is_no_path_is_refused_by_name(tmp_path: Path, path: np.ndarray):
    np.savez(tmp_path / "trajectories.npz", final_0=np.ones((4, 3)), final_1=path)
    with pytest.raises(UserError, match=r"trajectories.npz, final_1: is no path of finite \[T, 2\]"):
        read_paths(tmp_path / "trajectories.npz")
