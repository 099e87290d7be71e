"""The evaluator: what it counts, what it must not see, and what must stand below and above an agent."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from skillmeta.algorithms import sac
from skillmeta.collect.episodes import episode
from skillmeta.collect.trials import trial
from skillmeta.collect.workers import Workers
from skillmeta.envs.batched import BatchedEnvs
from skillmeta.envs.make import EnvsFactory, make_envs
from skillmeta.evaluation.actors import NoAdaptation, RandomActor
from skillmeta.evaluation.adaptation import Adaptation, Evaluation, evaluate, final_scores, held_out_scores, joined
from skillmeta.evaluation.statistics import normalized
from skillmeta.reports.content import EPISODES, episodes_csv
from skillmeta.seeds import Seeds
from skillmeta.tasks.base import TaskConfig, make_family, task_id
from skillmeta.tasks.batched import Outcome
from tests.actors import Trilateration
from tests.learners import make_learner

POINTS = TaskConfig("point")
FAMILY = make_family(POINTS)
TASKS = FAMILY.tasks("test")[:6]


@dataclass(frozen=True)
class Number:
    number: int


class Doors:
    """Opens, and ends the episode, at the first step whose action is above 0; all that is seen is the task's number."""

    observation_dim, max_episode_steps = 1, 50
    action_space = Box(-1, 1, (1,), np.float32)

    def reset(self, seeds: np.ndarray, tasks: Sequence[Number]) -> np.ndarray:
        self.seen = np.array([[task.number] for task in tasks], np.float32)
        return self.seen

    def step(self, action: np.ndarray) -> Outcome:
        opened = action[:, 0] > 0
        return Outcome(self.seen, opened.astype(float), opened, opened)


class OpensEveryFifth(RandomActor):
    def act(self, observation, belief, generator, explore):
        return torch.where(observation % 5 == 0, 1.0, -1.0), belief


def doors(num: int) -> BatchedEnvs:
    return BatchedEnvs(Doors(), num)


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_an_agent_that_solves_a_fifth_of_the_environments_scores_a_fifth(at_once):
    """However early its solved episodes end: counting the first episodes that finish would give 1.00 (Meta-World does)."""
    result = evaluate(
        OpensEveryFifth(np.ones(1)),
        Workers(doors, envs_per_batch=at_once),
        [Number(i) for i in range(10)],
        episodes=3,
        evaluation_seed=0,
    )
    assert result.success.shape == (1, 1, 1, 10, 4)
    assert result.success.mean() == 0.2 == result.success_at_end.mean()
    assert result.env_steps[0, 0, 0, :, 0].tolist() == [1, 50, 50, 50, 50] * 2
    assert result.adaptation_steps[0, 0, 1].tolist() == [0, 50, 100, 150]
    assert result.steps_to_success[0, 0, 0, :2, 0].tolist() == [1, 50]


def test_steps_seen_before_an_episode_are_those_of_the_ones_before():
    nothing = np.zeros((1, 1, 2, 1, 3))
    steps = np.array([[7, 2, 5], [1, 1, 1]])[None, None, :, None]  # two rollouts: both are seen
    reported = Adaptation(nothing, nothing, nothing, steps, nothing, *np.zeros((2, 3), bool))
    assert reported.adaptation_steps.tolist() == [[[[0, 8, 11]]]]


def table(success) -> Adaptation:
    """From success [S, R, M, K+1]; returns are ten times as much, an episode takes three steps."""
    success = np.asarray(success, float)[:, :, None]
    explored, sampled = np.zeros((2, success.shape[-1]), bool)
    return Adaptation(10 * success, success, success, 3 + 0 * success, success, explored, sampled)


def test_solved_is_to_have_succeeded_once():
    reported = table([[[[0.0, 1, 0, 0], [0, 0, 1, 0]]]])
    assert reported.solved[0, 0, 0].tolist() == [[0, 1, 1, 1], [0, 0, 1, 1]]
    success = np.array([[[[0, 1, 0]], [[1, 0, 0]]], [[[0, 0, 1]], [[0, 0, 1]]]])[None]  # two repeats of two rollouts
    of_rollouts = Adaptation(*[success] * 5, *np.zeros((2, 3), bool)).solved
    assert of_rollouts.tolist() == [[[[[0.5, 0.5, 0.5]]], [[[0, 0, 1]]]]]


def test_repeats_are_averaged_within_a_seed_and_counted_as_trials():
    reported = table(
        np.array([[[[1.0], [0]], [[1], [1]]], [[[0], [0]], [[0], [1]]]])
    )  # [2 seeds, 2 repeats, 2 tasks, 1]
    scores = reported.last("success")
    assert (
        scores.values.tolist() == [[1, 0.5], [0, 0.5]]
        and scores.trials == 2
        and reported.last("returns").trials is None
    )


