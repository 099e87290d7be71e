"""What a file that may be damaged or a stranger's can make a program take memory for. SECURITY.md states these numbers.

They are far above what anybody has used. Whoever needs more raises one here.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

NETWORK = 2**25  # parameters of one network: 128 MiB
JSON_BYTES = 2**25  # of one JSON file, and of one line of metrics
JSON_DEPTH = 64  # of mappings and lists in one another
YAML_BYTES = 2**17  # of a config in a folder; ours have a few thousand
SHRUNK = 200  # how many times its size a file of arrays may have in memory; no compression does that to real recordings
ARRAY_BYTES = 2**26  # that a file may promise whatever its size is
MAP_ABOVE = 2_000_000_000  # bytes of a log's arrays in memory; larger ones are mapped from files

SIZES = {  # keys of a config in a folder, by the ends of their names: the largest integer that they may have
    ("hidden", "dim", "context", "components", "arms", "receptive_field"): 8_192,  # units, and numbers of a vector
    ("depth", "layers"): 64,  # of a network
    ("horizon", "rollouts", "num_envs", "processes", "workers"): 10_000,  # steps of a skill; environments at once
    ("states", "actions", "view", "cells"): 200,  # of a tabular task; cells that are seen, or a side has
    ("tasks", "layouts", "episodes", "repeats", "size", "per_batch"): 100_000,  # what a list is made of
    ("episode_steps",): 1_000_000,  # primitive steps of an episode
    ("capacity",): 10_000_000,  # decisions that a buffer keeps
}


def largest(key: str) -> int | None:
    """The largest integer that a key of a config in a folder may have; None: any."""
    if key == "max_episodes":  # of training: nothing is made of so many
        return None
    for names, limit in SIZES.items():
        if any(key == name or fnmatchcase(key, f"*_{name}") for name in names):
            return limit
    return None
