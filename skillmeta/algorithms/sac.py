"""SAC with a prior: soft actor-critic (Haarnoja et al. 2018) whose entropy bonus is minus the cost of leaving a prior.

With the uniform prior and primitive actions it is plain SAC; with the skill prior p(z|s) and skills as actions it is SPiRL
(Pertsch et al. 2020, arXiv:2010.11944, Algorithm 1). One update, all gradients taken at the same parameters:

    y = r + gamma (1 - terminated) (min_i Qbar_i(s', z') - coefficient D(pi(.|s') || prior(.|s')))     critic target
    critics: sum_i 1/2 (Q_i(s, z) - y)^2       policy: coefficient D(pi || prior) - min_i Q_i(s, z~pi)
    coefficient: towards the target divergence         targets: Qbar <- (1 - tau) Qbar + tau Q

D is the KL to the skill prior. With the uniform prior it is log pi in the coordinates of the unit box, as in SAC: the KL without
its constant (`skillmeta.objectives.regularizer`). gamma discounts a decision, whatever number of primitive steps it takes (SPiRL).
"""

from __future__ import annotations

import copy
import itertools
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from skillmeta.config import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Share, checked
from skillmeta.data.replay import Replay, Transitions
from skillmeta.errors import ConfigError
from skillmeta.nn.cuda_graph import Graphed
from skillmeta.nn.distributions import columns_of, of_columns
from skillmeta.nn.networks import Critics, Normalizer, promoted
from skillmeta.nn.optimizers import SlowCopy, adam, apply_gradients
from skillmeta.nn.policies import (
    PolicyNetwork,
    ResidualPolicy,
    SquashedPolicy,
    choose_action,
    continuous_only,
    known_prior,
)
from skillmeta.objectives.regularizer import Regularizer, RegularizerConfig, described
from skillmeta.objectives.soft_q import actor_loss, min_q, soft_value, td_error, td_target
from skillmeta.run.parts import Counts
from skillmeta.seeds import Seeds
from skillmeta.types import EnvSpec, Episodes, Metrics, Parts, Prior, Skills, Source, Start, Step


@checked
class Config:
    """Every default is a working one; configs/downstream has the published settings."""

    FORMER_KEYS: ClassVar[dict[str, str]] = {
        "discount_per": "is no longer a key; discount is per decision, so remove it",
        "target_rate": "tau",
    }

    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)  # what the policy is pulled towards
    policy_start: Literal["random", "prior"] = "random"  # prior: a residual on the skill prior, pi = prior at step 0
    hidden: PositiveInt = 256  # units of a layer
    policy_depth: PositiveInt = 2  # hidden layers
    critic_depth: PositiveInt = 2  # hidden layers
    learning_rate: PositiveFloat = 3e-4  # of policy and critics
    discount: Share = 0.99  # of a decision, as in SPiRL, not of a primitive step
    tau: Share = 0.005  # of the target critics
    batch_size: PositiveInt = 256  # decisions of an update
    updates_per_decision: NonNegativeFloat = 1.0  # 0: nothing is learned
    # uniform actions at first; a policy that starts at the prior needs none, one that starts from another run takes none
    random_decisions: NonNegativeInt = 0
    # by the mean and standard deviation of the random decisions, then fixed; for primitive actions: skills bring their own
    normalize_observations: bool = False
    replay_capacity: PositiveInt = 1_000_000  # decisions
    compile: bool = False  # compile the update; needs a C++ compiler, without one it runs uncompiled and says so
    bfloat16: bool = False  # matrix products in bfloat16, where the CPU or GPU has it; parameters stay float32

    def __post_init__(self) -> None:
        if self.normalize_observations and not self.random_decisions:
            raise ValueError(
                "normalize_observations takes its statistics from the random decisions, and random_decisions is 0; set that to "
                "some thousand, or normalize_observations to false"
            )
        if self.policy_start == "prior" and self.regularizer.prior == "uniform" and self.regularizer.divergence == "kl":
            raise ValueError(
                "policy_start: prior has an unsquashed policy, which regularizer.prior: uniform would pay for entropy without "
                "bound; set regularizer.divergence: none, or regularizer.prior: skill"
            )


