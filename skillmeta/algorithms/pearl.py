"""PEARL: what the task is, is inferred from a set of transitions; the policy acts on a sample of that belief.

Rakelly et al. 2019 (arXiv:1903.08254). An encoder gives each transition of the context a Gaussian factor over z; their product is
the posterior. SAC learns off-policy with z beside the observation; the encoder learns from the critics and from a KL.

    q(z | c) ~ prod_n N(mu(c_n), sigma(c_n)^2)        precision sum_n 1 / sigma_n^2, mean by precision (nn/context.py)
    encoder: critics' TD error + kl_weight KL(q || N(0, I))        critics: TD error        policy: weight D - min Q, z a constant
    acting:  z ~ N(0, I) at first, then z ~ q(z | everything seen in this trial), held over an episode

`encoder` replaces the product by another way to sum up a context; `deterministic` takes its mean for z and no KL (an ablation of
the paper). Where rewards are sparse, `shaped_reward` lets critics and policy learn from the family's dense ones, while the context
has those that a test will have. Most such contexts tell no more than where the goal is not, and the z that is best for the critics
then is a compromise, nothing worth trying. With a `teacher` z is inferred in training from dense rewards, by an encoder that
learns from the critics as above; the agent's own learns to foretell that z from the beginning of a trial (task inference with
privileged information, Humplik et al. 2019, arXiv:1905.06424). So its belief is of every z that may still be, as posterior sampling
wants it, from the first episode on:

    own encoder: -log q(z | beginning of a trial), a mixture of Gaussians        z ~ teacher(z | transitions with dense rewards)

With `latent_dim: 0` there is no z, and contexts change nothing: SAC on many tasks, which infers none (configs/meta/no_context_*).
With the task in its observation (`see_task`) it is an oracle.

Five habits of the original code can be switched back on: the KL summed over the tasks of a batch, tasks drawn with replacement, a
network for the value of states instead of target critics, a penalty on the policy's numbers, and,
by `regularizer: {controller: fixed, initial_weight: 1.0}`, a temperature of 1 (configs/meta/pearl_point_oyster).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from skillmeta.collect.meta import Batch, MetaCollector
from skillmeta.data.contexts import Visits
from skillmeta.data.replay import Replay, Transitions, stack
from skillmeta.errors import ConfigError
from skillmeta.nn.context import ENCODERS, ORDERED, ContextEncoder, Evidence
from skillmeta.nn.context import Belief as ContextBelief
from skillmeta.nn.distributions import LOG_STDDEV_RANGE, Gaussian, Mixture, TanhGaussian, gaussian, standard_gaussian
from skillmeta.nn.networks import MLP, Critics, identity
from skillmeta.nn.optimizers import adam, descend, follow, optimizer_state, restore_optimizer
from skillmeta.objectives.regularizer import Policy, Prior, Regularizer, RegularizerConfig
from skillmeta.run.checkpoint import generator_state, restore_generator
from skillmeta.seeds import Seeds
from skillmeta.types import Belief, Episodes, Step


@dataclass(frozen=True)
class Config:
    """Sizes for a laptop and the point robot; configs/meta has the others."""

    training_tasks: int = 80  # drawn once, with a replay and a context buffer each
    tasks_per_iteration: int = 5  # that are visited
    prior_episodes: int = 5  # of a visit, z ~ N(0, I): the "recent" context
    posterior_episodes: int = 5  # of the trial of a visit, after the first; z from what was seen in the trial
    first_episodes: int = 10  # of every task, before the first update
    updates: int = 200  # of an iteration
    tasks: int = 8  # of an update
    batch_size: int = 128  # transitions of each
    context: str = "recent"  # drawn from the last visit | trial: the first episodes of a trial, as a test has them
    context_visits: int = 1  # of whose trials one is drawn, as far as they fit into context_capacity
    context_size: int = 64  # transitions of each task that z is inferred from, at most
    next_observation: bool = False  # in the context too
    posterior_to_context: bool = False  # episodes with z from the posterior are context as well; sparse rewards need it
    shaped_reward: bool = False  # critics and policy learn from the family's dense reward
    teacher: bool = False  # it infers z from those rewards while learning, and the encoder learns to foretell its z
    teacher_size: int = 64  # transitions of each task that the teacher is shown
    components: int = 10  # Gaussians that a belief is a mixture of, where there is a teacher
    encoder: str = "product"  # product | mean | attention | gru | convolution
    encoder_hidden: int = 0  # its width; 0: as wide as the others
    prior_factor: bool = False  # N(0, I) is a factor of the product too, and transitions give precisions
    latent_dim: int = 5  # 0: no z
    kl_weight: float = 0.1
    kl_reduction: str = "mean"  # over the tasks of a batch: mean | sum, as in the original code
    deterministic: bool = False
    replacement: bool = False  # tasks are drawn with replacement, as in the original code
    value_network: bool = False  # SAC with V and its slow copy instead of slow critics, as in the original code
    policy_penalty: float = 0.0  # on the squares of the policy's means and log deviations; 0.001 in the original code
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
                     "context_size", "context_visits", "teacher_size", "components", "learning_rate", "hidden", "depth",
                     "reward_scale"):  # fmt: skip
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("posterior_episodes", "updates", "latent_dim", "kl_weight", "exploration_episodes", "policy_penalty",
                     "encoder_hidden"):  # fmt: skip
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be below 0")
        if self.prior_factor and self.encoder != "product":
            raise ValueError(f"prior_factor is of encoder: product, not of {self.encoder}; leave one of them out")
        recent = self.context == "recent"
        if self.posterior_to_context and not recent:
            raise ValueError("posterior_to_context is of context: recent; a trial's context has all of its episodes")
        if recent and self.context_visits != 1:
            raise ValueError("context_visits is of context: trial; leave it out")
        if self.teacher and (recent or not self.shaped_reward or self.encoder == "product"):
            raise ValueError(
                "teacher needs shaped_reward: true to learn from, context: trial, whose beginnings are what is foretold "
                "from, and an encoder other than product, since a product of Gaussians is no mixture"
            )
        choices_of = {"encoder": ENCODERS, "kl_reduction": ("mean", "sum"), "context": ("recent", "trial")}
        for name, choices in choices_of.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}")


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


class Drawn(NamedTuple):
    """What one update learns from, of M tasks: B transitions of each, and contexts of C and of P transitions."""

    batch: Transitions  # [M, B, ...]
    context: Tensor  # [M, C, D]
    valid: Tensor  # [M, C] 1 where the context has a transition
    privileged: Tensor | None  # [M, P, D] the teacher's context
    latent_noise: Tensor  # [M, Z]
    noise: Tensor  # [2, M * B, A] of actions at next observations, and at observations


@dataclass(frozen=True)
class Actor:
    """What acts. The context is this trial's alone: there is no way from here to a buffer."""

    policy: PolicyNetwork
    encoder: ContextEncoder
    config: Config
    normalize: Any
    prior: Prior | None
    adapts: bool = True  # false: z ~ N(0, I) in every episode, as the context is collected
    rollouts: int = 1

    @property
    def exploration_episodes(self) -> int:
        return self.config.exploration_episodes

    def begin(self, num: int, generator: torch.Generator) -> Belief:
        return self.believe(self.encoder.nothing(num), generator)

    def believe(self, evidence: Evidence, generator: torch.Generator) -> Believed:
        """A sample of the posterior, to be held (posterior sampling); its mean where z is deterministic."""
        with torch.no_grad():
            posterior = self.encoder.posterior(evidence)
        if self.config.deterministic:
            return Believed(evidence, posterior.mean)
        tasks, dim = posterior.mean.shape
        numbers = dim + 1 if isinstance(posterior, Mixture) else dim
        return Believed(evidence, posterior.at(torch.randn(tasks, numbers, generator=generator)))

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
            evidence = self.encoder.plus(belief.evidence, context, valid)
        return self.believe(evidence, generator)

    def context(self, observation: Tensor, action: Tensor, reward: Tensor, following: Tensor) -> Tensor:
        """Transitions as the encoder sees them, [..., D]. How an episode ended is not among it."""
        parts = [self.normalize(observation), action / self.policy.bound, reward.unsqueeze(-1)]
        if self.config.next_observation:
            parts.append(self.normalize(following))
        return torch.cat(parts, -1)


