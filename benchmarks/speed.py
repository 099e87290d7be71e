"""How fast, on one thread: `python benchmarks/speed.py [--only NAME ...] [--json FILE]`.

Peers that install (stable-baselines3) are measured in the same process, in turn with ours, and the ratio is of medians. SPiRL's
own code no longer installs: its figures, on the same kind of machine, are constants below and are labelled as such.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass

os.environ["OMP_NUM_THREADS"] = "1"

import gymnasium as gym
import numpy as np
import torch

from skillmeta.algorithms import sac
from skillmeta.collect.episodes import episode
from skillmeta.data.episodes import from_episodes, single_episode
from skillmeta.data.replay import Replay
from skillmeta.envs.serial import SerialEnvs
from skillmeta.envs.skill_space import SkillEnvs
from skillmeta.evaluation.actors import PriorActor
from skillmeta.nn.optimizers import adam
from skillmeta.objectives.regularizer import RegularizerConfig
from skillmeta.run.run import environment
from skillmeta.seeds import Seeds
from skillmeta.skills.training import skill_losses
from skillmeta.skills.vae import SkillModel, SkillModelConfig
from skillmeta.tasks import maze
from skillmeta.types import EnvSpec

KITCHEN = {"observation_dim": 60, "action_dim": 9}  # SPiRL's kitchen: H = 10, Z = 10


@dataclass(frozen=True)
class Figure:
    """One measured quantity, and what it is held against."""

    name: str
    value: float
    unit: str
    bar: str
    peer: str = ""
    holds: bool | None = None


def medians(*functions: Callable[[], object], rounds: int = 30, warm: int = 5) -> list[float]:
    """Median milliseconds of each function, called in turn so that the machine's moods meet all of them alike."""
    for _ in range(warm):
        for function in functions:
            function()
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, seen in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            seen.append(1000 * (time.perf_counter() - start))
    return [statistics.median(seen) for seen in times]


def kitchen_model(generator: torch.Generator) -> SkillModel:
    ones = torch.ones(KITCHEN["action_dim"])
    return SkillModel(SkillModelConfig(), KITCHEN["observation_dim"], KITCHEN["action_dim"], -ones, ones, generator)


def kitchen_logs(steps: int = 137_000, length: int = 230) -> object:
    """Random logs of D4RL kitchen's size and shapes."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(steps // length):
        o = rng.normal(size=(length + 1, KITCHEN["observation_dim"])).astype(np.float32)
        a = rng.uniform(-1, 1, (length, KITCHEN["action_dim"])).astype(np.float32)
        flags = np.zeros(length, bool)
        episodes.append(single_episode(o, a, np.zeros(length, np.float32), flags, flags))
    return from_episodes(episodes, "random").windows(10, "train")


def pretraining() -> list[Figure]:
    """Batch fetch, and the whole update with it, at SPiRL's closed-loop kitchen sizes and batch 128."""
    generator = torch.Generator().manual_seed(0)
    model, windows = kitchen_model(generator), kitchen_logs()
    optimizer = adam(model.parameters(), 1e-3)

    def update() -> None:
        losses = skill_losses(model, windows.sample(128, generator), torch.randn(128, model.dim, generator=generator))
        optimizer.zero_grad()
        losses.total(4.5e-3).backward()
        optimizer.step()

    fetch, whole = medians(lambda: windows.sample(128, generator), update, rounds=60)
    rate = 128 / whole * 1000
    loader = "SPiRL 380; 3,200 without its loader (notes)"
    return [
        Figure("fetch of 128 windows", fetch, "ms", "< 1 ms", "SPiRL 300 ms (notes)", fetch < 1),
        Figure("pretraining, fetch included", rate, "windows/s", ">= 3,800", loader, rate >= 3800),
    ]


def filled(learner: sac.Learner, rows: int = 5000) -> sac.Learner:
    """The learner with random decisions in its replay."""
    g = torch.Generator().manual_seed(0)
    replay: Replay = learner.replay
    for column in replay.columns:
        column[:rows] = torch.randn(column[:rows].shape, generator=g).clamp(-1, 1)
    replay.columns.terminated[:rows] = 0
    replay.added = rows
    return learner


