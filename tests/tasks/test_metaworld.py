"""Meta-World's tasks against Meta-World itself, and the traps that its users fell into."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from skillmeta.errors import ConfigError
from skillmeta.tasks.base import TaskConfig, make_family

metaworld = pytest.importorskip("metaworld", reason="needs pip install -e '.[metaworld]'")

from skillmeta.experts import metaworld as metaworld_expert  # noqa: E402
from skillmeta.tasks.metaworld import Config, MetaWorldEnv, family, validation  # noqa: E402
from skillmeta.tasks.metaworld_official import official_success  # noqa: E402

PUSH = {"benchmark": "ML1", "name": "push-v3"}


def push(**options) -> object:
    return make_family(TaskConfig("metaworld", options={**PUSH, **options}))


def test_our_environment_in_our_task_is_theirs_in_theirs():
    """Same rewards, successes and observations for the same actions, from Meta-World's own pickled tasks."""
    benchmark, ours = metaworld.ML1("push-v3", seed=1), push()
    theirs = benchmark.train_classes["push-v3"](reward_function_version="v2")
    env, rng = ours.make_env(), np.random.default_rng(0)
    for i in (0, 7):
        vector = pickle.loads(benchmark.train_tasks[i].data)["rand_vec"]
        assert ours.tasks("train")[i].vector == tuple(vector)
        theirs.set_task(benchmark.train_tasks[i])
        first, _ = theirs.reset()
        assert np.array_equal(env.reset(options={"task": ours.tasks("train")[i]})[0], first.astype(np.float32))
        for _ in range(60):
            action = rng.uniform(-1, 1, 4).astype(np.float32)
            a, r, _, _, info = env.step(action)
            b, s, _, _, told = theirs.step(action)
            assert (
                np.array_equal(a, b.astype(np.float32)) and r == float(s) and info["success"] == bool(told["success"])
            )


def test_training_goals_are_not_the_test_goals():
    """Meta-World 3.1.1's ML1 training id serves the 50 test goals."""
    ours, benchmark = push(), metaworld.ML1("push-v3", seed=1)
    train, test = ours.tasks("train"), ours.tasks("test")
    assert len(train) == len(test) == len(set(train)) == 50 and not set(train) & set(test)
    assert test[3].vector == tuple(pickle.loads(benchmark.test_tasks[3].data)["rand_vec"])


@pytest.mark.slow
def test_validation_goals_are_drawn_as_meta_worlds_are_from_another_seed():
    before = np.random.get_state()[1].tolist()
    ours, classes = push(), metaworld.ML1("push-v3", seed=1).train_classes
    assert validation(classes, 1) == [(task.name, list(task.vector)) for task in ours.tasks("train")[:10]]
    assert validation(classes, 3) == [(task.name, list(task.vector)) for task in ours.tasks("validation")]
    assert np.random.get_state()[1].tolist() == before and len(push(goals_per_class=4).tasks("validation")) == 4


def test_test_classes_are_not_looked_at_in_validation():
    found = make_family(TaskConfig("metaworld", options={"benchmark": "ML10"}))
    classes = {split: {task.name for task in found.tasks(split)} for split in found.splits}
    assert classes["validation"] == classes["train"] and not classes["validation"] & classes["test"]


def test_the_goal_is_hidden_unless_asked_for():
    for visible in (False, True):
        found = push(goal_visible=visible, max_episode_steps=5)
        env = found.make_env()
        seen, _ = env.reset(options={"task": found.tasks("train")[0]})
        moved = env.step(np.zeros(4, np.float32))[0]
        wanted = env.goal() if visible else np.zeros(3, np.float32)
        assert np.array_equal(seen[36:], wanted) and np.array_equal(moved[36:], wanted)
        assert env.goal()[:2] == pytest.approx(
            found.tasks("train")[0].vector[3:5], abs=1e-6
        )  # its height is the object's
        assert env.observation_space.contains(moved)


def test_an_episode_can_be_repeated_after_another_one():
    found = push()
    env, rng = found.make_env(), np.random.default_rng(1)
    actions = rng.uniform(-1, 1, (40, 4)).astype(np.float32)

    def walk() -> list[float]:
        env.reset(options={"task": found.tasks("train")[1]})
        return [env.step(action)[1] for action in actions]

    first = walk()
    env.reset(options={"task": found.tasks("test")[5]})
    env.step(np.ones(4, np.float32))
    assert walk() == first


