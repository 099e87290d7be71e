"""What a page is about: read from folders as data, and written as JSON and CSV beside the page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from skillmeta.collect.failures import note_on, read_failures
from skillmeta.config import build, dump_yaml, read_yaml
from skillmeta.errors import UserError
from skillmeta.evaluation import settings
from skillmeta.evaluation.adaptation import Evaluation
from skillmeta.evaluation.curves import Curve, curve, has, trials
from skillmeta.evaluation.records import (
    ModelRecord,
    RunRecord,
    Study,
    of_all_tasks,
    read_environment,
    read_evaluation,
    read_model,
    read_study,
    side_by_side,
)
from skillmeta.evaluation.statistics import Estimate, Scores, estimate, paired_difference
from skillmeta.run.files import write_whole
from skillmeta.run.health import Health
from skillmeta.tasks.base import TaskConfig, TaskFamily, make_family
from skillmeta.trust import check_links, check_modules

INTERVALS = "Intervals are of 95 %, for new training seeds on these tasks: the unit of chance is the training seed, with all tasks."
# Scores of the final evaluation of a run on one task, of the sampled policy; `mode_` of its mode. Success where it is reported.
FINAL = ("success", "return")
TRAINING = {  # scores of a row of training: what they are
    "success": "success",
    "return": "return",
    "success_last": "success in a trial's last episode",
    "return_first": "return of a trial's first episode",
    "return_last": "return of a trial's last episode",
}
HELD_OUT = {"evaluation/success": "success", "evaluation/return": "return"}  # of a row of evaluation while training


@dataclass(frozen=True)
class Content:
    """What there is to show; the sections of a page follow from it."""

    title: str
    lead: Sequence[str] = ()
    warnings: Sequence[str] = ()
    study: Study | None = None
    evaluation: Evaluation | None = None
    models: Mapping[str, ModelRecord] = field(default_factory=dict)  # skill models, by name
    family: TaskFamily | None = None  # whose map and facts are shown
    tasks: Sequence[Any] = ()  # of an ablation, by `Study.tasks`
    facts: Sequence[Mapping[str, Any]] = ()  # the same in words
    commands: Sequence[str] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    configs: Mapping[str, str] = field(default_factory=dict)  # name -> YAML


def read_content(
    folders: Sequence[Path], command: str = "", trust: bool = False, family: TaskFamily | None = None
) -> Content:
    """The content of an ablation's, an evaluation's or a pretraining run's folder, or of training runs side by side.

    Args:
        command: that writes this page, where it is not the run's own.
        trust: admit links that lead out of the folders, and import the module that a run's config names as its family.
        family: of the runs, where the caller has made it from a config of its own.

    Raises UserError for folders that hold none of these, or damaged ones, or that name a module of their own without `trust`.
    """
    for folder in folders:
        check_links(folder, trust)
    for other in folders if len(folders) > 1 else ():
        if (other / "config.yaml").exists() and "algorithm" not in read_yaml(other / "config.yaml"):
            raise UserError(
                f"{other}: holds no training run; a page is about several runs of finetune or meta-train, or about one folder of "
                "another command"
            )
    folder = folders[0]
    config = read_yaml(folder / "config.yaml") if (folder / "config.yaml").exists() else {}
    if len(folders) > 1 or not config or "algorithm" in config:
        return of_runs(side_by_side(folders), command, trust, family)
    if "agents" in config:
        evaluation = read_evaluation(folder)
        if evaluation is None:
            raise UserError(f"{folder}: this evaluation is not finished; run its command again")
        if evaluation.paths and family is None:
            family = family_of(config.get("task"), folder, trust)
        return of_evaluation(evaluation, folder, family)
    if "source" in config:
        model = read_model(folder)
        if model is None:
            raise UserError(f"{folder}: this run is not finished; run its command again")
        title = f"Is this prior any good? {model.result['source']}"
        family = family or family_of(config.get("task"), folder, trust)
        notes = [f"The logs: {note}." for note in model.result.get("notes", [])]
        return Content(title, model.result["verdict"], notes, models={"": model}, family=family, **origin([model]))
    if "methods" not in config:
        raise UserError(f"{folder}: holds no run, evaluation or ablation that a page could be about")
    return of_ablation(folder, trust, family)


def family_of(task: Any, folder: Path, trust: bool) -> TaskFamily | None:
    """The family that a run folder's config names. Raises ConfigError if that is a module of its own, without `trust`."""
    if task is None:
        return None
    check_modules({"task": task}, folder / "config.yaml", trust)
    return make_family(build(TaskConfig, task, f"{folder / 'config.yaml'}: task"))


