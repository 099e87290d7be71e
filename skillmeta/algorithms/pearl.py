"""PEARL: what the task is, is inferred from a set of transitions; the policy acts on a sample of that belief.

Rakelly et al. 2019 (arXiv:1903.08254). An encoder gives each transition of the context a Gaussian factor over z; their product is
the posterior. SAC learns off-policy with z beside the observation; the encoder learns from the critics and from a KL.

    q(z | c) ~ prod_n N(mu(c_n), sigma(c_n)^2)        precision sum_n 1 / sigma_n^2, mean by precision (nn/encoders.py)
    encoder: critics' TD error + kl_coefficient KL(q || N(0, I))
    critics: TD error        policy: coefficient D - min Q, z a constant
    acting:  z ~ N(0, I) at first, then z ~ q(z | everything seen in this trial), held over an episode

`encoder` replaces the product by another way to sum up a context. `deterministic` takes its mean for z and no KL (an ablation of
the paper). Where rewards are sparse, `shaped_reward` lets critics and policy learn from the family's dense ones, while the context
has those that a test will have. Most such contexts show only where the goal is not, and the z that is best for the critics is then
an average of many goals. With a `teacher` z is inferred in training from dense rewards, by an encoder that learns from the critics
as above. The actor's own encoder learns to predict that z from the beginning of a trial (task inference with privileged
information, Humplik et al. 2019, arXiv:1905.06424). So its belief covers every z that is still possible, as posterior sampling
needs it, from the first episode on:

    own encoder: -log q(z | beginning of a trial), a mixture of Gaussians        z ~ teacher(z | transitions with dense rewards)

With `latent_dim: 0` there is no z, and contexts change nothing: SAC on many tasks, which infers none (configs/meta/no_context_*).
With the task in its observation (`see_task`) it is an oracle.
`original` has habits of the authors' code; configs/meta/pearl_point_oyster uses them all, with a temperature of 1.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from skillmeta.config import NonNegativeFloat, NonNegativeInt, OneOf, PositiveFloat, PositiveInt, Share, checked
from skillmeta.data.contexts import ContextBuffer
from skillmeta.data.replay import Replay, Transitions, stack
from skillmeta.errors import ConfigError
from skillmeta.nn.cuda_graph import Graphed
from skillmeta.nn.distributions import Gaussian, Mixture, TanhGaussian, standard_gaussian
from skillmeta.nn.encoders import ENCODERS, Evidence, ProductEncoder, SummaryEncoder, infer, make_encoder
from skillmeta.nn.encoders import Belief as ContextBelief
from skillmeta.nn.networks import MLP, Critics, identity
from skillmeta.nn.optimizers import SlowCopy, adam, apply_gradients
from skillmeta.nn.policies import PolicyNetwork, ResidualPolicy, SquashedPolicy, choose_action, continuous_only
from skillmeta.objectives.regularizer import Regularizer, RegularizerConfig, described
from skillmeta.objectives.soft_q import actor_loss, min_q, soft_value, td_error, td_target
from skillmeta.run.parts import Counts
from skillmeta.seeds import Seeds
from skillmeta.types import EnvSpec, Episodes, Metrics, Parts, Prior, Skills, Source, Start, Step, Task


@checked
class TeacherConfig:
    """An encoder that infers z while learning from dense rewards."""

    size: PositiveInt = 64  # transitions of each task that it is shown
    components: PositiveInt = 10  # Gaussians that the belief of the actor's own encoder is a mixture of


@checked
class OriginalConfig:
    """Habits of the authors' code that the paper does not have."""

    kl_reduction: Literal["mean", "sum"] = "mean"  # over the tasks of a batch
    replacement: bool = False  # tasks are drawn with replacement
    value_network: bool = False  # SAC with V and a target network of it, instead of target critics
    policy_penalty: NonNegativeFloat = 0.0  # on the squares of the policy's means and log deviations; theirs is 0.001


