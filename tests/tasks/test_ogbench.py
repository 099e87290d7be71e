"""OGBench's scenes against OGBench's own tasks; seeds; drawn tasks that can be done; oracles at work."""

from __future__ import annotations

import dataclasses
import itertools
import warnings

import gymnasium
import numpy as np
import pytest

pytest.importorskip("ogbench", reason="needs pip install -e '.[ogbench]'")

from skillmeta.experts import ogbench as ogbench_expert
from skillmeta.experts.ogbench import Solver, solve_lights  # noqa: E402
from skillmeta.tasks import ogbench  # noqa: E402
from skillmeta.tasks.ogbench import Config, Rearrangement, Things, family  # noqa: E402

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


def test_goals_differ_by_what_ogbench_tells_apart():
    """Wherever they start from: a button, or a cube by more than twice the tolerance."""
    found = family(Config(scene="scene"))
    test = found.tasks("test")[0]
    elsewhere = dataclasses.replace(test, name="drawn", start=found.tasks("test")[1].start)
    flipped = tuple(1 - button for button in test.goal.buttons)
    pressed = dataclasses.replace(test, goal=dataclasses.replace(test.goal, buttons=flipped))
    x, y, z = test.goal.cubes[0]
    moved = dataclasses.replace(test, goal=dataclasses.replace(test.goal, cubes=((x + 0.03, y - 0.04, z),)))
    assert [found.distance(test, other) for other in (test, elsewhere, pressed)] == [0.0, 0.0, np.inf]
    assert found.distance(test, moved) == pytest.approx(0.05)
    assert not found.apart(elsewhere, [test]) and not found.apart(moved, [test]) and found.apart(pressed, [test])


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


@pytest.mark.slow
def test_cubes_keep_their_numbers_whatever_the_seed():
    """One task is one goal: OGBench's default would deal the numbers out anew at every reset."""
    found = family(Config(scene="cube-triple"))
    env, task = found.make_env(), found.tasks("test")[3]
    for seed in range(4):
        env.reset(seed=seed, options={"task": task})
        for cube, (start, goal) in enumerate(zip(task.start.cubes, task.goal.cubes, strict=True)):
            place = env.inner.data.joint(f"object_joint_{cube}").qpos[:3]
            assert np.abs(place - start).max() <= 0.01 + 1e-9
            assert np.array_equal(env.inner.data.body(f"object_target_{cube}").xpos, goal)
    env.close()


def test_the_look_at_the_goal_leaves_nothing_behind(scene, monkeypatch):
    """Whatever OGBench's two unseeded actions before a start are, start and steps are the same to the bit: even where a finger
    touches the cube as it looks."""
    found, env = scene
    arms = []
    place_arm = env.inner.initialize_arm
    monkeypatch.setattr(
        env.inner,
        "initialize_arm",
        lambda: (place_arm(), arms.append(env.inner.data.body("ur5e/robotiq/right_pad").xpos.copy())),
    )
    easy = found.tasks("test")[0]
    env.reset(seed=2, options={"task": easy})
    touched = tuple(float(v) for v in arms[0])  # where the finger is when it looks at the goal under this seed
    task = dataclasses.replace(easy, goal=dataclasses.replace(easy.goal, cubes=(touched,)))
    seen = []
    for value in (-1.0, 0.3, 1.0):
        monkeypatch.setattr(gymnasium.spaces.Box, "sample", lambda self, v=value: np.full(self.shape, v, np.float32))
        rows = [env.reset(seed=2, options={"task": task})[0]]
        assert rows[0][18] == 0, "a touch from before the start"
        for _ in range(5):
            env.step(np.array([0.5, -0.5, -1, 0.2, 1], np.float32))
            rows.append(env.inner.data.qpos.copy())  # float64: what float32 would hide
        seen.append(np.concatenate(rows))
    assert np.array_equal(seen[0], seen[1]) and np.array_equal(seen[0], seen[2])


def test_time_limits_are_ogbenchs():
    assert {name: gymnasium.spec(f"{name}-v0").max_episode_steps for name in ogbench.SCENES} == ogbench.SCENES


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scene", "cube-double", "puzzle-3x3"])
def test_a_visible_goal_is_ogbenchs_oracle_representation_of_it(name):
    hidden, shown = (family(Config(scene=name, goal_visible=visible)) for visible in (False, True))
    task = hidden.tasks("test")[4]
    env = shown.make_env()
    observation, _ = env.reset(seed=0, options={"task": task})
    goal = hidden.features(task)
    other = hidden.make_env()
    assert np.array_equal(observation, np.r_[other.reset(seed=0, options={"task": task})[0], goal])
    assert env.observation_space.shape == observation.shape
    inner = env.inner
    for cube, place in enumerate(task.goal.cubes):
        inner.data.joint(f"object_joint_{cube}").qpos[:3] = place
    if name == "scene":
        inner.data.joint("drawer_slide").qpos[0] = task.goal.drawer
        inner.data.joint("window_slide").qpos[0] = task.goal.window
    inner._cur_button_states = np.array(task.goal.buttons)
    assert np.allclose(goal, inner.compute_oracle_observation(), atol=1e-6)
    env.close()
    other.close()


