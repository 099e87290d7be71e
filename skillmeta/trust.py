"""Run folders are data: they may come from somebody else. What a folder may make a program import, and where its files may lie.

A config that the user names on the command line is trusted. What lies in a run folder is not: a module of its own that it names
is imported only with `--trust` (`trust=True` in Python).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from skillmeta.config import import_module, is_builtin
from skillmeta.errors import ConfigError, UserError
from skillmeta.reading import read_json, sha256

ENVIRONMENT = "environment.json"  # of a run folder; `modules` holds the SHA-256 of each module that its config names


def named_modules(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(field, module) of every module outside skillmeta that a plain run config makes a program import."""
    algorithm = config.get("algorithm")
    if isinstance(algorithm, Mapping) and "name" in algorithm and not is_builtin("algorithms", algorithm["name"]):
        yield "algorithm.name", str(algorithm["name"])
    start = config.get("start")
    if isinstance(start, Mapping) and start.get("algorithm") and not is_builtin("algorithms", start["algorithm"]):
        yield "start.algorithm", str(start["algorithm"])
    task = config.get("task")
    if isinstance(task, Mapping) and "family" in task and not is_builtin("tasks", task["family"]):
        yield "task.family", str(task["family"])
    options = gym_options(config)
    imports, env_id = options.get("imports"), str(options.get("id"))
    if isinstance(imports, list):
        yield from ((f"task.options.imports[{i}]", str(name)) for i, name in enumerate(imports))
    if ":" in env_id:  # gymnasium.make imports what is before the colon
        yield "task.options.id", env_id.partition(":")[0]


def gym_options(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of the family `gym`, which makes any registered environment; empty for other families."""
    task = config.get("task")
    if not isinstance(task, Mapping) or str(task.get("family")).rpartition(".")[2] != "gym":
        return {}
    options = task.get("options")
    return options if isinstance(options, Mapping) else {}


def check_modules(config: Mapping[str, Any], file: Path, trust: bool) -> None:
    """Admit the part of a run folder's config that a program is about to act on, or refuse it.

    With `trust`, a module that has changed since the run began is reported on stderr.

    Args:
        file: where the config was read; environment.json beside it has the modules' hashes.

    Raises ConfigError without `trust`, if the config names a module outside skillmeta, or passes text to `gymnasium.make`,
    whose environments open the files and import the modules that such text names.
    """
    if trust:
        warn_changed(file.parent, hashes(config))
        return
    for field, module in named_modules(config):
        raise ConfigError(
            f"{file}: {field} names the module {module[:100]!r}, which is not part of skillmeta; add --trust (trust=True in "
            "Python) to import it, if you trust who made this folder"
        )
    for field in texts(gym_options(config).get("kwargs"), "task.options.kwargs"):
        raise ConfigError(
            f"{file}: {field} passes text to gymnasium.make, which may name a file or a module; add --trust (trust=True in "
            "Python) if you trust who made this folder"
        )


def texts(value: Any, at: str) -> Iterator[str]:
    """The fields of a plain value that are strings."""
    if isinstance(value, str):
        yield at
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts(item, f"{at}.{key}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from texts(item, f"{at}[{i}]")


def check_links(folder: Path, trust: bool = False) -> None:
    """Raises UserError if a folder holds a symbolic link that leads out of it, or something that is no file and no folder.

    A link could make a program show a file of the user's, or write over it. The folder itself may be a link.
    """
    if trust:
        return
    root = os.path.realpath(folder)
    for where, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = os.path.join(where, name)
            shown = folder / os.path.relpath(path, root)
            if os.path.islink(path):
                if not os.path.realpath(path).startswith(root + os.sep):
                    raise UserError(f"{shown}: is a link that leads out of {folder}; replace it by what it stands for")
            elif os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
                raise UserError(f"{shown}: is neither a file nor a folder; remove it")


def hashes(config: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the file of each module outside skillmeta that a trusted config names. Imports them."""
    found = {}
    for field, name in named_modules(config):
        file = getattr(import_module(name, name, field), "__file__", None)
        if file is not None and Path(file).is_file():
            found[name] = sha256(Path(file))
    return found


def recorded(folder: Path) -> dict[str, str]:
    """The hashes in a run folder's environment.json; none if it has none."""
    try:
        modules = read_json(folder / ENVIRONMENT).get("modules")
    except UserError:
        return {}
    return {k: v for k, v in modules.items() if isinstance(v, str)} if isinstance(modules, dict) else {}


def warn_changed(folder: Path, now: Mapping[str, str]) -> None:
    """Report on stderr each module whose file is not the one that a run began with."""
    before = recorded(folder)
    for name, digest in now.items():
        if before.get(name, digest) != digest:
            print(
                f"warning: {folder}: the module {name} has changed since this run began (SHA-256 {before[name][:12]}, now "
                f"{digest[:12]}); its results may differ",
                file=sys.stderr,
            )


def modules_of_run(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """What environment.json keeps as `modules`: the hashes that the run began with. Those that differ now are reported."""
    now = hashes(config)
    warn_changed(folder, now)
    return {**now, **{name: digest for name, digest in recorded(folder).items() if name in now}}
