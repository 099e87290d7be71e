"""What the README says is there is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from skillmeta.cli import PROGRAMS
from skillmeta.config import find_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_its_commands_and_configs_exist():
    for command, rest in re.findall(r"^skillmeta (\w+)(.*)$", README, re.M):
        assert command in PROGRAMS
        words = rest.split("#")[0].split()
        if command in ("collect", "skills", "finetune", "ablate"):
            find_config(words[0])
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
