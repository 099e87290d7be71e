"""Pretraining: what is trained on, what is held out, where the prior is tried out, and which model is kept."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from skillmeta.config import build
from skillmeta.data.logs import Logs
from skillmeta.errors import UserError
from skillmeta.evaluation.records import read_model
from skillmeta.evaluation.skill_quality import Rollouts
from skillmeta.programs.page import write_page
from skillmeta.programs.pretrain import PretrainConfig, logged, pretrain
from skillmeta.reports.content import read_content
from skillmeta.run.checkpoint import load_state
from skillmeta.run.device import CPU
from skillmeta.run.run import read_metrics, read_result
from skillmeta.skills.vae import SkillModel
from skillmeta.tasks.base import TaskConfig, make_family
from tests.programs.telltale import SCALE, VALIDATION, codes

EPISODES, LENGTH = 20, 40


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> Path:
    """Every episode's observations are its number: windows say which episode they are from."""
    rng = np.random.default_rng(0)
    number = np.repeat(np.arange(EPISODES, dtype=np.float32), LENGTH)
    path = tmp_path_factory.mktemp("logs") / "log.npz"
    np.savez(
        path,
        observations=np.stack([number / SCALE, rng.uniform(size=len(number))], 1).astype(np.float32),
        actions=rng.uniform(-1, 1, (len(number), 1)).astype(np.float32),
        timeouts=np.arange(1, len(number) + 1) % LENGTH == 0,
    )
    return path


def trained(logs: Path, folder: Path, seed: int = 0, **changes) -> dict:
    plain = {
        "source": str(logs),
        "model": {"horizon": 2, "dim": 2, "hidden": 4},
        "training": {
            "steps": 9,
            "held_out_every": 3,
            "batch_size": 8,
            "held_out": 0.2,
            "seed": seed,
            "learning_rate": 0.3,
            "final_learning_rate": 0.3,
        },
        "quality": {"episodes": 3},
        "task": {"family": "tests.programs.telltale"},
        **changes,
    }
    result = pretrain(build(PretrainConfig, plain), folder)
    assert result is not None
    return result


@pytest.fixture(scope="module")
def finished(logs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("skills") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skillmeta.programs.pretrain.write_page", lambda *arguments, **options: None)
        trained(logs, folder)
    return folder


def test_the_prior_is_tried_out_on_the_first_validation_task_and_its_steps_are_counted(finished):
    result = read_result(finished)
    assert result is not None
    acted = {row["name"]: row for row in result["rollouts"]}
    assert list(acted) == ["skills from the prior", "random skills", "random actions", "the logs"]
    for row in acted.values():
        assert (row["episodes"], row["env_steps"]) == (3, 9)
        if row["name"] != "the logs":
            assert row["coverage"] == row["total_coverage"] == 1.0  # telltale's coverage counts tasks
    with np.load(finished / "paths.npz") as archive:
        for name in archive.files:
            logged = name.startswith("the logs")
            assert codes(archive[name]) <= (set(range(EPISODES)) if logged else {VALIDATION[0].code})


def test_each_way_of_acting_has_the_same_starts(finished):
    with np.load(finished / "paths.npz") as archive:
        starts = {name: float(archive[name][0, 1]) for name in archive.files if not name.startswith("the logs")}
    for number in range(3):
        same = {value for name, value in starts.items() if name.endswith(f"/{number}")}
        assert len(same) == 1
    assert len(set(starts.values())) == 3


def test_the_model_that_is_kept_is_the_best_on_held_out_windows(finished):
    scores = [row["score"] for row in read_metrics(finished) if row["kind"] == "evaluation"]
    _, meta = load_state(finished / "model")
    assert len(scores) == 3 and min(scores) < scores[-1]  # the learning rate is so high that the last model is worse
    assert meta["about"]["held_out_score"] == pytest.approx(min(scores))
    assert meta["about"]["source"].endswith("log.npz")


@pytest.mark.parametrize("seed", [0, 1])
def test_no_held_out_episode_is_trained_on(seed, logs, tmp_path, monkeypatch):
    from skillmeta.data.windows import Windows

    drawn: dict[int, set[float]] = {}
    sample = Windows.sample

    def recorded(self, *arguments):
        batch = sample(self, *arguments)
        drawn.setdefault(len(self), set()).update(codes(batch.observation.numpy()))
        return batch

    monkeypatch.setattr(Windows, "sample", recorded)
    trained(logs, tmp_path, seed, task=None)
    assert len(drawn) == 2  # windows of training, and held-out ones
    held_out, train = (drawn[size] for size in sorted(drawn))
    assert len(held_out) == 4 and len(train) > 8 and not held_out & train


def test_a_skill_seed_decides_weights_batches_and_what_is_held_out(logs, tmp_path):
    models = {}
    for name, seed in (("a", 0), ("again", 0), ("other", 1)):
        trained(logs, tmp_path / name, seed, task=None)
        models[name] = torch.cat([p.flatten() for p in SkillModel.load(tmp_path / name).parameters()])
    assert torch.equal(models["a"], models["again"]) and not torch.isclose(models["a"], models["other"]).all()


def test_training_continues_from_a_model_in_its_units(finished, tmp_path):
    """Almost without learning: what comes out is the model that went in, on logs whose observations and actions are others."""
    rng = np.random.default_rng(1)
    arrays = {"observations": 7 + rng.normal(size=(200, 2)), "actions": rng.uniform(-0.4, 0.4, (200, 1))}
    np.savez(tmp_path / "new.npz", **arrays, lengths=np.full(5, 40))
    training = {"steps": 1, "batch_size": 4, "learning_rate": 1e-9, "final_learning_rate": 0, "seed": 8}
    changes = {"training": training, "task": None, "start": str(finished)}
    result = trained(tmp_path / "new.npz", tmp_path / "run", **changes)
    before, after = SkillModel.load(finished).state_dict(), SkillModel.load(tmp_path / "run").state_dict()
    for name in before:
        if name != "latent_stddev":  # of the new logs' skills
            torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-8)
    assert result["verdict"][-1] == f"Training continued from the weights of the skill model in {finished}."
    with pytest.raises(
        UserError,
        match=r"run: the skill model that start names is of another shape \(keys of model, there and here: dim: 2 -> 3\)",
    ):
        trained(tmp_path / "new.npz", tmp_path / "other", **changes, model={"horizon": 2, "dim": 3, "hidden": 4})
    np.savez(tmp_path / "wide.npz", **{**arrays, "observations": rng.normal(size=(200, 3))}, lengths=np.full(5, 40))
    with pytest.raises(
        UserError, match=r"of observations and actions of 2 and 1 numbers, the logs .*wide.npz of 3 and 1"
    ):
        trained(tmp_path / "wide.npz", tmp_path / "other", **changes)
    np.savez(tmp_path / "far.npz", **{**arrays, "actions": 5 * arrays["actions"]}, lengths=np.full(5, 40))
    with pytest.raises(
        UserError, match=r"far.npz: actions span .* beyond the action space .* of the skill model in .*run"
    ):
        trained(tmp_path / "far.npz", tmp_path / "other", **changes)
    assert trained(tmp_path / "far.npz", tmp_path / "pulled", clip_actions=True, **changes)
    assert not (tmp_path / "other").exists()
    with pytest.raises(UserError, match="nothing"):
        trained(tmp_path / "new.npz", tmp_path / "other", **{**changes, "start": str(tmp_path / "nothing")})


