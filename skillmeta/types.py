"""What the parts of this project hand to each other. Read this file first.

Shape letters: N environments in lockstep, T decisions of an episode, K episodes of a trial; O, A the last axes of observations and
actions. A decision is one action of an actor. It takes one primitive environment step, or up to H of them in skill space. Steps are
always primitive environment steps.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol, TypeVar, Union, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

BeliefT = TypeVar("BeliefT")
BeliefT_contra = TypeVar("BeliefT_contra", contravariant=True)
Metrics = Mapping[str, float]
Task = Hashable  # a frozen dataclass; families differ in its fields


class Step(NamedTuple):
    """What one decision did in N environments. A named tuple: one is made at every primitive step."""

    observation: np.ndarray  # [N, O] float32
    reward: np.ndarray  # [N] float32, summed over the primitive steps
    terminated: np.ndarray  # [N] bool: the MDP ended, do not bootstrap
    truncated: np.ndarray  # [N] bool: it was cut off, bootstrap
    steps: np.ndarray  # [N] int64: primitive steps taken; 0 in an environment that had ended before
    success: np.ndarray  # [N] bool: info["success"] was true at any of the primitive steps


@dataclass(frozen=True)
class EpisodeArrays:
    """What happened, never what an algorithm thought of it. The leading axes `...` are [N] of episodes, [N, K] of trials."""

    observation: np.ndarray  # [..., T+1, O]; an environment that has ended holds still
    action: np.ndarray  # [..., T, A]
    reward: np.ndarray  # [..., T]
    terminated: np.ndarray  # [..., T] bool
    truncated: np.ndarray  # [..., T] bool
    steps: np.ndarray  # [..., T] int64, primitive steps
    success: np.ndarray  # [..., T] bool
    valid: np.ndarray  # [..., T] bool: False after the end of a shorter episode

    def __post_init__(self) -> None:
        lead, time = self.reward.shape[:-1], self.reward.shape[-1]
        for f in fields(self):
            expected = (*lead, time + 1) if f.name == "observation" else (*lead, time)
            if (found := getattr(self, f.name).shape[: len(expected)]) != expected:
                raise ValueError(f"{type(self).__name__}.{f.name} starts with {found}; {expected} is expected")

    @property
    def returns(self) -> np.ndarray:
        """Undiscounted return of each episode, [...]."""
        result: np.ndarray = (self.reward * self.valid).sum(-1)
        return result

    @property
    def succeeded(self) -> np.ndarray:
        """Success at any step, [...] bool: what Meta-World counts."""
        result: np.ndarray = (self.success & self.valid).any(-1)
        return result

    @property
    def succeeded_at_end(self) -> np.ndarray:
        """Success at the last decision, [...] bool: reached and kept."""
        last = self.valid.sum(-1, keepdims=True) - 1
        return np.take_along_axis(self.success, last, -1)[..., 0]

    @property
    def lengths(self) -> np.ndarray:
        """Primitive steps of each episode, [...]."""
        result: np.ndarray = (self.steps * self.valid).sum(-1)
        return result


@dataclass(frozen=True)
class Episodes(EpisodeArrays):
    """One episode in each of N environments, [N, T, ...], or one of a log, N = 1: what collectors, logs and replay exchange."""

    def rows(self, which: slice) -> Episodes:
        """Those of some environments."""
        return Episodes(*(getattr(self, f.name)[which] for f in fields(self)))

    def as_trials(self) -> Trials:
        """Trials of this one episode."""
        return Trials(*(getattr(self, f.name)[:, None] for f in fields(self)))


@dataclass(frozen=True)
class Trials(EpisodeArrays):
    """K episodes in each of N trials, [N, K, T, ...]."""

    def episodes(self, k: int) -> Episodes:
        """The k-th episode of every trial."""
        return Episodes(*(getattr(self, f.name)[:, k] for f in fields(self)))


@dataclass(frozen=True)
class Batch:
    """Trials and the tasks that they were in, each task `rollouts` times in a row."""

    trials: Trials  # [tasks * rollouts, K, T]
    tasks: tuple[Task, ...]


# -- environments -------------------------------------------------------------------------------------------------------------
class Observed(NamedTuple):
    """A named part of a flat observation."""

    key: str  # of a mapping; a/b where mappings are nested
    size: int  # numbers that it is


@dataclass(frozen=True, eq=False)
class EnvSpec:
    """What a learner knows of the environments that it learns in."""

    observation_dim: int
    action_bound: np.ndarray  # [A] float32; actions live in [-bound, bound]
    discrete: bool = False  # the largest of an action's A numbers chooses among A discrete actions; one-hot is exact
    shaped_reward: bool = False  # whether the family has a dense reward beside a sparse one
    observed: tuple[Observed, ...] = ()  # the parts of the observation, in its order, where the environment names them

    @property
    def action_dim(self) -> int:
        return len(self.action_bound)


class Envs(Protocol):
    """N environments in lockstep, without autoreset. One that has ended holds still: same observation, reward 0, steps 0."""

    @property
    def num(self) -> int: ...
    @property
    def spec(self) -> EnvSpec: ...

    def reset(self, seeds: Sequence[int], tasks: Sequence[Task] | None = None) -> np.ndarray:
        """Start an episode in each environment, from its seed and, where given, in its task. Returns [N, O]."""

    def step(self, action: np.ndarray, limit: int | None = None) -> Step:
        """One decision in each environment that has not ended; action [N, A]. It takes at most `limit` primitive steps."""

    def close(self) -> None: ...


# -- skills -------------------------------------------------------------------------------------------------------------------
class Prior(Protocol):
    """A distribution over actions at each of B observations: what a policy is pulled towards. Over [B, A]."""

    def rsample(self, noise: Tensor) -> Tensor:
        """The sample that standard normal noise [B, A] stands for."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of x [B, A]: [B], nats."""


