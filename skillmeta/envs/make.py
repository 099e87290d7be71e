"""Environments in lockstep for whoever learns: primitive actions or skills, one by one or as arrays, the task hidden or seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from skillmeta.envs.batched import BatchedEnvs
from skillmeta.envs.serial import SerialEnvs
from skillmeta.envs.skill_space import SkillEnvs
from skillmeta.errors import UserError
from skillmeta.seeds import Seeds
from skillmeta.skills.vae import SkillModel
from skillmeta.tasks.base import Task, TaskConfig, TaskFamily, make_family
from skillmeta.types import Envs, EnvSpec, Skills, Step


def make_envs(family: TaskFamily, num: int, skills: Skills | None = None, see_task: bool = False) -> Envs:
    """N environments of a family.

    Args:
        skills: act by skills; by default in primitive actions in [-1, 1], or discrete ones.
        see_task: append the task's features to the observation, for an oracle.
    """
    unit_actions = skills is None  # a decoder speaks the environment's own units
    envs: Envs
    if family.native is not None:
        envs = BatchedEnvs(family.native(num), num, unit_actions)
    else:
        envs = SerialEnvs(family.make_env, num, unit_actions, family.max_episode_steps)
    if skills is not None:
        envs = SkillEnvs(envs, skills)
    return TaskSeen(envs, family) if see_task else envs


@dataclass(frozen=True)
class EnvsFactory:
    """`make_envs` as a value that can be sent to a worker process."""

    task: TaskConfig
    skills: str | None = None
    see_task: bool = False
    expert: bool = False  # the family's expert acts, whatever the agent says

    def __call__(self, num: int) -> Envs:
        if self.expert:
            return ExpertEnvs(make_family(self.task), num)
        skills = SkillModel.load(self.skills) if self.skills else None
        return make_envs(make_family(self.task), num, skills, self.see_task)


class TaskSeen:
    """`Envs` whose observation ends with the task's features: what an oracle learns from."""

    def __init__(self, envs: Envs, family: TaskFamily):
        self.envs, self.features = envs, family.features
        some = next(iter(family.splits.values()))[0]
        self.num = envs.num
        self.spec = replace(envs.spec, observation_dim=envs.spec.observation_dim + len(family.features(some)))

    def reset(self, seeds: Sequence[int], tasks: Sequence[Task] | None = None) -> np.ndarray:
        if tasks is not None:
            self._seen = np.stack([self.features(task) for task in tasks]).astype(np.float32)
        return self._with(self.envs.reset(seeds, tasks))

    def step(self, action: np.ndarray, limit: int | None = None) -> Step:
        done = self.envs.step(action, limit)
        return done._replace(observation=self._with(done.observation))

    def _with(self, observation: np.ndarray) -> np.ndarray:
        return np.concatenate([observation, self._seen], 1)

    def close(self) -> None:
        self.envs.close()


class ExpertEnvs:
    """`Envs` in which the family's expert acts; the action that is passed is ignored. An oracle for whoever runs episodes."""

    def __init__(self, family: TaskFamily, num: int):
        if family.expert is None:
            raise UserError(f"{family.name}: the family has no expert that knows the task")
        self.expert, self.num = family.expert, num
        self.envs = SerialEnvs(family.make_env, num, False, family.max_episode_steps)
        self.spec = EnvSpec(self.envs.spec.observation_dim, np.ones(1, np.float32))

    def reset(self, seeds: Sequence[int], tasks: Sequence[Task] | None = None) -> np.ndarray:
        self._observation = self.envs.reset(seeds, tasks)
        # The expert's noise is its own: the same seed must not give it the numbers that drew the start.
        generators = [Seeds(int(seed)).stream("expert").numpy() for seed in seeds]
        self._experts = [self.expert(env, own) for env, own in zip(self.envs.envs, generators, strict=True)]
        self._alive = np.ones(self.num, bool)
        return self._observation

    def step(self, action: np.ndarray, limit: int | None = None) -> Step:
        chosen = np.zeros((self.num, self.envs.spec.action_dim), np.float32)
        for i in np.flatnonzero(self._alive):
            action = self._experts[i](self._observation[i])
            if self.envs.spec.discrete:
                chosen[i, int(action)] = 1
            else:
                chosen[i] = action
        done = self.envs.step(chosen)
        self._observation, self._alive = done.observation, self._alive & ~(done.terminated | done.truncated)
        return done

    def close(self) -> None:
        self.envs.close()
