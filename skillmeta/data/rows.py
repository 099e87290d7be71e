"""Decisions as a value that a belief may hold, and those of training that an actor takes along."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from skillmeta.data.replay import FIELDS, Transitions
from skillmeta.types import EnvSpec


class Rows(NamedTuple):
    """Decisions, as in `skillmeta.data.replay.Transitions`: observations and rewards in the environment's units."""

    observation: Tensor  # [..., O]
    action: Tensor  # [..., A] as executed
    reward: Tensor  # [...]
    next_observation: Tensor  # [..., O]
    terminated: Tensor  # [...] 1 where the MDP ended

    def at(self, *index: Tensor) -> Rows:
        return Rows(*(part[index] for part in self))


def rows_of(some: Transitions) -> Rows:
    return Rows(*(getattr(some, name) for name in FIELDS))


def joined(one: Rows, other: Rows) -> Rows:
    """Rows [N, n, ...] and [N, m, ...] as one, [N, n + m, ...]."""
    return Rows(*(torch.cat(both, 1) for both in zip(one, other, strict=True)))


class Carried(nn.Module):
    """What an actor takes along to relabel: R decisions of training and the coefficient of the divergence; zeros at first."""

    coefficient: Tensor

    def __init__(self, rows: int, spec: EnvSpec):
        super().__init__()
        seen = (spec.observation_dim,)
        for name, shape in zip(Rows._fields, (seen, (spec.action_dim,), (), seen, ()), strict=True):
            self.register_buffer(name, torch.zeros(rows, *shape))
        self.register_buffer("coefficient", torch.zeros(()))

    def rows(self) -> Rows:
        return Rows(*(self.get_buffer(name) for name in Rows._fields))

    def take(self, rows: Rows, coefficient: Tensor) -> None:
        for own, new in zip((*self.rows(), self.coefficient), (*rows, coefficient), strict=True):
            own.copy_(new)
