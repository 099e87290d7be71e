"""A run that is longer now continues where it ended: the same steps as one that had that length from the beginning, but for what a
schedule or the end of the budget made of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from skillmeta.cli import main
from skillmeta.errors import UserError
from skillmeta.programs.pretrain import pretrain
from skillmeta.programs.train import load_trained, train
from skillmeta.programs.train_config import TrainConfig
from skillmeta.run import run as run_module
from skillmeta.run.run import Run, is_finished, read_metrics, read_result
from skillmeta.skills.vae import SkillModel
from tests.programs.runs import family, one_task, rows, run, saved_actor
from tests.programs.scripted import scripted
from tests.programs.test_identity import logs, pretraining

SAC = {"name": "sac", "hidden": 4, "batch_size": 4, "replay_capacity": 100}
RL2 = {"name": "rl2", "tasks": 4, "hidden": 4, "epochs": 1, "minibatches": 1}


def same_bits(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_bits(one[name], other[name]) for name in one)
    return bool((one == other).all())


@pytest.mark.parametrize(
    ("config", "longer"),
    [
        (one_task(SAC, env_steps=1000, max_episodes=2), {"max_episodes": 6}),
        (one_task(SAC, env_steps=12, max_episodes=9), {"env_steps": 24, "max_episodes": None}),
        (family({**RL2, "anneal": False}, env_steps=12), {"env_steps": 36}),
    ],
    ids=["episodes", "steps", "family"],
)
def test_a_finished_run_that_is_made_longer_is_the_longer_run(config: TrainConfig, longer, tmp_path):
    """To the bit, where the old budget cut no episode off."""
    short = run(tmp_path / "run", config)
    result = run(tmp_path / "run", replace(config, **longer))
    whole = run(tmp_path / "whole", replace(config, **longer))
    (note,) = result.pop("notes")
    assert note.startswith("This run first had ") and "and was made longer" in note
    counted = ("env_steps", "episodes", "decisions", "updates", "return")
    assert {name: result[name] for name in counted} == {name: whole[name] for name in counted}
    assert result["updates"] > short["updates"] and rows(tmp_path / "run") == rows(tmp_path / "whole")
    assert same_bits(saved_actor(tmp_path / "run"), saved_actor(tmp_path / "whole"))
    assert is_finished(tmp_path / "run")
    if "env_steps" in longer:
        run(tmp_path / "run", replace(config, env_steps=48, max_episodes=None))  # and again
        assert [
            one["env_steps"] for one in json.loads((tmp_path / "run" / "continued.json").read_text())["lengths"]
        ] == [
            12,
            longer["env_steps"],
        ]


def test_what_depends_on_the_length_is_said(tmp_path):
    config = family({**RL2, "anneal": True}, env_steps=12)
    run(tmp_path, config)
    assert "what anneals over the budget rose again" in run(tmp_path, replace(config, env_steps=36))["notes"][0]


def test_skills_go_on_for_longer(tmp_path):
    source = logs(tmp_path / "logs.npz")
    short = pretrain(pretraining(source, steps=4), tmp_path / "run", quiet=True)
    result = pretrain(pretraining(source, steps=10), tmp_path / "run", quiet=True)
    assert short is not None and result is not None
    assert [row["steps"] for row in read_metrics(tmp_path / "run") if row["kind"] == "evaluation"] == [2, 4, 6, 8, 10]
    assert "first had training.steps=4 and was made longer" in result["verdict"][-1]
    assert pretrain(pretraining(source, steps=10), tmp_path / "run", quiet=True) == result  # and needs no logs
    source.unlink()
    assert pretrain(pretraining(source, steps=10), tmp_path / "run", quiet=True) == result
    with pytest.raises(UserError):
        pretrain(pretraining(source, steps=12), tmp_path / "run", quiet=True)
    assert read_result(tmp_path / "run") == result


def test_the_prior_of_a_finished_skill_model_learns_on_alone(tmp_path):
    """As many steps as it would have had from the beginning, to the bit."""
    source = logs(tmp_path / "logs.npz")
    assert pretrain(pretraining(source), tmp_path / "run", quiet=True)
    longer = pretraining(source, prior_steps=6)
    result, whole = (pretrain(longer, tmp_path / name, quiet=True) for name in ("run", "whole"))
    assert result is not None and whole is not None
    assert "first had training.prior_steps=0 and was made longer" in result["verdict"][-1]
    one, other = (SkillModel.load(tmp_path / name).state_dict() for name in ("run", "whole"))
    assert same_bits(dict(one), dict(other))
    with pytest.raises(UserError, match="training.steps: 4 -> 8"):
        pretrain(pretraining(source, steps=8, prior_steps=6), tmp_path / "run", quiet=True)


@pytest.mark.parametrize("what", ["shorter", "another", "gone", "damaged"])
def test_a_run_that_cannot_go_on_stays_finished(what, tmp_path):
    config = one_task(SAC, env_steps=12)
    result, changed = run(tmp_path / "run", config), replace(config, env_steps=24)
    sentence = {
        "shorter": "env_steps: 12 -> 6",
        "another": "seed: 0 -> 1",
        "gone": "is gone, so it cannot be made longer",
        "damaged": "damaged",
    }
    last = tmp_path / "run" / "last"
    if what == "gone":
        shutil.rmtree(last)
    elif what == "damaged":
        (file,) = last.glob("*/state.safetensors")
        file.write_bytes(file.read_bytes()[:-1])
    else:
        changed = replace(config, env_steps=6) if what == "shorter" else replace(changed, seed=1)
    with pytest.raises(UserError, match=sentence[what]):
        run(tmp_path / "run", changed)
    assert is_finished(tmp_path / "run") and run(tmp_path / "run", config) == result


@pytest.mark.parametrize("at", range(4))
def test_a_kill_while_a_run_is_opened_again_costs_nothing(at, tmp_path, monkeypatch):
    """At each of the operations by which it is: a folder is renamed, the lengths and the config are written."""
    config = one_task(SAC, env_steps=12)
    longer = replace(config, env_steps=24)
    run(tmp_path / "run", config)
    left = at

    def or_killed(act: Any) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return act(*arguments, **options)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(run_module.os, "replace", or_killed(run_module.os.replace))
        patch.setattr(run_module, "write_whole", or_killed(run_module.write_whole))
        with pytest.raises(KeyboardInterrupt):
            train(longer, tmp_path / "run", quiet=True)
    result = run(tmp_path / "run", longer)
    assert result["env_steps"] == 24 and len(result["notes"]) == 1 and len(rows(tmp_path / "run")) == 8


def test_an_interrupted_longer_run_has_no_actor_yet(tmp_path, monkeypatch):
    config = one_task(scripted(), env_steps=12)
    run(tmp_path, config)
    looked = iter([False, True])
    with monkeypatch.context() as patch:
        patch.setattr(Run, "stop_requested", property(lambda run: next(looked)))
        assert train(replace(config, env_steps=24), tmp_path, quiet=True) is None
    with pytest.raises(UserError, match="the run is not finished"):
        load_trained(tmp_path, lambda skills, sees_task: pytest.fail("it was made"), trust=True)


@pytest.mark.parametrize("there", [[], ["runs"], ["runs", "runs/new"], ["runs", "runs/new", "runs/new/mine.txt"]])
def test_a_first_start_that_fails_leaves_nothing(there, tmp_path, monkeypatch, capsys):
    """PEARL has more training tasks than the family; that is found at its first iteration."""
    monkeypatch.chdir(tmp_path)
    for name in there:
        Path(name).touch() if name.endswith(".txt") else Path(name).mkdir()
    Path("config.yaml").write_text(
        "task: {family: tests.programs.telltale, split: train}\nalgorithm: {name: pearl, training_tasks: 3}\nenv_steps: 100\n"
    )
    assert main(["meta-train", "config.yaml", "--out", "runs/new"]) == 2
    assert "training_tasks is 3; there are 2 different tasks" in capsys.readouterr().err
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} - {"config.yaml"}
    assert left == set(there)
