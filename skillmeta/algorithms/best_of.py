"""Best of N from the skill prior: Q-learning that has no policy network. Of N skills that the prior draws, it takes the best one.

    policy: z = argmax_n min_i Q_i(s, z_n)                                        z_1, ..., z_N ~ prior(.|s)
    y = r + gamma (1 - terminated) max_n min_i Qbar_i(s', z'_n)                   z'_1, ..., z'_N ~ prior(.|s')
    critics: sum_i 1/2 (Q_i(s, z) - y)^2         targets: Qbar <- (1 - tau) Qbar + tau Q

The operator is EMaQ's (Ghasemipour, Schuurmans, Gu 2021, arXiv:2007.11091), with a skill prior in place of a policy that was cloned
from logs. It stands where SPiRL has a divergence and its coefficient (`skillmeta.algorithms.sac`): whatever the critics say, the KL
of the best of N from the prior is at most log N - (N - 1) / N nats (Beirami et al. 2024, arXiv:2401.01879). With N = 1 it acts as
the prior. It needs samples of the prior alone, no density: any prior will do, a mixture or a flow too.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from skillmeta.config import NonNegativeFloat, PositiveFloat, PositiveInt, Share, checked
from skillmeta.data.replay import Replay, Transitions
from skillmeta.errors import ConfigError
from skillmeta.nn.cuda_graph import Graphed
from skillmeta.nn.networks import Critics
from skillmeta.nn.optimizers import SlowCopy, adam, apply_gradients
from skillmeta.objectives.soft_q import QFunction, min_q, td_error, td_target
from skillmeta.run.parts import Counts
from skillmeta.seeds import Seeds
from skillmeta.types import EnvSpec, Episodes, Metrics, Parts, Prior, Skills, Source, Step

METRICS = ("critic/loss", "critic/target", "candidates/gain")


@checked
class Config:
    """Sizes for a laptop, as those of SPiRL's presets."""

    candidates: PositiveInt = 8  # N, skills that the prior draws for a decision; 1: it acts as the prior
    hidden: PositiveInt = 128  # units of a layer of the critics
    critic_depth: PositiveInt = 2  # hidden layers
    learning_rate: PositiveFloat = 1e-3  # of the critics
    discount: Share = 0.99  # of a decision, not of a primitive step
    tau: Share = 0.005  # of the target critics
    batch_size: PositiveInt = 128  # decisions of an update
    updates_per_decision: NonNegativeFloat = 1.0  # 0: nothing is learned
    replay_capacity: PositiveInt = 1_000_000  # decisions


def candidates(prior: Prior, noise: Tensor) -> Tensor:
    """The samples of a prior over [B, A] that noise [N, B, A] stands for, [N, B, A]."""
    return torch.stack([prior.rsample(one) for one in noise])


def values(critics: QFunction, inputs: Tensor, drawn: Tensor, bound: Tensor) -> Tensor:
    """min_i Q_i of N candidates [N, B, A] at inputs [B, I], each as it is executed: [N, B]."""
    count, rows = drawn.shape[:2]
    return min_q(critics, inputs.repeat(count, 1), drawn.flatten(0, 1), bound).view(count, rows)


def best(critics: QFunction, inputs: Tensor, drawn: Tensor, bound: Tensor) -> Tensor:
    """Of N candidates [N, B, A] the one with the largest value, [B, A]."""
    chosen = values(critics, inputs, drawn, bound).argmax(0)
    return drawn[chosen, torch.arange(drawn.shape[1], device=drawn.device)]


@dataclass(frozen=True)
class Actor:
    """What acts. It infers nothing about a task: its belief is None."""

    always_samples: ClassVar[bool] = True  # it has no mode
    critics: Critics
    skills: Skills
    count: int  # N
    rollouts: int = 1
    exploration_episodes: int = 0

    def begin(self, tasks: int, generator: torch.Generator) -> None:
        return None

    def act(self, observation: Tensor, belief: None, generator: torch.Generator, explore: bool) -> tuple[Tensor, None]:
        """The best of N skills, each clipped to the box. Without `explore` it draws as well."""
        bound = self.skills.latent_bound
        noise = torch.randn(self.count, len(observation), len(bound), generator=generator)
        drawn = candidates(self.skills.prior(observation), noise).clamp(-bound, bound)
        return best(self.critics, self.skills.normalize(observation), drawn, bound), None

    def observe(self, belief: None, action: Tensor, step: Step) -> None:
        return None

    def adapt(self, belief: None, episodes: Episodes, generator: torch.Generator) -> None:
        return None

    def parts(self) -> Parts:
        return {"critics": self.critics}