@dataclass(frozen=True)
class Actor:
    """What acts. It infers nothing about a task: its belief is None."""

    policy: PolicyNetwork
    skills: Skills | None  # whose prior the policy is a residual on, and whose normaliser it uses
    normalizer: Normalizer | None = None  # of observations without skills; None: they are seen as they are
    rollouts: int = 1
    exploration_episodes: int = 0
    critics: Critics | None = None  # with the coefficient, what fine-tuning continues from; acting needs neither
    log_coefficient: Tensor | None = None

    def begin(self, tasks: int, generator: torch.Generator) -> None:
        return None

    def act(self, observation: Tensor, belief: None, generator: torch.Generator, explore: bool) -> tuple[Tensor, None]:
        """Actions [N, A] for observations [N, O]: a sample of the policy, or its mode without `explore`."""
        prior = None
        if self.skills is not None and isinstance(self.policy, ResidualPolicy):
            prior = self.skills.prior(observation)
        policy = self.policy(self.normalize(observation), prior)
        return choose_action(policy, self.policy.bound, generator, explore), None

    def normalize(self, observation: Tensor) -> Tensor:
        """Observations [..., O] as the networks see them."""
        if self.skills is not None:
            return self.skills.normalize(observation)
        if self.normalizer is None:
            return observation
        result: Tensor = self.normalizer(observation)
        return result

    def observe(self, belief: None, action: Tensor, step: Step) -> None:
        return None

    def adapt(self, belief: None, episodes: Episodes, generator: torch.Generator) -> None:
        return None

    def start(self, belief: None) -> Start:
        """Fine-tuning continues with policy, critics, coefficient and statistics of observations."""
        assert self.critics is not None and self.log_coefficient is not None  # what a learner gives has both
        nothing = self.log_coefficient.new_zeros(0)
        return Start(nothing, self.policy, self.critics, self.log_coefficient, self.normalizer, self.skills)

    def parts(self) -> Parts:
        found = {"policy": self.policy} | ({} if self.normalizer is None else {"normalizer": self.normalizer})
        if self.critics is None or self.log_coefficient is None:
            return found
        return {**found, "critics": self.critics, "log_coefficient": self.log_coefficient}


@dataclass(frozen=True)
class UniformActor(Actor):
    """What acts at first: uniform in the action box."""

    def act(self, observation: Tensor, belief: None, generator: torch.Generator, explore: bool) -> tuple[Tensor, None]:
        bound = self.policy.bound
        return bound * (2 * torch.rand(len(observation), len(bound), generator=generator) - 1), None


class Drawn(NamedTuple):
    """What an update draws."""

    batch: Transitions  # [B, ...]
    noise: Tensor  # [2, B, A] of actions at the observations, and at the next ones


class Inputs(NamedTuple):
    """What the losses of one update depend on beside the networks."""

    now: Tensor  # [B, O] observations, normalised
    following: Tensor  # [B, O] the next ones
    action: Tensor  # [B, A] as executed
    reward: Tensor  # [B]
    discount: Tensor  # [B] 0 where the MDP ended
    noise: Tensor  # [2, B, A] of actions at the observations, and at the next ones
    coefficient: Tensor  # a scalar
    prior: tuple[Tensor, ...]  # its columns at both, [2 B, n] each; nothing where there is no prior

    def priors(self) -> tuple[Prior | None, Prior | None]:
        """The prior at the observations and at the next ones."""
        if not self.prior:
            return None, None
        here, there = zip(*(x.chunk(2, -2) for x in self.prior), strict=True)
        return of_columns(here), of_columns(there)


