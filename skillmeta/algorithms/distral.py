"""Distral on skills: a policy for each training task, and one that is distilled from all of them and kept.

Teh et al. 2017 (arXiv:1707.04175), whose entropy bonus is replaced by the skill prior p(z | s), as SPiRL replaces SAC's. An action
is a skill z. The policies of the tasks are pi_i, the distilled one is pi_0. All are residuals on the prior, which they equal at
the start. alpha is `distilled_share`; `regularizer` has the coefficient a.

    D_i(s) = alpha KL(pi_i || pi_0) + (1 - alpha) KL(pi_i || p)                             eq. 1, with p for uniform; a = 1 / beta
    y = r + gamma (1 - terminated) (min_k Qbar_k(s', i, z') - a min(D_i, clip))             TD target
    critics: 1/2 sum_k (Q_k(s, i, z) - y)^2              policies of the tasks: a D_i - min_k Q_k(s, i, z~pi_i)
    distilled policy: KL(pi_i || pi_0), pi_i a constant   the only term of eq. 1 that depends on it
    a: towards the target divergence                      targets: Qbar <- (1 - tau) Qbar + tau Q

It infers nothing about a task. On a new one pi_0 acts, and is what fine-tuning is held near (`start.prior: agent`): SiMPL's
reference MTRL. docs/algorithms/distral.md says what differs from the paper, and why.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from skillmeta.config import NonNegativeFloat, PositiveFloat, PositiveInt, Share, checked
from skillmeta.data.replay import Replay, Transitions, stack
from skillmeta.errors import ConfigError
from skillmeta.nn.cuda_graph import Graphed
from skillmeta.nn.distributions import Gaussian
from skillmeta.nn.networks import Critics
from skillmeta.nn.optimizers import SlowCopy, adam, apply_gradients
from skillmeta.nn.policies import ResidualPolicy, check_skills, choose_action, continuous_only, gaussian_prior
from skillmeta.objectives.regularizer import Regularizer, RegularizerConfig, described
from skillmeta.objectives.soft_q import actor_loss, min_q, soft_value, td_error, td_target
from skillmeta.run.parts import Counts
from skillmeta.seeds import Seeds
from skillmeta.types import EnvSpec, Episodes, Metrics, Parts, Skills, Source, Start, Step


def default_regularizer() -> RegularizerConfig:
    return RegularizerConfig(prior="skill", initial_coefficient=0.01, minimum_coefficient=0.01, target_divergence=1.0)


@checked
class Config:
    """Sizes for a laptop."""

    training_tasks: PositiveInt = 40  # drawn once, with a replay each
    tasks_per_iteration: PositiveInt = 10  # that are visited, each by its own policy
    episodes: PositiveInt = 2  # of a visit
    reuse: NonNegativeFloat = 128.0  # how often a visit's decision is learned from, on average: it gives the updates
    tasks: PositiveInt = 10  # of an update
    batch_size: PositiveInt = 256  # decisions of each
    distilled_share: Share = 0.5  # alpha, of the divergence from the distilled policy; the rest is from the prior
    regularizer: RegularizerConfig = field(default_factory=default_regularizer)  # of both together
    discount: Share = 0.99  # of a decision
    tau: Share = 0.005  # of the target critics
    learning_rate: PositiveFloat = 3e-4  # of all networks
    hidden: PositiveInt = 128  # units of a layer
    depth: PositiveInt = 3  # hidden layers
    replay_capacity: PositiveInt = 20_000  # decisions of a task

    def __post_init__(self) -> None:
        if self.regularizer.prior != "skill" or self.regularizer.divergence != "kl":
            raise ValueError("regularizer.prior must be skill and regularizer.divergence must be kl; set them so")
        if self.tasks > self.training_tasks or self.tasks_per_iteration > self.training_tasks:
            raise ValueError(
                f"tasks and tasks_per_iteration are at most training_tasks, which is {self.training_tasks}"
            )

    @property
    def iteration_episodes(self) -> tuple[int, int]:
        """Episodes of the first iteration and of a later one."""
        return self.training_tasks * self.episodes, self.tasks_per_iteration * self.episodes


@dataclass(frozen=True)
class Actor:
    """What acts: the distilled policy, or those of given tasks. It infers nothing about a task: its belief is None."""

    distilled: ResidualPolicy
    policies: ResidualPolicy  # of the tasks: one network that sees which task it is
    skills: Skills
    given: Tensor | None = (
        None  # [N, M] which of the M training tasks each of N is, one-hot; None: the distilled policy acts
    )
    rollouts: int = 1
    exploration_episodes: int = 0

    def of_tasks(self, rows: slice) -> Actor:
        return self if self.given is None else replace(self, given=self.given[rows])

    def begin(self, tasks: int, generator: torch.Generator) -> None:
        return None

    def act(self, observation: Tensor, belief: None, generator: torch.Generator, explore: bool) -> tuple[Tensor, None]:
        """Skills [N, Z] at observations [N, O]: a sample of the policy, or its mode without `explore`."""
        seen, prior = self.skills.normalize(observation), self.prior(observation)
        if self.given is None:
            policy = self.distilled(seen, prior)
        else:
            policy = self.policies(torch.cat([seen, self.given], -1), prior)
        return choose_action(policy, self.distilled.bound, generator, explore), None

    def observe(self, belief: None, action: Tensor, step: Step) -> None:
        return None

    def adapt(self, belief: None, episodes: Episodes, generator: torch.Generator) -> None:
        return None

    def prior(self, observation: Tensor) -> Gaussian:
        with torch.no_grad():
            return gaussian_prior(self.skills.prior(observation))

    def start(self, belief: None) -> Start:
        """Fine-tuning starts from the distilled policy. Its critics start anew: those here judge the training tasks."""
        return Start(self.distilled.bound.new_zeros(0), self.distilled, None, None, skills=self.skills)

    def parts(self) -> Parts:
        return {"distilled": self.distilled, "policies": self.policies}


class Learner:
    """The learner. Arguments as for SAC's (`skillmeta.algorithms.sac.Learner`); skills are required."""

    def __init__(self, config: Config, spec: EnvSpec, skills: Skills | None, seeds: Seeds):
        continuous_only(spec, "distral")
        check_skills(spec, skills)
        if skills is None:
            raise ConfigError("algorithm.name is distral, whose actions are skills; name a skill model under `skills:`")
        self.config, bound = config, torch.from_numpy(spec.action_bound)
        weights, shape = seeds.stream("weights").torch(), (config.hidden, config.depth)
        seen = spec.observation_dim + config.training_tasks
        self.distilled = ResidualPolicy(spec.observation_dim, bound, *shape, weights)
        self.policies = ResidualPolicy(seen, bound, *shape, weights)
        self.critics = Critics(seen, spec.action_dim, *shape, weights)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.slow_copy = SlowCopy(self.targets, self.critics)
        self.regularizer = Regularizer(config.regularizer, bound)
        self.acting = Actor(self.distilled, self.policies, skills)
        self.networks = (self.critics, self.policies, self.distilled)  # in the order of their losses
        self.optimizer = adam([p for network in self.networks for p in network.parameters()], config.learning_rate)
        self.replays = [
            Replay(config.replay_capacity, spec.observation_dim, spec.action_dim) for _ in range(config.training_tasks)
        ]
        self.step = Graphed(self.learn)
        self.generator = seeds.stream("updates").torch()
        self.counts = Counts()

    @property
    def updates(self) -> int:
        return self.counts.updates

    def actor(self) -> Actor:
        return copy.deepcopy(self.acting)

    def parts(self) -> Parts:
        return {
            "distilled": self.distilled,
            "policies": self.policies,
            "critics": self.critics,
            "targets": self.targets,
            "regularizer": self.regularizer.parts(),
            "optimizer": self.optimizer,
            "replays": self.replays,
            "generator": self.generator,
            "counts": self.counts,
        }

    # -- learning --------------------------------------------------------------------------------------------------------
    def iterate(self, source: Source) -> Metrics:
        """Visit some training tasks, then update as often as `reuse` says. The first time every task is visited."""
        config, before = self.config, self.counts.decisions
        every = config.training_tasks
        self.visit(
            source, list(range(every)) if self.counts.iterations == 0 else self.drawn(config.tasks_per_iteration)
        )
        self.counts.iterations += 1
        updates = round(config.reuse * (self.counts.decisions - before) / (config.tasks * config.batch_size))
        sums = self.distilled.bound.new_zeros(len(METRICS))
        for _ in range(updates):
            sums += self.step(self.draw(), self.distilled.bound.device)
        self.counts.updates += updates
        if not updates:
            return {}
        means = (sums / updates).tolist()
        return {**dict(zip(METRICS, means, strict=True)), "prior/coefficient": float(self.regularizer.coefficient())}

    def drawn(self, count: int) -> list[int]:
        """Numbers of so many different training tasks."""
        return torch.randperm(self.config.training_tasks, generator=self.generator)[:count].tolist()

    def which(self, numbers: list[int]) -> Tensor:
        """[N, M] training tasks by their numbers, one-hot."""
        return one_hot(torch.tensor(numbers), self.config.training_tasks).float().to(self.distilled.bound.device)

    def visit(self, source: Source, visited: list[int]) -> None:
        """Episodes in some training tasks, each by the policy of its task."""
        every, rows = (
            source.draw_tasks(self.config.training_tasks),
            [i for i in visited for _ in range(self.config.episodes)],
        )
        acting = replace(self.acting, given=self.which(rows))
        shown = source.trials_in(acting, [every[i] for i in rows], 1).trials.episodes(0)
        for row, number in enumerate(rows):
            self.replays[number].add(shown.rows(slice(row, row + 1)))
        self.counts.decisions += int(shown.valid.sum())

    def draw(self) -> tuple[Transitions, Tensor, Tensor]:
        """What one update learns from: decisions [N, ...] of some tasks, which task each is of [N, M], noise [2, N, Z]."""
        chosen, size = self.drawn(self.config.tasks), self.config.batch_size
        batch = stack([self.replays[i].sample(size, self.generator) for i in chosen]).flat()
        tasks = self.which(chosen).repeat_interleave(size, 0)
        return batch, tasks, torch.randn(2, *batch.action.shape, generator=self.generator)

    def learn(self, drawn: tuple[Transitions, Tensor, Tensor]) -> Tensor:
        """One update of critics, policies, coefficient and targets, with gradients at the same parameters; returns the METRICS."""
        (batch, tasks, noise), regularizer, acting = drawn, self.regularizer, self.acting
        bound, coefficient = self.distilled.bound, regularizer.coefficient()
        here, there = acting.prior(batch.observation), acting.prior(batch.next_observation)
        seen, next_seen = (acting.skills.normalize(x) for x in (batch.observation, batch.next_observation))
        now, following = torch.cat([seen, tasks], -1), torch.cat([next_seen, tasks], -1)
        with torch.no_grad():
            next_policy = self.policies(following, there)
            next_cost = regularizer.td_cost(self.divergence(next_policy, self.distilled(next_seen, there), there))
            next_q = min_q(self.targets, following, next_policy.rsample(noise[1]), bound)
            target = td_target(
                batch.reward, batch.discount(self.config.discount), soft_value(next_q, next_cost, coefficient)
            )
        critic_loss = 0.5 * td_error(self.critics(now, batch.action), target)
        policy, distilled = self.policies(now, here), self.distilled(seen, here)
        divergence = self.divergence(policy, constant(distilled), here)
        q = min_q(self.critics, now, policy.rsample(noise[0]), bound)
        policy_loss = actor_loss(q, divergence, coefficient)
        distillation_loss = constant(policy).kl(distilled).mean()
        gradients: list[Tensor] = []
        for loss, network in zip((critic_loss, policy_loss, distillation_loss), self.networks, strict=True):
            gradients += torch.autograd.grad(loss, list(network.parameters()))
        apply_gradients(self.optimizer, gradients)
        regularizer.update_coefficient(divergence.detach())
        self.slow_copy.polyak_update(self.config.tau)
        far = distilled.kl(here).mean()
        return torch.stack([critic_loss, policy_loss, distillation_loss, divergence.mean(), far]).detach()

    def divergence(self, policy: Gaussian, distilled: Gaussian, prior: Gaussian) -> Tensor:
        """D_i of each row, [N], nats."""
        share = self.config.distilled_share
        return share * policy.kl(distilled) + (1 - share) * policy.kl(prior)


METRICS = ("critic/loss", "actor/loss", "distilled/divergence", "prior/divergence", "distilled/prior_divergence")


def constant(policy: Gaussian) -> Gaussian:
    """The same, without gradients."""
    return Gaussian(policy.mean.detach(), policy.log_stddev.detach())


def describe(config: Config, acts_in: str, prior: str | None) -> str:
    """A config as a phrase for pages; arguments as for `skillmeta.algorithms.sac.describe`."""
    said = [f"Distral that acts in {acts_in}: the policy distilled from those of {config.training_tasks} tasks"]
    said.append(f"all start as the prior, {prior}")
    return "; ".join(
        [
            *said,
            f"held near a mix: {config.distilled_share:g} the distilled policy, {1 - config.distilled_share:g} the prior",
            described(config.regularizer),
        ]
    )
