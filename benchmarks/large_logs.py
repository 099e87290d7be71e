"""What a log that is larger than memory takes: `python benchmarks/large_logs.py FOLDER [--gigabytes 20] [--cut 2]`.

FOLDER gets a log of random numbers in D4RL's layout, which no compression makes smaller, a cut of it, and their converted
arrays: twice their size together, deleted at the end without `--keep`. Each command runs in a process of its own, whose anonymous
memory is looked at twenty times a second; compare it with that of the command on a log of a thousand steps. Windows of 10 steps
are drawn in batches of 128: from pages that were dropped from memory (cold), from pages that were all read before (warm), and from
arrays in memory. Those of the cut in turns, so that what else the machine does is shared.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch

from skillmeta.data.windows import Windows
from skillmeta.limits import MAP_ABOVE

OBSERVATION, ACTION, HORIZON, BATCH = 60, 9, 10, 128
ROW = 4 * (OBSERVATION + ACTION + 1) + 2  # bytes of a step
ROOT = Path(__file__).parents[1]


def write_log(path: Path, steps: int, episodes: int) -> Path:
    """Episodes of about the same length, without compression. A shorter log begins as a longer one."""
    rng = np.random.default_rng(0)
    shapes = {"observations": (steps, OBSERVATION), "actions": (steps, ACTION), "rewards": (steps,)}
    last = np.linspace(0, steps, episodes + 1).astype(int)[1:] - 1
    with h5py.File(path, "w") as file:
        data = {name: file.create_dataset(name, shape, np.float32) for name, shape in shapes.items()}
        file.create_dataset("terminals", data=np.zeros(steps, bool))
        file.create_dataset("timeouts", data=np.isin(np.arange(steps), last))
        for begin in range(0, steps, 2**16):
            for name, values in data.items():
                rows = min(2**16, steps - begin)
                values[begin : begin + rows] = 2 * rng.random((rows, *shapes[name][1:]), np.float32) - 1
    return path


class Measured(NamedTuple):
    numbers: dict[str, float]
    said: str


def measured(cache: Path, name: str, *arguments: str) -> Measured:
    """Time and anonymous memory of a command. Raises SystemExit with what it says if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "SKILLMETA_CACHE": str(cache)}
    begin, most = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT
        )
        while not (ended := os.wait4(child.pid, os.WNOHANG))[0]:
            anonymous = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{child.pid}/status").read_text())
            most = max(most, int(anonymous[1]) if anonymous else 0)
            time.sleep(0.05)
        said.seek(0)
        text = said.read()
    if ended[1]:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{text[-2000:]}")
    seconds, cpu = time.perf_counter() - begin, ended[2].ru_utime + ended[2].ru_stime
    print(
        f"{name:<40} {seconds:8.1f} s, {cpu:8.1f} s of CPU time, {most / 1024:8.0f} MiB of anonymous memory", flush=True
    )
    return Measured({"seconds": seconds, "cpu_seconds": cpu, "anonymous_mib": most / 1024}, text)


def drop(folder: Path) -> None:
    """Drop the pages of files that no process has mapped from memory."""
    for path in folder.rglob("*.npy"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def windows(log: str, cut: str, seconds: float) -> None:
    """Windows a second, as JSON on standard output."""
    from skillmeta.data.sources import load_source

    torch.set_num_threads(1)

    def rate(source: Windows, generator: torch.Generator, seconds: float) -> float:
        begin, drawn = time.perf_counter(), 0
        while (passed := time.perf_counter() - begin) < seconds:
            source.sample(BATCH, generator)
            drawn += BATCH
        return drawn / passed

    generator, found = torch.Generator().manual_seed(0), {}
    for name, source in (("log", log), ("cut", cut)):
        dataset = load_source(source, map_above=0)
        drop(Path(os.environ["SKILLMETA_CACHE"]))
        found[f"{name}, mapped, cold"] = rate(dataset.windows(HORIZON, "train"), generator, seconds)
    held, mapped = load_source(cut, map_above=10**15).windows(HORIZON, "train"), dataset.windows(HORIZON, "train")
    for column in (mapped.observation, *mapped.columns):
        column.sum()  # reads every page
    rates = [(rate(held, generator, seconds / 5), rate(mapped, generator, seconds / 5)) for _ in range(15)]
    found["cut, in memory"], found["cut, mapped, warm"] = (
        statistics.median(column) for column in zip(*rates, strict=True)
    )
    found["ratio"] = statistics.median(there / here for here, there in rates)
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=20, help="of the log, 10^9 bytes each")
    parser.add_argument("--cut", type=float, default=2, help="of the cut, which is mapped, too")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--updates", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a measurement of windows")
    parser.add_argument("--keep", action="store_true", help="keep the logs, for another run")
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    parser.add_argument("--windows", nargs=2, metavar="LOG", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.windows:
        windows(*arguments.windows, arguments.seconds)
        return
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    cache, logs = folder / "cache", {}
    sizes = {"tiny": 1_000, "cut": int(arguments.cut * 1e9 / ROW), "log": int(arguments.gigabytes * 1e9 / ROW)}
    for name, steps in sizes.items():
        logs[name] = folder / f"{name}-{steps}.hdf5"
        if not logs[name].exists():
            write_log(logs[name], steps, 5 if name == "tiny" else arguments.episodes)
    above = min(MAP_ABOVE, int(arguments.gigabytes * 1e9) // 2)
    updates = ["task=null", f"training.steps={arguments.updates}", f"map_above={above}"]

    def skills(name: str) -> list[str]:
        out = folder / f"skills-{name}"
        shutil.rmtree(out, ignore_errors=True)
        return ["-m", "skillmeta.cli", "skills", "pretrain/maze", f"source={logs[name]}", *updates, "--out", str(out)]

    shutil.rmtree(cache, ignore_errors=True)
    inspect = ["-m", "skillmeta.cli", "inspect", "--json", "--map-above", str(above)]
    commands = {
        "inspect, a thousand steps": [*inspect, str(logs["tiny"])],
        f"{arguments.updates:,} updates, a thousand steps": skills("tiny"),
        "inspect, which converts": [*inspect, str(logs["log"])],
        "inspect again": [*inspect, str(logs["log"])],
        f"{arguments.updates:,} updates": skills("log"),
    }
    found = {name: measured(cache, name, *command) for name, command in commands.items()}
    assert found["inspect, which converts"].said == found["inspect again"].said
    rest = ("--windows", str(logs["log"]), str(logs["cut"]), "--seconds", str(arguments.seconds))
    rates = json.loads(measured(cache, "windows", __file__, str(folder), *rest).said.splitlines()[-1])
    for name, value in rates.items():
        print(f"{name:<40} {value:12,.2f}" if name == "ratio" else f"{name:<40} {value:12,.0f} windows a second")
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"commands": {n: one.numbers for n, one in found.items()}, "windows": rates}, indent=1)
        )
    if not arguments.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
