"""Gymnasium environments in lockstep, one after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from gymnasium.spaces.utils import flatdim

from skillmeta.envs.failure import CAUGHT, failure, finite
from skillmeta.errors import UserError, first_line
from skillmeta.run import watch
from skillmeta.types import EnvSpec, Observed, Step, Task

ENDLESS = 100_000  # steps, after which an episode that has no time limit is taken for one that does not end


class SerialEnvs:
    """Gymnasium environments stepped one after another.

    Args:
        make_env: makes one environment with a Box observation (or Dict, which is flattened in the order of its space) and a Box or
            Discrete action space.
        num: how many.
        unit_actions: rescale the action space to [-1, 1]; leave it off where a decoder speaks the environment's units.
        max_episode_steps: after which an episode is truncated; 0: where the environment says.
    """

    def __init__(
        self, make_env: Callable[[], gym.Env], num: int = 1, unit_actions: bool = True, max_episode_steps: int = 0
    ):
        try:
            made = [make_env() for _ in range(num)]
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"the environment cannot be made: {type(error).__name__}: {first_line(error)}") from error
        if not isinstance(made[0], gym.Env):
            kind = type(made[0])
            raise UserError(f"the environment is a {kind.__module__}.{kind.__name__}, not a gymnasium.Env")
        self.envs = [prepare(env, unit_actions) for env in made]
        discrete = isinstance(made[0].action_space, Discrete)
        observation_space, action_space = self.envs[0].observation_space, self.envs[0].action_space
        assert isinstance(observation_space, Box) and isinstance(action_space, Box)
        bound = np.maximum(np.abs(action_space.low), np.abs(action_space.high)).astype(np.float32)
        self.max_episode_steps = max_episode_steps
        observed = observed_parts(made[0])
        self.num, self.spec = num, EnvSpec(int(observation_space.shape[0]), bound, discrete, observed=observed)
        self._observation = np.zeros((num, self.spec.observation_dim), np.float32)
        self._ended, self._unit = [True] * num, unit_actions and not discrete
        self._seeds, self._taken = [0] * num, 0

    def reset(self, seeds: Sequence[int], tasks: Sequence[Task] | None = None) -> np.ndarray:
        """Start an episode in every environment, from its seed and, where given, in its task. Returns [N, O]."""
        self._seeds, self._taken = [int(seed) for seed in seeds], 0
        try:
            for i, (env, seed) in enumerate(zip(self.envs, self._seeds, strict=True)):
                watch.begins(i, seed, watch.RESET)
                options = None if tasks is None else {"task": tasks[i]}
                self._keep(i, env.reset(seed=seed, options=options)[0])
        except CAUGHT as error:
            raise failure(error) from error
        finally:
            watch.ends()
        self._ended = [False] * self.num
        return self._observation.copy()

    def step(self, action: np.ndarray, limit: int | None = None) -> Step:
        """One primitive step in every environment that has not ended; action [N, A], clipped to the box where it is a unit one.
        `limit` changes nothing here."""
        num = self.num
        if self._unit:
            action = np.minimum(np.maximum(action, -1.0), 1.0)
        reward, steps = np.zeros(num, np.float32), np.zeros(num, np.int64)
        terminated, truncated, success = np.zeros(num, bool), np.zeros(num, bool), np.zeros(num, bool)
        try:
            for i, env in enumerate(self.envs):
                if self._ended[i]:
                    continue
                watch.begins(i, self._seeds[i], self._taken)
                observation, gained, end, cut, info = env.step(action[i])
                reward[i] = gained if isinstance(gained, float) else single_number(gained)
                self._keep(i, observation)
                if not math.isfinite(reward[i]):
                    finite(reward[i], "a reward")
                steps[i] = 1
                if info.get("success") or info.get("is_success"):
                    success[i] = True
                if end or cut or self._taken + 1 == self.max_episode_steps:
                    terminated[i], truncated[i] = end, cut or not end
                    self._ended[i] = True
        except CAUGHT as error:
            raise failure(error) from error
        finally:
            watch.ends()
        self._taken += 1
        if self._taken == ENDLESS and not self.max_episode_steps:
            raise UserError(
                f"an episode has taken {ENDLESS:,} steps and the environment has no time limit; set task.options.max_episode_steps"
            )
        return Step(self._observation.copy(), reward, terminated, truncated, steps, success)

    def _keep(self, i: int, observation: Any) -> None:
        """What an environment shows now. Raises ValueError for an observation of another shape or one that is not finite."""
        if len(observation) != self.spec.observation_dim:  # numpy would repeat a single number
            raise ValueError(f"an observation has {len(observation)} numbers, its space {self.spec.observation_dim}")
        self._observation[i] = observation
        if not math.isfinite(np.add.reduce(self._observation[i])):  # a third of the price of looking at each number
            finite(self._observation[i], "an observation")

    def close(self) -> None:
        for env in self.envs:
            env.close()


def single_number(reward: Any) -> float:
    """A reward that some environments return as an array of one number. Raises ValueError for one of more."""
    array = np.asarray(reward)
    if array.size != 1:
        raise ValueError(f"a reward has shape {array.shape}; one number is expected")
    number = array.item()
    return math.nan if number is None else float(number)


def prepare(env: gym.Env, unit_actions: bool) -> gym.Env:
    """Flat float observations and, if asked, actions in [-1, 1]. Raises UserError for spaces that no agent here acts in."""
    if isinstance(env.action_space, Discrete):
        choices = Box(0.0, 1.0, (int(env.action_space.n),), np.float32)
        first = int(env.action_space.start)
        env = gym.wrappers.TransformAction(env, lambda action: first + int(np.argmax(action)), choices)
        unit_actions = False
    if not isinstance(env.action_space, Box) or len(env.action_space.shape) != 1:
        raise UserError(f"{env}: the action space is {env.action_space}; a one-dimensional Box or Discrete is needed")
    if (image := image_in(env.observation_space)) is not None:
        raise UserError(
            f"{env}: the observations hold an image of shape {image.shape}, {np.prod(image.shape):,} numbers of {image.dtype}; "
            "only states can be learned from, so leave it out or wrap the environment in one that encodes it"
        )
    if not isinstance(env.observation_space, Box) or len(env.observation_space.shape) != 1:
        env = gym.wrappers.FlattenObservation(env)
    space = env.action_space
    assert isinstance(space, Box)
    if np.issubdtype(space.dtype, np.integer):
        low, high, kind = space.low, space.high, space.dtype
        space = Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        env = gym.wrappers.TransformAction(env, lambda action: np.clip(np.rint(action), low, high).astype(kind), space)
    if unit_actions and not (np.all(space.low == -1) and np.all(space.high == 1)):
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise UserError(f"{env}: the action space {space} has no bounds; wrap it in one that has")
        env = gym.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))
    return env


def observed_parts(env: gym.Env) -> tuple[Observed, ...]:
    """The parts of a Dict observation in the order in which it is flattened; () for another one."""
    flatten = gym.wrappers.FlattenObservation
    while isinstance(env, gym.Wrapper) and (
        isinstance(env, flatten) or env.observation_space is env.env.observation_space
    ):
        env = env.env
    space = env.observation_space

    def parts(space: gym.Space[Any], key: str) -> Iterator[Observed]:
        if isinstance(space, Dict):
            for name, inside in space.spaces.items():
                yield from parts(inside, f"{key}/{name}" if key else str(name))
        elif space.is_np_flattenable:
            yield Observed(key, flatdim(space))

    return tuple(parts(space, "")) if isinstance(space, Dict) else ()


def image_in(space: gym.Space[Any]) -> Box | None:
    """A part of an observation space that is an image: three axes or more, or two of bytes."""
    if isinstance(space, Dict | Tuple):
        parts = space.spaces.values() if isinstance(space, Dict) else space.spaces
        return next((image for part in parts if (image := image_in(part)) is not None), None)
    is_image = isinstance(space, Box) and (len(space.shape) > 2 or (len(space.shape) == 2 and space.dtype == np.uint8))
    return space if isinstance(space, Box) and is_image else None
