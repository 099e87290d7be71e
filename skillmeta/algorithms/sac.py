"""SAC with a prior: soft actor-critic (Haarnoja et al. 2018) whose entropy bonus is minus the cost of leaving a prior.

With the uniform prior and primitive actions it is plain SAC; with the skill prior p(z|s) and skills as actions it is SPiRL
(Pertsch et al. 2020, arXiv:2010.11944, Algorithm 1). One update, all gradients taken at the same parameters:

    y = r + gamma (1 - terminated) (min_i Qbar_i(s', z') - weight D(pi(.|s') || prior(.|s')))     critic target
    critics: sum_i 1/2 (Q_i(s, z) - y)^2         policy: weight D(pi || prior) - min_i Q_i(s, z~pi)
    weight: towards the target divergence        targets: Qbar <- (1 - rate) Qbar + rate Q

D is the KL to the skill prior. With the uniform prior it is log pi in the coordinates of the unit box, as in SAC: the KL without
its constant (`skillmeta.objectives.regularizer`). gamma discounts a decision, whatever number of primitive steps it takes (SPiRL).
"""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
import torch._dynamo
from torch import Tensor, nn

from skillmeta.collect.episodes import Collector
from skillmeta.data.replay import Replay, Transitions
from skillmeta.errors import ConfigError
from skillmeta.nn.distributions import LOG_STDDEV_RANGE, Gaussian, TanhGaussian, gaussian
from skillmeta.nn.networks import MLP, Critics, identity
from skillmeta.nn.optimizers import adam, descend, follow, optimizer_state, restore_optimizer
from skillmeta.objectives.regularizer import Policy, Prior, Regularizer, RegularizerConfig
from skillmeta.run.checkpoint import generator_state, restore_generator
from skillmeta.seeds import Seeds
from skillmeta.types import Belief, Episodes, Step


