"""What one update of a stack costs a seed, beside a seed alone: `python benchmarks/stack.py [--json FILE]`.

SAC in skill space at sizes of the maze, on one CPU core: 4 observed numbers, 10 latent ones, two layers of 128 units, batches of
128; then 256 of each. CPU time, medians of rounds in turn, so that what else the machine does meets all alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from skillmeta.algorithms import sac
from skillmeta.nn.stack import Stack
from skillmeta.seeds import Seeds
from skillmeta.types import EnvSpec

SEEDS = (1, 2, 4, 8, 16)
ROWS, ROUNDS, UPDATES = 1000, 7, 10


def learner(units: int, seed: int) -> sac.Learner:
    config = sac.Config(hidden=units, batch_size=units, replay_capacity=ROWS)
    made = sac.Learner(config, EnvSpec(4, np.ones(10, np.float32)), None, Seeds(seed))
    columns = made.replay.columns
    for values in (columns.observation, columns.action, columns.reward, columns.next_observation):
        values.uniform_(-1, 1, generator=torch.Generator().manual_seed(seed))
    made.replay.added = ROWS
    return made


def cpu_ms(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return 1e3 * (time.process_time() - started) / UPDATES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {}
    for units in (128, 256):
        alone = learner(units, 0)
        stacks = {count: Stack([learner(units, seed) for seed in range(count)]) for count in SEEDS}
        works: dict[str, Callable[[], object]] = {"alone": lambda alone=alone: alone.learn(UPDATES)}  # type: ignore[misc]
        for count, stack in stacks.items():
            works[str(count)] = lambda stack=stack, count=count: stack.learn([UPDATES] * count)  # type: ignore[misc]
        times: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(ROUNDS):
            for name, work in works.items():
                times[name].append(cpu_ms(work) / (1 if name == "alone" else int(name)))
        medians = {name: statistics.median(each) for name, each in times.items()}
        for name, each in medians.items():
            print(
                f"{units} units, {name:>5}: {each:6.2f} ms a seed, {each / medians['alone']:.2f} of one alone",
                flush=True,
            )
        found[str(units)] = medians
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
