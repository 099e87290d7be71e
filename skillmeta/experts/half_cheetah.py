"""Linear HalfCheetah runners, trained task by task by augmented random search, and logs of them at several stages of training.

Mania, Guy, Recht 2018 (arXiv:1803.07055), version V2-t: a linear policy on whitened observations, moved along the best of
random directions. All directions are rolled out at once on MuJoCo's own threads; results do not depend on their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import mujoco
import numpy as np
from mujoco import rollout

from skillmeta.config import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Share, checked
from skillmeta.data.episodes import Recording, single_episode
from skillmeta.errors import ConfigError
from skillmeta.seeds import Seeds
from skillmeta.tasks.base import Task, TaskFamily
from skillmeta.tasks.half_cheetah import Direction, Velocity
from skillmeta.tasks.locomotion import HALF_CHEETAH, LocomotionEnv, compiled

OBSERVED, MOTORS = 17, 6


@checked
class Config:
    """Five tasks, about a minute of training each on two cores."""

    steps: PositiveInt = 100_000  # environment steps to record
    tasks: PositiveInt = 5  # the first so many of the family's training tasks
    iterations: PositiveInt = 150  # of the search, for each task
    directions: PositiveInt = 32  # that an iteration of the search tries
    best: PositiveInt = 16  # directions that are followed
    exploration: PositiveFloat = 0.03  # standard deviation of the directions
    step_size: PositiveFloat = 0.02  # of the search
    qualities: list[Share] = field(default_factory=lambda: [0.3, 1.0])  # stages of training that act, in turn
    action_noise: NonNegativeFloat = 0.1  # standard deviation, added to each action
    threads: PositiveInt = 2  # of the search
    seed: NonNegativeInt = 0  # of the search and of the noise

    def __post_init__(self) -> None:
        if self.best > self.directions:
            raise ValueError(f"best is {self.best}; it must not be above directions, which is {self.directions}")
        if not self.qualities:
            raise ValueError("qualities is empty; at least one is needed")


@dataclass(frozen=True)
class Linear:
    """action = weights @ whitened observation, clipped."""

    weights: np.ndarray  # [6, 17]
    mean: np.ndarray  # [17]
    deviation: np.ndarray  # [17]

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        result: np.ndarray = np.clip(self.weights @ ((observation[:OBSERVED] - self.mean) / self.deviation), -1, 1)
        return result


class Cheetahs:
    """N cheetahs in lockstep on MuJoCo's threads."""

    def __init__(self, num: int, threads: int):
        self.model, self.num = compiled(HALF_CHEETAH.xml), num
        self.pool = rollout.Rollout(nthread=threads)
        self.data = [mujoco.MjData(self.model) for _ in range(threads)]
        self.models = [self.model] * num
        self.size = mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        self.dt = self.model.opt.timestep * HALF_CHEETAH.frame_skip

    def reset(self, generator: np.random.Generator) -> np.ndarray:
        self.state = np.zeros((self.num, self.size))  # time, 9 positions, 9 velocities
        self.state[:, 1:10] = self.model.qpos0 + generator.uniform(-0.1, 0.1, (self.num, 9))
        self.state[:, 10:19] = 0.1 * generator.normal(size=(self.num, 9))
        return self.state[:, 2:19]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Observations [N, 17] and velocities [N] after actions [N, 6]."""
        before = self.state[:, 1].copy()
        controls = np.repeat(action[:, None], HALF_CHEETAH.frame_skip, 1)
        states, _ = self.pool.rollout(self.models, self.data, self.state, controls)
        self.state = states[:, -1].copy()
        return self.state[:, 2:19], (self.state[:, 1] - before) / self.dt


def reward(velocity: np.ndarray, action: np.ndarray, task: Task) -> np.ndarray:
    """The family's, for N: [N]."""
    cost: np.ndarray = 0.05 * (action**2).sum(1)
    run: np.ndarray = -np.abs(velocity - task.velocity) if isinstance(task, Velocity) else task.direction * velocity
    run -= cost
    return run