class Learner:
    """The learner.

    Args:
        config: see `Config`.
        spec: of the environments; discrete actions are refused.
        skills: whose skills are the actions; None for primitive actions. `regularizer.prior: skill` and `policy_start: prior` need
            them.
        seeds: of weights, noise and batches.

    Raises ConfigError for what does not go together.
    """

    trained = ("critics", "policy")  # networks that the losses are differentiated with respect to

    def __init__(self, config: Config, spec: EnvSpec, skills: Skills | None, seeds: Seeds):
        continuous_only(spec, "sac")
        if skills is None and (config.regularizer.prior == "skill" or config.policy_start == "prior"):
            raise ConfigError("the algorithm asks for a skill prior; name a skill model under `skills:`")
        if config.regularizer.prior == "skill" and config.policy_start != "prior":
            raise ConfigError(
                "regularizer.prior: skill needs policy_start: prior (an unsquashed policy near the prior)"
            )
        if skills is not None and config.normalize_observations:
            raise ConfigError(
                "algorithm.normalize_observations is for primitive actions, and the skill model under `skills:` normalises "
                "observations by its logs; set it to false"
            )
        self.config, bound = config, torch.from_numpy(spec.action_bound)
        self.skills = skills if config.policy_start == "prior" else None  # whose prior is used
        weights = seeds.stream("weights").torch()
        network = ResidualPolicy if config.policy_start == "prior" else SquashedPolicy
        self.policy = network(spec.observation_dim, bound, config.hidden, config.policy_depth, weights)
        self.normalizer = Normalizer(spec.observation_dim) if config.normalize_observations else None
        self.random_decisions = config.random_decisions  # none where it starts from another run
        self.acting = Actor(self.policy, skills, self.normalizer)
        self.critics = Critics(spec.observation_dim, spec.action_dim, config.hidden, config.critic_depth, weights)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.slow_copy = SlowCopy(self.targets, self.critics)
        self.networks = nn.ModuleDict({"policy": self.policy, "critics": self.critics, "targets": self.targets})
        self.regularizer = Regularizer(config.regularizer, bound)
        self.optimizer = adam([*self.critics.parameters(), *self.policy.parameters()], config.learning_rate)
        self.replay = Replay(config.replay_capacity, spec.observation_dim, spec.action_dim)
        self.generator = seeds.stream("updates").torch()
        self.counts = Counts()
        self.gradients = compiled(self._gradients) if config.compile else self._gradients
        self.step = Graphed(self._step)

    @property
    def updates(self) -> int:
        return self.counts.updates

    @property
    def bound(self) -> Tensor:
        """[A] of the actions, on the learner's device."""
        return self.policy.bound

    def actor(self) -> Actor:
        coefficient = self.regularizer.log_coefficient.clone()
        return replace(copy.deepcopy(self.acting), critics=copy.deepcopy(self.critics), log_coefficient=coefficient)

    def parts(self) -> Parts:
        return {
            "policy": self.policy,
            "critics": self.critics,
            "targets": self.targets,
            "regularizer": self.regularizer.parts(),
            "optimizer": self.optimizer,
            "replay": self.replay,
            "generator": self.generator,
            "counts": self.counts,
        } | ({} if self.normalizer is None else {"normalizer": self.normalizer})

    def start_from(self, start: Start, policy: bool = True) -> None:
        """Continue with networks that were trained elsewhere, on observations with the same features appended.

        Args:
            policy: continue with its policy and coefficient; without, the policy here is a residual on that one already.

        Raises ConfigError if they have other sizes, or see observations normalised otherwise, or its policy is no residual.
        """
        if not policy and self.skills is None:
            raise ConfigError(
                "start.prior is agent, and a policy that starts at random is no residual on it; set algorithm.policy_start to prior"
            )
        if (start.normalizer is None) != (self.normalizer is None):
            here, there = ("false" if one is None else "true" for one in (self.normalizer, start.normalizer))
            raise ConfigError(
                f"algorithm.normalize_observations is {here}, and {there} in the run that it starts from; set it as it is there"
            )
        if policy and type(start.policy) is not type(self.policy):
            raise ConfigError(
                "the run that it starts from has another kind of policy; set algorithm.policy_start to "
                f"{'random' if self.config.policy_start == 'prior' else 'prior'}"
            )
        if start.normalizer is not None and self.normalizer is not None:
            self.normalizer.load_state_dict(start.normalizer.state_dict())
        self.random_decisions = 0
        if policy:
            take_over(start.policy, self.policy, "policy")
        if start.critics is not None:
            take_over(start.critics, self.critics, "critic")
            take_over(start.critics, self.targets, "critic")
        if policy and start.log_coefficient is not None and self.regularizer.controlled:  # learned for the same prior
            self.regularizer.log_coefficient.copy_(start.log_coefficient)

    # -- learning: Algorithm 1 --------------------------------------------------------------------------------------------
    def iterate(self, source: Source) -> Metrics:
        """One episode, then `updates_per_decision` updates for each of its decisions. Metrics are means over them."""
        return self.learn_from(source.episode(self.explorer()))

    def explorer(self) -> Actor:
        """What collects the next episode."""
        begun = self.counts.decisions >= self.random_decisions
        return self.acting if begun else UniformActor(self.policy, None)

    def learn_from(self, episodes: Episodes) -> Metrics:
        """Take episodes into the replay, and make the updates that their decisions are worth."""
        return self.learn(self.take(episodes))

    def take(self, episodes: Episodes) -> int:
        """Take episodes into the replay. Returns how many updates their decisions are worth."""
        before, random = self.counts.decisions, self.random_decisions
        self.replay.add(episodes)
        updates = self.counts.take(int(episodes.valid.sum()), self.config.updates_per_decision)
        if self.counts.decisions < random:
            return 0
        if self.normalizer is not None and before < random:  # before the first update
            self.normalizer.fit(self.replay.columns.observation[: len(self.replay)])
        return updates

    def learn(self, updates: int) -> Metrics:
        """Some updates from the replay; metrics averaged over them."""
        sums = self.bound.new_zeros(len(METRICS))
        for _ in range(updates):
            sums += self.update(self.sample())
        return self.averaged(sums, updates)

    def averaged(self, sums: Tensor, updates: int) -> Metrics:
        """The metrics of some updates, given the sums of their METRICS."""
        if not updates:
            return {}
        means = (sums / updates).tolist()
        metrics = {**dict(zip(METRICS, means, strict=True)), "prior/coefficient": float(self.regularizer.coefficient())}
        if self.config.regularizer.divergence == "none":  # a 0 would look like a policy that is the prior
            metrics = {name: value for name, value in metrics.items() if not name.startswith("prior/")}
        return metrics

    def sample(self) -> Transitions:
        """A batch from the replay, on the CPU."""
        return self.replay.sample(self.config.batch_size, self.generator)

    def drawn(self, batch: Transitions) -> Drawn:
        """A batch with the noise of its update."""
        return Drawn(batch, torch.randn(2, *batch.action.shape, generator=self.generator))

    def update(self, batch: Transitions) -> Tensor:
        """One update of critics, policy, coefficient and targets; returns the METRICS, a vector, until the next one."""
        metrics = self.step(self.drawn(batch), self.bound.device)
        self.counts.updates += 1
        return metrics

    def _step(self, drawn: Drawn) -> Tensor:
        gradients, divergence, metrics = self.gradients(self.networks, self.inputs(drawn))
        apply_gradients(self.optimizer, gradients)
        self.finish(divergence)
        return metrics

    def inputs(self, drawn: Drawn) -> Inputs:
        """What the losses depend on beside the networks, and nothing of it changes with them."""
        batch = drawn.batch
        with torch.no_grad(), self.autocast(batch.observation):
            both = torch.cat([batch.observation, batch.next_observation])
            prior = () if self.skills is None else self.prior_at(both)
            now, following = (self.acting.normalize(x) for x in (batch.observation, batch.next_observation))
        # A residual policy may leave the box: what is executed is what is valued.
        executed = batch.action.clamp(-self.bound, self.bound)
        return Inputs(
            now,
            following,
            executed,
            batch.reward,
            batch.discount(self.config.discount),
            drawn.noise,
            self.regularizer.coefficient(),
            prior,
        )

    def finish(self, divergence: Tensor) -> None:
        """What follows a step of the optimiser, given D of each row, [B]."""
        self.slow_copy.polyak_update(self.config.tau)
        self.regularizer.update_coefficient(divergence)

    def _gradients(self, networks: nn.ModuleDict, inputs: Inputs) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """Gradients of both losses, each with respect to its own parameters alone; D of each row, [B]; the METRICS."""
        with self.autocast(inputs.now):
            losses, divergence, metrics = self.losses(networks, inputs)
            gradients = [
                torch.autograd.grad(loss, list(networks[name].parameters()))
                for name, loss in zip(self.trained, losses, strict=True)
            ]
        return tuple(itertools.chain(*gradients)), divergence.detach(), metrics.detach()

    def autocast(self, like: Tensor) -> torch.autocast:
        """Products in bfloat16, where the config says so. Without its cache: it keeps casts of weights that a step has changed."""
        return torch.autocast(like.device.type, torch.bfloat16, enabled=self.config.bfloat16, cache_enabled=False)

    def losses(self, networks: nn.ModuleDict, inputs: Inputs) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
        """The losses of what is `trained`; D of each row, [B]; the METRICS. All with a leading axis [S] where networks and inputs
        have one."""
        regularizer, coefficient = self.regularizer, inputs.coefficient
        policy, critics, targets = networks["policy"], networks["critics"], networks["targets"]
        bound = policy.get_buffer("bound")  # [A]; in a stack each has its own, [S, 1, A]
        (here, there), (noise, next_noise) = inputs.priors(), inputs.noise.unbind(-3)
        with torch.no_grad():
            next_policy = policy(inputs.following, there)
            next_cost = regularizer.td_cost(regularizer.divergence(next_policy, there, next_noise))
            next_q = min_q(targets, inputs.following, next_policy.rsample(next_noise), bound)
            target = td_target(inputs.reward, inputs.discount, soft_value(next_q, next_cost, coefficient))
        critic_loss = 0.5 * td_error(promoted(critics(inputs.now, inputs.action)), target)
        chosen = policy(inputs.now, here)
        divergence = regularizer.divergence(chosen, here, noise)
        q = min_q(critics, inputs.now, chosen.rsample(noise), bound)
        policy_loss = actor_loss(q, regularizer.cost(divergence), coefficient)
        metrics = torch.stack([critic_loss, policy_loss, divergence.mean(-1), target.mean(-1)], -1)
        return (critic_loss, policy_loss), divergence, metrics

    def prior_at(self, observations: Tensor) -> tuple[Tensor, ...]:
        """The columns of the prior at observations [N, O], [N, n] each."""
        assert self.skills is not None
        return tuple(promoted(x) for x in columns_of(known_prior(self.skills.prior(observations))))