class Learner:
    """The learner. Arguments as for SAC's (`skillmeta.algorithms.sac.Learner`); it needs skills."""

    def __init__(self, config: Config, spec: EnvSpec, skills: Skills | None, seeds: Seeds):
        if skills is None:
            raise ConfigError(
                "algorithm.name is best_of, which draws skills from their prior; name a skill model under `skills:`"
            )
        self.config, self.skills = config, skills
        sizes = spec.observation_dim, spec.action_dim
        self.critics = Critics(*sizes, config.hidden, config.critic_depth, seeds.stream("weights").torch())
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.slow_copy = SlowCopy(self.targets, self.critics)
        self.acting = Actor(self.critics, skills, config.candidates)
        self.optimizer = adam(self.critics.parameters(), config.learning_rate)
        self.replay = Replay(config.replay_capacity, *sizes)
        self.step = Graphed(self._step)
        self.generator = seeds.stream("updates").torch()
        self.counts = Counts()

    @property
    def updates(self) -> int:
        return self.counts.updates

    def actor(self) -> Actor:
        return copy.deepcopy(self.acting)

    def parts(self) -> Parts:
        return {
            "critics": self.critics,
            "targets": self.targets,
            "optimizer": self.optimizer,
            "replay": self.replay,
            "generator": self.generator,
            "counts": self.counts,
        }

    # -- learning --------------------------------------------------------------------------------------------------------
    def iterate(self, source: Source) -> Metrics:
        """One episode, then `updates_per_decision` updates for each of its decisions. Metrics are means over them."""
        episodes = source.episode(self.acting)
        self.replay.add(episodes)
        updates = self.counts.take(int(episodes.valid.sum()), self.config.updates_per_decision)
        sums = self.skills.latent_bound.new_zeros(len(METRICS))
        for _ in range(updates):
            sums += self.update(self.replay.sample(self.config.batch_size, self.generator))
        return dict(zip(METRICS, (sums / updates).tolist(), strict=True)) if updates else {}

    def update(self, batch: Transitions) -> Tensor:
        """One update of the critics and their target networks; returns the METRICS, a vector, until the next one."""
        noise = torch.randn(self.config.candidates, *batch.action.shape, generator=self.generator)
        metrics = self.step((batch, noise), self.skills.latent_bound.device)
        self.counts.updates += 1
        return metrics

    def _step(self, drawn: tuple[Transitions, Tensor]) -> Tensor:
        (batch, noise), bound = drawn, self.skills.latent_bound
        with torch.no_grad():
            tried = candidates(self.skills.prior(batch.next_observation), noise)
            found = values(self.targets, self.skills.normalize(batch.next_observation), tried, bound)
            target = td_target(batch.reward, batch.discount(self.config.discount), found.max(0).values)
            gain = found.max(0).values - found.mean(0)
        # A skill may leave the box: what is executed is what is valued.
        q = self.critics(self.skills.normalize(batch.observation), batch.action.clamp(-bound, bound))
        loss = 0.5 * td_error(q, target)
        apply_gradients(self.optimizer, torch.autograd.grad(loss, list(self.critics.parameters())))
        self.slow_copy.polyak_update(self.config.tau)
        return torch.stack([loss.detach(), target.mean(), gain.mean()])


def largest_divergence(count: int) -> float:
    """What the KL of the best of N from what it is drawn from is at most, nats."""
    return math.log(count) - (count - 1) / count


def describe(config: Config, acts_in: str, prior: str | None) -> str:
    """As SAC's `describe`."""
    if config.candidates == 1:
        return f"the prior, {prior}, acts in {acts_in}"
    far = f"at most {largest_divergence(config.candidates):.2f} nats from it"
    return f"the best of {config.candidates} that the prior, {prior}, draws acts in {acts_in}, {far}"
