"""One evaluator for every agent: in each test task a trial of K + 1 episodes, episode 0 before anything is known of the task.

Arrays are [seed, task, episode 0..K]. Every task has the same number of episodes, so each counts the same however long its
episodes are. The agent is copied before it acts (`Workers.trials`): nothing of evaluation reaches its buffers, and nothing of
its buffers reaches evaluation, other than through the parameters that it acts with.

Next to it always stand its brackets, on the same tasks and seeds: uniformly random actions; an oracle that sees the task; and
the same learner whose knowledge is thrown away as fast as it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skillmeta.evaluation.statistics import Statistic, interval, mean, trimmed
from skillmeta.rl.rollout import Agent, Belief, Episodes, Step
from skillmeta.rl.trial import Trials
from skillmeta.rl.workers import Workers, acting_copy
from skillmeta.seeds import Seeds
from skillmeta.tasks.base import Task, task_id


@dataclass(frozen=True)
class Adaptation:
    """What an agent did in its trials. With B rollouts a round, a number is the mean over them, and steps are their sum."""

    returns: np.ndarray  # [S, M, K+1]
    success: np.ndarray  # [S, M, K+1] at any step, 0 to 1
    success_at_end: np.ndarray  # [S, M, K+1] at the last decision, 0 to 1
    env_steps: np.ndarray  # [S, M, K+1] primitive steps that the round took
    steps_to_success: np.ndarray  # [S, M, K+1] until the first success; the whole episode where there was none
    explored: np.ndarray  # [K+1] bool: episodes that serve to find out about the task

    @property
    def solved(self) -> np.ndarray:
        """Success in this episode of the trial or in one before, [S, M, K+1]: how many it takes to find out where success is."""
        return np.maximum.accumulate(self.success, 2)

    @property
    def adaptation_steps(self) -> np.ndarray:
        """Primitive steps that the agent had seen of the task before each episode, [S, M, K+1]; 0 before episode 0."""
        before = np.zeros_like(self.env_steps)
        before[:, :, 1:] = self.env_steps[:, :, :-1].cumsum(2)
        return before


SCORES = ("returns", "success", "success_at_end", "solved")


def statistic(score: str) -> Statistic:
    """What is told of a score: the interquartile mean of returns, the mean of successes. The middle half of zeros and ones is all
    zeros, or all ones, as soon as a quarter of them are not; their mean is a share."""
    return trimmed if score == "returns" else mean


def evaluate(
    agent: Agent, workers: Workers, tasks: Sequence[Task], episodes: int, seed: int, sample: bool = False
) -> Adaptation:
    """One trial in each task, S = 1.

    Args:
        episodes: K, that the agent adapts on; K + 1 are run.
        seed: of the environments' resets and the agent's draws. Resets are the same for every agent.
        sample: act by samples of the policy in exploitation episodes too, not by its mode.
    """
    rollouts, rounds = agent.rollouts, episodes + 1
    explored = np.arange(rounds) < agent.exploration_episodes
    own = [Seeds(seed, task_id(task)).stream("evaluation_resets").integers(rollouts * rounds) for task in tasks]
    resets = np.concatenate(own).reshape(len(tasks) * rollouts, rounds)
    draws = Seeds(seed).stream("evaluation_acting")
    trials = workers.trials(agent, tasks, resets, draws, explore=(explored | sample).tolist())

    def by_task(values: np.ndarray, reduce: Callable[..., Any] = np.mean) -> np.ndarray:
        return reduce(values.reshape(len(tasks), rollouts, rounds), axis=1)[None]

    return Adaptation(
        by_task(trials.returns),
        by_task(trials.succeeded),
        by_task(trials.succeeded_at_end),
        by_task(trials.lengths, np.sum),
        by_task(steps_to_success(trials)),
        explored,
    )


def steps_to_success(trials: Trials) -> np.ndarray:
    """Primitive steps until the first decision that succeeded, or all of the episode's, [N, K]."""
    hit = trials.success & trials.valid
    until = np.cumsum(trials.steps * trials.valid, 2)
    first = np.take_along_axis(until, hit.argmax(2)[:, :, None], 2)[:, :, 0]
    return np.where(hit.any(2), first, trials.lengths)


def join_seeds(parts: Sequence[Adaptation]) -> Adaptation:
    """Evaluations of several seeds as one."""
    columns = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Adaptation)}
    return Adaptation(**{**columns, "explored": parts[0].explored})


# -- the brackets ----------------------------------------------------------------------------------------------------------
class RandomAgent:
    """Uniform actions in [-bound, bound]; where actions are choices, the largest of uniform numbers is a uniform choice."""

    rollouts, exploration_episodes = 1, 0

    def __init__(self, action_bound: np.ndarray):
        self.bound = torch.from_numpy(np.asarray(action_bound, np.float32))

    def begin(self, num: int, generator: torch.Generator) -> Belief:
        return None

    def act(
        self, observation: Tensor, belief: Belief, generator: torch.Generator, explore: bool
    ) -> tuple[Tensor, Belief]:
        uniform = torch.rand(len(observation), len(self.bound), generator=generator)
        return self.bound * (2 * uniform - 1), belief

    def observe(self, belief: Belief, action: Tensor, step: Step) -> Belief:
        return belief

    def adapt(self, belief: Belief, episodes: Episodes, generator: torch.Generator) -> Belief:
        return belief


