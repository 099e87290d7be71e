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
from skillmeta.evaluation.curves import Curve, curve
from skillmeta.evaluation.records import read_study
from skillmeta.evaluation.statistics import Scores, estimate
from skillmeta.programs.page import write_page
from skillmeta.reports import html, plots
from tests.reports.fakes import ENVIRONMENT, fake_run

METHODS = {"sac": 0.0, "a.b-c_0": 0.4, "spirl": 0.9}
TASKS, SEEDS = [0, 2], [0, 1, 2]


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
    (out / "environment.json").write_text(json.dumps(ENVIRONMENT))
    return out


def written(*folders: Path, out: Path | None = None) -> str:
    """The page's text."""
    page = write_page(folders, out)
    assert page is not None
    return page.read_text()


def test_the_summary_has_the_runs_numbers(ablation):
    write_page([ablation])
    summary = json.loads((ablation / "summary.json").read_text())
    assert list(summary["methods"]) == list(METHODS)
    for name, level in METHODS.items():
        told = summary["methods"][name]
        expected = np.array([[level + 0.01 * seed] * len(TASKS) for seed in SEEDS])
        whole = estimate(Scores(expected, 20))
        assert told["success"] == pytest.approx(expected.mean()) and told["success_ci95"] == pytest.approx(whole.ci95)
        assert (told["env_steps"], told["training_seeds"], told["tasks"]) == (5000, SEEDS, 2)
    assert summary["commands"] == ["skillmeta ablate x"] and summary["unfinished_runs"] == []
    with open(ablation / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 18 and {row["training_seed"] for row in rows} == {"0", "1", "2"}
    assert "spirl 0.91" in summary["headline"][0] and "actions sampled" in summary["headline"][0]


def test_the_page_stands_alone_and_escapes_names(ablation, drawn):
    text = written(ablation)
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
    first = written(ablation)
    assert written(ablation) == first


def test_methods_are_compared_with_the_reference_by_the_interval_of_their_difference(ablation):
    text = written(ablation)
    summary = json.loads((ablation / "summary.json").read_text())
    assert summary["reference"] == "spirl" and list(summary["differences"]["success"]) == ["sac", "a.b-c_0"]
    found = summary["differences"]["success"]["sac"]
    assert found["value"] == pytest.approx(0.9) and found["ci95"][0] > 0
    assert "spirl minus each other method" in text
    config = yaml.safe_load((ablation / "config.yaml").read_text())
    (ablation / "config.yaml").write_text(dump_yaml({**config, "reference": "sac"}))
    assert "sac minus each other method" in written(ablation)
    back = json.loads((ablation / "summary.json").read_text())["differences"]["success"]["spirl"]
    assert back["ci95"] == pytest.approx([-found["ci95"][1], -found["ci95"][0]])


def test_the_headline_says_which_methods_do_not_differ_from_the_reference(ablation):
    write_page([ablation])
    assert len(json.loads((ablation / "summary.json").read_text())["headline"]) == 1
    for seed in SEEDS:
        for task in TASKS:
            fake_run(ablation / "methods" / "a.b-c_0" / f"task-{task}" / f"seed-{seed}", 0.85 + 0.03 * seed, task, seed)
    write_page([ablation])
    said = json.loads((ablation / "summary.json").read_text())["headline"][1]
    assert said.startswith("No difference from spirl is shown for a.b-c_0: the interval") and "sac" not in said


def test_one_training_seed_has_no_interval_anywhere(ablation):
    for seed in (1, 2):
        for folder in ablation.glob(f"methods/*/*/seed-{seed}"):
            (folder / "result.json").unlink()
    text = written(ablation)
    summary = json.loads((ablation / "summary.json").read_text())
    assert all(told["success_ci95"] is None and told["return_ci95"] is None for told in summary["methods"].values())
    assert summary["differences"]["success"]["sac"] == {"value": pytest.approx(0.9), "ci95": None}
    assert "no interval: one training seed or one task" in text and "one training seed only" in text
    rows = list(csv.DictReader((ablation / "curves.csv").open()))
    assert all(row["low"] == row["high"] == "" and row["mean"] for row in rows)


def test_what_is_unfinished_is_said_and_left_out(ablation):
    (ablation / "methods" / "spirl" / "task-0" / "seed-1" / "result.json").unlink()
    text = written(ablation)
    assert "Unfinished: 1 of 18 runs" in text
    summary = json.loads((ablation / "summary.json").read_text())
    assert summary["methods"]["spirl"]["training_seeds"] == [0, 2] and summary["unfinished_runs"] == [
        "spirl task 0 seed 1"
    ]
    shutil.rmtree(ablation / "methods")
    with pytest.raises(UserError, match="no method has finished"):
        write_page([ablation])


def test_a_training_curve_is_a_running_mean_on_a_common_axis(ablation):
    read = read_study(ablation)
    found = curve(read, "spirl", "success", "env_steps", window=4)
    run = read.methods["spirl"][1][0]
    assert found is not None
    for g, x in enumerate(found.x):
        seen = [row["success"] for row in run.rows if row["env_steps"] <= x] or [run.rows[0]["success"]]
        assert found.values[g, 1, 0] == pytest.approx(np.mean(seen[-4:]))
    assert found.x[-1] == max(run.rows[-1]["env_steps"] for run in read.runs("spirl"))
    by_episodes = curve(read, "spirl", "success", "episodes")
    assert by_episodes is not None and by_episodes.x[-1] == 30


def test_the_page_opens_in_a_browser(ablation, tmp_path, drawn):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    write_page([ablation])
    quiet = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    more = "--disable-component-update --disable-sync --virtual-time-budget=3000 --dump-dom"
    command = [chromium, "--headless", *quiet.split(), *more.split(), f"--user-data-dir={tmp_path / 'profile'}"]
    url = (ablation / "report.html").as_uri()
    done = subprocess.run([*command, url], capture_output=True, text=True, timeout=120)
    assert "<title>A &lt; B</title>" in done.stdout
    assert "<td>spirl</td>" in done.stdout and done.stdout.count("</svg>") >= 8
    assert "CONSOLE" not in done.stderr


def test_a_page_has_only_what_it_is_given():
    text = html.html(
        "T", ["lead"], [html.Section("S", ["one"], html.Table(["a"], [["<1>"]]), code="x < y")], ["careful"]
    )
    assert "<td>&lt;1&gt;</td>" in text and "x &lt; y" in text and '<p class="warning">careful</p>' in text


def test_figures_of_one_point_and_one_seed_are_drawn(drawn):
    one = Curve(np.array([5]), np.array([[[0.5]]]))
    first, second = (plots.to_svg(plots.curves_figure({"a": one}, {"a": "#000000"}, "x", "y"), "f") for _ in range(2))
    assert first.startswith("<svg") and len(first) > 1000 and first == second
    lines = plots.curves_figure({"a": one}, {"a": "#000000"}, "x", "y").axes[0].lines
    assert [line.get_marker() for line in lines] == ["o"]  # a line of one point is not seen


def test_more_curves_than_colours_get_a_panel_each_with_the_reference_beside(drawn):
    curve = Curve(np.array([5, 10]), np.random.default_rng(0).random((2, 1, 2)))
    names = ["a", "b", "the reference", *"cdefgh"]
    made = plots.curves_figure(
        {n: curve for n in names}, plots.palette(names, "the reference"), "steps", "success", (0, 1)
    )
    assert [axes.get_title() for axes in made.axes[:9]] == names
    assert [len(axes.lines) for axes in made.axes[:9]] == [2, 2, 1, *[2] * 6]
    assert [axes.get_visible() for axes in made.axes] == [True] * 9 + [False] * 3
    assert "grey: the reference" in plots.to_svg(made, "f")


def test_a_page_can_be_written_while_the_reference_has_no_complete_seed(ablation):
    """The reference is often the last method of a seed when Ctrl-C comes."""
    for result in ablation.glob("methods/spirl/*/*/result.json"):
        result.unlink()
    write_page([ablation])
    assert json.loads((ablation / "summary.json").read_text())["differences"]["success"] == {}
