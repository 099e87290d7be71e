"""Where episodes end: what a file states comes first, then flags, and what contradicts them is refused or split, never silent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skillmeta.data.continuity import deviations, far_beyond, jumps
from skillmeta.data.episodes import EpisodeDataset
from skillmeta.data.sources import load_source
from skillmeta.errors import DataError

EPISODES, STEPS = 12, 25
FOURTH = [3, 7, 11]  # episodes that end by themselves


def walk() -> dict[str, np.ndarray]:
    """A point moves by a tenth of its action. Every episode starts in another corner of a wide room."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (EPISODES, STEPS, 2)).astype(np.float32)
    starts = rng.permutation(EPISODES)[:, None, None] * np.array([7.0, -5.0])
    path = np.concatenate([starts, starts + np.cumsum(0.1 * actions, 1)], 1).astype(np.float32)
    last = np.arange(1, EPISODES * STEPS + 1) % STEPS == 0
    terminals = last & np.isin(np.arange(EPISODES * STEPS) // STEPS, FOURTH)
    return {
        "observations": path[:, :-1].reshape(-1, 2),
        "next_observations": path[:, 1:].reshape(-1, 2),
        "actions": actions.reshape(-1, 2),
        "terminals": terminals,
        "timeouts": last & ~terminals,
        "lengths": np.full(EPISODES, STEPS),
        "starts": np.arange(EPISODES) * STEPS,
        "episode": np.repeat(np.arange(EPISODES), STEPS),
    }


def load(tmp_path: Path, *names: str, query: str = "", **changed: np.ndarray) -> EpisodeDataset:
    content = {name: walk()[name] for name in ("observations", "actions", *names)} | changed
    np.savez(tmp_path / "log.npz", **content)
    return load_source(f"{tmp_path / 'log.npz'}{query}")


def impossible(dataset: EpisodeDataset) -> int:
    """Steps of more than the point can go."""
    return sum(
        int((np.abs(np.diff(dataset.episode(e).observation[0], axis=0)) > 0.2).sum())
        for e in range(dataset.num_episodes)
    )


def noted(dataset: EpisodeDataset, words: str) -> bool:
    return any(words in note for note in dataset.notes)


@pytest.mark.parametrize("stated", ["episode", "lengths", "starts"])
def test_what_the_file_states_wins_over_its_flags(tmp_path, stated):
    dataset = load(tmp_path, "terminals", stated)
    assert dataset.lengths.tolist() == [STEPS] * EPISODES and impossible(dataset) == 0
    assert dataset.terminated.sum() == len(FOURTH) and dataset.truncated.sum() == EPISODES - len(FOURTH)


def test_starts_may_be_flags_of_the_first_rows(tmp_path):
    flags = (np.arange(EPISODES * STEPS) % STEPS == 0).astype(np.float32)
    assert load(tmp_path, "terminals", episode_starts=flags).lengths.tolist() == [STEPS] * EPISODES


@pytest.mark.parametrize("flag", ["terminals", "timeouts"])
def test_a_flag_inside_a_stated_episode_names_its_step(tmp_path, flag):
    flags = np.zeros(EPISODES * STEPS, bool)
    flags[2 * STEPS + 4] = True
    with pytest.raises(
        DataError, match=rf"log.npz, {flag}: step 54 \(step 4 of episode 2\) ends an episode .* by lengths"
    ):
        load(tmp_path, "lengths", **{flag: flags})


def test_a_flag_inside_a_padded_episode_asks_for_lengths(tmp_path):
    stacked = {name: walk()[name].reshape(EPISODES, STEPS, -1) for name in ("observations", "actions", "timeouts")}
    stacked["timeouts"][3, 7] = True
    with pytest.raises(DataError, match=r"by the shape of the arrays; .*one out; of padded episodes save `lengths`$"):
        load(tmp_path, **stacked)
    with pytest.raises(DataError, match=r"episode 3\) ends an episode that continues by lengths; .*wrong one out$"):
        load(tmp_path, "lengths", **stacked)


def test_two_statements_that_differ_are_refused(tmp_path):
    with pytest.raises(DataError, match="lengths and episode state different episodes"):
        load(tmp_path, "episode", lengths=np.array([100, 200]))


def test_episodes_of_no_steps_are_left_out_with_a_note(tmp_path):
    dataset = load(tmp_path, lengths=np.array([100, 0, 200]))
    assert dataset.lengths.tolist() == [100, 200] and noted(dataset, "1 of 3 episodes has no steps: left out")


def test_rows_of_stated_episodes_that_take_turns_are_put_in_order(tmp_path):
    order = np.arange(EPISODES * STEPS).reshape(EPISODES, STEPS).T.ravel()  # step by step of all episodes
    dataset = load(tmp_path, **{name: walk()[name][order] for name in ("observations", "actions", "episode")})
    assert dataset.lengths.tolist() == [STEPS] * EPISODES and impossible(dataset) == 0
    np.testing.assert_array_equal(dataset.action, load(tmp_path, "lengths").action)
    assert noted(dataset, "rows of 12 episodes take turns")


@pytest.mark.parametrize("name", [np.int64, lambda number: number % 2, np.str_], ids=["fall", "again", "text"])
def test_rows_of_episodes_that_follow_each_other_stay_in_their_order(tmp_path, name):
    """By numbers that fall, by numbers that come again, and by names."""
    dataset = load(tmp_path, episode=np.array([name(number) for number in walk()["episode"][::-1]]))
    assert dataset.lengths.tolist() == [STEPS] * EPISODES and not noted(dataset, "take turns")
    np.testing.assert_array_equal(dataset.action, walk()["actions"])


def test_episodes_of_one_step_stay_in_their_order(tmp_path):
    dataset = load(tmp_path, episode=np.arange(EPISODES * STEPS)[::-1])
    assert set(dataset.lengths.tolist()) == {1} and not noted(dataset, "take turns")
    np.testing.assert_array_equal(dataset.action, walk()["actions"])


def swings(steps: int, environments: int) -> np.ndarray:
    """Pendulums of their own phases, [steps, environments, 4]."""
    phases = np.random.default_rng(0).uniform(0, 7, (environments, 4))
    return np.sin(0.04 * np.arange(steps)[:, None, None] + phases).astype(np.float32)


@pytest.mark.parametrize("environments", [2, 8, 30])
@pytest.mark.parametrize("flat", [True, False])
def test_rows_of_environments_that_take_turns_are_refused(tmp_path, environments, flat):
    """In a row, or as arrays [steps, environments, ...]."""
    seen = swings(200, environments)
    seen = seen.reshape(-1, 4) if flat else seen
    with pytest.raises(
        DataError, match=f"rows of {environments} environments take turns .step t .* step t.{environments}"
    ):
        load(tmp_path, observations=seen, actions=seen)
    alone = swings(200, environments).swapaxes(0, 1)
    assert load(tmp_path, observations=alone, actions=alone).num_episodes == environments


def test_gaits_of_a_few_steps_are_no_environments_that_take_turns(tmp_path):
    time, noise = np.arange(400)[:, None], 0.02 * np.random.default_rng(0).normal(size=(400, 4)).cumsum(0)
    for period in (3.98, 5.03, 6.01, 8.02):
        gait = np.sin(2 * np.pi * time / period + np.arange(4)) + noise
        assert load(tmp_path, observations=gait, actions=gait).num_steps == 400


def test_ends_that_only_next_observations_show_are_split_with_a_note(tmp_path):
    dataset = load(tmp_path, "terminals", "next_observations")
    assert dataset.lengths.tolist() == [STEPS] * EPISODES and impossible(dataset) == 0
    assert noted(dataset, f"{EPISODES - len(FOURTH)} ends are not marked")
    np.testing.assert_array_equal(dataset.episode(0).observation[0, -1], walk()["next_observations"][STEPS - 1])


def test_single_transitions_are_no_recording(tmp_path):
    order = np.random.default_rng(0).permutation(EPISODES * STEPS)
    names = ("observations", "actions", "next_observations", "terminals", "timeouts")
    with pytest.raises(DataError, match="most rows: these are single transitions, not recordings"):
        load(tmp_path, **{name: walk()[name][order] for name in names})


def test_next_observations_that_contradict_a_stated_episode_are_refused(tmp_path):
    following = walk()["next_observations"]
    following[30] += 3
    with pytest.raises(
        DataError, match=r"next_observations: of step 30 \(step 5 of episode 1\) .* though lengths says"
    ):
        load(tmp_path, "lengths", next_observations=following)


def test_terminals_without_timeouts_are_never_silent(tmp_path):
    dataset = load(tmp_path, "terminals")
    assert noted(dataset, "terminals without timeouts") and noted(dataset, "log.npz?time_limit=STEPS")
    assert noted(dataset, f"{EPISODES - len(FOURTH)} ends are not marked") and impossible(dataset) == 0
    assert noted(load(tmp_path, "terminals", query="?observations"), "log.npz?observations&time_limit=STEPS")
    for names in (("terminals", "timeouts"), ("terminals", "next_observations"), ("timeouts",), ()):
        assert not noted(load(tmp_path, *names), "terminals without timeouts")
    limited = load(tmp_path, "terminals", query=f"?time_limit={STEPS}")
    assert limited.lengths.tolist() == [STEPS] * EPISODES and not noted(limited, "terminals without timeouts")
    assert limited.terminated.sum() == len(FOURTH)


def test_timeouts_that_are_never_true_say_no_more_than_none(tmp_path):
    never = np.zeros(EPISODES * STEPS, bool)
    for name in ("timeouts", "truncated"):
        dataset = load(tmp_path, "terminals", **{name: never})
        assert noted(dataset, f"{EPISODES - len(FOURTH)} ends are not marked") and impossible(dataset) == 0
        assert not noted(dataset, "terminals without timeouts")
    assert load(tmp_path, timeouts=never).lengths.tolist() == [STEPS] * EPISODES
    once = np.arange(EPISODES * STEPS) == STEPS - 1
    assert load(tmp_path, timeouts=once).num_episodes == 2


def test_done_marks_ends(tmp_path):
    dataset = load(tmp_path, done=walk()["timeouts"] | walk()["terminals"])
    assert dataset.lengths.tolist() == [STEPS] * EPISODES and dataset.terminated.sum() == EPISODES


def test_where_nothing_marks_the_ends_arrays_with_other_names_are_pointed_at(tmp_path):
    other = {"is_end": walk()["timeouts"], "clock": np.arange(EPISODES * STEPS)}
    said = (
        "not read: is_end, clock; if one of them marks the last step of each episode, name it timeouts (terminals where"
    )
    assert noted(load(tmp_path, **other), said)
    assert noted(load(tmp_path, query=f"?time_limit={STEPS}", **other), said)
    of_episodes = {name: walk()[name].reshape(EPISODES, STEPS, 2) for name in ("observations", "actions")}
    assert noted(load(tmp_path, **other, **of_episodes), said)
    assert not noted(load(tmp_path, "lengths", **other, **of_episodes), "not read")
    assert not noted(load(tmp_path, "episode", **other, **of_episodes), "not read")
    for names in (("terminals",), ("timeouts",), ("lengths",), ("starts",), ("episode",)):
        assert not noted(load(tmp_path, *names, **other), "not read")
    read = load(tmp_path, query="?observations,clock&actions=is_end", **other)
    assert not noted(read, "not read")
    assert not noted(load(tmp_path, "next_observations"), "not read")


def test_a_time_limit_cuts_what_the_flags_leave_whole(tmp_path):
    assert load(tmp_path, query="?time_limit=90").lengths.tolist() == [90, 90, 90, 30]
    with pytest.raises(DataError, match="time_limit is for files that do not state their episodes; lengths does"):
        load(tmp_path, "lengths", query="?time_limit=90")
    with pytest.raises(DataError, match="time_limit is '0'; a number of steps"):
        load(tmp_path, query="?time_limit=0")


def test_one_episode_for_want_of_marks_says_so_where_two_are_needed(tmp_path):
    where = np.random.default_rng(0).normal(size=(EPISODES * STEPS, 2)).cumsum(0)
    said = "two are needed to hold one out"
    with pytest.raises(DataError, match=f"{said}; no end of an episode is marked in it, see `skillmeta inspect`$"):
        load(tmp_path, observations=where).windows(10, "train")
    with pytest.raises(DataError, match=f"{said}$"):
        load(tmp_path, observations=where, lengths=np.array([EPISODES * STEPS])).windows(10, "train")


@pytest.mark.parametrize("block", [16, 25, 2_048])
def test_a_goal_that_changes_where_no_end_is_marked_is_noted(tmp_path, monkeypatch, block):
    """The point itself moves on at the ends: nothing else shows them."""
    monkeypatch.setattr("skillmeta.data.continuity.BLOCK", block)
    where = np.random.default_rng(0).normal(size=(EPISODES * STEPS, 2)).cumsum(0)
    goal = np.repeat(np.random.default_rng(1).normal(size=EPISODES), STEPS)
    seen = np.concatenate([where, goal[:, None]], 1)
    said = (
        "observation 2 stays the same but at 11 steps, {} of which are not the end of an episode (the first is step {})"
    )
    never = np.zeros(EPISODES * STEPS, bool)
    for arrays in ({}, {"timeouts": never}, {"terminals": never}):
        assert noted(load(tmp_path, observations=seen, **arrays), said.format(11, STEPS - 1))
    assert noted(
        load(tmp_path, "terminals", observations=seen), said.format(9, STEPS - 1)
    )  # the last of the three ends all
    first = np.arange(EPISODES * STEPS) == STEPS - 1
    assert noted(load(tmp_path, observations=seen, terminals=first), said.format(10, 2 * STEPS - 1))
    assert noted(load(tmp_path, observations=seen, query="?time_limit=50"), said.format(6, STEPS - 1))
    assert not noted(load(tmp_path, observations=seen, query=f"?time_limit={STEPS}"), "stays the same")
    for names in (("lengths",), ("timeouts",)):
        assert not noted(load(tmp_path, *names, observations=seen), "stays the same")


def test_columns_that_change_often_once_or_for_a_while_are_no_goals(tmp_path):
    seen = np.random.default_rng(0).normal(size=(EPISODES * STEPS, 5)).cumsum(0)
    time = np.arange(EPISODES * STEPS)
    seen[:, 0], seen[:, 1] = time // 15, time // 150  # at 6 % of the rows, and once
    seen[:, 2] = np.minimum(time, 5) + np.clip(time - 150, 0, 5)  # changes in a row
    seen[:, 3] = 1.0
    assert not noted(load(tmp_path, observations=seen), "stays the same")
    seen[:, 3] = time // 100
    assert noted(load(tmp_path, observations=seen), "observation 3 stays the same but at 2 steps, 2 of which")


def test_a_time_limit_that_is_too_small_is_noted(tmp_path):
    dataset = load(tmp_path, query="?time_limit=5")
    assert noted(
        dataset, "of 59 cuts by time_limit the observation moves on as within an episode: the limit may be too small"
    )
    long = {name: np.concatenate([walk()[name]] * 4) for name in ("observations", "actions")}
    half = {name: np.delete(values, np.s_[STEPS - 1 :: STEPS], 0) for name, values in long.items()}  # of 24 steps
    assert noted(load(tmp_path, **half, query="?time_limit=12"), "of 95 cuts by time_limit")
    assert not noted(load(tmp_path, **half, query="?time_limit=24"), "cuts by time_limit")
    assert not noted(load(tmp_path, query=f"?time_limit={STEPS}"), "cuts by time_limit")
    seen = long["observations"].reshape(-1, STEPS, 2)
    for e in (5, 11, 20, 31, 40):  # a tenth of the episodes begins where the one before it ended
        seen[e] += seen[e - 1, -1] - seen[e, 0]
    few = {**long, "observations": seen.reshape(-1, 2)}
    assert not noted(load(tmp_path, **few, query=f"?time_limit={STEPS}"), "cuts by time_limit")
    assert not noted(load(tmp_path, "terminals", query=f"?time_limit={STEPS}"), "cuts by time_limit")
    assert not noted(load(tmp_path, query="?time_limit=130"), "cuts by time_limit")  # two cuts are too few


@pytest.mark.parametrize(("by", "word"), [(1, "late"), (-1, "early")])
@pytest.mark.parametrize("following", [(), ("next_observations",)])
def test_flags_that_are_a_step_off_are_refused(tmp_path, by, word, following):
    off = {name: np.roll(walk()[name], by) for name in ("terminals", "timeouts")}
    with pytest.raises(DataError, match=f"ends of episodes are marked a step {word}"):
        load(tmp_path, *following, **off)


def test_flags_of_which_four_in_five_are_a_step_off_are_refused(tmp_path):
    ends = np.arange(1, EPISODES - 1) * STEPS - 1
    flags = np.zeros(EPISODES * STEPS, bool)
    flags[ends[:2]] = flags[ends[2:] + 1] = True
    with pytest.raises(DataError, match="ends of episodes are marked a step late"):
        load(tmp_path, timeouts=flags)


@pytest.mark.parametrize("block", [16, 2_048])
def test_moves_are_measured_in_standard_deviations(monkeypatch, block):
    monkeypatch.setattr("skillmeta.data.continuity.BLOCK", block)
    seen = np.random.default_rng(0).normal([3.0, -200.0], [0.5, 20.0], (300, 2)).astype(np.float32)
    np.testing.assert_allclose(deviations(lambda begin, end: seen[begin:end], 300), seen.std(0), rtol=1e-5)


@pytest.mark.parametrize("block", [16, 2_048])
def test_jumps_inside_episodes_whose_ends_are_all_marked_are_reported_and_kept(tmp_path, monkeypatch, block):
    monkeypatch.setattr("skillmeta.data.continuity.BLOCK", block)
    timeouts = walk()["timeouts"]
    timeouts[[2 * STEPS - 1, 6 * STEPS - 1]] = False  # twice two episodes become one
    dataset = load(tmp_path, "terminals", timeouts=timeouts)
    found = jumps(dataset)
    assert dataset.num_episodes == EPISODES - 2 and (found.count, found.episode, found.step) == (2, 1, STEPS - 1)
    assert "2 of 300 steps (0.67%)" in found.notes()[0] and jumps(load(tmp_path, "lengths")).count == 0


def test_smooth_standing_and_heavy_tailed_movements_have_no_jumps():
    rng = np.random.default_rng(0)
    standing = np.where(rng.uniform(size=500) < 0.9, 0.0, 0.1)
    for moves in (rng.uniform(0, 1, 500), rng.exponential(size=500), standing, np.zeros(500), np.full(500, np.nan)):
        assert not (moves >= far_beyond(moves)).any()
    assert far_beyond(np.append(rng.uniform(0, 0.1, 500), 2.0)) == 2.0
