"""How fast task families step, on this machine: `python benchmarks/tasks.py [--only native mujoco workers] [--json FILE]`.

Arrays of environments are driven through the same `Envs` as everything else. MuJoCo families are stepped in turn with
Gymnasium's bare environments, and the ratio is of the fastest rounds. Whole-episode workers run the same trials by one process
and by two.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

os.environ["OMP_NUM_THREADS"] = "1"

import gymnasium
import numpy as np
import torch

from skillmeta.algorithms import sac
from skillmeta.collect.workers import Workers
from skillmeta.config import build, load
from skillmeta.envs.make import EnvsFactory, make_envs
from skillmeta.run.run import environment
from skillmeta.seeds import Seeds
from skillmeta.tasks.base import TaskConfig, TaskFamily, make_family
from skillmeta.types import EnvSpec

NATIVE = ("point_robot", "point_robot_sparse", "navigation", "bandit_5", "bandit_50", "tabular")
BARE = {
    "cheetah_vel": ("HalfCheetah-v5", {}),
    "ant_dir": ("Ant-v5", {"include_cfrc_ext_in_observation": False}),
    "humanoid_dir": ("Humanoid-v5", {}),
    "walker_params": ("Walker2d-v5", {}),
    "hopper_params": ("Hopper-v5", {}),
}


@dataclass(frozen=True)
class Figure:
    """One measured quantity, and what it is held against."""

    name: str
    value: float
    unit: str
    bar: float  # at least
    detail: str


def task_config(preset: str) -> TaskConfig:
    return build(TaskConfig, load(f"tasks/{preset}"), "task")


def native(num: int = 2048, seconds: float = 1.0) -> list[Figure]:
    figures = []
    for preset in NATIVE:
        family = make_family(task_config(preset))
        envs, generator = make_envs(family, num), np.random.default_rng(0)
        tasks = [family.sample(generator) for _ in range(num)]
        actions = generator.uniform(-1, 1, (num, envs.spec.action_dim)).astype(np.float32)
        envs.reset(range(num), tasks)
        steps, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            envs.reset(range(num), tasks)
            for _ in range(family.max_episode_steps):
                steps += int(envs.step(actions).steps.sum())
        rate = steps / (time.perf_counter() - started)
        figures.append(Figure(preset, rate, "steps/s", 500_000, f"{num} environments in lockstep, resets counted"))
    return figures


def seconds_of(env: gymnasium.Env, actions: np.ndarray) -> float:
    env.reset(seed=0)
    started = time.perf_counter()
    for action in actions:
        env.step(action)
    return time.perf_counter() - started


def mujoco_families(rounds: int = 15) -> list[Figure]:
    figures = []
    for preset, (bare_id, kwargs) in BARE.items():
        family: TaskFamily = make_family(task_config(preset))
        ours, bare = family.make_env(), gymnasium.make(bare_id, **kwargs).unwrapped
        shape = bare.action_space.shape
        assert shape is not None
        actions = np.random.default_rng(0).uniform(-0.4, 0.4, (200, *shape)).astype(np.float32)
        times = [(seconds_of(ours, actions), seconds_of(bare, actions)) for _ in range(rounds)]
        mine, theirs = (min(column) for column in zip(*times, strict=True))
        detail = f"{200 / mine:,.0f} steps/s, Gymnasium's bare {bare_id} {200 / theirs:,.0f}"
        figures.append(Figure(preset, theirs / mine, "of the bare environment's speed", 0.9, detail))
    return figures


def workers(tasks: int = 24, rounds: int = 3) -> list[Figure]:
    """Trials of one episode in Meta-World's reach by a policy of 2 x 256 units."""
    config = task_config("metaworld_ml1_reach")
    family = make_family(config)
    actor = sac.Learner(sac.Config(), EnvSpec(39, np.ones(4, np.float32)), None, Seeds(0)).actor()
    chosen = family.tasks("train")[:tasks]
    seeds = np.arange(tasks)[:, None]
    times: dict[int, list[float]] = {1: [], 2: []}
    pools = {n: Workers(EnvsFactory(config), processes=n, envs_per_batch=tasks // 4) for n in times}
    for pool in pools.values():  # simulators are made once
        pool.trials(actor, chosen, seeds, Seeds(0).stream("acting"))
    for _ in range(rounds):
        for n, pool in pools.items():
            started = time.perf_counter()
            pool.trials(actor, chosen, seeds, Seeds(0).stream("acting"))
            times[n].append(time.perf_counter() - started)
    for pool in pools.values():
        pool.close()
    one, two = (min(times[n]) for n in (1, 2))
    detail = f"{tasks * 500 / one:,.0f} steps/s by one process, {tasks * 500 / two:,.0f} by two"
    return [Figure("metaworld_ml1_reach", one / two, "times one process's speed", 1.6, detail)]


def main() -> int:
    torch.set_num_threads(1)
    parts: dict[str, Callable[[], list[Figure]]] = {"native": native, "mujoco": mujoco_families, "workers": workers}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(parts), default=list(parts))
    parser.add_argument("--json", help="also write the figures to this file")
    arguments = parser.parse_args()
    figures: list[Figure] = []
    print("| family | measured | at least | |\n|---|---|---|---|")
    for name in arguments.only:
        for figure in parts[name]():
            figures.append(figure)
            mark = "" if figure.value >= figure.bar else " (missed)"
            print(
                f"| {figure.name} | {figure.value:,.2f} {figure.unit} | {figure.bar:,}{mark} | {figure.detail} |",
                flush=True,
            )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"figures": [asdict(f) for f in figures], "machine": environment("")["machine"]}, file, indent=1)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
