"""An agent that knows its task, and its belief as what a checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skillmeta.types import Actor, Episodes, Parts, Step


def pack(belief: Any) -> Any:
    """A belief of named tuples, tuples and tensors as what a checkpoint holds."""
    if isinstance(belief, tuple):
        names = getattr(belief, "_fields", None) or [str(i) for i in range(len(belief))]
        return {name: pack(part) for name, part in zip(names, belief, strict=True)}
    return belief.contiguous() if isinstance(belief, Tensor) else belief


def unpack(like: Any, state: Any) -> Any:
    """The belief that `pack` was given, in the structure of another one of the same agent."""
    if isinstance(like, tuple):
        names = getattr(like, "_fields", None) or [str(i) for i in range(len(like))]
        parts = [unpack(part, state[name]) for name, part in zip(names, like, strict=True)]
        return type(like)(*parts) if hasattr(like, "_fields") else tuple(parts)
    if isinstance(like, Tensor) and (
        state.dtype != like.dtype or state.dim() != like.dim() or not bool(state.isfinite().all())
    ):
        raise ValueError(
            f"{state.dtype} {tuple(state.shape)} in the place of {like.dtype} {tuple(like.shape)}, or not finite"
        )
    return state


@dataclass(frozen=True)
class AdaptedAgent:
    """An agent that knows its task: every trial that it begins begins with what it knows."""

    agent: Actor[Any]
    belief: Any
    exploration_episodes: int = 0

    @property
    def rollouts(self) -> int:
        return self.agent.rollouts

    def begin(self, num: int, generator: torch.Generator) -> Any:
        if num != 1:
            raise ValueError(f"an adapted agent knows one task, not {num}")
        return self.belief

    def act(self, observation: Tensor, belief: Any, generator: torch.Generator, explore: bool) -> tuple[Tensor, Any]:
        return self.agent.act(observation, belief, generator, explore)

    def observe(self, belief: Any, action: Tensor, step: Step) -> Any:
        return self.agent.observe(belief, action, step)

    def adapt(self, belief: Any, episodes: Episodes, generator: torch.Generator) -> Any:
        return self.agent.adapt(belief, episodes, generator)

    def parts(self) -> Parts:
        return self.agent.parts()
