"""What an environment of the user's own turns out to be, in episodes of random actions before a command takes its folder."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from skillmeta.config import is_builtin
from skillmeta.envs.serial import SerialEnvs
from skillmeta.errors import ConfigError, UserError
from skillmeta.run import watch
from skillmeta.tasks.base import TaskConfig, TaskFamily
from skillmeta.tasks.gym import VariedEnv

STEPS = 1000  # of the episode, at most
SECONDS = 5.0  # the same
SEEDS = range(1, 4)  # of its reset: the next one where the environment fails
OTHERS = 3  # tasks that the first one is compared with
RESET = "reset(*, seed=None, options=None) -> (observation, info)"
STEP = "step(action) -> (observation, reward, terminated, truncated, info)"


def examined(family: TaskFamily, config: TaskConfig, step_seconds: float = 0.0, act: bool = True) -> TaskFamily:
    """The family, whether it reports success, and whether its tasks differ. Of those that are part of skillmeta only the family
    `gym` is looked at.

    Args:
        step_seconds: that a step may take, as in `skillmeta.run.watch`; 0: any.
        act: run episodes; without it, only what can be seen without is looked at, and a time limit has to be stated.

    Raises UserError for an environment that nothing here can act in, with the methods of the old Gym, or spaces that do not fit,
    or episodes without an end; and what `TaskFamily.check` raises. An environment that fails otherwise is left to the run: see
    `skillmeta.collect.failures`.
    """
    if not any(family.splits.values()):
        raise ConfigError(
            f'the family {family.name} has no tasks; give `splits` some, as in {{"train": (Task(), ...)}}'
        )
    if family.native is not None or (is_builtin("tasks", config.family) and family.name != "gym"):
        return family
    envs = SerialEnvs(family.make_env, unit_actions=False)
    env, found, differ = envs.envs[0], None, True
    name = next((str(layer) for layer in layers(env) if isinstance(layer, VariedEnv)), family.name)
    for layer in layers(env):
        check_reset(layer, name)
    if act:
        watch.start(step_seconds)
        task, *others = dict.fromkeys(task for tasks in family.splits.values() for task in tasks)
        for seed in SEEDS:
            found = episode(env, name, task, seed, family.max_episode_steps)
            if found is not None:
                differ = not others or any(
                    episode(env, name, other, seed, family.max_episode_steps) != found for other in others[:OTHERS]
                )
                break
    envs.close()
    family.check()
    if family.max_episode_steps == 0 and (not act or (found is not None and not found.ended)):
        tried = f", and {STEPS:,} steps of random actions did not end an episode" if act else ""
        raise ConfigError(f"{name} has no time limit{tried}; set task.options.max_episode_steps")
    if found is None:
        return family
    return replace(family, reports_success=found.success or not found.ended, tasks_differ=differ)


def layers(env: gymnasium.Env) -> Iterator[gymnasium.Env]:
    """An environment and what it is wrapped around."""
    yield env
    inner = env.inner if isinstance(env, VariedEnv) else getattr(env, "env", None)
    if isinstance(inner, gymnasium.Env) and inner is not env:
        yield from layers(inner)


def check_reset(env: gymnasium.Env, name: str) -> None:
    """Raises UserError where `reset` does not take what Gymnasium passes."""
    parameters = inspect.signature(env.reset).parameters
    missing = [word for word in ("seed", "options") if word not in parameters]
    if missing and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        raise UserError(
            f"{name} is written for the old Gym: {type(env).__name__}.reset({', '.join(parameters)}) does not take "
            f"{' and '.join(missing)}; Gymnasium wants {RESET}"
        )


class Shown(NamedTuple):
    """What an episode showed."""

    ended: bool
    success: bool  # whether it was reported
    task: str  # what `info` said of it
    numbers: bytes  # observations and rewards


def episode(env: gymnasium.Env, name: str, task: Any, seed: int, length: int) -> Shown | None:
    """An episode of random actions, the same ones for a seed, of `length` steps at most unless that is 0; None if the environment
    failed."""
    began, reported, ended, numbers = time.monotonic(), False, False, bytearray()
    try:
        env.action_space.seed(seed)
        watch.begins(0, seed, watch.RESET)
        observation, info = env.reset(seed=seed, options={"task": task})
        check_shape(observation, env, name)
        numbers += np.asarray(observation, np.float64).tobytes()
        for taken in range(min(length or STEPS, STEPS)):
            reported = reported or reports(info)
            watch.begins(0, seed, taken)
            observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
            numbers += np.asarray(observation, np.float64).tobytes() + np.asarray(reward, np.float64).tobytes()
            ended = bool(terminated or truncated or taken + 1 == length)
            if ended or time.monotonic() - began > SECONDS:
                break
    except UserError:
        raise
    except (Exception, watch.Overdue):
        watch.ends()
        check_returned(list(layers(env))[-1], name, seed)
        return None
    finally:
        watch.ends()
    return Shown(ended, reported or (ended and reports(info)), repr(info.get("task")), bytes(numbers))


def check_shape(observation: Any, env: gymnasium.Env, name: str) -> None:
    """Raises UserError for an observation of another shape than its space."""
    found, stated = np.shape(observation), env.observation_space.shape
    if found != stated:
        raise UserError(f"{name}: reset gives an observation of shape {found}, and its observation_space has {stated}")


def reports(info: dict[str, Any]) -> bool:
    return "success" in info or "is_success" in info


def check_returned(env: gymnasium.Env, name: str, seed: int) -> None:
    """Raises UserError where `reset` or `step` of the innermost environment does not return what Gymnasium wants."""
    kind = type(env).__name__
    try:
        watch.begins(0, seed, watch.RESET)
        first = env.reset(seed=seed)
        watch.begins(0, seed, 0)
        stepped = env.step(env.action_space.sample()) if is_pair(first) else ()
    except (Exception, watch.Overdue):
        return
    finally:
        watch.ends()
    if not is_pair(first):
        raise UserError(
            f"{name} is written for the old Gym: {kind}.reset returns a {type(first).__name__}, not two values; Gymnasium wants "
            f"{RESET}"
        )
    if not isinstance(stepped, tuple) or len(stepped) != 5:
        count = f"{len(stepped)} values" if isinstance(stepped, tuple) else f"a {type(stepped).__name__}"
        raise UserError(f"{name} is written for the old Gym: {kind}.step returns {count}; Gymnasium wants {STEP}")


def is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], dict)
