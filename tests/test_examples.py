"""The examples do what they say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PATHS = {"PYTHONPATH": str(EXAMPLES.parent)}
AGENTS = ("pearl", "rl2", "maml", "oracle")
pytestmark = pytest.mark.timeout(1800)


@pytest.mark.slow
def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path):
    for name in ("nbclient", "ipykernel", "nbformat"):
        pytest.importorskip(name, reason="pip install nbclient ipykernel")
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(EXAMPLES / "first_skills.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # kept without what it printed
    done = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [
        output for cell in done.cells for output in cell.get("outputs", []) if output.output_type == "execute_result"
    ]
    assert sum("image/png" in output.data for output in shown) == 2  # the two plots
    assert (tmp_path / "runs" / "first-skills" / "run" / "report.html").exists()


def run(name: str, folder: Path, *arguments: str) -> str:
    """An example as its docstring says, in a folder of its own, on the small budget. Returns what it printed."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=folder, env=os.environ | PATHS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_prior_that_helps(tmp_path):
    printed = run("prior_helps.py", tmp_path, "--out", "out", "--small")
    assert "with_prior minus without_prior: " in printed
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert set(summary["methods"]) == {"with_prior", "without_prior"} and not summary["unfinished_runs"]
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.slow
def test_meta_learners_on_a_family_of_ones_own(tmp_path):
    printed = run("meta_rl_on_your_family.py", tmp_path, "--out", "out", "--small")
    rows = re.findall(
        rf"^({'|'.join(AGENTS)})((?: +-\d+\.\d+){{3}})$", printed, re.M
    )  # an agent, and its return in three episodes
    last = {name: float(returns.split()[-1]) for name, returns in rows}
    assert set(last) == set(AGENTS) and max(last, key=last.get) == "oracle"
    assert (tmp_path / "out" / "adaptation.png").stat().st_size > 1_000


@pytest.mark.slow
def test_an_ablation_read_with_pandas(tmp_path):
    printed = run("read_ablation.py", tmp_path, "--out", "out", "--small")
    assert "mean" in printed and printed.count("initial_coefficient-") == 6  # of three methods, in two tables
    assert (tmp_path / "out" / "returns.png").stat().st_size > 1_000


@pytest.mark.slow
def test_skills_inside_stable_baselines3(tmp_path):
    printed = run("skills_in_sb3.py", tmp_path, "--out", "out", "--small")
    assert "skills: return -" in printed and "actions: return -" in printed
    assert all((tmp_path / "out" / f"{name}.zip").exists() for name in ("skills", "actions"))


def test_every_example_is_in_the_table():
    """A row an example, and a command in the docstring of each script."""
    table = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        if path.suffix in (".py", ".ipynb", ".yaml"):
            assert f"]({path.name})" in table, path.name
