"""What posterior sampling can do at all: `python benchmarks/posterior_sampling.py`.

Agents that know Bayes' rule, without network and learning: an upper reference for agents that hold a sample for an episode.

- The sparse point robot: it draws a direction among the goals that may still be, walks there straight, and strikes off those that
  it would have seen from its path. A goal on the unit circle is seen within 0.2, which is 11.5 degrees to either side; a path that
  is not quite straight sees more.
- VariBAD's gridworld: it draws a cell among the goals that may still be, walks there, stays, and strikes off the cells that did
  not pay.
"""

from __future__ import annotations

import numpy as np

from skillmeta.tasks.gridworld import START, Cell, Config, moved, possible_goals, towards

GOALS = np.linspace(0.0, 180.0, 100)  # as the family has them, training and test together
EPISODES = 13


def found(half_width: float, trials: int, generator: np.random.Generator) -> np.ndarray:
    """Share of trials in which the goal was found by episode 0, 1, ..., [EPISODES]."""
    by = np.zeros(EPISODES)
    for goal in generator.choice(GOALS, trials):
        left = GOALS
        for episode in range(EPISODES):
            tried = generator.choice(left)
            if abs(tried - goal) <= half_width:
                by[episode:] += 1
                break
            left = left[np.abs(left - tried) > half_width]
    return by / trials


def earned(goal: Cell, episodes: int, generator: np.random.Generator) -> list[float]:
    """Returns of the episodes of one trial in the gridworld."""
    config, returns = Config(), []
    left = set(possible_goals(config.cells))
    for _ in range(episodes):
        cell, total, held = START, 0.0, sorted(left)[generator.integers(len(left))]
        for _ in range(config.max_episode_steps):
            cell = moved(cell, towards(cell, held), config.cells)
            total += 1.0 if cell == goal else -0.1
            left = {goal} if cell == goal or left == {goal} else left - {cell}
        returns.append(total)
    return returns


def main() -> None:
    print("degrees seen to either side | found by episode 0 ... | episodes until then, mean")
    for half_width in (11.5, 15.0, 20.0):
        by = found(half_width, 20_000, np.random.default_rng(0))
        print(f"{half_width:5.1f}  {' '.join(f'{share:.2f}' for share in by)}  {1 + (1 - by).sum():.1f}")
    generator = np.random.default_rng(0)
    trials = [earned(goal, 8, generator) for goal in possible_goals(Config().cells) for _ in range(500)]
    print("gridworld: mean return of episode 1 ...")
    print(" ".join(f"{value:.2f}" for value in np.mean(trials, 0)))


if __name__ == "__main__":
    main()
