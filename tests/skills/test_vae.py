"""The skill model: its file, its units, its training, behaviour cloning. Its losses: tests/oracles."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from skillmeta.config import build
from skillmeta.data.episodes import from_episodes, single_episode
from skillmeta.data.logs import Logs
from skillmeta.data.windows import WindowBatch
from skillmeta.errors import CheckpointError, ConfigError
from skillmeta.evaluation.skill_quality import held_out_fit
from skillmeta.nn.few_rows import FEW_ROWS
from skillmeta.nn.networks import Normalizer
from skillmeta.run.checkpoint import load_state, save_state, state_hash
from skillmeta.run.run import Run, read_metrics
from skillmeta.skills.priors import Marginal, WithPrior
from skillmeta.skills.training import TrainingConfig, train_skills
from skillmeta.skills.vae import SkillModel, SkillModelConfig
from skillmeta.types import Observed
from tests.elsewhere import ELSEWHERE, elsewhere
from tests.skills.fakes import skill_model


def windows(rows: int = 16, seed: int = 0) -> WindowBatch:
    g = torch.Generator().manual_seed(seed)
    observation, action = torch.randn(rows, 11, 2, generator=g), torch.rand(rows, 10, 1, generator=g) * 2 - 1
    none = torch.zeros(rows, 10)
    return WindowBatch(observation, action, none, none.bool(), none.bool())


def test_encoding_does_not_depend_on_the_rest_of_the_batch():
    model, batch = skill_model(), windows()
    together = model.encode(batch.action, batch.observation[:, :10])
    alone = model.encode(batch.action[3:4], batch.observation[3:4, :10])
    torch.testing.assert_close(together.mean[3:4], alone.mean)


def test_features_of_the_task_behind_an_observation_reach_neither_prior_nor_statistics():
    model, observation, features = skill_model(), torch.randn(5, 2), torch.randn(5, 3)
    model.normalizer.fit(torch.randn(50, 2) * 3 + 1)
    seen = torch.cat([observation, features], -1)
    torch.testing.assert_close(model.prior(seen).mean, model.prior(observation).mean)
    torch.testing.assert_close(model.normalizer(seen), torch.cat([model.normalizer(observation), features], -1))


@pytest.mark.parametrize("closed_loop", [True, False])
@pytest.mark.parametrize("rows", [1, FEW_ROWS + 1])
def test_the_parts_that_skills_see_are_found_by_their_names(closed_loop, rows):
    """Prior, decoder and encoder give what they give for these numbers alone; everything else passes to the policy."""
    model = skill_model(closed_loop=closed_loop, observed=(Observed("b", 1), Observed("a", 1)))
    model.normalizer.fit(torch.randn(50, 2) * 3 + 1)
    there = model.seen_in((Observed("a", 1), Observed("goal", 2), Observed("b", 1)), "here")
    own, goal, features = torch.randn(rows, 2), torch.randn(rows, 2), torch.randn(rows, 1)
    seen = torch.cat([own[:, 1:], goal, own[:, :1], features], 1)
    torch.testing.assert_close(there.prior(seen).mean, model.prior(own).mean)
    unit = model.normalizer(own)
    torch.testing.assert_close(there.normalize(seen), torch.cat([unit[:, 1:], goal, unit[:, :1], features], 1))
    z = torch.randn(rows, 3)
    torch.testing.assert_close(there.controller(z)(seen, 1), model.controller(z)(own, 1))
    fast = there.fast_controller(z.numpy())(seen.numpy(), 1)
    np.testing.assert_allclose(fast, model.controller(z)(own, 1).numpy(), atol=1e-5)
    windows, actions = seen[:, None].expand(-1, 10, -1), torch.rand(rows, 10, 1)
    torch.testing.assert_close(
        there.encode(actions, windows).mean, model.encode(actions, own[:, None].expand(-1, 10, -1)).mean
    )


def test_the_names_of_observations_are_saved_and_checked(tmp_path):
    model = skill_model(observed=(Observed("b", 1), Observed("a", 1)))
    model.save(tmp_path / "m")
    assert SkillModel.load(tmp_path / "m").observed == model.observed
    weights, meta = load_state(tmp_path / "m")
    for wrong in ([["b", 3]], [["b", "1"], ["a", 1]], "ab", [["b"]]):
        save_state(tmp_path / "m", weights, {**meta, "observed": wrong})
        with pytest.raises(CheckpointError, match="does not describe a skill model"):
            SkillModel.load(tmp_path / "m")


def test_a_constant_observation_is_only_centred():
    normalizer = Normalizer(2)
    normalizer.fit(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    assert normalizer(torch.tensor([[3.0, 5.5]])).tolist() == [[1.0, 0.5]]
    small = torch.tensor([[1e-7, 1e4], [3e-7, 1e4 + 1e-3]])  # one number in tiny units, one that varies by rounding
    normalizer.fit(small)
    torch.testing.assert_close(normalizer.stddev, torch.tensor([1e-7, 1.0]))


def test_an_open_loop_skill_ignores_what_it_sees():
    controller = skill_model(closed_loop=False).controller(torch.randn(2, 3))
    one, other = controller(torch.zeros(2, 2), 4), controller(torch.ones(2, 2), 4)
    assert torch.equal(one, other) and not torch.equal(one, controller(torch.zeros(2, 2), 5))


def test_actions_are_in_the_environments_units_and_bounds():
    config = SkillModelConfig(horizon=4, dim=2, hidden=8, decoder_depth=1, prior_depth=1)
    low, high = torch.tensor([-3.0, 0.0]), torch.tensor([1.0, 10.0])
    model = SkillModel(config, 2, 2, low, high, torch.Generator().manual_seed(0)).requires_grad_(False)
    model.decoder.layers[-1].bias.copy_(torch.tensor([5.0, -5.0]))
    assert model.controller(torch.zeros(1, 2))(torch.zeros(1, 2), 0).tolist() == [[1.0, 0.0]]
    torch.testing.assert_close(model.unit_actions(torch.stack([low, high])), torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))


@pytest.mark.parametrize("closed_loop", [True, False])
def test_a_model_comes_back_from_its_file(tmp_path, closed_loop):
    model = skill_model(closed_loop=closed_loop)
    model.latent_stddev.fill_(0.4)
    model.save(tmp_path / "run" / "model", {"source": "x"})
    for where in ("run", "run/model"):
        loaded = SkillModel.load(tmp_path / where)
        assert state_hash(dict(loaded.state_dict())) == state_hash(dict(model.state_dict()))
        assert loaded.config == model.config and not any(p.requires_grad for p in loaded.parameters())


def test_what_is_no_skill_model_is_refused(tmp_path):
    save_state(tmp_path / "other", {"w": torch.zeros(1)}, {"kind": "policy"})
    with pytest.raises(CheckpointError, match="holds 'policy', not a skill model"):
        SkillModel.load(tmp_path / "other")
    skill_model().save(tmp_path / "m")
    weights, meta = load_state(tmp_path / "m")
    meta["config"]["hidden"] = 17
    save_state(tmp_path / "m", weights, meta)
    with pytest.raises(CheckpointError, match="do not fit the model they name"):
        SkillModel.load(tmp_path / "m")


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden": 8192}, {"prior_hidden": 8192}, {"prior_depth": 60}, {"decoder_depth": 60}, {"observation_dim": 10**9},
        {"prior": "mixture", "prior_components": 10**6},
    ],
    ids=str,
)  # fmt: skip
def test_a_skill_model_of_more_numbers_than_its_file_has_is_refused_before_memory_is_taken(
    sizes, tmp_path, monkeypatch
):
    skill_model().save(tmp_path / "m")
    weights, meta = load_state(tmp_path / "m")
    changed = {**meta, "config": {**meta["config"], **{key: v for key, v in sizes.items() if key in meta["config"]}}}
    save_state(tmp_path / "m", weights, changed | {key: v for key, v in sizes.items() if key in meta})
    monkeypatch.setattr(SkillModel, "__init__", lambda *unused: pytest.fail("it was made"))
    with pytest.raises(CheckpointError, match="are of more than the [0-9,]+ numbers that it has"):
        SkillModel.load(tmp_path / "m")


def test_a_model_that_is_hardly_more_than_its_layers_is_loaded(tmp_path):
    """A cloned policy of wide layers: nearly all its numbers are those of the layers between hidden units."""
    config = SkillModelConfig(horizon=1, hidden=64, prior_depth=3, cloning=True)
    SkillModel(config, 2, 1, -torch.ones(1), torch.ones(1), torch.Generator().manual_seed(0)).save(tmp_path / "m")
    assert SkillModel.load(tmp_path / "m").config == config


# -- training ----------------------------------------------------------------------------------------------------------------
def two_skills(episodes: int = 24, steps: int = 40, seed: int = 0):
    """Logs in which every stretch of ten steps pushes one way, up or down, at random."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(episodes):
        signs = rng.choice([-1.0, 1.0], steps // 10).repeat(10)
        actions = (0.7 * signs + 0.05 * rng.normal(size=steps)).clip(-1, 1).astype(np.float32)[:, None]
        observations = np.concatenate([[[0.0, 0.0]], np.stack([actions[:, 0].cumsum(), signs], 1)]).astype(np.float32)
        flags = np.zeros(steps, bool)
        made.append(single_episode(observations, actions, np.zeros(steps, np.float32), flags, flags))
    return from_episodes(made, "two skills", -np.ones(1), np.ones(1))


MODEL = SkillModelConfig(horizon=10, dim=2, hidden=32, decoder_depth=1, prior_depth=1)
TRAINING = TrainingConfig(
    steps=200, batch_size=64, learning_rate=3e-3, held_out_every=50, held_out_windows=256, beta=0.01
)


def test_training_elsewhere_gives_the_same_skills(tmp_path):
    dataset, config, found = two_skills(), replace(TRAINING, steps=6, held_out_every=3), []
    with Run.open(tmp_path / "here", {}) as run:
        found.append(train_skills(Logs.of(dataset), MODEL, config, run, True))
    with Run.open(tmp_path / "elsewhere", {}) as run, elsewhere():
        found.append(train_skills(Logs.of(dataset), MODEL, config, run, True, ELSEWHERE))
    losses = [row["steps"] for row in read_metrics(tmp_path / "here") if row["kind"] == "iteration"]
    assert losses == [3, 6]  # where the model is scored
    here, there = (dict(model.state_dict()) for model in found if model is not None)
    for name, wanted in here.items():
        torch.testing.assert_close(there[name], wanted, rtol=1e-3, atol=1e-5, msg=lambda said, at=name: f"{at}: {said}")
    assert (
        SkillModel.load(tmp_path / "elsewhere").prior(torch.zeros(1, dataset.observation_dim)).mean.device.type == "cpu"
    )


class StopsAt(Run):
    """A run that is asked to stop once a step is reached."""

    reached, at = False, 100

    def log(self, kind, **values):
        super().log(kind, **values)
        self.reached |= values["steps"] == self.at

    @property
    def stop_requested(self):
        return self.reached


def test_training_learns_skills_resumes_and_repeats_itself(tmp_path):
    dataset = two_skills()
    with Run.open(tmp_path / "whole", {}) as run:
        whole = train_skills(Logs.of(dataset), MODEL, TRAINING, run)
    assert whole is not None
    fitted = held_out_fit(whole, dataset.windows(10, "held_out"))
    assert np.mean(fitted.error_by_action) < 0.25 * np.mean(fitted.action_variance)
    assert fitted.active_dimensions >= 1 and fitted.kl > 0.3
    rows = [row for row in read_metrics(tmp_path / "whole") if row["kind"] == "evaluation"]
    assert [row["steps"] for row in rows] == list(range(50, 201, 50)) and rows[-1]["score"] < rows[0]["score"]

    with StopsAt.open(tmp_path / "cut", {}) as run:
        assert train_skills(Logs.of(dataset), MODEL, TRAINING, run) is None
    with Run.open(tmp_path / "cut", {}) as run:
        resumed = train_skills(Logs.of(dataset), MODEL, TRAINING, run)
    assert resumed is not None
    assert state_hash(dict(resumed.state_dict())) == state_hash(dict(whole.state_dict()))
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    about = json.loads((tmp_path / "whole" / "model" / "state.json").read_text())["meta"]["about"]
    assert about["source"] == "two skills"


@pytest.mark.parametrize("prior", ["mixture", "flow"])
def test_a_run_that_is_stopped_among_the_steps_of_the_prior_alone_resumes_to_the_same_bits(prior, tmp_path):
    dataset, config = two_skills(), replace(TRAINING, steps=20, prior_steps=20, held_out_every=10)
    model = replace(MODEL, prior=prior, prior_components=3)
    with Run.open(tmp_path / "whole", {}) as run:
        whole = train_skills(Logs.of(dataset), model, config, run)
    with StopsAt.open(tmp_path / "cut", {}) as run:
        run.at = 30
        assert train_skills(Logs.of(dataset), model, config, run) is None
    with Run.open(tmp_path / "cut", {}) as run:
        resumed = train_skills(Logs.of(dataset), model, config, run)
    assert whole is not None and resumed is not None
    assert state_hash(dict(resumed.state_dict())) == state_hash(dict(whole.state_dict()))
    loaded = SkillModel.load(tmp_path / "cut")
    seen, z = torch.randn(5, 2), torch.randn(5, 2)
    assert torch.equal(loaded.prior(seen).log_prob(z), whole.prior(seen).log_prob(z))


# -- behaviour cloning -------------------------------------------------------------------------------------------------------
def test_cloning_learns_the_conditional_gaussian_of_the_logs_and_acts_in_the_environments_units(tmp_path):
    rng = np.random.default_rng(0)
    made = []
    for _ in range(40):
        observations = rng.normal(size=(51, 2)).astype(np.float32)
        actions = (2.0 + 0.4 * observations[:-1, :1] + 0.1 * rng.normal(size=(50, 1))).astype(np.float32)
        flags = np.zeros(50, bool)
        made.append(single_episode(observations, actions, np.zeros(50, np.float32), flags, flags))
    dataset = from_episodes(made, "linear", np.array([0.0]), np.array([4.0]))  # unit actions: 0.2 s + 0.05 noise
    config = SkillModelConfig(horizon=1, hidden=32, prior_depth=1, cloning=True)
    with Run.open(tmp_path / "run", {}) as run:
        assert train_skills(Logs.of(dataset), config, replace(TRAINING, steps=400), run) is not None
    model = SkillModel.load(tmp_path / "run")
    prior = model.prior(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    assert prior.mean.flatten().tolist() == pytest.approx([0.2, -0.2], abs=0.03)
    assert prior.stddev.flatten().tolist() == pytest.approx([0.05, 0.05], abs=0.015)
    unit = torch.tensor([[0.5], [-2.0]])
    assert model.controller(unit)(torch.zeros(2, 2), 0).tolist() == [[3.0], [0.0]]
    assert model.latent_bound.tolist() == [1.0] and model.dim == 1 and model.horizon == 1
    batch = dataset.windows(1).gather(torch.arange(5))
    torch.testing.assert_close(
        model.encode(batch.action, batch.observation[:, :1]).mean, model.unit_actions(batch.action[:, 0])
    )


def test_cloning_has_no_horizon():
    with pytest.raises(ConfigError, match="a skill is one action, so set it to 1"):
        build(SkillModelConfig, {"cloning": True, "horizon": 10}, "model")


def test_the_marginal_prior_is_one_gaussian_with_the_spread_of_the_skills():
    model = skill_model()
    model.latent_stddev.copy_(torch.tensor([0.5, 1.0, 2.0]))
    prior = WithPrior(model, Marginal(model.latent_stddev)).prior(torch.randn(4, 2))
    assert prior.mean.abs().max() == 0 and prior.mean.shape == (4, 3)
    torch.testing.assert_close(prior.stddev, torch.tensor([0.5, 1.0, 2.0]).expand(4, 3))


def test_skills_with_another_prior_are_otherwise_the_same():
    model = skill_model()
    model.normalizer.fit(3 + 2 * torch.randn(50, 2))
    other, seen, actions = WithPrior(model, Marginal(model.latent_stddev)), torch.randn(4, 10, 2), torch.rand(4, 10, 1)
    assert (other.dim, other.horizon) == (model.dim, model.horizon)
    assert torch.equal(other.latent_bound, model.latent_bound)
    assert torch.equal(other.normalize(seen), model.normalize(seen))
    assert torch.equal(other.encode(actions, seen).mean, model.encode(actions, seen).mean)
    z, first = np.ones((4, model.dim), np.float32), seen[:, 0].numpy()
    assert np.array_equal(other.fast_controller(z)(first, 0), model.fast_controller(z)(first, 0))
    assert not torch.equal(other.prior(seen[:, 0]).mean, model.prior(seen[:, 0]).mean)


@pytest.mark.parametrize("rows", [1, 3, FEW_ROWS, FEW_ROWS + 1])
@pytest.mark.parametrize("closed_loop", [True, False])
def test_the_fast_controller_acts_as_the_controller_does(rows, closed_loop):
    """Also where the decoder leaves the box of actions, here in every row, on either side, and far from the logs."""
    model, generator = (
        skill_model(closed_loop=closed_loop, observation_dim=4, action_dim=2),
        torch.Generator().manual_seed(0),
    )
    model.normalizer.fit(3 + 2 * torch.randn(50, 4, generator=generator))
    z, observation = (
        torch.randn(rows, model.dim, generator=generator),
        3 + 2 * torch.randn(rows, 4, generator=generator),
    )
    for bias in (0.0, 9.0, -9.0):
        last = model.decoder.layers[-1] if closed_loop else model.decoder.sequence.read
        last.bias.data.fill_(bias)
        model._fast = None
        slow, fast = model.controller(4 * z), model.fast_controller(4 * z.numpy())
        for step, seen in enumerate((observation, observation + 1e4, observation - 1e4)):
            assert np.allclose(slow(seen, step).numpy(), fast(seen.numpy(), step), atol=1e-5)
