"""The maze: a documented layout, PointMaze's physics to the bit, tasks that are values, a planner that arrives."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import asdict
from itertools import combinations

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.collect import main as collect_main
from skillmeta.data.sources import load_source
from skillmeta.errors import UserError
from skillmeta.experts.maze_planner import Config as PlannerConfig
from skillmeta.experts.maze_planner import collect
from skillmeta.tasks.base import TaskFamily, evenly_spaced
from skillmeta.tasks.maze import Config, Maze, MazeEnv, MazeTask
from skillmeta.tasks.maze import family as make_maze
from skillmeta.tasks.maze_generator import distances, downhill, free_cells, random_layout, to_cell, to_xy


@pytest.fixture(scope="module")
def family() -> TaskFamily:
    return make_maze(Config())


@pytest.fixture(scope="module")
def maze() -> Maze:
    return Maze(Config())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(8, 20))
def test_layouts_are_closed_connected_covered_and_repeatable(seed, size):
    walls = random_layout(size, 0.25, seed)
    assert walls.shape == (size + 2, size + 2)
    assert walls[0].all() and walls[-1].all() and walls[:, 0].all() and walls[:, -1].all()
    assert 0.25 <= walls[1:-1, 1:-1].mean() < 0.25 + size / size**2 + 0.1
    first = free_cells(walls)[0]
    assert (distances(walls, first)[~walls] >= 0).all()
    assert (random_layout(size, 0.25, seed) == walls).all()


def test_the_published_layout_does_not_change():
    """Golden: who learns skills from seed 0 today finds the same maze tomorrow."""
    walls = random_layout(20, 0.25, 0)
    assert "".join("#" if w else "." for w in walls[5]) == "#.........#..#...#..##"
    assert int(walls.sum()) == 190


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 100))
def test_distances_equal_repeated_relaxation(seed):
    walls = random_layout(8, 0.25, seed)
    cells = free_cells(walls)
    origin = cells[seed % len(cells)]
    slow = np.where(walls, np.inf, np.inf)
    slow[origin] = 0
    for _ in range(100):
        padded = np.pad(slow, 1, constant_values=np.inf)
        nearest = np.minimum.reduce([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])
        slow = np.where(walls, np.inf, np.minimum(slow, nearest + 1))
    fast = distances(walls, origin)
    assert (np.where(np.isinf(slow), -1, slow) == fast).all()
    goal = cells[-1]
    path = downhill(distances(walls, goal), origin)
    assert len(path) == fast[goal] and (path == [] or path[-1] == goal)
    steps = [origin, *path]
    assert all(abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1 for a, b in zip(steps, path, strict=False))


def test_cells_and_positions_are_each_others_inverse(family, maze):
    for cell in free_cells(maze.walls):
        assert tuple(to_cell(to_xy(cell, maze.walls), maze.walls)) == cell


def test_physics_is_point_mazes(family, maze):
    from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv

    theirs = PointMazeEnv(maze_map=maze.walls.astype(int).tolist())
    theirs.reset(seed=0)
    ours = family.make_env()
    ours.reset(seed=0)
    theirs.point_env.set_state(ours.data.qpos.copy(), ours.data.qvel.copy())
    rng = np.random.default_rng(0)
    fastest = 0.0
    for t in range(600):
        if t % 60 == 0:  # long pushes, so that the ball gets as fast as it may and meets walls
            push = rng.choice([-1.0, 1.0], 2)
        action = (push + rng.uniform(-0.5, 0.5, 2)).astype(np.float32)
        expected = theirs.step(action)[0]["observation"]
        observation, *_ = ours.step(action)
        np.testing.assert_array_equal(observation, expected.astype(np.float32))
        fastest = max(fastest, float(np.abs(observation[2:]).max()))
    assert fastest > 5.0  # the limit acts before each step, so it is passed a little


def test_gymnasiums_checker_is_content(family):
    check_env(family.make_env(), skip_render_check=True)


def test_reward_and_end_come_with_the_goal_and_with_time_only(family, maze):
    env = family.make_env()
    task = family.tasks("test")[3]
    goal = to_xy(task.cell, maze.walls)
    for distance, arrives in ((0.9, True), (1.2, False)):
        env.reset(seed=0, options={"task": task})
        env.place(goal + np.array([distance, 0.0]))
        _, reward, terminated, truncated, info = env.step(np.zeros(2, np.float32))
        assert (reward, terminated, truncated, info["success"]) == (float(arrives), arrives, False, arrives)
    short = make_maze(Config(max_episode_steps=3)).make_env()
    short.reset(seed=0)
    ends = [short.step(np.zeros(2, np.float32))[1:4] for _ in range(3)]
    assert ends == [(0.0, False, False), (0.0, False, False), (0.0, False, True)]


def test_the_task_stays_until_it_is_set_and_is_reported(family):
    env = family.make_env()
    task = family.tasks("train")[7]
    _, info = env.reset(seed=1, options={"task": task})
    assert info["task"] == asdict(task)
    _, info = env.reset(seed=2)
    assert info["task"] == asdict(task) and env.step(np.zeros(2, np.float32))[4]["task"] == asdict(task)


def test_reset_is_a_function_of_the_seed(family, maze):
    env = family.make_env()
    first, other, again = (env.reset(seed=s)[0] for s in (1, 2, 1))
    assert (first == again).all() and (first != other).any()
    assert np.abs(first[:2] - to_xy(maze.start, maze.walls)).max() <= 0.1 + 1e-6 and (first[2:] == 0).all()


def test_splits_are_far_and_fixed(family, maze):
    assert {split: len(goals) for split, goals in family.splits.items()} == {
        "train": 40, "validation": 5, "test": 10, "train_top": 10, "test_near": 6, "test_far": 10
    }  # fmt: skip
    assert all(maze.path_length(goal) >= 15 for goals in family.splits.values() for goal in goals)
    assert [task.cell for task in family.tasks("test")] == [
        (20, 2), (15, 2), (3, 19), (1, 15), (20, 3), (2, 20), (19, 5), (20, 13), (15, 4), (20, 14)
    ]  # fmt: skip
    assert make_maze(Config()).splits == family.splits
    with pytest.raises(UserError, match="there is no split 'tst'"):
        family.tasks("tst")
    with pytest.raises(UserError, match="lower min_path"):
        make_maze(Config(min_path=40))
    with pytest.raises(
        UserError, match="room for 5 validation and 0 training goals that are 8 cells apart.*lower min_path"
    ):
        make_maze(Config(goal_radius=4.0))


@pytest.mark.parametrize("layout_seed", range(21))
def test_no_place_is_success_for_goals_of_two_purposes(layout_seed):
    """In any layout: discs of success around training, validation and test goals do not overlap, and neither do fresh draws'."""
    config = Config(layout_seed=layout_seed)
    maze, family = Maze(config), make_maze(config)
    narrow = {"train_top": "train", "test_near": "test", "test_far": "test"}
    purposes: dict[str, list[np.ndarray]] = {"train": [], "validation": [], "test": []}
    for split, goals in family.splits.items():
        purposes[narrow.get(split, split)] += [to_xy(goal.cell, maze.walls) for goal in goals]
        assert 0 < len(goals) <= {"train": 40, "validation": 5}.get(split, 10)
    assert len(family.tasks("validation")) == 5 and len(family.tasks("test")) == 10
    generator = np.random.default_rng(0)
    fresh = [family.sample(generator, "any") for _ in range(200)]
    purposes["train"] += [to_xy(goal.cell, maze.walls) for goal in fresh]
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        gaps = np.array(purposes[one])[:, None] - np.array(purposes[other])[None]
        assert np.hypot(*np.moveaxis(gaps, -1, 0)).min() >= 2 * config.goal_radius
    upper = (len(maze.walls) - 1) / 2
    assert all(goal.row < upper for split in ("train_top", "test_near") for goal in family.splits[split])
    assert all(goal.row > upper for goal in family.tasks("test_far"))
    assert {*family.splits["train_top"]} <= {*family.tasks("train")}


