"""Modules by name: one of skillmeta's, or the user's own beside the config or in the working folder.

The caller vouches for a name: it is built in, or a config that the user named on the command line has it, or
`skillmeta.trust.check_modules` has admitted it.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import os
import sys
import types
import typing
from pathlib import Path

from skillmeta.errors import ConfigError, first_line, raised

PACKAGE = Path(__file__).parents[1]
FORMER = {
    "tasks": {"maze_layouts": "maze_unseen"},
    "experts": {f"{name}_expert": name for name in ("kitchen", "half_cheetah", "ogbench", "metaworld")},
}
OF_A_RUN = ("environment.json", "metrics.jsonl", "result.json", "actor", ".lock")  # a folder that holds one is a run's
_folders: list[str] = []  # of the configs that were loaded, where modules of the user's own may lie


def search_in(folder: Path) -> None:
    """Look for modules of the user's own in the folder of a config, too."""
    if str(folder) not in _folders:
        _folders.append(str(folder))


def folders() -> list[str]:
    """Where modules of the user's own may lie: in no run folder, for what lies there is data."""
    return [one for one in [*_folders, os.getcwd()] if not any(os.path.exists(os.path.join(one, n)) for n in OF_A_RUN)]


def is_builtin(room: str, name: object) -> bool:
    """Whether `name` is, or was, a module of skillmeta.<room>, as `sac` or `skillmeta.algorithms.sac` are of algorithms."""
    if not isinstance(name, str):
        return False
    short = name.removeprefix(f"skillmeta.{room}.")
    is_file = short.isidentifier() and not short.startswith("_") and (PACKAGE / room / f"{short}.py").is_file()
    return is_file or short in FORMER.get(room, {})


def module_of(room: str, name: str, what: str) -> types.ModuleType:
    """skillmeta.<room>.<name>, or else the module `name` of the user's own, with or without dots.

    Args:
        what: the key that names it, for the sentence.

    Raises ConfigError if there is no such module, or none with a `Config`.
    """
    if now := FORMER.get(room, {}).get(name.removeprefix(f"skillmeta.{room}.")):
        raise ConfigError(f"{what} is {name!r}, which is now called {now!r}")
    path = f"skillmeta.{room}.{name.rpartition('.')[2]}" if is_builtin(room, name) else name
    module = import_module(path, name, what, room)
    if not hasattr(module, "Config"):
        raise ConfigError(f"{what} is {name!r}; the module {path} has no Config")
    return module


def check_config(module: types.ModuleType) -> None:
    """Raises ConfigError for a module of the user's own whose `Config` cannot be filled."""
    file = Path(getattr(module, "__file__", None) or module.__name__).name
    if not dataclasses.is_dataclass(module.Config):
        raise ConfigError(
            f"{file}: Config is no dataclass; put @checked above it (from skillmeta.config import checked)"
        )
    try:
        typing.get_type_hints(module.Config)
    except Exception as error:  # NameError mostly; a type that is written as text may be anything
        raise ConfigError(f"{file}, Config: the type of a field is unknown ({first_line(error)})") from None


def import_module(path: str, name: str, what: str, room: str = "") -> types.ModuleType:
    """The module `path`. Raises ConfigError, saying that `what` is `name`, if there is none, nor one of skillmeta.<room>."""
    if not all(part.isidentifier() for part in str(path).split(".")):
        raise ConfigError(f"{what} is {name!r}; the name of a module is expected")
    if not path.startswith("skillmeta."):  # last, so that nothing that is installed is hidden
        sys.path.extend(folder for folder in folders() if folder not in sys.path)
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):  # it exists; what it needs does not
            raise ConfigError(f"{what} {name!r} needs the package {error.name!r}; install it ({error})") from None
        places = f"in skillmeta.{room}, beside the config" if room else "beside the config"
        near = difflib.get_close_matches(name, [file.stem for file in (PACKAGE / room).glob("[a-z]*.py")], 1)
        hint = f"; did you mean {near[0]!r}?" if room and near else ""
        raise ConfigError(
            f"{what} is {name!r}; there is no module {path} {places} or in the working folder{hint}"
        ) from None
    except Exception as error:
        if path.startswith("skillmeta."):
            raise
        raise ConfigError(f"{what} is {name!r}; importing that module raised {raised(error)}") from error
