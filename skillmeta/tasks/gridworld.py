"""VariBAD's gridworld: a goal that is not seen, in a small grid (Zintgraf et al. 2020, arXiv:1910.08348, section 5.1).

What is optimal without knowing the goal is computable here: until the goal is found everything that is seen is foreseeable, so the
best agent is one walk over all episodes of a trial, and after it the shortest path. `best_walk` finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from skillmeta.config import NonNegativeInt, PositiveInt, checked
from skillmeta.errors import UserError
from skillmeta.tasks.base import VALIDATION, Expert, TaskFamily
from skillmeta.tasks.batched import NativeEnv, Outcome
from skillmeta.types import Episodes, Parts, Step

Cell = tuple[int, int]
START: Cell = (0, 0)
MOVES: tuple[Cell, ...] = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))  # stay, up, right, down, left
COMPUTABLE = 5  # cells a side for which the best walk takes a second; one more takes a minute
ON_GOAL, ELSEWHERE = 10, -1  # rewards of a step, in tenths: sums of them are exact


@checked
class Config:
    """The paper's grid. Its tasks are the same in training and test."""

    cells: PositiveInt = 5  # of each side
    max_episode_steps: PositiveInt = 15  # steps of an episode
    validation_tasks: NonNegativeInt = (
        0  # goals that are held out for validation; 0 of them and of test: all goals are in every split
    )
    test_tasks: NonNegativeInt = 0  # goals that are held out for tests
    tasks_seed: NonNegativeInt = 0  # that goals are held out by


@dataclass(frozen=True)
class Goal:
    """The cell that pays."""

    x: int
    y: int


def moved(cell: Cell, action: int, cells: int) -> Cell:
    """Where an action leads: one cell on, or nowhere at the border."""
    x, y = (min(max(here + by, 0), cells - 1) for here, by in zip(cell, MOVES[action], strict=True))
    return x, y


def distance(one: Cell, other: Cell) -> int:
    return abs(one[0] - other[0]) + abs(one[1] - other[1])


def towards(cell: Cell, goal: Cell) -> int:
    """An action that leads nearer to a goal, or stays on it."""
    return min(range(len(MOVES)), key=lambda a: distance((cell[0] + MOVES[a][0], cell[1] + MOVES[a][1]), goal))


class Gridworlds:
    """N grids in lockstep. Observation [N, 2]: x and y of the cell, from 0."""

    def __init__(self, config: Config, num: int):
        self.config, self.num, self.max_episode_steps, self.observation_dim = config, num, config.max_episode_steps, 2
        self.action_space = Discrete(len(MOVES))
        self.moves = np.array(MOVES)

    def reset(self, seeds: np.ndarray, tasks: Sequence[Goal]) -> np.ndarray:
        self.goals = np.array([(task.x, task.y) for task in tasks])
        self.cell = np.tile(START, (self.num, 1))
        return self.cell.astype(np.float32)

    def step(self, action: np.ndarray) -> Outcome:
        self.cell = (self.cell + self.moves[action.astype(np.int64)]).clip(0, self.config.cells - 1)
        there = (self.cell == self.goals).all(1)
        reward = np.where(there, ON_GOAL, ELSEWHERE) / 10
        return Outcome(self.cell.astype(np.float32), reward, np.zeros(self.num, bool), there)


# -- the Bayes-optimal agent -----------------------------------------------------------------------------------------------
class Walk(NamedTuple):
    """What is best while the goal is unknown, and what it earns."""

    actions: tuple[tuple[int, ...], ...]  # of each episode, as long as goals are left that it might be
    returns: tuple[float, ...]  # of each episode, expected over the goals


def outcome(goal: Cell, episode: int, step: int, steps: int, episodes: int) -> tuple[int, ...]:
    """Return of each episode in tenths, where the goal is first reached at a step, from 1, of an episode, from 0."""

    def reached(at: int) -> int:
        return ELSEWHERE * (at - 1) + ON_GOAL * (steps - at + 1) if at <= steps else ELSEWHERE * steps

    later = reached(distance(START, goal))
    return (ELSEWHERE * steps,) * episode + (reached(step),) + (later,) * (episodes - episode - 1)


