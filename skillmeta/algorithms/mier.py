"""MIER: a model of tasks is adapted to a new one by gradient steps on its context, on which a SAC policy depends.

Mendonca, Geng, Finn and Levine 2020, Meta-Reinforcement Learning Robust to Distributional Shift via Model Identification and
Experience Relabeling (arXiv:2006.07178). The model predicts what a decision earns and leads to; its context phi starts at 0:

    model     p(s' - s, r | s, a; phi), a Gaussian
    context   phi' = phi - inner_lr clip(grad_phi loss), `inner_steps` times, on a task's exploration episodes (section 4)
    model's   -log p of other decisions of the task, given phi', differentiated through the steps to phi' (equation 3)
    critics, policy       SAC on (s, phi') with phi' a constant, on decisions of all training tasks

In training as in a test, exploration episodes are acted with phi = 0 and those after them with phi'.

For a task unlike those of training, `relabelling` continues where these steps end (section 5): more steps on phi, then some on the
whole model. States and actions of training get the adapted model's rewards and next states, and SAC continues on them and on the
task's own decisions. An actor carries R decisions of training for this. What was adapted is part of the belief: the actor itself
never changes.

With skills as actions a decision is a skill and its reward is summed over it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, fields, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from skillmeta.config import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Share, checked
from skillmeta.data.carried import Carried
from skillmeta.data.contexts import ContextBuffer
from skillmeta.data.replay import Replay, Transitions, concatenate, decisions_of, joined, stack, zeros
from skillmeta.errors import ConfigError
from skillmeta.nn.networks import Critics, identity
from skillmeta.nn.optimizers import adam, apply_gradients
from skillmeta.nn.policies import (
    PolicyNetwork,
    ResidualPolicy,
    SquashedPolicy,
    check_skills,
    choose_action,
    continuous_only,
    skill_prior,
)
from skillmeta.nn.task_model import TaskModel
from skillmeta.nn.windows import expanded, named, stacked
from skillmeta.objectives.context_step import clipped, context_steps, model_loss
from skillmeta.objectives.regularizer import Regularizer, RegularizerConfig, described
from skillmeta.objectives.soft_actor_critic import Batch, Sac
from skillmeta.run.device import normal
from skillmeta.run.parts import Counts
from skillmeta.seeds import Seeds
from skillmeta.types import EnvSpec, Episodes, Metrics, Parts, Skills, Source, Step, Trials


@checked
class ModelConfig:
    """The model of tasks, and how it is trained."""

    predicts: Literal["all", "reward"] = "all"  # reward and next observation, or the reward alone
    hidden: PositiveInt = 128  # units of a layer
    depth: PositiveInt = 2  # hidden layers
    learning_rate: PositiveFloat = 1e-3  # of its Adam
    gradient_clip: PositiveFloat = 10.0  # the largest length of its gradient
    width_coefficient: NonNegativeFloat = 0.01  # of the width between the limits of log variances in its loss


@checked
class RelabellingConfig:
    """What is done, beside the inner steps, with the first episodes of a task unlike those of training."""

    updates: NonNegativeInt = (
        0  # of SAC on relabelled decisions; 0: none of this section is done, and nothing is carried
    )
    context_steps: NonNegativeInt = 10  # on phi, after the inner ones
    context_lr: PositiveFloat = 1e-3  # of these
    model_steps: NonNegativeInt = 0  # of Adam on the whole model, after them
    model_lr: PositiveFloat = 1e-3  # of these
    carried: PositiveInt = 10_000  # R: decisions of training that an actor has with it
    batch_size: PositiveInt = 256  # decisions of an update
    own_share: Share = 0.05  # of a batch that is of the task's own decisions
    learning_rate: PositiveFloat | None = None  # of policy and critics; null: as in training


@checked
class Config:
    """Sizes for the point robot; configs/meta has those of the cheetah."""

    training_tasks: PositiveInt = 80  # drawn once, with a replay and a buffer of exploration episodes each
    tasks_per_iteration: PositiveInt = 10  # that are visited; in the first iteration all are
    adapted_episodes: PositiveInt = 1  # of a visit, after the exploration episodes
    updates: NonNegativeInt = 100  # of an iteration
    tasks: PositiveInt = 8  # of an update
    batch_size: PositiveInt = 32  # decisions of each
    context_dim: PositiveInt = 5  # of phi
    inner_steps: NonNegativeInt = 2  # from 0 to phi'; 0: the policy always acts with phi = 0
    inner_lr: PositiveFloat = 0.01  # of these
    inner_clip: PositiveFloat = 10.0  # the largest length of their gradients
    context_visits: PositiveInt = 30  # of whose exploration episodes one visit's are what phi is adapted on
    context_size: PositiveInt = 200  # decisions of these, at most; a test uses all that it has
    context_capacity: PositiveInt = 5_000  # decisions of a task that are kept for this
    exploration_episodes: PositiveInt = 1  # of a trial, with phi = 0; after the last of them phi is adapted, then held
    model: ModelConfig = field(default_factory=ModelConfig)  # of tasks
    relabelling: RelabellingConfig = field(default_factory=RelabellingConfig)  # for tasks unlike those of training
    reward_scale: PositiveFloat = 1.0  # of what critics learn from; the model predicts rewards as they are
    regularizer: RegularizerConfig = field(default_factory=lambda: RegularizerConfig(initial_coefficient=0.2))
    discount: Share = 0.99  # of a decision
    tau: Share = 0.005  # of the target critics
    learning_rate: PositiveFloat = 1e-3  # of policy and critics
    hidden: PositiveInt = 128  # units of a layer of theirs
    depth: PositiveInt = 2  # hidden layers
    replay_capacity: PositiveInt = 50_000  # decisions of a task

    @property
    def iteration_episodes(self) -> tuple[int, int]:
        """Episodes of the first iteration and of a later one."""
        visit = self.exploration_episodes + self.adapted_episodes
        return self.training_tasks * visit, self.tasks_per_iteration * visit


class Networks(nn.Module):
    """What is learned. The target critics are no part of it."""

    def __init__(self, spec: EnvSpec, residual: bool, config: Config, generator: torch.Generator):
        super().__init__()
        observation, action, context, model = spec.observation_dim, spec.action_dim, config.context_dim, config.model
        outputs = 1 if model.predicts == "reward" else observation + 1
        self.model = TaskModel(observation + action, context, outputs, model.hidden, model.depth, generator)
        make = ResidualPolicy if residual else SquashedPolicy
        shape = config.hidden, config.depth, generator
        self.policy: PolicyNetwork = make(observation + context, torch.from_numpy(spec.action_bound), *shape)
        self.critics = Critics(observation + context, action, *shape)


# -- acting and adapting -------------------------------------------------------------------------------------------------------
class MierBelief(NamedTuple):
    """What is known of N tasks: phi, what was seen before it was adapted, and parameters where SAC continued."""

    context: Tensor  # [N, C]
    evidence: Transitions  # [N, n, ...] of exploration episodes; none once they were learned from
    valid: Tensor  # [N, n]
    episodes: int  # of exploration so far
    parameters: tuple[Tensor, ...]  # of the policy, [N, ...]; none: those of the actor
    updates: int  # of SAC that adaptation took


class Adapted(NamedTuple):
    """What N tasks were adapted to, with parameters [N, ...] where they changed."""

    context: Tensor  # [N, C]
    model: TaskModel
    sac: Sac


@dataclass(frozen=True)
class Actor:
    """What acts. Without rows to take along it adapts phi alone, as when it collects for training."""

    networks: Networks
    slow: Critics
    carried: Carried | None
    skills: Skills | None
    config: Config
    rollouts: int = 1

    @property
    def exploration_episodes(self) -> int:
        return self.config.exploration_episodes

    @property
    def bound(self) -> Tensor:
        return self.networks.policy.bound

    def begin(self, tasks: int, generator: torch.Generator) -> MierBelief:
        parameters = () if self.carried is None else expanded(self.networks.policy, tasks)
        return self.held(torch.zeros(tasks, self.config.context_dim), parameters, 0, 0)

    def held(self, context: Tensor, parameters: tuple[Tensor, ...], episodes: int, updates: int) -> MierBelief:
        """A belief without evidence."""
        tasks, action = len(context), len(self.bound)
        seen = self.networks.policy.net.inputs - self.config.context_dim
        return MierBelief(context, zeros(seen, action, tasks, 0), torch.zeros(tasks, 0), episodes, parameters, updates)

    def act(
        self, observation: Tensor, belief: MierBelief, generator: torch.Generator, explore: bool
    ) -> tuple[Tensor, MierBelief]:
        inputs = torch.cat([self.normalize(observation), belief.context], -1)
        policy, prior = self.networks.policy, skill_prior(self.skills, observation)
        if not belief.parameters:
            return choose_action(policy(inputs, prior), self.bound, generator, explore), belief
        # Each task's own: parameters [N, ...], inputs [N, 1, ...].
        each = inputs.unsqueeze(1), prior and prior.unsqueeze(1)
        chosen = torch.func.functional_call(policy, named(policy, belief.parameters), each)
        return choose_action(chosen, self.bound, generator, explore).squeeze(1), belief

    def observe(self, belief: MierBelief, action: Tensor, step: Step) -> MierBelief:
        return belief

    def adapt(self, belief: MierBelief, episodes: Episodes, generator: torch.Generator) -> MierBelief:
        """After the last exploration episode, phi' and, where decisions are relabelled, parameters of the policy."""
        done = belief.episodes + 1
        if belief.episodes >= self.config.exploration_episodes:
            return belief
        evidence = joined(belief.evidence, decisions_of(episodes))
        valid = torch.cat([belief.valid, torch.from_numpy(episodes.valid).float()], 1)
        if done < self.config.exploration_episodes:
            return belief._replace(evidence=evidence, valid=valid, episodes=done)
        if self.carried is None:
            return self.held(self.inner(evidence, valid, create_graph=False).detach(), (), done, 0)
        found = self.relabelled(self.carried, evidence, valid, generator)
        parameters = tuple(p.detach() for p in found.sac.policy.parameters())
        return self.held(found.context, parameters, done, self.config.relabelling.updates)

    def inner(self, evidence: Transitions, valid: Tensor, create_graph: bool) -> Tensor:
        """phi' [N, C] of N tasks, given decisions [N, n, ...] of which there are those that are valid [N, n]."""
        config, (inputs, outputs) = self.config, self.entries(evidence)
        start = inputs.new_zeros(len(inputs), config.context_dim).requires_grad_(True)

        def loss(context: Tensor) -> Tensor:
            return model_loss(self.networks.model, inputs, outputs, valid, context)

        return context_steps(loss, start, config.inner_steps, config.inner_lr, config.inner_clip, create_graph)

    def relabelled(self, carried: Carried, evidence: Transitions, valid: Tensor, generator: torch.Generator) -> Adapted:
        """More steps on phi and the model, and SAC on relabelled decisions and on the tasks' own. Arguments as for `inner`."""
        config, how, tasks = self.config, self.config.relabelling, len(valid)
        model = stacked(self.networks.model, tasks)
        inputs, outputs = self.entries(evidence)

        def loss(context: Tensor) -> Tensor:
            return model_loss(model, inputs, outputs, valid, context)

        start = self.inner(evidence, valid, create_graph=False).detach().requires_grad_(True)
        more = context_steps(loss, start, how.context_steps, how.context_lr, config.inner_clip, create_graph=False)
        context, optimizer = more.detach(), adam(model.parameters(), how.model_lr)
        for _ in range(how.model_steps):
            total = loss(context).sum() + config.model.width_coefficient * model.width()
            apply_gradients(optimizer, torch.autograd.grad(total, list(model.parameters())))

        rate = config.learning_rate if how.learning_rate is None else how.learning_rate
        policy = stacked(self.networks.policy, tasks)
        critics, slow = stacked(self.networks.critics, tasks), stacked(self.slow, tasks)
        sac = Sac(policy, critics, slow, config.tau, rate)
        regularizer, each = Regularizer(config.regularizer, self.bound), torch.arange(tasks).unsqueeze(1)
        *rows, coefficient = carried.buffers()
        own, old = round(how.own_share * how.batch_size), Transitions(*rows)
        for _ in range(how.updates):
            chosen = torch.randint(len(old.reward), (tasks, how.batch_size - own), generator=generator)
            noise = torch.randn(tasks, how.batch_size - own, outputs.shape[-1], generator=generator)
            batch = self.relabel(model, old.at(chosen), context, noise)
            if own:
                drawn = torch.multinomial(valid, own, replacement=True, generator=generator)
                batch = joined(batch, evidence.at(each, drawn))
            noise = torch.randn(2, *batch.action.shape, generator=generator)
            sac.update(self.batch(batch, context), noise, regularizer, coefficient)
        return Adapted(context, model, sac)

    def relabel(self, model: TaskModel, rows: Transitions, context: Tensor, noise: Tensor) -> Transitions:
        """Decisions [N, B, ...] with the rewards that the model expects of N tasks and, if it predicts them, with next observations
        that it draws with standard normal noise [N, B, P]. Whether the MDP ended stays as it was."""
        with torch.no_grad():
            predicted = model(self.entries(rows)[0], context)
        relabelled = rows._replace(reward=predicted.mean[..., -1])
        if self.config.model.predicts == "reward":
            return relabelled
        return relabelled._replace(next_observation=rows.observation + predicted.rsample(noise)[..., :-1])

    def entries(self, rows: Transitions) -> tuple[Tensor, Tensor]:
        """Decisions as the model sees them, [..., O + A], and what it is to predict, [..., P], with the reward last."""
        inputs = torch.cat([self.normalize(rows.observation), rows.action / self.bound], -1)
        reward = rows.reward.unsqueeze(-1)
        if self.config.model.predicts == "reward":
            return inputs, reward
        return inputs, torch.cat([rows.next_observation - rows.observation, reward], -1)

    def batch(self, rows: Transitions, context: Tensor) -> Batch:
        """Decisions [N, B, ...] as SAC's losses see them, given contexts [N, C], which are constants."""
        known = context.detach().unsqueeze(-2).expand(*rows.reward.shape, -1)
        return Batch(
            torch.cat([self.normalize(rows.observation), known], -1),
            torch.cat([self.normalize(rows.next_observation), known], -1),
            rows.action,
            rows.reward * self.config.reward_scale,
            rows.discount(self.config.discount),
            skill_prior(self.skills, rows.observation),
            skill_prior(self.skills, rows.next_observation),
        )

    def normalize(self, observation: Tensor) -> Tensor:
        return identity(observation) if self.skills is None else self.skills.normalize(observation)

    def parts(self) -> Parts:
        parts: Parts = {"networks": self.networks, "slow": self.slow}
        return parts if self.carried is None else {**parts, "carried": self.carried}


