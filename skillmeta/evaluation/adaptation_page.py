"""The page of an evaluation: how an agent does in each episode of its trials, between its brackets, and what that cost."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np

from skillmeta.evaluation import page, plots
from skillmeta.evaluation.adaptation import SCORES, Evaluation, statistic
from skillmeta.evaluation.statistics import interval, probability_of_improvement
from skillmeta.run.files import write_whole
from skillmeta.tasks.base import task_id

NAMES = {
    "returns": "return", "success": "success at any step", "success_at_end": "success at the end",
    "solved": "success in any episode so far",
}  # fmt: skip


def write_adaptation_page(folder: Path, evaluation: Evaluation, command: str) -> Path:
    """adaptation.html, summary.json, episodes.csv and pictures/ in a folder. Returns the page."""
    write_whole(folder / "summary.json", json.dumps(evaluation.summary(), indent=1))
    write_whole(folder / "episodes.csv", episodes_csv(evaluation))
    names = list(evaluation.results)
    colours = plots.palette(names, evaluation.agent or None)
    scores = [score for score in SCORES if score == "returns" or succeeds(evaluation)]
    sections = [curve_section(evaluation, colours, scores, folder), last_section(evaluation, scores)]
    sections += [group_section(evaluation, score) for score in scores[:2] if len(set(evaluation.groups)) > 1]
    if evaluation.family == "metaworld":
        sections.append(official_section(evaluation))
    sections += [profile_section(evaluation, colours, scores[:2], folder), bill_section(evaluation)]
    sections.append(page.Section("How to make this again", code=f"{command}\n\n{(folder / 'config.yaml').read_text()}"))
    lead = [
        f"{len(evaluation.tasks)} tasks of {evaluation.family}'s split {evaluation.split!r}, a trial of "
        f"{episodes_of(evaluation)} episodes in each, by each of {', '.join(names)}."
    ]
    write_to = folder / "adaptation.html"
    page.write(write_to, f"How it adapts: {evaluation.agent or evaluation.family}", lead, sections, evaluation.notes)
    return write_to


def succeeds(evaluation: Evaluation) -> bool:
    """Whether anyone ever succeeded: a family without a notion of success has no table of it."""
    return any(result.success.any() for result in evaluation.results.values())


def episodes_of(evaluation: Evaluation) -> int:
    return len(next(iter(evaluation.results.values())).explored)


MEASURED = "interquartile mean of returns, mean of successes, over tasks and seeds"


def spelled(values: np.ndarray, score: str) -> str:
    """What is told of scores [S, M] and its 95 % interval: value [low, high]."""
    measure = statistic(score)
    low, high = interval(values, measure)
    return f"{measure(values.ravel()):.3g} [{low:.3g}, {high:.3g}]"


def curve_section(evaluation: Evaluation, colours: dict[str, str], scores: list[str], folder: Path) -> page.Section:
    pictures = []
    explored = next(iter(evaluation.results.values())).explored
    for score in scores:
        series = {name: getattr(result, score) for name, result in evaluation.results.items()}
        figure = plots.adaptation_figure(series, explored, colours, NAMES[score], statistic(score))
        plots.save_png(figure, folder / "pictures" / f"adaptation_{score}.png")
        caption = f"{NAMES[score]}: {MEASURED}, and its 95 % interval (stratified bootstrap)."
        pictures.append(page.Picture(plots.to_svg(figure, f"adaptation-{score}"), caption))
    return page.Section("Episode by episode", pictures=pictures)


def last_section(evaluation: Evaluation, scores: list[str]) -> page.Section:
    rows = []
    for name, result in evaluation.results.items():
        row = [name, str(len(result.returns))]
        for score in scores:
            values = getattr(result, score)
            row += [spelled(values[:, :, 0], score), spelled(values[:, :, -1], score)]
        rows.append(row)
    head = ["", "seeds"]
    for score in scores:
        head += [f"{NAMES[score]}, episode 0", f"episode {episodes_of(evaluation) - 1}"]
    text = [f"{MEASURED.capitalize()} [95 % interval]. Every task counts the same, however long its episodes are."]
    for what, (value, low, high) in evaluation.gaps().items():
        score, _, span = what.partition(": ")
        if score in scores and np.isfinite(value):
            text.append(f"{NAMES[score]}: {value:.0%} [{low:.0%}, {high:.0%}] of the way from {span}.")
    if evaluation.agent:
        last = {n: r.returns[:, :, -1] for n, r in evaluation.results.items()}
        for name in (name for name in ("random", "no adaptation") if name in last):
            better = probability_of_improvement(last[evaluation.agent], last[name])
            text.append(
                f"A run of {evaluation.agent} has a higher return than one of {name} with probability {better:.2f}."
            )
    return page.Section("First and last episode", text, page.Table(head, rows))


def group_section(evaluation: Evaluation, score: str) -> page.Section:
    names = list(evaluation.results)
    table = evaluation.by_group(score)
    rows = [[group, *(f"{found[name]:.3g}" for name in names)] for group, found in table.items()]
    return page.Section(f"{NAMES[score]}, last episode, by class of tasks", table=page.Table(["class", *names], rows))


def official_section(evaluation: Evaluation) -> page.Section:
    """Meta-World's own number beside ours, from the same episodes."""
    from skillmeta.tasks.metaworld_official import official_success

    rows = []
    for name, result in evaluation.results.items():
        after = ~result.explored
        steps, success = (x[:, :, after] for x in (result.steps_to_success, result.success > 0.5))
        theirs = [official_success(s, w, evaluation.groups)[0] for s, w in zip(steps, success, strict=True)]
        rows.append([name, f"{success.mean():.2f}", f"{np.mean(theirs):.2f}"])
    return page.Section(
        "Meta-World's own number, which is biased",
        [
            "Its evaluator counts the first three episodes that finish anywhere in a class. Successes finish early and failures "
            "take the whole horizon, so failures are hardly ever counted: an agent that solves a fifth of the environments is "
            "told 1.00. It is here to be compared with published tables only."
        ],
        page.Table(["", "success, every environment alike", "success as Meta-World's evaluator counts"], rows),
    )