class Skills(Protocol):
    """A learned action space. A skill is a vector [Z] that stands for H primitive actions."""

    @property
    def horizon(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def latent_bound(self) -> Tensor:
        """[Z] half the width of the box that skills are clipped to."""

    def normalize(self, observation: Tensor) -> Tensor:
        """Observations [..., O + F] as networks downstream see them. What skills do not see passes unchanged: F numbers of a
        goal or the task, anywhere in it."""

    def prior(self, observation: Tensor) -> Prior:
        """p(z given s) at observation [B, O + F]: over [B, Z]."""

    def encode(self, actions: Tensor, observations: Tensor) -> Prior:
        """q(z given a window) of actions [B, H, A] and observations [B, H, O + F] in the environment's units: over [B, Z]."""

    def fast_controller(self, z: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
        """What executes skills z [N, Z]: observations [N, O + F] and the step within the skill -> actions [N, A]."""

    def fitted_to(self, spec: EnvSpec, where: str) -> Skills:
        """The same skills, which see their parts of an environment's observations.

        Raises CheckpointError, naming `where`, for other observations or actions than theirs.
        """


# -- what is saved ------------------------------------------------------------------------------------------------------------
@runtime_checkable
class Growing(Protocol):
    """Rows, counted as they are added, of which some of the last are kept. A row never changes: a checkpoint writes those that the
    one before it does not have, and `restore` is given something that has all that were kept."""

    @property
    def origin(self) -> object:
        """Is the same object as long as rows are the same; `restore` takes over that of what it is given."""

    @property
    def kept(self) -> range: ...

    def rows(self, begin: int, end: int) -> Mapping[str, Tensor]:
        """The columns of some of them, [end - begin, ...] each."""


Storable = Union[Tensor, np.ndarray, int, float, str, bool, None, Growing, "list[Storable]", "State"]
State = dict[str, Storable]


class Stateful(Protocol):
    """Something whose state is plain storable values; see `skillmeta.run.parts`."""

    def state(self) -> State: ...
    def restore(self, state: State) -> None: ...


Part = nn.Module | torch.optim.Optimizer | torch.Generator | Tensor | Stateful
Parts = Mapping[str, "Part | Sequence[Part] | Parts"]


# -- acting and learning ------------------------------------------------------------------------------------------------------
class Actor(Protocol[BeliefT]):
    """What acts. A value: it is copied, sent to worker processes, saved and loaded. It has its parameters and no buffer.

    A belief is what is known of M tasks at hand, an explicit value: None for SAC, a posterior for PEARL, a recurrent state for RL2,
    adapted parameters for MAML. `rollouts` B: how many episodes of each task it wants at once before it adapts. The rows of act,
    observe and adapt are then [M * B], task by task. `exploration_episodes`: how many of a trial's first episodes serve to find out
    about the task, not to do well in it.
    """

    @property
    def rollouts(self) -> int: ...
    @property
    def exploration_episodes(self) -> int: ...

    def begin(self, tasks: int, generator: torch.Generator) -> BeliefT:
        """The belief of M tasks of which nothing is known."""

    def act(
        self, observation: Tensor, belief: BeliefT, generator: torch.Generator, explore: bool
    ) -> tuple[Tensor, BeliefT]:
        """Actions [N, A] at observations [N, O]: a sample of the policy, or its mode without `explore`."""

    def observe(self, belief: BeliefT, action: Tensor, step: Step) -> BeliefT:
        """The belief after a decision."""

    def adapt(self, belief: BeliefT, episodes: Episodes, generator: torch.Generator) -> BeliefT:
        """The belief after an episode."""

    def parts(self) -> Parts:
        """What is saved and loaded of it."""


@runtime_checkable
class InformedActor(Protocol):
    """An actor that begins with something known of N given tasks, which a batch of environments has only some of."""

    def of_tasks(self, rows: slice) -> Actor[Any]:
        """The actor of these tasks alone."""


@dataclass(frozen=True)
class Start:
    """What fine-tuning on a task begins with: what is known of the task, and the networks that act and judge on it."""

    features: Tensor  # [F] appended to every observation
    policy: nn.Module  # observations [B, O + F] -> actions; a residual policy's also take the prior of `skills`
    critics: nn.Module | None  # observations [B, O + F], actions [B, A] -> [n, B]; None: they are learned anew
    log_coefficient: Tensor | None  # of the divergence from the prior, a scalar; None: its config has the first
    normalizer: nn.Module | None = None  # of observations, where they have statistics of their own
    skills: Skills | None = None  # whose prior a residual policy is built on


@runtime_checkable
class TunableActor(Protocol[BeliefT_contra]):
    """An actor that another learner can continue from."""

    def start(self, belief: BeliefT_contra) -> Start:
        """What fine-tuning begins with, given what is known of one task."""


class Experience(Stateful, Protocol):
    """Where what is learned from comes from, and what it has cost: logs, or an environment."""

    @property
    def spent(self) -> bool:
        """Whether the budget is used up."""

    @property
    def fraction(self) -> float:
        """How much of the budget is used up, 0 to 1."""

    def cost(self) -> Mapping[str, int]:
        """What was used so far, by name. The budget is of the first number."""

    def scores(self) -> Metrics:
        """What the last call gave, in numbers."""


class Source(Experience, Protocol):
    """Online experience. What the n-th call gives is a function of the seeds, n and the actor."""

    def draw_tasks(self, count: int) -> tuple[Task, ...]:
        """Different training tasks, the same at every call. Raises ConfigError if there are not so many."""

    def episode(self, actor: Actor[BeliefT]) -> Episodes:
        """An exploring episode in each of N environments, in drawn tasks; the budget cuts the last one off."""

    def trials(self, actor: Actor[BeliefT], tasks: int, episodes: int) -> Batch:
        """K exploring episodes in each of M drawn tasks, `actor.rollouts` at a time."""

    def trials_in(self, actor: Actor[BeliefT], tasks: Sequence[Task], episodes: int) -> Batch:
        """The same in given tasks."""

    def shaped_reward(self, task: Task, episodes: Episodes) -> np.ndarray:
        """Rewards [N, T] that may be learned from in place of a task's sparse ones. Raises ConfigError where there are none."""


ExperienceT = TypeVar("ExperienceT", bound=Experience, contravariant=True)


class Trainable(Protocol[ExperienceT]):
    """What the loop trains (`skillmeta.run.loop`): a skill model or a learner."""

    @property
    def updates(self) -> int:
        """How many updates were made."""

    def iterate(self, source: ExperienceT) -> Metrics:
        """Collect or draw what it needs, update, report."""

    def parts(self) -> Parts:
        """Everything that a resumed run needs to continue as if it had not been interrupted."""


class Learner(Trainable[Source], Protocol[BeliefT]):
    """Learns to act. An algorithm's module has a `Config` and a class `Learner`, made as Learner(config, spec, skills, seeds)."""

    def actor(self) -> Actor[BeliefT]:
        """A copy of what acts, with no way back to the learner."""