class Drawn(NamedTuple):
    """What one update learns from, of M tasks."""

    evidence: Transitions  # [M, n, ...] of exploration episodes
    valid: Tensor  # [M, n] 1 where there is a decision
    rows: Transitions  # [M, B, ...]
    noise: Tensor  # [2, M, B, A] of actions at next observations, and at observations


class Learner:
    """The learner. Arguments as for SAC's (`skillmeta.algorithms.sac.Learner`)."""

    def __init__(self, config: Config, spec: EnvSpec, skills: Skills | None, seeds: Seeds):
        continuous_only(spec, "mier")
        check_skills(spec, skills)
        if (config.regularizer.prior == "skill") != (skills is not None):
            raise ConfigError("regularizer.prior: skill and a skill model under `skills:` go together")
        self.config = config
        networks = Networks(spec, skills is not None, config, seeds.stream("weights").torch())
        slow = copy.deepcopy(networks.critics).requires_grad_(False)
        how = config.relabelling
        rows = zeros(spec.observation_dim, spec.action_dim, how.carried)
        carried = Carried({**rows._asdict(), "coefficient": torch.zeros(())}) if how.updates else None
        self.acting = Actor(networks, slow, carried, skills, config)
        self.sac = Sac(networks.policy, networks.critics, slow, config.tau, config.learning_rate)
        self.regularizer = Regularizer(config.regularizer, networks.policy.bound)
        self.model_optimizer = adam(networks.model.parameters(), config.model.learning_rate)
        shape = spec.observation_dim, spec.action_dim
        tasks = range(config.training_tasks)
        self.replays = [Replay(config.replay_capacity, *shape) for _ in tasks]
        self.explored = [ContextBuffer(config.context_capacity, config.context_visits, *shape) for _ in tasks]
        self.generator = seeds.stream("updates").torch()
        self.carrying = seeds.stream("updates", 1).torch()  # of its own: learning does not depend on what is carried
        self.counts = Counts()

    @property
    def updates(self) -> int:
        return self.counts.updates

    def actor(self) -> Actor:
        return copy.deepcopy(self.acting)

    def parts(self) -> Parts:
        parts: Parts = {
            "networks": self.acting.networks,
            "slow": self.acting.slow,
            "regularizer": self.regularizer.parts(),
            "policy_optimizer": self.sac.policy_optimizer,
            "critic_optimizer": self.sac.critic_optimizer,
            "model_optimizer": self.model_optimizer,
            "replays": self.replays,
            "explored": self.explored,
            "generator": self.generator,
            "carrying": self.carrying,
            "counts": self.counts,
        }
        carried = self.acting.carried
        return parts if carried is None else {**parts, "carried": carried}

    def iterate(self, source: Source) -> Metrics:
        """Visit some training tasks, the first time all, and update; then other rows for the actor to take along."""
        config, carried = self.config, self.acting.carried
        every, visited = config.training_tasks, range(config.training_tasks)
        self.visit(source, self.drawn(config.tasks_per_iteration, every) if self.counts.iterations else list(visited))
        self.counts.iterations += 1
        sums = self.acting.bound.new_zeros(len(METRICS))
        for _ in range(config.updates):
            sums += self.update()
        if carried is not None:
            share, more = divmod(config.relabelling.carried, every)
            some = [self.replays[i].sample(share + (i < more), self.carrying) for i in visited]
            carried.take(*concatenate(some), self.regularizer.coefficient())
        if not config.updates:
            return {}
        means = dict(zip(METRICS, (sums / config.updates).tolist(), strict=True))
        return {**means, "prior/coefficient": float(self.regularizer.coefficient())}

    def drawn(self, count: int, every: int) -> list[int]:
        return torch.randperm(every, generator=self.generator)[:count].tolist()

    def visit(self, source: Source, visited: list[int]) -> None:
        """A trial in each task. All of it is learned from; phi is adapted on its exploration episodes.

        Raises ConfigError for a visit whose exploration episodes are more than is kept of them.
        """
        every, first = source.draw_tasks(self.config.training_tasks), self.config.exploration_episodes
        explorer = replace(self.acting, carried=None)
        trials = source.trials_in(explorer, [every[i] for i in visited], first + self.config.adapted_episodes).trials
        longest = int(trials.valid[:, :first].sum((1, 2)).max())
        if longest > self.config.context_capacity:
            raise ConfigError(
                f"algorithm.context_capacity is {self.config.context_capacity}; the exploration episodes of a visit have {longest} "
                "decisions here, all of which have to fit: raise it"
            )
        for row, number in enumerate(visited):
            whole = Episodes(*(getattr(trials, f.name)[row] for f in fields(Trials)))
            self.replays[number].add(whole)
            self.explored[number].add(None, [whole.rows(slice(first))])

    def update(self) -> Tensor:
        """One update; returns the METRICS."""
        return self.learn(self.draw())

    def draw(self) -> Drawn:
        """What phi is adapted on and what is learned from, of some tasks, and noise."""
        config, device = self.config, self.acting.bound.device
        chosen = self.drawn(config.tasks, config.training_tasks)
        shown = [
            self.explored[i].beginning(config.context_size, self.generator, ordered=False, nothing=False)
            for i in chosen
        ]
        valid = torch.stack([there for _, there in shown])
        longest = int(valid.sum(1).max())  # padding, which comes last, costs as much as decisions
        evidence = Transitions(*(part[:, :longest].to(device) for part in stack([some for some, _ in shown])))
        rows = stack([self.replays[i].sample(config.batch_size, self.generator) for i in chosen]).to(device)
        noise = normal(rows.action, self.generator, 2, *rows.action.shape)
        return Drawn(evidence, valid[:, :longest].to(device), rows, noise)

    def learn(self, drawn: Drawn) -> Tensor:
        """One update of the model through its inner steps, and of SAC; returns the METRICS."""
        acting, model, limits = self.acting, self.acting.networks.model, self.config.model
        context = acting.inner(drawn.evidence, drawn.valid, create_graph=True)
        every = torch.ones_like(drawn.rows.reward)
        loss = model_loss(model, *acting.entries(drawn.rows), every, context).mean()
        total = loss + limits.width_coefficient * model.width()
        gradients = torch.autograd.grad(total, list(model.parameters()))
        apply_gradients(self.model_optimizer, clipped(gradients, limits.gradient_clip))

        batch = acting.batch(drawn.rows, context)
        found = self.sac.update(batch, drawn.noise, self.regularizer, self.regularizer.coefficient())
        self.regularizer.update_coefficient(found[2])
        self.counts.updates += 1
        return torch.cat([found, torch.stack([loss, context.norm(dim=-1).mean()]).detach()])


METRICS = ("critic/loss", "actor/loss", "prior/divergence", "model/nll", "context/norm")


def describe(config: Config, acts_in: str, prior: str | None) -> str:
    """A config as a phrase for pages; arguments as for `skillmeta.algorithms.sac.describe`."""
    what = "rewards" if config.model.predicts == "reward" else "rewards and next observations"
    how, count = config.relabelling, config.exploration_episodes
    said = [
        f"MIER that acts in {acts_in}: SAC on a context of {config.context_dim} numbers, which {config.inner_steps} gradient "
        f"steps of a model of {what} adapt after {count} episode{'s' * (count > 1)}"
    ]
    if how.updates:
        said.append(
            f"then {how.context_steps} more steps on the context and {how.model_steps} on the model, and {how.updates} updates of "
            "SAC on decisions of training that the model relabels"
        )
    if prior is not None:
        said.append(f"the policy starts as the prior, {prior}")
    return "; ".join([*said, described(config.regularizer)])
