"""The kitchen against gymnasium-robotics' own, ordered rewards against a brute-force reading of the rule, the script at work."""

from __future__ import annotations

import contextlib
import io
import zlib
from itertools import pairwise

import gymnasium
import numpy as np
import pytest

pytest.importorskip("gymnasium_robotics", reason="needs pip install -e '.[robotics]'")

from skillmeta.errors import ConfigError, UserError  # noqa: E402
from skillmeta.experts import kitchen as kitchen_expert
from skillmeta.tasks import kitchen  # noqa: E402
from skillmeta.tasks.kitchen import DONE_AT, SUBTASKS, WHERE, Config, KitchenEnv, Order, count, family  # noqa: E402

ORDER = Order(("microwave", "kettle", "light switch", "slide cabinet"))


def robotics(**kwargs) -> gymnasium.Env:
    with contextlib.redirect_stderr(io.StringIO()):
        import gymnasium_robotics
    gymnasium.register_envs(gymnasium_robotics)
    return gymnasium.make("FrankaKitchen-v1", terminate_on_tasks_completed=False, **kwargs)


@pytest.mark.parametrize("noise", ["none", "gymnasium", "d4rl"])
def test_the_simulator_and_its_noise_are_gymnasium_robotics(noise):
    robot, objects = {"none": (0, 0), "gymnasium": (0.01, 0.0005), "d4rl": (0.1, 0.1)}[noise]
    theirs = robotics(robot_noise_ratio=robot, object_noise_ratio=objects)
    ours = KitchenEnv(Config(noise=noise, observation=59), ORDER)
    a, _ = ours.reset(seed=3)
    b, _ = theirs.reset(seed=3)
    assert np.array_equal(a, b["observation"].astype(np.float32))
    rng = np.random.default_rng(0)
    for _ in range(15):
        action = rng.uniform(-1, 1, 9).astype(np.float32)
        a, b = ours.step(action)[0], theirs.step(action.astype(np.float64))[0]["observation"]
        assert np.array_equal(a, b.astype(np.float32))


def test_goals_and_places_are_gymnasium_robotics():
    robotics()
    from gymnasium_robotics.envs.franka_kitchen import kitchen_env

    assert set(kitchen_env.OBS_ELEMENT_GOALS) == set(SUBTASKS) and kitchen_env.BONUS_THRESH == kitchen.DONE_WITHIN
    for subtask in SUBTASKS:
        assert kitchen_env.OBS_ELEMENT_GOALS[subtask].tolist() == DONE_AT[subtask]
        assert kitchen_env.OBS_ELEMENT_INDICES[subtask].tolist() == WHERE[subtask]


def test_d4rls_sixty_numbers():
    """Robot 9, objects 21, then the goals' 30: zeros unless some are shown."""
    wide, narrow = (KitchenEnv(Config(noise="none", observation=n), ORDER) for n in (59, 60))
    a, b = wide.reset(seed=0)[0], narrow.reset(seed=0)[0]
    assert np.array_equal(b[:9], a[:9]) and np.array_equal(b[9:30], a[18:39]) and not b[30:].any()
    shown = KitchenEnv(Config(noise="none", shown_goals=["kettle"]), ORDER).reset(seed=0)[0]
    assert shown[30 + 23 : 30 + 30].tolist() == pytest.approx(DONE_AT["kettle"]) and not shown[30 : 30 + 23].any()


def at_start() -> np.ndarray:
    env = KitchenEnv(Config(noise="none"), ORDER)
    env.reset(seed=0)
    return env.data.qpos.copy()


def with_done(*done: str) -> np.ndarray:
    positions = at_start()
    for subtask in done:
        positions[WHERE[subtask]] = DONE_AT[subtask]
    return positions


