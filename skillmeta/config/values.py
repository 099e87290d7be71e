"""What a value of a config may be, declared in its field's type: `steps: PositiveInt = 10_000`.

Limits are checked when a dataclass is made, from YAML or in Python (`skillmeta.config.build.checked`). Types are checked in YAML
only: in Python a type checker does it.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, runtime_checkable


@runtime_checkable
class Limit(Protocol):
    """What a type cannot say. Its text completes "integer, ..."."""

    def problem(self, value: Any) -> str | None:
        """What is expected instead of `value`; None if nothing is wrong."""
        ...


@dataclass(frozen=True)
class Bound:
    """Limits of a number. NaN is outside all of them."""

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None

    def problem(self, value: Any) -> str | None:
        if not isinstance(value, (int, float)):
            return "a number is expected"
        inside = (
            (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )
        return None if inside and value == value else f"it must be {self}"

    def __str__(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            return f"between {self.at_least:g} and {self.at_most:g}"
        limits = {"at least": self.at_least, "at most": self.at_most, "above": self.above, "below": self.below}
        return " and ".join(f"{words} {limit:g}" for words, limit in limits.items() if limit is not None)


@dataclass(frozen=True)
class OneOf:
    """A value out of a list that is known only at run time. One that is known before is a `Literal`."""

    choices: Sequence[Any]

    def problem(self, value: Any) -> str | None:
        return None if value in self.choices else f"choose {self}"

    def __str__(self) -> str:
        *others, last = map(str, self.choices)
        return f"{', '.join(others)} or {last}" if others else last


@dataclass(frozen=True)
class Increasing:
    """Two numbers, the lower one first."""

    def problem(self, value: Any) -> str | None:
        return None if len(value) == 2 and value[0] < value[1] else f"{self} are expected"

    def __str__(self) -> str:
        return "two numbers, the lower one first,"


@dataclass(frozen=True)
class Spelled:
    """A string of a form."""

    pattern: str
    said: str

    def problem(self, value: Any) -> str | None:
        return None if isinstance(value, str) and re.fullmatch(self.pattern, value) else f"choose {self}"

    def __str__(self) -> str:
        return self.said


@dataclass(frozen=True)
class OptionsOf:
    """Marks a mapping whose keys are those of the `Config` of a module of skillmeta.<room>.

    `named_by` is the field beside it that names the module; None: the mapping's own key `name` does.
    """

    room: str
    named_by: str | None = None


PositiveInt = Annotated[int, Bound(at_least=1)]
NonNegativeInt = Annotated[int, Bound(at_least=0)]
PositiveFloat = Annotated[float, Bound(above=0)]
NonNegativeFloat = Annotated[float, Bound(at_least=0)]
Share = Annotated[float, Bound(at_least=0, at_most=1)]
Range = Annotated[list[float], Increasing()]
DeviceName = Annotated[
    str, Spelled(r"auto|cpu|mps|cuda(:\d{1,3})?", "auto, cpu, mps, cuda or one of cuda:0, cuda:1, ...")
]


def plain_type(kind: Any) -> tuple[Any, list[Any]]:
    """A type without its `Annotated`, and what was annotated; a `Literal` as its values' type and a `OneOf`."""
    if typing.get_origin(kind) is Annotated:
        inner, *notes = typing.get_args(kind)
        plain, more = plain_type(inner)
        return plain, [*more, *notes]
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        return type(choices[0]), [OneOf(choices)]
    return kind, []


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The types of a union; of another type itself."""
    is_union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if is_union else (kind,)


def problems(kind: Any, value: Any, at: str) -> Iterator[str]:
    """A sentence for each value in `value` that is outside of the limits in the type `kind`."""
    plain, notes = plain_type(kind)
    for note in notes:
        if isinstance(note, Limit) and (expected := note.problem(value)):
            yield f"{at} is {value!r}; {expected}"
    origin, arguments = typing.get_origin(plain), typing.get_args(plain)
    if len(alternatives(plain)) > 1:
        if value is not None:
            found = [list(problems(one, value, at)) for one in alternatives(plain) if one is not type(None)]
            yield from min(found, key=len)
    elif origin is dict and isinstance(value, dict):
        for key, item in value.items():
            yield from problems(arguments[1], item, f"{at}.{key}")
    elif origin is list and isinstance(value, list):
        for i, item in enumerate(value):
            yield from problems(arguments[0], item, f"{at}[{i}]")
