"""Plain SAC against stable-baselines3's on a standard task, and what bfloat16 costs: curves, not speed.

`python benchmarks/learning.py --out results/sac` (about ten minutes on two cores). Equal sizes, learning rates, batch, warm-up and
updates; the same number of environment steps; several seeds; mean and 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import gymnasium as gym
import numpy as np
import torch

from skillmeta.algorithms import sac
from skillmeta.collect.source import Budget, OnlineSource
from skillmeta.collect.workers import Workers
from skillmeta.envs.serial import SerialEnvs
from skillmeta.evaluation.curves import Curve
from skillmeta.evaluation.statistics import Scores, estimate
from skillmeta.objectives.regularizer import RegularizerConfig
from skillmeta.reports import html, plots
from skillmeta.run.run import environment
from skillmeta.seeds import Seeds

TASK, STEPS, WARM_UP, WIDTH, BATCH, RATE = "Pendulum-v1", 10_000, 1_000, 64, 128, 1e-3
WINDOW = 5  # episodes


@dataclass(frozen=True)
class Learned:
    """One run: the return of each training episode, and where it ended."""

    method: str
    seed: int
    env_steps: list[int]
    returns: list[float]
    seconds: float


def ours(seed: int, bfloat16: bool) -> tuple[list[int], list[float]]:
    config = sac.Config(
        regularizer=RegularizerConfig(learning_rate=RATE),
        hidden=WIDTH,
        batch_size=BATCH,
        learning_rate=RATE,
        random_decisions=WARM_UP,
        replay_capacity=STEPS,
        bfloat16=bfloat16,
    )
    with Workers(lambda num: SerialEnvs(lambda: gym.make(TASK), num)) as workers:
        learner = sac.Learner(config, workers.envs(1).spec, None, Seeds(seed))
        source = OnlineSource(workers, lambda generator: None, Seeds(seed), Budget(STEPS))
        steps, returns = [], []
        while not source.spent:
            learner.iterate(source)
            steps.append(source.env_steps)
            returns.append(source.scores()["return"])
    return steps, returns


def theirs(seed: int) -> tuple[list[int], list[float]]:
    from stable_baselines3 import SAC
    from stable_baselines3.common.monitor import Monitor

    env = Monitor(gym.make(TASK))
    settings = {
        "batch_size": BATCH,
        "learning_rate": RATE,
        "learning_starts": WARM_UP,
        "policy_kwargs": {"net_arch": [WIDTH, WIDTH]},
    }
    SAC("MlpPolicy", env, seed=seed, device="cpu", **settings).learn(STEPS)
    return np.cumsum(env.get_episode_lengths()).tolist(), env.get_episode_rewards()


METHODS = {
    "skillmeta, float32": lambda seed: ours(seed, False),
    "skillmeta, bfloat16": lambda seed: ours(seed, True),
    "stable-baselines3": theirs,
}


def run(job: tuple[str, int]) -> Learned:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    method, seed = job
    start = time.perf_counter()
    steps, returns = METHODS[method](seed)
    print(f"{method}, seed {seed}: {np.mean(returns[-10:]):.0f} in {time.perf_counter() - start:.0f} s", flush=True)
    return Learned(method, seed, steps, returns, time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/sac"))
    arguments = parser.parse_args()
    jobs = [(method, seed) for seed in range(arguments.seeds) for method in METHODS]
    with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
        learned = pool.map(run, jobs, chunksize=1)
    curves, rows = {}, []
    for method in METHODS:
        runs = [one for one in learned if one.method == method]
        running = [np.convolve(one.returns, np.ones(WINDOW) / WINDOW, "valid") for one in runs]
        curves[method] = Curve(np.array(runs[0].env_steps[WINDOW - 1 :]), np.stack(running, 1)[:, :, None])
        final = np.array([[np.mean(one.returns[-10:])] for one in runs])
        rows.append([method, estimate(Scores(final)).text(".0f"), f"{np.mean([one.seconds for one in runs]):.0f}"])
    figure = plots.curves_figure(
        curves, plots.palette(list(METHODS)), "environment steps", f"return (last {WINDOW} episodes)"
    )
    where = environment(f"python benchmarks/learning.py --seeds {arguments.seeds}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    plots.save_png(figure, arguments.out / "return.png")
    text = [
        f"{TASK}, {STEPS:,} steps, {arguments.seeds} seeds; 2 x {WIDTH} units, batch {BATCH}, learning rate {RATE}, "
        f"one update a step after {WARM_UP:,} random steps. Training return, exploration on. Final: mean of the last ten episodes."
    ]
    table = html.Table(["SAC", "final return [95 % interval]", "seconds"], rows)
    caption = "Mean and 95 % interval over training seeds."
    section = html.Section("Learning", text, table, [html.Picture(plots.to_svg(figure, "sac"), caption)])
    again = html.Section(
        "How to make this again",
        [f"{where['machine']['cpu']}, one thread a run; {where['versions']}"],
        code=where["command"],
    )
    lead = [
        "With the uniform prior and primitive actions, the algorithm is plain SAC: it learns as stable-baselines3's does."
    ]
    html.write(arguments.out / "report.html", "SAC, and what bfloat16 costs", lead, [section, again])
    data = {**where, "runs": [vars(one) for one in learned], "table": rows}
    (arguments.out / "runs.json").write_text(json.dumps(data))
    print("\n".join("  ".join(row) for row in rows))


if __name__ == "__main__":
    main()
