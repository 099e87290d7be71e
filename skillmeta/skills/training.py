"""Training of the skill model: the beta-ELBO of windows, and the prior by maximum likelihood of the posterior's samples.

SPiRL (arXiv:2010.11944), eq. 1 and 2. Losses are sums over time and dimensions, as in the ELBO, so beta has a meaning that
does not depend on sizes: SPiRL's 5e-4 for the kitchen (means over every element) is 4.5e-3 here, its maze value 2e-2.
"""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Literal

import torch
from torch import Tensor

from skillmeta.config import Bound, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, checked, differences
from skillmeta.data.logs import Logs
from skillmeta.data.windows import WindowBatch, WindowSource
from skillmeta.errors import CheckpointError
from skillmeta.nn.cuda_graph import Graphed
from skillmeta.nn.distributions import kl_estimate, standard_gaussian
from skillmeta.nn.optimizers import adam
from skillmeta.run.device import CPU, placed
from skillmeta.run.loop import Evaluation, Training, run_loop
from skillmeta.run.parts import Counts
from skillmeta.run.ranks import ALONE, Ranks, SharedRun
from skillmeta.run.run import Run
from skillmeta.seeds import Seeds, Stream
from skillmeta.skills.vae import SkillModel, SkillModelConfig
from skillmeta.types import Metrics, Parts, State


@checked
class TrainingConfig:
    """How long and how fast."""

    steps: PositiveInt = 10_000  # gradient steps of encoder, decoder and prior
    prior_steps: NonNegativeInt = 0  # more of them of the prior alone, with the best encoder until then
    batch_size: PositiveInt = 128  # windows of a gradient step
    learning_rate: PositiveFloat = 1e-3  # of Adam, at the beginning
    final_learning_rate: NonNegativeFloat = 1e-4  # reached by a cosine
    beta: NonNegativeFloat = 4.5e-3  # coefficient of KL(q || N(0, I))
    held_out: Annotated[float, Bound(above=0, below=1)] = 0.1  # share of the episodes that is not trained on
    held_out_every: PositiveInt = 500  # gradient steps between two looks at the held-out episodes
    held_out_windows: PositiveInt = 2_048  # windows of a look, at most
    seed: NonNegativeInt = 0  # training seed

    @property
    def all_steps(self) -> int:
        return self.steps + self.prior_steps


@dataclass(frozen=True)
class SkillLosses:
    """Means over the batch, scalars, nats."""

    reconstruction: (
        Tensor  # 1/2 sum of squared errors of unit actions over [H, A]: unit-variance NLL without its constant
    )
    kl: Tensor  # KL(q(z|a, s) || N(0, I)), summed over Z
    prior_nll: Tensor  # -log p(z|s), summed over Z, at a sample of q whose gradient is stopped
    prior_kl: Tensor  # KL(q(z|a, s) || p(z|s)), summed over Z; measured, not trained. Of a mixture: at that sample

    def total(self, beta: float) -> Tensor:
        """What is minimised. The gradient of the last term reaches the prior alone."""
        return self.reconstruction + beta * self.kl + self.prior_nll

    def score(self, beta: float) -> Tensor:
        """What models are compared by: the evidence bound of actions given the state, under the learned prior and in units of
        the noise variance beta. The total would not do: a posterior that says more costs the prior more."""
        return self.reconstruction + beta * self.prior_kl


def skill_losses(model: SkillModel, batch: WindowBatch, noise: Tensor) -> SkillLosses:
    """The three losses of a batch of windows; noise [B, Z] draws z from the posterior."""
    normalized = model.normalizer(batch.observation[:, : model.horizon])
    actions = model.unit_actions(batch.action)
    posterior = model.posterior(actions, normalized)
    z = posterior.rsample(noise)
    errors = model.reconstruct(normalized, z) - actions
    prior = model.prior_of(normalized[:, 0])
    return SkillLosses(
        reconstruction=0.5 * (errors**2).sum((1, 2)).mean(),
        kl=posterior.kl(standard_gaussian(posterior.mean)).mean(),
        prior_nll=-prior.log_prob(z.detach()).mean(),
        prior_kl=kl_estimate(posterior, prior, noise).detach().mean(),
    )


class LogSource:
    """Windows of logs, drawn with replacement, for so many steps (`skillmeta.types.Experience`)."""

    def __init__(self, windows: WindowSource, steps: int, batch_size: int):
        self.windows, self.steps, self.batch_size = windows, steps, batch_size
        self.drawn = 0

    @property
    def spent(self) -> bool:
        return self.drawn >= self.steps

    @property
    def fraction(self) -> float:
        return min(1.0, self.drawn / self.steps)

    def sample(self, generator: torch.Generator, rows: slice = slice(None)) -> WindowBatch:
        """The windows of one step, [B, ...], or some rows of them."""
        self.drawn += 1
        return self.windows.sample(self.batch_size, generator, rows)

    def cost(self) -> dict[str, int]:
        return {"steps": self.drawn}

    def scores(self) -> Metrics:
        return {}

    def state(self) -> State:
        return {"drawn": self.drawn}

    def restore(self, state: State) -> None:
        drawn = state["drawn"]
        assert isinstance(drawn, int)
        self.drawn = drawn


