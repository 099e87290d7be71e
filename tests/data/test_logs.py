"""Several logs together: how often each is drawn, which episodes count, and what does not go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skillmeta.data.logs import LogConfig, Logs
from skillmeta.data.sources import load_source
from skillmeta.errors import DataError

STEPS = 10  # of an episode


def log(path: Path, episodes: int, code: float, size: float = 0.5, width: int = 2, **more: np.ndarray) -> str:
    """Observations are the log's code and the episode; rewards are the episode, so returns are 0, 10, 20, ..."""
    number = np.repeat(np.arange(episodes, dtype=np.float32), STEPS)
    seen = np.stack([np.full(len(number), code), *[number] * (width - 1)], 1)
    arrays = {
        "observations": seen.astype(np.float32),
        "actions": np.linspace(-size, size, len(number), dtype=np.float32)[:, None],
        "rewards": number,
        "lengths": np.full(episodes, STEPS),
        **more,
    }
    np.savez(path, **{name: values for name, values in arrays.items() if values is not None})
    return str(path)


def load(*sources: Any, clip_actions: bool = False) -> Logs:
    return Logs.load([LogConfig(**one) for one in sources], clip_actions=clip_actions)


@pytest.fixture
def two(tmp_path) -> Logs:
    """One of 2 episodes that is drawn three times as often as one of 20."""
    short, long = (log(tmp_path / f"{name}.npz", n, code) for name, n, code in (("short", 2, 1.0), ("long", 20, 5.0)))
    return load({"source": short, "weight": 3}, {"source": long})


def test_weights_are_shares_of_the_drawn_windows_and_windows_of_a_log_are_drawn_alike(two):
    windows = two.windows(4)
    batch = windows.sample(20_000, torch.Generator().manual_seed(0))
    code, number = batch.observation[:, 0, 0], batch.observation[:, 0, 1]
    assert float((code == 1).float().mean()) == pytest.approx(0.75, abs=0.01) and set(code.tolist()) == {1.0, 5.0}
    counts = torch.bincount(number[code == 5].long(), minlength=20) / (code == 5).sum()
    torch.testing.assert_close(counts, torch.full((20,), 1 / 20), atol=0.012, rtol=0)
    assert len(windows) == 7 * 22 and two.chosen()[0].endswith("short.npz: 75% of the drawn windows")


def test_rows_of_a_batch_are_those_of_the_whole_one(two):
    windows = two.windows(4)
    whole, some = (windows.sample(64, torch.Generator().manual_seed(3), rows) for rows in (slice(None), slice(16, 48)))
    for name, values in whole._asdict().items():
        assert torch.equal(values[16:48], getattr(some, name))


def test_observations_are_normalised_by_what_is_drawn(two):
    mean, stddev = two.windows(4).moments()
    codes, numbers = np.array([1.0, 1.0, 1.0, 5.0]), [np.arange(2)] * 3 + [np.arange(20)]
    means = np.array([numbers[i].mean() for i in range(4)])
    squares = np.array([(numbers[i] ** 2).mean() for i in range(4)])
    expected = [codes.std(), np.sqrt(squares.mean() - means.mean() ** 2)]
    np.testing.assert_allclose(mean, [codes.mean(), means.mean()], rtol=1e-5)
    np.testing.assert_allclose(stddev, expected, rtol=1e-5)


def test_one_log_without_a_filter_is_drawn_from_as_ever(tmp_path):
    source = log(tmp_path / "a.npz", 6, 1.0)
    expected = load_source(source).windows(4, "train", seed=2)
    for logs in (Logs.load(source), load({"source": source, "weight": 7})):
        windows = logs.windows(4, "train", seed=2)
        for one, other in zip(expected.moments(), windows.moments(), strict=True):
            assert torch.equal(one, other)
        one, other = (some.sample(32, torch.Generator().manual_seed(0)) for some in (expected, windows))
        assert torch.equal(one.observation, other.observation) and torch.equal(one.action, other.action)
        assert logs.chosen() == []


def test_a_filter_keeps_episodes_by_return_and_success_and_says_how_many(tmp_path):
    success = np.zeros((6, STEPS), bool)
    success[[1, 4], 3] = True
    source = log(tmp_path / "a.npz", 6, 1.0, success=success.reshape(-1))
    for asked, kept, said in (
        ({"min_return": 30}, {3, 4, 5}, "3 of 6 episodes are kept, with a return of 30 or more"),
        ({"only_success": True}, {1, 4}, "2 of 6 episodes are kept, with a success"),
        ({"min_return": 30, "only_success": True}, {4}, "1 of 6 episodes are kept, with a return of 30 or more and a"),
    ):
        logs = load({"source": source, **asked})
        seen = logs.windows(4).sample(200, torch.Generator().manual_seed(0)).observation[..., 1]
        assert set(seen.unique().tolist()) == kept and said in logs.notes()[0]
    found = [load({"source": source, "min_return": 20}).windows(4, split, 0.25) for split in ("train", "held_out")]
    train, held_out = (set(w.sample(200, torch.Generator()).observation[..., 1].unique().tolist()) for w in found)
    assert train | held_out == {2, 3, 4, 5} and not train & held_out and len(held_out) == 1


