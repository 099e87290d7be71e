"""VariBAD: a belief about the task that is learned by predicting rewards, and a policy that acts on it.

Zintgraf et al. 2020 (arXiv:1910.08348; JMLR 2021). A recurrent encoder reads a trial, over the ends of its episodes, and gives a
belief over m after each decision. Decoders learn to tell from m what was paid, and what will be, in the whole trial. The policy
sees the belief itself, its uncertainty too: what maximises the return of a trial then explores as much as is worth it.

    encoder   q_t = q(m | tau_:t) = N(mu_t, sigma_t^2)       GRU over (a, r, s'); q_0 is the read-out of an empty memory
    decoders  p(r_i | m, s_{i+1}, [s_i, a_i]),  p(s_{i+1} | m, s_i, a_i)     for all i of the trial, past and future
    ELBO_t    E_{m ~ q_t} sum_i log p(r_i | m, ...) - kl_coefficient KL(q_t || q_{t-1})        q_{-1} = N(0, I)
    encoder and decoders maximise the sum over t of ELBO_t, on trials of a store; a mean over trials
    policy    pi(a | s_t, mu_t, log sigma_t^2), V(s_t, mu_t, log sigma_t^2)       PPO on whole trials, as in RL2

The two are learned apart, each by its own optimiser. With `rl_loss_in_encoder` PPO's loss reaches the encoder too. Without it the
encoder is a constant there, and a belief is computed once for each decision. PPO comes before the encoder's updates, so that the
beliefs it learns on are those that were acted on.

With skills as actions a decision is a skill and its reward is summed over it; the policy is a residual on the skill prior.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skillmeta.config import NonNegativeFloat, NonNegativeInt, OneOf, PositiveFloat, PositiveInt, Share, checked
from skillmeta.data.replay import Transitions
from skillmeta.data.trial_store import TrialStore
from skillmeta.data.trials import Sequences, sequences
from skillmeta.nn.distributions import Categorical, Gaussian, gaussian
from skillmeta.nn.heads import HeadConfig, ScaledValue, described_head, make_head
from skillmeta.nn.memory import State, make_core
from skillmeta.nn.networks import MLP, identity, linear
from skillmeta.nn.optimizers import adam
from skillmeta.nn.policies import check_skills, plain_head, plain_policy, skill_prior
from skillmeta.objectives.on_policy import Sample, advantages, normalized, ppo_epochs, ppo_loss
from skillmeta.run.parts import Counts
from skillmeta.seeds import Seeds
from skillmeta.types import EnvSpec, Episodes, Metrics, Parts, Skills, Source, Step


@checked
class DecoderConfig:
    """What tells rewards, and next observations, from m."""

    hidden: PositiveInt = 64  # units of a layer
    depth: PositiveInt = 2  # hidden layers
    reward: Literal["gaussian", "bernoulli"] = "gaussian"  # squared error; or of whether a reward is above 0
    transition: bool = False  # whether a reward is predicted from the observation and the action before it too
    observation_coefficient: NonNegativeFloat = (
        0.0  # of the squared error of next observations; 0: they are not predicted
    )


@checked
class Config:
    """Sizes for a small grid; configs/meta has others."""

    episodes: PositiveInt = 4  # K of a trial
    tasks: PositiveInt = 64  # trials of an iteration
    latent_dim: PositiveInt = 5  # of m
    core: Annotated[str, OneOf(("gru", "lstm"))] = "gru"  # the encoder's memory
    memory: PositiveInt = 64  # its width
    embedding_size: PositiveInt = 16  # features of a decision before the memory
    decoder: DecoderConfig = field(default_factory=DecoderConfig)  # of rewards and observations
    kl_coefficient: NonNegativeFloat = 0.25  # of KL(q_t || q_{t-1}); against the authors' code, theirs times its trials
    inference_updates: NonNegativeInt = 12  # of encoder and decoders, of an iteration
    inference_trials: PositiveInt = 25  # of each
    inference_rate: PositiveFloat = 2e-3  # of their Adam
    inference_anneal_from: Share = 1.0  # of the budget; from there on inference_rate falls to 0 at its end. 1: it stays
    replay_capacity: PositiveInt = 200_000  # decisions of the last trials that encoder and decoders learn from
    rl_loss_in_encoder: bool = False  # PPO's loss changes the encoder too
    head: HeadConfig = field(default_factory=HeadConfig)  # of policy and value
    hidden: PositiveInt = 64  # units of a layer of policy and value
    depth: PositiveInt = 1  # hidden layers of each
    discount: Share = 0.95  # of a decision
    gae_lambda: Share = 0.95  # of the advantages
    clip: PositiveFloat = 0.1  # of the ratio pi / pi_old
    epochs: PositiveInt = 4  # over the trials of an iteration
    minibatches: PositiveInt = 4  # of trials
    learning_rate: PositiveFloat = 2e-3  # of Adam of policy and value
    value_coefficient: NonNegativeFloat = 0.5  # of the value loss
    prior_coefficient: NonNegativeFloat = (
        0.01  # of the divergence from the prior; with a uniform one minus the entropy's
    )
    reward_scale: PositiveFloat = 1.0  # of what is seen, predicted and learned from
    anneal: bool = True  # learning rate of the policy and prior_coefficient fall to 0 over the budget
    max_grad_norm: PositiveFloat = 1.0  # gradients are clipped to it, those of the policy and of the encoder apart
    initial_stddev: PositiveFloat = 1.0  # of continuous actions, in parts of their bound

    def __post_init__(self) -> None:
        if self.minibatches > self.tasks:
            raise ValueError(f"minibatches is {self.minibatches}; it must not be above the {self.tasks} tasks")

    @property
    def iteration_episodes(self) -> tuple[int, int]:
        """Episodes of the first iteration and of a later one."""
        return (self.tasks * self.episodes,) * 2


class Known(NamedTuple):
    """What is known of N tasks: the encoder's memory and what it reads from that."""

    state: State
    mean: Tensor  # [N, Z]
    log_stddev: Tensor  # [N, Z]


