"""What a checkpoint is of: the same run continues, another one is refused in a sentence that says what to do."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import skillmeta
from skillmeta.algorithms import sac
from skillmeta.cli import main
from skillmeta.config import build, dump_yaml, read_yaml
from skillmeta.envs.make import make_envs
from skillmeta.errors import UserError
from skillmeta.programs.pretrain import PretrainConfig, pretrain
from skillmeta.programs.train import load_trained, train
from skillmeta.programs.train_config import TrainConfig, train_config
from skillmeta.run.checkpoint import load_state, save_state
from skillmeta.run.run import Run
from skillmeta.tasks.base import make_family

TASK = {"family": "tests.programs.telltale", "split": "test"}
SAC = {"name": "sac", "hidden": 4, "batch_size": 4, "random_decisions": 2}


def logs(path: Path, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    columns = {"observations": rng.normal(size=(200, 2)), "actions": rng.uniform(-1, 1, (200, 1))}
    np.savez(path, timeouts=np.arange(200) % 20 == 19, **{n: a.astype(np.float32) for n, a in columns.items()})
    return path


def pretraining(source: Path | list[Path], start: Path | None = None, **changes: Any) -> PretrainConfig:
    training = {"steps": 4, "held_out_every": 2, "batch_size": 4, **changes}
    named = [{"source": str(one), "weight": 2.5} for one in source] if isinstance(source, list) else str(source)
    plain = {"source": named, "start": start and str(start), "model": {"horizon": 2, "hidden": 4}, "training": training}
    return build(PretrainConfig, plain)


def skills(folder: Path, seed: int = 0) -> Path:
    """A skill model, of other bits with another seed."""
    shutil.rmtree(folder, ignore_errors=True)
    assert pretrain(pretraining(logs(folder.parent / "logs.npz"), seed=seed), folder, quiet=True)
    return folder


def config(**changes: Any) -> TrainConfig:
    return train_config({"task": TASK, "algorithm": SAC, "env_steps": 12, "evaluation": {"episodes": 1}, **changes})


@pytest.fixture
def stops(monkeypatch) -> Callable[[Callable[[], Any]], None]:
    """Calls something that is asked to stop after its first iteration."""

    def call(run: Callable[[], Any]) -> None:
        looked = iter([False, True])
        with monkeypatch.context() as patch:
            patch.setattr(Run, "stop_requested", property(lambda run: next(looked)))
            assert run() is None

    return call


@pytest.fixture
def stopped(tmp_path, stops) -> Path:
    """A run without skills that was stopped."""
    stops(lambda: train(config(), tmp_path / "run", quiet=True))
    return tmp_path / "run"


def change_meta(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Edit what the newest checkpoint of a run says it is of."""
    checkpoint = max((folder / "checkpoints").iterdir())
    state, meta = load_state(checkpoint)
    change(meta)
    save_state(checkpoint, state, meta)


def meta_of(folder: Path) -> dict[str, Any]:
    return load_state(folder)[1]


def test_a_checkpoint_and_the_actor_say_what_they_are_of(tmp_path, stops):
    made = config(skills=str(skills(tmp_path / "skills")))
    stops(lambda: train(made, tmp_path / "run", quiet=True))
    saved = meta_of(max((tmp_path / "run" / "checkpoints").iterdir()))
    assert saved["run_format"] == 3 and saved["version"] == skillmeta.__version__
    options = sac.Config(**{key: value for key, value in SAC.items() if key != "name"})
    assert saved["config"]["algorithm"] == {"name": "sac", **asdict(options)}
    assert saved["config"]["task"]["index"] == 0
    assert saved["shapes"]["observation_dim"] == 2 and len(saved["shapes"]["action_bound"]) == 10
    assert saved["inputs"]["skill model"]["path"] == str(tmp_path / "skills")
    assert train(made, tmp_path / "run", quiet=True)
    actor = meta_of(tmp_path / "run" / "actor")
    assert {key: actor[key] for key in actor} == {key: saved[key] for key in actor} and "inputs" in actor


def test_a_skill_model_that_was_pretrained_again_between_stop_and_resume_is_refused(tmp_path, stops):
    made = config(skills=str(skills(tmp_path / "skills")))
    stops(lambda: train(made, tmp_path / "run", quiet=True))
    skills(tmp_path / "skills", seed=1)
    with pytest.raises(
        UserError, match=r"depends on the skill model in .*/skills, which changed.*put the old one back, or"
    ):
        train(made, tmp_path / "run", quiet=True)
    skills(tmp_path / "skills")  # the same bits as the first one
    assert train(made, tmp_path / "run", quiet=True)


def test_an_actor_whose_skill_model_has_changed_is_not_loaded(tmp_path):
    made = config(skills=str(skills(tmp_path / "skills")))
    assert train(made, tmp_path / "run", quiet=True)
    family = make_family(made.task)

    def load() -> Any:
        return load_trained(tmp_path / "run", lambda skills, sees_task: make_envs(family, 1, skills, sees_task))

    assert load().env_steps == 12
    skills(tmp_path / "skills", seed=1)
    with pytest.raises(UserError, match="actor: depends on the skill model in .*put the old one back"):
        load()


def test_logs_that_changed_between_stop_and_resume_are_refused(tmp_path, stops):
    made = pretraining(logs(tmp_path / "logs.npz"))
    stops(lambda: pretrain(made, tmp_path / "run", quiet=True))
    logs(tmp_path / "logs.npz", seed=1)
    with pytest.raises(UserError, match=r"depends on the logs in .*logs\.npz, which changed"):
        pretrain(made, tmp_path / "run", quiet=True)
    logs(tmp_path / "logs.npz")
    assert pretrain(made, tmp_path / "run", quiet=True)


