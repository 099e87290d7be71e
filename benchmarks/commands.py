"""What commands cost before they do anything: `python benchmarks/commands.py [--repeats 5]`.

Each in a process of its own, files in the cache: the median of wall time and of CPU time, beside what they may take at most.
Exit status 1 if one takes more. Wall time is of an idle machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

COMMANDS = {  # command: at most, wall seconds or CPU seconds; None: measured alone
    ("--help",): ("wall", 0.5),
    ("tasks",): ("cpu", 5.0),
    ("config", "list"): ("cpu", None),
    ("finetune", "--help"): ("cpu", None),
    ("tasks", "cheetah_vel"): ("cpu", None),
}


def measured(arguments: tuple[str, ...]) -> dict[str, float]:
    """Wall and CPU seconds of one call."""
    before, began = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-m", "skillmeta.cli", *arguments], check=True, capture_output=True)
    wall, after = time.perf_counter() - began, os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall": wall, "cpu": spent}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--repeats", type=int, default=5, help="calls of each (default: 5), after one that is not counted"
    )
    repeats = parser.parse_args().repeats
    print("| command | wall s | CPU s | at most |\n|---|---|---|---|")
    over = False
    for arguments, (of, limit) in COMMANDS.items():
        measured(arguments)
        rows = [measured(arguments) for _ in range(repeats)]
        median = {key: statistics.median(row[key] for row in rows) for key in ("wall", "cpu")}
        over |= limit is not None and median[of] > limit
        allowed = "" if limit is None else f"{limit:g} s {'of CPU' if of == 'cpu' else 'of wall time'}"
        print(
            f"| `skillmeta {' '.join(arguments)}` | {median['wall']:.2f} | {median['cpu']:.2f} | {allowed} |",
            flush=True,
        )
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
