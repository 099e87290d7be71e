"""What a meta-update costs, on one thread: `python benchmarks/meta.py [--peers DIR] [--only NAME ...] [--json FILE]`.

MAML and PEARL are held against pytorch-maml-rl's and oyster's own update at the same sizes: run in turn with ours where DIR holds
clones of both (see peers.py), otherwise figures of theirs from an AMD EPYC. RL2 is held against sb3-contrib's RecurrentPPO in the
same run, where that is installed (`pip install --no-deps sb3-contrib`).
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
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import peers
import torch

from skillmeta.algorithms import maml, pearl, rl2
from skillmeta.collect.source import Budget, OnlineSource
from skillmeta.collect.workers import Workers
from skillmeta.envs.make import EnvsFactory
from skillmeta.objectives.inner_step import Samples, Shape, policy_of, stack
from skillmeta.run.run import environment
from skillmeta.seeds import Seeds
from skillmeta.tasks.base import TaskConfig, make_family
from skillmeta.types import EnvSpec

CHEETAH = EnvSpec(20, np.ones(6, np.float32))  # MAML's and PEARL's HalfCheetah


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


def in_turn(
    ours: Callable[[], object], theirs: Callable[[], None] | None, rounds: int
) -> tuple[list[float], list[float]]:
    """CPU seconds of every call; by turns, so that a slow minute of the machine is slow for both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for update in (ours, theirs):
        if update is not None:
            update()  # the first call allocates
    for _ in range(rounds):
        for update, taken in zip((ours, theirs), seconds, strict=True):
            if update is not None:
                began = time.process_time()
                update()
                taken.append(time.process_time() - began)
    return seconds


def maml_update(folder: Path | None, rounds: int = 5) -> list[Figure]:
    """Gradient, ten conjugate gradients, line search: 40 tasks, 2000 transitions before and after, 20-64-64-6."""
    second, its_peer = in_turn(maml_step(False), peers.maml_rl_update(folder, False) if folder else None, rounds)
    first, _ = in_turn(maml_step(True), None, rounds)
    theirs = statistics.median(its_peer) if folder else 6.6
    source = "in turn" if folder else "on an EPYC"
    figures = []
    for name, taken, bar in (("MAML with TRPO", second, 5.6), ("FO-MAML with TRPO", first, 1.4)):
        ratio, bar = statistics.median(taken) / theirs, bar / 6.6
        detail = f"{statistics.median(taken):.2f} s at 40 x 2000 x 2; its step of second order {theirs:.2f} {source}"
        figures.append(Figure(name, ratio, "of pytorch-maml-rl's CPU time", f"at most {bar:.2f}", ratio <= bar, detail))
    return figures


def maml_step(first_order: bool) -> Callable[[], object]:
    config = maml.Config(tasks=40, first_order=first_order)
    shape = Shape(20, 6)
    start = shape.start(torch.Generator().manual_seed(0))
    before, after = (cheetah_samples(shape, start, 40, 2000, seed) for seed in (1, 2))
    return lambda: maml.Problem(shape, config, start, before, after, torch.zeros(40)).step()


def pearl_update(folder: Path | None, rounds: int = 25) -> list[Figure]:
    """cheetah-vel's sizes: 16 tasks x 256, context 100, three layers of 300, of the encoder 200."""
    theirs = peers.oyster_update(folder) if folder else None
    return [pearl_speed(False, 1.15, theirs, rounds), pearl_speed(True, 2.5, theirs, rounds)]


def pearl_speed(bfloat16: bool, bar: float, theirs: Callable[[], None] | None, rounds: int) -> Figure:
    config = pearl.Config(
        training_tasks=16, tasks=16, batch_size=256, context_size=100, hidden=300, encoder_hidden=200, depth=3,
        replay_capacity=2000, context_capacity=2000, bfloat16=bfloat16,
    )  # fmt: skip
    learner = pearl.Learner(config, CHEETAH, None, Seeds(0))
    generator = torch.Generator().manual_seed(0)
    for buffer in (*learner.replays, *(visits.buffer for visits in learner.contexts)):
        for name in ("observation", "action", "reward", "next_observation"):
            getattr(buffer.columns, name).normal_(generator=generator)
        buffer.added = 2000
    for visits in learner.contexts:
        visits.marks = [[0, 2000]]  # one, all of which is shown
    own, its = in_turn(lambda: learner.step(learner.draw(), learner.bound.device), theirs, rounds)
    ratio = statistics.median(b / a for a, b in zip(own, its or [0.503] * rounds, strict=True))
    source = f"{1000 * statistics.median(its):.0f} in turn" if its else "503 on an EPYC"
    detail = f"{1000 * statistics.median(own):.0f} ms of CPU time, oyster {source}"
    name = "PEARL, bfloat16" if bfloat16 else "PEARL, float32"
    if bfloat16 and not torch.cpu._is_avx512_bf16_supported():
        detail += "; this CPU has no bfloat16 and emulates it"
    return Figure(name, ratio, "times oyster's speed", f"at least {bar}", ratio >= bar, detail)


def rl2_samples(folder: Path | None, iterations: int = 4) -> list[Figure]:
    """HalfCheetah, 16 trials of 400 decisions, GRU of 128, five epochs of four minibatches; samples a second, sampling counted."""
    config = TaskConfig("half_cheetah", split="train", options={"max_episode_steps": 200})
    family = make_family(config)
    sizes = rl2.Config(episodes=2, tasks=16, hidden=128, epochs=5, minibatches=4)
    with Workers(EnvsFactory(config), envs_per_batch=16) as workers:
        learner = rl2.Learner(sizes, workers.envs(16).spec, None, Seeds(0))
        source = OnlineSource(workers, family.sample, Seeds(0), Budget(10**9))
        learner.iterate(source)
        began, steps = time.perf_counter(), source.env_steps
        for _ in range(iterations):
            learner.iterate(source)
        ours = (source.env_steps - steps) / (time.perf_counter() - began)
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
    parts: dict[str, Callable[[Path | None], list[Figure]]] = {
        "maml": maml_update,
        "pearl": pearl_update,
        "rl2": rl2_samples,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(parts), default=list(parts))
    parser.add_argument("--peers", type=Path, help="folder with clones of pytorch-maml-rl and oyster")
    parser.add_argument("--json", help="also write the figures to this file")
    arguments = parser.parse_args()
    figures: list[Figure] = []
    print("| method | measured | held against | |\n|---|---|---|---|")
    for name in arguments.only:
        for figure in parts[name](arguments.peers):
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
