"""Sections show the numbers that they are given, and only what fits the data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skillmeta.config import dump_yaml
from skillmeta.evaluation.adaptation import Adaptation, BenchmarkTable, Evaluation
from skillmeta.evaluation.curves import Curve
from skillmeta.evaluation.records import read_model, side_by_side
from skillmeta.reports import adaptation, plots, sections, skills
from skillmeta.reports.content import Content, at_the_end, finals, stated, summarize
from skillmeta.reports.description import description
from skillmeta.reports.html import Section
from skillmeta.reports.page import sections_of
from skillmeta.tasks.base import TaskConfig, make_family
from tests.reports.fakes import fake_meta_run, fake_model, fake_run, write_run

COLOURS = {name: "#000000" for name in ("meta", "single", "a", "b")}


@pytest.fixture
def study(tmp_path):
    """A method of meta-training and one on a single task."""
    for seed in (0, 1):
        fake_meta_run(tmp_path / f"meta-{seed}", 1.0, seed)
        fake_run(tmp_path / f"single-{seed}", 0.5, 0, seed)
    return side_by_side([tmp_path / f"{name}-{seed}" for name in ("meta", "single") for seed in (0, 1)])


def cells(section: Section | None, name: str) -> dict[str, str]:
    """A row of a section's table, by its head."""
    assert section is not None and section.table is not None
    row = next(row for row in section.table.rows if row[0] == name)
    return dict(zip(section.table.head, row, strict=True))


def titles(made: list[Section | None]) -> list[str]:
    return [section.title for section in made if section is not None]


# -- training ----------------------------------------------------------------------------------------------------------------
def test_final_scores_and_the_end_of_training_are_of_the_methods_that_have_them(study, tmp_path):
    assert finals(study) == ["single"]
    final = sections.final_scores(study, COLOURS, tmp_path)
    assert final is not None and final.table is not None and [row[0] for row in final.table.rows] == ["single"]
    row = cells(final, "single")
    assert row["success, sampled [95 %]"].startswith("0.51") or row["success, sampled [95 %]"].startswith("0.50")
    assert row["success, mode"] == "0.50" and row["training seeds x tasks"] == "2 x 1" and row["env steps"] == "5,000"
    row = cells(sections.end_of_training(study), "meta")
    assert row["return of a trial's last episode"].startswith("10.5 [")  # the mean of 8 to 12, and of 9 to 13
    assert (row["training seeds"], row["env steps"], row["updates"], row["seconds"]) == ("2", "1,200", "12", "2")


def test_a_method_without_a_mode_has_none_in_its_row(tmp_path):
    fake_run(tmp_path / "single-0", 0.5, 0, 0)
    result = json.loads((tmp_path / "single-0" / "result.json").read_text())
    del result["mode_success"], result["mode_return"]
    (tmp_path / "single-0" / "result.json").write_text(json.dumps(result))
    study = side_by_side([tmp_path / "single-0"])
    row = cells(sections.final_scores(study, COLOURS, tmp_path), "single")
    assert (row["success, sampled [95 %]"], row["success, mode"], row["return, mode"]) == ("0.50", "", "")
    assert summarize(Content("T", study=study))["methods"]["single"]["success_mode_mean"] is None


def test_a_score_that_says_the_same_as_another_one_is_not_shown(study, tmp_path):
    assert list(stated(study)) == ["success", "return", "return_first", "return_last"]
    assert at_the_end(study, "meta", "return_last") is not None
    alone = side_by_side([tmp_path / "single-0"])
    assert list(stated(alone)) == ["success", "return"]  # single episodes: the first one is the last one
    fake_meta_run(tmp_path / "other", 0.0, 0)
    never = side_by_side([tmp_path / "other"])
    assert "success_last" not in stated(never)
    assert "No episode of any run reported success" in sections.learning(never, {"other": "#000000"}, tmp_path).text[1]