def both(success, new_tasks: bool, seeds=(3, 4, 5)) -> Evaluation:
    results = {"ours": table(success), "random": table(np.zeros_like(success[:1])), "no adaptation": table(success)}
    names = ("",) * success.shape[2]
    training = {"ours": seeds, "random": (), "no adaptation": seeds}
    references = {"ours": {"random": "random", "no adaptation": "no adaptation"}}
    ids = tuple(task_id(task) for task in TASKS[: len(names)])
    return Evaluation(
        "point", "test", ids, names, results, training, references, {"ours": (0,) * len(seeds)}, new_tasks
    )


def test_intervals_are_of_training_seeds_and_an_agent_without_training_has_none():
    success = np.random.default_rng(0).binomial(1, 0.7, (3, 2, 6, 1)).astype(float)
    row = both(success, new_tasks=False).summary()["results"]
    assert (
        row["ours"]["training_seeds"] == [3, 4, 5]
        and row["ours"]["repeats"] == 2
        and row["random"]["training_seeds"] == []
    )
    assert row["ours"]["success"][0]["value"] == pytest.approx(success.mean())
    low, high = row["ours"]["success"][0]["ci95"]
    assert low < success.mean() < high and row["random"]["success"][0]["ci95"] is None
    new = both(success, new_tasks=True).summary()["results"]
    assert new["random"]["success"][0]["ci95"][1] > 0.2  # six tasks, none solved
    one = both(success[:1], new_tasks=True, seeds=(3,)).summary()
    assert (
        one["results"]["ours"]["success"][0]["ci95"] is None
        and one["differences"]["ours"]["success"]["random"]["ci95"] is None
    )


def test_an_agent_that_is_its_own_reference_differs_by_nothing():
    success = np.random.default_rng(0).binomial(1, 0.7, (3, 2, 6, 1)).astype(float)
    found = both(success, new_tasks=True).differences("ours")
    assert found["returns"]["no adaptation"].value == 0 and found["returns"]["no adaptation"].ci95 is None
    assert found["returns"]["random"].value == pytest.approx(10 * success.mean())
    assert found["success"]["random"].ci95[0] > 0


def test_every_episode_is_a_row_of_the_one_schema():
    success = np.random.default_rng(0).binomial(1, 0.5, (3, 2, 6, 2)).astype(float)
    lines = [line.split(",") for line in episodes_csv(both(success, True)).splitlines()]
    assert tuple(lines[0]) == EPISODES and len(lines) == 1 + 2 * success.size + success[:1].size
    at = dict(zip(EPISODES, lines[1 + 24 + 12 + 2 * 2 + 1], strict=True))  # seed 4, repeat 1, task 2, episode 1
    assert (at["training_seed"], at["repeat"], at["task"], at["episode"]) == ("4", "1", "2", "1")
    assert int(at["success"]) == success[1, 1, 2, 1] and float(at["return"]) == 10 * success[1, 1, 2, 1]
    assert {line[1] for line in lines if line[0] == "random"} == {""}


def test_repeats_have_other_resets():
    agent, workers = RandomActor(np.ones(2)), Workers(EnvsFactory(POINTS))
    first, again, other = (evaluate(agent, workers, TASKS, 0, 0, repeat=repeat) for repeat in (0, 0, 1))
    assert np.array_equal(first.returns, again.returns) and not np.isclose(first.returns, other.returns).any()


def small_sac() -> sac.Agent:
    config = sac.Config(hidden=16, batch_size=8, replay_capacity=1000)
    return make_learner(sac, config, 2, np.ones(2, np.float32), seeds=Seeds(3))


def arrays(result) -> list[np.ndarray]:
    return [result.returns, result.success, result.success_at_end, result.env_steps]


def test_evaluation_works_before_any_training_and_leaves_no_trace():
    agent = small_sac()
    before = pickle.dumps([p.detach().numpy() for p in agent.policy.parameters()])
    state = torch.get_rng_state()
    result = evaluate(agent.actor(), Workers(EnvsFactory(POINTS)), TASKS, episodes=1, evaluation_seed=0)
    assert np.isfinite(result.returns).all() and (result.env_steps == 20).all()
    assert pickle.dumps([p.detach().numpy() for p in agent.policy.parameters()]) == before
    assert len(agent.replay) == agent.updates == 0 and torch.equal(torch.get_rng_state(), state)


