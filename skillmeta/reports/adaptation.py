"""Sections about an evaluation: how agents do in each episode of their trials, beside reference agents, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from skillmeta.evaluation.adaptation import SCORES, Evaluation
from skillmeta.evaluation.statistics import Estimate, written
from skillmeta.reports import plots
from skillmeta.reports.html import Section, Table
from skillmeta.reports.sections import comparison, picture
from skillmeta.tasks.base import TaskFamily

NAMES = {
    "returns": "return", "success": "success at any step", "success_at_end": "success at the end",
    "solved": "success in any episode so far",
}  # fmt: skip
GREYS = ("#555555", "#999999", "#bbbbbb")  # of reference agents that belong to no agent


def scores_of(evaluation: Evaluation) -> list[str]:
    return [score for score in SCORES if score == "returns" or evaluation.succeeds]


def colours_of(evaluation: Evaluation, methods: Mapping[str, str]) -> dict[str, str]:
    """Agents have their methods' colours, and so have the same agents without adaptation."""
    found = plots.palette(evaluation.agents) | {name: methods[name] for name in evaluation.agents if name in methods}
    for agent, roles in evaluation.references.items():
        found |= {name: found[agent] for role, name in roles.items() if role == "no adaptation"}
    others = [name for name in evaluation.results if name not in found]
    return found | {name: GREYS[i % len(GREYS)] for i, name in enumerate(others)}


def sections(
    evaluation: Evaluation,
    methods: Mapping[str, str],
    family: TaskFamily | None,
    folder: Path,
    reference: str | None = None,
) -> list[Section | None]:
    """All that is to be said of an evaluation.

    Args:
        family: whose map paths are drawn on.
        methods: colours of those of its agents that have one.
        reference: the agent that others are compared with; by default the last one.
    """
    colours, scores = colours_of(evaluation, methods), scores_of(evaluation)
    return [
        episode_by_episode(evaluation, colours, scores, folder),
        first_and_last(evaluation, scores),
        between_agents(evaluation, scores, reference),
        against_references(evaluation, scores),
        *(by_class(evaluation, score) for score in scores[:2]),
        benchmark(evaluation),
        where(evaluation, colours, family, folder),
        profiles(evaluation, colours, scores[:2], folder),
        cost(evaluation),
    ]


def episode_by_episode(evaluation: Evaluation, colours: Mapping[str, str], scores: list[str], folder: Path) -> Section:
    pictures = []
    sampled = {
        name: np.array([evaluation.how(name, k) != "mode" for k in range(evaluation.episodes)])
        for name in evaluation.results
    }
    dashed = [name for name in evaluation.results if name not in evaluation.references]
    for score in scores:
        series = {name: evaluation.means(name, score) for name in evaluation.results}
        figure = plots.adaptation_figure(series, sampled, colours, NAMES[score], dashed)
        caption = (
            f"{NAMES[score]}: mean over training seeds and tasks, and its 95 % interval where there is one. Hollow marks: actions "
            "were sampled; filled marks: the policy took its mode. Dashed: reference agents."
        )
        pictures.append(picture(figure, f"adaptation_{score}", caption, folder))
    text = [evaluation.claim]
    exploring = [name for name in evaluation.agents if evaluation.results[name].explored.any()]
    for name in exploring:
        count = int(evaluation.results[name].explored.sum())
        text.append(
            f"{name} explores in its first {count} episode{'s' if count > 1 else ''}, to find out about the task."
        )
    return Section("Episode by episode", text, pictures=pictures)


def cell(evaluation: Evaluation, name: str, score: str, k: int) -> str:
    how = evaluation.how(name, k)
    return evaluation.estimates(name, score)[k].text() + (f" ({how})" if how else "")


def first_and_last(evaluation: Evaluation, scores: list[str]) -> Section:
    last = evaluation.episodes - 1
    rows = [
        [name, seeds_text(evaluation, name), *(cell(evaluation, name, score, k) for score in scores for k in (0, last))]
        for name in evaluation.results
    ]
    head = ["", "training seeds"]
    for score in scores:
        head += [f"{NAMES[score]}, episode 0", f"episode {last}"]
    text = (
        "Mean over training seeds and tasks [95 % interval], and whether actions were sampled or the policy's mode. Every task "
        "counts the same, however long its episodes are. With one training seed there is no interval; actors that are not trained "
        "have no seeds (-)."
    )
    return Section("First and last episode", [text], Table(head, rows))


def seeds_text(evaluation: Evaluation, name: str) -> str:
    seeds = evaluation.training_seeds[name]
    return str(len(seeds)) if len(seeds) > 1 else "one seed" if seeds else "-"


