"""What posterior sampling can do at all on the sparse point robot: `python benchmarks/posterior_sampling.py`.

An agent that knows Bayes' rule: it draws a direction among the goals that may still be, walks there straight, and strikes off those
that it would have seen from its path. A goal on the unit circle is seen within 0.2, which is 11.5 degrees to either side; a path
that is not quite straight sees more. No network and no learning: an upper reference for agents that hold a sample for an episode.
"""

from __future__ import annotations

import numpy as np

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


def main() -> None:
    print("degrees seen to either side | found by episode 0 ... | episodes until then, mean")
    for half_width in (11.5, 15.0, 20.0):
        by = found(half_width, 20_000, np.random.default_rng(0))
        print(f"{half_width:5.1f}  {' '.join(f'{share:.2f}' for share in by)}  {1 + (1 - by).sum():.1f}")


if __name__ == "__main__":
    main()