def test_a_poisoned_training_buffer_changes_nothing():
    """Garage's PEARL adapted from its training buffer, and no test noticed."""
    agent = small_sac()
    clean = evaluate(agent.actor(), Workers(EnvsFactory(POINTS)), TASKS, episodes=2, evaluation_seed=0)
    envs = make_envs(FAMILY, 4)
    done, _ = episode(agent.actor(), envs, None, [0, 1, 2, 3], torch.Generator().manual_seed(0), tasks=TASKS[:4])
    agent.replay.add(done)
    for name in ("observation", "action", "reward", "next_observation"):
        getattr(agent.replay.columns, name)[:] = 1e30
    poisoned = evaluate(agent.actor(), Workers(EnvsFactory(POINTS)), TASKS, episodes=2, evaluation_seed=0)
    for a, b in zip(arrays(clean), arrays(poisoned), strict=True):
        assert np.array_equal(a, b)


def test_swapping_the_contexts_of_two_tasks_swaps_behaviour():
    class Fixed(Trilateration):
        def observe(self, belief, action, step):
            return belief

    agent, tasks, generator = Trilateration(), list(TASKS[:2]), torch.Generator().manual_seed(0)
    envs = make_envs(FAMILY, 2)
    _, belief = trial(agent, envs, tasks, np.zeros((2, 1), int), generator)
    goals = np.array([[task.x, task.y] for task in tasks])
    for order in ([0, 1], [1, 0]):
        swapped = tuple(part[order] for part in belief)
        done, _ = episode(Fixed(), envs, swapped, [5, 6], generator, tasks=tasks)
        assert np.allclose(done.observation[:, -1], goals[order], atol=0.02)


def test_no_adaptation_below_the_agent_below_the_oracle():
    agent = Trilateration()
    hidden, expert = Workers(EnvsFactory(POINTS)), Workers(EnvsFactory(POINTS, expert=True))

    def repeated(agent, workers):
        return joined([evaluate(agent, workers, TASKS, episodes=2, evaluation_seed=0, repeat=r) for r in range(3)], 1)

    random = repeated(RandomActor(np.ones(2)), hidden)
    oracle = repeated(RandomActor(np.ones(1)), expert)
    ours, without = repeated(agent, hidden), repeated(NoAdaptation(agent), hidden)
    assert ours.explored.tolist() == [True, False, False] and ours.returns.shape == (1, 3, 1, 6, 3)
    last = [r.last("returns").values.mean() for r in (oracle, ours, without)]
    assert last[0] >= last[1] >= last[2] and last[1] > last[2] + 5
    assert np.allclose(oracle.returns[..., -1], ours.returns[..., -1], atol=0.05)  # on the same starts and goals
    assert np.abs(ours.returns[..., 0].mean() - without.returns[..., 0].mean()) < 3  # zero-shot: nothing to adapt with
    place = normalized(*(r.last("returns") for r in (ours, without, oracle)))
    assert 0.98 < place.value < 1.01 and place.ci95 is None  # one training seed
    assert normalized(*(r.last("returns") for r in (random, random, oracle))).value == 0


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing():
    factory = EnvsFactory(POINTS)
    one = evaluate(
        small_sac().actor(), Workers(factory, envs_per_batch=2), TASKS, episodes=1, evaluation_seed=7, sample=True
    )
    with Workers(factory, processes=2, envs_per_batch=2) as workers:
        two = evaluate(small_sac().actor(), workers, TASKS, episodes=1, evaluation_seed=7, sample=True)
    for a, b in zip(arrays(one), arrays(two), strict=True):
        assert np.array_equal(a, b)


def test_rollouts_of_a_task_are_averaged_and_their_steps_counted():
    class Twice(RandomActor):
        rollouts = 2

    result = evaluate(
        Twice(np.ones(2)), Workers(EnvsFactory(POINTS), envs_per_batch=3), TASKS, episodes=1, evaluation_seed=0
    )
    assert result.returns.shape == (1, 1, 2, 6, 2) and (result.env_steps == 20).all()
    assert (result.adaptation_steps[..., 1] == 40).all() and result.last("success").trials == 2


def test_held_out_scores_are_means_of_every_episode_and_say_how_actions_were_chosen():
    agent, workers = Trilateration(), Workers(EnvsFactory(POINTS))
    reported = held_out_scores(agent, workers, TASKS, episodes=2, evaluation_seed=3, repeats=2)
    parts = joined([evaluate(agent, workers, TASKS, 2, 3, repeat=repeat) for repeat in (0, 1)], 1)
    for k in range(3):
        assert reported[f"evaluation/return_{k}"] == pytest.approx(parts.returns[..., k].mean())
        assert reported[f"evaluation/success_{k}"] == parts.success[..., k].mean()
    assert [reported[f"evaluation/sampled_{k}"] for k in range(3)] == [1, 0, 0]  # it explores in its first episode
    assert reported["evaluation/return"] == reported["evaluation/return_2"] and reported["evaluation/sampled"] == 0
    assert reported == held_out_scores(agent, workers, TASKS, episodes=2, evaluation_seed=3, repeats=2)
    single = held_out_scores(agent, workers, TASKS, sample=True)
    assert set(single) == {f"evaluation/{name}" for name in ("return", "success", "sampled", "trials")}
    assert single["evaluation/trials"] == len(TASKS) and reported["evaluation/trials"] == 2 * len(TASKS)
    assert single["evaluation/sampled"] == 1 and all(isinstance(value, float) for value in single.values())


