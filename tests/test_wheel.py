"""What a wheel holds, and that the command works from one: `pretrain` and `downstream` are top-level names in a checkout alone."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from skillmeta.cli import PROGRAMS, find_program

builders = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed: pip install -e '.[dev]'")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    [made] = builders.WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return Path(made)


def test_a_wheel_claims_one_name_and_holds_every_program_and_config(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    claimed = {name.partition("/")[0] for name in names}
    assert claimed == {"skillmeta", next(name for name in claimed if name.endswith(".dist-info"))}
    for module, *_ in PROGRAMS.values():
        path = module.removeprefix("skillmeta.").replace(".", "/")
        assert f"skillmeta/{path}.py" in names
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    configs = [f"skillmeta/{name}" for name in listed if name.startswith("configs/")]
    assert configs and not set(configs) - names
    assert not [name for name in names if name.endswith(".pyc") or "test" in name or "results" in name]


def test_commands_run_from_an_installed_wheel(wheel, tmp_path):
    """Its own modules, not those of the checkout, which this interpreter may know as well."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = f"""
from skillmeta.cli import PROGRAMS, find_program, main
for name in PROGRAMS:
    found = find_program(name)
    assert found.__name__.startswith("skillmeta.") and found.__file__.startswith({str(tmp_path)!r}), found
assert main(["--help"]) == 0 and main(["config", "list"]) == 0
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: skillmeta COMMAND" in done.stdout and "downstream/maze_spirl" in done.stdout


def test_programs_are_modules_of_a_checkout():
    """`python -m downstream.NAME`, with the imports that they have of each other."""
    for name, (module, *_) in PROGRAMS.items():
        assert find_program(name).__name__ == module
    done = subprocess.run(
        [sys.executable, "-m", "downstream.demo", "--nonsense"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "unrecognized arguments: --nonsense" in done.stderr
