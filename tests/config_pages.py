"""The pages of config keys, docs/config*.md: what `skillmeta config show` knows of each dataclass, as tables.

python -m tests.config_pages     writes them anew
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from skillmeta.config import keys
from skillmeta.config.describe import Key, text
from skillmeta.config.plain import to_plain
from skillmeta.programs.show_config import keys_of_command

ROOT = Path(__file__).parents[1]
COMMANDS = {  # command: what is said of its config, and which of its keys have a table elsewhere
    "collect": ("Logs that a planner or scripted expert records.", ()),
    "skills": ("A skill model.", ()),
    "finetune": ("A run on one task.", ()),
    "meta-train": ("A run on the tasks of a split. It has the keys of `finetune`; these have other defaults.", ()),
    "evaluate": ("Trials in the tasks of a split.", ()),
    "ablate": (
        "Methods, tasks and seeds. `logs` has the keys of `collect`, and `skills` has those of `skills`.",
        ("logs.", "skills."),
    ),
    "tasks": ("A family of tasks: a file of its own, or the section `task` of other configs.", ()),
}
OF_MODULES = re.compile(r"(^|\.)(options|expert)\.|(^|\.)algorithm\.(?!name$)")  # keys of a module's own Config
WRITTEN = "This page is written by `python -m tests.config_pages`, and a test compares it."
HEAD = f"""# Config keys

Every key of each command's config: its type and limits, its default, and its meaning. `skillmeta config show NAME` and
`skillmeta COMMAND --help` say the same of one config. On the command line a key is changed by `key=value`. In Python it
is `key=value` too, with two underscores for a dot.

Keys of `algorithm` depend on its name: [algorithms](config_algorithms.md). Keys of `task.options` and of `expert` depend on
the family and the collector: [families and collectors](config_tasks.md). {WRITTEN}
"""
ALGORITHMS = f"""# Config keys of algorithms

The section `algorithm` of a config of `skillmeta finetune` or `skillmeta meta-train` has `name`, and the keys of that
algorithm. [Config keys](config.md) has all others. {WRITTEN}
"""
TASKS = f"""# Config keys of families and collectors

`task.options` of a config has the keys of the family that `task.family` names. `expert` of a config of `skillmeta collect`
has the keys of its `collector`. [Config keys](config.md) has all others. {WRITTEN}
"""


def table(found: Iterable[Key]) -> str:
    """A row a key."""
    rows = [f"| `{key.name}` | {cell(key.kind)} | {default(key)} | {cell(key.meaning)} |" for key in found]
    return "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows]) + "\n"


def default(key: Key) -> str:
    return "must be given" if key.default is dataclasses.MISSING else f"`{cell(text(to_plain(key.default)))}`"


def cell(words: str) -> str:
    """What a cell can hold: a bar would end it, and < or > would be HTML."""
    return words.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def modules(room: str) -> Iterable[tuple[str, ModuleType]]:
    """Those of skillmeta.<room> that have a Config."""
    for path in sorted((ROOT / "skillmeta" / room).glob("[a-z]*.py")):
        module = importlib.import_module(f"skillmeta.{room}.{path.stem}")
        if hasattr(module, "Config"):
            yield path.stem, module


def sections(room: str, kind: str) -> list[str]:
    return [f"## {kind} {name}\n\n{table(keys(module.Config, {}))}" for name, module in modules(room)]


def of_commands() -> str:
    parts, finetune = [HEAD], {key.name: key.default for key in keys_of_command("finetune")}
    for command, (what, elsewhere) in COMMANDS.items():
        found = [
            k for k in keys_of_command(command) if not OF_MODULES.search(k.name) and not k.name.startswith(elsewhere)
        ]
        if command == "meta-train":
            found = [key for key in found if finetune.get(key.name, ...) != key.default]
        parts.append(f"## {command}\n\n{what}\n\n{table(found)}")
    return "\n".join(parts)


def pages() -> dict[Path, str]:
    """What each page has to say."""
    docs = ROOT / "docs"
    return {
        docs / "config.md": of_commands(),
        docs / "config_algorithms.md": "\n".join([ALGORITHMS, *sections("algorithms", "Algorithm")]),
        docs / "config_tasks.md": "\n".join([TASKS, *sections("tasks", "Family"), *sections("experts", "Collector")]),
    }


if __name__ == "__main__":
    for file, said in pages().items():
        file.write_text(said)
