"""Every kind of source, and every way in which one can be broken: a sentence that names file, episode and field."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import h5py
import numpy as np
import pytest

from pretrain.inspect import main as inspect
from skillmeta.data import d4rl_table
from skillmeta.data.episodes import single_episode
from skillmeta.data.logs import Logs
from skillmeta.data.minari_store import dataset_folder, exists, write_minari
from skillmeta.data.sources import load_source
from skillmeta.data.summary import summarize
from skillmeta.errors import DataError, UserError
from skillmeta.types import Episodes

SHARED = Path(__file__).parents[3] / "shared" / "data"


def arrays(steps: int = 30, generator: int = 0) -> dict[str, np.ndarray]:
    """Three episodes of ten steps in D4RL's flat layout: the first ends by itself, the others by time."""
    rng = np.random.default_rng(generator)
    terminals, timeouts = np.zeros(steps, bool), np.zeros(steps, bool)
    terminals[9], timeouts[19], timeouts[29] = True, True, True
    return {
        "observations": rng.normal(size=(steps, 4)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        "rewards": np.ones(steps, np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
    }


def write(path: Path, content: dict[str, np.ndarray]) -> str:
    if path.suffix == ".npz":
        np.savez(path, **content)
    else:
        with h5py.File(path, "w") as file:
            for name, value in content.items():
                file[name] = value
    return str(path)


@pytest.mark.parametrize("suffix", [".hdf5", ".h5", ".npz"])
def test_d4rls_flat_layout_ends_episodes_at_terminals_or_timeouts(tmp_path, suffix):
    content = arrays()
    dataset = load_source(write(tmp_path / f"log{suffix}", content))
    assert dataset.lengths.tolist() == [10, 10, 10]
    assert dataset.terminated.nonzero()[0].tolist() == [9]
    assert dataset.truncated.nonzero()[0].tolist() == [19, 29]
    np.testing.assert_array_equal(dataset.episode(1).observation[0, :-1], content["observations"][10:20])
    np.testing.assert_array_equal(dataset.action, content["actions"])


def test_next_observations_give_each_episode_its_last_one(tmp_path):
    content = arrays()
    content["next_observations"] = np.roll(content["observations"], -1, 0)
    content["next_observations"][[9, 19, 29]] += 1
    dataset = load_source(write(tmp_path / "log.hdf5", content))
    np.testing.assert_array_equal(dataset.episode(0).observation[0, -1], content["next_observations"][9])


def test_kitchen_terminals_are_the_end_of_a_recording_not_of_the_world(tmp_path):
    content = arrays()
    del content["timeouts"]
    content["terminals"] = content["terminals"].astype(np.float32)
    content["terminals"][[19, 29]] = 1.0
    dataset = load_source(write(tmp_path / "kitchen.hdf5", content))
    assert dataset.num_episodes == 3 and not dataset.terminated.any() and dataset.truncated.sum() == 3
    assert any("kitchen" in note for note in dataset.notes)


@pytest.mark.parametrize(
    ("key", "value"), [("lengths", [10, 20]), ("starts", [0, 10]), ("episode", [0] * 10 + [1] * 20)]
)
def test_episodes_can_be_marked_in_other_ways(tmp_path, key, value):
    content = arrays()
    del content["terminals"], content["timeouts"]
    content[key] = np.array(value)
    assert load_source(write(tmp_path / "log.npz", content)).lengths.tolist() == [10, 20]


def test_two_columns_of_rewards_and_unmarked_tails_are_understood(tmp_path):
    content = arrays()
    content["rewards"] = content["rewards"][:, None]
    content["timeouts"][29] = False
    dataset = load_source(write(tmp_path / "log.hdf5", content))
    assert dataset.lengths.tolist() == [10, 10, 10] and any("no end flag" in note for note in dataset.notes)


def change(**changes):
    def apply(content: dict[str, np.ndarray]) -> None:
        for name, value in changes.items():
            content[name] = value(content[name]) if callable(value) else value

    return apply


def spoil(row: int, value: float):
    def apply(a: np.ndarray) -> np.ndarray:
        a = a.copy()
        a[row] = value
        return a

    return apply


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda c: c.pop("actions"), ["log", "no array 'actions'"]),
        (lambda c: c.pop("observations"), ["log", "no array 'observations'"]),
        (change(observations=lambda a: a[:-1]), ["log", "observations", "29 rows", "30"]),
        (change(rewards=lambda a: a[:-1]), ["log", "rewards", "29 rows"]),
        (change(terminals=lambda a: a[:-1]), ["log", "terminals", "29 rows"]),
        (change(timeouts=lambda a: a[:-2]), ["log", "timeouts", "28 rows"]),
        (change(observations=spoil(12, np.nan)), ["log", "episode 1", "observations", "step 2", "not finite"]),
        (change(actions=spoil(25, np.inf)), ["log", "episode 2", "actions", "step 5", "not finite"]),
        (change(rewards=spoil(3, np.nan)), ["log", "episode 0", "rewards", "step 3"]),
        (change(actions=lambda a: a.astype(complex)), ["log", "actions", "complex"]),
        (change(observations=lambda a: np.zeros((30, 8, 8, 3), np.uint8)), ["log", "observations", "images"]),
        (change(terminals=lambda a: a.astype("S1")), ["log", "terminals"]),
        (lambda c: [c.update({k: v[:0]}) for k, v in list(c.items())], ["log", "actions", "empty"]),
        (change(lengths=np.array([10, 10])), ["log", "lengths", "20", "30"]),
        (change(starts=np.array([5, 10])), ["log", "starts", "begin with 0"]),
        (change(episode=np.zeros(7)), ["log", "episode", "7 rows"]),
    ],
)
@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
def test_a_broken_log_is_refused_in_one_sentence(tmp_path, suffix, broken, words):
    content = arrays()
    broken(content)
    if {"lengths", "starts", "episode"} & set(content):
        del content["terminals"], content["timeouts"]
    with pytest.raises(DataError) as caught:
        load_source(write(tmp_path / f"log{suffix}", content))
    sentence = str(caught.value)
    assert "\n" not in sentence and all(word in sentence for word in words), sentence


