"""From rows in files to points on a curve, by hand-made examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from skillmeta.evaluation.curves import Curve, curve
from skillmeta.evaluation.records import Study, paths, read_study, side_by_side
from tests.reports.fakes import fake_meta_run, write_run

EPISODES = {  # seed -> (env_steps at the end of the episode, success)
    0: [(100, 0), (200, 1), (300, 1), (400, 1)],
    1: [(150, 0), (400, 1)],
}


def write(folder: Path, seeds: dict[int, list[tuple[int, int]]], unfinished: tuple[int, ...] = ()) -> Study:
    for seed, ends in seeds.items():
        where = folder / "methods" / "m" / "task-0" / f"seed-{seed}"
        rows = []
        for i, (steps, success) in enumerate(ends):
            cost = {"env_steps": steps, "episodes": i + 1}
            scores = {"return": 10.0 * success, "success": success, "prior/divergence": 100.0 * seed + i}
            rows.append({"kind": "iteration", **cost, **scores})
        result = None if seed in unfinished else {"success": 1.0 - seed / 4, "return": 1.0}
        write_run(where, {"seed": seed}, rows, result)
    config = {"methods": {"m": {}}, "tasks": [0], "seeds": list(seeds)}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "environment.json").write_text("{}")
    return read_study(folder)


def drawn(study: Study, key: str, axis: str = "env_steps", window: int | None = None) -> Curve:
    found = curve(study, "m", key, axis, window=window)
    assert found is not None
    return found


def at(x: np.ndarray, values: np.ndarray, point: int) -> list[float]:
    """The values [seeds] at the last grid point that is not beyond `point`."""
    return values[np.searchsorted(x, point, side="right") - 1, :, 0].tolist()


def test_a_point_is_the_mean_of_the_last_episodes_that_ended_by_then(tmp_path: Path):
    found = drawn(write(tmp_path, EPISODES), "success", "env_steps", 2)
    assert found.values.shape == (len(found.x), 2, 1)
    assert found.x[0] == 150  # where every run has ended an episode: nothing is made up before it
    assert at(found.x, found.values, 150) == [0.0, 0.0]
    assert at(found.x, found.values, 199) == [0.0, 0.0]  # an episode counts when it ends, not before
    assert at(found.x, found.values, 299) == [0.5, 0.0]
    assert at(found.x, found.values, 399) == [1.0, 0.0]
    assert at(found.x, found.values, 400) == [1.0, 0.5]
    assert found.x[-1] == 400


def test_along_episodes_a_curve_ends_with_the_shortest_run(tmp_path: Path):
    found = drawn(write(tmp_path, EPISODES), "return", "episodes", 10)
    assert found.x.tolist() == [1, 2]
    assert found.values[:, :, 0].tolist() == [[0.0, 0.0], [5.0, 5.0]]


def test_a_window_longer_than_the_run_is_the_mean_of_what_there_is(tmp_path: Path):
    found = drawn(write(tmp_path, EPISODES), "success", "env_steps", 1000)
    assert at(found.x, found.values, 400) == [0.75, 0.5]


def test_a_metric_of_updates_is_the_newest_one(tmp_path: Path):
    found = drawn(write(tmp_path, EPISODES), "prior/divergence", window=1)
    assert at(found.x, found.values, 299) == [1.0, 100.0]
    assert at(found.x, found.values, 400) == [3.0, 101.0]


def test_a_metric_that_is_not_logged_has_no_curve(tmp_path: Path):
    assert curve(write(tmp_path, EPISODES), "m", "no/such") is None


def test_an_unfinished_run_is_named_and_its_seed_left_out(tmp_path: Path):
    study = write(tmp_path, EPISODES, unfinished=(0,))
    assert study.missing == ["m task 0 seed 0"]
    assert study.seeds("m") == [1]
    assert study.values("m", "success").tolist() == [[0.75]]


def test_a_method_without_a_finished_seed_is_not_scored(tmp_path: Path):
    assert write(tmp_path, EPISODES, unfinished=(0, 1)).methods == {}


def test_a_row_torn_by_a_kill_is_left_out(tmp_path: Path):
    write(tmp_path, EPISODES)
    file = tmp_path / "methods" / "m" / "task-0" / "seed-0" / "metrics.jsonl"
    file.write_text(file.read_text() + '{"kind": "iteration", "env_st')
    run = read_study(tmp_path).methods["m"][0][0]
    assert [row["env_steps"] for row in run.rows] == [100, 200, 300, 400]


@pytest.mark.parametrize("when", ["early", "final"])
def test_paths_come_back_as_they_were_kept(tmp_path: Path, when: str):
    run = write(tmp_path, EPISODES).methods["m"][0][0]
    assert paths(run, when) == []  # a family without positions keeps none
    kept = {"early_0": np.zeros((3, 2)), "final_0": np.ones((4, 2)), "final_1": np.ones((5, 2))}
    np.savez_compressed(run.folder / "trajectories.npz", **kept)
    expected = [kept[name] for name in kept if name.startswith(when)]
    assert [path.tolist() for path in paths(run, when)] == [path.tolist() for path in expected]


def test_a_window_holds_ten_episodes_and_five_iterations(tmp_path: Path):
    single = write(tmp_path / "single", EPISODES).methods["m"][0][0]
    fake_meta_run(tmp_path / "many", 1.0, 0)
    many = side_by_side([tmp_path / "many"]).every[0]
    assert (single.row_episodes, single.window) == (1, 10) and (many.row_episodes, many.window) == (8, 5)
    assert many.last("return_last") == pytest.approx(np.mean([8, 9, 10, 11, 12]))


def test_success_counts_the_trials_of_a_window(tmp_path: Path):
    fake_meta_run(tmp_path / "m-0", 1.0, 0)
    found = curve(side_by_side([tmp_path / "m-0"]), "m", "success_last")
    assert found is not None and found.trials == 5 * 4
    returns = curve(side_by_side([tmp_path / "m-0"]), "m", "return_last")
    assert returns is not None and returns.trials is None


def test_a_curve_of_unfinished_runs_goes_as_far_as_all_have_come(tmp_path: Path):
    for seed, count in ((0, 4), (1, 8)):
        rows = [{"kind": "iteration", "env_steps": 10 * i, "return_last": 1.0} for i in range(1, count + 1)]
        write_run(tmp_path / f"m-{seed}", {"seed": seed}, rows, None)
    found = curve(side_by_side([tmp_path / "m-0", tmp_path / "m-1"]), "m", "return_last")
    assert found is not None
    assert found.x[0] == 10 and found.x[-1] == 40 and found.values.shape == (len(found.x), 2, 1)


def test_evaluations_on_held_out_tasks_have_a_curve_of_their_own(tmp_path: Path):
    for seed in (0, 1):
        fake_meta_run(tmp_path / f"m-{seed}", 1.0, seed)
    study = side_by_side([tmp_path / "m-0", tmp_path / "m-1"])
    found = curve(study, "m", "evaluation/return", rows="held_out", window=1)
    assert found is not None and found.values[-1, :, 0].tolist() == [11.0, 12.0]
    assert curve(study, "m", "evaluation/return") is None


def test_a_methods_name_is_its_folders_without_the_seed(tmp_path: Path):
    rows = [{"kind": "iteration", "env_steps": 1, "return": 0.0}]
    folders = []
    for name, seed, arms in (("bandit_10/seed0", 0, 10), ("bandit_10/seed1", 1, 10), ("bandit_50-0", 0, 50)):
        config = {"arms": arms, "task": {"a": 1, "b": 2}}
        if seed:  # written in another order
            config = {"task": {"b": 2, "a": 1}, "arms": arms}
        folders.append(write_run(tmp_path / name, {**config, "seed": seed}, rows, None))
    assert {name: len(same) for name, same in side_by_side(folders).methods.items()} == {"bandit_10": 2, "bandit_50": 1}


def test_a_method_on_all_tasks_of_a_split_has_a_column_a_seed(tmp_path: Path):
    for seed in (0, 1):
        fake_meta_run(tmp_path / "methods" / "meta" / f"seed-{seed}", 1.0, seed)
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"methods": {"meta": {}}, "tasks": [0, 1], "seeds": [0, 1, 2]})
    )
    (tmp_path / "environment.json").write_text("{}")
    study = read_study(tmp_path)
    assert [len(row) for row in study.methods["meta"]] == [1, 1] and study.missing == ["meta seed 2"]
