"""One evaluator for every agent: in each test task a trial of K + 1 episodes, episode 0 before anything is known of the task.

Arrays are [training seed, repeat, rollout, task, episode 0..K]: runs of training; repeats of the evaluation with other resets;
the B episodes that some agents run at once in a round of a trial. Repeats and rollouts are averaged within a seed and a task.
Every task has the same number of episodes, so each counts the same however long its episodes are. The agent is copied before it
acts (`Workers.trials`): nothing of evaluation reaches its buffers, and nothing of its buffers reaches evaluation, other than
through the parameters that it acts with.

Next to it always stand reference agents, on the same tasks and resets: uniformly random actions; an oracle that sees the task; and
the same learner whose knowledge is thrown away as fast as it comes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from skillmeta.collect.workers import Workers
from skillmeta.evaluation.statistics import Estimate, Scores, interval, normalized, paired_difference
from skillmeta.seeds import Seeds
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
        return before

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
) -> Adaptation:
    """One trial in each task, S = R = 1.

    Args:
        episodes: K, that the agent adapts on; K + 1 are run.
        evaluation_seed: of the environments' resets and the agent's draws, with the number of the repeat. Resets are the same for
            every agent.
        sample: act by samples of the policy in exploitation episodes too, not by its mode.
    """
    rollouts, rounds = agent.rollouts, episodes + 1
    explored = np.arange(rounds) < agent.exploration_episodes
    own = [
        Seeds(evaluation_seed, task_id(t)).stream("evaluation_resets", repeat).integers(rollouts * rounds)
        for t in tasks
    ]
    resets = np.concatenate(own).reshape(len(tasks) * rollouts, rounds)
    draws = Seeds(evaluation_seed).stream("evaluation_acting", repeat)
    trials = workers.trials(agent, tasks, resets, draws, explore=(explored | sample).tolist())

    def by_task(values: np.ndarray) -> np.ndarray:
        return values.reshape(len(tasks), rollouts, rounds).swapaxes(0, 1)[None, None]

    return Adaptation(
        by_task(trials.returns),
        by_task(trials.succeeded),
        by_task(trials.succeeded_at_end),
        by_task(trials.lengths),
        by_task(steps_to_success(trials)),
        explored,
    )


def steps_to_success(trials: Trials) -> np.ndarray:
    """Primitive steps until the first decision that succeeded, or all of the episode's, [N, K]."""
    hit = trials.success & trials.valid
    until = np.cumsum(trials.steps * trials.valid, 2)
    first = np.take_along_axis(until, hit.argmax(2)[:, :, None], 2)[:, :, 0]
    return np.where(hit.any(2), first, trials.lengths)


def joined(parts: Sequence[Adaptation], axis: int) -> Adaptation:
    """Evaluations as one, along an axis of their arrays: 0 for training seeds, 1 for repeats."""
    names = [f.name for f in fields(Adaptation) if f.name != "explored"]
    columns = {name: np.concatenate([getattr(part, name) for part in parts], axis) for name in names}
    return Adaptation(**columns, explored=parts[0].explored)


# -- the numbers -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Evaluation:
    """An agent and its reference agents on the tasks of a split."""

    family: str
    split: str
    tasks: tuple[Task, ...]
    groups: tuple[str, ...]  # of each task; "" where the family has none
    agent: str  # its name in `results`; "" where only reference agents were run
    results: Mapping[str, Adaptation]  # the agent first, then `random`, `oracle`, `no adaptation`
    training_seeds: Mapping[str, tuple[int, ...]]  # of each result; empty for an agent without training
    training_steps: int  # primitive steps that training took; adaptation's and evaluation's are in the results
    new_tasks: bool  # what intervals are about: new tasks of the family, or these tasks
    notes: tuple[str, ...] = ()

    @property
    def claim(self) -> str:
        """What intervals are about, for readers."""
        if self.new_tasks:
            return (
                "Intervals are of 95 %, for new training seeds on new tasks drawn as these were: both vary in them. Agents without "
                "training have no seeds, and theirs vary over tasks alone."
            )
        return "Intervals are of 95 %, for new training seeds on these tasks. Agents without training have none, and no interval."

    def means(self, name: str, score: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean of every round and both ends of its interval, [K+1] each; NaN for ends where there is no interval."""
        scores = self.results[name].scores(score)
        fixed = not self.training_seeds[name] and self.new_tasks
        low, high = interval(scores.by_task()) if fixed else interval(scores, self.new_tasks)
        return scores.values.mean((1, 2)), low, high

    def estimates(self, name: str, score: str) -> list[Estimate]:
        """Mean and interval of every round."""
        return [Estimate.of(*one) for one in zip(*self.means(name, score), strict=True)]

    def yardstick(self, name: str, score: str) -> Scores:
        """Last round of what the agent is compared with: paired seed by seed if it is the same agent, else as one fixed agent."""
        scores = self.results[name].last(score)
        return scores if name == "no adaptation" else scores.averaged()

    def differences(self) -> dict[str, dict[str, Estimate]]:
        """Score -> reference agent -> the agent's last round minus that reference's, paired by task and, where it is the same
        agent, by training seed."""
        names = [name for name in ("random", "no adaptation") if self.agent and name in self.results]
        return {
            score: {
                name: paired_difference(
                    self.results[self.agent].last(score), self.yardstick(name, score), self.new_tasks
                )
                for name in names
            }
            for score in SCORES
        }

    def places(self) -> dict[str, dict[str, Estimate]]:
        """Score -> reference agent -> how much of the way from that reference to the oracle the agent's last round gets."""
        names = [name for name in ("random", "no adaptation") if self.agent and {name, "oracle"} <= self.results.keys()]
        return {
            score: {
                name: normalized(
                    self.results[self.agent].last(score),
                    self.yardstick(name, score),
                    self.yardstick("oracle", score),
                    self.new_tasks,
                )
                for name in names
            }
            for score in SCORES
        }

    def summary(self) -> dict[str, Any]:
        """Every score of every round, comparisons with the reference agents, and the sample cost. NaN is null."""
        named: dict[str, Any] = {}
        for name, result in self.results.items():
            named[name] = {
                "training_seeds": list(self.training_seeds[name]),
                "repeats": result.success.shape[1],
                "env_steps": int(result.env_steps.sum()),
                **{score: [one.plain() for one in self.estimates(name, score)] for score in SCORES},
                "adaptation_steps": result.adaptation_steps.mean((0, 1, 2)).tolist(),
            }
        first = next(iter(self.results.values()))

        def plain(table: dict[str, dict[str, Estimate]]) -> dict[str, Any]:
            return {score: {name: one.plain() for name, one in row.items()} for score, row in table.items()}

        return {
            "family": self.family,
            "split": self.split,
            "tasks": len(self.tasks),
            "intervals": self.claim,
            "explored": first.explored.tolist(),
            "training_steps": self.training_steps,
            "evaluation_steps": sum(row["env_steps"] for row in named.values()),
            "results": named,
            "differences": plain(self.differences()),
            "places": plain(self.places()),
            "notes": list(self.notes),
        }

    def by_group(self, score: str) -> dict[str, dict[str, float]]:
        """Mean of a score's last round for each class of tasks: group -> name -> mean."""
        groups = np.array(self.groups)
        return {
            group: {n: float(r.last(score).values[:, groups == group].mean()) for n, r in self.results.items()}
            for group in dict.fromkeys(self.groups)
        }
