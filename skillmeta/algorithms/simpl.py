"""SiMPL: a policy over skills that is conditioned on what the task is, meta-trained, and held near the skill prior.

Nam, Sun, Pertsch, Hwang and Lim 2022 (arXiv:2204.11828). An action is a skill z of a frozen skill model with prior p(z | s). An
encoder infers a task vector e from a set of decisions (s, z, r, s'). The policy is a residual on the prior, which it equals at the
start. An update learns from two kinds of task batches, with a small and with a large context. Each kind k has its own coefficients:
a of the policy's divergence from the prior, the same prior for both, and b of the encoder's from N(0, I).

    q(e | c), e ~ q for every transition             c: decisions of episodes with e ~ N(0, I), and of no others
    y = r + gamma (1 - terminated) (min_i Qbar_i(s', e, z') - a_k min(KL(pi || p), clip_k))                TD target
    critics and encoder: sum_i (Q_i(s, e, z) - y)^2 + b_k KL(q || N(0, I))
    policy: a_k KL(pi(. | s, e) || p(. | s)) - min_i Q_i(s, e, z~pi), e a constant
    a_k, b_k: up while their divergence is above its target        targets: Qbar <- (1 - tau) Qbar + tau Q

A training task is visited with e ~ N(0, I), and then with e ~ q(e | c). A test trial is the same: `context_episodes` with
e ~ N(0, I), after which e* is inferred from a large context of what they showed, and held. docs/algorithms/simpl.md says what
differs from the paper, and why.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from skillmeta.config import NonNegativeFloat, OneOf, PositiveFloat, PositiveInt, Share, checked
from skillmeta.data.replay import Replay, Transitions, concatenate, stack
from skillmeta.errors import ConfigError
from skillmeta.nn.cuda_graph import Graphed
from skillmeta.nn.distributions import Gaussian, standard_gaussian
from skillmeta.nn.encoders import OF_SETS, Belief, ProductEncoder, SummaryEncoder, infer, make_encoder
from skillmeta.nn.networks import Critics
from skillmeta.nn.optimizers import SlowCopy, adam, apply_gradients
from skillmeta.nn.policies import ResidualPolicy, check_skills, choose_action, gaussian_prior
from skillmeta.objectives.regularizer import Coefficient, CoefficientConfig, Regularizer, RegularizerConfig, described
from skillmeta.objectives.soft_q import actor_loss, min_q, soft_value, td_error, td_target
from skillmeta.run.parts import Counts
from skillmeta.seeds import Seeds
from skillmeta.types import EnvSpec, Episodes, Metrics, Parts, Skills, Source, Start, Step


def small_regularizer() -> RegularizerConfig:
    return RegularizerConfig("skill", "kl", "one_way", 3e-3, 0.5, td_divergence_clip=5.0)


def large_regularizer() -> RegularizerConfig:
    return RegularizerConfig("skill", "kl", "two_way", 1e-3, 2.0, minimum_coefficient=1e-3, td_divergence_clip=5.0)


def large_encoder() -> CoefficientConfig:
    return CoefficientConfig("one_way", 3e-6, 10.0, per_task=True)


@checked
class TaskBatchConfig:
    """One kind of task batch: how much of each task its context shows, and its own coefficients."""

    tasks: PositiveInt = 10  # of an update
    context_size: PositiveInt = 64  # decisions that e is inferred from
    rewarded_share: Share = 0.05  # of them, at most, that are chosen for their reward; 0: all are drawn at random
    regularizer: RegularizerConfig = field(default_factory=large_regularizer)  # KL(pi || skill prior)
    encoder: CoefficientConfig = field(default_factory=large_encoder)  # KL(q || N(0, I))

    def __post_init__(self) -> None:
        if self.regularizer.prior != "skill":
            raise ValueError(f"regularizer.prior is {self.regularizer.prior}; SiMPL's is skill")


def small_context() -> TaskBatchConfig:
    """Where little is known the policy stays nearer to the prior, and e nearer to N(0, I)."""
    return TaskBatchConfig(2, 4, 0.0, small_regularizer(), CoefficientConfig("one_way", 1e-5, 1.0))


@checked
class Config:
    """Sizes for a laptop; configs/meta/simpl_maze_published.yaml has those of the paper's maze, and its coefficients."""

    training_tasks: PositiveInt = 40  # drawn once, with a replay and a context buffer each
    tasks_per_iteration: PositiveInt = 10  # that are visited
    first_episodes: PositiveInt = 10  # of every task, e ~ N(0, I), before the first update
    prior_episodes: PositiveInt = 1  # of a visit, e ~ N(0, I); they alone are what contexts are drawn from
    posterior_episodes: PositiveInt = 1  # of a visit, e ~ q(e | context), with a context for each
    reuse: NonNegativeFloat = 256.0  # how often a visit's decision is learned from, on average: it gives the updates
    small_context: TaskBatchConfig | None = field(default_factory=small_context)  # little is known; null: none such
    large_context: TaskBatchConfig = field(default_factory=TaskBatchConfig)  # much is known of these tasks
    batch_size: PositiveInt = 64  # decisions of each task of an update
    encoder: Annotated[str, OneOf(OF_SETS)] = "product"  # what sums a context up, which is a set
    encoder_hidden: PositiveInt | None = None  # its width; null: as wide as the others
    prior_factor: bool = True  # of encoder: product: N(0, I) is a factor too, and a decision may tell nothing
    latent_dim: PositiveInt = 5  # of e
    context_episodes: PositiveInt = 20  # of a test trial, e ~ N(0, I); then e* is inferred from them
    adaptation: Literal["mean", "sample"] = "mean"  # e* is the posterior's mean, or a sample for each episode
    discount: Share = 0.99  # of a decision
    tau: Share = 0.005  # of the target critics
    learning_rate: PositiveFloat = 1e-3  # of all networks
    hidden: PositiveInt = 128  # units of a layer
    depth: PositiveInt = 3  # hidden layers
    bfloat16: bool = False  # matrix products in bfloat16, where the CPU or GPU has it; parameters stay float32
    replay_capacity: PositiveInt = 20_000  # decisions of a task
    context_capacity: PositiveInt = 20_000  # decisions of a task

    def __post_init__(self) -> None:
        if self.prior_factor and self.encoder != "product":
            raise ValueError(f"prior_factor is of encoder: product, not of {self.encoder}; set it to false")
        asked = sum(kind.tasks for kind in self.kinds.values())
        if asked > self.training_tasks:
            raise ValueError(
                f"{' and '.join(f'{name}.tasks' for name in self.kinds)} are {asked} together; training_tasks is "
                f"{self.training_tasks}"
            )

    @property
    def iteration_episodes(self) -> tuple[int, int]:
        """Episodes of the first iteration and of a later one."""
        return (
            self.training_tasks * (self.first_episodes + self.posterior_episodes),
            self.tasks_per_iteration * (self.prior_episodes + self.posterior_episodes),
        )

    @property
    def kinds(self) -> dict[str, TaskBatchConfig]:
        """The kinds of task batches by name, that of a large context last."""
        small = {} if self.small_context is None else {"small_context": self.small_context}
        return {**small, "large_context": self.large_context}


