"""The examples do what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
@pytest.mark.timeout(1800)
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
