"""Any registered Gymnasium environment as a family: `task: {family: gym, options: {id: Pendulum-v1, vary: {g: [5, 15]}}}`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from skillmeta.config import NonNegativeInt, PositiveInt, Range, checked, import_module, to_plain
from skillmeta.errors import ConfigError
from skillmeta.tasks.base import TaskFamily, draw_tasks, validation_generator


@checked
class Config:
    """What to make, and what a task changes of it."""

    id: str = "Pendulum-v1"  # as it is registered with Gymnasium
    kwargs: dict[str, Any] = field(default_factory=dict)  # for gymnasium.make
    imports: list[str] = field(default_factory=list)  # modules that register the id, e.g. [gymnasium_robotics]
    vary: dict[str, Range] = field(default_factory=dict)  # attribute of the environment, or keyword: [low, high]
    train_tasks: PositiveInt = 20  # tasks of the split `train`
    validation_tasks: PositiveInt = 10  # tasks of the split `validation`
    test_tasks: PositiveInt = 10  # tasks of the split `test`
    tasks_seed: NonNegativeInt = 0  # that the tasks are drawn by
    max_episode_steps: PositiveInt | None = None  # where another horizon than the registered one is wanted


@dataclass(frozen=True)
class Variation:
    """The environment with some of its numbers set; without any, as it comes."""

    id: str
    values: tuple[tuple[str, float], ...] = ()


class VariedEnv(gymnasium.Env):
    """Sets a task's numbers at reset: attributes that the environment has, else by making it anew with the keywords."""

    def __init__(self, config: Config, task: Variation):
        self.config, self.task = config, task
        self.inner = make(config, {})
        self.observation_space, self.action_space = self.inner.observation_space, self.inner.action_space
        self.metadata, self.render_mode = self.inner.metadata, self.inner.render_mode
        self.keywords = [name for name in config.vary if not hasattr(self.inner.unwrapped, name)]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        options = dict(options or {})
        self.task = options.pop("task", None) or self.task
        values = dict(self.task.values)
        if self.keywords and values:
            self.inner.close()
            self.inner = make(self.config, {name: values[name] for name in self.keywords})
        for name in values:
            if name not in self.keywords:
                setattr(self.inner.unwrapped, name, values[name])
        observation, info = self.inner.reset(seed=seed, options=options or None)
        return observation, {**info, "task": to_plain(self.task)}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.inner.step(action)
        return observation, reward, terminated, truncated, {**info, "task": to_plain(self.task)}

    def render(self) -> Any:
        return self.inner.render()

    def close(self) -> None:
        self.inner.close()


def make(config: Config, keywords: dict[str, Any]) -> gymnasium.Env:
    """Raises ConfigError if Gymnasium cannot make it."""
    try:
        keywords = {**config.kwargs, **keywords}
        return gymnasium.make(config.id, max_episode_steps=config.max_episode_steps, **keywords)
    except Exception as error:  # a wrong id, a missing package, a wrong keyword: all are the user's to mend
        raise ConfigError(f"task.options: gymnasium.make({config.id!r}) failed: {error}") from None


def family(config: Config) -> TaskFamily:
    """The environment's variations, drawn uniformly from the ranges; one task where nothing varies."""
    for module in config.imports:
        try:
            gymnasium.register_envs(import_module(module, module, "task.options.imports"))
        except ImportError as error:
            raise ConfigError(f"task.options.imports: {module!r} cannot be imported ({error}); install it") from None
    ranges = sorted(config.vary.items())

    def draw_task(generator: np.random.Generator) -> Variation:
        return Variation(config.id, tuple((name, float(generator.uniform(low, high))) for name, (low, high) in ranges))

    if ranges:
        generator = np.random.default_rng(config.tasks_seed)
        train = draw_tasks(draw_task, generator, config.train_tasks)
        test = draw_tasks(draw_task, generator, config.test_tasks)
        validation = draw_tasks(draw_task, validation_generator(config.tasks_seed), config.validation_tasks)
        varied = "; ".join(f"{name} ~ U({low:g}, {high:g})" for name, (low, high) in ranges)
        ranged = f"{varied}; each task is an independent draw"
    else:
        train = validation = test = (Variation(config.id),)
        ranged = "nothing varies: the validation and test task is the training task"
    spec = gymnasium.registry.get(config.id)
    return TaskFamily(
        name="gym",
        version=1,
        definition=f"Gymnasium's {config.id} as it is registered; {ranged}.",
        max_episode_steps=config.max_episode_steps or (spec.max_episode_steps if spec else None) or 0,
        splits={"train": train, "validation": validation, "test": test},
        make_env=lambda: VariedEnv(config, test[0]),
        draw_task=draw_task if ranges else None,
        same_tasks=not ranges,
        features=lambda task: np.array([value for _, value in task.values], np.float32),
    )