@checked
class Config:
    """Sizes for a laptop and the point robot; configs/meta has the others."""

    FORMER_KEYS: ClassVar[dict[str, str]] = {
        "kl_weight": "kl_coefficient",
        "target_rate": "tau",
        "posterior_to_context": "is now `context: visit`",
        "teacher_size": "teacher.size",
        "components": "teacher.components",
        **{name: f"original.{name}" for name in ("kl_reduction", "replacement", "value_network", "policy_penalty")},
    }

    training_tasks: PositiveInt = 80  # drawn once, with a replay and a context buffer each
    tasks_per_iteration: PositiveInt = 5  # that are visited
    prior_episodes: PositiveInt = 5  # of a visit, z ~ N(0, I)
    posterior_episodes: NonNegativeInt = 5  # of the trial of a visit, after the first; z from what it showed
    first_episodes: PositiveInt = 10  # of every task, before the first update
    updates: NonNegativeInt = 200  # of an iteration
    tasks: PositiveInt = 8  # of an update
    batch_size: PositiveInt = 128  # transitions of each
    # the last visit's prior episodes, all of it, or a trial's beginning
    context: Literal["recent", "visit", "trial"] = "recent"
    context_visits: PositiveInt = 1  # of whose trials one is drawn, as far as they fit into context_capacity
    context_size: PositiveInt = 64  # transitions of each task that z is inferred from, at most
    context_capacity: PositiveInt = 5_000  # transitions of a task
    next_observation: bool = False  # in the context too
    encoder: Annotated[str, OneOf(ENCODERS)] = "product"  # what sums a context up
    encoder_hidden: PositiveInt | None = None  # its width; null: as wide as the others
    prior_factor: bool = False  # N(0, I) is a factor of the product too, and transitions give precisions
    latent_dim: NonNegativeInt = 5  # of z; 0: there is none
    kl_coefficient: NonNegativeFloat = 0.1  # of KL(q || N(0, I))
    deterministic: bool = False  # z is the belief's mean, without a KL
    shaped_reward: bool = False  # critics and policy learn from the family's dense reward
    teacher: TeacherConfig | None = None  # it infers z while learning, and the encoder learns to predict its z
    original: OriginalConfig = field(default_factory=OriginalConfig)  # habits of the authors' code
    reward_scale: PositiveFloat = 5.0  # of what critics learn from
    regularizer: RegularizerConfig = field(default_factory=lambda: RegularizerConfig(initial_coefficient=0.2))
    discount: Share = 0.99  # of a decision
    tau: Share = 0.005  # of the target critics
    learning_rate: PositiveFloat = 1e-3  # of all networks
    hidden: PositiveInt = 128  # units of a layer
    depth: PositiveInt = 2  # hidden layers
    exploration_episodes: NonNegativeInt = 2  # of a test trial
    bfloat16: bool = False  # matrix products in bfloat16, where the CPU or GPU has it; parameters stay float32
    replay_capacity: PositiveInt = 50_000  # transitions of a task

    def __post_init__(self) -> None:
        if self.prior_factor and self.encoder != "product":
            raise ValueError(f"prior_factor is of encoder: product, not of {self.encoder}; leave one of them out")
        if self.context != "trial" and self.context_visits != 1:
            raise ValueError("context_visits is of context: trial; leave it out")
        if self.teacher and (self.context != "trial" or not self.shaped_reward or self.encoder == "product"):
            raise ValueError(
                "teacher needs shaped_reward: true to learn from, context: trial, whose beginnings are what z is predicted "
                "from, and an encoder other than product, since a product of Gaussians is no mixture"
            )
        if self.teacher and not self.latent_dim:
            raise ValueError("teacher infers z, and latent_dim is 0: there is none; leave teacher out")

    @property
    def iteration_episodes(self) -> tuple[int, int]:
        """Episodes of the first iteration and of a later one, at most."""
        first, later = (one + 1 + self.posterior_episodes for one in (self.first_episodes, self.prior_episodes))
        return self.training_tasks * first, self.tasks_per_iteration * later