def guided(critic_depth: int, compile: bool, bfloat16: bool = False) -> sac.Learner:
    """SPiRL's kitchen learner: policy of the prior's size, critics of 256, batch 256."""
    model = kitchen_model(torch.Generator().manual_seed(0)).requires_grad_(False)
    config = sac.Config(
        regularizer=RegularizerConfig(prior="skill", target_divergence=5.0),
        policy_start="prior",
        hidden=256,
        policy_depth=3,
        critic_depth=critic_depth,
        batch_size=256,
        replay_capacity=10_000,
        compile=compile,
        bfloat16=bfloat16,
    )
    return filled(sac.Learner(config, EnvSpec(60, model.latent_bound.numpy()), model, Seeds(0)))


def guided_updates() -> list[Figure]:
    """Prior-regularised SAC: SPiRL's critics are 8 linear layers of 256 (7 hidden), ours by default 3 hidden ones."""
    learners = [guided(7, False), guided(7, True), guided(3, False), guided(3, True)]
    times = medians(*(lambda a=learner: a.learn(1) for learner in learners), rounds=25)
    return [
        Figure("SPiRL update, critics 7x256", times[0], "ms", "< 38 ms", "SPiRL 53 ms (notes)", times[0] < 38),
        Figure("the same, compiled", times[1], "ms", "< 38 ms", "SPiRL 53 ms (notes)", times[1] < 38),
        Figure("SPiRL update, critics 3x256", times[2], "ms", "", "", None),
        Figure("the same, compiled", times[3], "ms", "< 15 ms", "", times[3] < 15),
    ]