@lru_cache(maxsize=64)
def best_walk(goals: tuple[Cell, ...], cells: int, steps: int, episodes: int) -> Walk:
    """The walk of the highest expected return over a trial of some episodes; of equals, that which earns most early.

    Dynamic programming over belief sets, step by step: of all walks to a cell that left the same goals possible, the best one so
    far is kept. Sets that cannot reach what a narrow search has reached already, even if each further step found another goal, are
    dropped. The result is exact.

    Args: goals that are equally likely.
    """
    search = Search(goals, cells, steps, episodes)
    narrow, _ = search.run(width=100)
    _, actions = search.run(at_least=narrow)
    rounds = tuple(tuple(actions[e * steps : (e + 1) * steps]) for e in range(episodes))
    cell, found = START, dict[Cell, tuple[int, int]]()
    for e, s in product(range(episodes), range(steps)):
        cell = moved(START if s == 0 else cell, rounds[e][s], cells)
        found.setdefault(cell, (e, s + 1))
    never = (ELSEWHERE * steps,) * episodes
    earned = [outcome(g, found[g][0], found[g][1], steps, episodes) if g in found else never for g in goals]
    return Walk(rounds, tuple(sum(each) / (10 * len(goals)) for each in zip(*earned, strict=True)))


class Search:
    """Walks that look for a goal. A belief is the cell, and in bits the goals that are still possible."""

    def __init__(self, goals: tuple[Cell, ...], cells: int, steps: int, episodes: int):
        self.steps, self.episodes, self.everything = steps, episodes, (1 << len(goals)) - 1
        bits = {goal: 1 << g for g, goal in enumerate(goals)}
        every = [(x, y) for x, y in product(range(cells), repeat=2)]
        self.moves = {
            here: [(there := moved(here, a, cells), bits.get(there, 0), a) for a in range(len(MOVES))] for here in every
        }
        base = (
            1 + 2 * len(goals) * steps * ON_GOAL
        )  # above every sum: early episodes decide among equal totals, and no more
        self.unit = base**episodes

        def worth(returns: tuple[int, ...]) -> int:
            return sum(self.unit * r + base ** (episodes - 1 - i) * r for i, r in enumerate(returns))

        never = worth((ELSEWHERE * steps,) * episodes)
        self.gain = {  # over never finding it
            (bit, e, s): worth(outcome(goal, e, s, steps, episodes)) - never
            for goal, bit in bits.items()
            for e, s in product(range(episodes), range(1, steps + 1))
        }
        self.nearest = sorted((distance(START, goal), bit) for goal, bit in bits.items())

    def run(self, width: int | None = None, at_least: int | None = None) -> tuple[int, list[int]]:
        """The best walk's gain, and its actions, of all episodes one after another.

        Args:
            width: beliefs that are kept of each step, the best ones so far.
            at_least: a gain that some walk has; beliefs that cannot reach it are dropped.
        """
        Belief = tuple[Cell, int]
        layer: dict[Belief, tuple[int, Belief, int]] = {(START, self.everything): (0, (START, 0), 0)}
        layers = []
        for e, s in product(range(self.episodes), range(1, self.steps + 1)):
            following: dict[Belief, tuple[int, Belief, int]] = {}
            for belief, (so_far, _, _) in layer.items():
                for there, bit, action in self.moves[START if s == 1 else belief[0]]:
                    left, value = belief[1], so_far
                    if left & bit:
                        left, value = left ^ bit, value + self.gain[bit, e, s]
                    reached = (there, left)
                    if reached not in following or value > following[reached][0]:
                        following[reached] = (value, belief, action)
            if at_least is not None:
                floor = at_least - self.unit  # of equal totals all are kept
                hopes = {left: self.hope(left, e, s) for left in {left for _, left in following}}
                following = {b: r for b, r in following.items() if r[0] + hopes[b[1]] >= floor}
            if width is not None:
                best = sorted(following.items(), key=lambda item: (-item[1][0], item[0]))
                following = dict(best[:width])
            layers.append(following)
            layer = following
        at = max(layer, key=lambda belief: layer[belief][0])
        gain, actions = layer[at][0], []
        for rows in reversed(layers):
            _, at, action = rows[at]
            actions.append(action)
        return gain, actions[::-1]

    def hope(self, left: int, episode: int, step: int) -> int:
        """More than the goals that are left can still add: as if each was found at the next step that is not yet another's, the
        nearest first, and none before its distance from the start in a later episode."""
        unseen = [(far, bit) for far, bit in self.nearest if left & bit]
        total, e, s = 0, episode, step
        for _, bit in unseen:
            s += 1
            if s > self.steps:
                e, s = e + 1, unseen[0][0]
            if e == self.episodes or s > self.steps:
                break
            total += self.gain[bit, e, s]
        return total


