"""What the README says is there is there."""

from __future__ import annotations

import json
import re
import subprocess
import warnings
from pathlib import Path

from gymnasium.utils.env_checker import check_env

from skillmeta.cli import PROGRAMS, main
from skillmeta.config import find_config, list_configs
from skillmeta.tasks.base import TaskConfig, make_family

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_its_commands_and_configs_exist():
    for command, rest in re.findall(r"^skillmeta ([\w-]+)(.*)$", README, re.M):
        assert command in PROGRAMS
        words = rest.split("#")[0].split()
        if command in ("collect", "skills", "finetune", "ablate", "evaluate", "meta-train"):
            find_config(words[0])
        if command == "tasks" and words:
            find_config(f"tasks/{words[0]}")
    table = README.partition("| family | presets")[2].partition("\n\n")[0]
    presets = set(re.findall(r"`(\w+)`", "".join(row.split("|")[2] for row in table.splitlines()[2:])))
    assert presets == {name.removeprefix("tasks/") for name in list_configs() if name.startswith("tasks/")}
    for name in re.findall(r"`((?:downstream|pretrain|ablations)/\w+)`", README):
        find_config(name)


def test_its_pictures_and_pages_exist():
    for path in re.findall(r"\]\(([\w/.-]+)\)", README):
        assert (ROOT / path).exists(), path
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


def test_its_new_family_works_as_it_stands(tmp_path, monkeypatch, capsys):
    """The README's own lines, saved where it says: listed, checked, judged between its brackets, and short."""
    code = README.partition("<!-- family -->\n```python\n")[2].partition("```")[0]
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