# -- the losses: functions of (networks, batch, noise) -----------------------------------------------------------------
def judged(
    critics: Critics,
    policy: Policy,
    prior: Gaussian | None,
    regularizer: Regularizer,
    seen: Tensor,
    noise: Tensor,
    bound: Tensor,
) -> tuple[Tensor, Tensor]:
    """min Q(s, z, a) of the action that `noise` [B, A] stands for, and the policy's divergence from the prior, [B] each. The
    action is clipped to the box as in acting: only executed actions have values."""
    q = critics(seen, policy.at(noise).clamp(-bound, bound)).float().min(0).values
    return q, regularizer.divergence(policy, prior, noise)


def soft_value(q: Tensor, divergence: Tensor, regularizer: Regularizer) -> Tensor:
    """V(s, z) = Q - weight D, [B], as targets see it."""
    return q - regularizer.weight() * regularizer.in_target(divergence)


def foretelling_loss(belief: ContextBelief, z: Tensor, deterministic: bool) -> Tensor:
    """-log q(z | c) of the z [N, Z] that a teacher inferred; its squared error, where latents are their mean."""
    if deterministic:
        return ((belief.mean - z) ** 2).sum(-1).mean()
    assert isinstance(belief, Mixture)
    return -belief.log_prob(z).mean()