class SimplBelief(NamedTuple):
    """What is known of N tasks, and the e that is acted on until the episode ends. Its structure stays the same over a trial."""

    e: Tensor  # [N, E]
    episodes: int  # of the trial so far
    context: Tensor  # [N, T, D] decisions of the context episodes, one after another; none any more once they are over
    reward: Tensor  # [N, T]
    valid: Tensor  # [N, T] bool
    posterior_mean: Tensor  # [N, E] of q(e | c) once the context episodes are over; 0 before
    posterior_log_stddev: Tensor  # [N, E]


class Drawn(NamedTuple):
    """What one update learns from, of one kind of task batch: M tasks, B decisions of each, contexts of C decisions."""

    tasks: Tensor  # [M] their numbers
    batch: Transitions  # [M, B, ...]
    context: Tensor  # [M, C, D]
    latent_noise: Tensor  # [M, B, E]
    noise: Tensor  # [2, M * B, Z] of skills at next observations, and at observations


@dataclass(frozen=True)
class Actor:
    """What acts. Its context is what its own trial showed, or is given at the beginning."""

    policy: ResidualPolicy
    encoder: ProductEncoder | SummaryEncoder
    critics: Critics  # they do not act: fine-tuning starts from them, and from the coefficient
    log_coefficient: Tensor  # of the large context's divergence
    skills: Skills
    config: Config
    known: Gaussian | None = None  # q(e | c) of N given tasks, that e is drawn from in the first episode
    rollouts: int = 1

    @property
    def exploration_episodes(self) -> int:
        return self.config.context_episodes

    def of_tasks(self, rows: slice) -> Actor:
        if self.known is None:
            return self
        return replace(self, known=Gaussian(self.known.mean[rows], self.known.log_stddev[rows]))

    def begin(self, tasks: int, generator: torch.Generator) -> SimplBelief:
        noise = torch.randn(tasks, self.config.latent_dim, generator=generator)
        if self.known is None:
            return self.belief(noise, 0, standard_gaussian(noise))
        return self.belief(self.known.rsample(noise), self.config.context_episodes, self.known)

    def belief(self, e: Tensor, episodes: int, posterior: Gaussian) -> SimplBelief:
        """Without a context."""
        none = torch.zeros(len(e), 0)
        context = torch.zeros(len(e), 0, self.context_dim)
        return SimplBelief(e, episodes, context, none, none.bool(), posterior.mean, posterior.log_stddev)

    def act(
        self, observation: Tensor, belief: SimplBelief, generator: torch.Generator, explore: bool
    ) -> tuple[Tensor, SimplBelief]:
        policy = self.policy(torch.cat([self.skills.normalize(observation), belief.e], -1), self.prior(observation))
        return choose_action(policy, self.policy.bound, generator, explore), belief

    def observe(self, belief: SimplBelief, action: Tensor, step: Step) -> SimplBelief:
        return belief

    def adapt(self, belief: SimplBelief, episodes: Episodes, generator: torch.Generator) -> SimplBelief:
        """A new e ~ N(0, I) while the context is collected; then e*. What is seen later is no part of a context: the encoder was
        never shown such."""
        done, posterior = belief.episodes + 1, Gaussian(belief.posterior_mean, belief.posterior_log_stddev)
        noise = torch.randn(belief.e.shape, generator=generator)
        if belief.episodes < self.config.context_episodes:
            context = self.context(
                torch.from_numpy(episodes.observation[:, :-1]),
                torch.from_numpy(episodes.action),
                torch.from_numpy(episodes.reward),
                torch.from_numpy(episodes.observation[:, 1:]),
            )
            shown = belief._replace(
                e=noise,
                episodes=done,
                context=torch.cat([belief.context, context], 1),
                reward=torch.cat([belief.reward, torch.from_numpy(episodes.reward)], 1),
                valid=torch.cat([belief.valid, torch.from_numpy(episodes.valid)], 1),
            )
            if done < self.config.context_episodes:
                return shown
            posterior = self.infer(shown, generator)
        e = posterior.mean if self.config.adaptation == "mean" else posterior.rsample(noise)
        return self.belief(e, done, posterior)

    def infer(self, shown: SimplBelief, generator: torch.Generator) -> Gaussian:
        """q(e | c) of each of N tasks, c chosen from what episodes showed as in training."""
        how, chosen = self.config.large_context, []
        for seen, own, some in zip(shown.context, shown.reward, shown.valid, strict=True):
            chosen.append(seen[some][context_rows(own[some], how, generator)])
        with torch.no_grad():
            return gaussian_of(infer(self.encoder, torch.stack(chosen)))

    @property
    def context_dim(self) -> int:
        """D, numbers of a decision as the encoder sees it."""
        return self.encoder.net.inputs

    def context(self, observation: Tensor, skill: Tensor, reward: Tensor, following: Tensor) -> Tensor:
        """Decisions as the encoder sees them, [..., D]."""
        normalize = self.skills.normalize
        parts = [normalize(observation), skill / self.policy.bound, reward.unsqueeze(-1), normalize(following)]
        return torch.cat(parts, -1)

    def prior(self, observation: Tensor) -> Gaussian:
        with torch.no_grad():
            return gaussian_prior(self.skills.prior(observation))

    def start(self, belief: SimplBelief) -> Start:
        """Fine-tuning holds e, and continues with policy, critics and the large context's coefficient."""
        return Start(belief.e[0], self.policy, self.critics, self.log_coefficient, skills=self.skills)

    def parts(self) -> Parts:
        return {
            "policy": self.policy,
            "encoder": self.encoder,
            "critics": self.critics,
            "log_coefficient": self.log_coefficient,
        }