class SkillTrainer:
    """Trains a skill model on windows, and keeps the one with the best held-out score (`skillmeta.types.Trainable`).

    Args:
        model: what is trained.
        held_out: windows and noise [B, Z] that it is scored on.
        seeds: of what is drawn.
        ranks: the processes that share out each batch. Raises ConfigError if they cannot.
    """

    def __init__(
        self,
        model: SkillModel,
        config: TrainingConfig,
        held_out: tuple[WindowBatch, Tensor],
        seeds: Seeds,
        ranks: Ranks = ALONE,
    ):
        self.model, self.config, self.held_out, self.ranks = model, config, held_out, ranks
        self.rows = ranks.part(config.batch_size)
        self.best, self.best_score = copy.deepcopy(model), torch.tensor(math.inf, dtype=torch.float64)
        self.optimizer = adam(model.parameters(), config.learning_rate)
        self.generator = seeds.stream("skill_updates").torch()
        self.counts = Counts()
        self.backward = Graphed(functools.partial(self._backward, False))
        self.prior_backward = Graphed(functools.partial(self._backward, True))

    @property
    def updates(self) -> int:
        return self.counts.updates

    def parts(self) -> Parts:
        return {
            "model": self.model,
            "best": self.best,
            "best_score": self.best_score,
            "optimizer": self.optimizer,
            "generator": self.generator,
            "counts": self.counts,
        }

    def iterate(self, source: LogSource) -> Metrics:
        """One update. Its losses are reported at the steps whose model is scored on held-out windows."""
        if prior_alone := self.updates >= self.config.steps:
            if self.updates == self.config.steps:
                self.model.load_state_dict(self.ranks.from_first(dict(self.best.state_dict())))
            self.model.requires_grad_(False).prior_network.requires_grad_()
        set_learning_rate(self.optimizer, self.config, self.updates)
        batch = source.sample(self.generator, self.rows)
        noise = torch.randn(self.config.batch_size, self.model.dim, generator=self.generator)[self.rows]
        backward = self.prior_backward if prior_alone else self.backward
        found = backward((batch, noise), self.model.action_low.device)
        losses, gradients = SkillLosses(*found[:4]), iter(found[4:])
        for parameter in self.model.parameters():
            parameter.grad = next(gradients) if parameter.requires_grad else None
        self.ranks.average(parameter.grad for parameter in self.model.parameters())
        self.optimizer.step()
        self.counts.updates += 1
        if self.updates % self.config.held_out_every and not source.spent:
            return {}
        return self.ranks.means({"score": float(losses.score(self.config.beta)), **scalars(losses)})

    def _backward(self, prior_alone: bool, drawn: tuple[WindowBatch, Tensor]) -> tuple[Tensor, ...]:
        """The four losses, and the gradient of what is minimised with respect to every parameter that is trained."""
        losses = skill_losses(self.model, *drawn)
        loss = losses.prior_nll if prior_alone else losses.total(self.config.beta)
        gradients = torch.autograd.grad(loss, [one for one in self.model.parameters() if one.requires_grad])
        return (*(getattr(losses, one.name).detach() for one in fields(losses)), *gradients)

    @torch.no_grad()
    def held_out_metrics(self) -> Metrics:
        """Losses on the held-out windows; the model is kept if its score is the best so far."""
        losses = skill_losses(self.model, *self.held_out)
        score = float(losses.score(self.config.beta))
        if score < self.best_score:
            self.best_score.fill_(score)
            self.best.load_state_dict(self.model.state_dict())
        return {"score": score, **scalars(losses)}


