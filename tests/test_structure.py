"""Laws of the house that no type checker knows."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
# From the ground up: a room may import from the rooms before it, and from these modules of skillmeta itself.
ROOMS = [
    "run",
    "nn",
    "data",
    "objectives",
    "tasks",
    "experts",
    "skills",
    "envs",
    "collect",
    "algorithms",
    "evaluation",
    "reports",
    "programs",
]
EXCEPTIONS = {("tasks", "experts")}  # a family makes its expert when it is asked for one
BELOW_ROOMS = ["types", "config", "errors", "limits", "reading", "seeds", "trust"]  # files, or packages
NEVER = {
    "algorithms": ["tasks", "experts", "skills", "envs"],
    "data": ["nn"],
    "tasks": ["run", "nn", "data", "objectives"],
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_no_algorithm_imports_another():
    algorithms = [path for path in (ROOT / "skillmeta" / "algorithms").glob("*.py") if path.name != "__init__.py"]
    assert algorithms
    for path in algorithms:
        others = {f"skillmeta.algorithms.{other.stem}" for other in algorithms if other != path}
        assert not imports(path) & others


def test_this_check_can_fail(tmp_path):
    (tmp_path / "a.py").write_text("from skillmeta.algorithms import sac")
    assert "skillmeta.algorithms.sac" in imports(tmp_path / "a.py")


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_know_only_the_rooms_below(room):
    above = [other for other in ROOMS[ROOMS.index(room) + 1 :] if (room, other) not in EXCEPTIONS]
    never = [*above, *NEVER.get(room, [])]
    files = list((ROOT / "skillmeta" / room).glob("*.py"))
    assert files
    for path in files:
        for module in imports(path):
            assert not any(f"{module}.".startswith(f"skillmeta.{other}.") for other in never), (
                f"{path} imports {module}"
            )


def test_the_ground_knows_no_room():
    ground = [path for name in BELOW_ROOMS for path in (ROOT / "skillmeta").glob(f"{name}/*.py")]
    ground += [path for name in BELOW_ROOMS for path in (ROOT / "skillmeta").glob(f"{name}.py")]
    assert len(ground) >= len(BELOW_ROOMS)
    for path in ground:
        for module in imports(path):
            assert not any(f"{module}.".startswith(f"skillmeta.{room}.") for room in ROOMS), f"{path} imports {module}"


def test_configs_know_nothing_but_errors_and_limits():
    for path in (ROOT / "skillmeta" / "config").glob("*.py"):
        ours = {module for module in imports(path) if module.startswith("skillmeta.")}
        assert all(
            module.startswith(("skillmeta.config.", "skillmeta.errors", "skillmeta.limits")) for module in ours
        ), path


def test_nothing_names_a_machine_or_a_registry():
    words = ("/" + "work/", "py" + "pi.org", "python" + "hosted", "." + "pyenv")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    files = [ROOT / name for name in listed] or [p for p in ROOT.rglob("*.py") if ".venv" not in p.parts]
    for path in files:
        if path.suffix in (".png", ".npz") or not path.exists():
            continue
        text = path.read_text(errors="ignore")
        assert not [word for word in words if word in text], path


LINTERS = [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]]


@pytest.mark.parametrize("command", LINTERS, ids=" ".join)
def test_lint_format_and_types(command):
    if importlib.util.find_spec(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed: pip install -e '.[dev]'")
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def test_the_hooks_before_a_commit_are_the_same_and_local():
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]
    assert [hook["entry"].split() for hook in repos[0]["hooks"]] == [["python", "-m", *command] for command in LINTERS]
