"""Every key of a config with its value, type, default and meaning. The meaning is the comment behind the field, written once."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import io
import textwrap
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from skillmeta.config.build import alternative_for, build, defaults, field_types
from skillmeta.config.modules import module_of
from skillmeta.config.plain import to_plain
from skillmeta.config.values import OneOf, OptionsOf, alternatives, plain_type

NAMES = {int: "integer", float: "number", bool: "true or false", str: "string", type(None): "null", Any: "anything"}
PLURALS = {int: "integers", float: "numbers", str: "strings"}


@dataclass(frozen=True)
class Key:
    """One key of a config, as it is written on the command line."""

    name: str  # with the sections that it is in: `algorithm.hidden`
    kind: str
    value: Any
    default: Any
    meaning: str


def keys(schema: Any, values: Mapping[str, Any], at: str = "", default: Any = None) -> Iterator[Key]:
    """The keys of a dataclass and of the sections in it.

    Args:
        values: of its fields, as plain values; where one is missing, the default is its value, and the keys of a section are
            listed even if it is null.
        default: an instance that has the defaults; None: the class's own.

    Raises ConfigError for a value that cannot be, where a module's options are looked at.
    """
    own = defaults(schema) if default is None else {name: getattr(default, name) for name in field_types(schema)}
    for name, kind in field_types(schema).items():
        here, meaning = f"{at}.{name}".strip("."), meanings(schema).get(name, "")
        value = values.get(name, own[name])
        plain, notes = plain_type(kind)
        chosen = next((note for note in notes if isinstance(note, OptionsOf)), None)
        if chosen is not None:
            named = values.get(chosen.named_by, own[chosen.named_by]) if chosen.named_by else None
            yield from _options(chosen, named, dict(value), own[name], here, meaning)
            continue
        section: Any = next((one for one in alternatives(plain) if dataclasses.is_dataclass(one)), None)
        inner = to_plain(value) if section is not None and isinstance(value, (dict, section)) else None
        if inner is None:
            yield Key(here, type_text(kind), value, own[name], meaning)
        for one in alternatives(plain):
            if get_origin(one) is list and dataclasses.is_dataclass(item := plain_type(get_args(one)[0])[0]):
                yield from keys(item, {}, f"{here}[]")
        if section is None or (inner is None and name in values):
            continue
        if inner and alternative_for(kind, inner) is not section:
            for each, one in inner.items():
                yield from keys(section, one, f"{here}.{each}")
        else:
            yield from keys(section, inner or {}, here, own[name] if isinstance(own[name], section) else None)


def _options(
    chosen: OptionsOf, named: Any, values: dict[str, Any], default: Mapping[str, Any], at: str, meaning: str
) -> Iterator[Key]:
    """The keys of a section that is the Config of a module."""
    if chosen.named_by is None:
        named = values.pop("name")
        yield Key(f"{at}.name", f"module of skillmeta.{chosen.room}, or yours", named, default.get("name"), meaning)
    module = module_of(chosen.room, named, f"{at}.name" if chosen.named_by is None else chosen.named_by)
    yield from keys(module.Config, to_plain(build(module.Config, values, at)), at)


def described(found: Iterable[Key], values: bool = True) -> str:
    """A line a key: its name, its value and default, its type and what it means. Without `values`, the default alone."""
    lines = []
    for key in found:
        default, value = text(to_plain(key.default)), text(to_plain(key.value))
        shown = value if values else default
        kind = f"{key.kind}; default {default}" if values and value != default else key.kind
        lines.append((f"{key.name} = {shown}", f"{kind}: {key.meaning}" if key.meaning else kind))
    width = min(44, max((len(head) for head, _ in lines), default=0))
    return "\n".join(f"{head:<{width}}  {what}" for head, what in lines)


def text(value: Any) -> str:
    """A value as it may be written on the command line."""
    if value is dataclasses.MISSING:
        return "?"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(map(text, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {text(item)}" for key, item in value.items()) + "}"
    return str(value) or "''"


def type_text(kind: Any) -> str:
    """A type in words, with its limits: `integer, at least 1`."""
    plain, notes = plain_type(kind)
    if len(alternatives(plain)) > 1:
        return " or ".join(map(type_text, alternatives(plain)))
    limits = [str(note) for note in notes if not isinstance(note, OptionsOf)]
    name = [] if any(isinstance(note, OneOf) for note in notes) else [_name(plain)]
    return ", ".join([*name, *limits])


def _name(plain: Any) -> str:
    arguments = get_args(plain)
    if get_origin(plain) is list:
        inner, notes = plain_type(arguments[0])
        if dataclasses.is_dataclass(inner):
            return "list of sections"
        return f"list of {PLURALS.get(inner, 'values')}" + "".join(f", each {note}" for note in notes)
    if get_origin(plain) is dict:
        return "mapping"
    if dataclasses.is_dataclass(plain):
        return "section"
    return NAMES.get(plain, getattr(plain, "__name__", str(plain)))


@functools.cache
def meanings(schema: Any) -> dict[str, str]:
    """The comment behind each field of a dataclass, or else the one above it; none where there is no source."""
    found: dict[str, str] = {}
    for cls in reversed(schema.__mro__):
        if dataclasses.is_dataclass(cls):
            found |= _comments_of(cls)
    return found


def _comments_of(cls: Any) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        return {}
    comments: dict[int, str] = {}  # of each line that has one
    own_line = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith(("# fmt:", "# type:", "# noqa")):
            comments[token.start[0]] = token.string.lstrip("# ")
            if token.line.lstrip().startswith("#"):
                own_line.add(token.start[0])
    (body,) = ast.parse(source).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            lines = [line for line in range(node.lineno, (node.end_lineno or 0) + 1) if line in comments]
            if not lines:
                first = next(line for line in range(node.lineno - 1, 0, -1) if line not in own_line)
                lines = list(range(first + 1, node.lineno))
            found[node.target.id] = " ".join(comments[line] for line in lines)
    return found