class Kitchen(gym.Env):
    """Kitchen's shapes without its physics."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (60,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (9,), np.float32)
        self._observation = np.zeros(60, np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._t = 0
        return self._observation, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._t += 1
        return self._observation, 0.0, False, self._t >= 280, {}


def acting() -> list[Figure]:
    """Milliseconds an environment step of the whole hierarchy at kitchen sizes, an environment of no cost."""
    actor = guided(3, False).actor()
    model = kitchen_model(torch.Generator().manual_seed(0)).requires_grad_(False)
    envs = SkillEnvs(SerialEnvs(Kitchen, unit_actions=False), model)
    generator = torch.Generator().manual_seed(0)
    (whole,) = medians(lambda: episode(actor, envs, None, [0], generator), rounds=15, warm=2)
    each = whole / 280
    return [Figure("acting, an environment step", each, "ms", "< 0.3 ms", "SPiRL 1.41 ms (notes)", each < 0.3)]


def skill_space() -> list[Figure]:
    """What skill space adds to bare decoder calls and bare environment steps, in the maze."""
    family = maze.family(maze.Config(max_episode_steps=1000))
    generator = torch.Generator().manual_seed(0)
    model = SkillModel(SkillModelConfig(), 4, 2, -torch.ones(2), torch.ones(2), generator).requires_grad_(False)
    env = family.make_env()
    z = torch.randn(100, 1, 10, generator=generator)

    def bare() -> None:
        observation, _ = env.reset(seed=0)
        with torch.inference_mode():
            for skill in z:
                controller = model.controller(skill)
                for h in range(10):
                    observation, *_ = env.step(controller(torch.from_numpy(observation)[None], h)[0].numpy())

    envs = SkillEnvs(SerialEnvs(family.make_env, unit_actions=False), model)
    chosen = z.numpy()

    def wrapped() -> None:
        envs.reset([0])
        for skill in chosen:
            envs.step(skill)

    plain, ours = medians(bare, wrapped, rounds=25)
    added = 100 * (ours / plain - 1)
    return [
        Figure(
            "skill space over decoder + environment", added, "%", "< 15 %", f"bare {plain:.0f} us a step", added < 15
        )
    ]


def against_stable_baselines3() -> list[Figure]:
    """SAC's update at equal sizes (observation 60, action 10, 2 x 256, batch 256), measured in turn with SB3's."""
    from stable_baselines3 import SAC
    from stable_baselines3.common.logger import Logger

    class Space(gym.Env):
        observation_space = gym.spaces.Box(-1, 1, (60,), np.float32)
        action_space = gym.spaces.Box(-1, 1, (10,), np.float32)

        def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
            super().reset(seed=seed)
            return np.zeros(60, np.float32), {}

        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
            return np.zeros(60, np.float32), 0.0, False, False, {}

    theirs = SAC("MlpPolicy", Space(), buffer_size=5000, batch_size=256, seed=0, device="cpu")
    theirs.set_logger(Logger(folder=None, output_formats=[]))
    rng = np.random.default_rng(0)
    for _ in range(5000):
        o, n = rng.normal(size=(2, 1, 60)).astype(np.float32)
        theirs.replay_buffer.add(o, n, rng.uniform(-1, 1, (1, 10)), np.array([0.5]), np.array([False]), [{}])

    def ours(**changes: bool) -> sac.Learner:
        config = sac.Config(hidden=256, policy_depth=2, critic_depth=2, batch_size=256, replay_capacity=5000, **changes)
        return filled(sac.Learner(config, EnvSpec(60, np.ones(10, np.float32)), None, Seeds(0)))

    eager, fast, half = ours(), ours(compile=True), ours(compile=True, bfloat16=True)
    sb3, one, two, three = medians(
        lambda: theirs.train(1, 256), lambda: eager.learn(1), lambda: fast.learn(1), lambda: half.learn(1), rounds=40
    )
    cpu_has_bfloat16 = os.path.exists("/proc/cpuinfo") and "avx512_bf16" in open("/proc/cpuinfo").read()
    held = sb3 / three >= 2 if cpu_has_bfloat16 else None
    return [
        Figure("stable-baselines3's SAC update", sb3, "ms", ""),
        Figure("ours, float32, not compiled: times faster", sb3 / one, "x", "", f"{one:.2f} ms"),
        Figure("ours, float32, compiled: times faster", sb3 / two, "x", ">= 1.3", f"{two:.2f} ms", sb3 / two >= 1.3),
        Figure("ours, bfloat16, compiled: times faster", sb3 / three, "x", ">= 2", f"{three:.2f} ms", held),
    ]


def prior_agent_rate() -> list[Figure]:
    """Steps a second of prior rollouts in the maze, one environment and eight in lockstep."""
    family = maze.family(maze.Config(max_episode_steps=500))
    generator = torch.Generator().manual_seed(0)
    model = SkillModel(SkillModelConfig(), 4, 2, -torch.ones(2), torch.ones(2), generator).requires_grad_(False)
    figures = []
    for num in (1, 8):
        envs = SkillEnvs(SerialEnvs(family.make_env, num, unit_actions=False), model)
        agent = PriorActor(model.prior)
        (taken,) = medians(
            lambda e=envs, a=agent, n=num: episode(a, e, None, list(range(n)), generator), rounds=5, warm=1
        )
        figures.append(
            Figure(f"prior rollouts in the maze, {num} in lockstep", 500 * num / taken * 1000, "steps/s", "")
        )
    return figures


BENCHMARKS = {
    "pretraining": pretraining,
    "guided": guided_updates,
    "acting": acting,
    "skill_space": skill_space,
    "sb3": against_stable_baselines3,
    "rollouts": prior_agent_rate,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=sorted(BENCHMARKS), help="measure these alone")
    parser.add_argument("--json", help="also write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    where = environment(" ".join(["python", *sys.argv]))
    print(f"{where['machine']['cpu']}, one thread, torch {where['versions']['torch']}, python {where['python']}")
    figures = []
    for name in arguments.only or BENCHMARKS:
        for figure in BENCHMARKS[name]():
            figures.append(figure)
            mark = "" if figure.holds is None else ("ok" if figure.holds else "MISSED")
            print(
                f"{figure.name:<46} {figure.value:>10,.2f} {figure.unit:<10} {figure.bar:<9} {mark:<7} {figure.peer}",
                flush=True,
            )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({**where, "figures": [asdict(figure) for figure in figures]}, file, indent=1)
    return int(any(figure.holds is False for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
