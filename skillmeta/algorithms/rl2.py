"""RL2: a recurrent policy whose state outlives episodes, so that its forward pass is the learning algorithm.

Duan et al. 2016 (arXiv:1611.02779); Wang et al. 2016 (arXiv:1611.05763), "Learning to reinforcement learn". Trained by PPO on
whole trials: the return of a trial is what is maximised, the ends of its episodes are no ends, and the state at each decision
is computed by going through the trial from its start.

    input     x_t = (s_t, a_{t-1}, r_{t-1}, first decision of an episode?)     from the true last transition
    core      h_t = core(x_1 .. x_t): GRU or LSTM; SNAIL (Mishra et al. 2018, arXiv:1707.03141); a transformer
    heads     pi(a | s_t, h_t), V(s_t, h_t)       one hidden layer each, of both, or of s_t and made by h_t (`head`; nn/heads.py)
    loss      -min(rho A, clip(rho) A) + value_coefficient (V - R)^2 / var R + prior_coefficient D(pi || prior)

With skills as actions the policy is a residual on the skill prior and D is the KL to it; with primitive actions the prior is
uniform and -D the entropy, up to a constant. E-RL2 (Stadie et al. 2018, arXiv:1803.01118): the rewards of the first
`free_episodes` of a trial are seen, but not learned from, so that they may be spent on finding out. Wang et al.'s actor-critic is
one epoch of one minibatch, where the clipped ratio is 1 and its gradient that of log pi times the advantage.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skillmeta.config import NonNegativeFloat, NonNegativeInt, OneOf, PositiveFloat, PositiveInt, Share, checked
from skillmeta.data.trials import Sequences, sequences
from skillmeta.nn.distributions import Categorical, Gaussian
from skillmeta.nn.heads import HeadConfig, ScaledValue, described_head, make_head
from skillmeta.nn.memory import CORES, Core, State, make_core
from skillmeta.nn.networks import identity
from skillmeta.nn.optimizers import adam
from skillmeta.nn.policies import check_skills, plain_head, plain_policy, skill_prior
from skillmeta.objectives.on_policy import Sample, advantages, normalized, ppo_epochs, ppo_loss
from skillmeta.run.parts import Counts
from skillmeta.seeds import Seeds
from skillmeta.types import EnvSpec, Episodes, Metrics, Parts, Skills, Source, Step

Policy = Gaussian | Categorical


@checked
class Config:
    """Numbers that learn the 5-armed bandit in a minute; configs/meta has those of larger problems."""

    FORMER_KEYS: ClassVar[dict[str, str]] = {
        "trace": "gae_lambda",
        "weight": "prior_coefficient",
        "value_weight": "value_coefficient",
        "maximum_gradient": "max_grad_norm",
        "reach": "receptive_field",
    }

    episodes: PositiveInt = 1  # K of a trial
    tasks: PositiveInt = 256  # trials of an iteration
    core: Annotated[str, OneOf(CORES)] = "gru"  # the memory
    hidden: PositiveInt = (
        64  # width of the core and of each head's hidden layer; of SNAIL the channels of a convolution
    )
    layers: PositiveInt = 2  # of a transformer
    head: HeadConfig = field(default_factory=HeadConfig)  # of policy and value
    previous_observation: bool = False  # is an input too: an attentive core then need not piece transitions together
    receptive_field: PositiveInt = 128  # decisions that SNAIL's convolutions look back on
    free_episodes: NonNegativeInt = 0  # of a trial, whose rewards do not count (E-RL2)
    discount: Share = 0.99  # of a decision
    gae_lambda: Share = 0.95  # of the advantages
    clip: PositiveFloat = 0.2  # of the ratio pi / pi_old
    epochs: PositiveInt = 4  # over the trials of an iteration
    minibatches: PositiveInt = 4  # of trials
    learning_rate: PositiveFloat = 2e-3  # of Adam
    value_coefficient: NonNegativeFloat = 0.5  # of the value loss
    prior_coefficient: NonNegativeFloat = (
        0.01  # of the divergence from the prior; with a uniform one minus the entropy's
    )
    reward_scale: PositiveFloat = 1.0  # of what is seen and learned from
    anneal: bool = True  # learning rate and prior_coefficient fall to 0 over the budget
    max_grad_norm: PositiveFloat = 1.0  # gradients are clipped to it
    initial_stddev: PositiveFloat = 1.0  # of continuous actions, in parts of their bound

    def __post_init__(self) -> None:
        if self.free_episodes >= self.episodes:
            raise ValueError(
                f"free_episodes is {self.free_episodes}; fewer than the {self.episodes} episodes are expected"
            )
        if self.minibatches > self.tasks:
            raise ValueError(f"minibatches is {self.minibatches}; it must not be above the {self.tasks} tasks")

    @property
    def iteration_episodes(self) -> tuple[int, int]:
        """Episodes of the first iteration and of a later one."""
        return (self.tasks * self.episodes,) * 2


class Memory(NamedTuple):
    """What is known of N tasks. What the core would remember of a decision waits until it was taken: an episode that has ended
    takes none."""

    state: State
    candidate: Tensor  # [N, S]
    observation: Tensor  # [N, O] of the last decision, normalised
    previous_observation: Tensor  # [N, O] of the last one that was taken
    previous_action: Tensor  # [N, A]
    previous_reward: Tensor  # [N]
    begins: Tensor  # [N] 1 at the first decision of an episode


class Network(nn.Module):
    """Core and heads. `forward` goes through trials from their start, `step` takes one decision; they compute the same."""

    bound: Tensor

    def __init__(
        self,
        observation_dim: int,
        bound: Tensor,
        discrete: bool,
        residual: bool,
        config: Config,
        generator: torch.Generator,
    ):
        super().__init__()
        self.discrete = discrete
        self.observation_dim, self.previous_observation = observation_dim, config.previous_observation
        inputs = observation_dim * (2 if config.previous_observation else 1) + len(bound) + 2
        self.core: Core = make_core(
            config.core, inputs, config.hidden, config.layers, config.receptive_field, generator
        )
        make = partial(make_head, config.head, self.core.width, observation_dim, True, config.hidden, 1, generator)
        self.policy_head = plain_head(make, bound, discrete, residual, config.initial_stddev)
        self.value_head = ScaledValue(make(1))
        self.register_buffer("bound", bound)

    def inputs(
        self, observation: Tensor, before: Tensor, previous_action: Tensor, previous_reward: Tensor, begins: Tensor
    ) -> Tensor:
        """What the core sees, [..., I], of observations now and at the last decision and of what came of that."""
        parts = [observation, previous_action, previous_reward.unsqueeze(-1), begins.unsqueeze(-1)]
        return torch.cat([*parts, before] if self.previous_observation else parts, -1)

    def forward(self, inputs: Tensor, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs [N, L, I] and observations [N, L, O] -> policy's numbers [N, L, .] and values [N, L]."""
        features = torch.cat([self.core.sequence(inputs), observation], -1)
        return self.policy_head(features), self.value_head(features)

    def step(self, inputs: Tensor, observation: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """Inputs [N, I] and observations [N, O] -> policy's numbers [N, .] and what the core would remember."""
        out, candidate = self.core.step(inputs, state)
        return self.policy_head(torch.cat([out, observation], -1)), candidate

    def policy(self, numbers: Tensor, prior: Gaussian | None) -> Policy:
        return plain_policy(numbers, self.discrete, prior)


@dataclass(frozen=True)
class Actor:
    """What acts; its belief is a `Memory`."""

    network: Network
    skills: Skills | None
    reward_scale: float
    rollouts: int = 1
    exploration_episodes: int = 0

    def begin(self, tasks: int, generator: torch.Generator) -> Memory:
        core, seen = self.network.core, torch.zeros(tasks, self.network.observation_dim)
        action = torch.zeros(tasks, len(self.network.bound))
        return Memory(core.begin(tasks), core.nothing(tasks), seen, seen, action, torch.zeros(tasks), torch.ones(tasks))

    def act(
        self, observation: Tensor, belief: Memory, generator: torch.Generator, explore: bool
    ) -> tuple[Tensor, Memory]:
        seen = self.normalize(observation)
        inputs = self.network.inputs(
            seen, belief.previous_observation, belief.previous_action, belief.previous_reward, belief.begins
        )
        numbers, candidate = self.network.step(inputs, seen, belief.state)
        policy = self.network.policy(numbers, skill_prior(self.skills, observation))
        if explore:
            action = policy.rsample(torch.randn(len(observation), len(self.network.bound), generator=generator))
        else:
            action = policy.mode()
        return action, belief._replace(candidate=candidate, observation=seen)

    def observe(self, belief: Memory, action: Tensor, step: Step) -> Memory:
        taken = torch.from_numpy(step.steps > 0)
        reward = torch.from_numpy(step.reward) * self.reward_scale
        return Memory(
            self.network.core.commit(belief.state, belief.candidate, taken),
            belief.candidate,
            belief.observation,
            torch.where(taken[:, None], belief.observation, belief.previous_observation),
            torch.where(taken[:, None], action, belief.previous_action),
            torch.where(taken, reward, belief.previous_reward),
            torch.where(taken, torch.zeros(()), belief.begins),
        )

    def adapt(self, belief: Memory, episodes: Episodes, generator: torch.Generator) -> Memory:
        return belief._replace(begins=torch.ones_like(belief.begins))

    def normalize(self, observation: Tensor) -> Tensor:
        return identity(observation) if self.skills is None else self.skills.normalize(observation)

    def parts(self) -> Parts:
        return {"network": self.network}


class Learner:
    """The learner. Arguments as for SAC's (`skillmeta.algorithms.sac.Learner`); discrete actions are accepted."""

    def __init__(self, config: Config, spec: EnvSpec, skills: Skills | None, seeds: Seeds):
        check_skills(spec, skills)
        self.config, bound = config, torch.from_numpy(spec.action_bound)
        weights = seeds.stream("weights").torch()
        self.network = Network(spec.observation_dim, bound, spec.discrete, skills is not None, config, weights)
        self.acting = Actor(self.network, skills, config.reward_scale, exploration_episodes=config.free_episodes)
        self.optimizer = adam(self.network.parameters(), config.learning_rate)
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
            "optimizer": self.optimizer,
            "generator": self.generator,
            "counts": self.counts,
        }

    # -- learning --------------------------------------------------------------------------------------------------------
    def iterate(self, source: Source) -> Metrics:
        """One batch of trials, then some epochs of PPO on it."""
        left = 1 - source.fraction if self.config.anneal else 1.0
        batch = source.trials(self.acting, self.config.tasks, self.config.episodes)
        sample = self.prepare(sequences(batch.trials))
        epochs, minibatches = self.config.epochs, self.config.minibatches
        means = ppo_epochs(sample, epochs, minibatches, self.generator, lambda taken: self.update(taken, left))
        return {**means, "budget/left": left}

    def prepare(self, sequences: Sequences) -> Sample:
        """What PPO needs of trials, with the policy and the values of the network that acted."""
        device = self.network.bound.device

        def moved(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values).to(device)

        raw, action, valid = moved(sequences.observation), moved(sequences.action), moved(sequences.valid).float()
        counts = moved(sequences.begins).cumsum(-1) > self.config.free_episodes
        reward = moved(sequences.reward) * self.config.reward_scale * counts
        seen = self.acting.normalize(raw)
        inputs = self.network.inputs(
            seen,
            F.pad(seen, (0, 0, 1, 0))[:, :-1],
            moved(sequences.previous_action),
            moved(sequences.previous_reward) * self.config.reward_scale,
            moved(sequences.begins).float(),
        )
        with torch.no_grad():
            policy, value = self.evaluate(inputs, seen, raw)[:2]
            log_prob = policy.log_prob(action)
        # A trial ends with its last episode: nothing comes after it, whatever ended that episode.
        advantage = advantages(
            reward, value, value.new_zeros(len(value)), valid, self.config.discount, self.config.gae_lambda
        )
        returns = advantage + value
        self.network.value_head.rescale(returns, valid)
        return Sample(inputs, seen, raw, action, log_prob, normalized(advantage, valid, (0, 1)), returns, valid)

    def evaluate(self, inputs: Tensor, seen: Tensor, raw: Tensor) -> tuple[Policy, Tensor, Gaussian | None]:
        """Policies and values along whole trials, from their start, and the prior there."""
        numbers, value = self.network(inputs, seen)
        prior = skill_prior(self.acting.skills, raw)
        return self.network.policy(numbers, prior), value, prior

    def update(self, batch: Sample, left: float = 1.0) -> Tensor:
        """One step of Adam; `left` in [0, 1] scales its length and the coefficient of the divergence."""
        policy, value, prior = self.evaluate(batch.inputs, batch.observation, batch.raw)
        coefficient = self.config.prior_coefficient * left
        clip, value_coefficient, scale = self.config.clip, self.config.value_coefficient, self.network.value_head.stddev
        total, metrics = ppo_loss(policy, value, prior, batch, clip, value_coefficient, coefficient, scale)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * left
        self.optimizer.zero_grad()
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.counts.updates += 1
        return metrics


def describe(config: Config, acts_in: str, prior: str | None) -> str:
    """A config as a phrase for pages; arguments as for `skillmeta.algorithms.sac.describe`."""
    heads = described_head(config.head)
    said = [
        f"RL2 that acts in {acts_in}, with a memory ({config.core}) over trials of {config.episodes} episodes{heads}"
    ]
    if config.free_episodes:
        said.append(f"the rewards of the first {config.free_episodes} of them do not count (E-RL2)")
    held = "minus its entropy" if prior is None else f"its divergence from the prior, {prior}, which it starts as"
    return "; ".join([*said, f"the policy pays {config.prior_coefficient:g} times {held}"])
