"""YAML in, checked dataclasses out. The dataclass beside the code that uses it is the schema; YAML states differences."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import os
import re
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from skillmeta.errors import ConfigError

T = TypeVar("T")
FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")
RUN_CONFIG_BYTES = 2**17  # of a run folder's config; ours have a few thousand


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

    A section whose `name` or `family` differs from the base's starts from empty: other schema, other keys. So does one that is a
    list where the base has a mapping, or the other way round.
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
        if {type(section), type(old)} == {DictConfig, ListConfig}:
            del merged[key]
        if not (isinstance(section, DictConfig) and isinstance(old, DictConfig)):
            continue
        if any(name in section and section[name] != old.get(name) for name in ("name", "family")):
            merged[key] = {}


def build(schema: type[T], node: Any, at: str = "") -> T:
    """Fill the dataclass `schema` from a mapping, checking keys, types and the dataclass's own rules.

    Args:
        schema: its class attribute FORMER_KEYS, if it has one, says of each key of an earlier version what took its place.
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
        if str(key) in (former := getattr(schema, "FORMER_KEYS", {})):
            raise ConfigError(f"{here}: {former[str(key)]}")
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
        choices = [a for a in arguments if a is not type(None)]
        fitting = [a for a in choices if dataclasses.is_dataclass(a) == isinstance(value, dict)]
        return _convert((fitting or choices)[0], value, at)
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


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases, which let a short file expand to a long one."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ConfigError(f"line {self.peek_event().start_mark.line + 1} has an alias")
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> dict[str, Any]:
    """The config in a run folder, as plain values. `dump_yaml` wrote it, resolved; it may also come from somebody else.

    Raises:
        ConfigError: the file is no mapping of plain values, has an interpolation such as `${oc.env:HOME}`, an alias or a tag, or
            is larger than 128 KiB. Nothing is resolved.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(RUN_CONFIG_BYTES + 1)
        if len(text) > RUN_CONFIG_BYTES:
            raise ConfigError(f"is larger than {RUN_CONFIG_BYTES:,} characters")
        plain = yaml.load(text, _PlainLoader)
        if not isinstance(plain, dict):
            raise ConfigError(f"holds a {type(plain).__name__}; a mapping of keys to values is expected")
        _check_plain(plain, "")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}; a run folder's config has plain values only, restore the file") from None
    except Exception as error:  # OSError, UnicodeError, RecursionError and half a dozen of YAML's
        raise ConfigError(
            f"{path}: cannot be read as YAML ({first_line(error)}); restore the file or delete the folder"
        ) from None
    return plain


def _check_plain(value: Any, at: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _check_plain(key, at)
            _check_plain(item, f"{at}.{key}".strip("."))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _check_plain(item, f"{at}[{i}]")
    elif isinstance(value, str):
        if "${" in value:
            raise ConfigError(f"{at} is {value[:100]!r}, an interpolation")
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise ConfigError(f"{at} is an integer of more than 64 bits")
    elif not (value is None or isinstance(value, float)):
        raise ConfigError(f"{at} is a {type(value).__name__}")


def check_file_name(name: object, what: str) -> None:
    """Raises ValueError for a name that cannot be a part of a path: `what` says which name it is."""
    if not isinstance(name, str) or not FILE_NAME.fullmatch(name):
        raise ValueError(
            f"{what} is {str(name)[:200]!r}; it becomes a file name: use at most 100 letters, digits, '_', '-' and '.', not "
            "starting with '.'"
        )


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


def is_builtin(package: str, name: object) -> bool:
    """Whether `name` is one module of skillmeta.<package>, as `sac` or `skillmeta.algorithms.sac` are."""
    return isinstance(name, str) and name.removeprefix(f"skillmeta.{package}.").isidentifier()


def module_of(package: str, name: str, what: str) -> types.ModuleType:
    """skillmeta.<package>.<name>, or the dotted module `name` of the user's own.

    The caller vouches for `name`: it is built in, or a config that the user named on the command line has it, or
    `skillmeta.trust.check_modules` has admitted it.

    Raises ConfigError if there is no such module, or none with a `Config`.
    """
    path = f"skillmeta.{package}.{name.rpartition('.')[2]}" if is_builtin(package, name) else name
    module = import_module(path, name, what)
    if not hasattr(module, "Config"):
        raise ConfigError(f"{what} is {name!r}; the module {path} has no Config")
    return module


def import_module(path: str, name: str, what: str) -> types.ModuleType:
    """The module `path`, also from the working folder. Raises ConfigError, saying that `what` is `name`, if there is none."""
    if not all(part.isidentifier() for part in str(path).split(".")):
        raise ConfigError(f"{what} is {name!r}; the name of a module is expected")
    if not path.startswith("skillmeta.") and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a module beside the config, for a command that was installed elsewhere
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not path.startswith(error.name):  # it exists; something that it needs does not
            raise ConfigError(f"{what} {name!r} needs the package {error.name!r}; install it ({error})") from None
        raise ConfigError(f"{what} is {name!r}; there is no module {path}") from None
