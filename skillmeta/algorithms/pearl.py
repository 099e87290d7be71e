"""PEARL: what the task is, is inferred from a set of transitions; the policy acts on a sample of that belief.

Rakelly et al. 2019 (arXiv:1903.08254). An encoder gives each transition of the context a Gaussian factor over z; their product is
the posterior. SAC learns off-policy with z beside the observation; the encoder learns from the critics and from a KL.

    q(z | c) ~ prod_n N(mu(c_n), sigma(c_n)^2)        precision sum_n 1 / sigma_n^2, mean by precision
    encoder: critics' TD error + kl_weight KL(q || N(0, I))        critics: TD error        policy: weight D - min Q, z a constant
    acting:  z ~ N(0, I) at first, then z ~ q(z | everything seen in this trial), held over an episode

`oyster: true` switches two of the original code's habits back on: the KL is summed over the tasks of a batch, and tasks are drawn
with replacement. `deterministic: true` takes the mean of the factors for z and no KL (the paper's ablation).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skillmeta.errors import ConfigError
from skillmeta.nn.distributions import LOG_STDDEV_RANGE, Gaussian, TanhGaussian, gaussian, standard_gaussian
from skillmeta.nn.networks import MLP, Critics, identity
from skillmeta.nn.optimizers import adam, descend, follow, optimizer_state, restore_optimizer
from skillmeta.rl.meta import Batch, MetaCollector
from skillmeta.rl.regularizer import Policy, Prior, Regularizer, RegularizerConfig
from skillmeta.rl.replay import Replay, Transitions
from skillmeta.rl.rollout import Belief, Episodes, Step
from skillmeta.run.checkpoint import generator_state, restore_generator


@dataclass(frozen=True)
class Config:
    """Sizes for a laptop and the point robot; configs/meta has the others."""

    training_tasks: int = 80  # drawn once, with a replay and a context buffer each
    tasks_per_iteration: int = 5  # that are visited
    prior_episodes: int = 5  # of a visit, z ~ N(0, I): the context buffer, which is emptied before
    posterior_episodes: int = 5  # of a visit, z from what was seen in it: replay alone
    first_episodes: int = 10  # of every task, before the first update
    updates: int = 200  # of an iteration
    tasks: int = 8  # of an update
    batch_size: int = 128  # transitions of each
    context_size: int = 64  # transitions of each that z is inferred from
    next_observation: bool = False  # in the context too
    latent_dim: int = 5
    kl_weight: float = 0.1
    deterministic: bool = False
    oyster: bool = False
    reward_scale: float = 5.0
    regularizer: RegularizerConfig = field(default_factory=lambda: RegularizerConfig(initial_weight=0.2))
    discount: float = 0.99
    target_rate: float = 0.005
    learning_rate: float = 1e-3
    hidden: int = 128
    depth: int = 2
    exploration_episodes: int = 2  # of a test trial
    bfloat16: bool = False  # matrix products in bfloat16, for CPUs and GPUs that have it; parameters stay float32
    replay_capacity: int = 50_000  # transitions of a task
    context_capacity: int = 5_000

    def __post_init__(self) -> None:
        for name in ("training_tasks", "tasks_per_iteration", "prior_episodes", "first_episodes", "tasks", "batch_size",
                     "context_size", "latent_dim", "learning_rate", "hidden", "depth", "reward_scale"):  # fmt: skip
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if min(self.posterior_episodes, self.updates, self.kl_weight, self.exploration_episodes) < 0:
            raise ValueError("posterior_episodes, updates, kl_weight and exploration_episodes must not be below 0")


class Encoder(nn.Module):
    """Context [..., D] -> a Gaussian factor over z for each transition: mean and variance [..., Z]."""

    def __init__(self, inputs: int, config: Config, generator: torch.Generator):
        super().__init__()
        self.net = MLP(inputs, 2 * config.latent_dim, config.hidden, config.depth, generator)

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.net(context).float().chunk(2, -1)
        return mean, F.softplus(raw).clamp(min=1e-7)


class Evidence(NamedTuple):
    """A product of Gaussian factors, which adds up: [N, Z] each, and the number of factors [N]."""

    precision: Tensor
    weighted: Tensor  # sum of mean / variance
    factors: Tensor

    def plus(self, mean: Tensor, variance: Tensor, valid: Tensor) -> Evidence:
        """With the factors [N, C, Z] of more transitions, `valid` [N, C]."""
        keep = valid.unsqueeze(-1)
        precision = self.precision + (keep / variance).sum(1)
        return Evidence(precision, self.weighted + (keep * mean / variance).sum(1), self.factors + valid.sum(1))

    def posterior(self) -> Gaussian:
        """N(0, I) where nothing was seen; else the product of the factors, of which the prior is none (as in the paper)."""
        seen = (self.factors > 0).unsqueeze(-1)
        variance = torch.where(seen, 1 / self.precision.clamp(min=1e-12), torch.ones(()))
        mean = torch.where(seen, self.weighted * variance, torch.zeros(()))
        return Gaussian(mean, 0.5 * variance.log())


def nothing_seen(num: int, dim: int) -> Evidence:
    return Evidence(torch.zeros(num, dim), torch.zeros(num, dim), torch.zeros(num))


def infer(encoder: Encoder, context: Tensor, valid: Tensor) -> Gaussian:
    """q(z | c) of contexts [M, C, D]; the order of transitions is of no matter."""
    mean, variance = encoder(context)
    return nothing_seen(len(context), mean.shape[-1]).plus(mean, variance, valid).posterior()


class PolicyNetwork(nn.Module):
    """Observation and z -> distribution over actions: squashed into the box, or a residual on the skill prior."""

    bound: Tensor

    def __init__(self, inputs: int, bound: Tensor, residual: bool, config: Config, generator: torch.Generator):
        super().__init__()
        self.residual = residual
        self.net = MLP(inputs, 2 * len(bound), config.hidden, config.depth, generator)
        self.register_buffer("bound", bound)
        if residual:
            with torch.no_grad():
                for parameter in self.net.layers[-1].parameters():
                    parameter.zero_()

    def forward(self, seen: Tensor, prior: Gaussian | None) -> Policy:
        out = self.net(seen).float()
        if not self.residual:
            return TanhGaussian(gaussian(out), self.bound)
        assert prior is not None
        shift, log_ratio = out.chunk(2, -1)
        return Gaussian(prior.mean + shift, (prior.log_stddev + log_ratio).clamp(*LOG_STDDEV_RANGE))


class Believed(NamedTuple):
    """What is known of N tasks, and the z that is acted on until the episode ends."""

    evidence: Evidence
    z: Tensor  # [N, Z]


@dataclass(frozen=True)
class Actor:
    """What acts. The context is this trial's alone: there is no way from here to a buffer."""

    policy: PolicyNetwork
    encoder: Encoder
    config: Config
    normalize: Any
    prior: Prior | None
    adapts: bool = True  # false: z ~ N(0, I) in every episode, as the context is collected
    rollouts: int = 1

    @property
    def exploration_episodes(self) -> int:
        return self.config.exploration_episodes

    def begin(self, num: int, generator: torch.Generator) -> Belief:
        return self.believe(nothing_seen(num, self.config.latent_dim), generator)

    def believe(self, evidence: Evidence, generator: torch.Generator) -> Believed:
        """A sample of the posterior, to be held (posterior sampling); its mean where z is deterministic."""
        posterior = evidence.posterior()
        if self.config.deterministic:
            return Believed(
                evidence, torch.where((evidence.factors > 0).unsqueeze(-1), posterior.mean, torch.zeros(()))
            )
        noise = torch.randn(posterior.mean.shape, generator=generator)
        return Believed(evidence, posterior.at(noise))

    def act(
        self, observation: Tensor, belief: Believed, generator: torch.Generator, explore: bool
    ) -> tuple[Tensor, Belief]:
        prior = None if self.prior is None else self.prior(observation)
        policy = self.policy(torch.cat([self.normalize(observation), belief.z], -1), prior)
        bound = self.policy.bound
        if explore:
            action = policy.at(torch.randn(len(observation), len(bound), generator=generator))
        else:
            action = policy.mode()
        return action.clamp(-bound, bound), belief

    def observe(self, belief: Belief, action: Tensor, step: Step) -> Belief:
        return belief

    def adapt(self, belief: Believed, episodes: Episodes, generator: torch.Generator) -> Belief:
        """Everything that the episode showed is evidence; then z is drawn anew."""
        if not self.adapts:
            return self.begin(len(belief.z), generator)
        valid = torch.from_numpy(episodes.valid).float()
        context = self.context(
            torch.from_numpy(episodes.observation[:, :-1]),
            torch.from_numpy(episodes.action),
            torch.from_numpy(episodes.reward),
            torch.from_numpy(episodes.observation[:, 1:]),
        )
        with torch.no_grad():
            mean, variance = self.encoder(context)
        return self.believe(belief.evidence.plus(mean, variance, valid), generator)

    def context(self, observation: Tensor, action: Tensor, reward: Tensor, following: Tensor) -> Tensor:
        """Transitions as the encoder sees them, [..., D]. How an episode ended is not among it."""
        parts = [self.normalize(observation), action / self.policy.bound, reward.unsqueeze(-1)]
        if self.config.next_observation:
            parts.append(self.normalize(following))
        return torch.cat(parts, -1)


