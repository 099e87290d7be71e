"""MQL: TD3 on many tasks with a recurrent context; a new task is adapted to off-policy, on its own data and on the old.

Fakoor, Chaudhari, Soatto and Smola 2020, Meta-Q-Learning (arXiv:1910.00125). Actor and critics see, beside the observation, what a
GRU reads from the last T decisions of the episode. Meta-training is TD3 (Fujimoto et al. 2018) on the decisions of all tasks:

    context   c_t = GRU((s, a, r)_{t-T .. t-1}), zeros before the first one; the actor has one, the critics another
    target    y = r + gamma min_i Qbar_i(s', c', clip(mubar(s', c') + clip(noise)))
    critics   sum_i (Q_i(s, c, a) - y)^2              policy: -Q_1(s, c, mu(s, c)), every `policy_delay` updates

A new task is adapted to once, after its first `exploration_episodes`, from the parameters theta_meta of training (section 3):

    beta      propensities: how likely each row of meta-training is in the new task (skillmeta/objectives/propensities.py)
    lambda    1 - ESS, the effective sample size of beta in parts of its rows
    loss      TD3's, first on the task's own rows, then on rows of meta-training times beta; plus lambda |theta - theta_meta|^2

An actor carries R rows of meta-training for this. Adapted parameters are part of the belief: the actor itself never changes.

With skills as actions a decision is a skill and its reward is summed over it. The policy shifts the skill prior's mean, noise is in
units of its standard deviation, and the policy pays for the KL from it.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skillmeta.config import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Share, checked
from skillmeta.data.carried import Carried
from skillmeta.data.replay import decisions_of, zeros
from skillmeta.data.trial_store import TrialStore
from skillmeta.nn.cuda_graph import Graphed
from skillmeta.nn.distributions import Gaussian
from skillmeta.nn.heads import zero_output
from skillmeta.nn.networks import MLP, Critics, identity
from skillmeta.nn.optimizers import SlowCopy, adam, apply_gradients
from skillmeta.nn.policies import check_skills, continuous_only, skill_prior
from skillmeta.nn.windows import WindowGRU, expanded, named, stacked
from skillmeta.objectives.propensities import PropensityConfig, effective_sample_size, propensities
from skillmeta.objectives.td3 import Batch, critic_loss, disturbed, policy_loss, squared_distance, td3_target
from skillmeta.run.parts import Counts
from skillmeta.seeds import Seeds
from skillmeta.types import EnvSpec, Episodes, Metrics, Parts, Skills, Source, Step


@checked
class AdaptationConfig:
    """What is done with the first episodes of a new task."""

    new_updates: NonNegativeInt = 10  # of TD3 on the task's own decisions
    meta_updates: NonNegativeInt = 50  # after them, on decisions of meta-training times their propensities
    batch_size: PositiveInt = 128  # decisions of each
    learning_rate: PositiveFloat | None = None  # of their Adam; null: as in training
    carried: PositiveInt = 2_000  # R: decisions of meta-training that an actor has with it
    propensity: PropensityConfig = field(default_factory=PropensityConfig)  # of the decisions of meta-training
    proximal_coefficient: NonNegativeFloat = 1.0  # times lambda; 0: nothing holds the parameters


@checked
class Config:
    """Sizes for the point robot; configs/meta has those of the cheetah."""

    tasks: PositiveInt = 20  # that an iteration collects an episode in
    random_decisions: NonNegativeInt = 2_000  # before the policy acts and learns: uniform, or samples of the prior
    updates: NonNegativeInt = 200  # of an iteration
    batch_size: PositiveInt = 256  # decisions of an update
    context_length: PositiveInt = 10  # T: decisions that a context looks back on
    context_dim: PositiveInt = 16  # of c
    exploration_noise: NonNegativeFloat = 0.1  # standard deviation, in parts of the bound or of the prior's deviation
    target_noise: NonNegativeFloat = 0.2  # of actions in targets, in the same parts
    target_noise_clip: NonNegativeFloat = 0.5  # its largest size
    policy_delay: PositiveInt = 2  # updates of the critics for one of the policy
    prior_coefficient: NonNegativeFloat = 0.1  # of KL(policy || prior), where actions are skills
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)  # to a new task
    exploration_episodes: PositiveInt = 1  # of a test trial; after the last of them parameters are adapted, then held
    reward_scale: PositiveFloat = 1.0  # of what is seen and learned from
    discount: Share = 0.99  # of a decision
    tau: Share = 0.005  # of the target networks
    learning_rate: PositiveFloat = 1e-3  # of all networks
    hidden: PositiveInt = 128  # units of a layer
    depth: PositiveInt = 2  # hidden layers
    replay_capacity: PositiveInt = 1_000_000  # decisions of all tasks together

    @property
    def iteration_episodes(self) -> tuple[int, int]:
        """Episodes of the first iteration and of a later one."""
        return self.tasks, self.tasks


# -- networks: of one task, or of N at once, with a leading axis [N] of parameters and inputs ----------------------------------
class ContextPolicy(nn.Module):
    """Observations [..., B, O] and windows [..., B, T, D] -> actions [..., B, A]: in the box, or the prior's mean and a shift."""

    bound: Tensor

    def __init__(self, spec: EnvSpec, entry: int, residual: bool, config: Config, generator: torch.Generator):
        super().__init__()
        seen = spec.observation_dim + config.context_dim
        self.context = WindowGRU(entry, config.context_dim, generator)
        self.net = MLP(seen, spec.action_dim, config.hidden, config.depth, generator)
        self.register_buffer("bound", torch.from_numpy(spec.action_bound))
        if residual:
            zero_output(self.net)

    def forward(self, observation: Tensor, window: Tensor, prior: Gaussian | None) -> Tensor:
        out: Tensor = self.net(torch.cat([observation, self.context(window)], -1))
        return self.bound * torch.tanh(out) if prior is None else prior.mean + out