def origin(runs: Sequence[RunRecord | ModelRecord], command: str = "") -> dict[str, Any]:
    """Commands, environment and configs of runs, for `Content`."""
    commands = [*dict.fromkeys(str(run.environment.get("command", "")) for run in runs), command]
    return {
        "commands": [one for one in commands if one],
        "environment": runs[0].environment,
        "configs": {run.folder.name: dump_yaml(run.config) for run in runs},
    }


def of_runs(study: Study, command: str, trust: bool, family: TaskFamily | None) -> Content:
    runs = study.every
    warnings = [f"{run.folder.name} is not finished." for run in runs if run.result is None]
    warnings += [*study.notes, *failed(study)]
    if any((run.folder / "trajectories.npz").exists() for run in runs):
        family = family or family_of(runs[0].config.get("task"), runs[0].folder, trust)
    about = origin(runs, command)
    about["configs"] = {name: dump_yaml(study.runs(name)[0].config) for name in study.methods}
    lead = [f"Training of {', '.join(study.methods)}."]
    if any(of_all_tasks(run.config) for run in runs):
        lead.append("How they do in tasks that they were not trained on is for `skillmeta evaluate`.")
    title = "Learning: " + ", ".join(study.methods)
    return Content(title, lead, [*warnings, *one_seed(study)], study, family=family, **about)


def of_evaluation(evaluation: Evaluation, folder: Path, family: TaskFamily | None) -> Content:
    names = ", ".join(evaluation.results)
    lead = [
        f"{len(evaluation.tasks)} tasks of {evaluation.family}'s split {evaluation.split!r}, a trial of {evaluation.episodes} "
        f"episodes in each, by each of {names}.",
        evaluation.claim,
    ]
    environment = read_environment(folder)
    return Content(
        f"How it adapts: {', '.join(evaluation.agents) or evaluation.family}",
        lead,
        evaluation.notes,
        evaluation=evaluation,
        family=family,
        commands=[environment["command"]],
        environment=environment,
        configs={"config": dump_yaml(read_yaml(folder / "config.yaml"))},
    )


def of_ablation(folder: Path, trust: bool, family: TaskFamily | None) -> Content:
    """Raises UserError if no method has finished all tasks for any seed."""
    study, models = read_study(folder), models_in(folder)
    if models and not study.planned:
        return of_models(study, models)
    if not study.methods or study.config is None or study.environment is None:
        raise UserError(
            f"{folder}: no method has finished all tasks with any seed yet; run the ablation to its end first"
        )
    first = study.every[0]
    task = first.config.get("task") or {}
    family = family or family_of(task, first.folder, trust)
    tasks, facts = [], []
    if family is not None and not all(of_all_tasks(run.config) for run in study.every):
        own = next(run.config["task"] for run in study.every if not of_all_tasks(run.config))
        split = own.get("split", TaskConfig.split)
        every = family.tasks(split)
        if max(study.tasks) >= len(every):
            raise UserError(
                f"{folder / 'config.yaml'}: tasks has {max(study.tasks)}; split {split!r} has 0 to {len(every) - 1}"
            )
        tasks = [every[index] for index in study.tasks]
        for index, one in zip(study.tasks, tasks, strict=True):
            facts.append({"index": index, "split": split, **asdict(one), **family.facts(one)})
    evaluation = read_evaluation(folder / "evaluation")
    warnings = list(evaluation.notes) if evaluation else []
    if study.missing:
        warnings.append(
            f"Unfinished: {len(study.missing)} of {study.planned} runs have no result yet. Numbers below are over the training "
            f"seeds that each method has finished on every task. Missing: {', '.join(study.missing[:12])}"
            + ("." if len(study.missing) <= 12 else ", and more.")
        )
    warnings += [*study.notes, *failed(study)]
    configs = {"The whole config": dump_yaml(study.config)}
    for name in study.methods:
        configs[f"{name}: resolved config of its first run"] = dump_yaml(study.runs(name)[0].config)
    return Content(
        study.title,
        [line for line in (study.claim, *headline(study, evaluation)) if line],
        [*warnings, *one_seed(study)],
        study,
        evaluation,
        models,
        family,
        tasks,
        facts,
        [study.environment["command"]],
        study.environment,
        configs,
    )