def test_learning_is_shown_along_episodes_where_rows_are_episodes(study, tmp_path):
    def shown(of) -> list[str]:
        names = {name: "#000000" for name in of.methods}
        return [picture.caption for picture in sections.learning(of, names, tmp_path).pictures]

    alone = side_by_side([tmp_path / "single-0"])
    assert sum("against episodes" in caption for caption in shown(alone)) == 2
    assert not any("against episodes" in caption for caption in shown(study))
    assert all("actions sampled" in caption for caption in shown(study))


def test_held_out_evaluations_say_how_actions_were_chosen(study, tmp_path):
    made = sections.held_out(study, COLOURS, tmp_path)
    assert made is not None and len(made.pictures) == 1  # nobody succeeded
    assert "Actions: meta mode." in made.pictures[0].caption
    assert sections.held_out(side_by_side([tmp_path / "single-0"]), COLOURS, tmp_path) is None


def test_metrics_of_learners_are_shown_for_those_that_log_them(study, tmp_path):
    made = sections.inside(study, COLOURS, tmp_path)
    assert made is not None
    assert [picture.caption.split(":")[0] for picture in made.pictures] == [
        "prior/coefficient", "prior/divergence", "critic/loss", "ppo/kl"
    ]  # fmt: skip


def test_a_summary_has_costs_and_ends_of_training_of_every_method(study):
    told = summarize(Content("T", study=study))["methods"]
    assert told["meta"]["training"]["return_last"]["value"] == 10.5 and "success" not in told["meta"]
    assert told["single"]["success"] == pytest.approx(0.505) and told["single"]["success_mode_mean"] == 0.5
    assert (told["meta"]["env_steps"], told["meta"]["env_steps_mean"], told["meta"]["seconds"]) == (5000, 1200, 2)
    assert told["meta"]["training_seeds"] == [0, 1] and told["single"]["episodes_mean"] == 30


# -- what a method is ----------------------------------------------------------------------------------------------------------
def described(folder: Path, **config) -> str:
    rows = [{"kind": "iteration", "env_steps": 1, "return": 0.0}]
    return description(side_by_side([write_run(folder, config, rows, None)]).every[0])


def test_a_method_is_described_by_its_algorithm_or_by_its_values(tmp_path):
    assert "SAC that acts in the environment's own actions" in described(tmp_path / "a", algorithm={"name": "sac"})
    seen = described(tmp_path / "b", algorithm={"name": "rl2", "episodes": 3}, see_task=True)
    assert seen.startswith("RL2 that acts in the environment's own actions") and seen.endswith("it sees the task")


def test_a_strangers_algorithm_is_described_by_its_values_and_not_imported(tmp_path, monkeypatch):
    monkeypatch.setattr("skillmeta.reports.description.module_of", lambda *arguments: pytest.fail("it was imported"))
    told = described(tmp_path, algorithm={"name": "theirs.algorithm", "width": 7}, skills="nowhere/model")
    assert told == "the algorithm theirs.algorithm, acting in the actions of the model model; width 7"


# -- evaluations ---------------------------------------------------------------------------------------------------------------
def evaluated(groups=("", "", ""), benchmark=None) -> Evaluation:
    """Agents a and b with two training seeds, three tasks, two episodes; a gets better by 10."""
    ones = np.ones((2, 1, 1, 3, 2))

    def made(returns: np.ndarray, sampled=(True, False), explored=(False, False)) -> Adaptation:
        return Adaptation(
            returns, 0 * returns, 0 * returns, 5 + 0 * returns, returns, np.array(explored), np.array(sampled)
        )

    better = ones * [0.0, 10.0] + np.arange(2)[:, None, None, None, None]
    results = {"a": made(better, explored=(True, False)), "b": made(ones * 2.0), "random": made(ones[:1] * 1.0)}
    results |= {"a, no adaptation": made(0 * ones)}
    seeds = {"a": (0, 1), "b": (0, 1), "random": (), "a, no adaptation": (0, 1)}
    references = {"a": {"random": "random", "no adaptation": "a, no adaptation"}, "b": {"random": "random"}}
    steps = {"a": (100, 300), "b": (50, 50)}
    return Evaluation("point", "test", ("x", "y", "z"), groups, results, seeds, references, steps, False, (), benchmark)


