"""What saving costs a run: `python benchmarks/checkpoints.py [--interval 30] [--checkpoints 4]`.

PEARL on 100 tasks (configs/meta/pearl_cheetah_vel) whose replays of 50,000 transitions are full learns for an interval, then saves
twice: everything, as a first checkpoint does, and what is new since the last one, as every other does. Synced to the disk.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from skillmeta.collect.source import Budget, OnlineSource
from skillmeta.collect.workers import Workers
from skillmeta.config import load
from skillmeta.envs.make import EnvsFactory
from skillmeta.programs.train import make_learner
from skillmeta.programs.train_config import train_config
from skillmeta.run.checkpoint import save_state
from skillmeta.run.files import remove
from skillmeta.run.parts import state_of
from skillmeta.run.rows import Written
from skillmeta.seeds import Seeds
from skillmeta.tasks.base import make_family
from skillmeta.types import State

CONFIG = Path(__file__).parents[1] / "configs" / "meta" / "pearl_cheetah_vel.yaml"


def saved(folder: Path, state: State, before: Written | None) -> tuple[float, int]:
    """Seconds, and bytes that were written: of files that no other checkpoint has."""
    start = time.perf_counter()
    save_state(folder, state, before=before)
    seconds = time.perf_counter() - start
    sizes = [path.stat() for path in folder.iterdir()]
    return seconds, sum(size.st_size for size in sizes if size.st_nlink == 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interval", type=float, default=30.0, help="seconds between two checkpoints")
    parser.add_argument("--checkpoints", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = train_config(load(CONFIG), "meta-train")
    family, generator = make_family(config.task), torch.Generator().manual_seed(0)
    workers = Workers(EnvsFactory(config.task), envs_per_batch=config.envs_per_batch)
    with workers, tempfile.TemporaryDirectory(dir=".") as place:
        learner = make_learner(config, workers.envs(1).spec, None, Seeds(0))
        for replay in learner.replays:
            for column in replay.columns:
                column.normal_(generator=generator)
            replay.added = replay.capacity
        source = OnlineSource(workers, lambda g: family.sample(g, config.task.split), Seeds(0), Budget(10**9))
        learner.iterate(source)  # the first one visits every task
        before = Written.of(Path(place) / "0", state_of(learner.parts()))
        save_state(before.folder, state_of(learner.parts()))
        print(f"{'whole':>24} {'what is new':>24} {'new rows':>10} {'of the time':>18}", flush=True)
        for number in range(1, options.checkpoints + 1):
            begin, rows = time.perf_counter(), source.cost()["decisions"]
            while time.perf_counter() - begin < options.interval:
                learner.iterate(source)
            state, spent = state_of(learner.parts()), time.perf_counter() - begin
            whole = saved(Path(place) / "whole", state, None)
            remove(Path(place) / "whole")
            new = saved(Path(place) / str(number), state, before)
            remove(before.folder)
            before = Written.of(Path(place) / str(number), state)
            shares = [seconds / (spent + seconds) for seconds, _ in (whole, new)]
            columns = [f"{seconds:7.2f} s {size / 1e6:9.1f} MB" for seconds, size in (whole, new)]
            added = source.cost()["decisions"] - rows
            print(f"{columns[0]:>24} {columns[1]:>24} {added:10,} {shares[0]:8.1%} -> {shares[1]:.2%}", flush=True)


if __name__ == "__main__":
    main()
