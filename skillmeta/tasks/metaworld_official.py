"""What Meta-World's own evaluator would say of the same episodes: a biased number, to be shown beside an honest one only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def official_success(
    steps: np.ndarray, success: np.ndarray, names: Sequence[str], num_episodes: int = 3
) -> tuple[float, dict[str, float]]:
    """`metaworld.evaluation.evaluation`'s mean success over classes, and that of each class.

    All environments of a class run side by side, an episode ends at its first success, and the first `num_episodes` that
    finish anywhere in the class are counted. Failures take a whole episode and finish last, so they are hardly ever counted:
    a policy that solves a fifth of the environments gets 1.00 (an open report against version 3.1.1).

    Args:
        steps: [environment, episode] until the first success, or the length of an episode where there was none.
        success: [environment, episode] bool.
        names: the class of each environment.
        num_episodes: counted of each class.

    Environments run out of episodes where fewer than `num_episodes` finish in all; the missing ones count as failures.
    """
    finished = np.cumsum(steps, 1)
    scores: dict[str, float] = {}
    for name in dict.fromkeys(names):
        rows = np.flatnonzero(np.array(names) == name)
        # Of environments that finish at the same step, the one with the lower number is counted first.
        order = sorted((finished[row, k], row, k) for row in rows for k in range(steps.shape[1]))
        scores[name] = sum(bool(success[row, k]) for _, row, k in order[:num_episodes]) / num_episodes
    return float(np.mean(list(scores.values()))), scores
