"""What a meta-update costs, on one thread: `python benchmarks/meta.py [--only NAME ...] [--json FILE]`.

MAML and PEARL are held against figures of pytorch-maml-rl's and oyster's own update at the same sizes, measured on a machine of
this kind (neither installs any more); RL2 against sb3-contrib's RecurrentPPO in the same run, where that is installed
(`pip install --no-deps sb3-contrib`).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

from skillmeta.algorithms import maml, pearl, rl2
from skillmeta.environments import EnvsFactory
from skillmeta.rl.inner import Samples, Shape, flat, policy_of, stack
from skillmeta.rl.meta import MetaCollector
from skillmeta.rl.on_policy import trust_region_step
from skillmeta.rl.workers import Workers
from skillmeta.run.run import environment
from skillmeta.tasks.base import TaskConfig, make_family


@dataclass(frozen=True)
class Figure:
    """One measured quantity, and what it is held against."""

    name: str
    value: float
    unit: str
    bar: str
    holds: bool
    detail: str


def cheetah_samples(shape: Shape, start: tuple[torch.Tensor, ...], tasks: int, count: int, seed: int) -> Samples:
    """Random decisions of HalfCheetah's sizes."""
    generator = torch.Generator().manual_seed(seed)
    observation = torch.randn(tasks, count, shape.observation_dim, generator=generator)
    action = torch.randn(tasks, count, shape.action_dim, generator=generator)
    advantage = torch.randn(tasks, count, generator=generator)
    nothing = torch.zeros(tasks, count, shape.action_dim)
    made = Samples(observation, action, advantage, advantage, torch.ones(tasks, count), nothing, nothing)
    with torch.no_grad():
        return made._replace(log_prob=policy_of(shape, stack(start, tasks), made).log_prob(action))


def maml_update(rounds: int = 3) -> list[Figure]:
    """Gradient, ten conjugate gradients, line search: 40 tasks, 2000 transitions before and after, 20-64-64-6."""
    figures = []
    for first_order, bar in ((False, 5.6), (True, 1.4)):
        config = maml.Config(tasks=40, first_order=first_order)
        shape = Shape(20, 6)
        start = shape.start(torch.Generator().manual_seed(0))
        before, after = (cheetah_samples(shape, start, 40, 2000, seed) for seed in (1, 2))
        times = []
        for _ in range(rounds):
            began = time.process_time()
            problem = maml.Problem(shape, config, start, before, after, torch.zeros(40))
            gradient, product = problem.gradient_and_curvature()
            trust_region_step(flat(start), gradient, product, problem.judge, config.radius)
            times.append(time.process_time() - began)
        seconds = statistics.median(times)
        name = "FO-MAML with TRPO" if first_order else "MAML with TRPO"
        peer = "" if first_order else "; pytorch-maml-rl's own step: 6.6"
        figures.append(
            Figure(name, seconds, "CPU s an update", f"at most {bar}", seconds <= bar, f"40 x 2000 x 2{peer}")
        )
    return figures


def pearl_update(rounds: int = 15) -> list[Figure]:
    """cheetah-vel's sizes: 16 tasks x 256, context 100, three layers of 300. Oyster's own update: 471 ms of CPU time at best."""
    return [pearl_speed(False, 1.15, rounds), pearl_speed(True, 2.5, rounds)]


def pearl_speed(bfloat16: bool, bar: float, rounds: int) -> Figure:
    config = pearl.Config(
        training_tasks=16, tasks=16, batch_size=256, context_size=100, hidden=300, depth=3, replay_capacity=2000,
        context_capacity=2000, bfloat16=bfloat16,
    )  # fmt: skip
    agent = pearl.Agent(config, 20, np.ones(6, np.float32))
    generator = torch.Generator().manual_seed(0)
    for buffer in (*agent.replays, *agent.contexts):
        for name in ("observation", "action", "reward", "next_observation"):
            getattr(buffer.columns, name).normal_(generator=generator)
        buffer.added = 2000
    times = []
    for _ in range(rounds):
        began = time.process_time()
        agent.update()
        times.append(time.process_time() - began)
    best = 1000 * min(times)
    detail = f"{best:.0f} ms of CPU time at best, median {1000 * statistics.median(times):.0f}; oyster 471 and 503"
    name = "PEARL, bfloat16" if bfloat16 else "PEARL, float32"
    return Figure(name, 471 / best, "of oyster's speed", f"at least {bar}", 471 / best >= bar, detail)


def rl2_samples(iterations: int = 4) -> list[Figure]:
    """HalfCheetah, 16 trials of 400 decisions, GRU of 128, five epochs of four minibatches; samples a second, sampling counted."""
    config = TaskConfig("half_cheetah", split="train", options={"horizon": 200})
    family = make_family(config)
    agent = rl2.Agent(rl2.Config(episodes=2, tasks=16, hidden=128, epochs=5, minibatches=4), 17, np.ones(6, np.float32))
    with Workers(EnvsFactory(config), chunk=16) as workers:
        collect = MetaCollector(workers, lambda g: family.sample(g), 0, 10**9)
        agent.iterate(collect)
        began, steps = time.perf_counter(), collect.env_steps
        for _ in range(iterations):
            agent.iterate(collect)
        ours = (collect.env_steps - steps) / (time.perf_counter() - began)
    if importlib.util.find_spec("sb3_contrib") is None:
        return [Figure("RL2 with PPO", ours, "samples/s", "1.8 x RecurrentPPO", True, "sb3-contrib is not installed")]
    theirs = recurrent_ppo(2)
    detail = f"{ours:,.0f} samples/s, RecurrentPPO (LSTM 128, 8 x 400, batch 800, 5 epochs) {theirs:,.0f}"
    return [
        Figure("RL2 with PPO", ours / theirs, "of RecurrentPPO's speed", "at least 1.8", ours / theirs >= 1.8, detail)
    ]


def recurrent_ppo(iterations: int) -> float:
    """Samples a second of sb3-contrib's RecurrentPPO at the same sizes."""
    import gymnasium
    from sb3_contrib import RecurrentPPO
    from stable_baselines3.common.vec_env import DummyVecEnv

    envs = DummyVecEnv([lambda: gymnasium.make("HalfCheetah-v5")] * 8)
    sizes = {"lstm_hidden_size": 128, "shared_lstm": True, "enable_critic_lstm": False}
    model = RecurrentPPO(
        "MlpLstmPolicy", envs, n_steps=400, batch_size=800, n_epochs=5, policy_kwargs=sizes, device="cpu"
    )
    model.learn(3200)
    began = time.perf_counter()
    model.learn(3200 * iterations, reset_num_timesteps=True)
    return 3200 * iterations / (time.perf_counter() - began)


def main() -> int:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    parts: dict[str, Callable[[], list[Figure]]] = {"maml": maml_update, "pearl": pearl_update, "rl2": rl2_samples}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(parts), default=list(parts))
    parser.add_argument("--json", help="also write the figures to this file")
    arguments = parser.parse_args()
    figures: list[Figure] = []
    print("| method | measured | held against | |\n|---|---|---|---|")
    for name in arguments.only:
        for figure in parts[name]():
            figures.append(figure)
            mark = "" if figure.holds else " (missed)"
            print(
                f"| {figure.name} | {figure.value:.2f} {figure.unit} | {figure.bar}{mark} | {figure.detail} |",
                flush=True,
            )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"figures": [asdict(f) for f in figures], "machine": environment("")["machine"]}, file, indent=1)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