def test_pretraining_on_two_logs_from_a_model_resumes_to_the_bit_and_needs_all_three_as_they_were(tmp_path, stops):
    both = [logs(tmp_path / "one.npz"), logs(tmp_path / "two.npz", seed=1)]
    made = pretraining(both, start=skills(tmp_path / "skills", seed=3))
    whole = pretrain(made, tmp_path / "whole", quiet=True)
    stops(lambda: pretrain(made, tmp_path / "run", quiet=True))
    saved = meta_of(max((tmp_path / "run" / "checkpoints").iterdir()))["inputs"]
    assert [saved[key]["path"] for key in ("log 1 of 2", "log 2 of 2")] == [str(path) for path in both]
    logs(both[1], seed=2)
    with pytest.raises(UserError, match=r"depends on the log 2 of 2 in .*two\.npz, which changed"):
        pretrain(made, tmp_path / "run", quiet=True)
    logs(both[1], seed=1)
    skills(tmp_path / "skills")
    with pytest.raises(UserError, match=r"depends on the skill model in .*skills, which changed"):
        pretrain(made, tmp_path / "run", quiet=True)
    skills(tmp_path / "skills", seed=3)
    assert pretrain(made, tmp_path / "run", quiet=True) == whole
    models = [(tmp_path / name / "model" / "manifest.json").read_bytes() for name in ("whole", "run")]
    assert models[0] == models[1]


def test_a_data_set_of_ours_that_was_collected_again_is_refused(tmp_path, stops, monkeypatch, capsys):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "logs"))
    collecting = ["collect", "pretrain/maze_logs", "dataset=test/tiny-v0", "expert.steps=600", "overwrite=true"]
    assert main(collecting) == 0
    said = re.search(r" steps in (\d+) s", capsys.readouterr().out)
    assert said is not None and int(said[1]) < 300
    made = build(PretrainConfig, {"source": "minari:test/tiny-v0", "model": {"horizon": 2, "hidden": 4},
                                  "training": {"steps": 4, "batch_size": 4}})  # fmt: skip
    stops(lambda: pretrain(made, tmp_path / "run", quiet=True))
    assert main([*collecting, "expert.seed=1"]) == 0
    with pytest.raises(UserError, match=r"depends on the logs in .*tiny-v0, which changed"):
        pretrain(made, tmp_path / "run", quiet=True)


def test_a_key_that_came_with_a_default_since_then_does_not_stop_a_resume(stopped):
    """Neither one of training, nor one of the algorithm, which config.yaml has only where it was set."""
    file = stopped / "config.yaml"
    plain = read_yaml(file)
    del plain["see_task"], plain["evaluation"]["repeats"], plain["task"]["index"]
    file.write_text(dump_yaml(plain))

    def older(meta: dict[str, Any]) -> None:
        del meta["config"]["see_task"], meta["config"]["algorithm"]["updates_per_decision"]

    change_meta(stopped, older)
    assert train(config(), stopped, quiet=True)


def test_a_default_that_is_said_is_the_same_config(stopped):
    algorithm = {**SAC, "updates_per_decision": sac.Config().updates_per_decision}
    assert train(config(algorithm=algorithm), stopped, quiet=True)


def test_a_default_that_changed_since_then_is_refused(stopped):
    change_meta(stopped, lambda meta: meta["config"]["algorithm"].update(updates_per_decision=0.25))
    with pytest.raises(UserError, match=r"other defaults \(algorithm.updates_per_decision: 0.25 -> .*set these keys"):
        train(config(), stopped, quiet=True)


def test_another_config_and_a_key_that_is_no_more_are_refused(stopped):
    with pytest.raises(UserError, match="another config.*env_steps: 12 -> 9"):
        train(config(env_steps=9), stopped, quiet=True)
    file = stopped / "config.yaml"
    file.write_text(dump_yaml({**read_yaml(file), "chunk": 4}))
    with pytest.raises(UserError, match="another config.*chunk: 4 -> absent"):
        train(config(), stopped, quiet=True)


def test_an_environment_of_other_shapes_is_refused(stopped):
    change_meta(stopped, lambda meta: meta["shapes"].update(observation_dim=3))
    with pytest.raises(UserError, match=r"other shapes \(observation_dim: 3 -> 2\).*start anew"):
        train(config(), stopped, quiet=True)


def test_a_checkpoint_from_before_there_were_identities_goes_on(stopped):
    def older(meta: dict[str, Any]) -> None:
        for key in ("version", "config", "shapes", "inputs"):
            del meta[key]

    change_meta(stopped, older)
    assert train(config(), stopped, quiet=True)


@pytest.mark.parametrize("key", ["config", "shapes", "inputs"])
def test_a_checkpoint_with_another_kind_of_identity_is_refused(stopped, key):
    change_meta(stopped, lambda meta: meta.update({key: [1]}))
    with pytest.raises(UserError, match=f"its {key} is no mapping"):
        train(config(), stopped, quiet=True)


def test_a_finished_pretraining_needs_its_logs_no_more(tmp_path):
    made = pretraining(logs(tmp_path / "logs.npz"))
    result = pretrain(made, tmp_path / "run", quiet=True)
    (tmp_path / "logs.npz").unlink()
    assert json.dumps(pretrain(made, tmp_path / "run", quiet=True)) == json.dumps(result)