class ContextCritics(nn.Module):
    """Observations [..., B, O], windows [..., B, T, D] and actions [..., B, A] -> two Q values, [2, ..., B]."""

    def __init__(self, spec: EnvSpec, entry: int, config: Config, generator: torch.Generator):
        super().__init__()
        seen = spec.observation_dim + config.context_dim
        self.context = WindowGRU(entry, config.context_dim, generator)
        self.critics = Critics(seen, spec.action_dim, config.hidden, config.depth, generator)

    def forward(self, observation: Tensor, window: Tensor, action: Tensor) -> Tensor:
        q: Tensor = self.critics(torch.cat([observation, self.context(window)], -1), action)
        return q


class Networks(nn.Module):
    """What TD3 learns."""

    def __init__(self, spec: EnvSpec, residual: bool, config: Config, generator: torch.Generator):
        super().__init__()
        entry = spec.observation_dim + spec.action_dim + 1
        self.policy = ContextPolicy(spec, entry, residual, config, generator)
        self.critics = ContextCritics(spec, entry, config, generator)


# -- TD3 ------------------------------------------------------------------------------------------------------------------------
class Rows(NamedTuple):
    """`Transitions`, each with the window of decisions that ends with itself: all but its last entry is the context before it, all
    but its first one that after it."""

    observation: Tensor  # [..., O]
    action: Tensor  # [..., A] as executed
    reward: Tensor  # [...]
    next_observation: Tensor  # [..., O]
    terminated: Tensor  # [...] 1 where the MDP ended
    window: Tensor  # [..., T + 1, D]

    def at(self, *index: Tensor) -> Rows:
        return Rows(*(part[index] for part in self))


def zero_rows(seen: int, actions: int, length: int, *lead: int) -> Rows:
    """Rows of zeros, with windows of `length` decisions and one more."""
    return Rows(*zeros(seen, actions, *lead), torch.zeros(*lead, length + 1, seen + actions + 1))


class Td3:
    """Networks and what an update changes with them: target networks, and an optimiser each of policy and critics."""

    def __init__(self, networks: Networks, slow: Networks, config: Config, learning_rate: float):
        self.networks, self.slow, self.config = networks, slow, config
        self.slow_copy = SlowCopy(slow, networks)
        self.policy_optimizer = adam(networks.policy.parameters(), learning_rate)
        self.critic_optimizer = adam(networks.critics.parameters(), learning_rate)

    def update(
        self, batch: Batch, noise: Tensor, of_policy: bool, anchor: Networks | None = None, pull: Tensor | None = None
    ) -> Tensor:
        """One update of the critics, and of policy and target networks if it is their turn; returns the METRICS.

        Args:
            noise: standard normal, [..., B, A], of actions in the targets.
            anchor, pull: networks that parameters are held near, and how much in each of N tasks, [N].
        """
        config, networks, slow = self.config, self.networks, self.slow
        policy, critics, bound = networks.policy, networks.critics, networks.policy.bound
        with torch.no_grad():
            smoothing = (config.target_noise * noise).clamp(-config.target_noise_clip, config.target_noise_clip)
            target = td3_target(slow.policy, slow.critics, batch, smoothing, bound)

        def held(loss: Tensor, moved: nn.Module, first: nn.Module | None) -> Tensor:
            return loss.sum() if first is None or pull is None else (loss + pull * squared_distance(moved, first)).sum()

        of_critics = critic_loss(critics, batch, target)
        total = held(of_critics, critics, anchor and anchor.critics)
        apply_gradients(self.critic_optimizer, torch.autograd.grad(total, list(critics.parameters())))
        loss = torch.zeros_like(of_critics)
        if of_policy:
            loss = policy_loss(policy, critics, batch, bound, config.prior_coefficient)
            total = held(loss, policy, anchor and anchor.policy)
            apply_gradients(self.policy_optimizer, torch.autograd.grad(total, list(policy.parameters())))
            self.slow_copy.polyak_update(config.tau)
        return torch.stack([of_critics.mean(), target.mean(), loss.mean()]).detach()


