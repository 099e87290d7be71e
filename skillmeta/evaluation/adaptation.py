"""One evaluator for every agent: in each test task a trial of K + 1 episodes, episode 0 before anything is known of the task.

Arrays are [training seed, repeat, rollout, task, episode 0..K]: runs of training; repeats of the evaluation with other resets;
the B episodes that some agents run at once in a round of a trial. Repeats and rollouts are averaged within a seed and a task.
Every task has the same number of episodes, so each counts the same however long its episodes are. The agent is copied before it
acts (`Workers.trials`): nothing of evaluation reaches its buffers, and nothing of its buffers reaches evaluation, other than
through the parameters that it acts with.

Next to it stand reference agents, on the same tasks and resets: uniformly random actions; an oracle that sees the task; and the
same agent without adaptation (`skillmeta.evaluation.actors`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from skillmeta.collect.workers import Workers
from skillmeta.evaluation.actors import always_samples
from skillmeta.evaluation.statistics import Estimate, Scores, interval, normalized, paired_difference
from skillmeta.seeds import Seeds, Stream
from skillmeta.tasks.base import Task, task_id
from skillmeta.types import Actor, Trials


@dataclass(frozen=True)
class Adaptation:
    """What an agent did in its trials, for S training seeds (1 for an agent without training), R repeats and B rollouts a round."""

    returns: np.ndarray  # [S, R, B, M, K+1]
    success: np.ndarray  # [S, R, B, M, K+1] bool, at any step
    success_at_end: np.ndarray  # [S, R, B, M, K+1] bool, at the last decision
    env_steps: np.ndarray  # [S, R, B, M, K+1] primitive steps
    steps_to_success: np.ndarray  # [S, R, B, M, K+1] until the first success; the whole episode where there was none
    explored: np.ndarray  # [K+1] bool: episodes that serve to find out about the task
    sampled: np.ndarray  # [K+1] bool: episodes in which actions were sampled; in the others the policy took its mode

    @property
    def solved(self) -> np.ndarray:
        """Share of rollouts that succeeded in this round of the trial or in the best one before, [S, R, 1, M, K+1]: how many rounds
        it takes to find out where success is."""
        return np.maximum.accumulate(self.success.mean(2, keepdims=True), -1)

    @property
    def adaptation_steps(self) -> np.ndarray:
        """Primitive steps that the agent had seen of the task before each round, [S, R, M, K+1]; 0 before round 0."""
        steps = self.env_steps.sum(2)
        before = np.zeros_like(steps)
        before[..., 1:] = steps[..., :-1].cumsum(-1)
        result: np.ndarray = before
        return result

    def scores(self, score: str) -> Scores:
        """A score of every round, values [K+1, S, M]."""
        values = np.asarray(getattr(self, score), float).mean((1, 2))
        trials = None if score == "returns" else int(np.prod(self.success.shape[1:3]))
        return Scores(np.moveaxis(values, -1, 0), trials)

    def last(self, score: str) -> Scores:
        """A score of the last round, values [S, M]."""
        every = self.scores(score)
        return Scores(every.values[-1], every.trials)


SCORES = ("returns", "success", "success_at_end", "solved")


def evaluate(
    agent: Actor[Any],
    workers: Workers,
    tasks: Sequence[Task],
    episodes: int,
    evaluation_seed: int,
    sample: bool = False,
    repeat: int = 0,
    watch: Callable[[Trials], None] | None = None,
) -> Adaptation:
    """One trial in each task, S = R = 1.

    Args:
        episodes: K, that the agent adapts on; K + 1 are run.
        evaluation_seed: of the environments' resets and the agent's draws, with the number of the repeat. Resets are the same for
            every agent.
        sample: act by samples of the policy in exploitation episodes too, not by its mode.
        watch: is shown the trials, [M * rollouts, K + 1, T].
    """
    count = agent.rollouts * (episodes + 1)
    own = [Seeds(evaluation_seed, task_id(t)).stream("evaluation_resets", repeat).integers(count) for t in tasks]
    resets = np.concatenate(own).reshape(len(tasks) * agent.rollouts, episodes + 1)
    draws = Seeds(evaluation_seed).stream("evaluation_acting", repeat)
    done, trials = run_trials(agent, workers, tasks, resets, draws, sample)
    if watch is not None:
        watch(trials)
    return done


def run_trials(
    agent: Actor[Any], workers: Workers, tasks: Sequence[Task], resets: np.ndarray, draws: Stream, sample: bool
) -> tuple[Adaptation, Trials]:
    """A trial in each of M tasks, and what was seen in it; resets [M * rollouts, K + 1]."""
    rollouts, rounds = agent.rollouts, resets.shape[1]
    explored = np.arange(rounds) < agent.exploration_episodes
    trials = workers.trials(agent, tasks, resets, draws, explore=(explored | sample).tolist())
    sampled = explored | sample | always_samples(agent)

    def by_task(values: np.ndarray) -> np.ndarray:
        return values.reshape(len(tasks), rollouts, rounds).swapaxes(0, 1)[None, None]

    counted = Adaptation(
        by_task(trials.returns),
        by_task(trials.succeeded),
        by_task(trials.succeeded_at_end),
        by_task(trials.lengths),
        by_task(steps_to_success(trials)),
        explored,
        sampled,
    )
    return counted, trials


def exploration_notes(agent: Actor[Any], episodes: int, key: str) -> list[str]:
    """What is worth knowing of a trial that ends before the agent has found out about its task.

    Args:
        episodes: that the agent adapts on.
        key: of the config or command, which has this number.
    """
    first = agent.exploration_episodes
    if episodes >= first:
        return []
    return [
        f"{key} is {episodes}, and the agent finds out about a task in its first {first} episodes. Set {key} to at least {first}."
    ]


def held_out_scores(
    agent: Actor[Any],
    workers: Workers,
    tasks: Sequence[Task],
    episodes: int = 0,
    evaluation_seed: int = 0,
    sample: bool = False,
    repeats: int = 1,
) -> dict[str, float]:
    """What a training run logs of held-out tasks: means over tasks, repeats and rollouts, a function of the agent's parameters,
    the tasks and the seed.

    Args: as for `evaluate`; `repeats` trials in each task.

    Returns:
        evaluation/return, evaluation/success and evaluation/sampled of the last episode; with K > 0 also of every episode k, as
        evaluation/return_k. `sampled` is 1 where actions were sampled and 0 where the policy took its mode. evaluation/trials is
        the number of trials that they are means of.
    """
    parts = [evaluate(agent, workers, tasks, episodes, evaluation_seed, sample, repeat) for repeat in range(repeats)]
    done = joined(parts, 1)
    scores = {
        "return": done.scores("returns").values.mean((1, 2)),
        "success": done.scores("success").values.mean((1, 2)),
        "sampled": done.sampled,
    }
    named = {f"evaluation/{name}": float(values[-1]) for name, values in scores.items()}
    named["evaluation/trials"] = float(len(tasks) * repeats)
    if episodes:
        named |= {f"evaluation/{name}_{k}": float(v) for name, values in scores.items() for k, v in enumerate(values)}
    return named


def final_scores(
    agent: Actor[Any], workers: Workers, task: Task, episodes: int, seeds: Seeds
) -> tuple[dict[str, float], Trials]:
    """The final evaluation of a run on one task: so many single episodes by samples of the policy, then by its mode.

    Args:
        seeds: of the run and the task.

    Returns:
        `success` and `return` of the sampled policy, `mode_success` and `mode_return` of its mode, unless the actor samples in its
        first episode, and `num_episodes` of each; and the trials of the sampled policy, [episodes * rollouts, 1, T].
    """
    resets = seeds.stream("evaluation_resets", 0).integers(episodes * agent.rollouts)[:, None]
    draws = seeds.stream("evaluation_acting")
    sampled, trials = run_trials(agent, workers, [task] * episodes, resets, draws, sample=True)
    each = {"": sampled}
    if not always_samples(agent) and agent.exploration_episodes == 0:
        each["mode_"] = run_trials(agent, workers, [task] * episodes, resets, draws, sample=False)[0]
    scores: dict[str, float] = {"num_episodes": episodes}
    for prefix, done in each.items():
        scores |= {
            f"{prefix}success": float(done.success.mean()),
            f"{prefix}return": float(done.returns.mean(dtype=float)),
        }
    return scores, trials


def steps_to_success(trials: Trials) -> np.ndarray:
    """Primitive steps until the first decision that succeeded, or all of the episode's, [N, K]."""
    hit = trials.success & trials.valid
    until = np.cumsum(trials.steps * trials.valid, 2)
    first = np.take_along_axis(until, hit.argmax(2)[:, :, None], 2)[:, :, 0]
    return np.where(hit.any(2), first, trials.lengths)


