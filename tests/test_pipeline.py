"""The whole path, small: logs, skills, four methods, the page; interrupted and resumed, it comes to the same."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from downstream.finetune import main as finetune_main
from pretrain.skills import main as skills_main
from skillmeta.cli import main
from skillmeta.config import build
from skillmeta.data.minari_store import VARIABLE
from skillmeta.errors import ConfigError
from skillmeta.programs.ablate import AblationConfig, method_config, pretraining_jobs
from skillmeta.run.jobs import Job, Outcome
from skillmeta.run.run import is_finished, read_metrics, read_result

SMALL = [
    "logs.expert.steps=6000",
    "logs.dataset=test/pipeline-v0",
    "skills.source=minari:test/pipeline-v0",
    "skills.training.steps=20",
    "skills.training.held_out_every=20",
    "skills.training.batch_size=32",
    "skills.model.hidden=32",
    "skills.quality.episodes=1",
    "skills.task={options: {max_episode_steps: 200}}",
    "changes.env_steps=1000",
    "changes.task={options: {max_episode_steps: 200}}",
    "changes.evaluation.episodes=1",
    "changes.algorithm={hidden: 16, batch_size: 16}",
    "tasks=[0]",
    "seeds=[0,1]",
]


def demo(out: Path) -> list[str]:
    return ["demo", *SMALL, "--out", str(out)]


def one_after_another(jobs: Sequence[Job], target: Callable[[Job], None], workers: int, label: str) -> Outcome:
    """What `run_jobs` does, in this process, which has everything imported already."""
    for job in jobs:
        if not is_finished(job.folder):
            target(job)
    return Outcome(done=[job.name for job in jobs])


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skillmeta.programs.ablate.run_jobs", one_after_another)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out, before = tmp_path_factory.mktemp("demo") / "out", os.environ.get(VARIABLE)
    with redirect_stdout(io.StringIO()) as printed:
        assert main(demo(out)) == 0
    assert os.environ.get(VARIABLE) == before  # its logs are where they are for it alone
    assert "Success within 1,000 environment steps" in printed.getvalue()
    assert str(out / "report.html") in printed.getvalue()
    return out


def test_the_demo_writes_its_page_and_its_numbers(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert list(summary["methods"]) == ["sac", "skill_sac", "prior_init", "spirl"]
    for told in summary["methods"].values():
        assert (
            told["env_steps"] == 1000 == told["env_steps_mean"]
            and told["training_seeds"] == [0, 1]
            and told["tasks"] == 1
        )
        assert 0 <= told["success_ci95"][0] <= told["success"] <= told["success_ci95"][1] <= 1
    assert summary["reference"] == "spirl" and list(summary["differences"]["success"]) == [
        "sac",
        "skill_sac",
        "prior_init",
    ]
    assert all(task["path_cells"] >= 15 for task in summary["tasks"])
    text = (finished / "report.html").read_text()
    assert (
        "The prior, acting" in text and "How to make this again" in text and "downstream" not in text.split("<pre>")[0]
    )
    assert all((finished / "skills" / f"seed-{seed}" / "report.html").exists() for seed in (0, 1))
    models = [(finished / "skills" / f"seed-{seed}" / "model" / "state.safetensors").read_bytes() for seed in (0, 1)]
    assert models[0] != models[1]  # runs that share a skill model would not be independent
    spirl = read_metrics(finished / "methods" / "spirl" / "task-0" / "seed-0")
    assert [row["prior/divergence"] for row in spirl if "prior/divergence" in row][0] < 1.0
    with np.load(finished / "methods" / "spirl" / "task-0" / "seed-0" / "trajectories.npz") as paths:
        assert {"early_0", "final_0"} <= set(paths.files) and paths["early_0"].shape[1] == 2


@pytest.mark.slow
def test_an_interrupted_demo_comes_to_the_same_numbers(finished, tmp_path):
    """Interrupted while methods learn in a process of their own, and resumed in this one."""
    out = tmp_path / "out"
    shutil.copytree(finished, out, ignore=shutil.ignore_patterns("methods", "report.html"))
    process = subprocess.Popen(
        [sys.executable, "-m", "skillmeta.cli", *demo(out), "--workers", "1"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("methods/*/*/*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 130, told
    results = [result.relative_to(finished) for result in finished.glob("methods/*/*/*/result.json")]
    assert len(results) == 8 and not all((out / result).exists() for result in results)
    assert main(demo(out)) == 0 and (out / "report.html").exists()
    for result in results:
        mine, theirs = read_result((finished / result).parent), read_result((out / result).parent)
        assert mine is not None and theirs is not None
        assert {k: v for k, v in mine.items() if k != "seconds"} == {k: v for k, v in theirs.items() if k != "seconds"}
        metrics = result.with_name("metrics.jsonl")
        assert (out / metrics).read_bytes() == (finished / metrics).read_bytes()


def test_a_method_takes_its_prior_from_the_section_that_it_names():
    methods = {
        "spirl": {"config": "downstream/maze_spirl", "skills": "vae"},
        "bc": {"config": "downstream/maze_bc", "skills": "cloning"},
        "sac": "downstream/maze_sac",
    }
    config = build(
        AblationConfig,
        {"methods": methods, "skills": {"vae": {}, "cloning": {"model": {"cloning": True, "horizon": 1}}}},
    )
    named = {name: method_config(config, name, Path("out"), 3).skills for name in config.methods}
    assert named == {"spirl": "out/skills/vae/seed-3", "bc": "out/skills/cloning/seed-3", "sac": None}
    jobs = pretraining_jobs(config, Path("out"), "")
    assert [job.name for job in jobs[:4:3]] == ["skills vae seed 0", "skills cloning seed 0"]
    assert jobs[3].folder == Path("out/skills/cloning/seed-0") and jobs[3].payload[0].model.cloning
    wrong = build(AblationConfig, {"methods": {"spirl": "downstream/maze_spirl"}, "skills": {"vae": {}}})
    with pytest.raises(
        ConfigError, match=r"methods.spirl.skills is 'runs/maze-skills'; it must name a section of skills: vae"
    ):
        method_config(wrong, "spirl", Path("out"), 3)
    with pytest.raises(ConfigError, match="cloning: is now a named section under `skills:`"):
        build(AblationConfig, {"methods": methods, "cloning": {}})


def test_another_config_does_not_mix_into_the_same_folder(finished, capsys):
    assert main([*demo(finished), "changes.env_steps=1100"]) == 2
    assert "changes.env_steps: 1000 -> 1100" in capsys.readouterr().err


def test_skills_from_a_file_and_fine_tuning_in_any_gymnasium_environment(tmp_path, capsys):
    """Users' two first jobs with their own data: an NPZ, and an environment that the project has never heard of."""
    rng = np.random.default_rng(0)
    steps = 600
    ends = np.zeros(steps, bool)
    ends[99::100] = True
    logs = {"observations": rng.normal(size=(steps, 3)).astype(np.float32), "timeouts": ends}
    np.savez(tmp_path / "log.npz", actions=rng.uniform(-2, 2, (steps, 1)).astype(np.float32), **logs)
    settings = ["training.steps=40", "training.held_out_every=20", "model.hidden=16", "task=null"]
    out = str(tmp_path / "skills")
    assert skills_main(["pretrain/maze", f"source={tmp_path / 'log.npz'}", *settings, "--out", out]) == 0
    assert "latent dimensions are in use" in capsys.readouterr().out
    (tmp_path / "mine.yaml").write_text(
        "task: {family: gym, options: {id: Pendulum-v1}}\n"
        "algorithm: {name: sac, policy_start: prior, hidden: 16, batch_size: 16,\n"
        "  regularizer: {prior: skill, target_divergence: 1.0}}\n"
        f"skills: {out}\nenv_steps: 500\nevaluation: {{episodes: 2}}\n"
    )
    assert finetune_main([str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "run")]) == 0
    assert "after 500 environment steps" in capsys.readouterr().out
    result = read_result(tmp_path / "run")
    assert result is not None and result["env_steps"] == 500 and result["return"] < 0
