"""Acting: environments in lockstep, one episode, and the bill of what it cost.

Shape letters: N environments in lockstep, T decisions, O, A the last axes of observations and actions. A decision is one
action of the agent; it takes one primitive environment step, or up to H of them in skill space. Steps are always
primitive steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from torch import Tensor

from skillmeta.errors import UserError
from skillmeta.seeds import Seeds

Belief = Any  # what an agent knows about N tasks: an explicit value, never hidden state (None for SAC)


class Step(NamedTuple):
    """What one decision did in N environments. A named tuple: one is made at every primitive step."""

    observation: np.ndarray  # [N, O] float32
    reward: np.ndarray  # [N] float32, summed over the primitive steps
    terminated: np.ndarray  # [N] bool: the MDP ended, do not bootstrap
    truncated: np.ndarray  # [N] bool: it was cut off, bootstrap
    steps: np.ndarray  # [N] int64: primitive steps taken; 0 in an environment that had ended before
    success: np.ndarray  # [N] bool: info["success"] was true at any of the primitive steps


@dataclass(frozen=True)
class Episodes:
    """One episode in each of N environments: what happened, never what an algorithm thought of it."""

    observation: np.ndarray  # [N, T+1, O]
    action: np.ndarray  # [N, T, A]
    reward: np.ndarray  # [N, T]
    terminated: np.ndarray  # [N, T] bool
    truncated: np.ndarray  # [N, T] bool
    steps: np.ndarray  # [N, T] int64
    success: np.ndarray  # [N, T] bool
    valid: np.ndarray  # [N, T] bool: False after the end of a shorter episode

    def __post_init__(self) -> None:
        n, t = self.reward.shape
        for name in ("observation", "action", "terminated", "truncated", "steps", "success", "valid"):
            lead = (n, t + 1) if name == "observation" else (n, t)
            if getattr(self, name).shape[:2] != lead:
                raise ValueError(f"Episodes.{name} starts with {getattr(self, name).shape[:2]}; reward says {lead}")

    def rows(self, which: slice) -> Episodes:
        """Those of some environments."""
        return Episodes(*(getattr(self, f.name)[which] for f in fields(self)))

    @property
    def returns(self) -> np.ndarray:
        """Undiscounted return of each episode, [N]."""
        return (self.reward * self.valid).sum(1)

    @property
    def succeeded(self) -> np.ndarray:
        """Success at any step, [N] bool."""
        return (self.success & self.valid).any(1)

    @property
    def lengths(self) -> np.ndarray:
        """Primitive steps of each episode, [N]."""
        return (self.steps * self.valid).sum(1)


class Envs(Protocol):
    """N environments in lockstep, without autoreset. One that has ended holds still: same observation, reward 0, steps 0."""

    num: int
    observation_dim: int
    action_bound: np.ndarray  # [A] actions live in [-bound, bound]
    discrete: bool  # the largest of an action's A numbers is the choice among A; one-hot actions are exact

    def reset(self, seeds: Sequence[int], tasks: Sequence[object] | None = None) -> np.ndarray: ...
    def step(self, action: np.ndarray, limit: int | None = None) -> Step: ...
    def close(self) -> None: ...


class Agent(Protocol):
    """A learner whose knowledge of the task at hand is an explicit value, the belief.

    `rollouts` B: how many episodes it wants at once of each task before it adapts. Rows of act, observe and adapt are then
    [tasks * B], task by task, while the belief is of `tasks` tasks. `exploration_episodes`: how many of a trial's first
    rounds serve to find out about the task, not to do well in it.
    """

    @property
    def rollouts(self) -> int: ...
    @property
    def exploration_episodes(self) -> int: ...

    def begin(self, num: int, generator: torch.Generator) -> Belief: ...
    def act(
        self, observation: Tensor, belief: Belief, generator: torch.Generator, explore: bool
    ) -> tuple[Tensor, Belief]: ...  # [N, O] -> [N, A]
    def observe(self, belief: Belief, action: Tensor, step: Step) -> Belief: ...  # after every decision
    def adapt(self, belief: Belief, episodes: Episodes, generator: torch.Generator) -> Belief: ...  # after an episode


class SerialEnvs:
    """Gymnasium environments stepped one after another.

    Args:
        make_env: makes one environment with a Box observation (or Dict, which is flattened) and a Box action space.
        num: how many.
        unit_actions: rescale the action space to [-1, 1]; leave it off where a decoder speaks the environment's units.
    """

    def __init__(self, make_env: Callable[[], gym.Env], num: int = 1, unit_actions: bool = True):
        made = [make_env() for _ in range(num)]
        self.envs = [prepare(env, unit_actions) for env in made]
        self.num, self.discrete = num, isinstance(made[0].action_space, Discrete)
        observation_space, action_space = self.envs[0].observation_space, self.envs[0].action_space
        assert isinstance(observation_space, Box) and isinstance(action_space, Box)
        self.observation_dim = int(observation_space.shape[0])
        self.action_bound = np.maximum(np.abs(action_space.low), np.abs(action_space.high)).astype(np.float32)
        self._observation = np.zeros((num, self.observation_dim), np.float32)
        self._ended, self._unit = [True] * num, unit_actions and not self.discrete

    def reset(self, seeds: Sequence[int], tasks: Sequence[object] | None = None) -> np.ndarray:
        """Start an episode in every environment, from its seed and, where given, in its task. Returns [N, O]."""
        for i, (env, seed) in enumerate(zip(self.envs, seeds, strict=True)):
            options = None if tasks is None else {"task": tasks[i]}
            self._observation[i] = finite(env.reset(seed=int(seed), options=options)[0], "observation at reset")
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
        for i, env in enumerate(self.envs):
            if self._ended[i]:
                continue
            observation, r, end, cut, info = env.step(action[i])
            if not math.isfinite(
                np.add.reduce(observation)
            ):  # one number tells it at a third of the price of looking at each
                finite(observation, "observation")
            self._observation[i] = observation
            reward[i] = r if math.isfinite(r) else finite(r, "reward")
            steps[i] = 1
            if info.get("success") or info.get("is_success"):
                success[i] = True
            if end or cut:
                terminated[i], truncated[i] = end, cut
                self._ended[i] = True
        return Step(self._observation.copy(), reward, terminated, truncated, steps, success)

    def close(self) -> None:
        for env in self.envs:
            env.close()


class ArrayEnvs:
    """Environments that are arrays already (`skillmeta.tasks.native.Native`): a step of all is a few calls of numpy.

    Args:
        native: the environments.
        num: how many it holds.
        unit_actions: as for SerialEnvs.
    """

    def __init__(self, native: Any, num: int, unit_actions: bool = True):
        self.native, self.num = native, num
        self.observation_dim = int(native.observation_dim)
        space = native.action_space
        self.discrete = isinstance(space, Discrete)
        if isinstance(space, Discrete):
            self.action_bound = np.ones(int(space.n), np.float32)
        else:
            self.middle, self.half = (space.high + space.low) / 2, (space.high - space.low) / 2
            self.unit = unit_actions
            self.action_bound = np.maximum(np.abs(space.low), np.abs(space.high)).astype(np.float32)
            if unit_actions:
                self.action_bound = np.ones_like(self.action_bound)
        self._alive, self._tasks = np.zeros(num, bool), list[object]()

    def reset(self, seeds: Sequence[int], tasks: Sequence[object] | None = None) -> np.ndarray:
        """Start an episode in every environment, from its seed and, where given, in its task. Returns [N, O]."""
        self._tasks = self._tasks if tasks is None else list(tasks)
        if len(self._tasks) != self.num:
            raise ValueError(f"{self.num} environments need as many tasks at their first reset, not {len(self._tasks)}")
        self._observation = self.native.reset(np.asarray(seeds, np.uint64), self._tasks)
        self._alive, self._done = np.ones(self.num, bool), 0
        return self._observation

    def step(self, action: np.ndarray, limit: int | None = None) -> Step:
        """One primitive step in every environment that has not ended; action [N, A]. `limit` changes nothing here."""
        alive = self._alive
        if self.discrete:
            chosen = action.argmax(1)
        elif self.unit:
            chosen = self.middle + self.half * np.minimum(np.maximum(action, -1.0), 1.0)
        else:
            chosen = action
        outcome = self.native.step(chosen)
        self._done += 1
        if alive.all():  # the usual case, without the price of masking
            observation, reward, success = outcome.observation, outcome.reward.astype(np.float32), outcome.success
        else:
            observation = np.where(alive[:, None], outcome.observation, self._observation)
            reward, success = np.where(alive, outcome.reward, 0).astype(np.float32), outcome.success & alive
        terminated = outcome.terminated & alive
        truncated = alive & ~terminated if self._done >= self.native.horizon else np.zeros(self.num, bool)
        if not math.isfinite(np.add.reduce(reward)):
            finite(reward, "reward")
        self._observation, self._alive = observation, alive & ~(terminated | truncated)
        return Step(observation, reward, terminated, truncated, alive.astype(np.int64), success)

    def close(self) -> None:
        pass


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
            f"{env}: the observations hold an image of shape {image.shape}; networks here take vectors, so leave it out or "
            "wrap the environment in one that encodes it"
        )
    if not isinstance(env.observation_space, Box) or len(env.observation_space.shape) != 1:
        env = gym.wrappers.FlattenObservation(env)
    space = env.action_space
    assert isinstance(space, Box)
    if unit_actions and not (np.all(space.low == -1) and np.all(space.high == 1)):
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise UserError(f"{env}: the action space {space} has no bounds; wrap it in one that has")
        env = gym.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))
    return env


def image_in(space: gym.Space) -> Box | None:
    """A part of an observation space that is an image: three axes or more, or two of bytes."""
    if isinstance(space, Dict | Tuple):
        parts = space.spaces.values() if isinstance(space, Dict) else space.spaces
        return next((image for part in parts if (image := image_in(part)) is not None), None)
    is_image = isinstance(space, Box) and (len(space.shape) > 2 or (len(space.shape) == 2 and space.dtype == np.uint8))
    return space if isinstance(space, Box) and is_image else None


def finite(value: Any, what: str) -> Any:
    """`value` if all of it is finite: a NaN is stopped before it reaches a buffer and from there the weights."""
    if not np.isfinite(value).all():
        raise UserError(f"the environment returned a {what} that is not finite ({value}); nothing of it was stored")
    return value


def episode(
    agent: Agent,
    envs: Envs,
    belief: Belief,
    seeds: Sequence[int],
    generator: torch.Generator,
    *,
    explore: bool = True,
    tasks: Sequence[object] | None = None,
    max_steps: int | None = None,
) -> tuple[Episodes, Belief]:
    """One episode in each of N environments, and the belief after its last observation.

    `max_steps`: a budget of primitive steps an environment; an episode that it cuts off is truncated, not terminated.
    """
    observation = envs.reset(seeds, tasks)
    alive, taken = np.ones(envs.num, bool), 0
    frames, rows = [observation], []
    while alive.any():
        with torch.inference_mode():
            action, belief = agent.act(torch.from_numpy(observation), belief, generator, explore)
        chosen = action.numpy()
        step = envs.step(chosen, None if max_steps is None else max_steps - taken)
        belief = agent.observe(belief, action, step)
        taken += int(step.steps.max())
        truncated = step.truncated
        if max_steps is not None and taken >= max_steps:
            truncated = truncated | (alive & ~step.terminated)
        rows.append((chosen, step.reward, step.terminated, truncated, step.steps, step.success, alive.copy()))
        alive = alive & ~(step.terminated | truncated)
        observation = step.observation
        frames.append(observation)
    columns = (np.stack(column, 1) for column in zip(*rows, strict=True))
    return Episodes(np.stack(frames, 1), *columns), belief


class Collector:
    """Gives an algorithm experience and counts its cost, in primitive environment steps.

    Resets and the noise of acting are functions of (seeds, episode), so that a resumed run sees what an uninterrupted one
    would have seen, and no state of simulators or generators has to be saved.
    """

    def __init__(self, envs: Envs, seeds: Seeds, budget: int, tasks: Sequence[object] | None = None):
        self.envs, self.seeds, self.budget, self.tasks = envs, seeds, budget, tasks
        self.env_steps = self.episodes = self.decisions = 0

    @property
    def spent(self) -> bool:
        return self.env_steps >= self.budget

    def episode(self, agent: Agent) -> Episodes:
        """One exploring episode in every environment; the budget cuts off the last one, so all methods use it exactly
        (up to N - 1 steps where N environments share it)."""
        seeds = self.seeds.stream("resets", self.episodes).integers(self.envs.num).tolist()
        generator = self.seeds.stream("acting", self.episodes).torch()
        left = -(-(self.budget - self.env_steps) // self.envs.num)
        belief = agent.begin(self.envs.num, generator)
        done, _ = episode(agent, self.envs, belief, seeds, generator, tasks=self.tasks, max_steps=left)
        self.env_steps += int(done.lengths.sum())
        self.decisions += int(done.valid.sum())
        self.episodes += self.envs.num
        return done

    def state(self) -> dict[str, int]:
        return {"env_steps": self.env_steps, "episodes": self.episodes, "decisions": self.decisions}

    def restore(self, state: dict[str, int]) -> None:
        self.env_steps, self.episodes, self.decisions = (
            state["env_steps"],
            state["episodes"],
            state["decisions"],
        )
