"""Logs of Meta-World's scripted experts: driven with the goal in view, recorded with the goal hidden, ended soon after success."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from skillmeta.config import NonNegativeFloat, NonNegativeInt, PositiveInt, Share, checked
from skillmeta.data.episodes import Recording, single_episode
from skillmeta.errors import ConfigError
from skillmeta.seeds import Seeds
from skillmeta.tasks.base import TaskFamily
from skillmeta.tasks.metaworld import MetaWorldEnv, Setting


@checked
class Config:
    """How much, and how clumsy."""

    steps: PositiveInt = 100_000  # environment steps to record
    split: str = "train"  # whose tasks are done
    action_noise: NonNegativeFloat = 0.1  # standard deviation, added to each action
    random_stretches: Share = 0.2  # share of episodes that have a stretch of random actions
    stretch_steps: PositiveInt = 15  # of such a stretch
    after_success: NonNegativeInt = 10  # steps that are still recorded: what an expert does after it is of no use
    seed: NonNegativeInt = 0  # of placements and noise


def collect(
    family: TaskFamily, config: Config, progress: Callable[[int], None] = lambda steps: None
) -> Iterator[Recording]:
    """Episodes of each class in turn, each in a placement drawn from the split, until there are `config.steps` steps."""
    env = family.make_env()
    if not isinstance(env, MetaWorldEnv):
        raise ConfigError("collector: metaworld knows the family metaworld only")
    generator = Seeds(config.seed).stream("collector").numpy()
    classes: dict[str, list[Setting]] = {}
    for task in family.tasks(config.split):
        classes.setdefault(task.name, []).append(task)
    recorded = episodes = 0
    while recorded < config.steps:
        tasks = list(classes.values())[episodes % len(classes)]
        recording = record(family, env, tasks[int(generator.integers(len(tasks)))], config, generator)
        recorded, episodes = recorded + recording.episode.reward.size, episodes + 1
        progress(recorded)
        yield recording
    env.close()


def record(
    family: TaskFamily, env: MetaWorldEnv, task: Setting, config: Config, generator: np.random.Generator
) -> Recording:
    """One episode. Actions are recorded with their noise, as they were executed."""
    assert family.expert is not None
    observation, _ = env.reset(options={"task": task})
    expert = family.expert(env, generator)
    stretch = range(0)
    if generator.random() < config.random_stretches:
        first = int(generator.integers(60))
        stretch = range(first, first + config.stretch_steps)
    observations, actions = [hidden(observation)], list[np.ndarray]()
    rewards, success = list[float](), list[bool]()
    left, over = config.after_success, False
    while not over:
        wanted = generator.uniform(-1, 1, 4) if len(actions) in stretch else expert(observation)
        noisy = np.clip(wanted + config.action_noise * generator.normal(size=4), -1, 1).astype(np.float32)
        observation, reward, terminated, truncated, info = env.step(noisy)
        observations.append(hidden(observation))
        actions.append(noisy)
        rewards.append(reward)
        success.append(info["success"])
        left -= any(success)
        over = terminated or truncated or left < 0
    episode = single_episode(
        np.stack(observations), np.stack(actions), np.array(rewards, np.float32), success=np.array(success)
    )
    return Recording(episode, ((task.name, any(success)),))


def hidden(observation: np.ndarray) -> np.ndarray:
    """As an agent sees it: without the goal."""
    seen = observation.copy()
    seen[36:39] = 0
    return seen
