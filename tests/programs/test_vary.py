"""An ablation without YAML: which runs a config, keys and values make, and how long they are said to take."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import skillmeta
from skillmeta.cli import main
from skillmeta.config import dump_yaml
from skillmeta.errors import ConfigError
from skillmeta.programs.ablate import AblationConfig, make_jobs, pretraining_jobs
from skillmeta.programs.vary import Piece, Plan, Varied, duration, estimated, measured, planned, said, time_piece
from skillmeta.run.jobs import Job, Outcome
from skillmeta.run.run import STOP_FILE, is_finished
from skillmeta.run.signals import StopSignals
from tests.goldens.cases import save_logs
from tests.programs.runs import one_task
from tests.programs.scripted import scripted
from tests.programs.test_ablate import run_here

RUN = {
    "task": {"family": "tests.programs.telltale", "split": "test", "index": 1},
    "algorithm": scripted(action=0.5),
    "env_steps": 6,
}
SKILLS = {
    "source": "log.npz",
    "model": {"horizon": 5, "hidden": 8, "dim": 2},
    "training": {"steps": 4, "batch_size": 4, "held_out_every": 2, "held_out_windows": 8},
}


def plan(config: dict, *vary: str, seeds=(0, 1)) -> Plan:
    return planned(OmegaConf.create(config), "mine", [Varied.parse(one) for one in vary], seeds)


def test_every_combination_is_a_method_and_the_configs_own_one_is_the_reference(tmp_path):
    made = plan(RUN, "algorithm.action=0.25,0.5", "algorithm.noise=0,0.125")
    jobs = [job.payload[0] for job in make_jobs(made.config, tmp_path, "")]
    chosen = {(one.algorithm["action"], one.algorithm["noise"], one.seed) for one in jobs}
    assert chosen == {(action, noise, seed) for action in (0.25, 0.5) for noise in (0, 0.125) for seed in (0, 1)}
    assert len(jobs) == 8 and all(one.task.index == 1 and one.env_steps == 6 for one in jobs)
    assert made.config.reference == "action-0.5_noise-0"
    assert said(made, tmp_path) == "8 runs (4 methods x 2 seeds), 2 at once"


def test_seeds_that_a_config_stacks_are_the_training_seeds(tmp_path):
    made = plan({**RUN, "stack_seeds": [3, 5]}, "algorithm.action=0.25,0.5", seeds=None)
    assert [job.payload[0].seed for job in make_jobs(made.config, tmp_path, "")] == [3, 3, 5, 5]


def test_tasks_vary_as_tasks_and_a_list_in_brackets_is_one_value(tmp_path):
    made = plan(RUN, "task.index=0,1", "algorithm.action=0.25,0.5")
    assert made.config.tasks == [0, 1] and len(make_jobs(made.config, tmp_path, "")) == 8
    assert said(made, tmp_path) == "8 runs (2 methods x 2 tasks x 2 seeds), 2 at once"
    assert Varied.parse("key=[1,2],[3]").values == ("[1,2]", "[3]")


def test_a_key_of_pretraining_varies_the_skills_that_a_run_names(tmp_path):
    """A model for each value and seed, by the config of the pretraining that made the present one."""
    (tmp_path / "skills").mkdir()
    (tmp_path / "skills" / "config.yaml").write_text(dump_yaml({**SKILLS, "source": "mine.npz"}))
    run = {**RUN, "skills": str(tmp_path / "skills")}
    made = plan(run, "training.beta=1e-3,1e-2", "algorithm.action=0.25,0.5")
    models = [job.payload[0] for job in pretraining_jobs(made.config, tmp_path, "")]
    assert {(one.training.beta, one.training.seed) for one in models} == {(b, s) for b in (1e-3, 1e-2) for s in (0, 1)}
    assert all(one.source == "mine.npz" and one.training.steps == 4 for one in models)
    folders = {
        (job.payload[0].skills, job.payload[0].algorithm["action"]) for job in make_jobs(made.config, tmp_path, "")
    }
    models_of = [
        str(tmp_path / "skills" / f"beta-{beta}" / f"seed-{seed}") for beta in ("1e-3", "1e-2") for seed in (0, 1)
    ]
    assert folders == {(folder, action) for folder in models_of for action in (0.25, 0.5)}
    assert said(made, tmp_path) == "4 skill models (2 settings x 2 seeds) and 8 runs (4 methods x 2 seeds), 2 at once"


@pytest.mark.parametrize(
    ("config", "vary", "sentence"),
    [
        (RUN, "algorithm.acton=1,2", "algorithm: unknown key 'acton'; did you mean 'action'"),
        (RUN, "algorithm.action", "two values or more are expected"),
        (RUN, "algorithm.action=1", "two values or more are expected"),
        (RUN, "algorithm.action=1,1.0", "--vary algorithm.action: 1 and 1.0 are the same"),
        (RUN, "seed=1,2", "use --seeds N"),
        (RUN, "env_steps=1,2", "compared on equal steps"),
        (RUN, "training.beta=1,2", "a key of the pretraining of skills, and skills is null; pretrain them first"),
        (RUN, "trainin.beta=1,2", "a key neither of training nor of pretraining"),
        ({"methods": {}}, "seeds=1,2", "use it without --vary"),
        ({"family": "maze"}, "options.size=1,2", "takes a config of `skillmeta finetune`"),
        (SKILLS, "training.bta=1,2", "training: unknown key 'bta'"),
    ],
)  # fmt: skip
def test_what_cannot_vary_is_one_sentence(config, vary, sentence):
    with pytest.raises(ConfigError, match=sentence):
        plan(config, vary)


def test_settings_of_skills_alone_are_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("skillmeta.programs.ablate.run_jobs", run_here)
    save_logs(tmp_path / "log.npz")
    logs = {**SKILLS, "source": str(tmp_path / "log.npz")}
    done = skillmeta.ablate(logs, tmp_path / "out", vary={"training.beta": [1e-3, 1.0]}, seeds=[0, 1])
    assert set(done.numbers["settings"]) == {"beta-0.001", "beta-1.0"}
    assert done.numbers["settings"]["beta-1.0"]["explained"]["ci95"] is not None
    assert "beta-0.001" in done.numbers["headline"][0]
    page = done.page.read_text()
    assert "Settings of skills" in page and "<h2>Skill models</h2>" in page and "seed-1" in page
    headline = done.numbers["headline"][0].rstrip(".")
    assert repr(done) == f"<ablation in {done.folder}: {headline}; page {done.page}>"
    assert "skillmeta.ablate(" in json.loads((done.folder / "environment.json").read_text())["command"]
    said = capsys.readouterr().out.splitlines()
    assert [line[:3] for line in said if line[1:3] == "/2"] == ["1/2", "2/2"]
    assert [line[5:].partition(":")[0] for line in said if line.startswith("     ")] == [
        f"skills beta-{beta} seed {seed}" for beta in ("0.001", "1.0") for seed in (0, 1)
    ]


def made_by_call(monkeypatch, config, **options) -> AblationConfig:
    """The ablation that a call from Python would run."""
    made = []

    def remember(config: AblationConfig, *unused: object) -> Outcome:
        made.append(config)
        return Outcome(stopped=True)

    monkeypatch.setattr("skillmeta.api.run_ablation", remember)
    with pytest.raises(KeyboardInterrupt):
        skillmeta.ablate(config, "out", **options)
    return made[0]


def test_from_python_seeds_may_be_a_number_and_a_dot_two_underscores(monkeypatch):
    made = made_by_call(monkeypatch, RUN, vary={"algorithm__action": [0.25, 0.5]}, seeds=2)
    assert made.seeds == [0, 1] and list(made.methods) == ["action-0.25", "action-0.5"]
    assert made_by_call(monkeypatch, RUN, vary={"algorithm.action": [0.25, 0.5]}, seeds=(4, 2)).seeds == [4, 2]
    assert made_by_call(monkeypatch, RUN, vary={"algorithm.action": [0.25, 0.5]}).seeds == [0, 1, 2]
    assert made_by_call(monkeypatch, {"methods": {"one": RUN, "other": RUN}}, seeds=2).seeds == [0, 1]
    for seeds in (2.5, "2", True):
        with pytest.raises(ConfigError, match=f"seeds is {seeds!r}; write how many, or a list of them"):
            skillmeta.ablate(RUN, "out", vary={"algorithm.action": [0.25, 0.5]}, seeds=seeds)


@pytest.mark.parametrize("config", [RUN, SKILLS, {"task": RUN["task"]}])
def test_a_config_of_one_run_that_does_not_vary_is_said(config, tmp_path, capsys):
    with pytest.raises(ConfigError, match=r"this is the config of one run; pass vary=\{KEY: \[VALUE, VALUE\]\}$"):
        skillmeta.ablate(config, tmp_path / "out")
    (tmp_path / "mine.yaml").write_text(dump_yaml(config))
    assert main(["ablate", str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert "mine.yaml: this is the config of one run; add --vary KEY=A,B" in capsys.readouterr().err


def test_the_estimate_is_what_is_left_times_what_a_piece_takes(tmp_path, monkeypatch):
    made = plan(RUN, "algorithm.action=0.25,0.5", seeds=range(3))
    pieces = iter([Piece(7200.0, True), Piece(3600.0, True), Piece(7200.0, False), Piece(7200.0, True)])
    timed: list[Job] = []

    def piece(job: Job) -> Piece:
        timed.append(job)
        return next(pieces)

    monkeypatch.setattr("skillmeta.programs.vary.time_piece", piece)
    assert estimated(made, tmp_path).startswith("about 4.5 hours: training alone")  # six runs of 1.5 hours, two at once
    assert [job.payload[0].algorithm["action"] for job in timed] == [0.25, 0.5]
    assert estimated(made, tmp_path).startswith("at least 6.0 hours")  # no update was made
    monkeypatch.setattr("skillmeta.programs.vary.is_finished", lambda folder: True)
    assert estimated(made, tmp_path) == "nothing is left to be done"
    assert said(made, tmp_path).endswith("; 6 are done")
    assert (duration(0.2), duration(90), duration(9000)) == ("1 second", "1.5 minutes", "2.5 hours")


def test_a_piece_is_measured_once_updates_are_made():
    moments = [(10.0, 0.1, False), (10.5, 0.4, False), (11.0, 0.45, True), (13.0, 0.55, True)]
    whole = measured(9.0, 13.0, moments)
    assert whole.learned and whole.seconds == pytest.approx(20.0)
    assert measured(9.0, 13.0, moments[:2]) == Piece(pytest.approx(0.5 / 0.3), False)
    assert measured(9.0, 13.0, []) == Piece(4.0, True)  # over before one could look


def test_a_piece_of_a_run_is_stopped_and_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr("skillmeta.programs.vary.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("skillmeta.run.run.Run.report_progress", _always(tmp_path))
    job = Job("one", tmp_path / "run", (one_task(scripted(action=0.5), env_steps=10**9), ""))
    piece = time_piece(job, seconds=0.2)
    assert piece.seconds > 10 and not is_finished(tmp_path / "run") and not (tmp_path / "run").exists()


@pytest.mark.parametrize("late", [False, True])
def test_ctrl_c_in_a_piece_ends_the_command(late, tmp_path, monkeypatch):
    """Also when the piece was long enough and is about to end by itself."""

    def run(job: Job) -> None:
        job.folder.mkdir()
        (job.folder / "progress.json").write_text(json.dumps({"fraction": 0.5}))
        with StopSignals():
            while late and not (job.folder / STOP_FILE).exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("skillmeta.programs.vary.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("skillmeta.programs.vary.run_one", run)
    job = Job("one", tmp_path / "run", (one_task(scripted(action=0.5)), ""))
    with pytest.raises(KeyboardInterrupt):
        time_piece(job, seconds=0.05 if late else 100.0)


def _always(tmp_path: Path):
    """Progress at every iteration, not twice a second."""

    def report(run, fraction, text):
        (run.folder / "progress.json").write_text(json.dumps({"fraction": fraction, "text": text}))

    return report
