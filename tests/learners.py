"""Learners for tests: environments and skills are described by a few values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skillmeta.seeds import Seeds
from skillmeta.types import EnvSpec


@dataclass(frozen=True)
class GivenSkills:
    """Skills of which only a prior and a normaliser are needed."""

    prior: Callable[[Tensor], Any]
    latent_bound: Tensor
    normalizer: Callable[[Tensor], Tensor] | None = None
    horizon: int = 1

    @property
    def dim(self) -> int:
        return len(self.latent_bound)

    def normalize(self, observation: Tensor) -> Tensor:
        return observation if self.normalizer is None else self.normalizer(observation)


def make_learner(
    module: Any,
    config: Any,
    observation_dim: int,
    action_bound: Any,
    discrete: bool = False,
    prior: Callable[[Tensor], Any] | None = None,
    normalize: Callable[[Tensor], Tensor] | None = None,
    *,
    seeds: Seeds,
) -> Any:
    """An algorithm's learner. With a prior its actions are skills, and only then are observations normalised."""
    bound = np.asarray(action_bound, np.float32)
    spec = EnvSpec(observation_dim, bound, discrete, shaped_reward=True)
    assert prior is not None or normalize is None
    skills = None if prior is None else GivenSkills(prior, torch.from_numpy(bound), normalize)
    return module.Learner(config, spec, skills, seeds)
