"""`skillmeta config list`, and `skillmeta config show NAME [key=value ...]`: every key of a config, and what it means."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from skillmeta.config import Key


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="skillmeta config", description="The configs that come with the package.")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="their names")
    show = actions.add_parser("show", help="one of them, with its bases and your changes: every key and what it means")
    show.add_argument("config")
    show.add_argument("overrides", nargs="*", default=[], metavar="key=value")
    show.add_argument("--yaml", action="store_true", help="what its files say, as YAML")
    arguments = parser.parse_args(argv)
    from skillmeta.config import config_dir, described, dump_yaml, list_configs, load

    if arguments.action == "list":
        print(f"in {config_dir()}:")
        print("\n".join(f"  {name}" for name in list_configs()))
        return 0
    node = load(arguments.config, arguments.overrides)
    print(dump_yaml(node) if arguments.yaml else described(keys_of_config(node)) + "\n", end="")
    return 0


def filled(node: DictConfig) -> Any:
    """The dataclass of the program that a config is for, filled. Raises ConfigError for what is wrong with it."""
    from skillmeta.config import build, to_plain
    from skillmeta.programs.ablate import AblationConfig
    from skillmeta.programs.collect import CollectConfig
    from skillmeta.programs.evaluate import EvaluateConfig
    from skillmeta.programs.pretrain import PretrainConfig
    from skillmeta.programs.train_config import train_config
    from skillmeta.tasks.base import TaskConfig

    programs = {  # a key that the configs of a program have, and those of the programs after it do not
        "methods": AblationConfig,
        "dataset": CollectConfig,
        "source": PretrainConfig,
        "family": TaskConfig,
        "agents": EvaluateConfig,
        "oracle": EvaluateConfig,
    }
    for key, schema in programs.items():
        if key in node:
            return build(schema, node)
    return train_config({"algorithm": to_plain(node)} if "name" in node else node)


def keys_of_config(node: DictConfig) -> Iterator[Key]:
    """The keys of a config of any program, or of an algorithm's preset, with their values."""
    from skillmeta.config import keys, to_plain
    from skillmeta.programs.train_config import DEFAULTS, TrainConfig

    config = filled(node)
    default = DEFAULTS[config.kind] if isinstance(config, TrainConfig) else None
    for key in keys(type(config), to_plain(config), default=default):
        if "name" not in node or key.name.startswith("algorithm."):
            yield key


def keys_of_command(command: str) -> Iterator[Key]:
    """The keys of the config that a command takes, with their defaults. Imports what that needs and no more: it takes seconds."""
    from skillmeta.config import keys

    schema: type
    if command in ("finetune", "meta-train"):
        from skillmeta.programs.train_config import DEFAULTS, TrainConfig

        return keys(TrainConfig, {}, default=DEFAULTS[command])
    if command == "collect":
        from skillmeta.programs.collect import CollectConfig as schema
    elif command == "skills":
        from skillmeta.programs.pretrain import PretrainConfig as schema
    elif command == "evaluate":
        from skillmeta.programs.evaluate import EvaluateConfig as schema
    elif command in ("tasks", "adapt"):
        from skillmeta.tasks.base import TaskConfig as schema
    else:
        from skillmeta.programs.ablate import AblationConfig as schema
    return keys(schema, {})
