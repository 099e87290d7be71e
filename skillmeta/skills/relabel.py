"""Logs as decisions: which skill each stretch of a log was, so that a high level can learn from logs."""

from __future__ import annotations

import numpy as np
import torch

from skillmeta.types import Episodes, Skills


@torch.no_grad()
def decisions(episodes: Episodes, skills: Skills, noise: torch.Generator | None = None) -> Episodes:
    """Episodes of primitive steps as the episodes of decisions that skill space would have given for them.

    Each episode is cut into windows of H steps without overlap, counted from its end. The rest at its beginning, shorter than H,
    is left out, and so is an episode that is shorter than H: q(z | a, s) is defined on windows of H steps alone. It is the
    beginning, because the end is where an episode terminates and where sparse rewards are.

    Args:
        episodes: [N, T, ...] of primitive steps, of a log or collected.
        skills: the model whose encoder names the skill of a window.
        noise: draws z from the posterior q(z | a, s); without it z is what no noise stands for, of a Gaussian the mean.

    Returns:
        [N, D, ...] with D the decisions of the longest episode: action is z, reward the sum over H steps, terminated and truncated
        those of the last step, success at any of them, steps primitive steps.

    Raises:
        ValueError: the episodes are of decisions already.
    """
    if (episodes.steps[episodes.valid] != 1).any():
        raise ValueError("these episodes are of decisions; skills are found in primitive steps")
    horizon, lengths = skills.horizon, episodes.valid.sum(1)
    counts = lengths // horizon
    most = int(counts.max(initial=0))
    begins = (lengths - horizon * counts)[:, None] + horizon * np.arange(most + 1)  # [N, D+1]; the last one is the end
    begins = np.minimum(begins, lengths[:, None])
    valid = np.arange(most) < counts[:, None]
    inside = begins[:, :-1, None] + np.arange(horizon)  # [N, D, H]
    row = np.arange(len(lengths))[:, None]

    def windows(values: np.ndarray) -> np.ndarray:
        """[N, T, ...] -> [W, H, ...], those of valid decisions, episode by episode."""
        result: np.ndarray = values[np.nonzero(valid)[0][:, None], inside[valid]]
        return result

    def spread(values: np.ndarray) -> np.ndarray:
        """[W, ...] -> [N, D, ...], zeros after the end of a shorter episode."""
        full = np.zeros((*valid.shape, *values.shape[1:]), values.dtype)
        full[valid] = values
        return full

    action = torch.from_numpy(windows(episodes.action)).float()
    posterior = skills.encode(action, torch.from_numpy(windows(episodes.observation)).float())
    size = len(action), skills.dim
    z = posterior.rsample(torch.zeros(size) if noise is None else torch.randn(size, generator=noise))
    return Episodes(
        observation=episodes.observation[row, begins],
        action=spread(z.numpy()),
        reward=spread(windows(episodes.reward).sum(1)),
        terminated=spread(windows(episodes.terminated)[:, -1]),
        truncated=spread(windows(episodes.truncated)[:, -1]),
        steps=spread(windows(episodes.steps).sum(1)),
        success=spread(windows(episodes.success).max(1)),
        valid=valid,
    )
