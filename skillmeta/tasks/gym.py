"""Any registered Gymnasium environment as a family: `task: {family: gym, options: {id: Pendulum-v1, vary: {g: [5, 15]}}}`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec, find_highest_version, get_env_id, load_env_creator, parse_env_id
from gymnasium.spaces import flatdim, flatten

from skillmeta.config import NonNegativeInt, PositiveInt, Range, checked, import_module, to_plain
from skillmeta.errors import ConfigError, first_line
from skillmeta.tasks.base import TaskFamily, draw_tasks, validation_generator

EFFECT_STEPS = 200  # in which a number of `vary` has to change something
HELD_STEPS = 5  # so long an action is repeated in them, so that they get somewhere


@checked
class Config:
    """What to make, and what a task changes of it."""

    id: str = "Pendulum-v1"  # as it is registered with Gymnasium
    kwargs: dict[str, Any] = field(default_factory=dict)  # for gymnasium.make
    imports: list[str] = field(default_factory=list)  # modules that register the id, e.g. [gymnasium_robotics]
    vary: dict[str, Range] = field(default_factory=dict)  # keyword or attribute of the environment: [low, high]
    check_vary: bool = True  # refuse a number of `vary` that changes nothing in some steps of random actions
    train_tasks: PositiveInt = 20  # tasks of the split `train`
    validation_tasks: PositiveInt = 10  # tasks of the split `validation`
    test_tasks: PositiveInt = 10  # tasks of the split `test`
    tasks_seed: NonNegativeInt = 0  # that the tasks are drawn by
    max_episode_steps: PositiveInt | None = None  # where it has no time limit, or another than the registered is wanted


@dataclass(frozen=True)
class Variation:
    """The environment with some of its numbers set; without any, as it comes."""

    id: str
    values: tuple[tuple[str, float], ...] = ()


class Held:
    """An attribute that keeps its value whatever a constructor assigns, so that what the constructor computes from it is right."""

    def __init__(self, value: float):
        self.value = value

    def __get__(self, instance: object, owner: type | None = None) -> float:
        return self.value

    def __set__(self, instance: object, value: object) -> None:
        pass


class VariedEnv(gymnasium.Env):
    """The environment, made anew at a reset whose task has other numbers than the one before."""

    def __init__(self, config: Config, task: Variation):
        self.config, self.task = config, task
        self.inner, self.values = make(config), dict[str, float]()
        self.recipe = recipe_of(config, self.inner)
        self.observation_space, self.action_space = self.inner.observation_space, self.inner.action_space
        self.metadata, self.render_mode = self.inner.metadata, self.inner.render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        options = dict(options or {})
        self.task = options.pop("task", None) or self.task
        values = dict(self.task.values)
        if values != self.values:
            varied = self.recipe.make(values)
            self.inner.close()
            self.inner, self.values = varied, values
        observation, info = self.inner.reset(seed=seed, options=options or None)
        return observation, {**info, "task": to_plain(self.task)}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.inner.step(action)
        return observation, reward, terminated, truncated, {**info, "task": to_plain(self.task)}

    def render(self) -> Any:
        return self.inner.render()

    def close(self) -> None:
        self.inner.close()

    def __str__(self) -> str:
        return self.config.id


def make(config: Config, keywords: Mapping[str, float] | None = None, spec: EnvSpec | None = None) -> gymnasium.Env:
    """Raises ConfigError if Gymnasium cannot make it."""
    try:
        kwargs = {**config.kwargs, **(keywords or {})}
        return gymnasium.make(spec or config.id, max_episode_steps=config.max_episode_steps, **kwargs)
    except Exception as error:  # a wrong id, a missing package, a wrong keyword: the user can fix all of them
        drawn = "; to be filmed it has to take render_mode='rgb_array'" if "render_mode" in str(error) else ""
        raise ConfigError(f"task.options: gymnasium.make({config.id!r}) failed: {first_line(error)}{drawn}") from None


@dataclass(frozen=True)
class Recipe:
    """How an environment is made with other numbers: keywords that its constructor names, or else attributes that it has.

    An attribute is set before the constructor runs (`Held`): CartPole's `masscart` has a share in `total_mass`, which it computes
    once. Where the environment is made by a function and not by its class, the attribute is set afterwards.
    """

    config: Config
    kind: type  # of the environment, without Gymnasium's wrappers
    spec: EnvSpec
    keywords: frozenset[str]  # of `vary`; the others are attributes

    def make(self, values: Mapping[str, float]) -> gymnasium.Env:
        keywords = {name: value for name, value in values.items() if name in self.keywords}
        held = {name: Held(value) for name, value in values.items() if name not in self.keywords}
        if not held:
            return make(self.config, keywords)
        entry: Any = self.spec.entry_point
        if entry is self.kind:
            entry = type(self.kind.__name__, (self.kind,), {"__module__": self.kind.__module__, **held})
            return make(self.config, keywords, replace(self.spec, entry_point=entry))
        made = make(self.config, keywords)
        for name, one in held.items():
            setattr(made.unwrapped, name, one.value)
        return made


def recipe_of(config: Config, plain: gymnasium.Env) -> Recipe:
    """Raises ConfigError for a name in `vary` that is neither a keyword nor an attribute of the plain environment."""
    bare = plain.unwrapped
    assert bare.spec is not None
    spec, kind = gymnasium.spec(bare.spec.id), type(bare)
    if isinstance(spec.entry_point, str):
        entry: Any = load_env_creator(spec.entry_point)
        spec = replace(spec, entry_point=entry)
    parameters = inspect.signature(kind).parameters
    any_keyword = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    keywords = {name for name in config.vary if name in parameters or (any_keyword and not hasattr(bare, name))}
    for name in config.vary:
        if name not in keywords and not hasattr(bare, name):
            raise ConfigError(f"task.options.vary.{name}: {config.id} has no keyword and no attribute of this name")
    return Recipe(config, kind, spec, frozenset(keywords))


def check_effects(config: Config) -> None:
    """Raises ConfigError for a number of `vary` that changes nothing, or changes what is seen and done into something else."""
    if not config.vary:
        return
    recipe = recipe_of(config, make(config))
    for name, ends in config.vary.items():
        has_effect = False
        for value in ends:
            plain, varied = make(config), recipe.make({name: value})
            for what in ("observation_space", "action_space"):
                if flatdim(getattr(plain, what)) != flatdim(getattr(varied, what)):
                    raise ConfigError(
                        f"task.options.vary.{name}: {value:g} gives {config.id} another {what.replace('_', ' ')}, "
                        f"{getattr(varied, what)}; all tasks of a family have the same"
                    )
            has_effect = has_effect or differ(plain, varied)
            plain.close()
            varied.close()
        if config.check_vary and not has_effect:
            raise ConfigError(
                f"task.options.vary.{name} has no effect on {config.id} in {EFFECT_STEPS} steps of random actions; leave it out, "
                "or set task.options.check_vary=false if it matters where random actions do not lead"
            )


def differ(one: gymnasium.Env, other: gymnasium.Env) -> bool:
    """Whether two environments show anything different from the same seeds and the same actions."""
    one.action_space.seed(0)
    ended = True
    for taken in range(EFFECT_STEPS):
        if ended:
            starts = [flat(env, env.reset(seed=taken)[0]) for env in (one, other)]
            if not np.array_equal(starts[0], starts[1]):
                return True
        if taken % HELD_STEPS == 0:
            action = one.action_space.sample()
        seen = []
        for env in (one, other):
            observation, reward, terminated, truncated, _ = env.step(action)
            ended = bool(terminated or truncated)
            seen.append(
                np.concatenate([flat(env, observation), [float(np.asarray(reward).item()), terminated, truncated]])
            )
        if not np.array_equal(seen[0], seen[1]):
            return True
    return False


def flat(env: gymnasium.Env, observation: Any) -> np.ndarray:
    """An observation as a vector."""
    return np.asarray(flatten(env.observation_space, observation), float)


def latest(name: str) -> str:
    """The id of an environment, with the version that `gymnasium.make` takes where it has none."""
    try:
        space, bare, version = parse_env_id(name)
    except gymnasium.error.Error:  # what is wrong with it is said where it is made
        return name
    return get_env_id(space, bare, find_highest_version(space, bare) if version is None else version)


def family(config: Config) -> TaskFamily:
    """The environment's variations, drawn uniformly from the ranges; one task where nothing varies."""
    named, _, bare = config.id.rpartition(":")
    for key, module in (*(("imports", one) for one in config.imports), *([("id", named)] if named else [])):
        try:
            gymnasium.register_envs(import_module(module, module, f"task.options.{key}"))
        except ImportError as error:
            raise ConfigError(f"task.options.{key}: {module!r} cannot be imported ({error}); install it") from None
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
    spec = gymnasium.registry.get(latest(bare))
    return TaskFamily(
        name="gym",
        version=2,
        definition=f"Gymnasium's {config.id} as it is registered; {ranged}.",
        max_episode_steps=config.max_episode_steps or (spec.max_episode_steps if spec else None) or 0,
        splits={"train": train, "validation": validation, "test": test},
        make_env=lambda: VariedEnv(config, test[0]),
        check=lambda: check_effects(config),
        draw_task=draw_task if ranges else None,
        same_tasks=not ranges,
        features=lambda task: np.array([value for _, value in task.values], np.float32),
    )