def search(
    task: Task, config: Config, horizon: int, generator: np.random.Generator, progress: Callable[[int], None]
) -> list[Linear]:
    """The policy at each of the config's stages of training. `progress` gets every iteration."""
    num = config.directions
    cheetahs = Cheetahs(2 * num, config.threads)
    weights, mean, variance, seen = np.zeros((MOTORS, OBSERVED)), np.zeros(OBSERVED), np.ones(OBSERVED), 1e-4
    stages = {max(1, round(quality * config.iterations)): None for quality in config.qualities}
    kept: dict[int, Linear] = {}
    for iteration in range(1, config.iterations + 1):
        directions = generator.normal(size=(num, MOTORS, OBSERVED))
        tried = weights + config.exploration * np.concatenate([directions, -directions])
        deviation = np.sqrt(variance + 1e-8)
        observation, returns, visited = cheetahs.reset(generator), np.zeros(2 * num), []
        for _ in range(horizon):
            visited.append(observation.copy())
            action = np.clip(np.einsum("nij,nj->ni", tried, (observation - mean) / deviation), -1, 1)
            observation, velocity = cheetahs.step(action)
            returns += reward(velocity, action, task)
        mean, variance, seen = pooled(mean, variance, seen, np.concatenate(visited))
        ahead, behind = returns[:num], returns[num:]
        best = np.argsort(-np.maximum(ahead, behind))[: config.best]
        spread = np.concatenate([ahead[best], behind[best]]).std() + 1e-8
        step = np.einsum("n,nij->ij", (ahead - behind)[best], directions[best]) / (config.best * spread)
        weights = weights + config.step_size * step
        if iteration in stages:
            kept[iteration] = Linear(weights, mean, np.sqrt(variance + 1e-8))
        progress(iteration)
    return [kept[max(1, round(quality * config.iterations))] for quality in config.qualities]


def pooled(
    mean: np.ndarray, variance: np.ndarray, seen: float, batch: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean and variance of all observations so far and a batch [B, 17] of new ones."""
    count = len(batch)
    total, gap = seen + count, batch.mean(0) - mean
    spread = variance * seen + batch.var(0) * count + gap**2 * seen * count / total
    return mean + gap * count / total, spread / total, total


def collect(
    family: TaskFamily, config: Config, progress: Callable[[int], None] = lambda steps: None
) -> Iterator[Recording]:
    """Train, then record episodes of every task and stage in turn until there are `config.steps`.

    Training counts for nine tenths of the progress. Recordings carry the family's rewards. An episode worked if over its second
    half the mean velocity was within 0.5 m/s of the task's, or 1 m/s and more in its direction.
    """
    env = family.make_env()
    if not isinstance(env, LocomotionEnv) or not isinstance(family.tasks("train")[0], (Velocity, Direction)):
        raise ConfigError("collector: half_cheetah runs at velocities and in directions of half_cheetah only")
    generator = Seeds(config.seed).stream("collector").numpy()
    tasks = family.tasks("train")[: config.tasks]
    policies: list[tuple[Task, float, Linear]] = []
    for number, task in enumerate(tasks):

        def report(iteration: int, before: int = number) -> None:
            share = (before * config.iterations + iteration) / (len(tasks) * config.iterations)
            progress(int(0.9 * share * config.steps))

        stages = search(task, config, family.max_episode_steps, generator, report)
        policies += [(task, quality, policy) for quality, policy in zip(config.qualities, stages, strict=True)]
    recorded = episodes = 0
    while recorded < config.steps:
        task, quality, policy = policies[episodes % len(policies)]
        recording = record(env, task, policy, config, int(generator.integers(2**31)), f"trained {quality:.0%}")
        recorded, episodes = recorded + recording.episode.reward.size, episodes + 1
        progress(int(0.9 * config.steps + 0.1 * min(recorded, config.steps)))
        yield recording


def record(env: LocomotionEnv, task: Task, policy: Linear, config: Config, seed: int, name: str) -> Recording:
    noise = Seeds(seed).stream("expert").numpy()  # its own: the reset must not depend on it
    observation, _ = env.reset(seed=seed, options={"task": task})
    observations, actions, rewards, success, speeds, over = [observation], [], [], [], [], False
    while not over:
        action = policy(observation) + config.action_noise * noise.normal(size=MOTORS)
        action = np.clip(action, -1, 1).astype(np.float32)
        observation, gain, terminated, truncated, info = env.step(action)
        over = terminated or truncated
        observations.append(observation)
        actions.append(action)
        rewards.append(gain)
        success.append(info["success"])
        speeds.append(info["x_velocity"])
    speed = float(np.mean(speeds[len(speeds) // 2 :]))
    worked = abs(speed - task.velocity) <= 0.5 if isinstance(task, Velocity) else task.direction * speed >= 1.0
    episode = single_episode(
        np.stack(observations), np.stack(actions), np.array(rewards, np.float32), success=np.array(success)
    )
    return Recording(episode, ((name, bool(worked)),))
