"""The skill model's losses and training against references in double precision that share no code with it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from skillmeta.data.episodes import EpisodeDataset, from_episodes, single_episode
from skillmeta.data.logs import Logs
from skillmeta.data.windows import WindowBatch
from skillmeta.evaluation.skill_quality import held_out_fit
from skillmeta.seeds import Seeds
from skillmeta.skills.training import SkillTrainer, TrainingConfig, skill_losses, train_skills
from skillmeta.skills.vae import SkillModel, SkillModelConfig
from skillmeta.types import Metrics
from tests.oracles.reference import (
    Adam,
    double,
    gaussian_kl,
    gaussian_log_density,
    lstm_outputs,
    mlp,
    split,
)

H, LOW, HIGH = 3, torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 4.0])


class Reference:
    """SPiRL's losses (arXiv:2010.11944, eq. 1 and 2), from a copy of a model's weights; sums over time and dimensions."""

    def __init__(self, model: SkillModel):
        self.weights = {name: double(value).requires_grad_() for name, value in model.named_parameters()}
        self.closed_loop = model.config.closed_loop
        self.mean, self.stddev = double(model.normalizer.mean), double(model.normalizer.stddev)

    def part(self, name: str) -> dict[str, Tensor]:
        return {key.removeprefix(name + "."): w for key, w in self.weights.items() if key.startswith(name + ".")}

    def mlp(self, name: str, x: Tensor) -> Tensor:
        part = self.part(name)
        layers = [(part[f"layers.{n}.weight"], part[f"layers.{n}.bias"]) for n in range(len(part) // 2)]
        return mlp(layers, x)

    def posterior(self, batch: WindowBatch) -> tuple[Tensor, Tensor]:
        seen = (batch.observation[:, :H].double() - self.mean) / self.stddev
        actions = (batch.action.double() - (LOW + HIGH) / 2) / ((HIGH - LOW) / 2)
        inputs = torch.cat([actions, seen], -1) if self.closed_loop else actions
        return split(lstm_outputs(self.part("encoder"), inputs)[-1])

    def prior(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        return split(self.mlp("prior_network", (observation.double() - self.mean) / self.stddev))

    def decode(self, batch: WindowBatch, z: Tensor) -> Tensor:
        seen = (batch.observation[:, :H].double() - self.mean) / self.stddev
        if self.closed_loop:
            return torch.stack([self.mlp("decoder", torch.cat([seen[:, t], z], -1)) for t in range(H)], 1)
        embedded = self.mlp("decoder.embed", z)
        return torch.stack(lstm_outputs(self.part("decoder.sequence"), embedded[:, None].repeat(1, H, 1)), 1)

    def losses(self, batch: WindowBatch, noise: Tensor) -> dict[str, Tensor]:
        mean, stddev = self.posterior(batch)
        z = mean + stddev * noise.double()
        actions = (batch.action.double() - (LOW + HIGH) / 2) / ((HIGH - LOW) / 2)
        prior_mean, prior_stddev = self.prior(batch.observation[:, 0])
        return {
            "reconstruction": 0.5 * ((self.decode(batch, z) - actions) ** 2).sum((1, 2)).mean(),
            "kl": gaussian_kl(mean, stddev, torch.zeros_like(mean), torch.ones_like(mean)).mean(),
            "prior_nll": -gaussian_log_density(z.detach(), prior_mean, prior_stddev).mean(),
            "prior_kl": gaussian_kl(mean, stddev, prior_mean, prior_stddev).mean(),
        }

    def gradients(self, batch: WindowBatch, noise: Tensor, beta: float) -> list[Tensor]:
        """Of each parameter: encoder and decoder learn from the beta-ELBO alone, the prior from its own likelihood alone."""
        losses = self.losses(batch, noise)
        priors = [w for name, w in self.weights.items() if name.startswith("prior_network")]
        others = [w for name, w in self.weights.items() if not name.startswith("prior_network")]
        elbo = torch.autograd.grad(losses["reconstruction"] + beta * losses["kl"], others)
        nll = torch.autograd.grad(losses["prior_nll"], priors)
        of = {id(w): g for w, g in zip([*others, *priors], [*elbo, *nll], strict=True)}
        return [of[id(w)] for w in self.weights.values()]


def model(closed_loop: bool = True, **changes: Any) -> SkillModel:
    config = SkillModelConfig(
        horizon=H, dim=2, closed_loop=closed_loop, hidden=8, decoder_depth=2, prior_depth=2, **changes
    )
    made = SkillModel(config, 3, 2, LOW, HIGH, torch.Generator().manual_seed(1))
    made.normalizer.fit(torch.randn(40, 3, generator=torch.Generator().manual_seed(2)) * 3 + 1)
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():  # far from zero, so that every term of every loss is of a size that counts
        for network in (made.encoder.read, made.prior_network.layers[-1]):
            network.bias += 0.7 * torch.randn(network.bias.shape, generator=g)
            network.weight *= 3
    return made


def windows(rows: int = 12, seed: int = 0) -> WindowBatch:
    g = torch.Generator().manual_seed(seed)
    observation, action = (
        torch.randn(rows, H + 1, 3, generator=g),
        LOW + (HIGH - LOW) * torch.rand(rows, H, 2, generator=g),
    )
    none = torch.zeros(rows, H)
    return WindowBatch(observation, action, none, none.bool(), none.bool())


@pytest.mark.parametrize("closed_loop", [True, False])
def test_losses_and_gradients_equal_the_reference(closed_loop):
    """The prior's likelihood moves the prior alone: by value, the encoder's gradient is that of the beta-ELBO."""
    made, batch, beta = model(closed_loop), windows(), 0.3
    noise = torch.randn(12, 2, generator=torch.Generator().manual_seed(4))
    losses, reference = skill_losses(made, batch, noise), Reference(made)
    for name, value in reference.losses(batch, noise).items():
        assert getattr(losses, name).item() == pytest.approx(value.item(), rel=1e-4)
    expected = {name: value.item() for name, value in reference.losses(batch, noise).items()}
    assert losses.total(beta).item() == pytest.approx(
        expected["reconstruction"] + beta * expected["kl"] + expected["prior_nll"], rel=1e-4
    )
    assert losses.score(beta).item() == pytest.approx(
        expected["reconstruction"] + beta * expected["prior_kl"], rel=1e-4
    )
    gradients = torch.autograd.grad(losses.total(beta), list(made.parameters()))
    for mine, theirs in zip(gradients, reference.gradients(batch, noise, beta), strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-3, atol=1e-5)


def test_the_likelihood_of_a_mixture_and_its_gradient_equal_torchs():
    made, batch = model(prior="mixture", prior_components=3, prior_hidden=5), windows()
    noise = torch.randn(12, 2, generator=torch.Generator().manual_seed(4))
    losses, reference = skill_losses(made, batch, noise), Reference(made)
    assert reference.weights["prior_network.layers.0.weight"].shape == (5, 3)
    seen = (batch.observation[:, 0].double() - reference.mean) / reference.stddev
    logits, rest = reference.mlp("prior_network", seen).split([3, 12], -1)
    mean, log = rest.view(12, 3, 2, 2).unbind(2)
    prior = MixtureSameFamily(Categorical(logits=logits), Independent(Normal(mean, log.clamp(-10, 2).exp()), 1))
    own_mean, own_stddev = (x.detach() for x in reference.posterior(batch))
    z = own_mean + own_stddev * noise.double()
    nll = -prior.log_prob(z).mean()
    assert losses.prior_nll.item() == pytest.approx(nll.item(), rel=1e-4)
    kl = (gaussian_log_density(z, own_mean, own_stddev) - prior.log_prob(z)).mean()
    assert losses.prior_kl.item() == pytest.approx(kl.item(), rel=1e-4)
    names = [name for name in reference.weights if name.startswith("prior_network")]
    expected = torch.autograd.grad(nll, [reference.weights[name] for name in names])
    found = torch.autograd.grad(losses.total(0.3), [made.get_parameter(name) for name in names])
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("closed_loop", [True, False])
def test_encoding_prior_and_execution_equal_the_reference(closed_loop):
    made, batch = model(closed_loop), windows()
    reference = Reference(made)
    z = torch.randn(12, 2, generator=torch.Generator().manual_seed(5))
    for mine, (mean, stddev) in (
        (made.encode(batch.action, batch.observation[:, :H]), reference.posterior(batch)),
        (made.prior(batch.observation[:, 0]), reference.prior(batch.observation[:, 0])),
    ):
        torch.testing.assert_close(mine.mean.double(), mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mine.stddev.double(), stddev, rtol=1e-4, atol=1e-5)
    controller, expected = made.controller(z), reference.decode(batch, z.double())
    for t in range(H):
        low = (LOW + HIGH) / 2 + (HIGH - LOW) / 2 * expected[:, t].clamp(-1, 1)
        torch.testing.assert_close(controller(batch.observation[:, t], t).double(), low, rtol=1e-4, atol=1e-5)


# -- training ----------------------------------------------------------------------------------------------------------------
MODEL = SkillModelConfig(horizon=H, dim=2, hidden=8, decoder_depth=1, prior_depth=1)


class Recorder:
    """Stands in for a run: keeps what training reports, and the model at each evaluation."""

    stop_requested = False

    def __init__(self, folder: Path):
        self.folder, self.rows, self.models = folder, [], []

    def restore(self) -> None:
        return None

    def checkpoint(self, step: int, state: dict[str, Any]) -> None:
        pass

    def log(self, kind: str, **values: float) -> None:
        self.rows.append({"kind": kind, **values})

    def report_progress(self, fraction: float, text: str) -> None:
        pass


def logs(sign_held_out: float = 1.0, shift: float = 0.0, seed: int = 0) -> EpisodeDataset:
    """Actions are a function of the state; in held-out episodes, those of seed 0, with another sign or in another place."""

    def make(held_out: set[int]) -> EpisodeDataset:
        rng, episodes = np.random.default_rng(seed), []
        for number in range(8):
            observations = rng.normal(size=(13, 3)).astype(np.float32)
            sign = sign_held_out if number in held_out else 1.0
            unit = np.tanh(sign * observations[:-1, :2])
            if number in held_out:
                observations += np.float32(shift)
            actions = (unit * (HIGH - LOW).numpy() / 2 + (HIGH + LOW).numpy() / 2).astype(np.float32)
            flags = np.zeros(12, bool)
            episodes.append(single_episode(observations, actions, np.zeros(12, np.float32), flags, flags))
        return from_episodes(episodes, "made up", LOW.numpy(), HIGH.numpy())

    plain = make(set())
    return make(set(plain.windows(H, "held_out", held_out=0.25).episodes.tolist()))


def trained(tmp_path: Path, dataset: EpisodeDataset, **changes: Any) -> tuple[SkillModel, Recorder]:
    settings = {
        "steps": 4,
        "batch_size": 16,
        "held_out": 0.25,
        "held_out_every": 4,
        "held_out_windows": 32,
        "beta": 0.3,
    }
    recorder, evaluate = Recorder(tmp_path), SkillTrainer.held_out_metrics

    def kept(trainer: SkillTrainer) -> Metrics:
        recorder.models.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
        return evaluate(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SkillTrainer, "held_out_metrics", kept)
        made = train_skills(Logs.of(dataset), MODEL, TrainingConfig(**{**settings, **changes}), recorder)  # type: ignore[arg-type]
    assert made is not None
    return made, recorder


def test_four_steps_equal_the_reference(tmp_path):
    """The batches of the training split, beta, the optimiser and the cosine from one learning rate to the other."""
    dataset = logs()
    _, recorder = trained(tmp_path, dataset, learning_rate=1e-2, final_learning_rate=2e-3)
    start = SkillModel(MODEL, 3, 2, LOW, HIGH, Seeds(0).stream("skill_weights").torch())
    split_of = {name: dataset.windows(H, name, held_out=0.25) for name in ("train", "held_out")}
    inside = [e for e in range(8) if e in set(split_of["train"].episodes.tolist())]
    frames = np.concatenate([dataset.episode(e).observation[0] for e in inside]).astype(np.float64)
    reference, draws, adam = Reference(start), Seeds(0).stream("skill_updates").torch(), Adam(math.nan)
    reference.mean, reference.stddev = torch.from_numpy(frames.mean(0)), torch.from_numpy(frames.std(0))
    for step in range(4):
        batch = split_of["train"].sample(16, draws)
        noise = torch.randn(16, 2, generator=draws)
        adam.lr = 2e-3 + (1e-2 - 2e-3) * (1 + math.cos(math.pi * step / 4)) / 2
        adam.step(list(reference.weights.values()), reference.gradients(batch, noise, 0.3))
    saved = recorder.models[-1]
    for name, expected in reference.weights.items():
        torch.testing.assert_close(saved[name].double(), expected.detach(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(saved["normalizer.mean"].double(), reference.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(saved["normalizer.stddev"].double(), reference.stddev, rtol=1e-5, atol=1e-5)


def test_steps_of_the_prior_alone_equal_the_reference_from_the_best_model_on(tmp_path):
    """Held-out episodes contradict the others, so that the best model is not the last one. Then the prior alone learns: from its
    likelihood, with a cosine of its own, with the moments that Adam had."""
    dataset = logs(sign_held_out=-1.0)
    settings = {"learning_rate": 2e-2, "final_learning_rate": 5e-3, "beta": 0.01, "held_out_every": 20}
    kept, recorder = trained(tmp_path, dataset, steps=120, prior_steps=3, **settings)
    scores = [row["score"] for row in recorder.rows if row["kind"] == "evaluation"]
    best = scores.index(min(scores[:6]))
    assert len(scores) == 7 and best < 5
    before, after = recorder.models[best], recorder.models[6]
    for name, value in before.items():
        assert torch.equal(after[name], value) != name.startswith("prior_network"), name

    start = SkillModel(MODEL, 3, 2, LOW, HIGH, torch.Generator())
    start.load_state_dict(before)
    reference, draws, adam = Reference(start), Seeds(0).stream("skill_updates").torch(), Adam(math.nan)
    train, moments = dataset.windows(H, "train", held_out=0.25), SkillModel(
        MODEL, 3, 2, LOW, HIGH, Seeds(0).stream("skill_weights").torch()
    )  # fmt: skip
    moments.normalizer.take(*train.moments())
    optimizer = torch.optim.Adam(moments.parameters())
    for step in range(120):  # the state of the optimiser, by torch's own Adam
        batch, noise = train.sample(16, draws), torch.randn(16, 2, generator=draws)
        optimizer.param_groups[0]["lr"] = 5e-3 + (2e-2 - 5e-3) * (1 + math.cos(math.pi * step / 120)) / 2
        optimizer.zero_grad()
        skill_losses(moments, batch, noise).total(0.01).backward()
        optimizer.step()
    priors = [w for name, w in reference.weights.items() if name.startswith("prior_network")]
    states = [optimizer.state[p] for name, p in moments.named_parameters() if name.startswith("prior_network")]
    adam.t, adam.m, adam.v = 120, [double(s["exp_avg"]) for s in states], [double(s["exp_avg_sq"]) for s in states]
    for step in range(3):
        batch, noise = train.sample(16, draws), torch.randn(16, 2, generator=draws)
        adam.lr = 5e-3 + (2e-2 - 5e-3) * (1 + math.cos(math.pi * step / 3)) / 2
        adam.step(priors, list(torch.autograd.grad(reference.losses(batch, noise)["prior_nll"], priors)))
    for name, expected in reference.weights.items():
        torch.testing.assert_close(after[name].double(), expected.detach(), rtol=1e-3, atol=1e-4)
    winner = recorder.models[scores.index(min(scores))]
    for name, value in kept.named_parameters():
        assert torch.equal(value, winner[name]), name


def test_held_out_episodes_change_their_score_and_nothing_else(tmp_path):
    (one, a), (other, b) = (trained(tmp_path, data) for data in (logs(), logs(sign_held_out=-1.0, shift=100.0)))
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    scores = [next(row["score"] for row in r.rows if row["kind"] == "evaluation") for r in (a, b)]
    assert scores[0] != scores[1]


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_model_with_the_best_held_out_score_is_kept(sign, tmp_path):
    """Where held-out episodes agree with the others, and where they contradict them, so that learning is worse later."""
    kept, recorder = trained(
        tmp_path, logs(sign_held_out=sign), steps=120, held_out_every=20, learning_rate=2e-2, beta=0.01
    )
    scores = [row["score"] for row in recorder.rows if row["kind"] == "evaluation"]
    best = scores.index(min(scores))
    assert len(scores) == 6 and (best < 5 if sign < 0 else best > 0)
    winner = recorder.models[best]
    for name, value in kept.named_parameters():
        assert torch.equal(value, winner[name]), name
    loaded = SkillModel.load(tmp_path / "model")
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, kept.state_dict()[name]), name


def test_scores_and_the_spread_of_the_latents_equal_the_reference(tmp_path):
    dataset = logs()
    kept, recorder = trained(tmp_path, dataset, held_out_windows=32)
    reference = Reference(kept)
    held_out = dataset.windows(H, "held_out", held_out=0.25)
    generator = Seeds(0).stream("held_out_windows").torch()
    batch = held_out.sample(32, generator)
    expected = reference.losses(batch, torch.randn(32, 2, generator=generator))
    row = next(row for row in recorder.rows if row["kind"] == "evaluation")
    assert row["steps"] == 4 and row["score"] == pytest.approx(
        (expected["reconstruction"] + 0.3 * expected["prior_kl"]).item(), rel=1e-4
    )
    train = dataset.windows(H, "train", held_out=0.25)
    mean, stddev = reference.posterior(train.sample(32, Seeds(0).stream("latent_windows").torch()))
    # E[z^2] over windows and posterior, by the law of total variance around zero
    torch.testing.assert_close(
        kept.latent_stddev.double(), (mean**2 + stddev**2).mean(0).sqrt().detach(), rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(kept.latent_bound, 4 * kept.latent_stddev)


def test_the_quality_report_equals_the_reference():
    made, dataset = model(), logs()
    held_out = dataset.windows(H, "held_out", held_out=0.25)
    reported = held_out_fit(made, held_out, samples=60, seed=3)
    generator, reference = Seeds(3).stream("quality_windows").torch(), Reference(made)
    batch = held_out.sample(min(60, 4 * len(held_out)), generator)
    noise = torch.randn(len(batch.action), 2, generator=generator)
    from_prior = torch.randn(len(batch.action), 2, generator=generator).double()
    losses = {name: value.item() for name, value in reference.losses(batch, noise).items()}
    assert (reported.kl, reported.prior_kl, reported.prior_nll) == pytest.approx(
        (losses["kl"], losses["prior_kl"], losses["prior_nll"]), rel=1e-4
    )
    mean, stddev = reference.posterior(batch)
    prior_mean, prior_stddev = reference.prior(batch.observation[:, 0])
    actions = (batch.action.double() - (LOW + HIGH) / 2) / ((HIGH - LOW) / 2)
    for mine, z in (
        (reported.error_by_action, mean),
        (reported.error_by_action_prior, prior_mean + prior_stddev * from_prior),
    ):
        expected = ((reference.decode(batch, z) - actions) ** 2).mean((0, 1)).tolist()
        assert mine == pytest.approx(expected, rel=1e-4)
    assert reported.action_variance == pytest.approx(actions.reshape(-1, 2).var(0).tolist(), rel=1e-4)
    z = mean + stddev * noise.double()
    whole = -gaussian_log_density(z, z.mean(0).expand_as(z), z.std(0).expand_as(z)).mean().item()
    assert reported.unconditional_nll == pytest.approx(whole, rel=1e-4)
    assert reported.active_dimensions == int((mean.var(0) > 0.01).sum())