class WithoutAdaptation:
    """An agent that begins every episode of a trial anew and learns nothing in it: what it knew before it met the task."""

    def __init__(self, agent: Agent):
        self.agent, self.rollouts = acting_copy(agent), agent.rollouts
        self.exploration_episodes = agent.exploration_episodes

    def begin(self, num: int, generator: torch.Generator) -> Belief:
        return num, self.agent.begin(num, generator)

    def act(
        self, observation: Tensor, belief: Belief, generator: torch.Generator, explore: bool
    ) -> tuple[Tensor, Belief]:
        return self.agent.act(observation, belief[1], generator, explore)[0], belief

    def observe(self, belief: Belief, action: Tensor, step: Step) -> Belief:
        return belief

    def adapt(self, belief: Belief, episodes: Episodes, generator: torch.Generator) -> Belief:
        return self.begin(belief[0], generator)


# -- the numbers -----------------------------------------------------------------------------------------------------------
def normalized(
    agent: np.ndarray, low: np.ndarray, high: np.ndarray, resamples: int = 2000
) -> tuple[float, float, float]:
    """Where the agent stands between two brackets, 0 at `low` and 1 at `high`, with its 95 % interval.

    Args: scores of one episode, [seeds, tasks] each, the same tasks. Means over tasks are compared, not ratios averaged: in a
    task where the brackets nearly coincide a ratio is noise. Seeds are resampled within every task, tasks are not; a seed means
    the same resets to all three, so they are resampled together.

    Returns NaN where the brackets do not differ.
    """

    def place(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        gap = c - b
        return np.where(np.abs(gap) < 1e-9, np.nan, (a - b) / np.where(np.abs(gap) < 1e-9, 1.0, gap))

    value = float(place(agent.mean(), low.mean(), high.mean()))
    if max(len(agent), len(low), len(high)) == 1:
        return value, value, value

    def resampled(scores: np.ndarray) -> np.ndarray:
        picked = np.random.default_rng(0).integers(len(scores), size=(resamples, *scores.shape))
        return np.take_along_axis(scores[None], picked, 1).mean(
            (1, 2)
        )  # equal numbers of seeds: the same ones are drawn

    replicates = place(resampled(agent), resampled(low), resampled(high))
    below, above = np.nanpercentile(replicates, [2.5, 97.5]) if np.isfinite(replicates).any() else (np.nan, np.nan)
    return value, float(below), float(above)


@dataclass(frozen=True)
class Evaluation:
    """An agent and its brackets on the tasks of a split."""

    family: str
    split: str
    tasks: tuple[Task, ...]
    groups: tuple[str, ...]  # of each task; "" where the family has none
    agent: str  # its name in `results`; "" where only brackets were run
    results: Mapping[str, Adaptation]  # the agent first, then `random`, `oracle`, `no adaptation`
    training_steps: int  # primitive steps that training took; adaptation's and evaluation's are in the results
    notes: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Every score of every episode, the gaps to the brackets, and the bill. `value` and its `ci95` are of `statistic`."""
        named: dict[str, Any] = {}
        for name, result in self.results.items():
            named[name] = {"seeds": len(result.returns), "env_steps": int(result.env_steps.sum())}
            for score in SCORES:
                values, measure = getattr(result, score), statistic(score)
                named[name][score] = [
                    {
                        "value": float(measure(values[:, :, k].ravel())),
                        "ci95": list(interval(values[:, :, k], measure)),
                        "mean": float(values[:, :, k].mean()),
                    }
                    for k in range(values.shape[2])
                ]
            named[name]["adaptation_steps"] = result.adaptation_steps.mean((0, 1)).tolist()
        first = next(iter(self.results.values()))
        return {
            "family": self.family,
            "split": self.split,
            "tasks": len(self.tasks),
            "explored": first.explored.tolist(),
            "training_steps": self.training_steps,
            "evaluation_steps": sum(row["env_steps"] for row in named.values()),
            "results": named,
            "gaps": self.gaps(),
            "notes": list(self.notes),
        }

    def gaps(self) -> dict[str, Any]:
        """Where the agent's last episode stands between random and oracle, and between no adaptation and oracle."""
        found: dict[str, Any] = {}
        for low in ("random", "no adaptation"):
            if not self.agent or low not in self.results or "oracle" not in self.results:
                continue
            for score in SCORES:
                agent, below, above = (getattr(self.results[n], score)[:, :, -1] for n in (self.agent, low, "oracle"))
                found[f"{score}: {low} to oracle"] = list(normalized(agent, below, above))
        return found

    def by_group(self, score: str) -> dict[str, dict[str, float]]:
        """Mean of a score's last episode for each class of tasks: group -> name -> mean."""
        groups = np.array(self.groups)
        return {
            group: {n: float(getattr(r, score)[:, groups == group, -1].mean()) for n, r in self.results.items()}
            for group in dict.fromkeys(self.groups)
        }