# -- the losses: functions of (networks, batch, noise) -----------------------------------------------------------------
def td_target(
    targets: Critics, policy: Policy, prior: Gaussian | None, regularizer: Regularizer, next_seen: Tensor,
    reward: Tensor, discount: Tensor, noise: Tensor,
) -> Tensor:  # fmt: skip
    """r + discount (min Qbar(s', z, a') - weight D), [B]."""
    divergence = regularizer.in_target(regularizer.divergence(policy, prior, noise))
    value = targets(next_seen, policy.at(noise)).float().min(0).values - regularizer.weight() * divergence
    return reward + discount * value


def kl_loss(posterior: Gaussian, summed: bool) -> Tensor:
    """KL(q(z | c) || N(0, I)), averaged over the tasks of a batch, or summed as in the original code."""
    divergence = posterior.kl(standard_gaussian(posterior.mean))
    return divergence.sum() if summed else divergence.mean()


class Agent:
    """The learner. Arguments as for the other meta-learners."""

    def __init__(
        self,
        config: Config,
        observation_dim: int,
        action_bound: np.ndarray,
        discrete: bool = False,
        prior: Prior | None = None,
        normalize: Any = None,
        seed: int = 0,
    ):
        if discrete:
            raise ConfigError("PEARL's policy is continuous; this family's actions are choices")
        if (config.regularizer.prior == "skill") != (prior is not None):
            raise ConfigError("regularizer.prior: skill and a skill model under `skills:` go together")
        self.config, bound = config, torch.from_numpy(np.asarray(action_bound, np.float32))
        weights = torch.Generator().manual_seed(seed)
        inputs = observation_dim + len(bound) + 1 + (observation_dim if config.next_observation else 0)
        seen = observation_dim + config.latent_dim
        self.encoder = Encoder(inputs, config, weights)
        self.policy = PolicyNetwork(seen, bound, prior is not None, config, weights)
        self.critics = Critics(seen, len(bound), config.hidden, config.depth, weights)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.regularizer = Regularizer(config.regularizer, bound)
        self.acting = Actor(self.policy, self.encoder, config, normalize or identity, prior)
        self.exploring = Actor(self.policy, self.encoder, config, normalize or identity, prior, adapts=False)
        rate = config.learning_rate
        self.policy_optimizer = adam(self.policy.parameters(), rate)
        self.critic_optimizer = adam([*self.critics.parameters(), *self.encoder.parameters()], rate)
        self.replays = [
            Replay(config.replay_capacity, observation_dim, len(bound)) for _ in range(config.training_tasks)
        ]
        self.contexts = [
            Replay(config.context_capacity, observation_dim, len(bound)) for _ in range(config.training_tasks)
        ]
        self.filled = [0] * config.training_tasks  # the iteration that a context buffer is from
        self.tasks: tuple[object, ...] | None = None
        self.draws = torch.Generator().manual_seed(seed + 1)
        self.updates = self.iterations = 0

    def actor(self) -> Actor:
        return copy.deepcopy(self.acting)

    # -- learning --------------------------------------------------------------------------------------------------------
    def iterate(self, collect: MetaCollector) -> tuple[Batch, dict[str, float]]:
        """Visit some training tasks, then update. The first time every task is visited."""
        if self.tasks is None:
            self.tasks = self.training_tasks(collect)
        config = self.config
        if self.iterations == 0:
            visited, prior_episodes = list(range(config.training_tasks)), config.first_episodes
        else:
            count, every = config.tasks_per_iteration, config.training_tasks
            drawn = (
                torch.randint(every, (count,), generator=self.draws)
                if config.oyster
                else torch.randperm(every, generator=self.draws)[:count]
            )
            visited, prior_episodes = list(dict.fromkeys(drawn.tolist())), config.prior_episodes
        batch = self.visit(collect, visited, prior_episodes)
        self.iterations += 1
        sums = torch.zeros(len(METRICS))
        for _ in range(config.updates):
            sums += self.update()
        age = float(np.mean([self.iterations - filled for filled in self.filled]))
        means = (sums / max(1, config.updates)).tolist()
        told = {**dict(zip(METRICS, means, strict=True)), "context/age": age}
        return batch, {**told, "prior/coefficient": float(self.regularizer.weight())}

    def training_tasks(self, collect: MetaCollector) -> tuple[object, ...]:
        """Different tasks, drawn once: a function of the run's seed, so that they need not be saved."""
        generator = np.random.default_rng([collect.run_seed, 99])
        found: dict[object, None] = {}
        for _ in range(1000 * self.config.training_tasks):
            found[collect.draw(generator)] = None
            if len(found) == self.config.training_tasks:
                break
        else:
            raise ConfigError(
                f"training_tasks is {self.config.training_tasks}; the split has {len(found)} different tasks"
            )
        return tuple(found)

    def visit(self, collect: MetaCollector, visited: list[int], prior_episodes: int) -> Batch:
        """Episodes with z from the prior fill context and replay, those with z from the posterior the replay alone."""
        assert self.tasks is not None
        tasks = tuple(self.tasks[i] for i in visited)
        first = collect.in_tasks(self.exploring, tuple(t for t in tasks for _ in range(prior_episodes)), 1)
        later = collect.in_tasks(self.acting, tasks, 1 + self.config.posterior_episodes)
        for row, number in enumerate(visited):
            self.contexts[number].added = 0
            self.filled[number] = self.iterations + 1
            own = slice(row * prior_episodes, (row + 1) * prior_episodes)
            episodes = rows(first.trials.episodes(0), own)
            self.contexts[number].add(episodes)
            self.replays[number].add(episodes)
            for k in range(1 + self.config.posterior_episodes):
                self.replays[number].add(rows(later.trials.episodes(k), slice(row, row + 1)))
        return later

    def update(self) -> Tensor:
        """One update of encoder, critics, policy, weight and targets on some tasks; returns the METRICS."""
        config, normalize = self.config, self.acting.normalize
        every, count = config.training_tasks, min(config.tasks, config.training_tasks)
        chosen = (
            torch.randint(every, (count,), generator=self.draws)
            if config.oyster
            else torch.randperm(every, generator=self.draws)[:count]
        ).tolist()
        batch = stacked([self.replays[i].sample(config.batch_size, self.draws) for i in chosen])
        seen = stacked([self.contexts[i].sample(config.context_size, self.draws) for i in chosen])
        context = self.acting.context(seen.observation, seen.action, seen.reward, seen.next_observation)
        # Without autocast's cache: two losses would share cast weights, and each gradient frees what it went through.
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16, cache_enabled=False):
            posterior = infer(self.encoder, context, torch.ones(context.shape[:2]))
            z_noise = torch.randn(posterior.mean.shape, generator=self.draws)
            noise = torch.randn(2, *batch.action.flatten(0, 1).shape, generator=self.draws)
            z = posterior.mean if config.deterministic else posterior.at(z_noise)
            z = z.unsqueeze(1).expand(-1, config.batch_size, -1).flatten(0, 1)  # one for all transitions of a task

            flat = Transitions(*(getattr(batch, name).flatten(0, 1) for name in batch.__dataclass_fields__))
            here, there = self.prior_at(flat.observation), self.prior_at(flat.next_observation)
            now = torch.cat([normalize(flat.observation), z], -1)
            following = torch.cat([normalize(flat.next_observation), z.detach()], -1)
            with torch.no_grad():
                target = td_target(
                    self.targets, self.policy(following, there), there, self.regularizer, following,
                    config.reward_scale * flat.reward, flat.discount(config.discount, False), noise[0],
                )  # fmt: skip
            error = ((self.critics(now, flat.action).float() - target) ** 2).sum(0).mean()
            kl = kl_loss(posterior, config.oyster)
            total = error + (0.0 if config.deterministic else config.kl_weight) * kl
            learners = [*self.critics.parameters(), *self.encoder.parameters()]
            gradients = torch.autograd.grad(total, learners)

            held = now.detach()  # the encoder learns nothing from the policy
            policy = self.policy(held, here)
            divergence = self.regularizer.divergence(policy, here, noise[1])
            value = self.critics(held, policy.at(noise[1])).float().min(0).values
            policy_loss = (self.regularizer.weight() * divergence - value).mean()
            policy_gradients = torch.autograd.grad(policy_loss, list(self.policy.parameters()))

        descend(self.critic_optimizer, gradients)
        descend(self.policy_optimizer, policy_gradients)
        self.regularizer.control(divergence.detach())
        follow(self.targets, self.critics, config.target_rate)
        self.updates += 1
        return torch.stack([error.detach(), policy_loss.detach(), kl.detach(), divergence.detach().mean()])

    def prior_at(self, observation: Tensor) -> Gaussian | None:
        if self.acting.prior is None:
            return None
        with torch.no_grad():
            return self.acting.prior(observation)

    # -- on disk --------------------------------------------------------------------------------------------------------
    def acting_state(self) -> dict[str, Any]:
        return {"policy": dict(self.policy.state_dict()), "encoder": dict(self.encoder.state_dict())}

    def load_acting(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self.encoder.load_state_dict(state["encoder"])

    def state(self) -> dict[str, Any]:
        return {
            **self.acting_state(),
            "critics": dict(self.critics.state_dict()),
            "targets": dict(self.targets.state_dict()),
            "log_weight": self.regularizer.log_weight,
            "policy_optimizer": optimizer_state(self.policy_optimizer),
            "critic_optimizer": optimizer_state(self.critic_optimizer),
            "weight_optimizer": optimizer_state(self.regularizer.optimizer),
            "replays": {str(i): replay.state() for i, replay in enumerate(self.replays)},
            "contexts": {str(i): replay.state() for i, replay in enumerate(self.contexts)},
            "filled": torch.tensor(self.filled),
            "draws": generator_state(self.draws),
            "updates": self.updates,
            "iterations": self.iterations,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.load_acting(state)
        self.critics.load_state_dict(state["critics"])
        self.targets.load_state_dict(state["targets"])
        self.regularizer.log_weight.copy_(state["log_weight"])
        restore_optimizer(self.policy_optimizer, state["policy_optimizer"])
        restore_optimizer(self.critic_optimizer, state["critic_optimizer"])
        restore_optimizer(self.regularizer.optimizer, state["weight_optimizer"])
        for kind, buffers in (("replays", self.replays), ("contexts", self.contexts)):
            for number, replay in enumerate(buffers):
                replay.restore(state[kind][str(number)])
        self.filled = state["filled"].tolist()
        restore_generator(self.draws, state["draws"])
        self.updates, self.iterations = state["updates"], state["iterations"]


METRICS = ("critic/loss", "actor/loss", "posterior/kl", "prior/divergence")


def rows(episodes: Episodes, which: slice) -> Episodes:
    return Episodes(*(getattr(episodes, name)[which] for name in episodes.__dataclass_fields__))


def stacked(batches: list[Transitions]) -> Transitions:
    """Batches of several tasks as one, [M, B, ...]."""
    names = batches[0].__dataclass_fields__
    return Transitions(*(torch.stack([getattr(batch, name) for batch in batches]) for name in names))