def between_agents(evaluation: Evaluation, scores: list[str], reference: str | None = None) -> Section | None:
    """The reference agent against each other one; they were evaluated on the same tasks and resets."""
    if len(evaluation.agents) < 2:
        return None
    last = evaluation.episodes - 1
    reference = reference if reference in evaluation.agents else evaluation.agents[-1]
    found = evaluation.between(reference)
    rows = [
        [NAMES[score], name, difference.text("+.3g"), comparison(difference)]
        for score in scores
        for name, difference in found[score].items()
    ]
    how = ", ".join(f"{name} {evaluation.how(name, last)}" for name in evaluation.agents)
    text = (
        f"In the last episode, paired by task and training seed [95 % interval]. Actions: {how}. Training budgets are in the "
        "table of environment steps."
    )
    return Section(
        f"{reference} minus each other agent", [text], Table(["score", "agent", "difference", "shown"], rows)
    )


def against_references(evaluation: Evaluation, scores: list[str]) -> Section | None:
    """Each agent against its reference agents, in the last episode."""
    if not evaluation.agents:
        return None

    def share(place: Estimate | None) -> str:
        return "" if place is None or not np.isfinite(place.value) else place.text(".0%")

    rows, last = [], evaluation.episodes - 1
    for agent in evaluation.agents:
        differences, places = evaluation.differences(agent), evaluation.places(agent)
        for score in scores:
            for name, difference in differences[score].items():
                how = f"{agent} ({evaluation.how(agent, last)})"
                rows.append([how, NAMES[score], name, difference.text("+.3g"), share(places[score].get(name))])
    text = [
        "The agent minus its reference in the last episode, paired by task [95 % interval]. An interval that contains zero shows "
        "no difference. The last column is how much of the way from that reference to the oracle the agent gets; it has no "
        "interval where the two do not differ clearly. Random actions and the oracle enter with their mean in each task: what "
        "they would score with other training seeds or other draws is not part of these intervals."
    ]
    head = ["agent", "score", "reference agent", "difference", "of the way to the oracle"]
    return Section("Against reference agents", text, Table(head, rows))


def by_class(evaluation: Evaluation, score: str) -> Section | None:
    if len(set(evaluation.groups)) < 2:
        return None
    names, last = list(evaluation.results), evaluation.episodes - 1
    rows = [[group, *(written(found[name]) for name in names)] for group, found in evaluation.by_group(score).items()]
    head = [f"{name} ({how})" if (how := evaluation.how(name, last)) else name for name in names]
    return Section(f"{NAMES[score]}, last episode, by class of tasks", table=Table(["class", *head], rows))


def benchmark(evaluation: Evaluation) -> Section | None:
    """The benchmark's own number beside ours, from the same episodes."""
    stated = evaluation.benchmark
    if stated is None:
        return None
    rows = []
    for name, value in stated.values.items():
        result = evaluation.results[name]
        rows.append([name, f"{result.success[..., ~result.explored].mean():.2f}", f"{value:.2f}"])
    head = ["", "success, every environment alike", stated.label]
    return Section(stated.title, [stated.text], Table(head, rows))


def profiles(evaluation: Evaluation, colours: Mapping[str, str], scores: list[str], folder: Path) -> Section:
    pictures = []
    for score in scores:
        series = {name: result.last(score).values for name, result in evaluation.results.items()}
        figure = plots.profiles_figure(series, colours, NAMES[score])
        pictures.append(picture(figure, f"profile_{score}", f"Last episode, {NAMES[score]}.", folder))
    text = ["The share of pairs of training seed and task with a score above this."]
    return Section("Performance profiles", text, pictures=pictures)


def where(
    evaluation: Evaluation, colours: Mapping[str, str], family: TaskFamily | None, folder: Path
) -> Section | None:
    """Paths of each agent in each episode of its trial in the first task."""
    if not evaluation.paths or family is None or family.draw is None:
        return None
    draw, task = family.draw, family.tasks(evaluation.split)[0]
    panels = []
    for name, episodes in evaluation.paths.items():
        for k, lines in enumerate(episodes):
            how = evaluation.how(name, k)
            panels.append((f"{name}, episode {k}" + (f" ({how})" if how else ""), lines, colours[name]))
    figure = plots.paths_figure(panels, lambda axes: draw(axes, task), evaluation.episodes)
    caption = "Episodes of each agent's trial in the first task, first training seed. A path ends at its dot."
    return Section("Where agents went", pictures=[picture(figure, "paths_episodes", caption, folder)])


def cost(evaluation: Evaluation) -> Section:
    rows = []
    for name, steps in evaluation.training_steps.items():
        rows.append([f"training of {name}: a training seed", f"{np.mean(steps):,.0f}"])
        if len(steps) > 1:
            rows.append([f"training of {name}: all {len(steps)} training seeds", f"{sum(steps):,}"])
    for name, result in evaluation.results.items():
        seen = result.adaptation_steps[..., -1].mean()
        rows.append([f"evaluation of {name}: in all", f"{int(result.env_steps.sum()):,}"])
        rows.append([f"evaluation of {name}: in a task before its last episode", f"{seen:,.0f}"])
    return Section("Environment steps", table=Table(["", "primitive steps"], rows))
