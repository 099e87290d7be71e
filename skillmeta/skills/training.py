"""Training of the skill model: the beta-ELBO of windows, and the prior by maximum likelihood of the posterior's samples.

SPiRL (arXiv:2010.11944), eq. 1 and 2. Losses are sums over time and dimensions, as in the ELBO, so beta has a meaning that
does not depend on sizes: SPiRL's 5e-4 for the kitchen (means over every element) is 4.5e-3 here, its maze value 2e-2.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from skillmeta.data.episodes import EpisodeDataset
from skillmeta.data.windows import WindowBatch, Windows
from skillmeta.errors import UserError
from skillmeta.nn.distributions import standard_gaussian
from skillmeta.nn.optimizers import adam, optimizer_state, restore_optimizer
from skillmeta.run.checkpoint import generator_state, restore_generator
from skillmeta.run.progress import Progress
from skillmeta.run.run import Run
from skillmeta.seeds import Seeds, Stream
from skillmeta.skills.vae import SkillModel, SkillModelConfig


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast."""

    steps: int = 10_000
    batch_size: int = 128
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-4  # reached by a cosine
    beta: float = 4.5e-3  # weight of KL(q || N(0, I))
    held_out: float = 0.1  # share of the episodes that is not trained on
    held_out_every: int = 500
    held_out_windows: int = 2_048
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "held_out_every", "held_out_windows", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.beta < 0:
            raise ValueError(f"beta is {self.beta}; it must not be below 0")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}; it must lie between 0 and 1")


@dataclass(frozen=True)
class SkillLosses:
    """Means over the batch, scalars, nats."""

    reconstruction: (
        Tensor  # 1/2 sum of squared errors of unit actions over [H, A]: unit-variance NLL without its constant
    )
    kl: Tensor  # KL(q(z|a, s) || N(0, I)), summed over Z
    prior_nll: Tensor  # -log p(z|s), summed over Z, at a sample of q whose gradient is stopped
    prior_kl: Tensor  # KL(q(z|a, s) || p(z|s)), summed over Z; measured, not trained

    def total(self, beta: float) -> Tensor:
        """What is minimised. The gradient of the last term reaches the prior alone."""
        return self.reconstruction + beta * self.kl + self.prior_nll

    def score(self, beta: float) -> Tensor:
        """What models are compared by: the evidence bound of actions given the state, under the learned prior and in units of
        the noise variance beta. The total would not do: a posterior that says more costs the prior more."""
        return self.reconstruction + beta * self.prior_kl


def skill_losses(model: SkillModel, batch: WindowBatch, noise: Tensor) -> SkillLosses:
    """The three losses of a batch of windows; noise [B, Z] draws z from the posterior."""
    normalized = model.normalizer(batch.observations[:, : model.horizon])
    actions = model.unit_actions(batch.actions)
    posterior = model.posterior(actions, normalized)
    z = posterior.rsample(noise)
    errors = model.reconstruct(normalized, z) - actions
    prior = model.prior_of(normalized[:, 0])
    return SkillLosses(
        reconstruction=0.5 * (errors**2).sum((1, 2)).mean(),
        kl=posterior.kl(standard_gaussian(posterior.mean)).mean(),
        prior_nll=-prior.log_prob(z.detach()).mean(),
        prior_kl=posterior.kl(prior).detach().mean(),
    )


