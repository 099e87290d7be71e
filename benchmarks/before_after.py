"""What runs of the maze cost before and now: `python benchmarks/before_after.py CHECKOUT [--env-steps 60000]`.

CHECKOUT is a checkout of another version of this project, e.g. `git worktree add ../before 6038da4`, whose `reproduce maze` has
90 runs of three methods. A part of it is run by both versions in turn, with the same Python: logs, a short pretraining, and each
method on one goal to the end, final evaluation and page included. CPU time of the process and its children; one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

METHODS = ("maze_sac", "maze_skill_sac", "maze_spirl")
NOW = Path(__file__).parents[1]


def cpu_seconds(checkout: Path, logs: Path, *arguments: str) -> float:
    """CPU time of a command of a checkout. Raises SystemExit with what it printed if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "MINARI_DATASETS_PATH": str(logs)}
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
    parser.add_argument("--env-steps", type=int, default=60_000, help="of each run; the whole has 200,000")
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    arguments = parser.parse_args()
    versions = {"before": arguments.checkout.resolve(), "now": NOW}
    used: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: Path(scratch) / name for name in versions}
        for name, checkout in versions.items():
            logs = folders[name] / "logs"
            logs.mkdir(parents=True)
            cpu_seconds(checkout, logs, "collect", "pretrain/maze_logs", "expert.steps=300_000")
            steps = ["training.steps=300", "training.held_out_every=100", "quality.episodes=1"]
            out = str(folders[name] / "skills")
            used.setdefault("skills", {})[name] = cpu_seconds(
                checkout, logs, "skills", "pretrain/maze", *steps, "--out", out
            )
        for method in METHODS:
            for name, checkout in versions.items():
                skills = [] if method == "maze_sac" else [f"skills={folders[name] / 'skills'}"]
                budget = [f"env_steps={arguments.env_steps}", "max_episodes=null", "algorithm.compile=true"]
                out = ["--out", str(folders[name] / method)]
                used.setdefault(method, {})[name] = cpu_seconds(
                    checkout, folders[name] / "logs", "finetune", f"downstream/{method}", *skills, *budget, *out
                )
                print(f"{method:<16} {name:<7} {used[method][name]:7.1f} s of CPU time", flush=True)
    runs = [used[method] for method in METHODS]
    total = {name: sum(run[name] for run in runs) for name in versions}
    print(
        f"runs together: {total['now']:.0f} s of CPU time, {total['now'] / total['before']:.2f} of {total['before']:.0f} s"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(used, indent=1))


if __name__ == "__main__":
    main()