def models_in(folder: Path) -> dict[str, ModelRecord]:
    """The finished skill models of an ablation, by where they lie in its folder."""
    found = sorted(folder.glob("skills/**/result.json"))
    return {
        str(path.parent.relative_to(folder)): model for path in found if (model := read_model(path.parent)) is not None
    }


def of_models(study: Study, models: Mapping[str, ModelRecord]) -> Content:
    """An ablation of pretraining alone."""
    lead = [line for line in (study.claim, settings.headline(settings.by_setting(models))) if line]
    notes = list(dict.fromkeys(f"The logs: {note}." for one in models.values() for note in one.result.get("notes", [])))
    about = {**origin(list(models.values())), "configs": {name: dump_yaml(one.config) for name, one in models.items()}}
    return Content(study.title, lead, notes, models=models, **about)


def failed(study: Study) -> list[str]:
    """Sentences on what went wrong in training: environments that failed, losses beyond reason."""
    runs = [*study.every, *study.starts]
    ill = [f"{run.folder.name}: {said}." for run in runs if (said := Health(run.rows).said)]
    return [*note_on(sum(len(read_failures(run.folder)) for run in runs)), *ill]


def one_seed(study: Study) -> list[str]:
    names = [name for name, rows in study.methods.items() if len(rows) < 2]
    if not names:
        return []
    return [
        f"{', '.join(names)}: one training seed only, so there is no interval, and the numbers say nothing about chance."
    ]


# -- numbers -----------------------------------------------------------------------------------------------------------------
def finals(study: Study) -> list[str]:
    """Methods whose results state a final evaluation on their task."""
    return [name for name in study.methods if all(study.has(name, key) for key in ("return", "num_episodes"))]


def stated(study: Study) -> dict[str, str]:
    """Scores of training that some method states and that differ from one another; success only where any run ever succeeded."""
    found = {}
    for key, label in TRAINING.items():
        rows = [row for run in study.every if has(run, key) for row in run.rows if key in row]
        if key.startswith("success") and not any(row[key] for row in rows):
            continue
        same = key.partition("_")[0]
        if rows and (key == same or any(row[key] != row.get(same) for row in rows)):
            found[key] = label
    return found


def at_the_end(study: Study, method: str, key: str) -> Estimate | None:
    """A score of training over the last window of every run; None where the method does not state it."""
    if not all(has(run, key) for run in study.runs(method)):
        return None
    values = np.array([[run.last(key) for run in row] for row in study.methods[method]])
    runs = study.runs(method)
    count = max(run.window for run in runs) * trials(runs) if key.startswith("success") else None
    return estimate(Scores(values, count))


def given(study: Study, method: str) -> int:
    """Environment steps that each run of a method may take."""
    return int(study.runs(method)[0].config["env_steps"])


def spent(study: Study, method: str, key: str) -> float | None:
    """A cost or another number, the mean over runs: of their results, or of their last rows while they are not finished."""
    if study.has(method, key):
        return float(study.values(method, key).mean())
    last = [run.rows[-1].get(key) for run in study.runs(method)]
    return None if None in last else float(np.mean(np.array(last, float)))