class Encoder(nn.Module):
    """q(m | tau_:t). `forward` goes through trials from their start, `step` takes one decision; they compute the same."""

    def __init__(self, inputs: int, config: Config, generator: torch.Generator):
        super().__init__()
        self.embed = linear(inputs, config.embedding_size, generator)
        self.core = make_core(config.core, config.embedding_size, config.memory, 0, 0, generator)
        self.read = linear(config.memory, 2 * config.latent_dim, generator)

    def forward(self, inputs: Tensor) -> Gaussian:
        """Decisions [B, L, I] -> the beliefs before each of them and after the last, [B, L + 1, Z]."""
        out = self.core.sequence(F.leaky_relu(self.embed(inputs)))
        return gaussian(self.read(F.pad(out, (0, 0, 1, 0))))  # an empty memory is all zeros

    def begin(self, num: int) -> Known:
        belief = gaussian(self.read(torch.zeros(num, self.core.width)))
        return Known(self.core.begin(num), belief.mean, belief.log_stddev)

    def step(self, known: Known, inputs: Tensor, taken: Tensor) -> Known:
        """After one decision [N, I], in the rows in which it was `taken` [N]."""
        out, candidate = self.core.step(F.leaky_relu(self.embed(inputs)), known.state)
        belief, there = gaussian(self.read(out)), taken.unsqueeze(-1)
        return Known(
            self.core.commit(known.state, candidate, taken),
            torch.where(there, belief.mean, known.mean),
            torch.where(there, belief.log_stddev, known.log_stddev),
        )


class Network(nn.Module):
    """Encoder and heads: what acts, and values."""

    bound: Tensor

    def __init__(self, spec: EnvSpec, residual: bool, config: Config, generator: torch.Generator):
        super().__init__()
        self.discrete, bound, known = spec.discrete, torch.from_numpy(spec.action_bound), 2 * config.latent_dim
        self.encoder = Encoder(spec.observation_dim + spec.action_dim + 1, config, generator)
        sizes = known, spec.observation_dim, False, config.hidden, config.depth
        make = partial(make_head, config.head, *sizes, generator)
        self.policy_head = plain_head(make, bound, spec.discrete, residual, config.initial_stddev)
        self.value_head = ScaledValue(make(1))
        self.register_buffer("bound", bound)

    def policy(self, features: Tensor, prior: Gaussian | None) -> Gaussian | Categorical:
        return plain_policy(self.policy_head(features), self.discrete, prior)


