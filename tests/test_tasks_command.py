"""`skillmeta tasks` and `skillmeta evaluate`, as a user types them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from downstream.evaluate import main as evaluate_main
from downstream.tasks import main as tasks_main
from skillmeta.cli import main
from skillmeta.config import list_configs
from skillmeta.errors import ConfigError, UserError
from skillmeta.programs.evaluate import about_new_tasks
from skillmeta.tasks.base import TaskConfig, TaskFamily, make_family
from tests.envs import users


def test_every_preset_is_listed_or_says_what_it_lacks(capsys, monkeypatch):
    """As it was written of them, of which tests/tasks/test_families.py says that it is right; without its package a family says
    what it lacks, and nothing else is made."""

    def make(config: TaskConfig) -> TaskFamily:
        raise UserError(f"{config.family} needs a package: pip install it")

    monkeypatch.setattr("downstream.tasks.is_missing", lambda module: module in ("metaworld", "dm_control"))
    monkeypatch.setattr("skillmeta.tasks.base.make_family", make)
    assert tasks_main([]) == 0
    printed = capsys.readouterr().out
    for name in list_configs():
        if name.startswith("tasks/"):
            assert f"\n{name.removeprefix('tasks/')} " in printed
    assert "cheetah_vel " in printed and "train 100, validation 30, test 30" in printed
    assert printed.count("not here: ogbench needs a package: pip install it") == 4
    assert printed.count("not here") == 9 and "kitchen_59 " in printed


def test_a_family_is_described_and_its_tasks_drawn(capsys):
    assert tasks_main(["point_robot"]) == 0
    printed = capsys.readouterr().out
    assert "train: 80 tasks, to train on" in printed and "validation: 20 tasks\n" in printed and "Rakelly" in printed
    assert tasks_main(["point_robot", "--draw", "2", "--split", "any", "--seed", "3"]) == 0
    drawn = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(drawn) == 2 and drawn[0].keys() == {"x", "y"} and drawn[0] != drawn[1]
    tasks_main(["point_robot", "--draw", "2", "--split", "any", "--seed", "3"])
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == drawn
    assert tasks_main(["point_robot", "options.max_episode_steps=7"]) == 0
    assert "at most 7 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tasks", "maez"], "did you mean maze or"),
        (["tasks", "point_robot", "--draw", "1", "--split", "tets"], "there is no split 'tets'"),
        (["tasks", "point_robot", "options.extend=1"], "unknown key 'extend'; did you mean 'extent'"),
        (["tasks", "bandit_5", "--video", "x.webp"], "nothing to film"),
        (["evaluate", "tasks/point_robot", "agents=[nowhere]"], "nowhere: holds no run"),
        (["evaluate", "tasks/point_robot", "epsiodes=1"], "unknown key 'epsiodes'"),
    ],
)
def test_wrong_arguments_are_one_sentence(arguments, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("preset", ["point_robot", "maze"])
def test_an_episode_is_filmed(preset, tmp_path):
    from PIL import Image

    file = tmp_path / "deep" / "film.webp"
    assert tasks_main([preset, "--video", str(file)]) == 0
    with Image.open(file) as film:
        assert film.n_frames > 3 or preset == "point_robot"
        film.seek(film.n_frames - 1)
        assert np.asarray(film.convert("RGB")).std() > 5  # not an empty picture


def test_a_simulator_is_filmed(tmp_path):
    try:
        assert tasks_main(["cheetah_dir", "options.max_episode_steps=4", "--video", str(tmp_path / "c.webp")]) == 0
    except UserError as error:
        pytest.skip(str(error))


def test_brackets_are_evaluated_and_the_page_written(tmp_path, capsys):
    out = tmp_path / "evaluation"
    arguments = ["tasks/point_robot", "--out", str(out), "tasks=5", "episodes=1", "repeats=2"]
    assert evaluate_main(arguments) == 0
    assert "oracle" in capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    assert summary["results"].keys() == {"random", "oracle"} and summary["tasks"] == 5
    assert summary["evaluation_steps"] == 2 * 2 * 5 * 2 * 20  # reference agents, repeats, tasks, episodes, steps
    rows = list(csv.DictReader((out / "episodes.csv").open()))
    assert len(rows) == 2 * 2 * 5 * 2 and {row["agent"] for row in rows} == {"random", "oracle"}
    page = (out / "report.html").read_text()
    assert "Episode by episode" in page and "<svg" in page and "http" not in page.replace("http-equiv", "")
    parts = sorted((out / "parts").glob("*.npz"))
    before = [part.read_bytes() for part in parts]
    assert evaluate_main(arguments) == 0 and [part.read_bytes() for part in parts] == before  # nothing is run again
    parts[0].write_bytes(before[0][:50])
    with pytest.raises(UserError, match="does not match its checksum"):
        evaluate_main(arguments)


def test_intervals_are_about_new_tasks_where_the_tasks_are_a_sample_of_them():
    points = make_family(TaskConfig("point"))
    directions = make_family(TaskConfig("half_cheetah", options={"goal": "direction"}))
    assert about_new_tasks(points, "test") and not about_new_tasks(points, "train")
    assert not about_new_tasks(directions, "test")  # forward and backward are all that there are


def test_a_trained_agent_stands_between_its_brackets(tmp_path):
    from downstream.finetune import main as finetune_main

    run = tmp_path / "run"
    config = tmp_path / "point.yaml"
    config.write_text(
        "task: {family: point, split: train}\nalgorithm: {name: sac, hidden: 16, batch_size: 16}\nenv_steps: 200\n"
    )
    out = tmp_path / "evaluation"
    arguments = ["tasks/point_robot", "--out", str(out), "tasks=3", "episodes=1", f"agents=[{run}]"]
    with pytest.raises(UserError, match="holds no run"):
        evaluate_main(arguments)
    assert finetune_main([str(config), "--out", str(run)]) == 0
    assert evaluate_main(arguments) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["results"]) == ["agent", "random", "oracle"]  # SAC has no belief: there is nothing to take away
    assert summary["training_steps"] == {"agent": [200]}
    assert summary["places"]["agent"]["returns"].keys() == {"random"}
    assert (
        summary["results"]["agent"]["training_seeds"] == [0]
        and summary["results"]["agent"]["returns"][0]["ci95"] is None
    )
    with pytest.raises(ConfigError, match="seeds: is now `evaluation_seed`"):
        evaluate_main([*arguments, "seeds=[0]"])
    with pytest.raises(ConfigError, match="name one run of each seed"):
        evaluate_main([*arguments[:-1], f"agents=[{run},{run}]"])
    wrong = ["tasks/maze", "--out", str(tmp_path / "wrong"), f"agents=[{run}]"]
    with pytest.raises(UserError, match="trained on other dimensions"):
        evaluate_main(wrong)


def test_a_run_is_filmed_in_its_own_task(tmp_path, capsys):
    arguments = ["task=maze", "task.index=2", "algorithm.hidden=4", "env_steps=40", "task.options.max_episode_steps=40"]
    arguments += ["algorithm.random_decisions=39", "evaluation.episodes=1"]
    assert main(["finetune", "downstream/maze_sac", *arguments, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert main(["film", str(tmp_path / "run")]) == 0
    assert "maze, test task 2" in capsys.readouterr().out
    from PIL import Image

    with Image.open(tmp_path / "run" / "film.webp") as film:
        assert film.n_frames > 3
    assert main(["film", str(tmp_path)]) == 2 and "holds no run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("methods: {a: {}}", "is an ablation; its runs are folders such as out/methods/a/task-0/seed-1"),
        ("source: logs.npz", "is a skill model, which acts in no task by itself"),
        ("agents: {a: run}", "is an evaluation of runs"),
    ],
)
def test_a_folder_that_is_no_training_run_is_named_for_what_it_is(config, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Path("out/methods/a/task-0/seed-1")
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("algorithm: {}")
    Path("out/config.yaml").write_text(config)
    for command in (["film", "out"], ["evaluate", "tasks/point_robot", "agents=[out]"]):
        assert main(command) == 2
        assert f"out: {sentence}" in capsys.readouterr().err
    assert main(["inspect", "out"]) == 2
    assert "out: is the --out of a command, not logs" in capsys.readouterr().err


def test_an_environment_that_does_not_draw_itself_is_not_filmed(tmp_path, capsys):
    users.register()
    arguments = ["task={family: gym, options: {id: users/Point-v0}}", "algorithm.hidden=4", "env_steps=40"]
    arguments += ["algorithm.random_decisions=39", "evaluation.episodes=1"]
    assert main(["finetune", "downstream/maze_sac", *arguments, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert main(["film", str(tmp_path / "run")]) == 2
    assert "to be filmed it has to take render_mode='rgb_array'" in capsys.readouterr().err


def test_one_split_is_described_alone_and_a_wrong_one_refused(capsys):
    assert main(["tasks", "point_robot", "--split", "test"]) == 0
    printed = capsys.readouterr().out
    assert "\ntest: " in printed and "\ntrain: " not in printed and "\nany: " not in printed
    for wrong, sentence in (
        (["--split", "tset"], "there is no split 'tset'; choose one of train, validation, test"),
        (["--draw", "0"], "--draw is 0; it must be at least 1"),
    ):
        assert main(["tasks", "point_robot", *wrong]) == 2
        assert sentence in capsys.readouterr().err


def test_a_film_is_a_webp(tmp_path, capsys):
    assert main(["film", str(tmp_path), "--out", "film.txt"]) == 2
    assert "--out is film.txt; a film is a .webp" in capsys.readouterr().err
