"""Configs as plain values: nested dicts, lists and scalars, to YAML and back."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from skillmeta.errors import ConfigError, first_line
from skillmeta.limits import YAML_BYTES, largest

FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")


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
    """A config as YAML, with every interpolation resolved."""
    return OmegaConf.to_yaml(OmegaConf.create(to_plain(config)))


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]  # yaml is not typed
    """YAML without aliases, which let a short file expand to a long one."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ConfigError(f"line {self.peek_event().start_mark.line + 1} has an alias")
        return super().compose_node(parent, index)


def read_yaml(path: Path, limited: bool = True) -> dict[str, Any]:
    """The config in a run folder, as plain values. `dump_yaml` wrote it, resolved; it may also come from somebody else.

    Args:
        limited: hold its sizes against `skillmeta.limits`; not for one that is only compared, or trusted.

    Raises:
        ConfigError: the file is no mapping of plain values, has an interpolation such as `${oc.env:HOME}`, an alias or a tag, a
            size above its limit, or is larger than 128 KiB. Nothing is resolved.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(YAML_BYTES + 1)
        if len(text) > YAML_BYTES:
            raise ConfigError(f"is larger than {YAML_BYTES:,} characters")
        plain = yaml.load(text, _PlainLoader)
        if not isinstance(plain, dict):
            raise ConfigError(f"holds a {type(plain).__name__}; a mapping of keys to values is expected")
        _check_plain(plain, "", limited)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}; a run folder's config has plain values only, restore the file") from None
    except Exception as error:  # OSError, UnicodeError, RecursionError and half a dozen of YAML's
        raise ConfigError(
            f"{path}: cannot be read as YAML ({first_line(error)}); restore the file or delete the folder"
        ) from None
    return plain


def check_readable(config: dict[str, Any]) -> None:
    """Raises ConfigError for a config that `read_yaml` would refuse, so that a run's folder can be read once it is written."""
    _check_plain(config, "", limited=True)


def _check_plain(value: Any, at: str, limited: bool) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _check_plain(key, at, limited)
            _check_plain(item, f"{at}.{key}".strip("."), limited)
            limit = largest(key) if limited and isinstance(key, str) else None
            if limit is not None and isinstance(item, (int, float)) and not item <= limit:
                raise ConfigError(f"{at}.{key}".strip(".") + f" is {item}; at most {limit:,} is read from a folder")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _check_plain(item, f"{at}[{i}]", limited)
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
