"""Layouts that logs come in, beside D4RL's: what is read, in which order, and what is left out and said."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from skillmeta.data.layouts import NO_REWARDS, is_vector
from skillmeta.data.sources import fingerprint, load_source
from skillmeta.errors import DataError, UserError
from skillmeta.types import Observed


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# -- flat arrays -------------------------------------------------------------------------------------------------------------
def test_arrays_of_objects_are_refused_with_what_to_save(tmp_path):
    ragged = np.empty(2, object)
    ragged[:] = [numbers(3, 2), numbers(4, 2)]
    np.savez(tmp_path / "log.npz", observations=ragged, actions=ragged)
    with pytest.raises(DataError, match=r"is an array of objects.*save np.concatenate\(.*\) and `lengths`"):
        load_source(str(tmp_path / "log.npz"))


def test_arrays_of_episodes_are_read_as_episodes(tmp_path):
    seen, actions = numbers(4, 6, 3), numbers(4, 6, 2)
    np.savez(tmp_path / "log.npz", observations=seen, actions=actions, rewards=numbers(4, 6))
    dataset = load_source(str(tmp_path / "log.npz"))
    assert dataset.lengths.tolist() == [6] * 4 and any("[episodes, steps, ...]" in note for note in dataset.notes)
    np.testing.assert_array_equal(dataset.episode(2).action[0], actions[2])
    np.testing.assert_array_equal(dataset.episode(2).observation[0], seen[2, [0, 1, 2, 3, 4, 5, 5]])


def test_arrays_of_episodes_may_be_padded_and_have_the_last_observation(tmp_path):
    seen, lengths = numbers(3, 7, 2), np.array([6, 2, 4])
    np.savez(tmp_path / "log.npz", observations=seen, actions=numbers(3, 6, 1), lengths=lengths)
    dataset = load_source(str(tmp_path / "log.npz"))
    assert dataset.lengths.tolist() == [6, 2, 4]
    for e, steps in enumerate(lengths):
        np.testing.assert_array_equal(dataset.episode(e).observation[0], seen[e, : steps + 1])


def padded(kind: str, *shape: int, lengths: tuple[int, ...] = (6, 2, 4, 6)) -> np.ndarray:
    """Episodes [E, T, C] whose rows from the stated lengths on are zeros, NaN, or the last one again."""
    found = numbers(*shape)
    for e, steps in enumerate(lengths):
        found[e, steps:] = {"zeros": 0, "nan": np.nan, "last": found[e, steps - 1]}[kind]
    return found


@pytest.mark.parametrize("part", [1, 100, 10**6])
@pytest.mark.parametrize(("kind", "most"), [("zeros", 4), ("last", 5)])
def test_padding_without_lengths_is_noted(tmp_path, monkeypatch, kind, most, part):
    """Of observations alone it is none: something stands still."""
    monkeypatch.setattr("skillmeta.data.room.PART", part)
    said = f"2 of 4 episodes end with equal rows (up to {most} of them): if that is padding, save `lengths`"
    seen, actions = padded(kind, 4, 6, 3), padded(kind, 4, 6, 2)
    for arrays, expected in (
        ({"observations": seen, "actions": actions}, True),
        ({"observations": seen, "actions": numbers(4, 6, 2)}, False),
        ({"observations": numbers(4, 6, 2), "actions": actions}, False),
        ({"observations": seen, "actions": actions, "lengths": np.array([6, 2, 4, 6])}, False),
    ):
        np.savez(tmp_path / "log.npz", **arrays)
        notes = load_source(str(tmp_path / "log.npz")).notes
        assert any(note.startswith(said) for note in notes) is expected
        assert any("end with equal rows" in note for note in notes) is expected


def test_padding_by_nan_asks_for_lengths(tmp_path):
    seen, actions = padded("nan", 4, 6, 3), padded("zeros", 4, 6, 2)
    np.savez(tmp_path / "log.npz", observations=seen, actions=actions)
    with pytest.raises(
        DataError, match="log.npz: has rows of NaN at the end of 2 episodes: if that is padding, save `len"
    ):
        load_source(str(tmp_path / "log.npz"))
    np.savez(tmp_path / "log.npz", observations=seen, actions=actions, lengths=np.array([6, 2, 4, 6]))
    assert load_source(str(tmp_path / "log.npz")).lengths.tolist() == [6, 2, 4, 6]
    seen = numbers(4, 6, 3)
    seen[2, 5, 1] = np.nan  # a single one is none
    np.savez(tmp_path / "log.npz", observations=seen, actions=actions)
    with pytest.raises(DataError, match="episode 2, observations: step 5 is not finite"):
        load_source(str(tmp_path / "log.npz"))


@pytest.mark.parametrize("lengths", [[6, -1, 4], [6, 7, 4], [6, 2], [6, 2, 4, 1], [6.0, 2.0, 4.0]], ids=str)
def test_lengths_that_episodes_cannot_have_are_refused(tmp_path, lengths):
    np.savez(tmp_path / "log.npz", observations=numbers(3, 6, 2), actions=numbers(3, 6, 1), lengths=np.array(lengths))
    with pytest.raises(DataError, match="log.npz, lengths: 0 to 6 steps for each of 3 episodes are expected"):
        load_source(str(tmp_path / "log.npz"))


@pytest.mark.parametrize("column", [(), (1,)])
@pytest.mark.parametrize("name", ["rewards", "terminals", "timeouts"])
def test_arrays_of_episodes_may_have_an_action_of_one_number(tmp_path, name, column):
    """[episodes, steps], as rewards or flags say, which may be a column; columns alone are no episodes."""
    actions, marks = numbers(4, 6), (np.arange(24) % 6 == 5).reshape(4, 6, *column)
    np.savez(tmp_path / "log.npz", observations=numbers(4, 6, 3), actions=actions, **{name: marks})
    dataset = load_source(str(tmp_path / "log.npz"))
    assert dataset.lengths.tolist() == [6] * 4 and dataset.action.tolist() == actions.reshape(-1, 1).tolist()
    found = {"rewards": dataset.reward, "terminals": dataset.terminated, "timeouts": dataset.truncated}[name]
    assert found.tolist() == marks.reshape(-1).tolist()
    marks = (np.arange(24) == 23).reshape(24, *column)
    np.savez(tmp_path / "log.npz", observations=numbers(24, 3), actions=numbers(24, 1), **{name: marks})
    assert load_source(str(tmp_path / "log.npz")).lengths.tolist() == [24]


@pytest.mark.parametrize("mark", ["terminals", "timeouts", "lengths", "starts", "episode"])
def test_one_observation_more_than_actions_is_the_last_of_a_single_episode(tmp_path, mark):
    """Which a file is that marks none, or one of a folder."""
    arrays, flags = {"observations": numbers(13, 2), "actions": numbers(12, 1)}, np.arange(12) == 11
    marks = {"lengths": np.array([12]), "starts": np.array([0]), "episode": np.zeros(12, int)}
    np.savez(tmp_path / "log.npz", **arrays)
    dataset = load_source(str(tmp_path / "log.npz"))
    np.testing.assert_array_equal(dataset.observation, arrays["observations"])
    np.savez(tmp_path / "log.npz", **arrays, **{mark: marks.get(mark, flags)})
    with pytest.raises(DataError, match="log.npz, observations: has 13 rows, actions have 12"):
        load_source(str(tmp_path / "log.npz"))
    np.testing.assert_array_equal(load_source(str(tmp_path)).observation, arrays["observations"])


@pytest.mark.parametrize("kind", [np.int32, np.uint8, bool])
def test_integers_flags_and_single_columns_are_numbers(tmp_path, kind):
    values = (np.arange(20) % 2).astype(kind)
    np.savez(tmp_path / "log.npz", observations=values[:, None], actions=values, lengths=np.array([20]))
    dataset = load_source(str(tmp_path / "log.npz"))
    assert dataset.action.shape == (20, 1) and dataset.observation.dtype == np.float32
    np.testing.assert_array_equal(dataset.action[:, 0], values)
    assert any("read as quantities" in note for note in dataset.notes)


def test_a_folder_of_flat_files_has_an_episode_in_each(tmp_path):
    with h5py.File(tmp_path / "episode_11.h5", "w") as file:
        file["observations"], file["actions"] = numbers(2, 2), numbers(2, 1)
    for number, steps in ((10, 4), (2, 3)):
        last = {"observations": numbers(steps + 1, 2, seed=number)} if number == 2 else {"obs": numbers(steps, 2)}
        np.savez(tmp_path / f"episode_{number}.npz", **last, action=numbers(steps, 1, seed=number))
    dataset = load_source(str(tmp_path))
    assert dataset.lengths.tolist() == [3, 4, 2]  # 2 before 10
    np.testing.assert_array_equal(dataset.episode(0).observation[0], numbers(4, 2, seed=2))
    before = fingerprint(str(tmp_path))[1]
    np.savez(tmp_path / "episode_10.npz", observations=numbers(4, 2), actions=numbers(4, 1))
    assert fingerprint(str(tmp_path))[1] != before


@pytest.mark.parametrize("group", ["obs", "observation", "next_obs", "sense"])
def test_a_group_may_have_a_name_of_the_observations_where_the_state_is_named(tmp_path, group):
    """In one file, and in a folder of files."""
    (tmp_path / "logs").mkdir()
    keys = (f"{group}/joint", f"{group}/target")
    for number in range(2):
        with h5py.File(tmp_path / "logs" / f"ep_{number}.h5", "w") as file:
            file[keys[0]], file[keys[1]], file["action"] = numbers(6, 2), numbers(6, 3, seed=1), numbers(6, 1)
    for place, lengths in ((tmp_path / "logs", [6, 6]), (tmp_path / "logs" / "ep_0.h5", [6])):
        dataset = load_source(f"{place}?{','.join(keys)}")
        assert dataset.lengths.tolist() == lengths
        assert dataset.observed == (Observed(keys[0], 2), Observed(keys[1], 3))
        assert not any(note.startswith("not read") for note in dataset.notes)
        np.testing.assert_array_equal(
            dataset.observation[:6], np.concatenate([numbers(6, 2), numbers(6, 3, seed=1)], 1)
        )


def test_an_array_of_objects_that_is_not_read_does_not_matter(tmp_path):
    np.savez(tmp_path / "log.npz", obs=np.array([{}, {}], object), q=numbers(6, 2), actions=numbers(6, 1))
    assert load_source(f"{tmp_path / 'log.npz'}?q").observation_dim == 2


def test_a_file_of_a_folder_that_marks_no_end_is_one_episode_whatever_moves_in_it(tmp_path):
    seen = numbers(60, 2).cumsum(0) / 100
    seen[30:] += 100  # by far
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", observations=seen, actions=numbers(60, 1))
    assert load_source(str(tmp_path)).lengths.tolist() == [60, 60]
    assert load_source(str(tmp_path / "a.npz")).lengths.tolist() == [30, 30]


@pytest.mark.parametrize(
    ("shape", "kind", "vector"),
    [
        ((), "f4", True),
        ((3,), "u1", True),
        ((3, 4), "f4", True),
        ((8, 8), "u1", False),
        ((8, 8, 3), "f4", False),
        ((3,), "S1", False),
    ],
)
def test_images_are_no_vectors(shape, kind, vector):
    assert is_vector(shape, np.dtype(kind)) == vector


@pytest.mark.parametrize(("far", "step"), [(-3.0, 4), (2.5, 4), (1.2, 7)])
def test_of_actions_outside_a_stated_space_the_farthest_is_named(tmp_path, far, step):
    actions = np.linspace(-1, 1, 12, dtype=np.float32)[:, None].copy()
    actions[7], actions[4] = 1.5, far
    np.savez(tmp_path / "log.npz", observations=numbers(12, 2), actions=actions)
    with pytest.raises(DataError, match=rf"episode 0, actions: step {step} is \["):
        load_source(f"{tmp_path / 'log.npz'}?actions=unit")


def test_episodes_of_unequal_columns_are_refused(tmp_path):
    for name, size in (("a", 2), ("b", 3)):
        np.savez(tmp_path / f"{name}.npz", observations=numbers(12, size), actions=numbers(12, 1))
    with pytest.raises(
        DataError, match="episode 1, observations: has 3 columns, episode 0 has 2; all episodes must record"
    ):
        load_source(str(tmp_path))


def test_named_arrays_make_the_state_in_their_order(tmp_path):
    arrays = {"observations": numbers(9, 2), "actions": numbers(9, 1), "lengths": np.array([5, 4])}
    with h5py.File(tmp_path / "log.hdf5", "w") as file:
        for name, values in {**arrays, "infos/goal": numbers(9, 3, seed=1)}.items():
            file[name] = values
    dataset = load_source(f"{tmp_path / 'log.hdf5'}?infos/goal,observations")
    assert dataset.observed == (Observed("infos/goal", 3), Observed("observations", 2))
    np.testing.assert_array_equal(dataset.episode(1).observation[0, :4, :3], numbers(9, 3, seed=1)[5:])
    with pytest.raises(DataError, match="no array 'infos/start'|infos/start: is missing"):
        load_source(f"{tmp_path / 'log.hdf5'}?infos/start")
    with pytest.raises(DataError, match="has no option 'limit'; actions and time_limit can be set here"):
        load_source(f"{tmp_path / 'log.hdf5'}?limit=4")


@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
def test_loading_takes_no_more_than_twice_the_file(tmp_path, suffix):
    path, steps = tmp_path / f"log{suffix}", 40_000
    content = {
        "observations": numbers(steps, 40),
        "actions": numbers(steps, 4),
        "timeouts": np.arange(1, steps + 1) % 100 == 0,
    }
    if suffix == ".npz":
        np.savez(path, **content)
    else:
        with h5py.File(path, "w") as file:
            for name, values in content.items():
                file[name] = values
    del content
    size = path.stat().st_size
    tracemalloc.start()
    load_source(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.6 * size  # of so small a file: what is looked at at once counts


# -- units ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_units_of_actions_do_not_matter(tmp_path, scale):
    """Scaled to [-1, 1] they are the same numbers."""
    actions = np.stack([np.linspace(-0.4, 0.8, 50), np.sin(np.arange(50)) / 30_000, np.full(50, 0.2)], 1)
    np.savez(tmp_path / "log.npz", observations=numbers(50, 2), actions=scale * actions)
    dataset = load_source(str(tmp_path / "log.npz"))
    low, high = dataset.action_low, dataset.action_high
    unit = (dataset.action - (low + high) / 2) / ((high - low) / 2)
    np.testing.assert_allclose(unit[:, 0], np.linspace(-1, 1, 50), atol=1e-5)
    assert unit[:, 1].min() == pytest.approx(-1, abs=1e-4) and unit[:, 1].max() == pytest.approx(1, abs=1e-4)
    assert np.abs(unit[:, 2]).max() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("least", "most", "unit"),
    [
        (-0.95, 0.97, True), (-1, 0.9, True), (-0.9, 1, True), (-1.00005, 1.00005, True),
        (-1.01, 1, False), (-1, 1.01, False), (-0.5, 1, False),
    ],
)  # fmt: skip
def test_actions_that_nearly_fill_the_unit_box_are_of_it(tmp_path, least, most, unit):
    actions = np.linspace((least, -0.2), (most, 0.1), 50)
    np.savez(tmp_path / "log.npz", observations=numbers(50, 2), actions=actions)
    dataset = load_source(str(tmp_path / "log.npz"))
    low, high = (-1, 1) if unit else (least, most)
    np.testing.assert_allclose([dataset.action_low, dataset.action_high], [[low, -0.2], [high, 0.1]], rtol=1e-6)


# -- mappings of observations --------------------------------------------------------------------------------------------------
def minari_mapping(tmp_path: Path, monkeypatch: Any) -> dict[str, Any]:
    import minari
    from gymnasium.spaces import Box, Dict
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    seen = {"joints": numbers(6, 3), "arm": {"force": numbers(6, 2, seed=1), "gripper": numbers(6, 1, seed=2)}}
    flags, box = [False] * 5, lambda n: Box(-9, 9, (n,), np.float32)
    buffer = EpisodeBuffer(
        0, None, None, seen, np.full((5, 1), 0.01, np.float32), [0.0] * 5, flags, [*flags[:4], True], {}
    )
    space = Dict(joints=box(3), arm=Dict(force=box(2), gripper=box(1)))
    with pytest.warns(UserWarning):
        minari.create_dataset_from_buffers(
            "test/parts-v0", [buffer], observation_space=space, action_space=Box(-1, 1, (1,))
        )
    return seen


def test_several_keys_make_the_state_in_their_order(tmp_path, monkeypatch):
    seen = minari_mapping(tmp_path, monkeypatch)
    dataset = load_source("minari:test/parts-v0?joints,arm/gripper")
    assert dataset.observed == (Observed("joints", 3), Observed("arm/gripper", 1))
    np.testing.assert_array_equal(dataset.observation, np.concatenate([seen["joints"], seen["arm"]["gripper"]], 1))
    assert "observations are joints (3), arm/gripper (1); left out: arm/force" in dataset.notes
    every = load_source("minari:test/parts-v0?*")
    assert [part.key for part in every.observed] == ["joints", "arm/force", "arm/gripper"]  # as its space has them
    with pytest.raises(DataError, match=r"joints \(3\).*which of them make the state.*or \?\* for all"):
        load_source("minari:test/parts-v0")
    with pytest.raises(DataError, match="has no legs"):
        load_source("minari:test/parts-v0?joints,legs")


def test_a_stated_action_space_is_kept_unless_the_span_is_asked_for(tmp_path, monkeypatch):
    minari_mapping(tmp_path, monkeypatch)
    assert load_source("minari:test/parts-v0?*").action_high.tolist() == [1.0]
    assert load_source("minari:test/parts-v0?*&actions=span").action_high.tolist() != [1.0]
    assert load_source("minari:test/parts-v0?*&actions=unit").action_low.tolist() == [-1.0]
    with pytest.raises(DataError, match="actions is 'wide'; choose space or span or unit"):
        load_source("minari:test/parts-v0?*&actions=wide")


# -- robot demonstrations ------------------------------------------------------------------------------------------------------
def robomimic(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for number, steps in ((10, 4), (2, 3), (3, 0)):
            demo = file.create_group(f"data/demo_{number}")
            demo["actions"], demo["rewards"] = numbers(steps, 2, seed=number), np.ones(steps)
            demo["dones"] = np.eye(1, max(1, steps), steps - 1)[0][:steps]
            for group in ("obs", "next_obs"):
                demo[f"{group}/object"] = numbers(steps, 3, seed=number) + (group == "next_obs")
                demo[f"{group}/eef"] = numbers(steps, 1, seed=number + 1) + (group == "next_obs")
                demo[f"{group}/image"] = np.zeros((steps, 4, 4, 3), np.uint8)
        file["mask/train"] = np.array([b"demo_10"])


def test_robomimic_demonstrations_are_read_in_the_order_of_their_numbers(tmp_path):
    robomimic(tmp_path / "demos.hdf5")
    dataset = load_source(f"{tmp_path / 'demos.hdf5'}?eef,object")
    assert dataset.lengths.tolist() == [3, 4] and dataset.observed == (Observed("eef", 1), Observed("object", 3))
    np.testing.assert_array_equal(dataset.episode(0).observation[0, :-1, 1:], numbers(3, 3, seed=2))
    np.testing.assert_array_equal(dataset.episode(0).observation[0, -1, 1:], numbers(3, 3, seed=2)[-1] + 1)
    assert not dataset.terminated.any() and dataset.truncated.sum() == 2 and dataset.reward.tolist() == [1.0] * 7
    assert any("1 of 3 episodes has no steps" in note for note in dataset.notes) and NO_REWARDS not in dataset.notes
    with h5py.File(tmp_path / "demos.hdf5", "a") as file:
        for demo in file["data"].values():
            del demo["rewards"]
    assert NO_REWARDS in load_source(f"{tmp_path / 'demos.hdf5'}?eef,object").notes
    assert load_source(f"{tmp_path / 'demos.hdf5'}?eef&mask=train").lengths.tolist() == [4]
    with pytest.raises(DataError, match=r"robomimic's layout.*eef \(1\), object \(3\)"):
        load_source(str(tmp_path / "demos.hdf5"))
    with pytest.raises(DataError, match="has no mask 'valid'; it has train"):
        load_source(f"{tmp_path / 'demos.hdf5'}?eef&mask=valid")


def test_arrays_in_a_group_that_robomimic_uses_are_a_sentence(tmp_path):
    with h5py.File(tmp_path / "log.h5", "w") as file:
        file.create_group("data")["observations"] = numbers(6, 2)
    with pytest.raises(DataError, match="no groups demo_0, .*; arrays of all steps belong at the top of the file"):
        load_source(str(tmp_path / "log.h5"))


@pytest.mark.parametrize("whole_folder", [False, True])
def test_aloha_has_an_episode_a_file(tmp_path, whole_folder):
    for number in (1, 0):
        with h5py.File(tmp_path / f"episode_{number}.hdf5", "w") as file:
            file["observations/qpos"], file["action"] = numbers(5 + number, 3, seed=number), numbers(5 + number, 2)
            file["observations/images/top"] = np.zeros((5 + number, 4, 4, 3), np.uint8)
    dataset = load_source(str(tmp_path if whole_folder else tmp_path / "episode_1.hdf5"))
    assert dataset.lengths.tolist() == ([5, 6] if whole_folder else [6])
    np.testing.assert_array_equal(dataset.episode(-1 % dataset.num_episodes).observation[0, :-1], numbers(6, 3, seed=1))
    assert any("images are left out: images/top" in note for note in dataset.notes)


def lerobot(folder: Path, version: str, episodes: tuple[int, ...] = (4, 3), size: int = 3) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    number = {"dtype": "float32", "shape": [2]}
    features = {
        "observation.state": {"dtype": "float32", "shape": [size]},
        "observation.environment_state": number,
        "observation.images.top": {"dtype": "video", "shape": [4, 4, 3]},
        "action": number,
        "next.reward": {"dtype": "float32", "shape": [1]},
        "episode_index": {"dtype": "int64", "shape": [1]},
    }
    (folder / "meta").mkdir(parents=True)
    about = {"codebase_version": version, "total_episodes": len(episodes), "features": features}
    (folder / "meta" / "info.json").write_text(json.dumps(about))
    tables = []
    for index, steps in enumerate(episodes):
        columns = {
            "observation.state": pyarrow.array(
                list(numbers(steps, size, seed=index)), pyarrow.list_(pyarrow.float32(), size)
            ),
            "observation.environment_state": list(numbers(steps, 2, seed=10 + index)),
            "action": list(numbers(steps, 2, seed=20 + index)),
            "next.reward": np.full(steps, index, np.float32),
            "episode_index": np.full(steps, index),
        }
        tables.append(pyarrow.table(columns))
    (folder / "data" / "chunk-000").mkdir(parents=True)
    if version.startswith("v2"):
        for index, table in enumerate(tables):
            parquet.write_table(table, folder / "data" / "chunk-000" / f"episode_{index:06d}.parquet")
    else:
        parquet.write_table(pyarrow.concat_tables(tables), folder / "data" / "chunk-000" / "file-000.parquet")


@pytest.mark.parametrize(("version", "size"), [("v2.1", 3), ("v3.0", 3), ("v3.0", 64)])
def test_both_lerobot_layouts_are_read_alike(tmp_path, version, size):
    lerobot(tmp_path / "set", version, size=size)
    dataset = load_source(str(tmp_path / "set"))
    assert dataset.lengths.tolist() == [4, 3] and dataset.reward.tolist() == [0.0] * 4 + [1.0] * 3
    np.testing.assert_array_equal(dataset.episode(1).observation[0, :-1], numbers(3, size, seed=1))
    np.testing.assert_array_equal(dataset.episode(1).action[0], numbers(3, 2, seed=21))
    assert any("video and images are left out: observation.images.top" in note for note in dataset.notes)
    wide = load_source(f"{tmp_path / 'set'}?observation.environment_state,observation.state")
    np.testing.assert_array_equal(wide.episode(0).observation[0, :-1, :2], numbers(4, 2, seed=10))
    assert [part.size for part in wide.observed] == [2, size]


@pytest.mark.parametrize("shape", [3, None, "3", ["3"], [3.0], [0], [3, -1], [2**20]])
def test_a_lerobot_feature_whose_shape_is_no_list_of_sizes_is_refused(tmp_path, shape):
    lerobot(tmp_path / "set", "v3.0")
    info = tmp_path / "set" / "meta" / "info.json"
    about = json.loads(info.read_text())
    about["features"]["observation.state"]["shape"] = shape
    info.write_text(json.dumps(about))
    with pytest.raises(DataError, match="the shape of observation.state is .*; a list of sizes is expected"):
        load_source(str(tmp_path / "set"))


def test_a_lerobot_table_that_promises_more_than_its_file_can_have_is_refused(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    lerobot(tmp_path / "set", "v3.0")
    (path,) = (tmp_path / "set" / "data").rglob("*.parquet")
    sizes = {"observation.state": 3, "action": 2, "next.reward": 1, "episode_index": 1}
    zeros = {name: list(np.zeros((10_000, size), np.float32)) for name, size in sizes.items()}
    parquet.write_table(pyarrow.table(zeros), path)
    monkeypatch.setattr("skillmeta.reading.ARRAY_BYTES", 0)
    monkeypatch.setattr("skillmeta.reading.SHRUNK", 10)
    with pytest.raises(DataError, match="file-000.parquet, the table: promises 280,000 bytes"):
        load_source(str(tmp_path / "set"))


def test_damaged_and_older_lerobot_folders_are_a_sentence(tmp_path):
    lerobot(tmp_path / "set", "v2.1")
    file = tmp_path / "set" / "data" / "chunk-000" / "episode_000001.parquet"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(DataError, match="episode_000001.parquet: cannot be read"):
        load_source(str(tmp_path / "set"))
    file.unlink()
    with pytest.raises(DataError, match="holds 1 episodes, its meta/info.json says 2"):
        load_source(str(tmp_path / "set"))
    info = tmp_path / "set" / "meta" / "info.json"
    info.write_text(info.read_text().replace("v2.1", "v1.6"))
    with pytest.raises(DataError, match="LeRobot's format 'v1.6'; v2.x and v3.x are read"):
        load_source(str(tmp_path / "set"))


def test_a_missing_pyarrow_names_the_extra(tmp_path, monkeypatch):
    import sys

    lerobot(tmp_path / "set", "v2.1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"\.\[lerobot\]"):
        load_source(str(tmp_path / "set"))


# -- of strangers --------------------------------------------------------------------------------------------------------------
def test_layouts_follow_no_links_out_of_a_file_or_folder(tmp_path):
    with h5py.File(tmp_path / "theirs.hdf5", "w") as file:
        file["x"] = numbers(4, 3)
    robomimic(tmp_path / "demos.hdf5")
    with h5py.File(tmp_path / "demos.hdf5", "a") as file:
        del file["data/demo_10/obs/object"]
        file["data/demo_10/obs/object"] = h5py.ExternalLink(str(tmp_path / "theirs.hdf5"), "x")
    with pytest.raises(DataError, match="data/demo_10/obs/object: is a link"):
        load_source(f"{tmp_path / 'demos.hdf5'}?object")
    with h5py.File(tmp_path / "episode_0.hdf5", "w") as file:
        file["observations/qpos"] = h5py.ExternalLink(str(tmp_path / "theirs.hdf5"), "x")
        file["action"] = numbers(4, 2)
    with pytest.raises(DataError, match="observations/qpos: is a link"):
        load_source(str(tmp_path / "episode_0.hdf5"))
    (tmp_path / "mine").mkdir()
    np.savez(tmp_path / "theirs.npz", observations=numbers(4, 2), actions=numbers(4, 2))
    (tmp_path / "mine" / "a.npz").symlink_to(tmp_path / "theirs.npz")
    with pytest.raises(UserError, match="is a link that leads out"):
        load_source(str(tmp_path / "mine"))
