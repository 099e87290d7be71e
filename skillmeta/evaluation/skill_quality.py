"""Is this prior any good? Answered before any reinforcement learning, in numbers and, where there is an environment, by acting.

Reconstruction and likelihood say whether the model fits the logs. Whether it will help exploration shows only when skills
drawn from the prior are executed: how much of the world they reach, next to random actions and to the logs themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from skillmeta.collect.episodes import episode
from skillmeta.data.windows import WindowSource
from skillmeta.envs.serial import SerialEnvs
from skillmeta.envs.skill_space import SkillEnvs
from skillmeta.evaluation.actors import PriorActor, RandomActor
from skillmeta.nn.distributions import Gaussian, kl_estimate, standard_gaussian
from skillmeta.seeds import Seeds
from skillmeta.skills.vae import SkillModel
from skillmeta.tasks.base import VALIDATION, TaskFamily
from skillmeta.types import Actor, Envs

FAINT = 0.1  # standard deviation of unit actions below which no beta helps: the loss is its square
ACTIVE_VARIANCE = 0.01  # a latent dimension whose posterior mean varies more than this over the data carries something


@dataclass(frozen=True)
class Fit:
    """How the model fits windows that it was not trained on. Errors are of actions scaled to [-1, 1]."""

    windows: int  # different ones, at most
    error_by_action: list[float]  # [A] mean squared error, z the posterior's mean
    error_by_action_prior: list[float]  # [A] the same for z drawn from the prior
    action_variance: list[float]  # [A] what predicting the mean would cost
    kl: float  # KL(q || N(0, I)), nats a window
    prior_kl: float  # KL(q || p(z|s)), nats a window: what the prior does not foresee
    prior_nll: float  # -log p(z|s) at samples of q, nats a window
    unconditional_nll: float  # -log of one Gaussian fitted to all z: a prior that ignores the state
    active_dimensions: int
    dimensions: int
    latent_stddev: list[float]  # [Z] of the aggregate posterior


@dataclass(frozen=True)
class Rollouts:
    """What one way of acting reaches, from the task's start."""

    name: str
    episodes: int
    env_steps: int
    coverage: float | None  # share of the world visited in an episode, on average, where the family can tell
    total_coverage: float | None  # in all episodes together
    success: (
        float | None
    )  # share of episodes in which the first task of the split happened to be solved; None for logs, and where it is not reported
    split: str  # whose first task it was
    paths: list[np.ndarray]  # [T, 2] each, for the picture


@torch.no_grad()
def held_out_fit(model: SkillModel, windows: WindowSource, samples: int = 4096, seed: int = 0) -> Fit:
    """Errors, divergences and use of the latent space on a sample of windows."""
    generator = Seeds(seed).stream("quality_windows").torch()
    batch = windows.sample(min(samples, 4 * len(windows)), generator)
    normalized = model.normalizer(batch.observation[:, : model.horizon])
    actions = model.unit_actions(batch.action)
    posterior = model.posterior(actions, normalized)
    prior = model.prior_of(normalized[:, 0])
    noise = torch.randn(posterior.mean.shape, generator=generator)
    z = posterior.rsample(noise)
    whole_mean, whole_stddev = z.mean(0), z.std(0).clamp(min=1e-6)
    whole = Gaussian(whole_mean.expand_as(z), whole_stddev.log().expand_as(z))

    def error(skill: torch.Tensor) -> list[float]:
        return ((model.reconstruct(normalized, skill) - actions) ** 2).mean((0, 1)).tolist()

    return Fit(
        windows=min(samples, len(windows)),
        error_by_action=error(posterior.mean),
        error_by_action_prior=error(prior.rsample(torch.randn(noise.shape, generator=generator))),
        action_variance=actions.flatten(0, 1).var(0).tolist(),
        kl=float(posterior.kl(standard_gaussian(z)).mean()),
        prior_kl=float(kl_estimate(posterior, prior, noise).mean()),
        prior_nll=float(-prior.log_prob(z).mean()),
        unconditional_nll=float(-whole.log_prob(z).mean()),
        active_dimensions=int((posterior.mean.var(0) > ACTIVE_VARIANCE).sum()),
        dimensions=model.dim,
        latent_stddev=model.latent_stddev.tolist(),
    )


