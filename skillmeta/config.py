"""YAML in, checked dataclasses out. The dataclass beside the code that uses it is the schema; YAML states differences."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import os
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from skillmeta.errors import ConfigError

T = TypeVar("T")


def config_dir() -> Path:
    """The folder of the configs that come with the package, installed or in a checkout."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "configs"


def list_configs() -> list[str]:
    """Names that `load` takes, e.g. `downstream/maze_spirl`."""
    root = config_dir()
    return sorted(str(path.relative_to(root).with_suffix("")) for path in root.rglob("*.yaml"))


def find_config(name: str | Path) -> Path:
    """A file as it is named, or a config that comes with the package. Raises ConfigError with the nearest names."""
    for path in (Path(name), config_dir() / name, config_dir() / f"{name}.yaml"):
        if path.is_file():
            return path.resolve()
    near = difflib.get_close_matches(str(name), list_configs(), 3, 0.4)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; `skillmeta config list` shows those that come with it"
    raise ConfigError(f"{name}: there is no such file or config{hint}")


def load(name: str | Path, overrides: Sequence[str] = ()) -> DictConfig:
    """A YAML file on top of its `base:` chain (paths relative to the file), then `a.b=c` overrides.

    A section whose `name` or `family` differs from the base's starts from empty: other schema, other keys.
    Raises ConfigError for a missing or malformed file, a cycle of bases, or a malformed override.
    """
    path = find_config(name)
    chain: list[Path] = []
    layers: list[DictConfig] = []
    while True:
        if path in chain:
            raise ConfigError(f"{path}: `base` leads back to itself ({' -> '.join(p.name for p in [*chain, path])})")
        chain.append(path)
        layer = _parse(path)
        base = layer.pop("base", None)
        layers.append(layer)
        if base is None:
            break
        path = find_config(path.parent / str(base))
    layers.insert(0, parse_overrides(overrides))
    merged = OmegaConf.create()
    for layer in reversed(layers):
        _forget_renamed(merged, layer)
        merged = typing.cast(DictConfig, OmegaConf.merge(merged, layer))
    return merged


def parse_overrides(overrides: Sequence[str]) -> DictConfig:
    """`a.b=c` texts as a config. Raises ConfigError for a malformed one."""
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"override {override!r} has no '='; write section.key=value")
    try:
        return OmegaConf.from_dotlist(list(overrides))
    except Exception as error:
        raise ConfigError(f"overrides {' '.join(overrides)!r}: {first_line(error)}") from None


def _parse(path: Path) -> DictConfig:
    try:
        layer = OmegaConf.load(path)
    except Exception as error:  # yaml and OmegaConf errors alike are the file's
        raise ConfigError(f"{path}: is not valid YAML ({first_line(error)})") from None
    if not isinstance(layer, DictConfig):
        raise ConfigError(f"{path}: holds a {type(layer).__name__}; a config is a mapping of keys to values")
    return layer


def _forget_renamed(merged: DictConfig, layer: DictConfig) -> None:
    for key, section in layer.items():
        old = merged.get(key)
        if not (isinstance(section, DictConfig) and isinstance(old, DictConfig)):
            continue
        if any(name in section and section[name] != old.get(name) for name in ("name", "family")):
            merged[key] = {}


def build(schema: type[T], node: Any, at: str = "") -> T:
    """Fill the dataclass `schema` from a mapping, checking keys, types and the dataclass's own rules.

    Args:
        at: where the mapping stands in the whole config, for the sentence.

    Raises:
        ConfigError: one sentence with the full path of the key, e.g. `algorithm.gama: unknown key; did you mean 'gamma'?`
    """
    try:
        plain = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    except OmegaConfBaseException as error:
        raise ConfigError(f"{at or 'config'}: {first_line(error)}") from None
    if not isinstance(plain, dict):
        raise ConfigError(f"{at or schema.__name__}: is {plain!r}; a mapping of {_names(schema)} is expected")
    hints = typing.get_type_hints(schema)
    known = {field.name for field in dataclasses.fields(typing.cast(Any, schema))}
    values = {}
    for key, value in plain.items():
        here = f"{at}.{key!s}".strip(".")
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {_names(schema)}"
            raise ConfigError(f"{at + ': ' if at else ''}unknown key {key!r}; {hint}")
        values[key] = _convert(hints[key], value, here)
    try:
        return schema(**values)
    except TypeError as error:
        raise ConfigError(f"{at or 'config'}: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{at + '.' if at else ''}{error}") from None


def _convert(kind: Any, value: Any, at: str) -> Any:
    """`value` as `kind`, or ConfigError. Numbers may be written as text such as 1e-3; nothing else is guessed."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, at)
    if dataclasses.is_dataclass(kind):
        return build(typing.cast(type, kind), value, at)
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{at}: is {value!r}; a list is expected")
        if origin is tuple and arguments and arguments[-1] is not Ellipsis:  # one kind for each place
            if len(value) != len(arguments):
                raise ConfigError(f"{at}: is {value!r}; {len(arguments)} values are expected")
            kinds = arguments
        else:
            kinds = (arguments[0] if arguments else Any,) * len(value)
        return origin(_convert(kinds[i], item, f"{at}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{at}: is {value!r}; a mapping is expected")
        return {key: _convert(arguments[1], item, f"{at}.{key}") for key, item in value.items()}
    number = _number(value) if kind in (int, float) else value
    if kind is float and isinstance(number, int) and not isinstance(number, bool):
        return float(number)
    if kind is int and isinstance(number, float) and number.is_integer():
        return int(number)
    if type(number) is not kind:
        raise ConfigError(f"{at}: is {value!r}; {_NAMES.get(kind, kind)} is expected")
    return number


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _number(value: Any) -> Any:
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
    return value


def _names(schema: Any) -> str:
    return ", ".join(field.name for field in dataclasses.fields(schema))


def to_plain(config: Any) -> Any:
    """A dataclass as nested dicts, lists and scalars, ready for YAML or JSON."""
    if dataclasses.is_dataclass(config):
        return {field.name: to_plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, DictConfig):
        return OmegaConf.to_container(config, resolve=True)
    if isinstance(config, dict):
        return {key: to_plain(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_plain(item) for item in config]
    return config


def dump_yaml(config: Any) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(to_plain(config)))


def read_yaml(path: Path) -> Any:
    return OmegaConf.to_container(OmegaConf.load(path), resolve=True)


def differences(old: Any, new: Any, at: str = "") -> list[str]:
    """What differs between two plain configs, a phrase a key."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted({*old, *new}, key=str):
            here = f"{at}.{key}".strip(".")
            if key not in old or key not in new:
                found.append(f"{here}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}")
            else:
                found.extend(differences(old[key], new[key], here))
        return found
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        old, new = list(old), list(new)
    return [] if old == new else [f"{at}: {old} -> {new}"]


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def module_of(package: str, name: str, what: str) -> types.ModuleType:
    """skillmeta.<package>.<name>, or the dotted module `name` of the user's own. Raises ConfigError if there is none."""
    path = name if "." in name else f"skillmeta.{package}.{name}"
    if "." in name and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a module beside the config, for a command that was installed elsewhere
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not path.startswith(error.name):  # it exists; something that it needs does not
            raise ConfigError(f"{what} {name!r} needs the package {error.name!r}; install it ({error})") from None
        raise ConfigError(f"{what} is {name!r}; there is no module {path}") from None