@pytest.mark.parametrize("layout_seed", [0, 9, 20])
def test_goals_are_chosen_evenly_by_their_paths_and_apart(layout_seed):
    family = make_maze(Config(layout_seed=layout_seed))
    paths = [family.facts(goal)["path_cells"] for goal in family.tasks("test")]
    for count in (2, 3, 4):
        chosen = evenly_spaced(family, "test", count, "path_cells")
        assert len(set(chosen)) == count and [paths[i] for i in chosen] == sorted(paths[i] for i in chosen)
        assert paths[chosen[0]] == min(paths)
        goals = [np.array(family.tasks("test")[i].cell) for i in chosen]
        assert all(np.hypot(*(a - b)) >= 2 for a, b in combinations(goals, 2))
    if layout_seed == 0:
        assert evenly_spaced(family, "test", 3, "path_cells") == [8, 6, 0]  # 15, 18 and 22 cells
        assert sorted(paths)[4] <= paths[evenly_spaced(family, "test", 1, "path_cells")[0]] <= sorted(paths)[5]
    with pytest.raises(UserError, match="tasks.by is 'path_cels'.*it has: path_cells"):
        evenly_spaced(family, "test", 3, "path_cels")
    with pytest.raises(UserError, match="tasks.count is 11; split 'test' of maze has . tasks that are apart by 2"):
        evenly_spaced(family, "test", 11, "path_cells")