def train_skills(
    dataset: EpisodeDataset, model_config: SkillModelConfig, config: TrainingConfig, run: Run, quiet: bool = False
) -> SkillModel | None:
    """Train on a data set inside a run, resuming where the run was interrupted.

    Returns the model of the step with the best held-out score, also saved in `run.folder / "model"`; None if the run was
    asked to stop before the end (then a checkpoint of the last step is there). Raises UserError if the loss is not finite.
    """
    horizon = model_config.horizon
    train = dataset.windows(horizon, "train", held_out=config.held_out, seed=config.seed)
    held_out = dataset.windows(horizon, "held_out", held_out=config.held_out, seed=config.seed)
    seeds = Seeds(config.seed)
    model = SkillModel(
        model_config,
        dataset.observation_dim,
        dataset.action_dim,
        torch.from_numpy(dataset.action_low),
        torch.from_numpy(dataset.action_high),
        seeds.stream("skill_weights").torch(),
    )
    model.normalizer.fit(train.frames())
    optimizer = adam(model.parameters(), config.learning_rate)
    draws = seeds.stream("skill_updates").torch()
    fixed = fixed_windows(held_out, config, model.dim, seeds.stream("held_out_windows"))

    step, best = 0, math.inf
    best_model = {name: value.clone() for name, value in model.state_dict().items()}
    if (state := run.restore()) is not None:
        step, best, best_model = state["step"], state["best"], state["best_model"]
        model.load_state_dict(state["model"])
        restore_optimizer(optimizer, state["optimizer"])
        restore_generator(draws, state["draws"])

    def checkpoint() -> None:
        run.checkpoint(
            step,
            {
                "step": step,
                "best": best,
                "model": dict(model.state_dict()),
                "best_model": best_model,
                "optimizer": optimizer_state(optimizer),
                "draws": generator_state(draws),
            },
        )

    with Progress(config.steps, "skills", "updates", quiet=quiet) as progress:
        while step < config.steps:
            if run.stop_requested:
                checkpoint()
                return None
            set_learning_rate(optimizer, config, step)
            losses = skill_losses(
                model, train.sample(config.batch_size, draws), normal(config.batch_size, model, draws)
            )
            total = losses.total(config.beta)
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step()
            step += 1
            if step % config.held_out_every == 0 or step == config.steps:
                with torch.no_grad():
                    test = skill_losses(model, *fixed)
                score, latest = float(test.score(config.beta)), float(total.detach())
                if not (math.isfinite(score) and math.isfinite(latest)):
                    raise UserError(
                        f"{run.folder}: the loss is not finite at update {step} (training {latest}, held out {score}); "
                        "lower training.learning_rate or look at the data with `skillmeta inspect`"
                    )
                if score < best:
                    best, best_model = score, {name: value.clone() for name, value in model.state_dict().items()}
                run.log("held_out", step=step, score=score, **scalars(test))
                run.log("train", step=step, score=float(losses.score(config.beta).detach()), **scalars(losses))
                progress.update(step, held_out=score, error=float(test.reconstruction), prior_kl=float(test.prior_kl))
                run.report_progress(step / config.steps, f"held-out score {score:.3f}")
                checkpoint()
    model.load_state_dict(best_model)
    some = fixed_windows(train, config, model.dim, seeds.stream("latent_windows"))
    model.latent_stddev.copy_(aggregate_stddev(model, some))
    model.requires_grad_(False)
    model.save(run.folder / "model", {"source": dataset.source, "training": asdict(config), "held_out_score": best})
    return model


def fixed_windows(windows: Windows, config: TrainingConfig, dim: int, stream: Stream) -> tuple[WindowBatch, Tensor]:
    """`held_out_windows` windows and noise [B, Z], drawn once: the same at every evaluation, so that losses compare."""
    generator = stream.torch()
    batch = windows.sample(min(config.held_out_windows, 4 * len(windows)), generator)
    return batch, torch.randn(len(batch.actions), dim, generator=generator)


@torch.no_grad()
def aggregate_stddev(model: SkillModel, fixed: tuple[WindowBatch, Tensor]) -> Tensor:
    """Standard deviation of z over data and posterior together, around zero, [Z]."""
    batch, _ = fixed
    posterior = model.encode(batch.actions, batch.observations[:, : model.horizon])
    return (posterior.mean**2 + posterior.stddev**2).mean(0).sqrt()


def normal(batch_size: int, model: SkillModel, generator: torch.Generator) -> Tensor:
    return torch.randn(batch_size, model.dim, generator=generator)


def set_learning_rate(optimizer: torch.optim.Optimizer, config: TrainingConfig, step: int) -> None:
    low, high = config.final_learning_rate, config.learning_rate
    optimizer.param_groups[0]["lr"] = low + (high - low) * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def scalars(losses: SkillLosses) -> dict[str, float]:
    return {
        "reconstruction": float(losses.reconstruction.detach()),
        "kl": float(losses.kl.detach()),
        "prior_nll": float(losses.prior_nll.detach()),
        "prior_kl": float(losses.prior_kl),
    }
