"""From run folders to a page: the numbers are those of the runs, the page stands alone, an unfinished part is said."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from skillmeta.config import dump_yaml
from skillmeta.errors import UserError
from skillmeta.evaluation.curves import Curve, read_ablation, training_curve
from skillmeta.evaluation.statistics import Scores, estimate
from skillmeta.reports import page, plots
from skillmeta.reports.ablation_page import headline, write_ablation_report

METHODS = {"sac": 0.0, "a.b-c_0": 0.4, "spirl": 0.9}
TASKS, SEEDS = [0, 2], [0, 1, 2]


def fake_run(folder: Path, level: float, task: int, seed: int) -> None:
    """A run that learned steadily to `level`."""
    rng = np.random.default_rng([task, seed, int(100 * level)])
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        dump_yaml({"task": {"family": "maze", "index": task}, "env_steps": 5000, "max_episodes": None, "seed": seed})
    )
    rows, steps = [], 0
    for number in range(1, 31):
        steps += int(rng.integers(100, 200))
        success = int(rng.random() < level * number / 30)
        bill = {"env_steps": steps, "episodes": number, "decisions": steps // 10}
        rows.append({"kind": "episode", **bill, "return": float(success), "success": success, "length": 150})
        rows.append(
            {"kind": "update", **bill, "prior/divergence": 1.0 + level, "prior/coefficient": 0.1, "critic/loss": 0.2}
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = {"success": round(level + 0.01 * seed, 3), "return": level, "mode_success": level, "mode_return": level}
    counts = {"env_steps": 5000, "episodes": 30, "decisions": 500, "updates": 480, "seconds": 3.2, "num_episodes": 20}
    (folder / "result.json").write_text(json.dumps({**scores, **counts}))
    path = np.cumsum(rng.normal(size=(50, 2)), 0).astype(np.float32)
    np.savez(folder / "trajectories.npz", early_0=path, final_0=path + 1)


@pytest.fixture
def ablation(tmp_path) -> Path:
    out = tmp_path / "out"
    for method, level in METHODS.items():
        for task in TASKS:
            for seed in SEEDS:
                fake_run(out / "methods" / method / f"task-{task}" / f"seed-{seed}", level, task, seed)
    names = dict.fromkeys(METHODS, "x")
    (out / "config.yaml").write_text(
        dump_yaml({"title": "A < B", "claim": "So & so.", "methods": names, "tasks": TASKS, "seeds": SEEDS})
    )
    environment = {"command": "skillmeta ablate x", "python": "3", "versions": {"torch": "2"}, "threads": "1"}
    machine = {"cpu": "some", "cores": 2, "system": "linux"}
    (out / "environment.json").write_text(json.dumps({**environment, "machine": machine}))
    return out


def test_the_summary_has_the_runs_numbers(ablation):
    write_ablation_report(ablation)
    summary = json.loads((ablation / "summary.json").read_text())
    assert list(summary["methods"]) == list(METHODS)
    for name, level in METHODS.items():
        told = summary["methods"][name]
        expected = np.array([[level + 0.01 * seed] * len(TASKS) for seed in SEEDS])
        whole = estimate(Scores(expected, 20))
        assert told["success"] == pytest.approx(expected.mean()) and told["success_ci95"] == pytest.approx(whole.ci95)
        assert (told["env_steps"], told["training_seeds"], told["tasks"]) == (5000, SEEDS, 2)
    assert summary["command"] == "skillmeta ablate x" and summary["unfinished_runs"] == []
    with open(ablation / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 18 and {row["training_seed"] for row in rows} == {"0", "1", "2"}
    assert "spirl 0.91" in headline(ablation)


def test_the_page_stands_alone_and_escapes_names(ablation, drawn):
    text = write_ablation_report(ablation).read_text()
    assert "<script" not in text and "src=" not in text and "@import" not in text
    assert not [part for part in text.split("href=")[1:] if not part.startswith(('"#', '"data:image/png'))]
    assert "http" not in text.replace("http-equiv", "")
    assert "A &lt; B" in text and "So &amp; so." in text and "a.b-c_0" in text
    assert text.count("<svg") >= 8 and "skillmeta ablate x" in text
    ids = [part.split('"')[0] for part in text.split(' id="')[1:]]
    assert len(ids) == len(set(ids))
    for name in ("scores", "success_env_steps", "return_episodes", "prior-divergence", "paths_early", "paths_final"):
        data = (ablation / "pictures" / f"{name}.png").read_bytes()
        assert data.startswith(b"\x89PNG") and len(data) > 5000


def test_the_same_runs_give_the_same_bytes(ablation):
    first = write_ablation_report(ablation).read_bytes()
    assert write_ablation_report(ablation).read_bytes() == first


def test_methods_are_compared_with_the_reference_by_the_interval_of_their_difference(ablation):
    text = write_ablation_report(ablation).read_text()
    summary = json.loads((ablation / "summary.json").read_text())
    assert summary["reference"] == "spirl" and list(summary["differences"]["success"]) == ["sac", "a.b-c_0"]
    found = summary["differences"]["success"]["sac"]
    assert found["value"] == pytest.approx(0.9) and found["ci95"][0] > 0
    assert "spirl minus each other method" in text
    config = yaml.safe_load((ablation / "config.yaml").read_text())
    (ablation / "config.yaml").write_text(dump_yaml({**config, "reference": "sac"}))
    assert "sac minus each other method" in write_ablation_report(ablation).read_text()
    back = json.loads((ablation / "summary.json").read_text())["differences"]["success"]["spirl"]
    assert back["ci95"] == pytest.approx([-found["ci95"][1], -found["ci95"][0]])


def test_one_training_seed_has_no_interval_anywhere(ablation):
    for seed in (1, 2):
        for folder in ablation.glob(f"methods/*/*/seed-{seed}"):
            (folder / "result.json").unlink()
    text = write_ablation_report(ablation).read_text()
    summary = json.loads((ablation / "summary.json").read_text())
    assert all(told["success_ci95"] is None and told["return_ci95"] is None for told in summary["methods"].values())
    assert summary["differences"]["success"]["sac"] == {"value": pytest.approx(0.9), "ci95": None}
    assert "one training seed: nothing can be said" in text and "has one training seed only" in text
    rows = list(csv.DictReader((ablation / "curves.csv").open()))
    assert all(row["low"] == row["high"] == "" and row["mean"] for row in rows)


def test_what_is_unfinished_is_said_and_left_out(ablation):
    (ablation / "methods" / "spirl" / "task-0" / "seed-1" / "result.json").unlink()
    text = write_ablation_report(ablation).read_text()
    assert "Unfinished: 1 of 18 runs" in text
    summary = json.loads((ablation / "summary.json").read_text())
    assert summary["methods"]["spirl"]["training_seeds"] == [0, 2] and summary["unfinished_runs"] == [
        "spirl task 0 seed 1"
    ]
    shutil.rmtree(ablation / "methods")
    with pytest.raises(UserError, match="no method has finished"):
        write_ablation_report(ablation)


def test_a_training_curve_is_a_running_mean_on_a_common_axis(ablation):
    read = read_ablation(ablation)
    curve = training_curve(read, "spirl", "success", "env_steps", window=4)
    run = read.of("spirl")[1][0]
    for g, x in enumerate(curve.x):
        seen = [row["success"] for row in run.episodes if row["env_steps"] <= x] or [run.episodes[0]["success"]]
        assert curve.values[g, 1, 0] == pytest.approx(np.mean(seen[-4:]))
    assert curve.x[-1] == max(run.episodes[-1]["env_steps"] for row in read.of("spirl") for run in row)
    assert training_curve(read, "spirl", "success", "episodes").x[-1] == 30


def test_the_page_opens_in_a_browser(ablation, tmp_path, drawn):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    write_ablation_report(ablation)
    quiet = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    more = "--disable-component-update --disable-sync --virtual-time-budget=3000 --dump-dom"
    command = [chromium, "--headless", *quiet.split(), *more.split(), f"--user-data-dir={tmp_path / 'profile'}"]
    url = (ablation / "report.html").as_uri()
    done = subprocess.run([*command, url], capture_output=True, text=True, timeout=120)
    assert "<title>A &lt; B</title>" in done.stdout
    assert "<td>spirl</td>" in done.stdout and done.stdout.count("</svg>") >= 8
    assert "CONSOLE" not in done.stderr


def test_a_page_has_only_what_it_is_given():
    text = page.html(
        "T", ["lead"], [page.Section("S", ["one"], page.Table(["a"], [["<1>"]]), code="x < y")], ["careful"]
    )
    assert "<td>&lt;1&gt;</td>" in text and "x &lt; y" in text and '<p class="warning">careful</p>' in text


def test_figures_of_one_point_and_one_seed_are_drawn(drawn):
    one = Curve(np.array([5]), np.array([[[0.5]]]))
    first, second = (plots.to_svg(plots.curves_figure({"a": one}, {"a": "#000000"}, "x", "y"), "f") for _ in range(2))
    assert first.startswith("<svg") and len(first) > 1000 and first == second


def test_a_page_can_be_written_while_the_reference_has_no_complete_seed(ablation):
    """The reference is often the last method of a seed when Ctrl-C comes."""
    for result in ablation.glob("methods/spirl/*/*/result.json"):
        result.unlink()
    write_ablation_report(ablation)
    assert json.loads((ablation / "summary.json").read_text())["differences"]["success"] == {}