class TaskBatch:
    """One kind of task batch: what it learns from, and its coefficients."""

    def __init__(self, config: TaskBatchConfig, bound: Tensor, training_tasks: int):
        self.config = config
        self.regularizer = Regularizer(config.regularizer, bound)
        own = config.encoder.per_task
        self.encoder = Coefficient(config.encoder, config.encoder.target_divergence, (training_tasks,) if own else ())

    def parts(self) -> Parts:
        return {"regularizer": self.regularizer.parts(), "encoder": self.encoder.parts()}

    def encoder_coefficient(self, tasks: Tensor) -> Tensor:
        """The coefficient of each task's KL(q || N(0, I)), [M]."""
        value = self.encoder.value()
        return value[tasks] if self.config.encoder.per_task else value.expand(len(tasks))

    def update_coefficients(self, divergence: Tensor, kl: Tensor, tasks: Tensor) -> None:
        """A step of both: towards the target of the policy's divergence [M * B], and of the encoder's [M]."""
        self.regularizer.update_coefficient(divergence)
        self.encoder.update(kl, tasks if self.config.encoder.per_task else None)


class Learner:
    """The learner. Arguments as for SAC's (`skillmeta.algorithms.sac.Learner`); skills are required."""

    def __init__(self, config: Config, spec: EnvSpec, skills: Skills | None, seeds: Seeds):
        if skills is None:
            raise ConfigError("algorithm.name is simpl, whose actions are skills; name a skill model under `skills:`")
        check_skills(spec, skills)
        self.config, bound = config, torch.from_numpy(spec.action_bound)
        weights = seeds.stream("weights").torch()
        observation_dim, skill_dim = spec.observation_dim, spec.action_dim
        inputs, seen = 2 * observation_dim + skill_dim + 1, observation_dim + config.latent_dim
        hidden, depth = config.hidden, config.depth
        width = config.encoder_hidden or hidden
        self.encoder = make_encoder(
            config.encoder, inputs, config.latent_dim, width, depth, weights, config.prior_factor
        )
        self.policy = ResidualPolicy(seen, bound, hidden, depth, weights)
        self.critics = Critics(seen, skill_dim, hidden, depth, weights)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.slow_copy = SlowCopy(self.targets, self.critics)
        self.kinds = [TaskBatch(kind, bound, config.training_tasks) for kind in config.kinds.values()]
        log_coefficient = self.kinds[-1].regularizer.log_coefficient
        self.acting = Actor(self.policy, self.encoder, self.critics, log_coefficient, skills, config)
        self.policy_optimizer = adam(self.policy.parameters(), config.learning_rate)
        self.critic_optimizer = adam([*self.critics.parameters(), *self.encoder.parameters()], config.learning_rate)
        self.replays, self.contexts = (
            [Replay(capacity, observation_dim, skill_dim) for _ in range(config.training_tasks)]
            for capacity in (config.replay_capacity, config.context_capacity)
        )
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
            "policy": self.policy,
            "encoder": self.encoder,
            "critics": self.critics,
            "targets": self.targets,
            **{name: kind.parts() for name, kind in zip(self.config.kinds, self.kinds, strict=True)},
            "policy_optimizer": self.policy_optimizer,
            "critic_optimizer": self.critic_optimizer,
            "replays": self.replays,
            "contexts": self.contexts,
            "generator": self.generator,
            "counts": self.counts,
        }

    # -- learning --------------------------------------------------------------------------------------------------------
    def iterate(self, source: Source) -> Metrics:
        """Visit some training tasks, then update as often as `reuse` says. The first time every task is visited and nothing is
        learned."""
        config, counts = self.config, self.counts
        before, first = counts.decisions, counts.iterations == 0
        if first:
            self.visit(source, list(range(config.training_tasks)), config.first_episodes)
        else:
            count = min(config.tasks_per_iteration, config.training_tasks)
            self.visit(source, self.drawn(count), config.prior_episodes)
        counts.iterations += 1
        each = sum(kind.tasks for kind in config.kinds.values()) * config.batch_size  # decisions of an update
        updates = 0 if first else round(config.reuse * (counts.decisions - before) / each)
        sums = self.policy.bound.new_zeros(2 + 2 * len(self.kinds))
        for _ in range(updates):
            sums += self.step(self.draw(), self.policy.bound.device)
        counts.updates += updates
        if not updates:
            return {}
        *losses, means = [*(sums / updates)[:2].tolist(), (sums / updates)[2:].view(-1, 2).tolist()]
        metrics = dict(zip(LOSSES, losses, strict=True))
        for name, kind, (divergence, kl) in zip(config.kinds, self.kinds, means, strict=True):
            at = "" if name == "large_context" else f"{name}_"
            metrics[f"{at}prior/divergence"], metrics[f"{at}posterior/kl"] = divergence, kl
            metrics[f"{at}prior/coefficient"] = float(kind.regularizer.coefficient())
            metrics[f"{at}posterior/coefficient"] = float(kind.encoder.value().mean())
        return metrics

    def drawn(self, count: int) -> list[int]:
        """Numbers of so many different training tasks."""
        return torch.randperm(self.config.training_tasks, generator=self.generator)[:count].tolist()

    def visit(self, source: Source, visited: list[int], prior_episodes: int) -> None:
        """Episodes with e ~ N(0, I), then some with e ~ q(e | context). The replay takes all; the context the first ones alone."""
        every = source.draw_tasks(self.config.training_tasks)
        rows = [number for number in visited for _ in range(prior_episodes)]
        prior = source.trials_in(self.acting, [every[i] for i in rows], 1).trials.episodes(0)
        for row, number in enumerate(rows):
            one = prior.rows(slice(row, row + 1))
            self.replays[number].add(one)
            self.contexts[number].add(one)
        rows = [number for number in visited for _ in range(self.config.posterior_episodes)]
        with torch.no_grad():
            known = gaussian_of(infer(self.encoder, self.contexts_of(rows, self.config.large_context)))
        informed = replace(self.acting, known=known)
        posterior = source.trials_in(informed, [every[i] for i in rows], 1).trials.episodes(0)
        for row, number in enumerate(rows):
            self.replays[number].add(posterior.rows(slice(row, row + 1)))
        self.counts.decisions += int(prior.valid.sum() + posterior.valid.sum())

    def draw(self) -> tuple[Drawn, ...]:
        """Decisions and contexts of some tasks, and noise, for each kind of task batch; no task is in two kinds."""
        kinds = list(self.config.kinds.values())
        chosen = iter(self.drawn(sum(kind.tasks for kind in kinds)))
        return tuple(self.drawn_of(list(islice(chosen, kind.tasks)), kind) for kind in kinds)

    def drawn_of(self, chosen: list[int], how: TaskBatchConfig) -> Drawn:
        size, generator = self.config.batch_size, self.generator
        batch = stack([self.replays[i].sample(size, generator) for i in chosen])
        context = self.contexts_of(chosen, how)
        latent_noise = torch.randn(len(chosen), size, self.config.latent_dim, generator=generator)
        noise = torch.randn(2, *batch.action.flatten(0, 1).shape, generator=generator)
        return Drawn(torch.tensor(chosen), batch, context, latent_noise, noise)

    def contexts_of(self, chosen: list[int], how: TaskBatchConfig) -> Tensor:
        """A context [M, C, D] of each task: decisions of its episodes with e ~ N(0, I)."""
        parts = []
        for buffer in (self.contexts[i] for i in chosen):
            reward = buffer.columns.reward[: len(buffer)]
            parts.append(buffer.at(context_rows(reward, how, self.generator)))
        shown = stack(parts).to(self.policy.bound.device)
        return self.acting.context(shown.observation, shown.action, shown.reward, shown.next_observation)

    def learn(self, drawn: tuple[Drawn, ...]) -> Tensor:
        """One update of encoder and critics, policy, coefficients and targets, with what is `drawn` of each kind of task batch.

        Returns the LOSSES, then the divergence of the policy and of the encoder for each kind.
        """
        config, acting, bound, kinds = self.config, self.acting, self.policy.bound, self.kinds
        sizes = [part.noise.shape[1] for part in drawn]  # decisions of each kind
        batch = concatenate([part.batch.flat() for part in drawn])
        noise = torch.cat([part.noise for part in drawn], 1)
        each = [kind.regularizer.coefficient().expand(size) for kind, size in zip(kinds, sizes, strict=True)]
        coefficient = torch.cat(each)
        with torch.autocast(noise.device.type, torch.bfloat16, enabled=config.bfloat16, cache_enabled=False):
            posteriors = [gaussian_of(infer(self.encoder, part.context)) for part in drawn]
            e = torch.cat([samples(q, part.latent_noise) for q, part in zip(posteriors, drawn, strict=True)])
            here, there = acting.prior(batch.observation), acting.prior(batch.next_observation)
            now = torch.cat([acting.skills.normalize(batch.observation), e], -1)
            following = torch.cat([acting.skills.normalize(batch.next_observation), e.detach()], -1)

            with torch.no_grad():
                next_policy = self.policy(following, there)
                next_q = min_q(self.targets, following, next_policy.rsample(noise[0]), bound)
                each = self.divergences(next_policy, there, noise[0], sizes)
                cost = torch.cat([kind.regularizer.td_cost(d) for kind, d in zip(kinds, each, strict=True)])
                next_value = soft_value(next_q, cost, coefficient)
                target = td_target(batch.reward, batch.discount(config.discount), next_value)
            critic_loss = td_error(self.critics(now, batch.action).float(), target)
            kls = [q.kl(standard_gaussian(q.mean)) for q in posteriors]
            shares = zip(kinds, drawn, kls, strict=True)
            encoder_loss = torch.cat([kind.encoder_coefficient(part.tasks) * kl for kind, part, kl in shares]).mean()
            learners = [*self.critics.parameters(), *self.encoder.parameters()]
            apply_gradients(self.critic_optimizer, torch.autograd.grad(critic_loss + encoder_loss, learners))

            held = now.detach()  # the encoder learns nothing from the policy
            policy = self.policy(held, here)
            q = min_q(self.critics, held, policy.rsample(noise[1]), bound)
            divergences = self.divergences(policy, here, noise[1], sizes)
            policy_loss = actor_loss(q, torch.cat(divergences), coefficient)
            apply_gradients(self.policy_optimizer, torch.autograd.grad(policy_loss, list(self.policy.parameters())))

        for kind, part, divergence, kl in zip(kinds, drawn, divergences, kls, strict=True):
            kind.update_coefficients(divergence.detach(), kl.detach(), part.tasks)
        self.slow_copy.polyak_update(config.tau)
        means = [value.mean() for pair in zip(divergences, kls, strict=True) for value in pair]
        return torch.stack([critic_loss, policy_loss, *means]).detach()

    def divergences(self, policy: Gaussian, prior: Gaussian, noise: Tensor, sizes: list[int]) -> list[Tensor]:
        """D of the rows of each kind, as its regulariser measures it."""
        columns = (policy.mean, policy.log_stddev, prior.mean, prior.log_stddev, noise)
        rows = zip(*(torch.split(column, sizes) for column in columns), strict=True)
        return [
            kind.regularizer.divergence(Gaussian(mean, log), Gaussian(prior_mean, prior_log), some)
            for kind, (mean, log, prior_mean, prior_log, some) in zip(self.kinds, rows, strict=True)
        ]


