"""What every preset gave when its version was set: `python -m tests.tasks.golden` writes golden.json anew, and what
`skillmeta tasks` lists of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from downstream.tasks import looked_at
from skillmeta.config import build, config_dir, list_configs, load, to_plain
from skillmeta.tasks.base import TaskConfig, TaskFamily, make_family

FILE = Path(__file__).with_name("golden.json")
LISTED = config_dir() / "tasks" / "listed.json"
PRESETS = [name.removeprefix("tasks/") for name in list_configs() if name.startswith("tasks/")]
STEPS = 5


def family_of(preset: str) -> TaskFamily:
    return make_family(build(TaskConfig, load(f"tasks/{preset}"), "task"))


def rounded(value: Any) -> Any:
    """Floats to six digits: the last bits are the mathematics library's."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def actions(space: Any, count: int) -> list[Any]:
    """The same actions everywhere: numpy's legacy generator is frozen."""
    legacy = np.random.RandomState(0)
    if isinstance(space, Box):
        return [legacy.uniform(space.low, space.high).astype(np.float32) for _ in range(count)]
    return [int(legacy.randint(space.n)) for _ in range(count)]


def observed(family: TaskFamily) -> dict[str, Any]:
    """The first tasks of each split, and what happens in the first of them."""
    env = family.make_env()
    observation, _ = env.reset(seed=0, options={"task": family.tasks("train")[0]})
    rewards, sums = [], [float(np.abs(observation).sum())]
    for action in actions(env.action_space, STEPS):
        observation, reward, *_ = env.step(action)
        rewards.append(float(reward))
        sums.append(float(np.abs(observation).sum()))
    env.close()
    return {
        "version": family.version,
        "tasks": {split: rounded([to_plain(task) for task in tasks[:2]]) for split, tasks in family.splits.items()},
        "counts": {split: len(tasks) for split, tasks in family.splits.items()},
        "rewards": rounded(rewards),
        "observation_sums": rounded(sums),
    }


if __name__ == "__main__":
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    listed = json.loads(LISTED.read_text()) if LISTED.exists() else {}
    for preset in sys.argv[1:] or PRESETS:
        known[preset] = observed(family_of(preset))
        listed[preset] = looked_at(load(f"tasks/{preset}"))
        print(preset, known[preset]["rewards"])
    FILE.write_text(json.dumps({name: known[name] for name in sorted(known) if name in PRESETS}, indent=1) + "\n")
    LISTED.write_text(json.dumps({name: listed[name] for name in sorted(listed) if name in PRESETS}, indent=1) + "\n")