def test_positions_are_the_grippers_and_coverage_counts_cells(scene):
    found, env = scene
    observation, _ = env.reset(seed=6, options={"task": found.tasks("test")[0]})
    observation, *_ = env.step(np.array([1, -1, 0, 0, 0], np.float32))
    gripper = env.inner.data.site("ur5e/robotiq/pinch").xpos
    assert np.allclose(found.positions(observation), gripper[[1, 0]], atol=1e-6)
    cell_x, cell_y = (np.arange(20) + 0.5) / 20 * 0.7 - 0.35, (np.arange(20) + 0.5) / 20 * 0.35 + 0.25
    grid = np.stack(np.meshgrid(cell_x, cell_y), -1).reshape(-1, 2)
    assert found.coverage(grid) == 1.0 and found.coverage(np.r_[grid[:100], grid[:50]]) == 0.25
    assert found.coverage(np.array([[0.5, 0.4]])) == 0.0


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
    stacked, shut_in = 0, 0
    for _ in range(80):
        cubes = ogbench.draw_task("cube-triple", rng)
        for places in (cubes.start.cubes, cubes.goal.cubes):
            for a, b in itertools.combinations(places, 2):
                apart = np.hypot(a[0] - b[0], a[1] - b[1])
                assert apart >= 0.08 or (apart == 0 and a[2] - b[2] == pytest.approx(0.04))
        assert cubes.start != cubes.goal
        stacked += any(z > 0.02 for _, _, z in cubes.goal.cubes)
        lights = ogbench.draw_task("puzzle-3x3", rng)
        left = (np.array(lights.start.buttons) + lights.goal.buttons).reshape(3, 3) % 2
        presses = solve_lights(left)
        for press in presses:
            ogbench.toggle(left, press)
        assert presses and not left.any()
        room = ogbench.draw_task("scene", rng)
        assert room.start != room.goal
        if room.goal.cubes == (ogbench.IN_DRAWER,):
            shut_in += 1
            assert room.goal.drawer == 0.0
    assert 8 <= stacked <= 32 and 8 <= shut_in <= 32
    theirs = [task.goal.cubes[0] for task in family(Config(scene="scene")).tasks("test")]
    assert theirs.count(ogbench.IN_DRAWER) == 2


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


@pytest.mark.parametrize(
    ("name", "which"),
    [("cube-double", 4), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("scene", 1), ("puzzle-3x3", 0)))],
)
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


@pytest.mark.slow
def test_play_is_recorded_and_leaves_numpys_generator_alone(scene):
    found, _ = scene
    config = ogbench_expert.Config(steps=200, episode_steps=150, seed=3)
    np.random.seed(0)
    before = np.random.get_state()[1].tolist()
    first = list(ogbench_expert.collect(found, config))
    again = next(iter(ogbench_expert.collect(found, config)))
    assert np.random.get_state()[1].tolist() == before
    assert [r.episode.reward.size for r in first] == [150, 150]
    assert all(not r.episode.succeeded and r.outcomes for r in first)
    assert np.array_equal(first[0].episode.observation[0], again.episode.observation[0])
    assert first[0].outcomes == again.outcomes
    for r in first:
        assert np.abs(r.episode.action[0]).max() <= 1 and r.episode.observation.shape[2] == 40


@pytest.mark.slow
def test_play_stacks_as_seldom_as_ogbenchs(monkeypatch):
    asked = []
    real = ogbench_expert.make_scene

    def watched(name: str, mode: str) -> object:
        made = real(name, mode)
        turn = made.set_new_target
        made.set_new_target = lambda return_info=True, p_stack=None: (
            asked.append(p_stack),
            turn(return_info, p_stack or 0),
        )[1]
        return made

    monkeypatch.setattr(ogbench_expert, "make_scene", watched)
    config = ogbench_expert.Config(steps=320, episode_steps=160, style="noisy", random_actions=0.1, seed=0)
    logs = list(ogbench_expert.collect(family(Config(scene="cube-double", train_tasks=1)), config))
    chances = {chance for chance in asked if chance is not None}  # the first target of an episode is the reset's
    assert len(logs) == 2 and 1 <= len(chances) <= 2 and all(0 <= chance <= 0.25 for chance in chances)
    assert all(np.abs(r.episode.action[0]).max() <= 1 for r in logs)


@pytest.mark.slow
def test_puzzles_are_played_with_a_closed_gripper():
    config = ogbench_expert.Config(steps=120, episode_steps=120, seed=0)
    (log,) = ogbench_expert.collect(family(Config(scene="puzzle-3x3", train_tasks=1)), config)
    opening = log.episode.observation[0, 20:, 17] / 3
    assert opening.min() > 0.7 and dict(log.outcomes) == {"button": True}


@pytest.mark.parametrize(
    ("place", "gone"),
    [((0.4, 0.28, 0.02), False), ((0.4, 0.3, 0.02), True), ((0.33, -0.35, 0.066), False), ((0.33, -0.35, 0.02), True)],
)
def test_episodes_whose_cube_goes_out_of_sight_are_left_out(scene, place, gone):
    found, env = scene
    rows = np.stack([env.reset(seed=s, options={"task": found.tasks("test")[0]})[0] for s in (0, 1)])
    env.inner.data.joint("object_joint_0").qpos[:3] = place
    assert not ogbench_expert.lost(rows)
    assert ogbench_expert.lost(np.stack([*rows, env._observe()])) is gone


@pytest.mark.parametrize(
    ("options", "sentence"), [({"scene": "sink"}, "choose cube-single"), ({"reward": "none"}, "sparse or singletask")]
)
def test_impossible_configs_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Config(**options)
