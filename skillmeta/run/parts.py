"""Save and restore by parts: one function for every learner, skill model and actor.

A part is a module, an optimiser, a generator, a tensor, or something with `state` and `restore`. Parts may be nested in mappings
and sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skillmeta.run.checkpoint import generator_state, restore_generator
from skillmeta.types import Part, Parts, State


@dataclass
class Counts:
    """How often a learner did what."""

    updates: int = 0
    decisions: int = 0
    iterations: int = 0

    def take(self, decisions: int, rate: float) -> int:
        """Count decisions. Returns how many updates they are worth at `rate` for each: over time no fraction is lost."""
        before, self.decisions = self.decisions, self.decisions + decisions
        return int(rate * self.decisions) - int(rate * before)

    def state(self) -> State:
        return asdict(self)

    def restore(self, state: State) -> None:
        for name in asdict(self):
            setattr(self, name, state[name])


def state_of(parts: Parts) -> State:
    """The state of every part as what a checkpoint holds."""
    return {name: _state(part) for name, part in parts.items()}


def restore_parts(parts: Parts, state: State) -> None:
    """Put a state from `state_of` back, in place.

    Raises KeyError for a part that the state lacks, RuntimeError for one of another shape, ValueError for numbers that no training
    leaves.
    """
    for name, part in parts.items():
        _restore(part, state[name])


def _check_values(name: str, own: Tensor, saved: Tensor) -> None:
    """What `load_state_dict` lets pass: another type, in which large numbers become infinite, and numbers that are not finite."""
    if saved.dtype != own.dtype:
        raise ValueError(f"{name} is of {saved.dtype}, not {own.dtype}")
    if saved.is_floating_point() and not bool(saved.isfinite().all()):
        raise ValueError(f"{name} is not finite")


def _named(parts: Any) -> Mapping[str, Any]:
    return parts if isinstance(parts, Mapping) else {str(i): part for i, part in enumerate(parts)}


def _state(part: Any) -> Any:
    if isinstance(part, nn.Module):
        return dict(part.state_dict())
    if isinstance(part, torch.optim.Optimizer):  # its moments, by the parameter's number
        return {str(i): dict(moments) for i, moments in part.state_dict()["state"].items()}
    if isinstance(part, torch.Generator):
        return generator_state(part)
    if isinstance(part, Tensor):
        return part
    if hasattr(part, "state"):
        return part.state()
    return {name: _state(inner) for name, inner in _named(part).items()}


def _restore(part: Part | Any, state: Any) -> None:
    if isinstance(part, nn.Module):
        for name, own in part.state_dict().items():
            _check_values(name, own, state[name])
        part.load_state_dict(state)
    elif isinstance(part, torch.optim.Optimizer):
        whole = part.state_dict()
        whole["state"] = {int(i): moments for i, moments in state.items()}
        part.load_state_dict(whole)
    elif isinstance(part, torch.Generator):
        restore_generator(part, state)
    elif isinstance(part, Tensor):
        if part.shape != state.shape:
            raise RuntimeError(f"a parameter is {tuple(state.shape)}, not {tuple(part.shape)}")
        if part.dtype != state.dtype:
            raise ValueError(f"a parameter is of {state.dtype}, not {part.dtype}")
        with torch.no_grad():
            part.copy_(state)
    elif hasattr(part, "restore"):
        part.restore(state)
    else:
        for name, inner in _named(part).items():
            _restore(inner, state[name])