def test_the_page_and_the_result_say_what_was_drawn_from_several_logs(logs, tmp_path, capsys):
    np.savez(tmp_path / "more.npz", **{**np.load(logs), "rewards": np.repeat(np.arange(20.0), LENGTH)})
    more = {"source": str(tmp_path / "more.npz"), "weight": 3, "min_return": 400}
    result = trained(logs, tmp_path / "run", source=[{"source": str(logs)}, more])
    said = (
        f"{tmp_path / 'more.npz'}: 75% of the drawn windows; 10 of 20 episodes are kept, with a return of 400 or more"
    )
    assert said in result["notes"] and f"note: {said}" in capsys.readouterr().err
    assert f"The logs: {said}." in read_content([tmp_path / "run"], trust=True).warnings
    shown = {row["name"]: row for row in result["rollouts"]}["the logs"]
    with np.load(tmp_path / "run" / "paths.npz") as archive:
        codes_of = [float(archive[name][0, 0] * SCALE) for name in archive.files if name.startswith("the logs")]
    assert abs(shown["env_steps"] - result["rollouts"][0]["env_steps"]) <= 1
    assert codes_of[0] == pytest.approx(0) and codes_of[-1] >= 10 - 1e-3


def test_the_paths_of_the_logs_are_of_one_episode_each(logs):
    family = SimpleNamespace(positions=lambda observation: observation, coverage=lambda where: 0.5)
    like = Rollouts("prior", 4, 130, 0.0, 0.0, None, "test", [])
    shown = logged(Logs.load(str(logs)), family, like)
    assert len(shown.paths) == 4 and shown.env_steps == 130
    for number, path in enumerate(shown.paths):
        assert np.allclose(path[:, 0] * SCALE, number, atol=1e-3)


def test_a_model_that_learned_on_another_device_says_so_and_has_its_page(logs, tmp_path, monkeypatch):
    monkeypatch.setattr("skillmeta.programs.pretrain.device_of", lambda name: CPU)
    monkeypatch.setattr("skillmeta.programs.pretrain.CPU", torch.device("cuda:0"))
    assert trained(logs, tmp_path / "run")["device"] == "cpu"
    assert read_model(tmp_path / "run") is not None
    write_page([tmp_path / "run"], family=make_family(TaskConfig("tests.programs.telltale")))