LOSSES = ("critic/loss", "actor/loss")


def context_rows(reward: Tensor, how: TaskBatchConfig, generator: torch.Generator) -> Tensor:
    """Which of n decisions a context shows, [C]: different ones with a reward up to their share, then any, drawn with replacement.

    Where success ends an episode, a task's thousands of decisions have a reward in a few.
    """
    rewarded = reward.nonzero().flatten()
    first = torch.randperm(len(rewarded), generator=generator)[: int(how.rewarded_share * how.context_size)]
    rest = torch.randint(len(reward), (how.context_size - len(first),), generator=generator)
    return torch.cat([rewarded[first], rest])


def gaussian_of(belief: Belief) -> Gaussian:
    """A belief of an encoder without mixtures."""
    assert isinstance(belief, Gaussian)
    return belief


def samples(posterior: Gaussian, noise: Tensor) -> Tensor:
    """A sample for each decision, [M * B, E], of posteriors [M, E] and noise [M, B, E]."""
    return posterior.unsqueeze(1).rsample(noise).flatten(0, 1)


def describe(config: Config, acts_in: str, prior: str | None) -> str:
    """A config as a phrase for pages; arguments as for `skillmeta.algorithms.sac.describe`."""
    said = [f"SiMPL that acts in {acts_in}", f"the policy starts as the prior, {prior}"]
    how_known = f"{config.latent_dim} numbers (encoder {config.encoder}) after {config.context_episodes} episodes"
    said.append(f"a task is inferred as {how_known}")
    kinds = {name: described(kind.regularizer) for name, kind in config.kinds.items()}
    return "; ".join([*said, *(f"with a {name.replace('_', ' ')}, {how}" for name, how in kinds.items())])
