"""The page of an evaluation: how an agent does in each episode of its trials, between its reference agents, and what that cost."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np

from skillmeta.evaluation.adaptation import SCORES, Evaluation
from skillmeta.evaluation.statistics import Estimate
from skillmeta.reports import page, plots
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
    sections = [
        curve_section(evaluation, colours, scores, folder),
        last_section(evaluation, scores),
        *([comparison_section(evaluation, scores)] if evaluation.agent else []),
    ]
    sections += [group_section(evaluation, score) for score in scores[:2] if len(set(evaluation.groups)) > 1]
    if evaluation.family == "metaworld":
        sections.append(official_section(evaluation))
    sections += [profile_section(evaluation, colours, scores[:2], folder), bill_section(evaluation)]
    sections.append(page.Section("How to make this again", code=f"{command}\n\n{(folder / 'config.yaml').read_text()}"))
    lead = [
        f"{len(evaluation.tasks)} tasks of {evaluation.family}'s split {evaluation.split!r}, a trial of "
        f"{episodes_of(evaluation)} episodes in each, by each of {', '.join(names)}.",
        evaluation.claim,
    ]
    write_to = folder / "adaptation.html"
    page.write(write_to, f"How it adapts: {evaluation.agent or evaluation.family}", lead, sections, evaluation.notes)
    return write_to


def succeeds(evaluation: Evaluation) -> bool:
    """Whether anyone ever succeeded: a family without a notion of success has no table of it."""
    return any(result.success.any() for result in evaluation.results.values())


def episodes_of(evaluation: Evaluation) -> int:
    return len(next(iter(evaluation.results.values())).explored)


def curve_section(evaluation: Evaluation, colours: dict[str, str], scores: list[str], folder: Path) -> page.Section:
    pictures = []
    explored = next(iter(evaluation.results.values())).explored
    for score in scores:
        series = {name: evaluation.means(name, score) for name in evaluation.results}
        figure = plots.adaptation_figure(series, explored, colours, NAMES[score])
        plots.save_png(figure, folder / "pictures" / f"adaptation_{score}.png")
        caption = f"{NAMES[score]}: mean over training seeds and tasks, and its 95 % interval where there is one."
        pictures.append(page.Picture(plots.to_svg(figure, f"adaptation-{score}"), caption))
    return page.Section("Episode by episode", pictures=pictures)


def last_section(evaluation: Evaluation, scores: list[str]) -> page.Section:
    rows = []
    for name in evaluation.results:
        row = [name, seeds_text(evaluation, name)]
        for score in scores:
            every = evaluation.estimates(name, score)
            row += [every[0].text(), every[-1].text()]
        rows.append(row)
    head = ["", "training seeds"]
    for score in scores:
        head += [f"{NAMES[score]}, episode 0", f"episode {episodes_of(evaluation) - 1}"]
    text = [
        "Mean over training seeds and tasks [95 % interval]. Every task counts the same, however long its episodes are. With one "
        "training seed there is no interval; agents without training have no seeds (-)."
    ]
    return page.Section("First and last episode", text, page.Table(head, rows))


def seeds_text(evaluation: Evaluation, name: str) -> str:
    seeds = evaluation.training_seeds[name]
    return str(len(seeds)) if len(seeds) > 1 else "one seed" if seeds else "-"


def comparison_section(evaluation: Evaluation, scores: list[str]) -> page.Section:
    """The agent against its reference agents, in the last episode."""
    differences, places = evaluation.differences(), evaluation.places()

    def share(place: Estimate | None) -> str:
        return "" if place is None or not np.isfinite(place.value) else place.text(".0%")

    rows = [
        [NAMES[score], name, difference.text("+.3g"), share(places[score].get(name))]
        for score in scores
        for name, difference in differences[score].items()
    ]
    text = [
        f"{evaluation.agent} minus each reference agent in the last episode, paired by task [95 % interval]. "
        "An interval that contains zero shows no difference. The last column is how much of the way from that reference to the "
        "oracle the agent gets; it has no interval where the two do not differ clearly."
    ]
    head = ["score", "reference agent", "difference", "of the way to the oracle"]
    return page.Section(f"{evaluation.agent} against its reference agents", text, page.Table(head, rows))


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
        tasks, after = len(evaluation.tasks), ~result.explored
        steps, success = (
            x[..., after].reshape(-1, tasks, after.sum()) for x in (result.steps_to_success, result.success)
        )
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
        series = {name: result.last(score).values for name, result in evaluation.results.items()}
        figure = plots.profiles_figure(series, colours, NAMES[score])
        plots.save_png(figure, folder / "pictures" / f"profile_{score}.png")
        pictures.append(page.Picture(plots.to_svg(figure, f"profile-{score}"), f"Last episode, {NAMES[score]}."))
    return page.Section(
        "Performance profiles",
        ["The share of pairs of training seed and task with a score above this."],
        pictures=pictures,
    )


def bill_section(evaluation: Evaluation) -> page.Section:
    rows = [["training", f"{evaluation.training_steps:,}"]]
    for name, result in evaluation.results.items():
        seen = result.adaptation_steps[..., -1].mean()
        rows.append([f"evaluation of {name}: in all", f"{int(result.env_steps.sum()):,}"])
        rows.append([f"evaluation of {name}: in a task before its last episode", f"{seen:,.0f}"])
    return page.Section("Environment steps", table=page.Table(["", "primitive steps"], rows))


EPISODES = (  # the one schema of per-episode data; one row an episode
    "agent",  # as tables call it
    "training_seed",  # of its run; empty for an agent without training
    "repeat",  # of the evaluation, from 0, with other resets
    "rollout",  # from 0, of the episodes that the agent runs at once in a round
    "task",  # its number in the split
    "task_id",  # of `skillmeta.tasks.base.task_id`
    "class",  # of the task; empty where the family has none
    "episode",  # of the trial, from 0
    "explored",  # 1 if it serves to find out about the task
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
    ids = [task_id(task) for task in evaluation.tasks]
    for name, result in evaluation.results.items():
        seeds = evaluation.training_seeds[name] or ("",)
        for at in np.ndindex(result.returns.shape):
            seed, repeat, rollout, task, k = at
            where = [
                name,
                seeds[seed],
                repeat,
                rollout,
                task,
                ids[task],
                evaluation.groups[task],
                k,
                int(result.explored[k]),
            ]
            succeeded = [int(result.success[at]), int(result.success_at_end[at])]
            writer.writerow([*where, f"{result.returns[at]:.6g}", *succeeded, result.env_steps[at]])
    return out.getvalue()


def scores_text(evaluation: Evaluation) -> str:
    """A few lines for the terminal."""
    score = "success" if succeeds(evaluation) else "returns"
    lines = []
    for name in evaluation.results:
        every, returns = evaluation.estimates(name, score), evaluation.estimates(name, "returns")
        ends = f"episode 0 {every[0].text()}, last {every[-1].text()}"
        lines.append(f"{name:<14} {NAMES[score]}: {ends}; return of the last {returns[-1].text()}")
    return "\n".join(lines)