def kl_loss(posterior: Gaussian, reduction: str) -> Tensor:
    """KL(q(z | c) || N(0, I)), averaged over the tasks of a batch, or summed as in the original code."""
    divergence = posterior.kl(standard_gaussian(posterior.mean))
    return divergence.sum() if reduction == "sum" else divergence.mean()


def penalty(policy: Policy) -> Tensor:
    """Mean squares of what the policy network says, which keeps a squashed policy away from the corners."""
    base = policy.base if isinstance(policy, TanhGaussian) else policy
    return (base.mean**2).mean() + (base.log_stddev**2).mean()


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
        *,
        seeds: Seeds,
    ):
        if discrete:
            raise ConfigError("PEARL's policy is continuous; this family's actions are choices")
        if (config.regularizer.prior == "skill") != (prior is not None):
            raise ConfigError("regularizer.prior: skill and a skill model under `skills:` go together")
        if prior is not None and config.policy_penalty:
            raise ConfigError("policy_penalty keeps a squashed policy from the corners; on skills nothing is squashed")
        if prior is not None and config.shaped_reward:
            raise ConfigError(
                "shaped_reward is of primitive steps, and these actions are skills; leave one of them out"
            )
        self.config, bound = config, torch.from_numpy(np.asarray(action_bound, np.float32))
        weights = seeds.stream("weights").torch()
        inputs = observation_dim + len(bound) + 1 + (observation_dim if config.next_observation else 0)
        seen = observation_dim + config.latent_dim
        width = config.encoder_hidden or config.hidden

        def encoder(kind: str, components: int = 0) -> ContextEncoder:
            shape = (inputs, config.latent_dim, width, config.depth, config.prior_factor)
            return ContextEncoder(kind, *shape, weights, components)

        self.encoder = encoder(config.encoder, config.components if config.teacher else 0)
        self.policy = PolicyNetwork(seen, bound, prior is not None, config, weights)
        self.critics = Critics(seen, len(bound), config.hidden, config.depth, weights)
        self.teacher = encoder("product") if config.teacher else None
        self.values = MLP(seen, 1, config.hidden, config.depth, weights) if config.value_network else None
        self.targets = copy.deepcopy(self.values or self.critics).requires_grad_(False)
        self.regularizer = Regularizer(config.regularizer, bound)
        self.acting = Actor(self.policy, self.encoder, config, normalize or identity, prior)
        self.exploring = Actor(self.policy, self.encoder, config, normalize or identity, prior, adapts=False)
        rate = config.learning_rate
        self.policy_optimizer = adam(self.policy.parameters(), rate)
        self.inference = nn.ModuleList(part for part in (self.encoder, self.teacher) if part is not None)
        self.critic_optimizer = adam([*self.critics.parameters(), *self.inference.parameters()], rate)
        self.value_optimizer = adam(self.values.parameters(), rate) if self.values else None
        self.replays = [
            Replay(config.replay_capacity, observation_dim, len(bound)) for _ in range(config.training_tasks)
        ]
        self.contexts = [
            Visits(config.context_capacity, config.context_visits, observation_dim, len(bound))
            for _ in range(config.training_tasks)
        ]
        self.filled = [0] * config.training_tasks  # the iteration that a task's last visit is from
        self.tasks: tuple[object, ...] | None = None
        self.draws = seeds.stream("updates").torch()
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
            visited, prior_episodes = list(dict.fromkeys(self.drawn(count, every))), config.prior_episodes
        batch = self.visit(collect, visited, prior_episodes)
        self.iterations += 1
        metrics = METRICS if self.teacher is None else (*METRICS, "belief/error")
        sums = torch.zeros(len(metrics))
        for _ in range(config.updates):
            sums += self.update()
        age = float(np.mean([self.iterations - filled for filled in self.filled]))
        means = (sums / max(1, config.updates)).tolist()
        told = {**dict(zip(metrics, means, strict=True)), "context/age": age}
        return batch, {**told, "prior/coefficient": float(self.regularizer.weight())}

    def drawn(self, count: int, every: int) -> list[int]:
        if self.config.replacement:
            return torch.randint(every, (count,), generator=self.draws).tolist()
        return torch.randperm(every, generator=self.draws)[:count].tolist()

    def training_tasks(self, collect: MetaCollector) -> tuple[object, ...]:
        """Different tasks, drawn once: a function of the run's seed, so that they need not be saved."""
        generator = collect.seeds.stream("training_tasks").numpy()
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
        """Episodes with z from the prior, then a trial. The replay takes all; of the context `Config` tells."""
        assert self.tasks is not None
        tasks = tuple(self.tasks[i] for i in visited)
        first = collect.in_tasks(self.exploring, tuple(t for t in tasks for _ in range(prior_episodes)), 1)
        later = collect.in_tasks(self.acting, tasks, 1 + self.config.posterior_episodes)
        recent = self.config.context == "recent"
        for row, number in enumerate(visited):
            prior = first.trials.episodes(0).rows(slice(row * prior_episodes, (row + 1) * prior_episodes))
            own = [later.trials.episodes(k).rows(slice(row, row + 1)) for k in range(later.trials.reward.shape[1])]
            shown = own if not recent or self.config.posterior_to_context else []
            self.contexts[number].add(prior if recent else None, shown)
            self.filled[number] = self.iterations + 1
            for some in (prior, *own):
                if self.config.shaped_reward:
                    some = replace(some, reward=collect.shaped_reward(self.tasks[number], some))
                self.replays[number].add(some)
        return later

    def update(self) -> Tensor:
        """One update on some tasks; returns the METRICS."""
        return self.learn(self.draw())

    def draw(self) -> Drawn:
        """Transitions and contexts of some tasks, and noise."""
        config = self.config
        chosen = self.drawn(min(config.tasks, config.training_tasks), config.training_tasks)
        batch = stack([self.replays[i].sample(config.batch_size, self.draws) for i in chosen])
        context, valid = self.contexts_of(chosen)
        privileged = None if self.teacher is None else self.privileged(chosen)
        latent_noise = torch.randn(len(chosen), config.latent_dim, generator=self.draws)
        noise = torch.randn(2, *batch.action.flatten(0, 1).shape, generator=self.draws)
        return Drawn(batch, context, valid, privileged, latent_noise, noise)

    def learn(self, drawn: Drawn) -> Tensor:
        """One update of encoder and critics, policy, values, weight and targets; returns the METRICS."""
        config, normalize, regularizer = self.config, self.acting.normalize, self.regularizer
        bound, noise = self.policy.bound, drawn.noise
        # Without autocast's cache: two losses would share cast weights, and each gradient frees what it went through.
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16, cache_enabled=False):
            belief = self.encoder.infer(drawn.context, drawn.valid)
            posterior = belief
            if self.teacher is not None and drawn.privileged is not None:
                posterior = self.teacher.infer(drawn.privileged)
            assert isinstance(posterior, Gaussian)
            z = posterior.mean if config.deterministic else posterior.at(drawn.latent_noise)
            inferred = z
            z = z.unsqueeze(1).expand(-1, config.batch_size, -1).flatten(0, 1)  # one for all transitions of a task

            flat = drawn.batch.flat()
            here, there = self.prior_at(flat.observation), self.prior_at(flat.next_observation)
            now = torch.cat([normalize(flat.observation), z], -1)
            following = torch.cat([normalize(flat.next_observation), z.detach()], -1)
            with torch.no_grad():
                if isinstance(self.targets, Critics):
                    policy = self.policy(following, there)
                    q, divergence = judged(self.targets, policy, there, regularizer, following, noise[0], bound)
                    later = soft_value(q, divergence, regularizer)
                else:
                    later = self.targets(following).float().squeeze(-1)
                target = config.reward_scale * flat.reward + flat.discount(config.discount) * later
            error = ((self.critics(now, flat.action).float() - target) ** 2).sum(0).mean()
            kl = kl_loss(posterior, config.kl_reduction)
            total = error + (0.0 if config.deterministic else config.kl_weight) * kl
            foretold = []
            if self.teacher is not None:
                foretold = [foretelling_loss(belief, inferred.detach(), config.deterministic)]
                total = total + foretold[0]
            learners = [*self.critics.parameters(), *self.inference.parameters()]
            descend(self.critic_optimizer, torch.autograd.grad(total, learners))

            held = now.detach()  # the encoder learns nothing from policy and values
            policy = self.policy(held, here)
            q, divergence = judged(self.critics, policy, here, regularizer, held, noise[1], bound)
            policy_loss = (regularizer.weight() * divergence - q).mean() + config.policy_penalty * penalty(policy)
            descend(self.policy_optimizer, torch.autograd.grad(policy_loss, list(self.policy.parameters())))
            if self.values is not None and self.value_optimizer is not None:
                wanted = soft_value(q, divergence, regularizer).detach()
                value_loss = ((self.values(held).float().squeeze(-1) - wanted) ** 2).mean()
                descend(self.value_optimizer, torch.autograd.grad(value_loss, list(self.values.parameters())))

        regularizer.control(divergence.detach())
        follow(self.targets, self.values or self.critics, config.target_rate)
        self.updates += 1
        return torch.stack([error, policy_loss, kl, divergence.mean(), *foretold]).detach()

    def contexts_of(self, chosen: list[int]) -> tuple[Tensor, Tensor]:
        """A context [M, C, D] of each task, and which of its transitions there are [M, C]."""
        config = self.config
        size, ordered = config.context_size, config.encoder in ORDERED
        if config.context == "recent":
            drawn = [self.contexts[i].recent(size, self.draws, ordered, config.posterior_to_context) for i in chosen]
        else:
            drawn = [self.contexts[i].beginning(size, self.draws, nothing=config.teacher) for i in chosen]
        told = stack([part for part, _ in drawn])
        context = self.acting.context(told.observation, told.action, told.reward, told.next_observation)
        return context, torch.stack([valid for _, valid in drawn])

    def privileged(self, chosen: list[int]) -> Tensor:
        """What a teacher is shown of each task, [M, C, D]: any transitions, with the rewards that critics learn from."""
        told = stack([self.replays[i].sample(self.config.teacher_size, self.draws) for i in chosen])
        return self.acting.context(told.observation, told.action, told.reward, told.next_observation)

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
            "teacher": dict(self.teacher.state_dict()) if self.teacher else {},
            "critics": dict(self.critics.state_dict()),
            "targets": dict(self.targets.state_dict()),
            "values": dict(self.values.state_dict()) if self.values else {},
            "log_weight": self.regularizer.log_weight,
            "policy_optimizer": optimizer_state(self.policy_optimizer),
            "critic_optimizer": optimizer_state(self.critic_optimizer),
            "value_optimizer": optimizer_state(self.value_optimizer) if self.value_optimizer else {},
            "weight_optimizer": optimizer_state(self.regularizer.optimizer),
            "replays": {str(i): replay.state() for i, replay in enumerate(self.replays)},
            "contexts": {str(i): visits.state() for i, visits in enumerate(self.contexts)},
            "filled": torch.tensor(self.filled),
            "draws": generator_state(self.draws),
            "updates": self.updates,
            "iterations": self.iterations,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.load_acting(state)
        if self.teacher is not None:
            self.teacher.load_state_dict(state["teacher"])
        self.critics.load_state_dict(state["critics"])
        self.targets.load_state_dict(state["targets"])
        if self.values and self.value_optimizer:
            self.values.load_state_dict(state["values"])
            restore_optimizer(self.value_optimizer, state["value_optimizer"])
        self.regularizer.log_weight.copy_(state["log_weight"])
        restore_optimizer(self.policy_optimizer, state["policy_optimizer"])
        restore_optimizer(self.critic_optimizer, state["critic_optimizer"])
        restore_optimizer(self.regularizer.optimizer, state["weight_optimizer"])
        for number in range(self.config.training_tasks):
            self.replays[number].restore(state["replays"][str(number)])
            self.contexts[number].restore(state["contexts"][str(number)])
        self.filled = state["filled"].tolist()
        restore_generator(self.draws, state["draws"])
        self.updates, self.iterations = state["updates"], state["iterations"]


METRICS = ("critic/loss", "actor/loss", "posterior/kl", "prior/divergence")