def rollouts(name: str, actor: Actor[Any], envs: Envs, family: TaskFamily, episodes: int, seed: int = 0) -> Rollouts:
    """Let an actor act for some episodes in the family's first validation task, or training task where there is no such split, and
    see where it gets. Nothing is learned."""
    generator = Seeds(seed).stream("quality_acting").torch()
    split = VALIDATION if VALIDATION in family.splits else "train"
    task = family.tasks(split)[0]
    positions, paths, successes, steps = [], [], 0, 0
    for number in range(0, episodes, envs.num):
        seeds = Seeds(seed).stream("quality_resets", number).integers(envs.num).tolist()
        done, _ = episode(actor, envs, None, seeds, generator, tasks=[task] * envs.num)
        successes += int(done.succeeded.sum())
        steps += int(done.lengths.sum())
        if family.positions is not None:
            for i in range(envs.num):
                where = family.positions(done.observation[i, : int(done.valid[i].sum()) + 1])
                positions.append(where)
                paths.append(where[:: max(1, len(where) // 200)])
    each = total = None
    if positions and family.coverage is not None:
        each = float(np.mean([family.coverage(where) for where in positions]))
        total = family.coverage(np.concatenate(positions))
    share = successes / episodes if family.reports_success else None
    return Rollouts(name, episodes, steps, each, total, share, split, paths)


def compare_rollouts(model: SkillModel, family: TaskFamily, episodes: int = 20, seed: int = 0) -> list[Rollouts]:
    """The prior next to random skills and random actions, all from the same start for the same number of episodes."""
    with_skills = SkillEnvs(SerialEnvs(family.make_env, 1, False, family.max_episode_steps), model)
    prior = model.seen_in(with_skills.spec.observed, "task").prior
    primitive = SerialEnvs(family.make_env, 1, True, family.max_episode_steps)
    return [
        rollouts("skills from the prior", PriorActor(prior), with_skills, family, episodes, seed),
        rollouts("random skills", RandomActor(2 * model.latent_stddev.numpy()), with_skills, family, episodes, seed),
        rollouts("random actions", RandomActor(primitive.spec.action_bound), primitive, family, episodes, seed),
    ]


def verdict(fit: Fit, acted: list[Rollouts], cloned: bool = False) -> list[str]:
    """What the numbers say, a sentence each, the worst first. A cloned policy's actions are its own skills: nothing is decoded."""
    explained = 1 - float(np.mean(fit.error_by_action)) / max(1e-12, float(np.mean(fit.action_variance)))
    gain = fit.unconditional_nll - fit.prior_nll
    said = []
    if fit.active_dimensions == 0 and not cloned:
        spread = math.sqrt(float(np.mean(fit.action_variance)))
        said.append(
            f"No latent dimension is used: actions vary by {spread:.1%} of half their range, which the loss hardly sees. Scale "
            "them by what they span (`?actions=span` behind the source), or drop the few that are far beyond the others."
            if spread < FAINT
            else "No latent dimension is used: the decoder ignores z. Lower training.beta."
        )
    if gain < -0.1:
        said.append(
            "The prior fits held-out skills worse than one Gaussian for all states. If its loss still falls, train longer; else "
            "it has overfitted: use more logs."
        )
    visited = [f"{r.name} {r.coverage:.1%}" for r in acted if r.coverage is not None]
    if visited:
        said.append(f"Share of the world that an episode visits, nothing learned: {', '.join(visited)}.")
    likelier = f"{abs(gain):.2f} nats {'likelier' if gain >= 0 else 'less likely'}"
    if cloned:
        return [*said, f"Knowing the state makes held-out actions {likelier}."]
    said.append(f"Decoded skills explain {explained:.0%} of the variance of held-out actions.")
    said.append(f"Knowing the state makes held-out skills {likelier}; {fit.active_dimensions} of ")
    said[-1] += f"{fit.dimensions} latent dimensions are in use."
    return said
