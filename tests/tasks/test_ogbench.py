"""OGBench's scenes against OGBench's own tasks; seeds; drawn tasks that can be done; oracles at work."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest

pytest.importorskip("ogbench", reason="needs pip install 'skillmeta[ogbench]'")

from skillmeta.tasks import ogbench, ogbench_expert  # noqa: E402
from skillmeta.tasks.ogbench import Config, Rearrangement, Things, family  # noqa: E402
from skillmeta.tasks.ogbench_expert import Solver, solve_lights  # noqa: E402

warnings.filterwarnings("ignore", module="gymnasium")


@pytest.fixture(scope="module")
def scene():
    found = family(Config(scene="scene"))
    env = found.make_env()
    yield found, env
    env.close()


@pytest.mark.parametrize("name", ["cube-double", "scene", "puzzle-3x3"])
def test_the_test_tasks_are_ogbenchs_own_five(name):
    theirs = ogbench.make_scene(name)
    ours = family(Config(scene=name)).tasks("test")
    assert [task.name for task in ours] == [info["task_name"] for info in theirs.task_infos] and len(ours) == 5
    for task, info in zip(ours, theirs.task_infos, strict=True):
        again = ogbench.as_theirs(task, name)
        assert again.keys() == info.keys()
        for key in info:
            if key in ("init", "goal"):
                assert all(np.array_equal(again[key][k], info[key][k]) for k in info[key])
            elif key != "task_name":
                assert np.array_equal(again[key], info[key])


def test_our_reset_and_steps_are_theirs(scene):
    """The same start and the same physics as OGBench's environment under its own task number."""
    found, env = scene
    theirs = ogbench.make_scene("scene")
    for number, task in enumerate(found.tasks("test")[:2], start=1):
        ours, _ = env.reset(seed=5, options={"task": task})
        first, info = theirs.reset(seed=5, options={"task_id": number})
        still = np.r_[0:6, 12:17, 19:28]  # what is no velocity and no trace of the noise before the start
        assert np.allclose(ours[still], first[still], atol=1e-3)
        rng = np.random.default_rng(0)
        for _ in range(20):
            action = rng.uniform(-1, 1, 5)
            ours, _, _, _, told = env.step(action)
            first, _, _, _, info = theirs.step(action)
            assert told["success"] == bool(info["success"])
        assert np.allclose(ours[still], first[still], atol=0.05)


def test_a_seed_decides_everything(scene):
    found, env = scene

    def walk(seed: int) -> np.ndarray:
        rows = [env.reset(seed=seed, options={"task": found.tasks("test")[2]})[0]]
        rng = np.random.default_rng(1)
        rows += [env.step(rng.uniform(-1, 1, 5))[0] for _ in range(15)]
        return np.stack(rows)

    first = walk(3)
    env.reset(seed=9, options={"task": found.tasks("train")[0]})
    env.step(np.ones(5))
    assert np.array_equal(walk(3), first) and not np.array_equal(walk(4), first)


def test_rewards_say_what_is_out_of_place():
    found = family(Config(scene="scene", reward="singletask"))
    env = found.make_env()
    task = Rearrangement(
        "t", Things(((0.35, 0.05, 0.02),), (1, 1), 0.0, 0.0), Things(((0.35, 0.05, 0.02),), (0, 1), -0.16, 0.0)
    )
    env.reset(seed=0, options={"task": task})
    assert env.step(np.zeros(5))[1] == -2.0 and ogbench.unplaced(env.inner) == ["button_0", "drawer"]
    env.inner._data.joint("drawer_slide").qpos[0] = -0.16
    assert env.step(np.zeros(5))[1] == -1.0
    env.inner._cur_button_states = np.array([0, 1])
    _, reward, terminated, truncated, info = env.step(np.zeros(5))
    assert reward == 0.0 and terminated and not truncated and info["success"]
    env.close()


def test_drawn_tasks_can_be_done():
    rng = np.random.default_rng(0)
    for _ in range(50):
        cubes = ogbench.draw_task("cube-triple", rng)
        for places in (cubes.start.cubes, cubes.goal.cubes):
            apart = [np.hypot(a[0] - b[0], a[1] - b[1]) for a, b in itertools.combinations(places, 2)]
            assert min(apart) >= 0.08
        assert cubes.start != cubes.goal
        lights = ogbench.draw_task("puzzle-3x3", rng)
        left = (np.array(lights.start.buttons) + lights.goal.buttons).reshape(3, 3) % 2
        presses = solve_lights(left)
        for press in presses:
            ogbench.toggle(left, press)
        assert presses and not left.any()
        room = ogbench.draw_task("scene", rng)
        assert room.start != room.goal


def test_the_fewest_presses():
    """Against trying all sets of presses."""
    rng = np.random.default_rng(1)
    for _ in range(10):
        lights = rng.integers(2, size=(3, 3))
        sizes = []
        for mask in range(2**9):
            state, chosen = lights.copy(), [b for b in range(9) if mask >> b & 1]
            for button in chosen:
                ogbench.toggle(state, button)
            if not state.any():
                sizes.append(len(chosen))
        assert len(solve_lights(lights)) == min(sizes)


@pytest.mark.parametrize(("name", "which"), [("scene", 1), ("cube-double", 4), ("puzzle-3x3", 0)])
def test_the_solver_reaches_the_goal(name, which):
    found = family(Config(scene=name))
    env = found.make_env()
    observation, _ = env.reset(seed=1, options={"task": found.tasks("test")[which]})
    act, over = found.expert(env, np.random.default_rng(0)), False
    assert isinstance(act, Solver)
    while not over:
        observation, reward, terminated, truncated, info = env.step(act(observation))
        over = terminated or truncated
    assert info["success"] and reward == 1.0
    env.close()


def test_play_is_recorded_and_leaves_numpys_generator_alone(scene):
    found, _ = scene
    config = ogbench_expert.Config(steps=200, episode_steps=150, seed=3)
    np.random.seed(0)
    before = np.random.get_state()[1].tolist()
    first, again = (list(ogbench_expert.collect(found, config)) for _ in range(2))
    assert np.random.get_state()[1].tolist() == before
    assert [len(r.episode.actions) for r in first] == [150, 150]
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.episode.observations, b.episode.observations) and a.outcomes == b.outcomes
        assert np.abs(a.episode.actions).max() <= 1 and a.episode.observations.shape[1] == 40


@pytest.mark.parametrize(
    ("options", "sentence"), [({"scene": "sink"}, "choose one of"), ({"reward": "none"}, "sparse or singletask")]
)
def test_impossible_configs_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Config(**options)