@dataclass(frozen=True)
class Config:
    """Every default is a working one; configs/downstream has the published settings."""

    FORMER_KEYS: ClassVar[dict[str, str]] = {
        "discount_per": "is no longer a key; discount is per decision, so remove it"
    }

    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)
    policy_start: str = (
        "random"  # random; prior: a zero-initialised residual on the skill prior, so pi = prior at step 0
    )
    hidden: int = 256
    policy_depth: int = 2
    critic_depth: int = 2
    learning_rate: float = 3e-4
    discount: float = 0.99  # of a decision, as in SPiRL, not of a primitive step
    target_rate: float = 0.005
    batch_size: int = 256
    updates_per_decision: float = 1.0
    random_decisions: int = 0  # uniform actions at first; a policy that starts at the prior needs none
    replay_capacity: int = 1_000_000
    compile: bool = False  # compile the update; needs a C++ compiler, without one it runs uncompiled and says so
    bfloat16: bool = False  # matrix products in bfloat16, for CPUs and GPUs that have it; parameters stay float32

    def __post_init__(self) -> None:
        if self.policy_start not in ("random", "prior"):
            raise ValueError(f"policy_start is {self.policy_start!r}; choose random or prior")
        if self.policy_start == "prior" and self.regularizer.prior == "uniform" and self.regularizer.divergence == "kl":
            raise ValueError(
                "policy_start: prior has an unsquashed policy, which regularizer.prior: uniform would pay for entropy without "
                "bound; set regularizer.divergence: none, or regularizer.prior: skill"
            )
        if not 0 <= self.discount <= 1:
            raise ValueError(f"discount is {self.discount}; it must lie between 0 and 1")
        for name in ("hidden", "policy_depth", "critic_depth", "learning_rate", "batch_size", "replay_capacity"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.updates_per_decision < 0 or self.random_decisions < 0:
            raise ValueError("updates_per_decision and random_decisions must not be below 0")


class PolicyNetwork(nn.Module):
    """Observation [B, O] (and the prior there) -> distribution over actions [B, A].

    Without a prior to start from: a Gaussian squashed into the action box. With one: a Gaussian whose mean and log standard
    deviation are the prior's plus a residual that starts at zero; unsquashed, since the decoder never saw a squashed z.
    """

    bound: Tensor

    def __init__(self, observation_dim: int, bound: Tensor, config: Config, generator: torch.Generator):
        super().__init__()
        self.residual = config.policy_start == "prior"
        self.net = MLP(observation_dim, 2 * len(bound), config.hidden, config.policy_depth, generator)
        self.register_buffer("bound", bound)
        if self.residual:
            with torch.no_grad():
                for parameter in self.net.layers[-1].parameters():
                    parameter.zero_()

    def forward(self, observation: Tensor, prior: Gaussian | None) -> Policy:
        out = self.net(observation).float()
        if not self.residual:
            return TanhGaussian(gaussian(out), self.bound)
        assert prior is not None
        shift, log_ratio = out.chunk(2, -1)
        return Gaussian(prior.mean + shift, (prior.log_stddev + log_ratio).clamp(*LOG_STDDEV_RANGE))


# -- the losses: pure functions of (parameters, batch, weight, noise) --------------------------------------------------
def td_target(
    targets: Callable[[Tensor, Tensor], Tensor],
    policy: Policy,
    prior: Gaussian | None,
    regularizer: Regularizer,
    batch: Transitions,
    discount: Tensor,
    weight: Tensor,
    noise: Tensor,
) -> Tensor:
    """SPiRL eq. 6: r + discount (min Qbar(s', z') - weight D), [B]. Policy and prior are those at s'; noise [B, A]."""
    cost = regularizer.in_target(regularizer.divergence(policy, prior, noise))
    value = targets(batch.next_observation, policy.at(noise)).min(0).values - weight * cost
    return batch.reward + discount * value


def critic_loss(critics: Callable[[Tensor, Tensor], Tensor], batch: Transitions, target: Tensor) -> Tensor:
    """Half the squared TD error, summed over the critics and averaged over the batch; target [B]."""
    return 0.5 * ((critics(batch.observation, batch.action) - target) ** 2).sum(0).mean()


def actor_loss(
    policy: Policy,
    critics: Callable[[Tensor, Tensor], Tensor],
    prior: Gaussian | None,
    regularizer: Regularizer,
    batch: Transitions,
    weight: Tensor,
    noise: Tensor,
) -> tuple[Tensor, Tensor]:
    """SPiRL eq. 7: weight D - min Q(s, z~pi), averaged; and the divergence from the prior of each row [B]. noise [B, A] draws z."""
    divergence = regularizer.divergence(policy, prior, noise)
    q = critics(batch.observation, policy.at(noise)).min(0).values
    return (weight * regularizer.cost(divergence) - q).mean(), divergence


@dataclass(frozen=True)
class Actor:
    """What acts of the learner, without what learns: it goes to worker processes and to the evaluator as a copy."""

    policy: PolicyNetwork
    prior: Prior | None
    normalize: Callable[[Tensor], Tensor]
    rollouts: int = 1
    exploration_episodes: int = 0

    def begin(self, num: int, generator: torch.Generator) -> Belief:
        return None  # one task, nothing to believe

    def act(
        self, observation: Tensor, belief: Belief, generator: torch.Generator, explore: bool
    ) -> tuple[Tensor, Belief]:
        """Actions [N, A] for observations [N, O]: a sample of the policy, or its mode without `explore`."""
        bound = self.policy.bound
        prior = None if self.prior is None else self.prior(observation)
        policy = self.policy(self.normalize(observation), prior)
        if explore:
            action = policy.at(torch.randn(len(observation), len(bound), generator=generator))
        else:
            action = policy.mode()
        return action.clamp(-bound, bound), belief

    def observe(self, belief: Belief, action: Tensor, step: Step) -> Belief:
        return belief

    def adapt(self, belief: Belief, episodes: Episodes, generator: torch.Generator) -> Belief:
        return belief


class Agent:
    """The learner.

    Args:
        config: see `Config`.
        observation_dim: O.
        action_bound: [A]; actions live in [-bound, bound].
        discrete: whether actions are discrete, which are refused.
        prior: p(z|s) in the units of the actions, needed by `regularizer.prior: skill` and `policy_start: prior`.
        normalize: applied to observations before policy and critics; the identity where there are no statistics.
        seeds: of weights, noise and batches.
    """

    def __init__(
        self,
        config: Config,
        observation_dim: int,
        action_bound: np.ndarray,
        discrete: bool = False,
        prior: Prior | None = None,
        normalize: Callable[[Tensor], Tensor] | None = None,
        *,
        seeds: Seeds,
    ):
        if discrete:
            raise ConfigError(
                f"algorithm.name is sac, whose policy is continuous; the environment has {len(action_bound)} discrete "
                "actions: use an environment with a Box of actions, or rl2 in meta-training"
            )
        if prior is None and (config.regularizer.prior == "skill" or config.policy_start == "prior"):
            raise ConfigError("the algorithm asks for a skill prior; name a skill model under `skills:`")
        if config.regularizer.prior == "skill" and config.policy_start != "prior":
            raise ConfigError(
                "regularizer.prior: skill needs policy_start: prior (an unsquashed policy near the prior)"
            )
        self.config, self.bound = config, torch.from_numpy(np.asarray(action_bound, np.float32))
        self.prior = prior if config.policy_start == "prior" else None
        self.normalize = normalize or identity
        weights = seeds.stream("weights").torch()
        self.policy = PolicyNetwork(observation_dim, self.bound, config, weights)
        self.acting = Actor(self.policy, self.prior, self.normalize)
        self.critics = Critics(observation_dim, len(self.bound), config.hidden, config.critic_depth, weights)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.regularizer = Regularizer(config.regularizer, self.bound)
        self.policy_optimizer = adam(self.policy.parameters(), config.learning_rate)
        self.critic_optimizer = adam(self.critics.parameters(), config.learning_rate)
        self.replay = Replay(config.replay_capacity, observation_dim, len(self.bound))
        self.draws = seeds.stream("updates").torch()
        self.updates = self.decisions = 0
        self.gradients = compiled(self._gradients) if config.compile else self._gradients

    # -- acting -------------------------------------------------------------------------------------------------------
    rollouts, exploration_episodes = 1, 0

    def begin(self, num: int, generator: torch.Generator) -> Belief:
        return self.acting.begin(num, generator)

    def act(
        self, observation: Tensor, belief: Belief, generator: torch.Generator, explore: bool
    ) -> tuple[Tensor, Belief]:
        """As the actor does, after the first `random_decisions` of exploring."""
        if explore and self.decisions < self.config.random_decisions:
            uniform = torch.rand(len(observation), len(self.bound), generator=generator)
            return self.bound * (2 * uniform - 1), belief
        return self.acting.act(observation, belief, generator, explore)

    def observe(self, belief: Belief, action: Tensor, step: Step) -> Belief:
        return self.acting.observe(belief, action, step)

    def adapt(self, belief: Belief, episodes: Episodes, generator: torch.Generator) -> Belief:
        return self.acting.adapt(belief, episodes, generator)

    def actor(self) -> Actor:
        """A copy of what acts, with no way back to the learner."""
        return copy.deepcopy(self.acting)

    # -- learning: Algorithm 1 --------------------------------------------------------------------------------------------
    def iterate(self, collect: Collector) -> tuple[Episodes, dict[str, float]]:
        """One episode, then `updates_per_decision` updates for each of its decisions. Returns it, and mean metrics."""
        episodes = collect.episode(self)
        self.replay.add(episodes)
        decisions = int(episodes.valid.sum())
        due = int(self.config.updates_per_decision * (self.decisions + decisions)) - int(
            self.config.updates_per_decision * self.decisions
        )
        self.decisions += decisions
        if self.decisions < self.config.random_decisions:
            return episodes, {}
        return episodes, self.learn(due)

    def learn(self, updates: int) -> dict[str, float]:
        """Some updates from the replay; metrics averaged over them."""
        sums = torch.zeros(len(METRICS))
        for _ in range(updates):
            sums += self.update(self.replay.sample(self.config.batch_size, self.draws))
        means = (sums / max(1, updates)).tolist()
        if not updates:
            return {}
        metrics = {**dict(zip(METRICS, means, strict=True)), "prior/coefficient": float(self.regularizer.weight())}
        if (
            self.config.regularizer.divergence == "none"
        ):  # it is not computed; a 0 would look like a policy that is the prior
            metrics = {name: value for name, value in metrics.items() if not name.startswith("prior/")}
        return metrics

    def update(self, batch: Transitions) -> Tensor:
        """One update of critics, policy, weight and targets; returns the METRICS, a vector."""
        noise = torch.randn(2, *batch.action.shape, generator=self.draws)
        weight = self.regularizer.weight()
        policy_gradient, critic_gradient, divergence, metrics = self.gradients(batch, weight, noise)
        descend(self.critic_optimizer, critic_gradient)
        descend(self.policy_optimizer, policy_gradient)
        self.regularizer.control(divergence)
        follow(self.targets, self.critics, self.config.target_rate)
        self.updates += 1
        return metrics

    def _gradients(
        self, batch: Transitions, weight: Tensor, noise: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor, Tensor]:
        """Gradients of both losses, each with respect to its own parameters alone; D of each row; metrics."""
        # Without its cache of cast weights: the two losses would share the casts, and each gradient frees what it went through.
        device, half = batch.observation.device.type, self.config.bfloat16
        with torch.autocast(device, torch.bfloat16, enabled=half, cache_enabled=False):
            with torch.no_grad():
                here, there = self.prior_at(batch.observation, batch.next_observation)
                seen = replace(
                    batch,
                    observation=self.normalize(batch.observation),
                    next_observation=self.normalize(batch.next_observation),
                )
                discount = batch.discount(self.config.discount)
                target = td_target(
                    partial(self.q, self.targets),
                    self.policy(seen.next_observation, there),
                    there, self.regularizer, seen, discount, weight, noise[1],
                )  # fmt: skip
            critic_value = critic_loss(partial(self.q, self.critics), seen, target)
            critic_gradient = torch.autograd.grad(critic_value, list(self.critics.parameters()))
            policy_value, divergence = actor_loss(
                self.policy(seen.observation, here),
                partial(self.q, self.critics),
                here, self.regularizer, seen, weight, noise[0],
            )  # fmt: skip
            policy_gradient = torch.autograd.grad(policy_value, list(self.policy.parameters()))
        divergence = divergence.detach()
        metrics = torch.stack([critic_value.detach(), policy_value.detach(), divergence.mean(), target.mean()])
        return policy_gradient, critic_gradient, divergence, metrics

    def prior_at(self, *observations: Tensor) -> tuple[Gaussian | None, ...]:
        """The prior at each of some batches of observations [B, O], in one pass; None where there is none."""
        if self.prior is None:
            return tuple(None for _ in observations)
        every = self.prior(torch.cat(observations))
        means, logs = (x.float().chunk(len(observations)) for x in (every.mean, every.log_stddev))
        return tuple(Gaussian(mean, log_stddev) for mean, log_stddev in zip(means, logs, strict=True))

    def q(self, critics: Critics, observation: Tensor, action: Tensor) -> Tensor:
        """Values [n, B] in float32, of the actions as they would be executed."""
        return critics(observation, self.clip(action)).float()

    def clip(self, action: Tensor) -> Tensor:
        """What is executed is what is valued: only an unsquashed policy can leave the box."""
        return action.clamp(-self.bound, self.bound) if self.policy.residual else action

    def acting_state(self) -> dict[str, Any]:
        """What `load_acting` needs to act as this agent does."""
        return {"policy": dict(self.policy.state_dict()), "decisions": self.decisions}

    def load_acting(self, state: dict[str, Any]) -> None:
        """Raises RuntimeError if the parameters have other shapes."""
        self.policy.load_state_dict(state["policy"])
        self.decisions = state["decisions"]

    # -- on disk --------------------------------------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs to continue as if it had not been interrupted."""
        return {
            "policy": dict(self.policy.state_dict()),
            "critics": dict(self.critics.state_dict()),
            "targets": dict(self.targets.state_dict()),
            "log_weight": self.regularizer.log_weight,
            "policy_optimizer": optimizer_state(self.policy_optimizer),
            "critic_optimizer": optimizer_state(self.critic_optimizer),
            "weight_optimizer": optimizer_state(self.regularizer.optimizer),
            "replay": self.replay.state(),
            "draws": generator_state(self.draws),
            "updates": self.updates,
            "decisions": self.decisions,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self.critics.load_state_dict(state["critics"])
        self.targets.load_state_dict(state["targets"])
        self.regularizer.log_weight.copy_(state["log_weight"])
        restore_optimizer(self.policy_optimizer, state["policy_optimizer"])
        restore_optimizer(self.critic_optimizer, state["critic_optimizer"])
        restore_optimizer(self.regularizer.optimizer, state["weight_optimizer"])
        self.replay.restore(state["replay"])
        restore_generator(self.draws, state["draws"])
        self.updates, self.decisions = state["updates"], state["decisions"]


def describe(config: Config, acts_in: str, prior: str) -> str:
    """A config as a phrase for pages.

    Args:
        acts_in: what an action is.
        prior: which prior `regularizer.prior: skill` and `policy_start: prior` stand for.
    """
    regularizer, start = config.regularizer, config.policy_start == "prior"
    if not config.updates_per_decision:
        return f"{f'the prior, {prior},' if start else 'a random policy'} acts in {acts_in}; nothing is learned"
    said = [f"SAC that acts in {acts_in}"]
    if start:
        said.append(f"the policy starts as the prior, {prior}")
    if regularizer.divergence == "none":
        return "; ".join([*said, "no divergence and no entropy bonus holds it"])
    name = {"kl": "KL(policy || prior)", "reverse_kl": "KL(prior || policy)"}[regularizer.divergence]
    said.append("an entropy bonus" if regularizer.prior == "uniform" else f"a coefficient times {name}")
    target = "its usual target" if regularizer.target_divergence is None else f"{regularizer.target_divergence:g} nats"
    how = {
        "fixed": f"the coefficient is fixed at {regularizer.initial_weight:g}",
        "two_way": f"the coefficient is controlled towards {target}",
        "one_way": f"the coefficient grows while the divergence is above {target}",
    }
    said.append(how[regularizer.controller])
    return "; ".join(said)


METRICS = ("critic/loss", "actor/loss", "prior/divergence", "critic/target")


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled, or as it is where that cannot be had, with a warning that says why."""
    dynamo = torch._dynamo.config
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        warnings.warn("no C++ compiler found: updates run uncompiled, about half as fast", stacklevel=2)
        return function
    if not hasattr(dynamo, "trace_autograd_ops"):
        warnings.warn(f"torch {torch.__version__} cannot compile gradients: updates run uncompiled", stacklevel=2)
        return function
    fast = torch.compile(function, fullgraph=True, dynamic=False)

    def call(*arguments: Any) -> Any:
        with dynamo.patch(trace_autograd_ops=True):
            return fast(*arguments)

    return call
