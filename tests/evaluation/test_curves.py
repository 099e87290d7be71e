"""From rows in files to points on a curve, by hand-made examples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from skillmeta.evaluation.curves import Ablation, paths, read_ablation, training_curve, update_curve

EPISODES = {  # seed -> (env_steps at the end of the episode, success)
    0: [(100, 0), (200, 1), (300, 1), (400, 1)],
    1: [(150, 0), (400, 1)],
}


def write(folder: Path, seeds: dict[int, list[tuple[int, int]]], unfinished: tuple[int, ...] = ()) -> Ablation:
    for seed, ends in seeds.items():
        where = folder / "methods" / "m" / "task-0" / f"seed-{seed}"
        where.mkdir(parents=True)
        rows = []
        for i, (steps, success) in enumerate(ends):
            bill = {"env_steps": steps, "episodes": i + 1}
            rows.append({"kind": "episode", **bill, "return": 10.0 * success, "success": success, "length": 1})
            rows.append({"kind": "update", **bill, "prior/divergence": 100.0 * seed + i})
        (where / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if seed not in unfinished:
            (where / "result.json").write_text(json.dumps({"success": 1.0 - seed / 4, "return": 1.0}))
    config = {"methods": {"m": {}}, "tasks": [0], "seeds": list(seeds)}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "environment.json").write_text("{}")
    return read_ablation(folder)


def at(x: np.ndarray, values: np.ndarray, point: int) -> list[float]:
    """The values [seeds] at the last grid point that is not beyond `point`."""
    return values[np.searchsorted(x, point, side="right") - 1, :, 0].tolist()


def test_a_point_is_the_mean_of_the_last_episodes_that_ended_by_then(tmp_path: Path):
    curve = training_curve(write(tmp_path, EPISODES), "m", "success", "env_steps", window=2)
    assert curve.values.shape == (len(curve.x), 2, 1)
    assert curve.x[0] == 150  # where every run has ended an episode: nothing is made up before it
    assert at(curve.x, curve.values, 150) == [0.0, 0.0]
    assert at(curve.x, curve.values, 199) == [0.0, 0.0]  # an episode counts when it ends, not before
    assert at(curve.x, curve.values, 299) == [0.5, 0.0]
    assert at(curve.x, curve.values, 399) == [1.0, 0.0]
    assert at(curve.x, curve.values, 400) == [1.0, 0.5]
    assert curve.x[-1] == 400


def test_along_episodes_a_curve_ends_with_the_shortest_run(tmp_path: Path):
    curve = training_curve(write(tmp_path, EPISODES), "m", "return", "episodes", window=10)
    assert curve.x.tolist() == [1, 2]
    assert curve.values[:, :, 0].tolist() == [[0.0, 0.0], [5.0, 5.0]]


def test_a_window_longer_than_the_run_is_the_mean_of_what_there_is(tmp_path: Path):
    curve = training_curve(write(tmp_path, EPISODES), "m", "success", "env_steps", window=1000)
    assert at(curve.x, curve.values, 400) == [0.75, 0.5]


def test_a_metric_of_updates_is_the_newest_one(tmp_path: Path):
    curve = update_curve(write(tmp_path, EPISODES), "m", "prior/divergence")
    assert curve is not None
    assert at(curve.x, curve.values, 299) == [1.0, 100.0]
    assert at(curve.x, curve.values, 400) == [3.0, 101.0]


def test_a_metric_that_is_not_logged_has_no_curve(tmp_path: Path):
    assert update_curve(write(tmp_path, EPISODES), "m", "no/such") is None


def test_an_unfinished_run_is_named_and_its_seed_left_out(tmp_path: Path):
    ablation = write(tmp_path, EPISODES, unfinished=(0,))
    assert ablation.missing == ["m task 0 seed 0"]
    assert ablation.complete_seeds("m") == [1]
    assert ablation.values("m", "success").tolist() == [[0.75]]


def test_a_method_without_a_finished_seed_is_not_scored(tmp_path: Path):
    assert write(tmp_path, EPISODES, unfinished=(0, 1)).methods == []


def test_a_row_torn_by_a_kill_is_left_out(tmp_path: Path):
    write(tmp_path, EPISODES)
    file = tmp_path / "methods" / "m" / "task-0" / "seed-0" / "metrics.jsonl"
    file.write_text(file.read_text() + '{"kind": "episode", "env_st')
    run = read_ablation(tmp_path).of("m")[0][0]
    assert [row["env_steps"] for row in run.episodes] == [100, 200, 300, 400]


@pytest.mark.parametrize("when", ["early", "final"])
def test_paths_come_back_as_they_were_kept(tmp_path: Path, when: str):
    run = write(tmp_path, EPISODES).of("m")[0][0]
    assert paths(run, when) == []  # a family without positions keeps none
    kept = {"early_0": np.zeros((3, 2)), "final_0": np.ones((4, 2)), "final_1": np.ones((5, 2))}
    np.savez_compressed(run.folder / "trajectories.npz", **kept)
    expected = [kept[name] for name in kept if name.startswith(when)]
    assert [path.tolist() for path in paths(run, when)] == [path.tolist() for path in expected]
