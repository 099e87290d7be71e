"""`skillmeta config list` and `skillmeta config show NAME [key=value ...]`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="skillmeta config", description="The configs that come with the package.")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="their names")
    show = actions.add_parser("show", help="one of them, with its bases and your changes merged")
    show.add_argument("config")
    show.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args(argv)
    from skillmeta.config import config_dir, dump_yaml, list_configs, load

    if arguments.action == "list":
        print(f"in {config_dir()}:")
        print("\n".join(f"  {name}" for name in list_configs()))
    else:
        print(dump_yaml(load(arguments.config, arguments.overrides)), end="")
    return 0