def reference_of(study: Study) -> str | None:
    """The method that the others are compared with: the study's reference, if that has final scores, else the last one that has."""
    names = finals(study)
    if study.reference is None or study.reference not in study.methods:  # or it has no complete seed yet
        return None
    return study.reference if study.reference in names or not names else names[-1]


def differences(study: Study, key: str) -> dict[str, Estimate]:
    """A final score of the reference method minus that of each other one, over the training seeds that both have finished."""
    reference, found = reference_of(study), dict[str, Estimate]()
    if reference is None:
        return {}
    for name in finals(study):
        if name != reference and study.has(name, key) and study.has(reference, key):
            mine, other = study.paired(reference, name, key)
            if len(mine.values):
                found[name] = paired_difference(mine, other)
    return found


def headline(study: Study, evaluation: Evaluation | None) -> list[str]:
    """A sentence on final scores, one on methods that do not differ in them, and one on adaptation."""
    said = []
    names = finals(study)
    if names:
        key = "success" if all(study.has(name, "success") for name in names) else "return"
        how = ".2f" if key == "success" else ".3g"
        listed = ", ".join(f"{name} {estimate(study.scores(name, key)).text(how)}" for name in names)
        most = study.runs(names[0])[0].config.get("max_episodes")
        limit = f" and {most} episodes" if most else ""
        said.append(
            f"{key.capitalize()} within {given(study, names[0]):,} environment steps{limit} "
            f"({'share of episodes' if key == 'success' else 'mean of episodes'}, actions sampled [95 % interval]): {listed}."
        )
        found = differences(study, key)
        if alike := [name for name, one in found.items() if one.ci95 and one.ci95[0] <= 0 <= one.ci95[1]]:
            said.append(
                f"No difference from {reference_of(study)} is shown for {', '.join(alike)}: the interval of the paired difference "
                "contains zero."
            )
    if evaluation is not None and evaluation.agents:
        score, label = ("success", "Success") if evaluation.succeeds else ("returns", "Return")
        listed = ", ".join(f"{name} {evaluation.estimates(name, score)[-1].text()}" for name in evaluation.agents)
        how = evaluation.how(evaluation.agents[0], evaluation.episodes - 1)
        said.append(
            f"{label} in the last of {evaluation.episodes} episodes in each of {len(evaluation.tasks)} tasks of split "
            f"{evaluation.split!r} ({how} [95 % interval]): {listed}."
        )
    return said


def summarize(content: Content) -> dict[str, Any]:
    """summary.json: what each method scored and cost, every episode of each evaluated agent, and where it all comes from."""
    evaluated = content.evaluation.summary() if content.evaluation else {}
    study = content.study
    if study is None and content.models:
        found = settings.by_setting(content.models)
        plain = {name: {key: one.plain() for key, one in row.items()} for name, row in found.items()}
        return {"title": content.title, "headline": [settings.headline(found)], "settings": plain}
    if study is None:
        return evaluated
    methods: dict[str, Any] = {}
    for name in study.methods:
        scores: dict[str, Any] = {}
        methods[name] = scores
        if name in finals(study):
            for key in (key for key in FINAL if study.has(name, key)):
                final = estimate(study.scores(name, key))
                scores |= {key: final.value, f"{key}_ci95": final.ci95}
                scores[f"{key}_mode_mean"] = spent(study, name, f"mode_{key}")
        ends = {key: at_the_end(study, name, key) for key in stated(study)}
        scores["training"] = {key: one.plain() for key, one in ends.items() if one is not None}
        if "env_steps" in study.runs(name)[0].config:
            scores["env_steps"] = given(study, name)
        scores |= {f"{key}_mean": spent(study, name, key) for key in ("env_steps", "episodes", "updates")}
        scores |= {"seconds": spent(study, name, "seconds"), "training_seeds": study.seeds(name)}
        scores["tasks"] = len(study.methods[name][0])
    whole: dict[str, Any] = {
        "title": content.title,
        "headline": headline(study, content.evaluation),
        "methods": methods,
    }
    whole |= {"intervals": INTERVALS, "unfinished_runs": list(study.missing), "commands": list(content.commands)}
    if study.config is not None:
        both = {key: {n: one.plain() for n, one in differences(study, key).items()} for key in ("success", "return")}
        whole |= {"reference": study.reference, "differences": both, "tasks": list(content.facts)}
        whole |= {key: content.environment.get(key) for key in ("python", "versions", "machine")}
    return {**whole, **({"evaluation": evaluated} if evaluated else {})}