def describe(config: Config, acts_in: str, prior: str | None) -> str:
    """A config as a phrase for pages.

    Args:
        acts_in: what an action is.
        prior: which prior `regularizer.prior: skill` and `policy_start: prior` stand for; None without a skill model.
    """
    start = config.policy_start == "prior"
    if not config.updates_per_decision:
        return f"{f'the prior, {prior},' if start else 'a random policy'} acts in {acts_in}; nothing is learned"
    said = [f"SAC that acts in {acts_in}"]
    if start:
        said.append(f"the policy starts as the prior, {prior}")
    if config.normalize_observations:
        said.append(f"observations are normalised by its first {config.random_decisions:,} decisions, which are random")
    return "; ".join([*said, described(config.regularizer)])


def take_over(there: nn.Module, here: nn.Module, name: str) -> None:
    """Give a network the parameters of another one. Raises ConfigError if that has other sizes."""
    found, own = ([tuple(value.shape) for value in net.state_dict().values()] for net in (there, here))
    if found != own:
        (others, ours) = (
            ", ".join("x".join(map(str, shape)) for shape in some if len(shape) > 1) for some in (found, own)
        )
        raise ConfigError(
            f"algorithm.hidden and algorithm.{name}_depth must be those of the run that it starts from, whose {name} has layers of "
            f"{others}; here they are {ours}"
        )
    here.load_state_dict(there.state_dict())


METRICS = ("critic/loss", "actor/loss", "prior/divergence", "critic/target")


ArgumentsT = ParamSpec("ArgumentsT")
ResultT = TypeVar("ResultT")


def compiled(function: Callable[ArgumentsT, ResultT]) -> Callable[ArgumentsT, ResultT]:
    """The function compiled, or as it is where that cannot be had, with a warning that says why."""
    import torch._dynamo  # seconds of CPU time, which nothing else here needs

    dynamo = torch._dynamo.config
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        warnings.warn("no C++ compiler found: updates run uncompiled, about half as fast", stacklevel=2)
        return function
    if not hasattr(dynamo, "trace_autograd_ops"):
        warnings.warn(f"torch {torch.__version__} cannot compile gradients: updates run uncompiled", stacklevel=2)
        return function
    fast = torch.compile(function, fullgraph=True, dynamic=False)

    def call(*arguments: ArgumentsT.args, **named: ArgumentsT.kwargs) -> ResultT:
        with dynamo.patch(trace_autograd_ops=True):
            return fast(*arguments, **named)

    return call
