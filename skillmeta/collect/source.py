"""Online experience: episodes and trials in a family's tasks, and what they have cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from skillmeta.collect.workers import Workers
from skillmeta.errors import ConfigError
from skillmeta.seeds import Seeds
from skillmeta.types import Actor, Batch, BeliefT, Episodes, Metrics, State, Task, Trials


@dataclass
class Budget:
    """How much experience may be collected."""

    env_steps: int  # primitive steps
    max_episodes: int | None = None


class OnlineSource:
    """Draws tasks and runs episodes and trials in them (`skillmeta.types.Source`).

    What the n-th call gives is a function of (seeds, n) and the actor. So a resumed run sees what an uninterrupted one would have
    seen, and nothing of simulators or generators has to be saved.

    Args:
        workers: where it acts.
        draw: a training task.
        seeds: of tasks, resets and the actor's noise.
        budget: when the source is spent.
        num_envs: environments of `episode`.
        shaped_reward: the family's, where it has one: see `TaskFamily`.
        reports_success: whether the environments say when they succeed; without it, nothing is scored as success.
    """

    def __init__(
        self,
        workers: Workers,
        draw: Callable[[np.random.Generator], Task],
        seeds: Seeds,
        budget: Budget,
        num_envs: int = 1,
        shaped_reward: Callable[[Task, Episodes], np.ndarray] | None = None,
        reports_success: bool = True,
    ):
        self.workers, self.draw, self.seeds, self.budget, self.num_envs = workers, draw, seeds, budget, num_envs
        self.shaped, self.reports_success = shaped_reward, reports_success
        self.env_steps = self.episodes = self.decisions = self.calls = 0
        self.dropped = 0  # episodes that failed and others took the place of
        self.last: Trials | None = None  # what the last call collected

    @property
    def spent(self) -> bool:
        return self.fraction >= 1

    @property
    def fraction(self) -> float:
        by_episodes = self.episodes / self.budget.max_episodes if self.budget.max_episodes else 0.0
        return min(1.0, max(self.env_steps / self.budget.env_steps, by_episodes))

    def draw_tasks(self, count: int) -> tuple[Task, ...]:
        """Different training tasks, the same at every call. Raises ConfigError if there are not so many."""
        generator = self.seeds.stream("training_tasks").numpy()
        found: dict[Task, None] = {}
        for _ in range(1000 * count):
            found[self.draw(generator)] = None
            if len(found) == count:
                return tuple(found)
        raise ConfigError(
            f"algorithm.training_tasks is {count}; there are {len(found)} different tasks to train on: ask for so many or fewer"
        )

    def episode(self, actor: Actor[BeliefT]) -> Episodes:
        """An exploring episode in each environment, each in a drawn task. The budget cuts off the last one, so that all methods use
        it exactly (up to N - 1 steps where N environments share it)."""
        num = self.num_envs
        resets = self.seeds.stream("resets", self.episodes).integers(num).tolist()
        draws = self.seeds.stream("acting", self.episodes)
        tasks = self._draw(num, self.episodes)
        left = -(-(self.budget.env_steps - self.env_steps) // num)
        before = self.workers.failures.replaced
        done = self.workers.episodes(actor, tasks, resets, draws, left, self.episodes)
        self._count(done.as_trials(), before)
        return done

    def trials(self, actor: Actor[BeliefT], tasks: int, episodes: int) -> Batch:
        """K exploring episodes in each of M drawn tasks, `actor.rollouts` at a time."""
        return self.trials_in(actor, self._draw(tasks, self.calls), episodes)

    def trials_in(self, actor: Actor[BeliefT], tasks: Sequence[Task], episodes: int) -> Batch:
        """The same in given tasks."""
        num = len(tasks) * actor.rollouts
        resets = self.seeds.stream("resets", self.calls).integers(num * episodes).reshape(num, episodes)
        before = self.workers.failures.replaced
        trials = self.workers.trials(actor, tasks, resets, self.seeds.stream("acting", self.calls))
        self.calls += 1
        self._count(trials, before)
        return Batch(trials, tuple(tasks))

    def shaped_reward(self, task: Task, episodes: Episodes) -> np.ndarray:
        """Rewards [N, T] for training alone. Raises ConfigError for a family that has none."""
        if self.shaped is None:
            raise ConfigError(
                "algorithm.shaped_reward: this family, as it is configured, has no dense reward to learn from"
            )
        return self.shaped(task, episodes)

    def _draw(self, count: int, call: int) -> tuple[Task, ...]:
        generator = self.seeds.stream("tasks", call).numpy()
        return tuple(self.draw(generator) for _ in range(count))

    def _count(self, trials: Trials, replaced: int) -> None:
        self.last = trials
        self.dropped += self.workers.failures.replaced - replaced
        self.env_steps += int(trials.lengths.sum())
        self.decisions += int(trials.valid.sum())
        self.episodes += trials.lengths.size

    def cost(self) -> dict[str, int]:
        """Primitive steps, episodes and decisions so far."""
        return {"env_steps": self.env_steps, "episodes": self.episodes, "decisions": self.decisions}

    def scores(self) -> Metrics:
        """What the last call collected: means over its trials, of all rounds and of the first and the last one. `dropped`, where
        there are any: how many episodes failed so far (`skillmeta.collect.failures`)."""
        if self.last is None:
            return {}
        returns, succeeded = self.last.returns.mean(0), self.last.succeeded.mean(0)
        return {
            "trials": len(self.last.returns),
            "return": float(returns.mean()),
            "return_first": float(returns[0]),
            "return_last": float(returns[-1]),
            **(
                {"success": float(succeeded.mean()), "success_last": float(succeeded[-1])}
                if self.reports_success
                else {}
            ),
            "length": float(self.last.lengths.mean()),
            **({"dropped": self.dropped} if self.dropped else {}),
        }

    def state(self) -> State:
        return {**self.cost(), "calls": self.calls, "dropped": self.dropped}

    def restore(self, state: State) -> None:
        for name in ("env_steps", "episodes", "decisions", "calls", "dropped"):
            setattr(self, name, state.get(name, 0))
