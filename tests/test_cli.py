"""The command line: quick, helpful, one sentence for a mistake."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest

from skillmeta.cli import PROGRAMS, main
from skillmeta.config import list_configs

HEAVY = ("torch", "gymnasium", "mujoco", "matplotlib", "scipy", "stable_baselines3", "minari", "d4rl", "numpy")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "skillmeta", *arguments], capture_output=True, text=True)


def test_help_takes_less_than_half_a_second():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = run("--help")
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0 and all(name in done.stdout for name in PROGRAMS)
    assert min(seconds) < 0.5


@pytest.mark.parametrize("module", ["skillmeta", "skillmeta.cli", *(module for module, *_ in PROGRAMS.values())])
def test_importing_a_program_pulls_in_nothing_heavy(module):
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_command_has_its_own_help(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0 and f"usage: skillmeta {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("collect", "expert.action_noise = 0.5 number, at least 0: standard deviation, added to each force"),
        ("skills", "model.horizon = 10 integer, at least 1: H, primitive steps of a skill"),
        ("finetune", "algorithm.regularizer.divergence = kl "),
        ("meta-train", "task.split = train string: which of the family's tasks"),
        ("meta-train", "algorithm.name = rl2 module of skillmeta.algorithms, or yours"),
        ("adapt", "options.size = 20 integer, at least 6: "),
        ("evaluate", "tasks = null integer, at least 1 or null: only the first so many of the split"),
        ("ablate", "skills.training.beta = 0.0045 number, at least 0: coefficient of KL(q || N(0, I))"),
    ],
)
def test_help_lists_every_key_with_its_default_type_and_meaning(name, line, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    assert line in re.sub(" +", " ", capsys.readouterr().out)


@pytest.mark.slow
def test_the_help_of_training_imports_what_its_config_needs_and_no_more():
    """torch is in it; its compiler and scipy, which take as long again, are not."""
    code = (
        "import sys, contextlib, skillmeta.cli as cli\n"
        "with contextlib.suppress(SystemExit): cli.main(['finetune', '--help'])\n"
        "print([name for name in ('torch._dynamo', 'scipy', 'matplotlib') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]" and "algorithm.normalize_observations = false" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["finetun"], "there is no command 'finetun'; did you mean 'finetune'?"),
        (["finetune", "downstream/maze_spirrl"], "did you mean downstream/maze_spirl"),
        (["finetune", "downstream/maze_spirl", "sed=1"], "unknown key 'sed'; did you mean 'seed'?"),
        (
            ["finetune", "downstream/maze_sac", "task.family=labyrinth"],
            "there is no module labyrinth in skillmeta.tasks, beside the config or in the working folder",
        ),
        (
            ["finetune", "downstream/maze_sac", "algorithm.name=sacc"],
            "there is no module sacc in skillmeta.algorithms, beside the config or in the working folder; did you mean 'sac'?",
        ),
        (["finetune", "downstream/maze_sac", "algorithm.gama=1"], "algorithm: unknown key 'gama'"),
        (["finetune", "downstream/maze_sac", "task.index=10"], "split 'test' has tasks 0 to 9"),
        (["finetune", "downstream/maze_spirl", "skills=nowhere"], "nowhere: there is no such folder"),
        (["finetune", "downstream/maze_spirl", "skills=null"], "the algorithm asks for a skill prior"),
        (["finetune", "downstream/maze_sac", "env_steps=0"], "env_steps is 0; it must be at least 1"),
        (["skills", "pretrain/maze", "source=nothing.npz"], "nothing.npz: there is no such file"),
        (["skills", "pretrain/maze", "model.dim=0"], "model.dim is 0"),
        (["inspect", "nothing.hdf5"], "nothing.hdf5: there is no such file"),
        (["collect", "pretrain/maze_logs", "expert.steps=-1"], "expert.steps is -1"),
        (["report", "nowhere"], "holds no run"),
        (["ablate", "demo", "changes.task.min_path=3"], "task: unknown key 'min_path'"),
        (["ablate", "demo", "seeds=[]"], "seeds is empty"),
        (["ablate", "demo", "reference=sac2"], "reference is 'sac2'; choose one of methods"),
        (["ablate", "demo", "methods.spirl={config: downstream/maze_spirl, env_steps: 7}"], "unequal budgets"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    extra = ["--out", str(tmp_path / "run")] if arguments[0] in ("finetune", "skills", "ablate") else []
    assert main([*arguments, *extra]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.startswith("error: ") and said.count("\n") == 1


def test_nothing_else_is_printed_about_a_mistake(tmp_path):
    """In a process of its own, where importing may warn."""
    done = run("finetune", "downstream/maze_spirl", "skills=nowhere", "--out", str(tmp_path / "run"))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: nowhere: there is no such folder") and done.stderr.count("\n") == 1


def test_config_lists_and_shows(capsys):
    assert main(["config", "list"]) == 0
    assert "downstream/maze_spirl" in capsys.readouterr().out
    assert main(["config", "show", "downstream/maze_sac", "seed=3", "--yaml"]) == 0
    shown = capsys.readouterr().out
    assert "seed: 3" in shown and "family: maze" in shown
    assert main(["config", "show", "downstream/maze_sac", "seed=3"]) == 0
    shown = re.sub(" +", " ", capsys.readouterr().out)
    assert "seed = 3 integer, at least 0; default 0: training seed\n" in shown
    assert (
        "algorithm.regularizer.prior = uniform" in shown and "task.options.goal_radius = 1.0 number, above 0" in shown
    )


@pytest.mark.parametrize("name", list_configs())
def test_every_config_can_be_shown(name, capsys):
    assert main(["config", "show", name]) == 0
    shown = capsys.readouterr().out
    assert shown.count(" = ") > 5 and "PositiveInt" not in shown


def test_doctor_finds_this_installation_whole(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) == 0
    assert "all needed parts work" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("skillmeta ")


@pytest.mark.parametrize(
    "arguments", [["--help"], pytest.param(["collect", "--help"], marks=pytest.mark.slow), ["config", "list"]]
)
def test_a_reader_that_leaves_early_gets_no_traceback(arguments):
    process = subprocess.Popen(
        [sys.executable, "-m", "skillmeta.cli", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()  # before anything is printed
    assert process.stderr.read() == b"" and process.wait() == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["collect", "pretrain/maze_logs", "expert.stps=3"],
        ["collect", "pretrain/maze_logs", "shards=100", "expert.steps=10"],
        ["collect", "pretrain/maze_logs", "family=nothing"],
        ["skills", "pretrain/maze", "source=nothing.npz", "--out", "out"],
        ["skills", "pretrain/maze", "source=minari:no/such-v0", "--out", "out"],
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "logs"))
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "out").exists()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