class Known(NamedTuple):
    """What the Bayes-optimal agent knows of N tasks."""

    goal: Tensor  # [N, 2] of int64; -1 before it was found
    episode: Tensor  # [N] of int64, from 0
    step: Tensor  # [N] of int64 that were taken in it


@dataclass(frozen=True)
class BayesOptimal:
    """Goes the best walk until it finds the goal, then straight there in each episode. It has no parameters and draws nothing."""

    walk: Walk
    rollouts: int = 1
    exploration_episodes: int = 0

    def begin(self, tasks: int, generator: torch.Generator) -> Known:
        zeros = torch.zeros(tasks, dtype=torch.int64)
        return Known(torch.full((tasks, 2), -1), zeros, zeros)

    def act(
        self, observation: Tensor, belief: Known, generator: torch.Generator, explore: bool
    ) -> tuple[Tensor, Known]:
        action = torch.zeros(len(observation), len(MOVES))
        for n, (cell, goal, episode, step) in enumerate(
            zip(observation.tolist(), *(b.tolist() for b in belief), strict=True)
        ):
            found, planned = goal[0] >= 0, self.walk.actions
            blind = planned[episode][step] if episode < len(planned) and step < len(planned[episode]) else 0
            action[n, towards((int(cell[0]), int(cell[1])), goal) if found else blind] = 1.0
        return action, belief

    def observe(self, belief: Known, action: Tensor, step: Step) -> Known:
        paid = torch.from_numpy(step.reward > 0).unsqueeze(-1)
        goal = torch.where(paid, torch.from_numpy(step.observation).long(), belief.goal)
        return Known(goal, belief.episode, belief.step + torch.from_numpy(step.steps))

    def adapt(self, belief: Known, episodes: Episodes, generator: torch.Generator) -> Known:
        return Known(belief.goal, belief.episode + 1, torch.zeros_like(belief.step))

    def parts(self) -> Parts:
        return {}


def possible_goals(cells: int) -> tuple[Cell, ...]:
    """All cells but the start and those beside it, at a corner too."""
    return tuple((x, y) for x, y in product(range(cells), repeat=2) if max(x, y) > 1)


def family(config: Config) -> TaskFamily:
    """All goals in every split, or some of them held out."""
    goals, held = possible_goals(config.cells), config.validation_tasks + config.test_tasks
    if len(goals) <= held:
        raise UserError(
            f"gridworld: {len(goals)} goals are possible in {config.cells} cells a side; hold out fewer than that, not {held}"
        )
    if (config.validation_tasks > 0) != (config.test_tasks > 0):
        raise UserError("gridworld: validation_tasks and test_tasks are held out together; make both 0 or neither")

    def expert(env: gymnasium.Env, generator: np.random.Generator) -> Expert:
        task = env.unwrapped.task  # type: ignore[attr-defined]
        return lambda observation: np.int64(towards((int(observation[0]), int(observation[1])), (task.x, task.y)))

    def bayes_optimal(episodes: int) -> BayesOptimal:
        return BayesOptimal(best_walk(goals, config.cells, config.max_episode_steps, episodes))

    every = tuple(Goal(*goal) for goal in goals)
    drawn = [every[i] for i in np.random.default_rng(config.tasks_seed).permutation(len(every))] if held else []
    split = config.validation_tasks
    held_out = {"train": tuple(drawn[held:]), VALIDATION: tuple(drawn[:split]), "test": tuple(drawn[split:held])}
    shared = (
        f"All {len(goals)} goals are in training, validation and test, as published: each test task is a training task."
        if not held
        else f"Of {len(goals)} goals {held} are held out from training."
    )
    return TaskFamily(
        name="gridworld",
        version=1,
        definition=(
            f"A grid of {config.cells} x {config.cells} cells; {config.max_episode_steps} steps from a corner: stay, up, right, "
            f"down or left. One cell is the goal, two or more from the start in x or y, and is not seen: reward 1 on it, "
            f"-0.1 elsewhere. Seen: x and y of the cell. {shared} Success: on the goal. Bayes-optimal: maximises the return "
            "of a trial where all goals are equally likely. After VariBAD (Zintgraf et al. 2020), with trials of 4 episodes."
        ),
        max_episode_steps=config.max_episode_steps,
        splits=held_out if held else dict.fromkeys(held_out, every),
        same_tasks=not held,
        make_env=lambda: NativeEnv(Gridworlds(config, 1), every[0], Box(0.0, config.cells - 1.0, (2,), np.float32)),
        native=lambda num: Gridworlds(config, num),
        expert=expert,
        bayes_optimal=bayes_optimal if config.cells <= COMPUTABLE else None,
    )
