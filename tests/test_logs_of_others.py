"""The example that writes recordings in other projects' layouts: each goes from the file to a policy by the printed commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from skillmeta.cli import main

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_each_layout_is_inspected_pretrained_on_and_acted_with(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pyarrow", reason="LeRobot's folders are parquet files: pip install -e '.[lerobot]'")
    monkeypatch.chdir(ROOT)
    script = [sys.executable, "examples/write_logs.py", str(tmp_path / "logs")]
    printed = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "logs" / "minari"))
    commands = re.findall(r"^skillmeta (.*)$", printed, re.M)
    assert len(commands) == 12
    shares = []
    for line in commands:
        words = [word.strip('"').replace("runs/", f"{tmp_path}/runs/") for word in line.split()]
        short = {"skills": ["training.steps=100", "training.held_out_every=50"], "finetune": ["env_steps=400"]}
        assert main([*words, *short.get(words[0], [])]) == 0
        shares += re.findall(r"explain (\d+)% of the variance", capsys.readouterr().out)
    assert len(shares) == 4 and max(map(int, shares)) - min(map(int, shares)) <= 2