def test_nothing_counts_before_its_turn():
    order = ORDER.subtasks
    assert count(at_start(), order, 0) == 0
    assert count(with_done("microwave"), order, 0) == 1
    assert count(with_done("kettle", "light switch", "slide cabinet"), order, 0) == 0  # the microwave comes first
    assert count(with_done("microwave", "light switch"), order, 0) == 1
    assert count(with_done("microwave", "kettle", "light switch"), order, 0) == 3  # done too early counts in its turn
    assert count(with_done("kettle"), order, 1) == 2  # what has counted stays, though the microwave is shut again
    assert count(with_done(*order), order, 0) == 4


def test_rewards_follow_hand_set_states():
    """SiMPL's rule read naively: walk through what remains; the first thing that is not done stops the walk."""
    env = KitchenEnv(Config(noise="none"), ORDER)
    env.reset(seed=0)
    remaining, total = list(ORDER.subtasks), 0.0
    for done in (["kettle"], ["kettle"], ["microwave", "kettle"], ["slide cabinet"], ["light switch", "slide cabinet"]):
        env.data.qpos[:] = with_done(*done)
        env.data.qvel[:] = 0
        _, reward, terminated, _, info = env.step(np.zeros(9, np.float32))
        wanted = 0
        while remaining and kitchen.is_done(env.data.qpos, remaining[0]):
            remaining.pop(0)
            wanted += 1
        total += reward
        assert reward == wanted and info["completed"] == 4 - len(remaining)
        assert terminated == info["success"] == (not remaining)
    assert total == 4


def test_test_orders_are_new_and_made_of_known_transitions():
    train, validation, test = kitchen.orders(Config()).values()
    assert (len(train), len(validation), len(test)) == (23, 10, 10)
    known = {pair for order in train for pair in pairwise(order.subtasks)}
    first = {order.subtasks[0] for order in train}
    for order in (*validation, *test):
        assert set(pairwise(order.subtasks)) <= known and order.subtasks[0] in first
    assert {subtask for order in test for subtask in order.subtasks} == set(SUBTASKS[:6])
    with pytest.raises(UserError, match="ask for fewer"):
        kitchen.orders(Config(length=2, train_tasks=29))


def test_the_orders_are_as_they_were():
    """Golden: whoever changes them raises the family's version."""
    train, _, test = kitchen.orders(Config()).values()
    assert test[0].subtasks == ("light switch", "slide cabinet", "microwave", "top burner")
    written = "|".join(",".join(order.subtasks) for order in (*train, *test))
    assert zlib.crc32(written.encode()) == 2585511936


def test_observations_are_fresh_and_environments_apart():
    """FrankaKitchen's own `reset` and `step` write into one buffer."""
    one, two = (KitchenEnv(Config(noise="none", observation=59), ORDER) for _ in range(2))
    kept, _ = one.reset(seed=0)
    still, _ = two.reset(seed=0, options={"task": Order(("kettle", "microwave"))})
    copy = kept.copy()
    moved = [one.step(np.full(9, 0.5, np.float32))[0] for _ in range(3)]
    assert np.array_equal(kept, copy) and not np.array_equal(moved[0], moved[1])
    assert np.array_equal(two.data.qpos[:9].astype(np.float32), still[:9]) and one.task == ORDER != two.task
    infos = [one.step(np.zeros(9, np.float32))[4] for _ in range(2)]
    infos[0]["task"]["subtasks"].clear()
    assert infos[1]["task"]["subtasks"] == list(ORDER.subtasks)


def test_the_definition_tells_what_is_shown():
    assert "goals among them: none" in family(Config()).definition
    told = family(Config(shown_goals=["kettle"], noise="gymnasium", max_episode_steps=100)).definition
    assert "those of kettle" in told and "noise: gymnasium" in told and "100 steps" in told