def test_the_time_limit_is_ours_and_step_501_is_never_taken():
    found = push(max_episode_steps=3)
    env = found.make_env()
    env.reset(options={"task": found.tasks("train")[0]})
    assert [env.step(np.zeros(4, np.float32))[3] for _ in range(3)] == [False, False, True]
    with pytest.raises(ValueError, match="between 1 and 500"):
        Config(max_episode_steps=501)


def test_experts_solve_with_the_goal_in_view_and_are_recorded_without_it():
    found = push()
    config = metaworld_expert.Config(steps=400, action_noise=0.0, random_stretches=0.0, after_success=4)
    recordings = list(metaworld_expert.collect(found, config))
    assert sum(r.episode.reward.size for r in recordings) >= 400
    for episode, outcomes in recordings:
        assert outcomes == (("push-v3", True),)
        assert (episode.observation[0, :, 36:] == 0).all() and episode.observation.shape[1] == episode.reward.size + 1
        assert episode.succeeded.all() and episode.success.size - int(episode.success.argmax()) - 1 == 4
    again = list(metaworld_expert.collect(found, config))
    assert all(np.array_equal(a.episode.action[0], b.episode.action[0]) for a, b in zip(recordings, again, strict=True))


def test_the_expert_ends_an_episode_where_it_may():
    found = push(end_at_success=True)
    env = found.make_env()
    task = found.tasks("test")[0]
    observation, _ = env.reset(options={"task": task})
    act, over, info = found.expert(env, np.random.default_rng(0)), False, {}
    while not over:
        observation, _, terminated, truncated, info = env.step(act(observation))
        over = terminated or truncated
    assert terminated and not truncated and info["success"]


def test_unknown_classes_are_named():
    with pytest.raises(ConfigError, match="no such class"):
        family(Config(benchmark="ML1", name="fly-v3"))


@pytest.mark.slow
def test_a_damaged_cache_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("SKILLMETA_CACHE", str(tmp_path))
    before = push().tasks("train")
    (file,) = tmp_path.glob("*.json")
    file.write_text("{")
    assert push().tasks("train") == before


class Stub:
    """Meta-World's side of its evaluator: environments of one class, of which every fifth is solved in ten steps."""

    num_envs, max_episode_steps = 10, 500

    def __init__(self):
        self.clock = np.zeros(self.num_envs, int)

    def get_attr(self, name):
        return [True] * self.num_envs if name == "terminate_on_success" else ["SawyerReachEnvV3"] * self.num_envs

    def call(self, name, *arguments):
        return None

    def reset(self):
        self.clock[:] = 0
        return np.zeros((self.num_envs, 39)), {}

    def step(self, actions):
        self.clock += 1
        solved = (np.arange(self.num_envs) % 5 == 0) & (self.clock >= 10)
        cut = self.clock >= self.max_episode_steps
        self.clock[solved | cut] = 0
        info = {"final_info": {"episode": {"r": np.zeros(self.num_envs)}, "success": solved}}
        return np.zeros((self.num_envs, 39)), np.zeros(self.num_envs), solved, cut & ~solved, info


class Nobody:
    def eval_action(self, observations):
        return np.zeros((len(observations), 4))

    def reset(self, mask):
        return None


def test_their_evaluator_tells_a_fifth_as_everything_and_the_adapter_says_the_same():
    from metaworld.evaluation import evaluation

    theirs, *_ = evaluation(Nobody(), Stub(), num_episodes=3)
    success = np.repeat((np.arange(10) % 5 == 0)[:, None], 3, 1)
    steps = np.where(success, 10, 500)
    ours, by_class = official_success(steps, success, ["reach-v3"] * 10, 3)
    assert theirs == ours == by_class["reach-v3"] == 1.0
    assert success.mean() == 0.2


def test_the_adapter_counts_failures_where_they_come_first():
    success = np.array([[True], [False]])
    assert official_success(np.array([[500], [100]]), success, ["a", "a"], 1)[0] == 0.0
    assert official_success(np.array([[50], [100]]), success, ["a", "b"], 1)[0] == 0.5


def test_an_environment_keeps_one_simulator_a_class():
    found = push()
    env = found.make_env()
    assert isinstance(env, MetaWorldEnv)
    env.reset(options={"task": found.tasks("train")[0]})
    first = env.simulator
    env.reset(options={"task": found.tasks("train")[1]})
    assert env.simulator is first
