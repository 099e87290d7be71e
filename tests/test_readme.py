"""What the README and the docs say is there is there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from gymnasium.utils.env_checker import check_env

from skillmeta.cli import PROGRAMS, main
from skillmeta.config import find_config, list_configs
from skillmeta.run.run import read_metrics
from skillmeta.tasks.base import TaskConfig, make_family

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
OUTSIDE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md")]
PAGES = [path for path in [*OUTSIDE, *sorted((ROOT / "docs").rglob("*.md"))] if path.name != "commands.md"]
TASKS = (ROOT / "docs" / "tasks.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_configs_and_links_of_a_page_exist(page):
    text = page.read_text()
    for command, rest in re.findall(r"^skillmeta ([\w-]+)(.*)$", text, re.M):
        assert command in PROGRAMS
        words = rest.split("#")[0].split()
        if command in ("collect", "skills", "finetune", "ablate", "evaluate", "meta-train") and words[0].islower():
            assert (ROOT / words[0]).exists() or find_config(words[0])
        if command == "tasks" and words:
            find_config(f"tasks/{words[0]}")
    for name in re.findall(r"`((?:downstream|pretrain|ablations)/\w+)`", text):
        find_config(name)
    for path in re.findall(r"\]\(([\w/.-]+)\)", text):
        assert (page.parent / path).exists(), path


def test_every_preset_of_tasks_is_in_the_table():
    table = TASKS.partition("| family | presets")[2].partition("\n\n")[0]
    presets = set(re.findall(r"`(\w+)`", "".join(row.split("|")[2] for row in table.splitlines()[2:])))
    assert presets == {name.removeprefix("tasks/") for name in list_configs() if name.startswith("tasks/")}


def test_pictures_and_pages_of_the_results_exist():
    for path in re.findall(r"\]\(([\w/.-]+)\)", (ROOT / "results" / "README.md").read_text()):
        assert (ROOT / "results" / path).exists(), path


def test_the_checks_run_the_readmes_own_line():
    script = (ROOT / ".ci" / "run").read_text()
    assert "<!-- check -->" in script
    line = next(line for line in README.partition("<!-- check -->")[2].splitlines() if line.startswith("python3 "))
    assert "constraints.txt" in line and line.endswith("pytest -q -n 2")
    syntax = subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], capture_output=True, text=True)
    assert syntax.returncode == 0, syntax.stderr


def test_the_constraints_pin_every_dependency_and_name_no_host():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert pins["torch"] == "2.13.0" and pins["mujoco"] == "3.3.0" and len(pins) > 50
    assert "//" not in (ROOT / "constraints.txt").read_text()


def test_the_new_family_of_the_docs_works_as_it_stands(tmp_path, monkeypatch, capsys):
    """The page's own lines, saved where it says: listed, checked, evaluated between its reference agents, and short."""
    code = TASKS.partition("<!-- family -->\n```python\n")[2].partition("```")[0]
    assert 30 < len(code.strip().splitlines()) < 60
    (tmp_path / "my_tasks").mkdir()
    (tmp_path / "my_tasks" / "__init__.py").write_text("")
    (tmp_path / "my_tasks" / "thermostat.py").write_text(code)
    (tmp_path / "thermostat.yaml").write_text("family: my_tasks.thermostat\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["tasks", "thermostat.yaml"]) == 0
    assert "train: 20 tasks" in capsys.readouterr().out
    assert main(["evaluate", "thermostat.yaml", "--out", "out", "repeats=2", "tasks=3"]) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(make_family(TaskConfig("my_tasks.thermostat")).make_env(), skip_render_check=True)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    last = {name: row["returns"][-1]["value"] for name, row in summary["results"].items()}
    assert last["oracle"] > last["random"] + 20


def test_the_new_algorithm_of_the_docs_works_as_it_stands(tmp_path, monkeypatch):
    """It learns, the same seed gives the same bits, and an ablation compares it."""
    page = (ROOT / "docs" / "methods.md").read_text()
    for marker, language, name in (
        ("algorithm", "python", "my_reinforce.py"),
        ("algorithm config", "yaml", "mine.yaml"),
        ("algorithm ablation", "yaml", "mine_or_sac.yaml"),
    ):
        text = page.partition(f"<!-- {marker} -->\n```{language}\n")[2].partition("```")[0]
        assert 3 < len(text.splitlines()) < 90
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("skillmeta.config.modules._folders", [])
    torch.set_num_threads(1)
    for out in ("one", "two"):
        assert main(["finetune", "mine.yaml", "--out", out, "env_steps=16_000"]) == 0
    first, second = ([row for row in read_metrics(Path(out)) if row["kind"] == "iteration"] for out in ("one", "two"))
    assert first == second
    assert first[-1]["return"] > first[0]["return"] + 5
    small = ["changes.env_steps=1_000", "changes.evaluation.episodes=2", "seeds=[0]"]
    assert main(["ablate", "mine_or_sac.yaml", "--out", "both", *small]) == 0
    assert set(json.loads(Path("both/summary.json").read_text())["methods"]) == {"mine", "sac"}
    sys.modules.pop("my_reinforce", None)