def test_an_adaptation_curve_has_every_result_and_says_who_explores(tmp_path):
    told = evaluated()
    made = adaptation.episode_by_episode(told, adaptation.colours_of(told, {}), ["returns"], tmp_path)
    assert "a explores in its first 1 episode, to find out about the task." in made.text
    assert "Hollow marks: actions were sampled" in made.pictures[0].caption


def test_first_and_last_episodes_say_how_actions_were_chosen():
    made = adaptation.first_and_last(evaluated(), ["returns"])
    assert (
        cells(made, "a")["return, episode 0"].startswith("0.5 [")
        and "(sampled)" in cells(made, "a")["return, episode 0"]
    )
    assert cells(made, "a")["episode 1"].startswith("10.5 [") and "(mode)" in cells(made, "a")["episode 1"]
    assert cells(made, "random") == {
        "": "random", "training seeds": "-", "return, episode 0": "1", "episode 1": "1"
    }  # fmt: skip


def test_agents_are_compared_with_one_another_and_with_their_own_references():
    between = adaptation.between_agents(evaluated(), ["returns"])
    assert between is not None and between.title == "b minus each other agent" and between.table is not None
    assert between.table.rows[0][:2] == ["return", "a"] and between.table.rows[0][2].startswith("-8.5 [")
    against = adaptation.against_references(evaluated(), ["returns"])
    assert against is not None and against.table is not None
    named = [(row[0], row[2]) for row in against.table.rows]
    assert named == [("a (mode)", "random"), ("a (mode)", "a, no adaptation"), ("b (mode)", "random")]


def test_success_is_shown_where_environments_report_it_and_else_where_anyone_succeeded():
    nobody = evaluated()
    somebody = replace(
        nobody, results={**nobody.results, "b": replace(nobody.results["b"], success=np.ones((2, 1, 1, 3, 2)))}
    )
    for made, anyone in ((nobody, False), (somebody, True)):
        assert replace(made, reports_success=True).succeeds and not replace(made, reports_success=False).succeeds
        assert made.succeeds == anyone == ("success" in adaptation.scores_of(made))


def test_paths_are_drawn_where_there_are_some_and_a_map(tmp_path):
    family = make_family(TaskConfig("tests.programs.telltale"))
    line = np.zeros((4, 2))
    told = replace(evaluated(), paths={"a": [[line], [line]], "b": [[line], [line]]})
    colours = adaptation.colours_of(told, {})
    made = adaptation.where(told, colours, family, tmp_path)
    assert made is not None and len(made.pictures) == 1
    assert adaptation.where(told, colours, None, tmp_path) is None
    assert adaptation.where(evaluated(), colours, family, tmp_path) is None


def test_training_steps_are_stated_a_seed_and_in_all():
    made = adaptation.cost(evaluated())
    assert cells(made, "training of a: a training seed")["primitive steps"] == "200"
    assert cells(made, "training of a: all 2 training seeds")["primitive steps"] == "400"
    assert cells(made, "evaluation of a: in a task before its last episode")["primitive steps"] == "5"


def test_classes_and_the_benchmarks_own_number_are_shown_where_there_are_some():
    assert adaptation.by_class(evaluated(), "returns") is None and adaptation.benchmark(evaluated()) is None
    told = evaluated(("reach", "push", "push"), BenchmarkTable("Theirs", "Biased.", "as they count", {
        "a": 1.0, "b": 0.5, "random": 0.0, "a, no adaptation": 0.0
    }))  # fmt: skip
    assert cells(adaptation.by_class(told, "returns"), "push")["a (mode)"] == "10.5"
    assert cells(adaptation.benchmark(told), "a") == {
        "": "a", "success, every environment alike": "0.00", "as they count": "1.00"
    }  # fmt: skip


