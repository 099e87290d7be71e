"""A mapping into a dataclass: keys, types, limits, and then the dataclass's own rules."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from skillmeta.config.values import alternatives, plain_type, problems
from skillmeta.errors import ConfigError, first_line

T = TypeVar("T")


@typing.dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def checked(schema: type[T]) -> type[T]:
    """A frozen dataclass. The limits in its fields' types are checked whenever one is made, then its own `__post_init__` runs,
    which is for rules about several fields. A class attribute FORMER_KEYS, if it has one, says what took a key's place: a new
    name, or a sentence.

    Making one raises ValueError with the field, its value and what is expected.
    """
    rules = getattr(schema, "__post_init__", None)

    def check(self: Any) -> None:
        for name, kind in field_types(type(self)).items():
            for problem in problems(kind, getattr(self, name), name):
                raise ValueError(problem)
        if rules is not None:
            rules(self)

    schema.__post_init__ = check  # type: ignore[attr-defined]  # called by the __init__ that dataclass makes
    return dataclasses.dataclass(frozen=True)(schema)


def field_types(schema: Any) -> dict[str, Any]:
    """The type of each field of a dataclass, with what is annotated."""
    hints = typing.get_type_hints(schema, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(schema)}


def defaults(schema: Any) -> dict[str, Any]:
    """The default of each field of a dataclass; MISSING for one that has none."""
    fields = dataclasses.fields(schema)
    return {f.name: f.default if f.default_factory is dataclasses.MISSING else f.default_factory() for f in fields}


def build(schema: type[T], node: Any, at: str = "", default: T | None = None) -> T:
    """Fill the dataclass `schema` from a mapping, checking keys, types and the dataclass's own rules.

    Args:
        at: where the mapping stands in the whole config, for the sentence.
        default: has the values of the keys that the mapping lacks; None: the class's own defaults.

    Raises:
        ConfigError: one sentence with the full path of the key, e.g. `algorithm.gama: unknown key; did you mean 'gamma'?`
    """
    try:
        plain = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    except OmegaConfBaseException as error:
        raise ConfigError(f"{at or 'config'}: {first_line(error)}") from None
    types = field_types(schema)
    if not isinstance(plain, dict):
        raise ConfigError(f"{at or schema.__name__}: is {plain!r}; a mapping of {', '.join(types)} is expected")
    values, own = {}, defaults(schema)
    for key, value in ((str(key), value) for key, value in plain.items()):
        check_key(schema, key, at)
        of_field = own[key] if default is None else getattr(default, key)
        values[key] = convert(types[key], value, f"{at}.{key}".strip("."), of_field)
    try:
        return schema(**values) if default is None else dataclasses.replace(typing.cast(Any, default), **values)
    except TypeError as error:
        raise ConfigError(f"{at or 'config'}: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{at + '.' if at else ''}{error}") from None


def check_key(schema: Any, key: str, at: str) -> None:
    """Raises ConfigError for a key that the dataclass does not have, with its new name where it once was one."""
    known = field_types(schema)
    former: Mapping[str, str] = getattr(schema, "FORMER_KEYS", {})
    if key in former:
        raise ConfigError(f"{at}.{key}".strip(".") + f": {former_key(former[key])}")
    if key not in known:
        inside = [f"{at}.{name}.{key}".strip(".") for name, kind in known.items() if _section_has(kind, key)]
        near = inside if len(inside) == 1 else difflib.get_close_matches(key, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
        raise ConfigError(f"{at + ': ' if at else ''}unknown key {key!r}; {hint}")


def _section_has(kind: Any, key: str) -> bool:
    """Whether a field of this type is a section that has the key."""
    sections = [one for one in alternatives(plain_type(kind)[0]) if dataclasses.is_dataclass(one)]
    return any(key in field_types(one) for one in sections)


def former_key(now: str) -> str:
    """What to say of a key that took the place of another: a name, which may have dots, or a sentence."""
    return f"is now called {now!r}" if re.fullmatch(r"[\w.]+", now) else now


def convert(kind: Any, value: Any, at: str, default: Any = None) -> Any:
    """`value` as `kind`, or ConfigError. Numbers may be written as strings such as 1e-3; nothing else is guessed.

    A mapping for a dataclass changes `default`, if that is one of the dataclass.
    """
    kind, notes = plain_type(kind)
    if isinstance(value, bool) and kind is str:  # YAML's words for true and false
        words = ("on", "yes") if value else ("off", "no")
        value = next((word for note in notes for word in words if word in getattr(note, "choices", ())), value)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if len(alternatives(kind)) > 1:
        if value is None and type(None) in arguments:
            return None
        return convert(alternative_for(kind, value), value, at, default)
    if dataclasses.is_dataclass(kind):
        return build(typing.cast(type, kind), value, at, default if type(default) is kind else None)
    if origin in (list, tuple):
        return sequence(origin, arguments, value, at)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{at}: is {value!r}; a mapping is expected")
        return {key: convert(arguments[1], item, f"{at}.{key}") for key, item in value.items()}
    return scalar(kind, value, at)


def alternative_for(kind: Any, value: Any) -> Any:
    """The type of a union that a plain value is for: of a list for a list, a `Literal` that lists it before others. A mapping is a
    section if it has a key of it or is empty, else one of named sections."""
    choices = [one for one in alternatives(kind) if one is not type(None)]
    sections = [one for one in choices if dataclasses.is_dataclass(one)]
    mappings = [one for one in choices if typing.get_origin(one) is dict]
    if not isinstance(value, dict):
        plain = [one for one in choices if one not in sections and one not in mappings]
        lists = [one for one in plain if typing.get_origin(one) is list and isinstance(value, list)]
        listed = [one for one in plain if typing.get_origin(one) is typing.Literal and value in typing.get_args(one)]
        return next(iter([*lists, *listed, *plain, *choices]))
    if sections and (not mappings or not value or field_types(sections[0]).keys() & value.keys()):
        return sections[0]
    return mappings[0] if mappings else choices[0]


def sequence(origin: Any, arguments: tuple[Any, ...], value: Any, at: str) -> Any:
    """A list, or a tuple, which may have a type for each place."""
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{at}: is {value!r}; a list is expected")
    kinds = (arguments[0],) * len(value)
    if origin is tuple and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise ConfigError(f"{at}: is {value!r}; {len(arguments)} values are expected")
        kinds = arguments
    return origin(convert(kinds[i], item, f"{at}[{i}]") for i, item in enumerate(value))


NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}


def scalar(kind: Any, value: Any, at: str) -> Any:
    number = _number(value) if kind in (int, float) else value
    if kind is float and isinstance(number, int) and not isinstance(number, bool):
        return float(number)
    if kind is int and isinstance(number, float) and number.is_integer():
        return int(number)
    if type(number) is not kind:
        raise ConfigError(f"{at}: is {value!r}; {NAMES.get(kind, kind)} is expected")
    return number


def _number(value: Any) -> Any:
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
    return value