def profile_section(evaluation: Evaluation, colours: dict[str, str], scores: list[str], folder: Path) -> page.Section:
    pictures = []
    for score in scores:
        series = {name: getattr(result, score)[:, :, -1] for name, result in evaluation.results.items()}
        figure = plots.profiles_figure(series, colours, NAMES[score])
        plots.save_png(figure, folder / "pictures" / f"profile_{score}.png")
        pictures.append(page.Picture(plots.to_svg(figure, f"profile-{score}"), f"Last episode, {NAMES[score]}."))
    return page.Section(
        "Performance profiles", ["The share of runs, seeds times tasks, above a score."], pictures=pictures
    )


def bill_section(evaluation: Evaluation) -> page.Section:
    rows = [["training", f"{evaluation.training_steps:,}"]]
    for name, result in evaluation.results.items():
        seen = result.adaptation_steps[:, :, -1].mean()
        rows.append([f"evaluation of {name}: in all", f"{int(result.env_steps.sum()):,}"])
        rows.append([f"evaluation of {name}: in a task before its last episode", f"{seen:,.0f}"])
    return page.Section("Environment steps", table=page.Table(["", "primitive steps"], rows))


def episodes_csv(evaluation: Evaluation) -> str:
    """One row an episode round."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["agent", "seed", "task", "task_id", "class", "episode", "explored", "return", "success", "success_at_end", "env_steps"]
    )  # fmt: skip
    ids = [task_id(task) for task in evaluation.tasks]
    for name, result in evaluation.results.items():
        for seed, task, k in np.ndindex(result.returns.shape):
            at = (seed, task, k)
            scores = [f"{v:.6g}" for v in (result.returns[at], result.success[at], result.success_at_end[at])]
            writer.writerow(
                [name, seed, task, ids[task], evaluation.groups[task], k, int(result.explored[k]), *scores, result.env_steps[at]]
            )  # fmt: skip
    return out.getvalue()


def scores_text(evaluation: Evaluation) -> str:
    """A few lines for the terminal."""
    score = "success" if succeeds(evaluation) else "returns"
    lines = []
    for name, result in evaluation.results.items():
        values = getattr(result, score)
        lines.append(
            f"{name:<14} {NAMES[score]}: episode 0 {spelled(values[:, :, 0], score)}, last "
            f"{spelled(values[:, :, -1], score)}; return of the last {spelled(result.returns[:, :, -1], 'returns')}"
        )
    return "\n".join(lines)
