"""Skill space as an environment: one decision z runs up to H primitive steps.

`run_skills` is the whole semi-MDP and exists once. Around it: `SkillEnvs` for the agents here (N in lockstep, one decoder
call a step), `SkillEnv` for any Gymnasium or Stable-Baselines3 code, and `SkillVectorEnv` for Gymnasium's vector interface.
The transition of a decision is (s when z was chosen, z, sum of the rewards, s after the last step), whatever ended it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Dict
from gymnasium.spaces.utils import flatdim, flatten
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array

from skillmeta.envs.serial import observed_parts, single_number
from skillmeta.errors import UserError
from skillmeta.skills.vae import SkillModel
from skillmeta.types import Envs, EnvSpec, Skills, Step, Task

REPORTED = ("success", "is_success")  # what an info calls success; the second is Stable-Baselines3's name


def run_skills(
    skills: Skills,
    z: np.ndarray,
    observation: np.ndarray,
    alive: np.ndarray,
    step: Callable[[np.ndarray], Step],
    *,
    limit: int | None = None,
    discount: float = 1.0,
) -> Step:
    """Execute skills z [N, Z] from observation [N, O] in the environments that are `alive` [N].

    Args:
        step: one primitive step of all N environments; those that have ended hold still.
        limit: at most this many primitive steps, where less than the horizon is left of a budget.
        discount: gamma of a primitive step inside the skill; 1 sums rewards as SPiRL does.

    Returns:
        What the decision did. A skill is cut short where its environment ends; `steps` says after how many.
    """
    reward = np.zeros(len(z), np.float32)
    steps = np.zeros(len(z), np.int64)
    terminated, truncated, success = np.zeros((3, len(z)), bool)
    alive = alive.copy()
    with torch.inference_mode():
        controller = skills.fast_controller(z)
        for h in range(skills.horizon if limit is None else min(limit, skills.horizon)):
            taken = step(controller(observation, h))
            observation = taken.observation
            reward += taken.reward if discount == 1 else discount**h * taken.reward
            steps += taken.steps
            success |= taken.success
            if True in taken.terminated.tolist() or True in taken.truncated.tolist():
                ended = taken.terminated | taken.truncated
                terminated |= taken.terminated
                truncated |= taken.truncated
                alive &= ~ended
                if not alive.any():
                    break
    return Step(observation, reward, terminated, truncated, steps, success)


class SkillEnvs:
    """`Envs` whose action is a skill z [N, Z] in the decoder's own units, clipped to the model's latent bound."""

    def __init__(self, envs: Envs, skills: Skills):
        if envs.spec.discrete:
            raise UserError("skills are sequences of continuous actions; this family's actions are discrete")
        self.envs, self.num = envs, envs.num
        self.skills = skills.fitted_to(envs.spec, "skill space")
        self.spec = replace(envs.spec, action_bound=skills.latent_bound.numpy())

    def reset(self, seeds: Sequence[int], tasks: Sequence[Task] | None = None) -> np.ndarray:
        self._observation = self.envs.reset(seeds, tasks)
        self._alive = np.ones(self.num, bool)
        return self._observation

    def step(self, action: np.ndarray, limit: int | None = None) -> Step:
        z = np.clip(action, -self.spec.action_bound, self.spec.action_bound)
        done = run_skills(self.skills, z, self._observation, self._alive, self.envs.step, limit=limit)
        self._observation = done.observation
        self._alive = self._alive & ~(done.terminated | done.truncated)
        return done

    def close(self) -> None:
        self.envs.close()


class SkillEnv(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """A Gymnasium environment whose action is a skill.

    The action is a Box(-1, 1, [Z]), scaled inside to z = action * bound, so that any learner's exploration fits. The info of
    a step is the last primitive step's, with `env_steps` (primitive steps taken) and, where the environment reports success,
    `success` and `is_success`, Stable-Baselines3's name for it (true at any of them). Recorders such as Gymnasium's RecordVideo go
    inside, where they see each primitive step: SkillEnv(RecordVideo(env, "films"), skills).

    Args:
        env: an environment with the Box actions that the skills were trained on, and a flat Box observation or a Dict, of which
            skills see the keys that their logs had, and the learner everything.
        skills: a skill model, or the folder of one.
        discount: gamma of a primitive step inside a skill; 1 (the default) sums rewards. Tell your learner gamma per
            decision: with gamma per primitive step g it is about g ** horizon.
        bound: half the width of the box in z, per dimension; by default four standard deviations of the skills that the
            logs were encoded to.
    """

    def __init__(
        self, env: gym.Env, skills: SkillModel | str | Path, discount: float = 1.0, bound: float | None = None
    ):
        skills = str(skills) if isinstance(skills, Path) else skills
        gym.utils.RecordConstructorArgs.__init__(self, skills=skills, discount=discount, bound=bound)
        gym.Wrapper.__init__(self, env)
        self.skills = fitted(skills, env)
        self.discount = discount
        if bound is not None and not 0 < bound < np.inf:
            raise UserError(f"SkillEnv: bound is {bound}; it must be above 0")
        self.bound = self.skills.latent_bound.numpy() if bound is None else np.full(self.skills.dim, bound, np.float32)
        self.action_space = Box(-1.0, 1.0, (self.skills.dim,), np.float32)
        self.env_steps = 0  # primitive steps since construction
        self._observation: Any = None  # the last one

    def _flat(self, observation: Any) -> np.ndarray:
        return flat(self.env.observation_space, observation)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._observation, info = self.env.reset(seed=seed, options=options)
        return self._observation, info

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        info: dict[str, Any] = {}
        total = 0.0  # in double precision: float32 would lose the last digits of the environment's rewards
        factor = 1.0
        reported: list[str] = []

        def primitive(actions: np.ndarray) -> Step:
            nonlocal info, total, factor
            low = actions[0].astype(self.env.action_space.dtype)
            self._observation, reward, terminated, truncated, info = self.env.step(low)
            reward = single_number(reward)
            total += factor * reward
            factor *= self.discount
            reported.extend(name for name in REPORTED if name in info)
            success = any(bool(info.get(name)) for name in REPORTED)
            return single(self._flat(self._observation), reward, bool(terminated), bool(truncated), success)

        if self._observation is None:
            raise UserError("there is no observation yet; call reset before the first step")
        z = (within(action, self.action_space) * self.bound).astype(np.float32)[None]
        start = self._flat(self._observation)[None]
        done = run_skills(self.skills, z, start, np.ones(1, bool), primitive, discount=self.discount)
        steps = int(done.steps[0])
        self.env_steps += steps
        info = {**info, "env_steps": steps}
        info |= {name: bool(done.success[0]) for name in REPORTED if reported}
        return self._observation, total, bool(done.terminated[0]), bool(done.truncated[0]), info


class SkillVectorEnv(VectorEnv):
    """N environments in Gymnasium's vector interface, their actions skills, one decoder call a primitive step for all.

    Autoreset is Gymnasium's default, next step: the step after an episode's last one resets that environment, takes no skill
    there (reward 0, `env_steps` 0), and returns its first observation. Arguments as for `SkillEnv`.
    """

    def __init__(
        self, make_envs: Sequence[Callable[[], gym.Env]], skills: SkillModel | str | Path, discount: float = 1.0
    ):
        self.envs = [make() for make in make_envs]
        self.num_envs, self.discount = len(self.envs), discount
        first = self.envs[0]
        self.skills = fitted(skills, first)
        self.metadata = {**first.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space = first.observation_space
        self.single_action_space = Box(-1.0, 1.0, (self.skills.dim,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.bound = self.skills.latent_bound.numpy()
        self._ended = np.ones(self.num_envs, bool)
        self._observation: list[Any] = [None] * self.num_envs

    def _batched(self) -> Any:
        """What all environments show, as their space says: a copy."""
        space = self.single_observation_space
        room: Any = create_empty_array(space, self.num_envs)
        return concatenate(space, self._observation, room)

    def _flat(self) -> np.ndarray:
        return np.stack([flat(self.single_observation_space, observation) for observation in self._observation])

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        seeds = [None] * self.num_envs if seed is None else seed
        if isinstance(seeds, int):
            seeds = [seeds + i for i in range(self.num_envs)]
        infos: dict[str, Any] = {}
        for i, env in enumerate(self.envs):
            self._observation[i], info = env.reset(seed=seeds[i], options=options)
            infos = self._add_info(infos, info, i)
        self._ended[:] = False
        return self._batched(), infos

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        last: list[dict[str, Any]] = [{} for _ in self.envs]
        running = ~self._ended
        for i in np.flatnonzero(self._ended):
            self._observation[i], last[i] = self.envs[i].reset()
        alive, reported = running.copy(), np.zeros(self.num_envs, bool)

        def primitive(low: np.ndarray) -> Step:
            reward, steps = np.zeros(self.num_envs, np.float32), alive.astype(np.int64)
            terminated, truncated, success = np.zeros((3, self.num_envs), bool)
            for i in np.flatnonzero(alive):
                env = self.envs[i]
                self._observation[i], gained, terminated[i], truncated[i], last[i] = env.step(
                    low[i].astype(env.action_space.dtype)
                )
                reward[i] = single_number(gained)
                reported[i] |= any(name in last[i] for name in REPORTED)
                success[i] = any(bool(last[i].get(name)) for name in REPORTED)
            alive[terminated | truncated] = False
            return Step(self._flat(), reward, terminated, truncated, steps, success)

        z = (within(actions, self.action_space) * self.bound).astype(np.float32)
        done = run_skills(self.skills, z, self._flat(), running, primitive, discount=self.discount)
        self._ended = done.terminated | done.truncated
        infos: dict[str, Any] = {}
        for number, info in enumerate(last):
            extended = {**info, "env_steps": int(done.steps[number])}
            extended |= {name: bool(done.success[number]) for name in REPORTED if reported[number]}
            infos = self._add_info(infos, extended, number)
        return self._batched(), done.reward.astype(np.float64), done.terminated, done.truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        for env in self.envs:
            env.close()


def within(action: np.ndarray, space: gym.Space[Any]) -> np.ndarray:
    """An action, clipped to [-1, 1]. Raises UserError for one of another shape, which NumPy would repeat until it fits."""
    if np.shape(action) != space.shape:
        raise UserError(f"the action has shape {np.shape(action)}, the action space {space.shape}")
    return np.asarray(np.clip(action, -1, 1))


def fitted(skills: SkillModel | str | Path, env: gym.Env) -> SkillModel:
    """Skills in an environment of Gymnasium's. Raises UserError for spaces that they do not act in, or were not trained on."""
    space, actions = env.observation_space, env.action_space
    name = env.spec.id if env.spec else str(env)
    if not isinstance(space, Dict) and not (isinstance(space, Box) and len(space.shape) == 1):
        raise UserError(f"{name}: observations are {space}; skills need a one-dimensional Box, or a Dict of them")
    if not (isinstance(actions, Box) and len(actions.shape) == 1):
        raise UserError(f"{name}: actions are {actions}; skills need a one-dimensional Box")
    model = SkillModel.load(skills) if isinstance(skills, str | Path) else skills
    return model.fitted_to(EnvSpec(flatdim(space), np.abs(actions.high), observed=observed_parts(env)), name)


def flat(space: gym.Space[Any], observation: Any) -> np.ndarray:
    """An observation as its numbers in a row, [O] float32."""
    return np.asarray(observation if isinstance(space, Box) else flatten(space, observation), np.float32)


def single(observation: Any, reward: float, terminated: bool, truncated: bool, success: bool) -> Step:
    """The step of one environment as a `Step` of N = 1."""
    return Step(
        np.asarray(observation, np.float32)[None],
        np.array([reward], np.float32),
        np.array([terminated]),
        np.array([truncated]),
        np.ones(1, np.int64),
        np.array([success]),
    )
