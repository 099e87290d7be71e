"""A checkpoint that a version wrote once is loaded and continued by every version of the same run format."""

from __future__ import annotations

import shutil

import pytest

from skillmeta.programs.train import train
from skillmeta.run.checkpoint import load_state
from skillmeta.run.identity import RUN_FORMAT
from skillmeta.run.run import read_metrics
from tests.run.golden import FOLDER, configs

PRESENT = FOLDER / f"format-{RUN_FORMAT}"


def test_the_present_run_format_has_small_golden_checkpoints():
    files = [path for path in PRESENT.rglob("*") if path.is_file()]
    assert {path.name for path in PRESENT.iterdir()} == set(configs())
    assert 0 < sum(path.stat().st_size for path in files) < 50_000


@pytest.mark.parametrize("name", configs())
def test_a_golden_checkpoint_is_loaded_and_continued(name, tmp_path):
    shutil.copytree(PRESENT / name, tmp_path / "run")
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    state, meta = load_state(checkpoint)
    before = read_metrics(tmp_path / "run")
    assert meta["run_format"] == RUN_FORMAT and len(before) == 2
    result = train(configs()[name], tmp_path / "run", quiet=True, page=False)
    rows = read_metrics(tmp_path / "run")
    assert result is not None and rows[:2] == before and len(rows) > 2
    assert rows[2]["env_steps"] > before[1]["env_steps"] == meta["step"]
    assert rows[2]["updates"] > before[1]["updates"]
    assert result["seconds"] >= state["clock"]["seconds"] > 0