def curves(study: Study) -> dict[tuple[str, str], dict[str, Curve]]:
    """(score, axis) -> method -> its training curve. Along episodes only where rows are single episodes."""
    single = all(run.row_episodes == 1 for run in study.every)
    axes = ("env_steps", "episodes") if single and all(has(run, "episodes") for run in study.every) else ("env_steps",)
    found = {}
    for key in stated(study):
        for axis in axes:
            lines = {name: curve(study, name, key, axis) for name in study.methods}
            found[key, axis] = {name: line for name, line in lines.items() if line is not None}
    return found


def write_numbers(folder: Path, content: Content) -> None:
    """summary.json, and as there is something for them results.csv, curves.csv and episodes.csv."""
    if content.study is None and content.evaluation is None and len(content.models) < 2:
        return
    write_whole(folder / "summary.json", json.dumps(summarize(content), indent=1))
    if content.study is not None:
        if names := finals(content.study):
            write_whole(folder / "results.csv", results_csv(content.study, names))
        write_whole(folder / "curves.csv", curves_csv(curves(content.study)))
    if content.evaluation is not None:
        write_whole(folder / "episodes.csv", episodes_csv(content.evaluation))


def results_csv(study: Study, names: Sequence[str]) -> str:
    """A row for every run that has a final evaluation."""
    keys = [*FINAL, "mode_success", "mode_return", "env_steps", "episodes", "decisions", "updates", "seconds"]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["method", "task", "training_seed", *keys])
    for name in names:
        for row in study.methods[name]:
            for run in row:
                index = (run.config.get("task") or {}).get("index", 0)
                writer.writerow([name, index, run.seed, *((run.result or {}).get(key) for key in keys)])
    return text.getvalue()


def curves_csv(curves: Mapping[tuple[str, str], Mapping[str, Curve]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["quantity", "axis", "method", "x", "mean", "low", "high"])
    for (key, axis), lines in curves.items():
        for name, one in lines.items():
            for x, *values in zip(one.x, *one.means(), strict=True):
                writer.writerow([key, axis, name, x, *("" if np.isnan(value) else f"{value:.5g}" for value in values)])
    return text.getvalue()


EPISODES = (  # the one schema of per-episode data; one row an episode
    "agent",  # as tables call it
    "training_seed",  # of its run; empty for an actor without training
    "repeat",  # of the evaluation, from 0, with other resets
    "rollout",  # from 0, of the episodes that the agent runs at once in a round
    "task",  # its number in the split
    "task_id",  # of `skillmeta.tasks.base.task_id`
    "class",  # of the task; empty where the family has none
    "episode",  # of the trial, from 0
    "explored",  # 1 if it serves to find out about the task
    "actions",  # sampled or mode; empty for an actor without training
    "return",
    "success",  # at any step, 0 or 1
    "success_at_end",  # at the last decision, 0 or 1
    "env_steps",  # primitive steps
)


def episodes_csv(evaluation: Evaluation) -> str:
    """Every episode of the evaluation, columns as in `EPISODES`."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(EPISODES)
    for name, result in evaluation.results.items():
        seeds = evaluation.training_seeds[name] or ("",)
        for at in np.ndindex(result.returns.shape):
            seed, repeat, rollout, task, k = at
            where = [name, seeds[seed], repeat, rollout, task, evaluation.tasks[task], evaluation.groups[task], k]
            how = [int(result.explored[k]), evaluation.how(name, k)]
            succeeded = [int(result.success[at]), int(result.success_at_end[at])]
            writer.writerow([*where, *how, f"{result.returns[at]:.6g}", *succeeded, result.env_steps[at]])
    return out.getvalue()
