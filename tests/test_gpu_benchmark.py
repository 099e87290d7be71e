"""`benchmarks/gpu.py`, which waits for an accelerator, on the CPU against itself."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import gpu
from skillmeta.run.device import CPU


def test_a_difference_is_seen(tmp_path):
    row = gpu.compared("meta-train", "reptile", CPU, tmp_path)
    assert 0 < row.pop("rounding") < 0.1
    assert row == {"learner": "reptile", "difference": 0.0, "repeats": True, "graph_is_eager": True}
    assert gpu.agrees({"difference": 0.9, "rounding": 0.0}) and gpu.agrees({"difference": 20.0, "rounding": 10.0})
    assert not gpu.agrees({"difference": 1.1, "rounding": 0.1}) and not gpu.agrees(
        {"difference": float("nan"), "rounding": 0.1}
    )
    state = {"a": {"b": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)}, "loss": 1.0, "text": "x"}
    assert gpu.difference(state, state) == 0
    assert gpu.difference({**state, "loss": 1.0005}, state) < 1 < gpu.difference({**state, "loss": 1.002}, state)
    assert gpu.difference({**state, "a": {"b": torch.tensor([1.0, 2.1]), "n": torch.tensor(3)}}, state) > 1
    assert gpu.difference({**state, "a": {"b": torch.tensor([1.0, 2.0]), "n": torch.tensor(4)}}, state) > 1


@pytest.mark.slow
def test_all_of_it_runs(tmp_path):
    assert gpu.main(["--device", "cpu", "--repeats", "1", "--json", str(tmp_path / "gpu.json")]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert len(found["equal"]) == len(gpu.CASES) and all(row["difference"] == 0 for row in found["equal"])
    assert len(found["times"]) == len(gpu.SIZES) + 6 and len(found["seeds"]) == 8