def test_the_script_does_what_it_is_asked():
    env = KitchenEnv(Config(), ORDER)
    config = kitchen_expert.Config(action_noise=[0.05, 0.05])
    worked = [
        kitchen_expert.record(env, [subtask], config, np.random.default_rng(i)).outcomes == ((subtask, True),)
        for subtask in ("kettle", "light switch", "top burner")
        for i in range(2)
    ]
    assert sum(worked) >= 5
    with pytest.raises(ConfigError, match="'hinge cabinet' has no script"):
        next(kitchen_expert.script(env, ["hinge cabinet"], np.random.default_rng(0)))


def test_an_order_is_done_by_the_familys_expert():
    found = family(Config())
    env = found.make_env()
    task = Order(("kettle", "light switch", "slide cabinet", "top burner"))
    observation, _ = env.reset(seed=0, options={"task": task})
    act, rewards, over = found.expert(env, np.random.default_rng(0)), 0.0, False
    while not over:
        observation, reward, terminated, truncated, info = env.step(act(observation))
        rewards, over = rewards + reward, terminated or truncated
    assert rewards >= 3 and rewards == info["completed"]


def test_logs_are_episodes_of_the_environment():
    found = family(Config())
    config = kitchen_expert.Config(steps=60, per_episode=2, max_episode_steps=80, seed=4)
    first, again = (list(kitchen_expert.collect(found, config)) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.episode.action[0], b.episode.action[0])
        assert (
            a.episode.observation.shape == (1, a.episode.reward.size + 1, 60) and np.abs(a.episode.action[0]).max() <= 1
        )
        assert len(a.outcomes) == 2 and a.episode.truncated[0, -1] and not a.episode.terminated.any()


def test_recorded_actions_replay_to_the_recorded_observations():
    """They are what was done, noise and clipping included; the first thing drawn is the seed of the reset."""
    env = KitchenEnv(Config(), ORDER)
    config = kitchen_expert.Config(max_episode_steps=60, action_noise=[0.3, 0.3])
    episode = kitchen_expert.record(env, ["kettle", "microwave"], config, np.random.default_rng(8)).episode
    observation, _ = env.reset(seed=int(np.random.default_rng(8).integers(2**31)))
    assert np.array_equal(observation, episode.observation[0, 0])
    for action, expected in zip(episode.action[0], episode.observation[0, 1:], strict=True):
        assert np.array_equal(env.step(action)[0], expected)


@pytest.mark.parametrize("numbers", [59, pytest.param(60, marks=pytest.mark.slow)])
def test_the_wheel_shows_progress_and_coverage_counts_subtasks(numbers):
    found = family(Config(noise="none", observation=numbers))
    env = found.make_env()
    start, _ = env.reset(seed=0)
    seen = [start]
    for done in (["microwave"], ["light switch"], ["light switch"], ["hinge cabinet"]):
        env.data.qpos[:] = with_done(*done)
        env.data.qvel[:] = 0
        seen.append(env.step(np.zeros(9, np.float32))[0])
    at = found.positions(np.stack(seen))
    assert np.linalg.norm(at[0, :2]) < 0.1
    assert at[1, :2] == pytest.approx(kitchen.SPOKES[SUBTASKS.index("microwave")], abs=0.1)
    assert [found.coverage(at[:n]) for n in (1, 2, 3, 4)] == pytest.approx([0, 1 / 6, 2 / 6, 2 / 6])
    assert found.coverage(at[4:]) == 0  # the hinge cabinet is none of this family's six


def test_the_map_is_drawn():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    family(Config()).draw(axes, ORDER)
    assert {text.get_text() for text in axes.texts} == set(SUBTASKS)
    assert axes.get_xlabel() == "microwave > kettle > light switch > slide cabinet"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"observation": 61}, "59 or 60"),
        ({"noise": "loud"}, "d4rl, gymnasium or none"),
        ({"subtasks": ["microwave", "sink"]}, "'sink'"),
        ({"length": 9}, "between 1 and"),
        ({"observation": 59, "shown_goals": ["kettle"]}, "needs observation=60"),
    ],
)
def test_impossible_configs_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Config(**options)
