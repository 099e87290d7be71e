"""AntMaze against gymnasium-robotics' own, and point mazes with layouts that were never seen."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace

import mujoco
import numpy as np
import pytest

pytest.importorskip("gymnasium_robotics", reason="needs pip install -e '.[robotics]'")

from skillmeta.errors import UserError  # noqa: E402
from skillmeta.tasks import ant_maze, maze_unseen  # noqa: E402
from skillmeta.tasks.ant import Place  # noqa: E402
from skillmeta.tasks.maze_generator import to_cell  # noqa: E402


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": 8}, "none of 100 mazes has room for goals"),
        ({"min_path": 80}, "none of 100 mazes has room for goals"),
        ({"train_layouts": 1, "train_tasks": 400}, "400 tasks in the maze of layout_seed 1, which has"),
    ],
)
def test_layouts_or_goals_that_do_not_exist_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        maze_unseen.family(maze_unseen.Config(**options))


def robotics(name: str):
    with contextlib.redirect_stderr(io.StringIO()):
        from gymnasium_robotics.envs.maze import maps
        from gymnasium_robotics.envs.maze.ant_maze_v5 import AntMazeEnv
    return AntMazeEnv(maze_map=getattr(maps, ant_maze.MAPS[name]), continuing_task=False)


@pytest.mark.parametrize("name", ["umaze", "medium"])
def test_ant_maze_is_gymnasium_robotics(name):
    """From the same state: the same states, rewards, ends and successes."""
    family = ant_maze.family(ant_maze.Config(map=name))
    env, theirs = family.make_env(), robotics(name)
    first, _ = theirs.reset(seed=0)
    env.reset(seed=0, options={"task": Place(*first["desired_goal"].tolist())})
    env.data.qpos[:], env.data.qvel[:] = theirs.data.qpos, theirs.data.qvel
    mujoco.mj_forward(env.model, env.data)
    env.data.qacc_warmstart[:] = theirs.data.qacc_warmstart  # where the solver begins shows in the last bits
    rng = np.random.default_rng(0)
    for step in range(25):
        if step == 20:  # set the ant down on the goal
            for data in (env.data, theirs.data):
                data.qpos[:2] = first["desired_goal"]
        action = rng.uniform(-1, 1, 8).astype(np.float32)
        a, reward, ended, _, info = env.step(action)
        b, wanted, over, _, told = theirs.step(action)
        assert np.allclose(env.data.qpos, theirs.data.qpos, atol=1e-9) and reward == wanted and ended == over
        assert info["success"] == told["success"]
        assert np.allclose(a[:2], b["achieved_goal"]) and np.allclose(a[2:], b["observation"][:27], atol=1e-6)
        if over:
            assert step >= 20
            break
    assert over


@pytest.mark.parametrize("name", ["umaze", "medium", "large"])
def test_no_place_is_the_arrival_at_goals_of_two_splits(name):
    family = ant_maze.family(ant_maze.Config(map=name))
    places = {split: np.array([(goal.x, goal.y) for goal in goals]) for split, goals in family.splits.items()}
    assert {split: len(goals) for split, goals in places.items()} == {"train": 40, "validation": 10, "test": 10}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        gaps = places[one][:, None] - places[other][None]
        assert np.hypot(gaps[..., 0], gaps[..., 1]).min() >= 2 * ant_maze.NEAR


def test_ant_maze_goals_are_free_and_away_from_the_start():
    family = ant_maze.family(ant_maze.Config(map="large"))
    walls, _ = ant_maze.maze("large")
    paths = ant_maze.distances(walls, ant_maze.START)
    for task in (*family.tasks("train"), *family.tasks("validation"), *family.tasks("test")):
        row, column = to_cell(np.array([task.x, task.y]) / ant_maze.CELL, walls)
        assert paths[row, column] >= 2
    env = family.make_env()
    starts = [env.reset(seed=seed)[0][:2] for seed in range(10)]
    assert all(tuple(to_cell(start / ant_maze.CELL, walls)) == ant_maze.START for start in starts)
    assert np.std(starts, axis=0).min() > 0.1 and np.isclose(env.reset(seed=0)[0][2], 0.75)


SMALL = maze_unseen.Config(
    size=14,
    min_path=8,
    train_layouts=4,
    validation_layouts=2,
    test_layouts=3,
    train_tasks=8,
    validation_tasks=2,
    test_tasks=3,
)


def test_every_layout_belongs_to_one_split():
    for config in (SMALL, maze_unseen.Config()):
        family = maze_unseen.family(config)
        layouts = [{task.layout for task in family.tasks(split)} for split in ("train", "validation", "test")]
        wanted = (config.train_layouts, config.validation_layouts, config.test_layouts)
        assert tuple(map(len, layouts)) == wanted and len(set.union(*layouts)) == sum(wanted)
        generator = np.random.default_rng(0)
        assert {family.sample(generator, "any").layout for _ in range(50)} <= layouts[0]
        assert len(set(family.tasks("train"))) == config.train_tasks


def test_experts_reach_goals_in_every_layout():
    family = maze_unseen.family(SMALL)
    env = family.make_env()
    for task in family.tasks("test"):
        observation, _ = env.reset(seed=1, options={"task": task})
        act, over = family.expert(env, np.random.default_rng(0)), False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(act(observation))
            over = terminated or truncated
        assert terminated and reward == 1.0
        assert family.features(task).shape == (2 + 196,)


def test_the_layout_stays_and_comes_back():
    family = maze_unseen.family(SMALL)
    env, push = family.make_env(), np.array([1.0, 0.3], np.float32)
    one, other = family.tasks("train")[0], family.tasks("test")[0]

    def walk(task) -> np.ndarray:
        env.reset(seed=4, options={"task": task})
        return np.stack([env.step(push)[0] for _ in range(200)])

    first = walk(one)
    assert not np.array_equal(walk(other), first) and np.array_equal(walk(one), first)
    env.reset(seed=0)
    assert env.task == one and env.inner is env._simulator(env.config, one.layout)


def test_a_view_shows_the_walls_around():
    family = maze_unseen.family(replace(SMALL, view=2))
    env = family.make_env()
    observation, _ = env.reset(seed=0, options={"task": family.tasks("test")[0]})
    walls = env.inner.maze.walls
    row, column = to_cell(observation[:2].astype(float), walls)
    seen = observation[4:].reshape(5, 5)
    for down in range(-2, 3):
        for right in range(-2, 3):
            r, c = row + down, column + right
            outside = not (0 <= r < walls.shape[0] and 0 <= c < walls.shape[1])
            assert seen[down + 2, right + 2] == (1.0 if outside else float(walls[r, c]))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ant_maze.Config(map="huge"), "umaze, medium or large"),
        (lambda: maze_unseen.Config(view=-1), "view is -1; it must be at least 0"),
        (lambda: maze_unseen.Config(size=3), "size is 3; it must be at least 6"),
    ],
)
def test_impossible_configs_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