@pytest.mark.parametrize("rows", [0, 1, 11, 12, 33, 50])
def test_the_first_observations_are_as_many_as_are_asked_for(tmp_path, rows):
    """Of the episodes that are kept, which have eleven each."""
    found = load({"source": log(tmp_path / "a.npz", 4, 1.0), "min_return": 10}).logs[0].first(rows)
    expected = np.repeat([1, 2, 3], STEPS + 1)[:rows]
    assert np.concatenate([np.zeros((0, 2)), *found])[:, 1].tolist() == expected.tolist()
    assert all(len(np.unique(some[:, 1])) == 1 for some in found) and len(found) == len(np.unique(expected))


def test_success_of_a_flat_file_is_read_where_it_is_of_steps(tmp_path):
    stacked = np.zeros((3, STEPS, 1))
    stacked[1, 4] = 1
    of_steps = log(tmp_path / "steps.npz", 3, 1.0, success=stacked.reshape(-1, 1))
    assert load_source(of_steps).succeeded.tolist() == [False, True, False]
    arrays = dict(np.load(of_steps))
    whole = {name: arrays[name].reshape(3, STEPS, -1) for name in ("observations", "actions", "success")}
    np.savez(tmp_path / "stacked.npz", **whole)
    assert load_source(str(tmp_path / "stacked.npz")).success.tolist() == (stacked.reshape(-1) > 0).tolist()
    of_episodes = load_source(log(tmp_path / "episodes.npz", 3, 1.0, success=np.ones(3)))
    assert not of_episodes.success.any() and any(
        "success has not a number for each step" in n for n in of_episodes.notes
    )


def test_the_action_space_is_what_one_log_states_or_what_all_span_together(tmp_path):
    small, large = (log(tmp_path / f"{size}.npz", 2, 1.0, size) for size in (0.25, 0.75))
    spanned = load({"source": small}, {"source": large})
    assert (spanned.action_low, spanned.action_high) == (-0.75, 0.75)
    stated = load({"source": small}, {"source": f"{large}?actions=unit"})
    assert (stated.action_low, stated.action_high) == (-1, 1)
    beyond = log(tmp_path / "beyond.npz", 2, 5.0, 3.0)
    with pytest.raises(
        DataError, match=r"beyond.npz: actions span \[-3.0\] .* \[1.0\] that .*0.25.npz\?actions=unit s"
    ):
        load({"source": beyond}, {"source": f"{small}?actions=unit"})
    pulled = load({"source": beyond}, {"source": f"{small}?actions=unit"}, clip_actions=True)
    batch = pulled.windows(4).sample(400, torch.Generator().manual_seed(0))
    of_beyond = batch.action[batch.observation[:, 0, 0] == 5]
    assert of_beyond.abs().max() == 1 and of_beyond.min() == -1 and len(of_beyond)


@pytest.mark.parametrize(
    ("least", "most", "fits"), [(-3, 0.5, False), (-0.5, 3, False), (-1.0001, -0.5, True), (0.5, 1.0001, True)]
)
def test_actions_beyond_either_edge_of_the_stated_space_are_refused(tmp_path, least, most, fits):
    actions = np.linspace((-0.5, least), (0.5, most), 2 * STEPS, dtype=np.float32)
    one = {"source": log(tmp_path / "one.npz", 2, 1.0, actions=actions)}
    other = {"source": f"{log(tmp_path / 'other.npz', 2, 1.0, actions=actions / 4)}?actions=unit"}
    if fits:
        assert load(one, other).action_high.tolist() == [1, 1]
        return
    said = rf"one.npz: actions span \[-0.5, {least:.1f}\] to \[0.5, {most:.1f}\], beyond"
    with pytest.raises(DataError, match=said):
        load(one, other)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({}, {"only_success": True}, "b.npz: only_success is true and no step of the log is marked as a success"),
        ({}, {"min_return": 41}, r"b.npz: none of 4 episodes has a return of 41 or more \(returns are 0 to 30\)"),
        ({}, {"rewards": None, "min_return": 0}, "b.npz: min_return is 0 and the log has no rewards"),
        ({}, {"width": 3}, "a.npz and .*b.npz: observations and actions are of 2 and 1 numbers in the one, 3 and 1 in"),
        ({"keys": "?joints"}, {"keys": "?gripper"}, r"a.npz.* and .*b.npz.*: observations are joints \(2\) in the one, gri"),
        ({}, {"file": "a"}, "a.npz: is named twice in source"),
        ({"min_return": 20}, {"file": "a"}, "a.npz: is named twice in source"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_one_sentence(tmp_path, first, second, said):
    configs = []
    for name, asked in (("a", dict(first)), ("b", dict(second))):
        keys, file = asked.pop("keys", ""), asked.pop("file", name)
        made = {key: asked.pop(key) for key in ("width", "rewards") if key in asked}
        source = log(tmp_path / f"{name}.npz", 4, 1.0, **made)
        if keys:
            arrays = dict(np.load(source))
            np.savez(source, **{keys[1:]: arrays["observations"]}, **arrays)
        configs.append({"source": f"{tmp_path / file}.npz{keys}", **asked})
    with pytest.raises(DataError, match=said):
        load(*configs)


def test_two_logs_that_state_other_action_spaces_are_refused(tmp_path, monkeypatch):
    first, second = (load_source(f"{log(tmp_path / f'{n}.npz', 2, 1.0)}?actions=unit") for n in "ab")
    object.__setattr__(second, "action_high", 2 * second.action_high)
    made = iter([first, second])
    monkeypatch.setattr("skillmeta.data.logs.load_source", lambda *arguments, **options: next(made))
    with pytest.raises(DataError, match=r"a.npz.* and .*b.npz.*: the action space is \[\[-1.0\], \[1.0\]\] in the one"):
        load({"source": "a"}, {"source": "b"})
