"""The same skills under another prior than the one that was learned with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from skillmeta.nn.distributions import Gaussian
from skillmeta.types import EnvSpec, Prior, Skills


@dataclass(frozen=True)
class WithPrior:
    """Skills whose prior is replaced (`skillmeta.types.Skills`).

    Args:
        skills: what executes them, and normalises observations.
        instead: observations [B, O + F] as `skills` normalises them, and the prior that is replaced -> the prior.
    """

    skills: Skills
    instead: nn.Module

    @property
    def horizon(self) -> int:
        return self.skills.horizon

    @property
    def dim(self) -> int:
        return self.skills.dim

    @property
    def latent_bound(self) -> Tensor:
        return self.skills.latent_bound

    def normalize(self, observation: Tensor) -> Tensor:
        return self.skills.normalize(observation)

    def encode(self, actions: Tensor, observations: Tensor) -> Prior:
        return self.skills.encode(actions, observations)

    def fast_controller(self, z: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
        return self.skills.fast_controller(z)

    def fitted_to(self, spec: EnvSpec, where: str) -> WithPrior:
        return replace(self, skills=self.skills.fitted_to(spec, where))

    def prior(self, observation: Tensor) -> Prior:
        with torch.no_grad():
            prior: Prior = self.instead(self.normalize(observation), self.skills.prior(observation))
            return prior


class Marginal(nn.Module):
    """The aggregate posterior as one Gaussian for all states, a reference for p(z | s).

    Args:
        latent_stddev: [Z].
    """

    log_stddev: Tensor

    def __init__(self, latent_stddev: Tensor):
        super().__init__()
        self.register_buffer("log_stddev", latent_stddev.log())

    def forward(self, inputs: Tensor, prior: Prior) -> Gaussian:
        log_stddev = self.log_stddev.expand(inputs.shape[0], -1)
        return Gaussian(torch.zeros_like(log_stddev), log_stddev)
