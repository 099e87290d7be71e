"""Several seeds in one process: the runs that each seed gives alone, up to rounding, in folders of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from skillmeta.config import build
from skillmeta.errors import ConfigError
from skillmeta.evaluation.records import read_run
from skillmeta.programs.ablate import AblationConfig, ablate, make_jobs, run_one
from skillmeta.programs.train import train
from skillmeta.programs.train_config import EvaluationConfig, TrainConfig
from skillmeta.programs.train_stack import train_stack
from skillmeta.reports.description import description
from skillmeta.run.jobs import Outcome
from skillmeta.run.run import Run, read_metrics, read_result
from skillmeta.tasks.base import TaskConfig
from tests.programs.runs import saved_actor, untimed
from tests.programs.test_train_whole import flat

SEEDS = [0, 1, 2]
SAC = {"name": "sac", "hidden": 8, "batch_size": 8, "replay_capacity": 200, "random_decisions": 7}
CONFIG = TrainConfig(
    task=TaskConfig("point", split="validation", options={"max_episode_steps": 5}),
    algorithm=SAC,
    env_steps=20,
    evaluation=EvaluationConfig(2),
    stack_seeds=SEEDS,
)


def stack(out: Path) -> list[dict] | None:
    return train_stack([replace(CONFIG, seed=seed) for seed in SEEDS], [out / str(seed) for seed in SEEDS], quiet=True)


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    monkeypatch.setattr("skillmeta.programs.train.write_page", lambda *arguments, **options: None)


def test_each_seed_is_the_run_of_that_seed_alone(tmp_path):
    together = stack(tmp_path / "together")
    assert together is not None
    for seed, result in zip(SEEDS, together, strict=True):
        alone = train(replace(CONFIG, seed=seed, stack_seeds=[]), tmp_path / "alone" / str(seed), quiet=True)
        assert alone is not None
        assert untimed(result) == pytest.approx(untimed(alone), rel=1e-3)
        logged = [read_metrics(tmp_path / kind / str(seed)) for kind in ("together", "alone")]
        for mine, theirs in zip(*logged, strict=True):
            assert mine.pop("kind") == theirs.pop("kind")
            assert mine == pytest.approx(theirs, rel=1e-3)
    assert together[0]["return"] != together[1]["return"]


def test_an_interrupted_stack_resumes_to_the_same_bits(tmp_path, monkeypatch):
    whole = stack(tmp_path / "whole")
    looked = [0]

    def stop(self: Run) -> bool:
        looked[0] += 1
        return looked[0] % 5 == 0

    monkeypatch.setattr(Run, "stop_requested", property(stop))
    result, starts = None, 0
    while result is None:
        result, starts = stack(tmp_path / "parts"), starts + 1
    assert starts > 1 and whole is not None
    assert list(map(untimed, result)) == list(map(untimed, whole))
    for seed in map(str, SEEDS):
        states = [saved_actor(tmp_path / run / seed) for run in ("whole", "parts")]
        assert flat(states[0]) == flat(states[1])
        assert read_metrics(tmp_path / "whole" / seed) == read_metrics(tmp_path / "parts" / seed)


def test_an_ablation_stacks_the_runs_of_a_method(tmp_path, monkeypatch, capsys):
    plain = {
        "methods": {"slow": {"algorithm": {"learning_rate": 1e-4}}, "fast": {"algorithm": {"learning_rate": 1e-2}}},
        "changes": {
            "task": {"family": "point", "split": "validation", "options": {"max_episode_steps": 5}},
            "algorithm": SAC, "env_steps": 20, "evaluation": {"episodes": 1},
        },
        "tasks": [0, 1], "seeds": [3, 5], "stack_seeds": True,
    }  # fmt: skip
    jobs = make_jobs(build(AblationConfig, plain), tmp_path, "")
    assert [job.name for job in jobs] == ["slow", "fast"]
    run_one(jobs[0])
    folders = sorted((tmp_path / "methods" / "slow").glob("task-*/seed-*"))
    results = [read_result(folder) for folder in folders]
    assert len(folders) == 4 and jobs[0].folder == folders[-1]
    assert len({result["return"] for result in results if result}) == 4
    assert "one process trains the seeds 3, 5" in description(read_run(folders[0]))
    monkeypatch.setattr("skillmeta.programs.ablate.run_jobs", lambda *arguments: Outcome())
    ablate(build(AblationConfig, plain), tmp_path)
    assert "1/2  2 methods x 2 seeds: 8 runs\n" in capsys.readouterr().out  # of the jobs, each of which is four runs


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"algorithm": {**SAC, "compile": True}}, "algorithm.compile is of one seed"),
        ({"kind": "meta-train", "algorithm": {"name": "rl2"}}, "stack_seeds is of kind: finetune"),
        ({"algorithm": {"name": "rl2", "hidden": 4, "tasks": 4}}, "algorithm.name 'rl2' cannot be stacked"),
    ],
)
def test_what_cannot_be_stacked_is_one_sentence(changes, sentence, tmp_path):
    with pytest.raises(ConfigError, match=sentence):
        train_stack([replace(CONFIG, **changes)], [tmp_path / "run"], quiet=True)
    assert not (tmp_path / "run").exists()