class PearlBelief(NamedTuple):
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
    encoder: ProductEncoder | SummaryEncoder
    critics: Critics  # they do not act: fine-tuning starts from them, and from the coefficient
    log_coefficient: Tensor
    config: Config
    skills: Skills | None
    adapts: bool = True  # false: z is drawn without evidence in every episode, as the context is collected
    rollouts: int = 1

    @property
    def exploration_episodes(self) -> int:
        return self.config.exploration_episodes

    def begin(self, tasks: int, generator: torch.Generator) -> PearlBelief:
        return self.believe(self.encoder.nothing(tasks), generator)

    def believe(self, evidence: Evidence, generator: torch.Generator) -> PearlBelief:
        """A sample of the posterior, to be held (posterior sampling); its mean where z is deterministic."""
        with torch.no_grad():
            posterior = self.encoder.posterior(evidence)
        if self.config.deterministic:
            return PearlBelief(evidence, posterior.mean)
        return PearlBelief(evidence, posterior.rsample(torch.randn(posterior.shape, generator=generator)))

    def act(
        self, observation: Tensor, belief: PearlBelief, generator: torch.Generator, explore: bool
    ) -> tuple[Tensor, PearlBelief]:
        policy = self.policy(torch.cat([self.normalize(observation), belief.z], -1), self.prior(observation))
        return choose_action(policy, self.policy.bound, generator, explore), belief

    def observe(self, belief: PearlBelief, action: Tensor, step: Step) -> PearlBelief:
        return belief

    def adapt(self, belief: PearlBelief, episodes: Episodes, generator: torch.Generator) -> PearlBelief:
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
            evidence = self.encoder.accumulate(belief.evidence, context, valid)
        return self.believe(evidence, generator)

    def context(self, observation: Tensor, action: Tensor, reward: Tensor, following: Tensor) -> Tensor:
        """Transitions as the encoder sees them, [..., D]. How an episode ended is not among it."""
        parts = [self.normalize(observation), action / self.policy.bound, reward.unsqueeze(-1)]
        if self.config.next_observation:
            parts.append(self.normalize(following))
        return torch.cat(parts, -1)

    def normalize(self, observation: Tensor) -> Tensor:
        return identity(observation) if self.skills is None else self.skills.normalize(observation)

    def prior(self, observation: Tensor) -> Prior | None:
        if self.skills is None:
            return None
        with torch.no_grad():
            return self.skills.prior(observation)

    def start(self, belief: PearlBelief) -> Start:
        """Fine-tuning holds the mean of z. Critics of other rewards than a task's own are left out, with their coefficient."""
        with torch.no_grad():
            z = self.encoder.posterior(belief.evidence).mean[0]
        own = self.config.reward_scale == 1.0 and not self.config.shaped_reward
        critics, log_coefficient = (self.critics, self.log_coefficient) if own else (None, None)
        return Start(z, self.policy, critics, log_coefficient, skills=self.skills)

    def parts(self) -> Parts:
        networks = {"policy": self.policy, "encoder": self.encoder, "critics": self.critics}
        return {**networks, "log_coefficient": self.log_coefficient}


# -- losses beside those of soft Q-learning (`skillmeta.objectives.soft_q`): functions of (networks, batch) ----------------------
def posterior_distillation_loss(belief: ContextBelief, z: Tensor, deterministic: bool) -> Tensor:
    """-log q(z | c) of the z [N, Z] that a teacher inferred; its squared error, where latents are their mean."""
    if deterministic:
        return ((belief.mean - z) ** 2).sum(-1).mean()
    assert isinstance(belief, Mixture)
    return -belief.log_prob(z).mean()


def kl_loss(posterior: Gaussian, reduction: str) -> Tensor:
    """KL(q(z | c) || N(0, I)), averaged over the tasks of a batch, or summed as in the original code."""
    divergence = posterior.kl(standard_gaussian(posterior.mean))
    return divergence.sum() if reduction == "sum" else divergence.mean()


def penalty(policy: TanhGaussian | Gaussian) -> Tensor:
    """Mean squares of what the policy network says, which keeps a squashed policy away from the corners."""
    base = policy.base if isinstance(policy, TanhGaussian) else policy
    return (base.mean**2).mean() + (base.log_stddev**2).mean()


