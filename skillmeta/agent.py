"""A trained run as something that acts in an environment of one's own: `skillmeta.load`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from skillmeta.config import build, read_yaml
from skillmeta.data.trials import join
from skillmeta.envs.make import make_envs
from skillmeta.envs.serial import observed_parts, prepare
from skillmeta.errors import ConfigError, UserError
from skillmeta.programs.adapt import ADAPTED, load_adapted
from skillmeta.programs.train import load_trained
from skillmeta.programs.train_config import config_of_run
from skillmeta.run.run import trained_config
from skillmeta.seeds import Seeds
from skillmeta.skills.vae import SkillModel
from skillmeta.tasks.base import ANY, TaskConfig, chosen_task, fixed_split, make_env, make_family, task_id
from skillmeta.trust import check_modules
from skillmeta.types import Actor, EnvSpec, Episodes, Skills, Step, Trials


def load(folder: str | Path, *, sample: bool = False, seed: int = 0, trust: bool = False) -> Agent:
    """What acts, of a finished run of `finetune` or `meta-train`, or of what `adapt` left in a folder.

    Args:
        folder: the `--out` of one of these commands.
        sample: act by samples of the policy, not by its mode.
        seed: of its samples.
        trust: import the modules that the folder names, where they are not part of skillmeta, which runs their code.

    Raises UserError for a folder that holds no such thing, or one that names a module of its own without `trust`.
    """
    folder = Path(folder)
    if (folder / ADAPTED).exists():
        actor: Actor[Any] = load_adapted(folder, trust)[0]
        about = read_yaml(folder / ADAPTED)
        made = Path(about["run"])
        task, run = build(TaskConfig, about["task"]), config_of_run(made, read_yaml(made / "config.yaml"))
    else:
        node = trained_config(folder, trust)
        check_modules({"task": node.get("task")}, folder / "config.yaml", trust)
        run = config_of_run(folder, node)
        task, family = run.task, make_family(run.task)
        actor = load_trained(folder, lambda skills, sees: make_envs(family, 1, skills, sees), trust).actor
    if run.see_task:
        raise UserError(
            f"{folder}: the agent sees the task, which an environment of your own does not show; evaluate it instead"
        )
    return Agent(actor, SkillModel.load(run.skills) if run.skills else None, task, run.seed, sample, seed)


class Agent:
    """Acts one primitive step at a time, in the environment's own units, and keeps the clock of its skills::

        agent, env = skillmeta.load("runs/maze-spirl"), gymnasium.make(...)
        observation, _ = env.reset()
        agent.reset()
        while not agent.done:
            observation, *rest = env.step(agent.act(observation))
            agent.observe(observation, *rest)

    What `observe` shows it is what it learns a task from, over the episodes of a trial. `new_task` begins another trial.

    Args:
        actor: what acts.
        skills: whose skills its actions are; None for primitive actions.
        task: where it was trained or adapted, whose spaces its environment has; of fresh draws, the family's first task.
        training_seed: of the run.
        sample, seed: as for `load`.
    """

    def __init__(
        self, actor: Actor[Any], skills: Skills | None, task: TaskConfig, training_seed: int, sample: bool, seed: int
    ):
        self.actor, self.training_seed, self.sample = actor, training_seed, sample
        self.task = task if task.split != ANY else fixed_split(make_family(task), task)
        env = self.make_env()
        self.observation_space, self.action_space = env.observation_space, env.action_space
        acted = prepare(env, unit_actions=skills is None).action_space
        assert isinstance(acted, spaces.Box)
        spec = EnvSpec(spaces.flatdim(env.observation_space), acted.high, observed=observed_parts(env))
        self.skills = None if skills is None else skills.fitted_to(spec, "skills")  # they see their parts of it
        env.close()
        self._generator = Seeds(seed).stream("acting").torch()
        self.new_task()

    def make_env(self, render_mode: str | None = None) -> gymnasium.Env:
        """An environment in the task that it was trained on or adapted to, as Gymnasium has them."""
        return make_env(self.task.family, self.task.split, self.task.index, dict(self.task.options), render_mode)

    def evaluation_seeds(self, episodes: int) -> list[int]:
        """Seeds of the resets of so many episodes of a run's final evaluation."""
        task = chosen_task(make_family(self.task), self.task)
        drawn = Seeds(self.training_seed, task_id(task)).stream("evaluation_resets", 0).integers(episodes)
        return [int(seed) for seed in drawn]

    # -- episodes --------------------------------------------------------------------------------------------------------
    def new_task(self) -> None:
        """Forget what was learned of a task, and begin another trial."""
        self._belief = self.actor.begin(1, self._generator)
        self._episode, self._finished = 0, list[Trials]()
        self._begin()

    def reset(self) -> None:
        """Begin an episode. What an episode before it showed, if it was observed to its end, is learned from."""
        if self.done and self._rows:
            self._finished.append(self._recorded().as_trials())
            self._episode += 1
            if len(self._finished) == self.actor.rollouts:
                episodes = join(self._finished).episodes(0)
                self._belief = self.actor.adapt(self._belief, episodes, self._generator)
                self._finished = []
        self._begin()

    def _begin(self) -> None:
        self.done = False
        self._rows: list[tuple[np.ndarray, Step]] = []
        self._frames: list[np.ndarray] = []
        self._decision: Tensor | None = None  # that is being carried out
        self._step, self._seen = 0, 0  # primitive steps of it: acted, observed
        self._sums = Sums()

    def act(self, observation: Any) -> Any:
        """The action, in the environment's own units, at an observation as the environment gives it.

        Raises UserError after the end of an episode, and for an observation that is not of the environment's space.
        """
        if self.done:
            raise UserError("the episode is over; call reset() before the next one begins")
        seen = self._flat(observation)
        horizon = 1 if self.skills is None else self.skills.horizon
        if self._decision is None or self._step == horizon:
            if self._decision is not None and self._seen != self._step and self._belief is not None:
                raise UserError(
                    "this agent learns from what its actions lead to: call observe(*env.step(action)) after each of them"
                )
            explore = self.sample or self._round < self.actor.exploration_episodes
            with torch.inference_mode():
                self._decision, self._belief = self.actor.act(
                    torch.from_numpy(seen), self._belief, self._generator, explore
                )
                chosen = self._decision.numpy()
                if self.skills is not None:
                    bound = self.skills.latent_bound.numpy()
                    self._control = self.skills.fast_controller(np.clip(chosen, -bound, bound))
            if not self._frames:
                self._frames.append(seen)
            self._step, self._seen, self._sums = 0, 0, Sums()
        with torch.inference_mode():
            action = self._decision.numpy() if self.skills is None else self._control(seen, self._step)
        self._step += 1
        return self._own_units(action[0])

    @property
    def _round(self) -> int:
        """Which of a trial's rounds of episodes this is."""
        return self._episode // self.actor.rollouts

    def observe(
        self,
        observation: Any,
        reward: Any,
        terminated: bool,
        truncated: bool,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        """What the last action led to, as `env.step` returns it."""
        if self._decision is None:
            raise UserError("nothing was done yet that could be observed; call act() first")
        info = info or {}
        self._seen += 1
        self._sums.reward += float(np.asarray(reward).reshape(()))
        self._sums.success |= bool(info.get("success", info.get("is_success", False)))
        self.done = bool(terminated or truncated)
        horizon = 1 if self.skills is None else self.skills.horizon
        if not self.done and self._seen < horizon:
            return
        frame = self._flat(observation)
        step = Step(
            frame,
            np.array([self._sums.reward], np.float32),
            np.array([bool(terminated)]),
            np.array([bool(truncated)]),
            np.array([self._seen]),
            np.array([self._sums.success]),
        )
        self._belief = self.actor.observe(self._belief, self._decision, step)
        self._rows.append((self._decision.numpy(), step))
        self._frames.append(frame)
        if self.done:
            self._decision = None

    def _recorded(self) -> Episodes:
        actions, steps = zip(*self._rows, strict=True)

        def column(name: str) -> np.ndarray:
            return np.stack([getattr(step, name) for step in steps], 1)

        return Episodes(
            observation=np.stack(self._frames, 1),
            action=np.stack(actions, 1),
            reward=column("reward"),
            terminated=column("terminated"),
            truncated=column("truncated"),
            steps=column("steps"),
            success=column("success"),
            valid=np.ones((1, len(steps)), bool),
        )

    # -- units -----------------------------------------------------------------------------------------------------------
    def _flat(self, observation: Any) -> np.ndarray:
        """[1, O] of an observation of the environment's space."""
        space = self.observation_space
        plain = isinstance(space, spaces.Box) and len(space.shape) == 1
        try:
            flat = np.asarray(observation if plain else spaces.flatten(space, observation), np.float32)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):  # whatever it is, it has no such parts
            raise ConfigError(f"the observation is not of the space that the agent was trained in ({space})") from None
        expected = spaces.flatdim(space)
        if flat.shape != (expected,):
            raise ConfigError(
                f"the observation has shape {flat.shape}; the agent was trained on {expected} numbers ({space})"
            )
        if not np.isfinite(flat).all():
            raise ConfigError("the observation has numbers that are not finite")
        return flat[None]

    def _own_units(self, action: np.ndarray) -> Any:
        space = self.action_space
        if isinstance(space, spaces.Discrete):
            return int(space.start) + int(np.argmax(action))
        assert isinstance(space, spaces.Box)
        if self.skills is None:
            middle, half = (space.high + space.low) / 2, (space.high - space.low) / 2
            action = middle + half * np.clip(action, -1, 1)
        if np.issubdtype(space.dtype, np.integer):
            action = np.rint(action)
        return np.clip(action, space.low, space.high).astype(space.dtype)


class Sums:
    """What a decision has given so far."""

    def __init__(self) -> None:
        self.reward, self.success = 0.0, False