class Decoder(nn.Module):
    """K numbers of each decision at each m: features of m times features of the decision, so that all pairs of a trial cost little.

    It stands for the paper's head for each cell of its grid: with a feature for each, the features of m are these heads."""

    def __init__(self, latent_dim: int, inputs: int, numbers: int, config: DecoderConfig, generator: torch.Generator):
        super().__init__()
        self.numbers = numbers
        self.of_m = MLP(latent_dim, numbers * (config.hidden + 1), config.hidden, config.depth, generator)
        self.of_decision = MLP(inputs, config.hidden, config.hidden, config.depth, generator)

    def forward(self, m: Tensor, decision: Tensor) -> Tensor:
        """m [B, C, Z] and decisions [B, L, D] -> [B, C, L, K]."""
        heads = self.of_m(m).unflatten(-1, (self.numbers, -1))
        return torch.einsum("bckh,blh->bclk", heads, F.pad(self.of_decision(decision), (0, 1), value=1.0))


class Decoders(nn.Module):
    """p(r | m, ...) and p(s' | m, s, a)."""

    def __init__(self, spec: EnvSpec, config: Config, generator: torch.Generator):
        super().__init__()
        self.config, seen, before = config.decoder, spec.observation_dim, spec.observation_dim + spec.action_dim
        shown = seen + (before if self.config.transition else 0)
        self.reward = Decoder(config.latent_dim, shown, 1, self.config, generator)
        predicted = self.config.observation_coefficient > 0
        self.observation = Decoder(config.latent_dim, before, seen, self.config, generator) if predicted else None

    def forward(self, m: Tensor, trials: Transitions) -> tuple[Tensor, Tensor]:
        """-log p of rewards and next observations, up to constants, [B, C, L]: at each m [B, C, Z] of all decisions of a trial."""
        before = torch.cat([trials.observation, trials.action], -1)
        shown = [trials.next_observation, before] if self.config.transition else [trials.next_observation]
        predicted = self.reward(m, torch.cat(shown, -1)).squeeze(-1)
        paid = trials.reward.unsqueeze(1).expand_as(predicted)
        if self.config.reward == "bernoulli":
            of_reward = F.binary_cross_entropy_with_logits(predicted, (paid > 0).float(), reduction="none")
        else:
            of_reward = (predicted - paid) ** 2
        if self.observation is None:
            return of_reward, torch.zeros_like(of_reward)
        error = self.observation(m, before) - trials.next_observation.unsqueeze(1)
        return of_reward, (error**2).mean(-1)


@dataclass(frozen=True)
class Actor:
    """What acts; its belief is a `Known`."""

    network: Network
    skills: Skills | None
    reward_scale: float
    rollouts: int = 1
    exploration_episodes: int = 0

    def begin(self, tasks: int, generator: torch.Generator) -> Known:
        return self.network.encoder.begin(tasks)

    def act(
        self, observation: Tensor, belief: Known, generator: torch.Generator, explore: bool
    ) -> tuple[Tensor, Known]:
        features = seen_by_policy(self.normalize(observation), Gaussian(belief.mean, belief.log_stddev))
        policy = self.network.policy(features, skill_prior(self.skills, observation))
        if explore:
            return policy.rsample(torch.randn(len(observation), len(self.network.bound), generator=generator)), belief
        return policy.mode(), belief

    def observe(self, belief: Known, action: Tensor, step: Step) -> Known:
        inputs = self.inputs(action, torch.from_numpy(step.reward), torch.from_numpy(step.observation))
        return self.network.encoder.step(belief, inputs, torch.from_numpy(step.steps > 0))

    def adapt(self, belief: Known, episodes: Episodes, generator: torch.Generator) -> Known:
        return belief

    def inputs(self, action: Tensor, reward: Tensor, following: Tensor) -> Tensor:
        """Decisions as the encoder sees them, [..., I]."""
        seen = [self.normalize(following), action / self.network.bound, reward.unsqueeze(-1) * self.reward_scale]
        return torch.cat(seen, -1)

    def normalize(self, observation: Tensor) -> Tensor:
        return identity(observation) if self.skills is None else self.skills.normalize(observation)

    def parts(self) -> Parts:
        return {"network": self.network}


def seen_by_policy(observation: Tensor, belief: Gaussian) -> Tensor:
    """Normalised observations [..., O] and beliefs [..., Z] -> [..., O + 2 Z]: mean and log variance."""
    return torch.cat([observation, belief.mean, 2 * belief.log_stddev], -1)