class Learner:
    """The learner. Arguments as for SAC's (`skillmeta.algorithms.sac.Learner`)."""

    def __init__(self, config: Config, spec: EnvSpec, skills: Skills | None, seeds: Seeds):
        continuous_only(spec, "pearl")
        if (config.regularizer.prior == "skill") != (skills is not None):
            raise ConfigError("regularizer.prior: skill and a skill model under `skills:` go together")
        if skills is not None and config.original.policy_penalty:
            raise ConfigError(
                "original.policy_penalty keeps a squashed policy from the corners; on skills nothing is squashed"
            )
        if skills is not None and config.shaped_reward:
            raise ConfigError(
                "shaped_reward is of primitive steps, and these actions are skills; leave one of them out"
            )
        if config.shaped_reward and not spec.shaped_reward:
            raise ConfigError(
                "algorithm.shaped_reward: this family, as it is configured, has no dense reward to learn from"
            )
        self.config, bound = config, torch.from_numpy(spec.action_bound)
        weights = seeds.stream("weights").torch()
        observation_dim, action_dim = spec.observation_dim, spec.action_dim
        inputs = observation_dim + action_dim + 1 + (observation_dim if config.next_observation else 0)
        seen = observation_dim + config.latent_dim
        width = config.encoder_hidden or config.hidden
        shape = (inputs, config.latent_dim, width, config.depth, weights)
        components = config.teacher.components if config.teacher else 0
        self.encoder = make_encoder(config.encoder, *shape, config.prior_factor, components)
        network = SquashedPolicy if skills is None else ResidualPolicy
        self.policy = network(seen, bound, config.hidden, config.depth, weights)
        self.critics = Critics(seen, action_dim, config.hidden, config.depth, weights)
        self.teacher = ProductEncoder(*shape, config.prior_factor) if config.teacher else None
        self.values = MLP(seen, 1, config.hidden, config.depth, weights) if config.original.value_network else None
        self.targets = copy.deepcopy(self.values or self.critics).requires_grad_(False)
        self.slow_copy = SlowCopy(self.targets, self.values or self.critics)
        self.regularizer = Regularizer(config.regularizer, bound)
        log_coefficient = self.regularizer.log_coefficient
        self.acting = Actor(self.policy, self.encoder, self.critics, log_coefficient, config, skills)
        rate = config.learning_rate
        self.policy_optimizer = adam(self.policy.parameters(), rate)
        self.inference = nn.ModuleList(part for part in (self.encoder, self.teacher) if part is not None)
        self.critic_optimizer = adam([*self.critics.parameters(), *self.inference.parameters()], rate)
        self.value_optimizer = adam(self.values.parameters(), rate) if self.values else None
        self.replays = [
            Replay(config.replay_capacity, observation_dim, action_dim) for _ in range(config.training_tasks)
        ]
        self.contexts = [
            ContextBuffer(config.context_capacity, config.context_visits, observation_dim, action_dim)
            for _ in range(config.training_tasks)
        ]
        self.last_visit = torch.zeros(config.training_tasks, dtype=torch.int64)  # the iteration that it was in
        self.step = Graphed(self.learn)
        self.generator = seeds.stream("updates").torch()
        self.counts = Counts()

    @property
    def updates(self) -> int:
        return self.counts.updates

    @property
    def bound(self) -> Tensor:
        """[A] of the actions, on the learner's device."""
        return self.policy.bound

    def actor(self) -> Actor:
        return copy.deepcopy(self.acting)

    def parts(self) -> Parts:
        parts: Parts = {
            "policy": self.policy,
            "inference": self.inference,
            "critics": self.critics,
            "targets": self.targets,
            "regularizer": self.regularizer.parts(),
            "policy_optimizer": self.policy_optimizer,
            "critic_optimizer": self.critic_optimizer,
            "replays": self.replays,
            "contexts": self.contexts,
            "last_visit": self.last_visit,
            "generator": self.generator,
            "counts": self.counts,
        }
        if self.values is not None and self.value_optimizer is not None:
            return {**parts, "values": self.values, "value_optimizer": self.value_optimizer}
        return parts

    # -- learning --------------------------------------------------------------------------------------------------------
    def iterate(self, source: Source) -> Metrics:
        """Visit some training tasks, then update. The first time every task is visited."""
        config, counts = self.config, self.counts
        if counts.iterations == 0:
            visited, prior_episodes = list(range(config.training_tasks)), config.first_episodes
        else:
            visited = list(dict.fromkeys(self.drawn(config.tasks_per_iteration, config.training_tasks)))
            prior_episodes = config.prior_episodes
        self.visit(source, visited, prior_episodes)
        counts.iterations += 1
        metrics = METRICS if self.teacher is None else (*METRICS, "belief/nll")
        sums = self.bound.new_zeros(len(metrics))
        for _ in range(config.updates):
            sums += self.step(self.draw(), self.bound.device)
        counts.updates += config.updates
        means = (sums / max(1, config.updates)).tolist()
        return {
            **dict(zip(metrics, means, strict=True)),
            "context/age": float(np.mean([counts.iterations - last for last in self.last_visit.tolist()])),
            "prior/coefficient": float(self.regularizer.coefficient()),
        }

    def drawn(self, count: int, every: int) -> list[int]:
        if self.config.original.replacement:
            return torch.randint(every, (count,), generator=self.generator).tolist()
        return torch.randperm(every, generator=self.generator)[:count].tolist()

    def visit(self, source: Source, visited: list[int], prior_episodes: int) -> None:
        """Episodes with z from the prior, then a trial. The replay takes all; the context what `Config.context` says."""
        every = source.draw_tasks(self.config.training_tasks)
        tasks = tuple(every[i] for i in visited)
        exploring = replace(self.acting, adapts=False)
        first = source.trials_in(exploring, [t for t in tasks for _ in range(prior_episodes)], 1).trials
        later = source.trials_in(self.acting, tasks, 1 + self.config.posterior_episodes).trials
        shown = self.config.context
        for row, number in enumerate(visited):
            prior = first.episodes(0).rows(slice(row * prior_episodes, (row + 1) * prior_episodes))
            own = [later.episodes(k).rows(slice(row, row + 1)) for k in range(later.reward.shape[1])]
            self.contexts[number].add(None if shown == "trial" else prior, [] if shown == "recent" else own)
            self.last_visit[number] = self.counts.iterations + 1
            for some in (prior, *own):
                self.replays[number].add(self.learned_from(source, every[number], some))

    def learned_from(self, source: Source, task: Task, episodes: Episodes) -> Episodes:
        """Episodes as critics and policy see them."""
        if not self.config.shaped_reward:
            return episodes
        return replace(episodes, reward=source.shaped_reward(task, episodes))

    def draw(self) -> Drawn:
        """Transitions and contexts of some tasks, and noise."""
        config = self.config
        chosen = self.drawn(min(config.tasks, config.training_tasks), config.training_tasks)
        batch = self.sampled(chosen, config.batch_size)
        context, valid = self.contexts_of(chosen)
        privileged = None if config.teacher is None else self.privileged(chosen, config.teacher.size)
        latent_noise = torch.randn(len(chosen), config.latent_dim, generator=self.generator)
        noise = torch.randn(2, *batch.action.flatten(0, 1).shape, generator=self.generator)
        return Drawn(batch, context, valid, privileged, latent_noise, noise)

    def learn(self, drawn: Drawn) -> Tensor:
        """One update of encoder and critics, policy, values, coefficient and targets; returns the METRICS."""
        config, acting, regularizer = self.config, self.acting, self.regularizer
        bound, noise, coefficient = self.bound, drawn.noise, self.regularizer.coefficient()
        # Without autocast's cache: the policy's loss would be of the critics' weights before their step.
        with torch.autocast(noise.device.type, torch.bfloat16, enabled=config.bfloat16, cache_enabled=False):
            belief = infer(self.encoder, drawn.context, drawn.valid)
            posterior = belief
            if self.teacher is not None and drawn.privileged is not None:
                posterior = infer(self.teacher, drawn.privileged)
            assert isinstance(posterior, Gaussian)
            inferred = posterior.mean if config.deterministic else posterior.rsample(drawn.latent_noise)
            z = inferred.unsqueeze(1).expand(-1, config.batch_size, -1).flatten(0, 1)  # one for a task's transitions

            flat = drawn.batch.flat()
            here, there = acting.prior(flat.observation), acting.prior(flat.next_observation)
            now = torch.cat([acting.normalize(flat.observation), z], -1)
            following = torch.cat([acting.normalize(flat.next_observation), z.detach()], -1)
            with torch.no_grad():
                if isinstance(self.targets, Critics):
                    next_policy = self.policy(following, there)
                    next_q = min_q(self.targets, following, next_policy.rsample(noise[0]), bound)
                    next_cost = regularizer.td_cost(regularizer.divergence(next_policy, there, noise[0]))
                    next_value = soft_value(next_q, next_cost, coefficient)
                else:
                    next_value = self.targets(following).float().squeeze(-1)
                target = td_target(config.reward_scale * flat.reward, flat.discount(config.discount), next_value)
            critic_loss = td_error(self.critics(now, flat.action).float(), target)
            kl = kl_loss(posterior, config.original.kl_reduction)
            total = critic_loss + (0.0 if config.deterministic else config.kl_coefficient) * kl
            distilled = []
            if self.teacher is not None:
                distilled = [posterior_distillation_loss(belief, inferred.detach(), config.deterministic)]
                total = total + distilled[0]
            learners = [*self.critics.parameters(), *self.inference.parameters()]
            apply_gradients(self.critic_optimizer, torch.autograd.grad(total, learners))

            held = now.detach()  # the encoder learns nothing from policy and values
            policy = self.policy(held, here)
            q = min_q(self.critics, held, policy.rsample(noise[1]), bound)
            divergence = regularizer.divergence(policy, here, noise[1])
            policy_loss = actor_loss(q, divergence, coefficient) + config.original.policy_penalty * penalty(policy)
            apply_gradients(self.policy_optimizer, torch.autograd.grad(policy_loss, list(self.policy.parameters())))
            if self.values is not None and self.value_optimizer is not None:
                wanted = soft_value(q, regularizer.td_cost(divergence), coefficient).detach()
                value_loss = ((self.values(held).float().squeeze(-1) - wanted) ** 2).mean()
                apply_gradients(self.value_optimizer, torch.autograd.grad(value_loss, list(self.values.parameters())))

        regularizer.update_coefficient(divergence.detach())
        self.slow_copy.polyak_update(config.tau)
        return torch.stack([critic_loss, policy_loss, kl, divergence.mean(), *distilled]).detach()

    def contexts_of(self, chosen: list[int]) -> tuple[Tensor, Tensor]:
        """A context [M, C, D] of each task, and which of its transitions there are [M, C]."""
        config, size, ordered = self.config, self.config.context_size, self.encoder.ordered
        nothing, whole = config.teacher is not None, config.context == "visit"
        if config.context == "trial":
            drawn = [self.contexts[i].beginning(size, self.generator, ordered, nothing) for i in chosen]
        else:
            drawn = [self.contexts[i].recent(size, self.generator, ordered, whole) for i in chosen]
        shown = stack([part for part, _ in drawn]).to(self.bound.device)
        context = self.acting.context(shown.observation, shown.action, shown.reward, shown.next_observation)
        return context, torch.stack([valid for _, valid in drawn]).to(self.bound.device)

    def sampled(self, chosen: list[int], size: int) -> Transitions:
        """Transitions of each task, [M, size, ...]."""
        return stack([self.replays[i].sample(size, self.generator) for i in chosen])

    def privileged(self, chosen: list[int], size: int) -> Tensor:
        """What a teacher is shown of each task, [M, P, D]: any transitions, with the rewards that critics learn from."""
        shown = self.sampled(chosen, size).to(self.bound.device)
        return self.acting.context(shown.observation, shown.action, shown.reward, shown.next_observation)


METRICS = ("critic/loss", "actor/loss", "posterior/kl", "prior/divergence")


def describe(config: Config, acts_in: str, prior: str | None) -> str:
    """A config as a phrase for pages; arguments as for `skillmeta.algorithms.sac.describe`."""
    if not config.latent_dim:
        said = [f"SAC on many tasks that acts in {acts_in} and infers nothing of a task"]
    else:
        how = "the mean of what is inferred" if config.deterministic else "a sample of what is inferred"
        said = [
            f"PEARL that acts in {acts_in}, on {how} of a task ({config.latent_dim} numbers, encoder {config.encoder})"
        ]
    if prior is not None:
        said.append(f"the policy starts as the prior, {prior}")
    if config.shaped_reward:
        said.append("critics and policy learn from the dense reward")
    if config.teacher is not None:
        said.append("a teacher that sees the dense reward shows the encoder what to infer")
    if config.original != OriginalConfig():
        said.append("with habits of the authors' code")
    return "; ".join([*said, described(config.regularizer)])