class Nods(RandomActor):
    """Its mode is 0; its samples are 1."""

    def act(self, observation, belief, generator, explore):
        return torch.full((len(observation), 1), float(explore)), belief


@pytest.mark.parametrize("envs_per_batch", [1, 2, 16])
def test_a_final_evaluation_has_samples_and_mode_of_as_many_episodes(envs_per_batch):
    reported, trials = final_scores(
        Nods(np.ones(1)), Workers(doors, envs_per_batch=envs_per_batch), Number(0), 5, Seeds(0, "task")
    )
    assert reported == {"num_episodes": 5, "success": 1.0, "return": 1.0, "mode_success": 0.0, "mode_return": 0.0}
    assert trials.returns.shape == (5, 1) and (trials.returns == 1).all()


@pytest.mark.parametrize("envs_per_batch", [1, 2, 16])
def test_the_resets_of_a_final_evaluation_are_those_that_an_agent_states(envs_per_batch, monkeypatch):
    workers, given = Workers(doors, envs_per_batch=envs_per_batch), []
    act = workers.trials

    def trials(actor, tasks, resets, *rest, **options):
        given.append(resets[:, 0].tolist())
        return act(actor, tasks, resets, *rest, **options)

    monkeypatch.setattr(workers, "trials", trials)
    final_scores(Nods(np.ones(1)), workers, Number(0), 5, Seeds(0, "task"))
    assert given == [Seeds(0, "task").stream("evaluation_resets", 0).integers(5).tolist()] * 2


class Explores(Nods):
    """Finds out about the task in the first episode of a trial."""

    exploration_episodes = 1


def test_an_actor_that_explores_in_its_first_episode_has_no_mode_there():
    scores = final_scores(Explores(np.ones(1)), Workers(doors), Number(0), 2, Seeds(0, "task"))[0]
    assert set(scores) == {"num_episodes", "success", "return"}


def test_agents_are_compared_over_the_seeds_that_both_have():
    one, two = (np.full((count, 1, 4, 1), share) for count, share in ((3, 1.0), (2, 0.5)))
    results = {"a": table(one), "b": table(two)}
    seeds = {"a": (0, 1, 2), "b": (1, 2)}
    ids = tuple(task_id(task) for task in TASKS[:4])
    reported = Evaluation(
        "point", "test", ids, ("",) * 4, results, seeds, {"a": {}, "b": {}}, {"a": (9,), "b": (9,)}, False
    )
    found = reported.between("a")["success"]["b"]
    assert found.value == 0.5 and found.ci95 is not None
    assert reported.between("b")["returns"]["a"].value == -5
    apart = {**seeds, "b": (7, 8)}
    assert not Evaluation("p", "t", ids, ("",) * 4, results, apart, {"a": {}, "b": {}}, {}, False).between("a")[
        "success"
    ]


def test_every_number_says_whether_actions_were_sampled():
    reported = both(np.ones((3, 1, 6, 2)), new_tasks=False)
    reported.results["ours"].sampled[0] = True
    assert [reported.how("ours", k) for k in (0, 1)] == ["sampled", "mode"]
    assert [reported.how("no adaptation", k) for k in (0, 1)] == ["mode", "mode"]
    assert reported.how("random", 0) == ""
    skills = replace(reported, training_seeds={**reported.training_seeds, "random": (3, 4, 5)})  # a skill model a seed
    assert skills.how("random", 0) == ""
    assert reported.summary()["results"]["ours"]["actions"] == ["sampled", "mode"]


class Restless(Nods):
    """Samples in exploitation too."""

    always_samples = True


def test_an_actor_that_always_samples_is_not_said_to_take_its_mode():
    actor, workers = Restless(np.ones(1)), Workers(doors)
    assert evaluate(actor, workers, [Number(0)], 1, 0).sampled.all()
    assert evaluate(NoAdaptation(actor), workers, [Number(0)], 1, 0).sampled.all()
    assert held_out_scores(actor, workers, [Number(0)])["evaluation/sampled"] == 1
    assert set(final_scores(actor, workers, Number(0), 2, Seeds(0, "task"))[0]) == {"num_episodes", "success", "return"}