# -- acting and adapting -------------------------------------------------------------------------------------------------------
class MqlBelief(NamedTuple):
    """What is known of N tasks: the last decisions of the episode, what was seen before adaptation, and parameters after it."""

    observation: Tensor  # [N, O] of the last decision
    window: Tensor  # [N, T, D]
    evidence: Rows  # [N, n, ...] of exploration episodes; none once they were learned from
    valid: Tensor  # [N, n]
    episodes: int  # of exploration so far
    parameters: tuple[Tensor, ...]  # of the policy, [N, ...]; none: those of the actor
    updates: int  # that adaptation took


@dataclass(frozen=True)
class Actor:
    """What acts. Without rows to take along it does not adapt, as when it collects for training."""

    networks: Networks
    slow: Networks
    carried: Carried | None
    skills: Skills | None
    config: Config
    random: bool = False  # actions are uniform, or samples of the prior
    rollouts: int = 1

    @property
    def exploration_episodes(self) -> int:
        return self.config.exploration_episodes

    @property
    def bound(self) -> Tensor:
        return self.networks.policy.bound

    def begin(self, tasks: int, generator: torch.Generator) -> MqlBelief:
        return self.belief(tasks, () if self.carried is None else expanded(self.networks.policy, tasks), 0, 0)

    def belief(self, tasks: int, parameters: tuple[Tensor, ...], episodes: int, updates: int) -> MqlBelief:
        """At the start of an episode, without evidence."""
        actions, seen = len(self.bound), self.networks.policy.net.inputs - self.config.context_dim
        length = self.config.context_length
        evidence = zero_rows(seen, actions, length, tasks, 0)
        start = torch.zeros(tasks, seen), torch.zeros(tasks, length, seen + actions + 1)
        return MqlBelief(*start, evidence, torch.zeros(tasks, 0), episodes, parameters, updates)

    def act(
        self, observation: Tensor, belief: MqlBelief, generator: torch.Generator, explore: bool
    ) -> tuple[Tensor, MqlBelief]:
        seen, prior = self.normalize(observation), skill_prior(self.skills, observation)
        policy, shape, belief = self.networks.policy, (len(seen), len(self.bound)), belief._replace(observation=seen)
        if self.random and prior is None:
            return self.bound * (2 * torch.rand(shape, generator=generator) - 1), belief
        if self.random and prior is not None:
            return disturbed(prior.mean, torch.randn(shape, generator=generator), prior, self.bound), belief
        if belief.parameters:  # each task's own: parameters [N, ...], inputs [N, 1, ...]
            inputs = seen.unsqueeze(1), belief.window.unsqueeze(1), prior and prior.unsqueeze(1)
            action = torch.func.functional_call(policy, named(policy, belief.parameters), inputs).squeeze(1)
        else:
            action = policy(seen, belief.window, prior)
        noise = torch.randn(shape, generator=generator) if explore else torch.zeros(shape)
        return disturbed(action, self.config.exploration_noise * noise, prior, self.bound), belief

    def observe(self, belief: MqlBelief, action: Tensor, step: Step) -> MqlBelief:
        entry = self.entries(belief.observation, action, torch.from_numpy(step.reward)).unsqueeze(1)
        taken = torch.from_numpy(step.steps > 0)[:, None, None]
        return belief._replace(window=torch.where(taken, torch.cat([belief.window[:, 1:], entry], 1), belief.window))

    def adapt(self, belief: MqlBelief, episodes: Episodes, generator: torch.Generator) -> MqlBelief:
        """After the last exploration episode, parameters that were adapted to the task. A context ends with its episode."""
        tasks, done = len(belief.window), belief.episodes + 1
        if self.carried is None or belief.episodes >= self.config.exploration_episodes:
            return self.belief(tasks, belief.parameters, belief.episodes, belief.updates)
        evidence = Rows(*(torch.cat(both, 1) for both in zip(belief.evidence, self.rows_of(episodes), strict=True)))
        valid = torch.cat([belief.valid, torch.from_numpy(episodes.valid).float()], 1)
        if done < self.config.exploration_episodes:
            return self.belief(tasks, belief.parameters, done, 0)._replace(evidence=evidence, valid=valid)
        td3, updates = self.adapted(Rows(*self.carried.buffers()), evidence, valid, generator)
        return self.belief(tasks, tuple(p.detach() for p in td3.networks.policy.parameters()), done, updates)

    def adapted(self, old: Rows, new: Rows, valid: Tensor, generator: torch.Generator) -> tuple[Td3, int]:
        """Networks that were adapted to each of N tasks, and how many updates that took.

        Args: old [R, ...] of meta-training; new [N, n, ...] of the tasks, of which there are those that are valid [N, n].
        """
        how, tasks = self.config.adaptation, len(valid)
        beta = self.propensities(old, new, valid)
        pull = how.proximal_coefficient * (1 - effective_sample_size(beta))
        rate = self.config.learning_rate if how.learning_rate is None else how.learning_rate
        td3 = Td3(stacked(self.networks, tasks), stacked(self.slow, tasks), self.config, rate)
        each, updates = torch.arange(tasks).unsqueeze(1), how.new_updates + how.meta_updates
        for k in range(updates):
            if k < how.new_updates:
                chosen = torch.multinomial(valid, how.batch_size, replacement=True, generator=generator)
                batch = self.batch(new.at(each, chosen), torch.ones(chosen.shape))
            else:
                chosen = torch.randint(len(old.reward), (tasks, how.batch_size), generator=generator)
                batch = self.batch(old.at(chosen), beta[each, chosen])
            noise = torch.randn(batch.action.shape, generator=generator)
            td3.update(batch, noise, (k + 1) % self.config.policy_delay == 0, self.networks, pull)
        return td3, updates

    def propensities(self, old: Rows, new: Rows, valid: Tensor) -> Tensor:
        """beta [N, R] of meta-training's rows. Both are compared by the policy's contexts after each decision."""
        context = self.networks.policy.context
        with torch.no_grad():
            before, now = context(old.window[:, 1:]), context(new.window[:, :, 1:].flatten(0, 1))
        return propensities(before, now.view(*valid.shape, -1), valid, self.config.adaptation.propensity)

    def batch(self, rows: Rows, weight: Tensor) -> Batch:
        """Rows [..., B] as the losses see them."""
        return Batch(
            self.normalize(rows.observation),
            self.normalize(rows.next_observation),
            rows.window[..., :-1, :],
            rows.window[..., 1:, :],
            rows.action,
            rows.reward * self.config.reward_scale,
            self.config.discount * (1 - rows.terminated),
            skill_prior(self.skills, rows.observation),
            skill_prior(self.skills, rows.next_observation),
            weight,
        )

    def rows_of(self, episodes: Episodes) -> Rows:
        """Every decision of N episodes, [N, T, ...]."""
        every, length = decisions_of(episodes), self.config.context_length
        entries = self.entries(self.normalize(every.observation), every.action, every.reward)
        return Rows(*every, F.pad(entries, (0, 0, length, 0)).unfold(1, length + 1, 1).mT)

    def entries(self, seen: Tensor, action: Tensor, reward: Tensor) -> Tensor:
        """Decisions as contexts see them, [..., D], of normalised observations."""
        return torch.cat([seen, action / self.bound, self.config.reward_scale * reward.unsqueeze(-1)], -1)

    def normalize(self, observation: Tensor) -> Tensor:
        return identity(observation) if self.skills is None else self.skills.normalize(observation)

    def parts(self) -> Parts:
        assert self.carried is not None
        return {"networks": self.networks, "slow": self.slow, "carried": self.carried}