def train_skills(
    logs: Logs,
    model_config: SkillModelConfig,
    config: TrainingConfig,
    run: Run | SharedRun,
    quiet: bool = False,
    device: torch.device = CPU,
    ranks: Ranks = ALONE,
    start: SkillModel | None = None,
) -> SkillModel | None:
    """Train on logs inside a run, resuming where the run was interrupted.

    The logs, and what is returned, are on the CPU; windows are moved to the device as they are drawn.

    Args:
        ranks: the processes that train together; `run` is theirs then. Only the first one evaluates and saves.
        start: whose weights, normaliser and action space training begins with; the logs fit it, see `check_start`.

    Returns the model of the step with the best held-out score, also saved in `run.folder / "model"`; None if the run was
    asked to stop before the end (then a checkpoint of the last step is there). Raises UserError if the loss is not finite.
    """
    horizon = model_config.horizon
    train = logs.windows(horizon, "train", held_out=config.held_out, seed=config.seed)
    held_out = logs.windows(horizon, "held_out", held_out=config.held_out, seed=config.seed)
    seeds = Seeds(config.seed)
    model = SkillModel(
        model_config,
        logs.observation_dim,
        logs.action_dim,
        torch.from_numpy(logs.action_low),
        torch.from_numpy(logs.action_high),
        seeds.stream("skill_weights").torch(),
        logs.observed,
    )
    if start is None:
        model.normalizer.take(*train.moments())
    else:
        model.load_state_dict(start.state_dict())
    model.to(device)
    fixed = placed(fixed_windows(held_out, config, model.dim, seeds.stream("held_out_windows")), device)
    trainer = SkillTrainer(model, config, fixed, seeds, ranks)
    source = LogSource(train, config.all_steps, config.batch_size)
    evaluation = Evaluation(trainer.held_out_metrics, config.held_out_every) if ranks.first else None
    health: Literal["warn", "off"] = "warn" if ranks.first else "off"
    training = Training(run, trainer, source, config.all_steps, evaluation=evaluation, quiet=quiet, health=health)
    if not run_loop([training]):
        return None
    best = placed(trainer.best, CPU)
    if not ranks.first:
        return best
    some = fixed_windows(train, config, best.dim, seeds.stream("latent_windows"))
    best.latent_stddev.copy_(aggregate_stddev(best, some))
    best.requires_grad_(False)
    about = {
        "source": logs.source,
        "training": asdict(config),
        "held_out_score": float(trainer.best_score),
        "observation_range": [bound.tolist() for bound in logs.observation_range],
    }
    best.save(run.folder / "model", about)
    return best


def check_start(start: SkillModel, where: str, config: SkillModelConfig, logs: Logs) -> None:
    """Raises CheckpointError if a skill model, from the folder `where`, is of other sizes than one of this config on these logs."""
    if changed := differences(asdict(start.config), asdict(config)):
        raise CheckpointError(
            f"{where}: the skill model that start names is of another shape (keys of model, there and here: {'; '.join(changed)}); "
            "set them as they are there, or leave start out"
        )
    dims, found = (start.observation_dim, start.action_dim), (logs.observation_dim, logs.action_dim)
    if dims != found:
        raise CheckpointError(
            f"{where}: the skill model that start names is of observations and actions of {dims[0]} and {dims[1]} numbers, the "
            f"logs {logs.source} of {found[0]} and {found[1]}; leave start out"
        )
    if start.observed and logs.observed and start.observed != logs.observed:
        seen, recorded = (
            ", ".join(f"{key} ({size})" for key, size in parts) for parts in (start.observed, logs.observed)
        )
        raise CheckpointError(
            f"{where}: the skill model that start names sees {seen}, the logs {logs.source} have {recorded}; name the same keys in "
            "the same order, as in SOURCE?KEY,KEY"
        )


def fixed_windows(
    windows: WindowSource, config: TrainingConfig, dim: int, stream: Stream
) -> tuple[WindowBatch, Tensor]:
    """`held_out_windows` windows and noise [B, Z], drawn once: the same at every evaluation, so that losses compare."""
    generator = stream.torch()
    batch = windows.sample(min(config.held_out_windows, 4 * len(windows)), generator)
    return batch, torch.randn(len(batch.action), dim, generator=generator)


@torch.no_grad()
def aggregate_stddev(model: SkillModel, fixed: tuple[WindowBatch, Tensor]) -> Tensor:
    """Standard deviation of z over data and posterior together, around zero, [Z]."""
    batch, _ = fixed
    posterior = model.encode(batch.action, batch.observation[:, : model.horizon])
    return (posterior.mean**2 + posterior.stddev**2).mean(0).sqrt()


def set_learning_rate(optimizer: torch.optim.Optimizer, config: TrainingConfig, step: int) -> None:
    """A cosine from the first step to the last, and another one over the steps of the prior alone."""
    low, high = config.final_learning_rate, config.learning_rate
    done = step / config.steps if step < config.steps else (step - config.steps) / config.prior_steps
    optimizer.param_groups[0]["lr"] = low + (high - low) * 0.5 * (1 + math.cos(math.pi * done))


def scalars(losses: SkillLosses) -> dict[str, float]:
    return {
        "reconstruction": float(losses.reconstruction.detach()),
        "kl": float(losses.kl.detach()),
        "prior_nll": float(losses.prior_nll.detach()),
        "prior_kl": float(losses.prior_kl),
    }
