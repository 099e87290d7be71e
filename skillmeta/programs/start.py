"""Fine-tuning that begins with a trained agent: `start` of `skillmeta finetune`.

The agent first acts for some episodes. Then its policy and critics, as far as it has them, are trained on; with `prior: agent` its
policy is what a new one starts as and is held near. A meta-trained agent infers what the task is, as in a test trial, and what it
inferred is appended to every observation: SiMPL's protocol (Nam et al. 2022, section 4.3). One that was fine-tuned on another task
infers nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from skillmeta.config import NonNegativeInt, checked
from skillmeta.errors import ConfigError
from skillmeta.evaluation.adapted import AdaptedAgent, pack, unpack
from skillmeta.nn.policies import ResidualPolicy
from skillmeta.run.parts import Counts
from skillmeta.seeds import Seeds
from skillmeta.skills.priors import WithPrior
from skillmeta.types import Actor, Batch, Episodes, Metrics, Parts, Source, Start, State, Step, Task, TunableActor


@checked
class StartConfig:
    """What is known at the beginning."""

    run: str = ""  # folder of a finished run of simpl, pearl, distral or sac whose agent fine-tuning starts from
    episodes: NonNegativeInt = (
        20  # in the task, from which that agent infers it; they count as the run's first episodes
    )
    keep: bool = True  # they are learned from too
    algorithm: str = ""  # of that run, where it is a module of your own; it is imported
    prior: Literal["skill", "agent"] = "skill"  # what the policy is held near: the skill prior, or that agent's policy

    def __post_init__(self) -> None:
        if not self.run:
            raise ValueError("run is missing; name the --out of a finished run")


class StartingLearner(Protocol):
    """What can be trained on from a start: SAC."""

    @property
    def updates(self) -> int: ...
    def start_from(self, start: Start, policy: bool = True) -> None: ...
    def iterate(self, source: Source) -> Metrics: ...
    def actor(self) -> Actor[Any]: ...
    def parts(self) -> Parts: ...


@dataclass(frozen=True)
class WithFeatures:
    """An actor that sees the same features appended to every observation."""

    actor: Actor[Any]
    features: Tensor  # [F]
    rollouts: int = 1
    exploration_episodes: int = 0

    def begin(self, tasks: int, generator: torch.Generator) -> Any:
        return self.actor.begin(tasks, generator)

    def act(self, observation: Tensor, belief: Any, generator: torch.Generator, explore: bool) -> tuple[Tensor, Any]:
        seen = torch.cat([observation, self.features.expand(observation.shape[0], -1)], -1)
        return self.actor.act(seen, belief, generator, explore)

    def observe(self, belief: Any, action: Tensor, step: Step) -> Any:
        return self.actor.observe(belief, action, step)

    def adapt(self, belief: Any, episodes: Episodes, generator: torch.Generator) -> Any:
        return self.actor.adapt(belief, episodes, generator)

    def start(self, belief: Any) -> Start:
        """Fine-tuning continues with the same features."""
        assert isinstance(self.actor, TunableActor)
        return replace(self.actor.start(belief), features=self.features)

    def parts(self) -> Parts:
        return {"actor": self.actor.parts(), "features": self.features}


@dataclass
class Known:
    """What is known of the task so far, and what it was inferred from (`skillmeta.types.Stateful`)."""

    belief: Any
    features: Tensor  # [F]
    shown: list[Episodes] = field(default_factory=list)

    def state(self) -> State:
        shown: State = {
            str(i): {f.name: getattr(one, f.name) for f in fields(Episodes)} for i, one in enumerate(self.shown)
        }
        return {"belief": {"belief": pack(self.belief)}, "features": self.features, "shown": shown}

    def restore(self, state: State) -> None:
        saved: dict[str, Any] = dict(state)
        self.belief = unpack(self.belief, saved["belief"]["belief"])
        self.features.copy_(saved["features"])
        arrays = [saved["shown"][str(i)] for i in range(len(saved["shown"]))]
        self.shown = [Episodes(**{name: np.asarray(values) for name, values in one.items()}) for one in arrays]


class StartedLearner:
    """Fine-tuning from a start (`skillmeta.types.Learner`).

    Args:
        config: see `StartConfig`.
        agent: the meta-trained agent.
        make: the learner that continues, for so many features, on skills with another prior where that is given.
        seeds: of the run.

    Raises ConfigError for an agent or a learner that knows no start.
    """

    def __init__(
        self,
        config: StartConfig,
        agent: Actor[Any],
        make: Callable[[int, WithPrior | None], StartingLearner],
        seeds: Seeds,
    ):
        if not isinstance(agent, TunableActor):
            raise ConfigError(
                f"start.run: {config.run}: fine-tuning cannot start from its agent; simpl's, pearl's, distral's and sac's will do"
            )
        self.config, self.agent, self.generator = config, agent, seeds.stream("start").torch()
        start = agent.start(belief := agent.begin(1, self.generator))
        self.known, self.counts = Known(belief, start.features.clone()), Counts()
        held = held_near(start, config)
        self.learner = make(len(start.features), held)
        if not hasattr(self.learner, "start_from"):
            raise ConfigError(
                "start is given, and algorithm.name is of a learner that cannot start from another; sac can"
            )
        self.learner.start_from(start, policy=held is None)

    @property
    def updates(self) -> int:
        return self.learner.updates

    def actor(self) -> WithFeatures:
        return WithFeatures(self.learner.actor(), self.known.features.clone())

    def parts(self) -> Parts:
        return {
            "learner": self.learner.parts(),
            "known": self.known,
            "counts": self.counts,
            "generator": self.generator,
        }

    def iterate(self, source: Source) -> Metrics:
        """One episode: of the agent that gets to know the task, or of the learner that continues."""
        self.counts.iterations += 1
        if self.counts.iterations <= self.config.episodes:
            return self.get_to_know(source)
        appended, metrics = Appended(source, self.known), dict[str, float]()
        while self.known.shown:  # what the agent showed is learned from before anything new is collected
            metrics = dict(self.learner.iterate(appended))
        return self.learner.iterate(appended) or metrics

    def get_to_know(self, source: Source) -> Metrics:
        known = self.known
        episodes = source.episode(AdaptedAgent(self.agent, known.belief))
        known.belief = self.agent.adapt(known.belief, episodes, self.generator)
        assert isinstance(self.agent, TunableActor)
        known.features.copy_(self.agent.start(known.belief).features)
        if self.config.keep:
            known.shown.append(episodes)
        return {}


class Appended:
    """A source whose episodes show the features of the task behind every observation, to what acts in them and to what learns from
    them (`skillmeta.types.Source`). First come the episodes in which the agent got to know the task, as far as they are kept."""

    def __init__(self, source: Source, known: Known):
        self.source, self.known = source, known

    @property
    def spent(self) -> bool:
        return self.source.spent

    @property
    def fraction(self) -> float:
        return self.source.fraction

    def cost(self) -> Mapping[str, int]:
        return self.source.cost()

    def scores(self) -> Metrics:
        return self.source.scores()

    def state(self) -> State:
        return self.source.state()

    def restore(self, state: State) -> None:
        self.source.restore(state)

    def draw_tasks(self, count: int) -> tuple[Task, ...]:
        return self.source.draw_tasks(count)

    def episode(self, actor: Actor[Any]) -> Episodes:
        if self.known.shown:
            return self.appended(self.known.shown.pop(0))
        return self.appended(self.source.episode(WithFeatures(actor, self.known.features)))

    def trials(self, actor: Actor[Any], tasks: int, episodes: int) -> Batch:
        raise ConfigError(
            "start is given, and the algorithm asks for trials; one that asks for single episodes can start from another"
        )

    def trials_in(self, actor: Actor[Any], tasks: Sequence[Task], episodes: int) -> Batch:
        return self.trials(actor, len(tasks), episodes)

    def shaped_reward(self, task: Task, episodes: Episodes) -> np.ndarray:
        return self.source.shaped_reward(task, episodes)

    def appended(self, episodes: Episodes) -> Episodes:
        """The features behind every observation, [N, T + 1, O + F]."""
        features = np.broadcast_to(
            self.known.features.numpy(), (*episodes.observation.shape[:2], len(self.known.features))
        )
        return replace(episodes, observation=np.concatenate([episodes.observation, features], -1))


def held_near(start: Start, config: StartConfig) -> WithPrior | None:
    """Skills whose prior is the agent's policy, p(z | s, what it knows of the task); None where the skill prior stays.

    Raises ConfigError for an agent without skills, or one that is held near another agent itself.
    """
    chained = isinstance(start.skills, WithPrior) and isinstance(start.skills.instead, ResidualPolicy)
    if config.prior == "skill":
        if chained:
            raise ConfigError(
                f"start.run: {config.run}: its policy is held near another agent's; set start.prior to agent"
            )
        return None
    if start.skills is None or not isinstance(start.policy, ResidualPolicy):
        raise ConfigError(
            f"start.prior is agent, and the policy of {config.run} is no residual on a prior; set it to skill"
        )
    return WithPrior(start.skills, copy.deepcopy(start.policy).requires_grad_(False))