def joined(parts: Sequence[Adaptation], axis: int) -> Adaptation:
    """Evaluations as one, along an axis of their arrays: 0 for training seeds, 1 for repeats."""
    names = [f.name for f in fields(Adaptation) if f.name not in ("explored", "sampled")]
    columns = {name: np.concatenate([getattr(part, name) for part in parts], axis) for name in names}
    return Adaptation(**columns, explored=parts[0].explored, sampled=parts[0].sampled)


# -- the numbers -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class BenchmarkTable:
    """A score that the benchmark's own evaluator would state of the same episodes, for comparison with published tables."""

    title: str
    text: str
    label: str
    values: Mapping[str, float]  # of each result


@dataclass(frozen=True)
class Evaluation:
    """Agents and their reference agents on the tasks of a split."""

    family: str
    split: str
    tasks: tuple[str, ...]  # `task_id` of each
    groups: tuple[str, ...]  # of each task; "" where the family has none
    results: Mapping[str, Adaptation]  # the agents first, then their reference agents
    training_seeds: Mapping[str, tuple[int, ...]]  # of each result; empty for an actor without training
    references: Mapping[str, Mapping[str, str]]  # agent -> `random`, `no adaptation` -> the name of that result
    training_steps: Mapping[str, tuple[int, ...]]  # agent -> primitive steps that each of its runs was trained for
    new_tasks: bool  # what intervals are about: new tasks of the family, or these tasks
    notes: tuple[str, ...] = ()
    benchmark: BenchmarkTable | None = None
    paths: Mapping[str, list[list[np.ndarray]]] = field(
        default_factory=dict
    )  # agent -> of each episode in the first task, [T, 2]
    reports_success: bool | None = (
        None  # whether its environments say when they succeed; None: an old folder does not say
    )

    @property
    def agents(self) -> list[str]:
        return list(self.references)

    @property
    def succeeds(self) -> bool:
        """Whether there is a table of success: of a folder that does not say whether success is reported, if anyone succeeded."""
        if self.reports_success is not None:
            return self.reports_success
        return any(result.success.any() for result in self.results.values())

    @property
    def episodes(self) -> int:
        """K + 1 of a trial."""
        return len(next(iter(self.results.values())).explored)

    def how(self, name: str, k: int) -> str:
        """Whether a result's actions in episode k were `sampled` or the policy's `mode`; "" for actors that are not trained."""
        if name in [other for roles in self.references.values() for role, other in roles.items() if role == "random"]:
            return ""
        trained = name in self.references or self.training_seeds[name]
        return ("sampled" if self.results[name].sampled[k] else "mode") if trained else ""

    @property
    def claim(self) -> str:
        """What intervals are about, for readers."""
        if self.new_tasks:
            return (
                "Intervals are of 95 %, for new training seeds on new tasks drawn as these were: both vary in them. Actors that "
                "are not trained have no seeds: their intervals are over tasks alone."
            )
        return "Intervals are of 95 %, for new training seeds on these tasks. Actors that are not trained have no interval."

    def means(self, name: str, score: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean of every round and both ends of its interval, [K+1] each; NaN for ends where there is no interval."""
        scores = self.results[name].scores(score)
        fixed = not self.training_seeds[name] and self.new_tasks
        low, high = interval(scores.by_task()) if fixed else interval(scores, self.new_tasks)
        return scores.values.mean((1, 2)), low, high

    def estimates(self, name: str, score: str) -> list[Estimate]:
        """Mean and interval of every round."""
        return [Estimate.of(*one) for one in zip(*self.means(name, score), strict=True)]

    def yardstick(self, agent: str, name: str, score: str) -> Scores:
        """Last round of what an agent is compared with: paired seed by seed where it was made from the same runs, else the mean of
        its seeds, as if that were known exactly."""
        scores = self.results[name].last(score)
        same = self.training_seeds[name] == self.training_seeds[agent]
        return scores if same and name in self.references[agent].values() else scores.averaged()

    def differences(self, agent: str) -> dict[str, dict[str, Estimate]]:
        """Score -> reference agent -> the agent's last round minus that reference's, paired by task and, where it was made from the
        same runs, by training seed."""
        return {
            score: {
                name: paired_difference(
                    self.results[agent].last(score), self.yardstick(agent, name, score), self.new_tasks
                )
                for name in self.references[agent].values()
            }
            for score in SCORES
        }

    def places(self, agent: str) -> dict[str, dict[str, Estimate]]:
        """Score -> reference agent -> how much of the way from that reference to the oracle the agent's last round gets."""
        names = self.references[agent].values() if "oracle" in self.results else ()
        return {
            score: {
                name: normalized(
                    self.results[agent].last(score),
                    self.yardstick(agent, name, score),
                    self.yardstick(agent, "oracle", score),
                    self.new_tasks,
                )
                for name in names
            }
            for score in SCORES
        }

    def between(self, agent: str) -> dict[str, dict[str, Estimate]]:
        """Score -> other agent -> the agent's last round minus the other's, paired by task and training seed, over the seeds that
        both have."""
        found: dict[str, dict[str, Estimate]] = {}
        for score in SCORES:
            found[score] = {}
            for other in self.agents:
                mine, theirs = self.training_seeds[agent], self.training_seeds[other]
                both = [seed for seed in mine if seed in theirs]
                if other == agent or not both:
                    continue
                a, b = (
                    Scores(one.values[[seeds.index(seed) for seed in both]], one.trials)
                    for one, seeds in (
                        (self.results[agent].last(score), mine),
                        (self.results[other].last(score), theirs),
                    )
                )
                found[score][other] = paired_difference(a, b, self.new_tasks)
        return found

    def summary(self) -> dict[str, Any]:
        """Every score of every round, comparisons with the reference agents, and the sample cost. NaN is null."""
        named: dict[str, Any] = {}
        for name, result in self.results.items():
            named[name] = {
                "training_seeds": list(self.training_seeds[name]),
                "repeats": result.success.shape[1],
                "env_steps": int(result.env_steps.sum()),
                **{score: [one.plain() for one in self.estimates(name, score)] for score in SCORES},
                "actions": [self.how(name, k) for k in range(self.episodes)],
                "explored": result.explored.tolist(),
                "adaptation_steps": result.adaptation_steps.mean((0, 1, 2)).tolist(),
            }

        def plain(table: dict[str, dict[str, Estimate]]) -> dict[str, Any]:
            return {score: {name: one.plain() for name, one in row.items()} for score, row in table.items()}

        return {
            "family": self.family,
            "split": self.split,
            "tasks": len(self.tasks),
            "intervals": self.claim,
            "training_steps": {name: list(steps) for name, steps in self.training_steps.items()},
            "evaluation_steps": sum(row["env_steps"] for row in named.values()),
            "results": named,
            "differences": {name: plain(self.differences(name)) for name in self.agents},
            "places": {name: plain(self.places(name)) for name in self.agents},
            "notes": list(self.notes),
        }

    def by_group(self, score: str) -> dict[str, dict[str, float]]:
        """Mean of a score's last round for each class of tasks: group -> name -> mean."""
        groups = np.array(self.groups)
        return {
            group: {n: float(r.last(score).values[:, groups == group].mean()) for n, r in self.results.items()}
            for group in dict.fromkeys(self.groups)
        }
