"""What runs of the maze cost before and now: `python benchmarks/before_after.py CHECKOUT [key=value ...]`.

CHECKOUT is a checkout of another version of this project, e.g. `git worktree add ../before 6038da4`, whose `reproduce maze` is
the 90 runs of `maze_90.yaml`. Both versions run a part of them with the same Python: logs, a short pretraining, each method to the
end, final evaluations and pages included. CPU time of the process and its children; one thread, one worker. The part is a stated
set of overrides, by default two goals of ten, three seeds and 60,000 of 200,000 steps.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

NOW = Path(__file__).parents[1]
PART = (
    "tasks=[0,1]",
    "changes.env_steps=60000",
    "logs.expert.steps=300000",
    "skills.training.steps=300",
    "skills.training.held_out_every=100",
    "skills.quality.episodes=1",
)


def cpu_seconds(checkout: Path, *arguments: str) -> float:
    """CPU time of a command of a checkout. Raises SystemExit with what it printed if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "skillmeta.cli", *arguments]
    with tempfile.TemporaryFile("w+") as printed:
        child = subprocess.Popen(command, cwd=checkout, env=environment, stdout=printed, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(child.pid, 0)
        if status:
            printed.seek(0)
            raise SystemExit(f"{' '.join(command)} in {checkout} failed:\n{printed.read()[-2000:]}")
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="of the version before")
    parser.add_argument("overrides", nargs="*", default=PART, metavar="key=value", help=f"default: {' '.join(PART)}")
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    arguments = parser.parse_args()
    before = arguments.checkout.resolve()
    part, used = list(arguments.overrides), {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, checkout, what in (
            ("before", before, ["reproduce", "maze"]),
            ("now", NOW, ["ablate", str(NOW / "benchmarks" / "maze_90.yaml")]),
        ):
            used[name] = cpu_seconds(checkout, *what, *part, "--out", str(Path(scratch) / name), "--workers", "1")
            print(f"{name:<7} {used[name]:7.1f} s of CPU time", flush=True)
    print(f"now: {used['now'] / used['before']:.2f} of before")
    if arguments.json:
        arguments.json.write_text(json.dumps(used, indent=1))


if __name__ == "__main__":
    main()