# -- skill models --------------------------------------------------------------------------------------------------------------
def models(tmp_path, *cloning: bool):
    for seed, cloned in enumerate(cloning):
        fake_model(tmp_path / f"seed-{seed}", seed, cloned)
    return {f"seed-{seed}": read_model(tmp_path / f"seed-{seed}") for seed in range(len(cloning))}


def test_all_models_are_in_a_table_and_the_first_is_shown_in_full(tmp_path):
    made = skills.sections(models(tmp_path, False, False), None, tmp_path)
    row = cells(made[0], "seed-1")
    assert row["action variance explained"] == "75%" and row["nats that the state is worth to the prior"] == "4.00"
    assert row["visited an episode"] == "skills from the prior 30.0%, the logs 40.0%"
    assert "seed-0 is shown in full below" in made[0].text[0]
    assert titles(made)[1:] == [
        "The prior, acting (seed-0)", "The model, on episodes that it was not trained on (seed-0)", "Its training (seed-0)"
    ]  # fmt: skip
    assert titles(skills.sections(models(tmp_path / "one", False), None, tmp_path))[0] == "The prior, acting"


def test_logs_have_no_success_and_the_task_is_named_by_its_split(tmp_path):
    acting = skills.acting(models(tmp_path, False)["seed-0"], None, tmp_path, "")
    assert cells(acting, "skills from the prior")["success in the first validation task"] == "0.50"
    assert cells(acting, "the logs")["success in the first validation task"] == ""


def test_a_cloned_policy_decodes_nothing(tmp_path):
    made = skills.held_out_fit(models(tmp_path, True)["seed-0"], tmp_path, "")
    assert not made.pictures and "nothing is decoded" in made.text[1] and made.table is not None
    assert [row[0] for row in made.table.rows] == ["prior's NLL of actions", "NLL under one Gaussian for all states"]


# -- the page ------------------------------------------------------------------------------------------------------------------
def test_a_page_has_what_its_content_has(study, tmp_path):
    of_runs = titles(sections_of(Content("T", study=study), tmp_path))
    assert of_runs == [
        "Scores", "At the end of training", "Methods", "Learning", "Evaluations while training", "Inside", "How to make this again"
    ]  # fmt: skip
    of_evaluation = titles(sections_of(Content("T", evaluation=evaluated()), tmp_path))
    assert of_evaluation[0] == "Episode by episode" and "Learning" not in of_evaluation
    both = titles(sections_of(Content("T", study=study, evaluation=evaluated()), tmp_path))
    assert set(both) == {*of_runs, *of_evaluation}


def test_a_config_on_a_page_is_the_runs(study, tmp_path):
    again = sections.again(Content("T", study=study, configs={"meta": dump_yaml({"x": 1})}, commands=["skillmeta x"]))
    assert again.code == "skillmeta x" and again.folded == {"meta": "x: 1\n"} and again.text == ["Training seeds 0, 1."]


def test_the_reference_is_the_studys_own_where_another_shares_no_finished_seed_with_it(tmp_path):
    """a has seed 0 alone; b and the reference r seeds 1 and 2."""
    for name, seeds in (("a", (0,)), ("b", (1, 2)), ("r", (1, 2))):
        for seed in seeds:
            fake_run(folder := tmp_path / f"{name}-{seed}", {"a": 0.1, "b": 0.5, "r": 0.5}[name], 0, seed)
            config = folder / "config.yaml"
            config.write_text(config.read_text().replace("name: sac", f"name: sac\n  hidden: {ord(name)}"))
    folders = [
        tmp_path / f"{name}-{seed}" for name, seeds in (("a", (0,)), ("b", (1, 2)), ("r", (1, 2))) for seed in seeds
    ]
    study = replace(side_by_side(folders), reference="r")
    section = sections.differences_section(study)
    assert section is not None and section.title == "r minus each other method"


def test_panels_are_drawn_where_the_first_method_does_not_log_a_number():
    curve = Curve(np.array([1.0, 2.0]), np.ones((2, 2, 1)))
    plots.curve_panels({"b": curve, "c": curve}, {"b": "#111111", "c": "#222222"}, "steps", "loss", None)
