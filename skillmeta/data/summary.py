"""What is in a log, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from skillmeta.data.continuity import jumps
from skillmeta.data.d4rl_table import normalized_score
from skillmeta.data.episodes import EpisodeDataset
from skillmeta.data.room import parts
from skillmeta.errors import UserError

SPIKE = 50.0  # standard deviations from the mean, beyond which a single action is taken for an error
UNUSUAL = (
    20.0  # times as far from the median as nearly all others: likewise, where many such actions widen the deviation
)
AT_REST = 1e-4  # of the farthest action's distance from the median: what is nearer does not act
SAMPLE = 2**15  # actions that say how far from the median they are


def summarize(dataset: EpisodeDataset, horizon: int) -> dict[str, Any]:
    """Episodes, steps, returns, ranges, and how many windows of `horizon` steps there are. Plain values, ready for JSON."""
    lengths, returns = dataset.lengths, dataset.returns
    usable, found = lengths >= horizon, jumps(dataset)
    observation, action = ranges(dataset.observation), ranges(dataset.action)
    summary: dict[str, Any] = {
        "source": dataset.source,
        "episodes": dataset.num_episodes,
        "steps": dataset.num_steps,
        "length": spread(lengths),
        "return": spread(returns),
        "terminated": int(dataset.terminated.sum()),
        "truncated": int(dataset.truncated.sum()),
        "horizon": horizon,
        "windows": int((lengths[usable] - horizon + 1).sum()),
        "episodes_shorter_than_horizon": int((~usable).sum()),
        "observation_dim": dataset.observation_dim,
        "action_dim": dataset.action_dim,
        "observation_range": rounded(observation),
        "action_range": rounded(action),
        "action_low": dataset.action_low.tolist(),
        "action_high": dataset.action_high.tolist(),
        "constant_observations": constant(observation),
        "constant_actions": constant(action),
        "observed": {part.key: part.size for part in dataset.observed},
        "jumps": found.count,
        "notes": [*dataset.notes, *found.notes(), *spike_notes(dataset)],
    }
    if dataset.source.startswith("d4rl:"):
        try:
            summary["normalized_score"] = normalized_score(
                dataset.source.removeprefix("d4rl:").partition("?")[0], float(returns.mean())
            )
        except UserError as error:
            summary["notes"].append(str(error))
    return summary


def spike_notes(dataset: EpisodeDataset) -> list[str]:
    """A sentence on each action that is once or seldom far from all its others: by its span the action is scaled, and the others
    become nearly constant."""
    said, some = [], dataset.action[:: max(1, dataset.num_steps // SAMPLE)]
    for i, (least, mean, stddev, most) in enumerate(ranges(dataset.action)):
        median = float(np.median(some[:, i]))
        far, farther = (most if most - at > at - least else least for at in (mean, median))
        beyond = times(some[:, i], median, farther)
        if abs(far - mean) > SPIKE * stddev > 0:
            how = f"{far:.4g}, {abs(far - mean) / stddev:.0f} standard deviations from its mean {mean:.4g}"
        elif beyond > UNUSUAL:
            how = f"{farther:.4g}, {beyond:.0f} times as far from its median {median:.4g} as nearly all others"
        else:
            continue
        said.append(
            f"action {i} reaches {how}: if that is another unit or no real action, correct it or drop its episode, for actions are "
            "scaled by what they span"
        )
    return said


def times(values: np.ndarray, median: float, far: float) -> float:
    """How many times as far from the median a value is as 95 % of these [N] that are not at the median; 0 where all are."""
    apart = np.abs(values.astype(np.float64) - median)
    apart = apart[apart > AT_REST * abs(far - median)]
    return abs(far - median) / float(np.quantile(apart, 0.95)) if len(apart) else 0.0


def spread(values: np.ndarray) -> dict[str, float]:
    return {"min": float(values.min()), "median": float(np.median(values)), "max": float(values.max())}


def ranges(values: np.ndarray) -> np.ndarray:
    """[min, mean, standard deviation, max] of each column, [C, 4]; summed in double precision."""
    pieces = [*parts(len(values), values[:1].nbytes)]
    mean = sum(values[begin:end].sum(0, dtype=np.float64) for begin, end in pieces) / len(values)
    square = sum(((values[begin:end] - mean) ** 2).sum(0) for begin, end in pieces) / len(values)
    return np.stack((values.min(0), mean, np.sqrt(square), values.max(0)), 1).astype(float)


def rounded(values: np.ndarray) -> list[list[float]]:
    """To seven significant digits."""
    return [[float(f"{value:.7g}") for value in row] for row in values]


def constant(values: np.ndarray) -> list[int]:
    """The columns of these ranges that never change, up to rounding."""
    least, _, _, most = values.T
    return np.flatnonzero(most - least <= 1e-6 * np.maximum(abs(least), abs(most))).tolist()