def draw(seed: int) -> list[MazeTask]:
    generator = np.random.default_rng(seed)
    family = make_maze(Config())
    return [family.sample(generator) for _ in range(5)]


def test_tasks_are_values_in_any_process_and_touch_no_global_state(family):
    before = np.random.get_state()[1].copy()
    tasks = draw(3)
    assert (np.random.get_state()[1] == before).all()
    assert len({*tasks, *draw(3)}) == len(set(tasks))
    assert [MazeTask(**json.loads(json.dumps(asdict(task)))) for task in tasks] == tasks
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(draw, (3,)) == tasks


def test_two_environments_of_one_family_do_not_share_anything(family):
    one, two = family.make_env(), family.make_env()
    one.reset(seed=0, options={"task": family.tasks("test")[0]})
    two.reset(seed=0, options={"task": family.tasks("test")[1]})
    before = two.observe()
    for _ in range(50):
        one.step(np.ones(2, np.float32))
    assert (two.observe() == before).all() and two.task != one.task


def test_the_planner_arrives_and_repeats_itself(family, maze):
    config = PlannerConfig(steps=12_000, seed=5)
    episodes = [recording.episode for recording in collect(family, config)]
    assert len(episodes) >= 30
    arrived = sum(episode.reward.size < config.max_episode_steps for episode in episodes)
    assert arrived >= 0.95 * len(episodes)
    for episode in episodes:
        assert episode.observation.shape[1] == episode.reward.size + 1 > 20
        assert episode.truncated[0].nonzero()[0].tolist() == [episode.reward.size - 1] and not episode.terminated.any()
        cells = to_cell(episode.observation[0, :, :2], maze.walls)
        assert not maze.walls[cells[:, 0], cells[:, 1]].any()
    again = [recording.episode for recording in collect(family, config)]
    assert all((a.action == b.action).all() for a, b in zip(episodes, again, strict=True))


def test_recorded_actions_replay_to_the_recorded_observations(family):
    episode = next(iter(collect(family, PlannerConfig(steps=100, seed=1)))).episode
    env = family.make_env()
    env.reset(seed=0)
    env.place(episode.observation[0, 0, :2].astype(np.float64))
    for action, expected in zip(episode.action[0, :30], episode.observation[0, 1:31], strict=True):
        env.advance(action)
        np.testing.assert_allclose(env.observe(), expected, atol=1e-4)  # the start was rounded to float32


def test_coverage_counts_free_cells(family, maze):
    cells = free_cells(maze.walls)
    some = np.array([to_xy(cell, maze.walls) for cell in cells[:10]])
    assert family.coverage(some) == pytest.approx(10 / len(cells))
    assert family.coverage(np.array([to_xy(cell, maze.walls) for cell in cells])) == 1.0


def test_the_picture_is_drawn_without_a_graphics_library(family, maze):
    env = MazeEnv(maze, render_mode="rgb_array")
    env.reset(seed=0)
    image = env.render()
    assert (
        image.dtype == np.uint8 and image.shape == (352, 352, 3) and len(np.unique(image.reshape(-1, 3), axis=0)) == 4
    )


def test_collect_writes_a_data_set_and_does_not_overwrite(family, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    arguments = ["pretrain/maze_logs", "expert.steps=2000", "dataset=test/maze-v0"]
    assert collect_main(arguments) == 0
    printed = capsys.readouterr().out
    assert "next:    skillmeta inspect minari:test/maze-v0" in printed
    dataset = load_source("minari:test/maze-v0")
    visited = family.coverage(family.positions(np.asarray(dataset.observation)))
    assert 0 < visited < 1 and f"{visited:.0%} of the world visited" in printed
    assert dataset.num_steps >= 2000 and dataset.action_high.tolist() == [1, 1]
    with pytest.raises(UserError, match="exists already"):
        collect_main(arguments)
    assert collect_main([*arguments, "overwrite=true"]) == 0


def test_any_gymnasium_environment_is_a_family():
    from skillmeta.tasks import gym as gym_family

    family = gym_family.family(gym_family.Config(id="Pendulum-v1", kwargs={"g": 5.0}))
    env = family.make_env()
    assert isinstance(env, gym_family.VariedEnv) and env.inner.unwrapped.g == 5.0 and len(family.tasks("test")) == 1
    with pytest.raises(UserError, match="gymnasium.make.*failed"):
        gym_family.family(gym_family.Config(id="Pendulam-v1")).make_env()
    with pytest.raises(UserError, match="there is no module no_such_module beside the config or in the working folder"):
        gym_family.family(gym_family.Config(imports=["no_such_module"]))