def test_actions_outside_their_space_are_refused_or_clipped(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    wild = single_episode(np.zeros((6, 2)), np.full((5, 1), 0.5), np.zeros(5), np.zeros(5, bool), np.zeros(5, bool))
    wild.action[0, 3] = 1.5
    write_minari("test/wild-v0", [wild], np.array([-1.0]), np.array([1.0]))
    with pytest.raises(DataError, match=r"minari:test/wild-v0: episode 0, actions: step 3 is \[1.5\]"):
        load_source("minari:test/wild-v0")
    assert load_source("minari:test/wild-v0", clip_actions=True).action.max() == 1.0


def test_an_unknown_range_of_actions_is_what_they_span(tmp_path):
    content = arrays()
    content["actions"] = 3 * content["actions"]
    dataset = load_source(write(tmp_path / "log.npz", content))
    np.testing.assert_allclose(dataset.action_high, content["actions"].max(0))
    assert any("span" in note for note in dataset.notes)


def test_a_log_shorter_than_the_horizon_is_refused(tmp_path):
    dataset = load_source(write(tmp_path / "log.npz", arrays()))
    with pytest.raises(DataError, match="longest of 3 episodes has 10 steps, shorter than the horizon 11"):
        dataset.windows(11)
    assert summarize(dataset, 11)["episodes_shorter_than_horizon"] == 3


@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
@pytest.mark.parametrize("damage", ["truncated", "header", "empty"])
def test_a_damaged_file_is_one_sentence(tmp_path, suffix, damage):
    path = Path(write(tmp_path / f"log{suffix}", arrays()))
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        data = data[: len(data) // 2]
    elif damage == "header":
        data[:8] = b"\x00" * 8
    else:
        data = bytearray()
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        load_source(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_random_damage_never_escapes_as_another_error(tmp_path):
    """A few hundred files with bytes zeroed or flipped: each loads or raises DataError, none crashes."""
    rng = np.random.default_rng(0)
    for suffix in (".hdf5", ".npz"):
        path = Path(write(tmp_path / f"log{suffix}", arrays()))
        whole = path.read_bytes()
        refused = 0
        for _ in range(100):
            data = bytearray(whole)
            at = int(rng.integers(len(data) - 64))
            data[at : at + 64] = rng.bytes(64)
            path.write_bytes(data)
            try:
                load_source(str(path))
            except DataError:
                refused += 1
        assert refused > 0


def test_a_promise_of_terabytes_is_refused_before_anything_is_allocated(tmp_path):
    path = tmp_path / "huge.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("observations", shape=(2**40, 4), dtype="f4", chunks=(1024, 4))
        file.create_dataset("actions", data=np.zeros((10, 2), np.float32))
    with pytest.raises(DataError, match="observations: promises"):
        load_source(str(path))


def test_what_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with pytest.raises(DataError, match="there is no such file"):
        load_source(str(tmp_path / "nothing.npz"))
    with pytest.raises(DataError, match="'.csv'; .hdf5, .h5 and .npz are read"):
        (tmp_path / "log.csv").touch()
        load_source(str(tmp_path / "log.csv"))
    with pytest.raises(DataError, match="minari:some/logs-v0: not found"):
        load_source("minari:some/logs-v0")
    np.savez(tmp_path / "own.npz", joint_states=np.zeros((9, 2)), torques=np.zeros((9, 1)))
    with pytest.raises(
        DataError,
        match=r"no array 'observations' and no array 'actions' \(it has joint_states, torques\); .*own.npz\?KEY,KEY&actions=KEY",
    ):
        load_source(str(tmp_path / "own.npz"))
    with pytest.raises(
        DataError, match=r"own.npz\?\*: `\*` is for Minari, robomimic, .*; name arrays as in .*own.npz\?KEY,KEY$"
    ):
        load_source(f"{tmp_path / 'own.npz'}?*")
    with pytest.raises(DataError, match="has no array 'actions' .*; name what is the state and what the actions are"):
        load_source(f"{tmp_path / 'own.npz'}?joint_states")
    with pytest.raises(DataError, match=r"has no array 'torque' \(it has joint_states, torques\)"):
        load_source(f"{tmp_path / 'own.npz'}?joint_states&actions=torque")


def test_state_and_actions_may_have_any_names(tmp_path):
    """In an NPZ, and in a folder of HDF5 files with groups, whose arrays a message lists."""
    rng = np.random.default_rng(0)
    state, command = rng.normal(size=(30, 3)).astype(np.float32), rng.uniform(-2, 2, (30, 2)).astype(np.float32)
    np.savez(tmp_path / "own.npz", q=state, cmd=command, lengths=np.array([10, 20]))
    (tmp_path / "own").mkdir()
    for number, rows in enumerate((slice(0, 10), slice(10, 30))):
        with h5py.File(tmp_path / "own" / f"run_{number}.h5", "w") as file:
            file["arm/q"], file["arm/cmd"], file["stamp"] = state[rows], command[rows], np.arange(30)[rows]
    one = load_source(f"{tmp_path / 'own.npz'}?q&actions=cmd")
    other = load_source(f"{tmp_path / 'own'}?arm/q&actions=arm/cmd")
    for logs in (one, other):
        assert logs.lengths.tolist() == [10, 20]
        np.testing.assert_array_equal(logs.action, command)
        np.testing.assert_array_equal(logs.episode(1).observation[0, :-1], state[10:])
        np.testing.assert_allclose(logs.action_high, np.abs(command).max(0), rtol=0.3)
    for asked in ("?arm", "?arm/x&actions=arm/cmd", "?arm/q&actions=arm"):
        with pytest.raises(
            DataError, match=r"run_0.h5: has no array '.*' \(it has arm/cmd, arm/q, stamp\); .*own\?KEY"
        ):
            load_source(f"{tmp_path / 'own'}{asked}")


def test_an_action_that_is_far_from_all_others_and_one_that_never_changes_are_said(tmp_path, capsys):
    rng = np.random.default_rng(0)
    actions = (rng.uniform(-1, 1, (4000, 6)) + [0, 0, 0, 100, 100, 0]).astype(np.float32)
    actions[:, 1], actions[1234, 2], actions[1234, 4] = 0.5, 500.0, 0.0
    actions[:, 5] = np.where(np.arange(4000) == 1234, 1e-5, 0)  # whatever its units
    flags = np.arange(4000) % 40 == 39
    np.savez(tmp_path / "log.npz", observations=rng.normal(size=(4000, 2)), actions=actions, timeouts=flags)
    assert inspect([str(tmp_path / "log.npz"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["constant_actions"] == [1]
    (note,) = [note for note in found["notes"] if note.startswith("action 2")]
    assert note.startswith("action 2 reaches 500, 63 standard deviations from its mean")
    (note,) = [note for note in found["notes"] if note.startswith("action 4")]
    assert note.startswith("action 4 reaches 0, 59 standard deviations from its mean 99.9")
    assert [note for note in found["notes"] if note.startswith("action 5 reaches 1e-05, 63 standard deviations")]
    assert not [note for note in found["notes"] if note.startswith(("action 0", "action 1", "action 3"))]
    actions[1234, 2] = 0.0
    np.savez(tmp_path / "log.npz", observations=rng.normal(size=(4000, 2)), actions=actions, timeouts=flags)
    assert not [note for note in Logs.load(str(tmp_path / "log.npz")).notes() if note.startswith("action 2")]


def test_actions_of_another_unit_in_a_few_rows_are_said_and_other_kinds_of_actions_are_not(tmp_path):
    """Radians in most rows, degrees in one of a hundred: these widen the deviation themselves."""
    rng, rows = np.random.default_rng(0), 20_000
    other = np.arange(rows) % 100 == 99
    unusual = {
        "uniform": rng.uniform(-1, 1, rows) * np.where(other, 57.3, 1),
        "normal": 3 + rng.normal(size=rows) * np.where(other, 57.3, 1),
        "seldom": rng.normal(size=rows) * (rng.uniform(size=rows) < 0.3) * np.where(other, 1_000, 1),
    }
    usual = {
        "uniform": rng.uniform(-1, 1, rows),
        "normal": rng.normal(size=rows),
        "exponential": rng.exponential(size=rows),
        "heavy": rng.standard_t(3, rows),
        **{
            f"sparse {share}": rng.uniform(-1, 1, rows) * (rng.uniform(size=rows) < share)
            for share in (0.01, 0.051, 0.5)
        },
        "switch": np.where(rng.uniform(size=rows) < 0.03, 1.0, -1.0),
        "still": np.zeros(rows),
    }
    for actions, expected in ((unusual, set(range(len(unusual)))), (usual, set())):
        columns = np.stack([*actions.values()], 1).astype(np.float32)
        np.savez(tmp_path / "log.npz", observations=rng.normal(size=(rows, 2)), actions=columns, timeouts=other)
        notes = [note for note in Logs.load(str(tmp_path / "log.npz")).notes() if "nearly all others" in note]
        assert {int(note.split()[1]) for note in notes} == expected
    assert not [note for note in Logs.load(str(tmp_path / "log.npz")).notes() if "standard deviations" in note]


# -- Minari ------------------------------------------------------------------------------------------------------------------
def test_minari_data_sets_come_back_as_they_were_written(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    rng = np.random.default_rng(0)
    episodes = [
        single_episode(
            rng.normal(size=(n + 1, 3)).astype(np.float32),
            rng.uniform(-1, 1, (n, 2)).astype(np.float32),
            rng.normal(size=n).astype(np.float32),
            np.eye(n, dtype=bool)[-1] if n % 2 else np.zeros(n, bool),
            np.zeros(n, bool) if n % 2 else np.eye(n, dtype=bool)[-1],
        )
        for n in (5, 8, 3)
    ]
    assert not exists("test/some-v0")
    write_minari("test/some-v0", episodes, -np.ones(2), np.ones(2))
    dataset = load_source("minari:test/some-v0")
    for e, episode in enumerate(episodes):
        for f in fields(Episodes):
            np.testing.assert_array_equal(getattr(dataset.episode(e), f.name), getattr(episode, f.name))
    with h5py.File(dataset_folder("test/some-v0") / "data" / "main_data.hdf5") as file:
        assert "success" not in file["episode_0/infos"]  # there was nothing to succeed at
    with pytest.raises(DataError, match="exists already"):
        write_minari("test/some-v0", episodes, -np.ones(2), np.ones(2))
    write_minari("test/some-v0", episodes[:1], -np.ones(2), np.ones(2), overwrite=True)
    assert load_source("minari:test/some-v0").num_episodes == 1


def test_minari_says_which_steps_succeeded_and_which_columns_are_short(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    reached = np.array([False, True, True, False])
    some = [single_episode(np.zeros((5, 3)), np.zeros((4, 2)), np.zeros(4), success=s) for s in (reached, None)]
    folder = write_minari("test/some-v0", some, -np.ones(2), np.ones(2))
    dataset = load_source("minari:test/some-v0")
    assert dataset.success.tolist() == [*reached.tolist(), False, False, False, False]
    assert [bool(dataset.episode(e).succeeded[0]) for e in range(2)] == [True, False]
    (folder / "manifest.json").unlink()
    with h5py.File(folder / "data" / "main_data.hdf5", "r+") as file:
        file["episode_0/infos/success"].resize(2, 0)  # of infos nothing depends: what cannot be read is not known
        assert not load_source("minari:test/some-v0").success.any()
        file["episode_1/rewards"].resize(3, 0)
    with pytest.raises(DataError, match="test/some-v0: episode 1, rewards: has 3 rows, actions have 4; 4 rows are"):
        load_source("minari:test/some-v0")


def test_a_mapping_of_observations_gives_the_one_that_is_named(tmp_path, monkeypatch):
    import minari
    from gymnasium.spaces import Box, Dict
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    parts = {"observation": np.ones((6, 3), np.float32), "desired_goal": np.zeros((6, 2), np.float32)}
    flags = [False] * 5
    zeros = np.zeros((5, 1), np.float32)
    buffer = EpisodeBuffer(0, None, None, parts, zeros, [0.0] * 5, flags, [*flags[:4], True], {})
    space = Dict({name: Box(-9, 9, value.shape[1:], np.float32) for name, value in parts.items()})
    with pytest.warns(UserWarning):
        minari.create_dataset_from_buffers(
            "test/dict-v0", [buffer], observation_space=space, action_space=Box(-1, 1, (1,))
        )
    assert load_source("minari:test/dict-v0").observation_dim == 3
    assert load_source("minari:test/dict-v0?desired_goal").observation_dim == 2
    with pytest.raises(DataError, match="episode 0, observations: a mapping of"):
        load_source("minari:test/dict-v0?nothing")


def test_a_missing_minari_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(UserError, match=r"\.\[minari\]"):
        load_source("minari:a/b-v0")


# -- D4RL --------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def fake_d4rl(tmp_path, monkeypatch):
    """A d4rl whose package fails on import, as the real one does, with a readable table beside it."""
    package = tmp_path / "packages" / "d4rl"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise Exception('You appear to be missing MuJoCo')")
    (package / "infos.py").write_text(
        "DATASET_URLS = {'kitchen-mixed-v0': 'http://example.invalid/kitchen/mini.hdf5'}\n"
        "REF_MIN_SCORE = {'kitchen-mixed-v0': 1.0}\nREF_MAX_SCORE = {'kitchen-mixed-v0': 4.0}\n"
    )
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "cache"))
    return tmp_path


def test_a_d4rl_id_is_read_from_its_cache_and_scored(fake_d4rl):
    with pytest.raises(DataError, match="fetch http://example.invalid/kitchen/mini.hdf5 into that folder"):
        load_source("d4rl:kitchen-mixed-v0")
    (fake_d4rl / "cache").mkdir()
    write(fake_d4rl / "cache" / "mini.hdf5", arrays() | {"actions": 0.1 * arrays()["actions"]})
    dataset = load_source("d4rl:kitchen-mixed-v0")
    assert dataset.num_episodes == 3 and dataset.action_high.tolist() == [
        1,
        1,
    ]  # D4RL's environments all act in [-1, 1]
    assert summarize(dataset, 5)["normalized_score"] == pytest.approx((10 - 1) / (4 - 1))
    span = load_source("d4rl:kitchen-mixed-v0?actions=span")
    assert summarize(span, 5)["normalized_score"] == pytest.approx((10 - 1) / (4 - 1))
    with pytest.raises(DataError, match="did you mean kitchen-mixed-v0"):
        load_source("d4rl:kitchen-mixd-v0")


def test_a_failed_download_leaves_nothing(fake_d4rl, monkeypatch):
    def half(url: str, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise OSError("the connection was lost")

    monkeypatch.setattr("urllib.request.urlretrieve", half)
    with pytest.raises(DataError, match=r"mini.hdf5 could not be fetched \(the connection was lost\)"):
        load_source("d4rl:kitchen-mixed-v0", download=True)
    assert not list((fake_d4rl / "cache").iterdir())


def test_a_download_makes_the_cache_folder_and_leaves_the_file_there(fake_d4rl, monkeypatch):
    theirs, infos = write(fake_d4rl / "mini.hdf5", arrays()), fake_d4rl / "packages" / "d4rl" / "infos.py"
    infos.write_text(infos.read_text().replace("http://example.invalid/kitchen/mini.hdf5", Path(theirs).as_uri()))
    cache = fake_d4rl / "not" / "there"
    monkeypatch.setenv("D4RL_DATASET_DIR", str(cache))
    for download in (True, False):
        assert load_source("d4rl:kitchen-mixed-v0", download=download).num_steps == 30
        assert [path.name for path in cache.iterdir()] == ["mini.hdf5"]
    (cache / "mini.hdf5").rename(cache / "another.hdf5")  # the folder is there now, with other data sets
    assert load_source("d4rl:kitchen-mixed-v0", download=True).num_steps == 30


def test_the_real_table_is_read_without_importing_d4rl_or_gym():
    pytest.importorskip("importlib.util")
    import importlib.util

    if importlib.util.find_spec("d4rl") is None:
        pytest.skip(f"d4rl is not installed: {d4rl_table.INSTALL}")
    code = (
        "from skillmeta.data.d4rl_table import dataset_url, normalized_score; import sys;"
        "assert dataset_url('kitchen-mixed-v0').endswith('.hdf5');"
        "assert abs(normalized_score('halfcheetah-medium-v2', 12135.0) - 1) < 1e-9;"
        "assert not {'d4rl', 'gym', 'mujoco_py'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_d4rl_the_install_line_is_named(monkeypatch):
    monkeypatch.setattr(d4rl_table.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps d4rl==1.1"):
        load_source("d4rl:kitchen-mixed-v0")


# -- real recordings -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "episodes", "steps", "shapes"),
    [
        ("adroit_door_human_hand_dapg.npz", 25, 6_729, (39, 28)),
        ("kitchen_scripted_d4rl_layout.hdf5", 258, 71_686, (60, 9)),
        ("cs285_expert_Ant-v4.npz", 2, 2_000, None),
    ],
)
def test_real_recordings_load(name, episodes, steps, shapes):
    if not (SHARED / name).exists():
        pytest.skip(f"{name} is not beside this checkout")
    dataset = load_source(str(SHARED / name))
    assert (dataset.num_episodes, dataset.num_steps) == (episodes, steps)
    if shapes:
        assert (dataset.observation_dim, dataset.action_dim) == shapes


def test_inspect_prints_what_is_in_a_source(tmp_path, capsys):
    path = write(tmp_path / "log.npz", arrays())
    assert inspect([path, "--horizon", "4"]) == 0
    printed = capsys.readouterr().out
    assert "windows of 4" in printed and "21" in printed and "1 terminated, 2 truncated" in printed
    assert inspect([path, "--json"]) == 0
    assert '"windows": 3' in capsys.readouterr().out


def test_a_damaged_file_of_a_folder_is_named(tmp_path):
    (tmp_path / "junk.hdf5").write_bytes(b"none")
    with pytest.raises(DataError, match=r"junk.hdf5: cannot be read"):
        load_source(str(tmp_path))