def elbo_terms(
    encoder: Encoder, decoders: Decoders, inputs: Tensor, trials: Transitions, valid: Tensor, noise: Tensor
) -> Tensor:
    """-log p of rewards and of observations, and the KL of each belief from the one before: [3], sums over times and decisions,
    means over trials.

    Args: inputs [B, L, I] of the encoder; trials and valid [B, L]; noise [B, L + 1, Z] of m.
    """
    beliefs = encoder(inputs)
    earlier = Gaussian(
        *(F.pad(part[:, :-1], (0, 0, 1, 0)) for part in (beliefs.mean, beliefs.log_stddev))
    )  # N(0, I) first
    times = F.pad(valid, (1, 0), value=1.0)  # [B, L + 1], also before the first decision
    pairs = times.unsqueeze(2) * valid.unsqueeze(1)
    predicted = decoders(beliefs.rsample(noise), trials)
    divergence = (beliefs.kl(earlier) * times).sum(1).mean()
    return torch.stack([*((part * pairs).sum((1, 2)).mean() for part in predicted), divergence])


class Learner:
    """The learner. Arguments as for SAC's (`skillmeta.algorithms.sac.Learner`); discrete actions are accepted."""

    def __init__(self, config: Config, spec: EnvSpec, skills: Skills | None, seeds: Seeds):
        check_skills(spec, skills)
        self.config = config
        weights = seeds.stream("weights").torch()
        self.network = Network(spec, skills is not None, config, weights)
        self.decoders = Decoders(spec, config, weights)
        self.acting = Actor(self.network, skills, config.reward_scale)
        self.heads = nn.ModuleList([self.network.policy_head, self.network.value_head])
        self.inference = nn.ModuleList([self.network.encoder, self.decoders])
        self.optimizer = adam(self.heads.parameters(), config.learning_rate)
        self.inference_optimizer = adam(self.inference.parameters(), config.inference_rate)
        self.store = TrialStore(config.replay_capacity, spec.observation_dim, spec.action_dim)
        self.generator = seeds.stream("updates").torch()
        self.counts = Counts()

    @property
    def updates(self) -> int:
        return self.counts.updates

    def actor(self) -> Actor:
        return copy.deepcopy(self.acting)

    def parts(self) -> Parts:
        return {
            "network": self.network,
            "decoders": self.decoders,
            "optimizer": self.optimizer,
            "inference_optimizer": self.inference_optimizer,
            "store": self.store,
            "generator": self.generator,
            "counts": self.counts,
        }

    # -- learning --------------------------------------------------------------------------------------------------------
    def iterate(self, source: Source) -> Metrics:
        """One batch of trials, some epochs of PPO on it, then encoder and decoders on trials of the store."""
        left = 1 - source.fraction if self.config.anneal else 1.0
        trials = source.trials(self.acting, self.config.tasks, self.config.episodes).trials
        sample, config = self.prepare(sequences(trials)), self.config
        for group in self.inference_optimizer.param_groups:
            group["lr"] = config.inference_rate * falling(source.fraction, config.inference_anneal_from)
        means = ppo_epochs(
            sample, config.epochs, config.minibatches, self.generator, lambda taken: self.update(taken, left)
        )
        self.store.add(trials)
        of_inference = self.network.bound.new_zeros(len(METRICS))
        for _ in range(config.inference_updates):
            of_inference += self.infer()
        predicted = (of_inference / max(1, config.inference_updates)).tolist()
        return {**means, **dict(zip(METRICS, predicted, strict=True)), "budget/left": left}

    def prepare(self, sequences: Sequences) -> Sample:
        """What PPO needs of trials, with the beliefs, the policy and the values of the networks that acted."""

        def moved(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values).to(self.network.bound.device)

        raw, action, valid = moved(sequences.observation), moved(sequences.action), moved(sequences.valid).float()
        reward, seen = moved(sequences.reward), self.acting.normalize(raw)
        inputs = self.acting.inputs(action, reward, moved(sequences.next_observation))
        with torch.no_grad():
            features = self.features(inputs, seen)
            log_prob = self.network.policy(features, skill_prior(self.acting.skills, raw)).log_prob(action)
            value = self.network.value_head(features)
        # As in RL2 nothing comes after a trial's last episode, whatever ended it, and the ends of others are no ends.
        reward, ends = reward * self.config.reward_scale, value.new_zeros(len(value))
        advantage = advantages(reward, value, ends, valid, self.config.discount, self.config.gae_lambda)
        returns = advantage + value
        self.network.value_head.rescale(returns, valid)
        wanted = normalized(advantage, valid, (0, 1))
        own = inputs if self.config.rl_loss_in_encoder else features  # fixed where PPO leaves the encoder alone
        return Sample(own, seen, raw, action, log_prob, wanted, returns, valid)

    def features(self, inputs: Tensor, seen: Tensor) -> Tensor:
        """What policy and value see of each decision: with the belief before it."""
        beliefs = self.network.encoder(inputs)
        return seen_by_policy(seen, Gaussian(beliefs.mean[:, :-1], beliefs.log_stddev[:, :-1]))

    def policy_loss(self, batch: Sample, left: float) -> tuple[Tensor, Tensor]:
        """PPO's loss, and its metrics."""
        config, prior = self.config, skill_prior(self.acting.skills, batch.raw)
        features = self.features(batch.inputs, batch.observation) if config.rl_loss_in_encoder else batch.inputs
        policy, value = self.network.policy(features, prior), self.network.value_head(features)
        settings = config.clip, config.value_coefficient, config.prior_coefficient * left
        return ppo_loss(policy, value, prior, batch, *settings, self.network.value_head.stddev)

    def update(self, batch: Sample, left: float) -> Tensor:
        """One step of policy and value; `left` in [0, 1] scales its length and the coefficient of the divergence."""
        total, metrics = self.policy_loss(batch, left)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * left
        self.step(total, [self.optimizer, *[self.inference_optimizer] * self.config.rl_loss_in_encoder])
        return metrics

    def infer(self) -> Tensor:
        """One step of encoder and decoders on trials of the store; METRICS."""
        config, acting, bound = self.config, self.acting, self.network.bound
        drawn, valid = self.store.sample(config.inference_trials, self.generator)
        noise = torch.randn(len(valid), 1 + valid.shape[1], config.latent_dim, generator=self.generator)
        raw = drawn.to(bound.device)
        predicted = Transitions(
            acting.normalize(raw.observation),
            raw.action / bound,
            raw.reward * config.reward_scale,
            acting.normalize(raw.next_observation),
            raw.terminated,
        )
        inputs = acting.inputs(raw.action, raw.reward, raw.next_observation)
        rest = predicted, valid.to(bound.device), noise.to(bound.device)
        terms = elbo_terms(self.network.encoder, self.decoders, inputs, *rest)
        coefficients = torch.tensor([1.0, config.decoder.observation_coefficient, config.kl_coefficient]).to(
            terms.device
        )
        self.step((terms * coefficients).sum(), [self.inference_optimizer])
        return terms.detach()

    def step(self, loss: Tensor, optimizers: list[torch.optim.Adam]) -> None:
        """Along the gradients of a loss, clipped for each optimiser apart."""
        for optimizer in (self.optimizer, self.inference_optimizer):
            optimizer.zero_grad()
        torch.autograd.backward(loss)
        for optimizer in optimizers:
            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], self.config.max_grad_norm)
            optimizer.step()
        self.counts.updates += 1


def falling(spent: float, begin: float) -> float:
    """1 until a share of the budget is spent, then linearly down to 0 at its end."""
    return min(1.0, (1 - spent) / (1 - begin)) if begin < 1 else 1.0


METRICS = ("decoder/reward", "decoder/observation", "belief/kl")


def describe(config: Config, acts_in: str, prior: str | None) -> str:
    """A config as a phrase for pages; arguments as for `skillmeta.algorithms.sac.describe`."""
    predicted = "rewards and next observations" if config.decoder.observation_coefficient else "rewards"
    apart = "that PPO changes too" if config.rl_loss_in_encoder else "that PPO leaves alone"
    held = "minus its entropy" if prior is None else f"its divergence from the prior, {prior}, which it starts as"
    return (
        f"VariBAD that acts in {acts_in} over trials of {config.episodes} episodes; a belief ({config.latent_dim} numbers and "
        f"their variances) that predicts the {predicted} of a whole trial, {apart}{described_head(config.head)}; "
        f"the policy pays {config.prior_coefficient:g} times {held}"
    )