class Learner:
    """The learner. Arguments as for SAC's (`skillmeta.algorithms.sac.Learner`)."""

    def __init__(self, config: Config, spec: EnvSpec, skills: Skills | None, seeds: Seeds):
        continuous_only(spec, "mql")
        check_skills(spec, skills)
        self.config = config
        networks = Networks(spec, skills is not None, config, seeds.stream("weights").torch())
        slow = copy.deepcopy(networks).requires_grad_(False)
        sizes = spec.observation_dim, spec.action_dim, config.context_length, config.adaptation.carried
        self.carried = Carried(zero_rows(*sizes)._asdict())
        self.acting = Actor(networks, slow, self.carried, skills, config)
        self.td3 = Td3(networks, slow, config, config.learning_rate)
        self.store = TrialStore(config.replay_capacity, spec.observation_dim, spec.action_dim)
        self.steps = [Graphed(functools.partial(self._step, of_policy)) for of_policy in (False, True)]
        self.generator = seeds.stream("updates").torch()
        self.counts = Counts()

    @property
    def updates(self) -> int:
        return self.counts.updates

    def actor(self) -> Actor:
        return copy.deepcopy(self.acting)

    def parts(self) -> Parts:
        return {
            "networks": self.td3.networks,
            "slow": self.td3.slow,
            "policy_optimizer": self.td3.policy_optimizer,
            "critic_optimizer": self.td3.critic_optimizer,
            "carried": self.carried,
            "store": self.store,
            "generator": self.generator,
            "counts": self.counts,
        }

    def iterate(self, source: Source) -> Metrics:
        """An episode in each of some tasks, then updates; then other rows for the actor to take along."""
        config, counts = self.config, self.counts
        explorer = replace(self.acting, carried=None, random=counts.decisions < config.random_decisions)
        trials = source.trials(explorer, config.tasks, 1).trials
        self.store.add(trials)
        counts.decisions += int(trials.valid.sum())
        begins = torch.tensor(self.store.begins)
        sums, of_policy = self.acting.bound.new_zeros(len(METRICS)), 0
        updates = config.updates if counts.decisions >= config.random_decisions else 0
        for _ in range(updates):
            rows = self.sample(begins, config.batch_size)
            turn = (counts.updates + 1) % config.policy_delay == 0
            noise = torch.randn(rows.action.shape, generator=self.generator)
            sums += self.steps[turn]((rows, noise), sums.device)
            counts.updates, of_policy = counts.updates + 1, of_policy + turn
        self.carried.take(*self.sample(begins, config.adaptation.carried))
        if not updates:
            return {}
        counted = zip(METRICS, sums.tolist(), (updates, updates, max(1, of_policy)), strict=True)
        return {name: total / count for name, total, count in counted}

    def _step(self, of_policy: bool, drawn: tuple[Rows, Tensor]) -> Tensor:
        rows, noise = drawn
        return self.td3.update(self.acting.batch(rows, torch.ones_like(rows.reward)), noise, of_policy)

    def sample(self, begins: Tensor, count: int) -> Rows:
        """Decisions of the store with their windows, [B, ...], uniformly with replacement; `begins` of its episodes."""
        replay, device = self.store.replay, self.acting.bound.device
        at = replay.kept.start + torch.randint(len(replay), (count,), generator=self.generator)
        back = at.unsqueeze(1) + torch.arange(-self.config.context_length, 1)
        begin = begins[torch.searchsorted(begins, at, right=True) - 1].unsqueeze(1)
        here = replay.at(at % replay.capacity).to(device)
        past = replay.at((back % replay.capacity).flatten()).to(device)
        seen = self.acting.normalize(past.observation)
        window = self.acting.entries(seen, past.action, past.reward).view(*back.shape, -1)
        there = (back >= begin).unsqueeze(-1).to(device)
        return Rows(*here, torch.where(there, window, 0.0))


METRICS = ("critic/loss", "critic/target", "actor/loss")


def describe(config: Config, acts_in: str, prior: str | None) -> str:
    """A config as a phrase for pages; arguments as for `skillmeta.algorithms.sac.describe`."""
    how, length = config.adaptation, config.context_length
    said = [f"MQL that acts in {acts_in}: TD3 on many tasks, with a context of the last {length} decisions"]
    if how.new_updates + how.meta_updates:
        after = f"after {config.exploration_episodes} episode{'s' * (config.exploration_episodes > 1)}"
        said.append(
            f"{after} of a new task {how.new_updates} updates on {'them' if config.exploration_episodes > 1 else 'it'} and "
            f"{how.meta_updates} on rows of meta-training, weighted by their propensities"
        )
    else:
        said.append("parameters are not adapted")
    if prior is not None:
        said.append(
            f"the policy starts as the mean of the prior, {prior}, and pays {config.prior_coefficient:g} times its KL"
        )
    return "; ".join(said)
