"""From run folders to arrays: what each method scored, along steps and along episodes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from skillmeta.config import NonNegativeInt, PositiveInt, build, check_file_name, checked, read_yaml, to_plain
from skillmeta.errors import ConfigError, UserError
from skillmeta.evaluation.statistics import Scores, interval
from skillmeta.run.run import read_metrics, read_result
from skillmeta.trust import check_links

WINDOW = 10  # training episodes that success and return are averaged over
POINTS = 60  # of a curve


@checked
class Spaced:
    """Tasks by a rule that looks at no result: at evenly spaced ranks of one of the family's facts, within the methods' split."""

    count: PositiveInt  # how many
    by: str  # e.g. path_cells of the maze; `skillmeta tasks PRESET` lists the facts


@checked
class Comparison:
    """What an ablation compares: the part of its config that its page needs."""

    title: str = "Ablation"  # of the page
    claim: str = ""  # what the page's reader should look for, a sentence or two
    methods: dict[str, Any] = field(default_factory=dict)  # name: a config of `finetune`, or changes and `config:`
    reference: str | None = None  # the method that the others are compared with; null: the last of `methods`
    tasks: list[NonNegativeInt] | Spaced = field(default_factory=lambda: [0])  # indices, or {count: 3, by: path_cells}
    seeds: list[NonNegativeInt] = field(default_factory=lambda: [0, 1, 2])  # training seeds

    def __post_init__(self) -> None:
        for name in ("methods", "tasks", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; at least one is needed")
        for name in ("tasks", "seeds"):
            chosen = getattr(self, name)
            if isinstance(chosen, list) and len(set(chosen)) != len(chosen):
                raise ValueError(f"{name} repeats itself: {chosen}")
        for method in self.methods:
            check_file_name(method, "methods: a name")
        if self.reference is not None and self.reference not in self.methods:
            raise ValueError(f"reference is {self.reference!r}; choose one of methods: {', '.join(self.methods)}")


@dataclass(frozen=True)
class RunRecord:
    """One finished run."""

    method: str
    task: int
    seed: int
    folder: Path
    result: dict[str, Any]
    episodes: list[dict[str, Any]]  # rows of its iterations, in order
    updates: list[dict[str, Any]]  # those of them with updates


@dataclass(frozen=True)
class Curve:
    """One quantity of one method along a common axis."""

    x: np.ndarray  # [G]
    values: np.ndarray  # [G, training seeds, tasks]
    trials: int | None = None  # episodes that a value is the share of, where it is one

    def means(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Means over seeds and tasks, and the ends of their 95 % intervals for new seeds on these tasks, [G] each."""
        return self.values.mean((1, 2)), *interval(Scores(self.values, self.trials))


@dataclass(frozen=True)
class Ablation:
    """What there is of an ablation on disk."""

    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    runs: list[RunRecord]
    missing: list[str]  # runs that have no result yet

    @property
    def methods(self) -> list[str]:
        """Methods of which at least one seed is complete over all tasks, in the config's order."""
        return [name for name in self.config["methods"] if self.complete_seeds(name)]

    @property
    def tasks(self) -> list[int]:
        return list(self.config["tasks"])

    def complete_seeds(self, method: str) -> list[int]:
        """Seeds that a method has finished on every task."""
        have = {(run.seed, run.task) for run in self.runs if run.method == method}
        return [seed for seed in self.config["seeds"] if all((seed, task) in have for task in self.tasks)]

    def of(self, method: str) -> list[list[RunRecord]]:
        """Finished runs as [seed][task], complete seeds only."""
        index = {(run.seed, run.task): run for run in self.runs if run.method == method}
        return [[index[seed, task] for task in self.tasks] for seed in self.complete_seeds(method)]

    @property
    def reference(self) -> str:
        """The method that others are compared with."""
        return str(self.config.get("reference") or list(self.config["methods"])[-1])

    def values(self, method: str, key: str) -> np.ndarray:
        """A number of a run's result, [training seeds, tasks]."""
        return np.array([[run.result[key] for run in row] for row in self.of(method)], float)

    def scores(self, method: str, key: str) -> Scores:
        """A score of the final evaluation: `success`, a share of its episodes, or `return`."""
        trials = int(self.values(method, "num_episodes").min()) if key == "success" else None
        return Scores(self.values(method, key), trials)

    def paired(self, method: str, other: str, key: str) -> tuple[Scores, Scores]:
        """A score of two methods for the training seeds that both have finished."""
        seeds = [self.complete_seeds(name) for name in (method, other)]
        both = [seed for seed in seeds[0] if seed in seeds[1]]
        a, b = (
            Scores(scores.values[[own.index(seed) for seed in both]], scores.trials)
            for own, scores in zip(seeds, (self.scores(method, key), self.scores(other, key)), strict=True)
        )
        return a, b


def read_ablation(folder: Path, trust: bool = False) -> Ablation:
    """What an ablation has written so far, as data: nothing that it names is imported.

    `trust` admits links that lead out of the folder. Raises UserError for a folder whose config or runs are damaged.
    """
    check_links(folder, trust)
    config = read_yaml(folder / "config.yaml")
    compared = {f.name: config[f.name] for f in fields(Comparison) if f.name in config}
    try:
        comparison = build(Comparison, compared)
    except ConfigError as error:
        raise ConfigError(f"{folder / 'config.yaml'}: {error}") from None
    if isinstance(comparison.tasks, Spaced):  # an ablation writes the indices that its rule has given
        raise ConfigError(f"{folder / 'config.yaml'}: tasks is a rule; a list of indices is expected")
    config |= to_plain(comparison)
    runs, missing = [], []
    for method in config["methods"]:
        for task in config["tasks"]:
            for seed in config["seeds"]:
                where = folder / "methods" / method / f"task-{task}" / f"seed-{seed}"
                try:
                    result, rows = read_result(where), read_metrics(where)
                except ValueError as error:
                    raise UserError(
                        f"{where}: a line is damaged ({error}); delete this run's folder and run it again"
                    ) from None
                if result is None or not any(row["kind"] == "iteration" for row in rows):
                    missing.append(f"{method} task {task} seed {seed}")
                    continue
                episodes = [row for row in rows if row["kind"] == "iteration"]
                updates = [row for row in episodes if any("/" in name for name in row)]
                runs.append(RunRecord(method, task, seed, where, result, episodes, updates))
    try:
        environment = json.loads((folder / "environment.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder / 'environment.json'}: cannot be read ({error}); run the ablation's command again"
        ) from None
    return Ablation(folder, config, environment, runs, missing)


def training_curve(ablation: Ablation, method: str, key: str, axis: str, window: int = WINDOW) -> Curve:
    """Mean of `key` over the last `window` training episodes, at points along `axis` (`env_steps` or `episodes`).

    Along steps every run goes to the end of the budget: a run that stopped after enough episodes keeps its last value. Along
    episodes the curve ends where the first run of the method ends. Before `window` episodes, the mean is over those there are.
    """
    rows = ablation.of(method)
    runs = [run for row in rows for run in row]
    ends = [run.episodes[-1][axis] for run in runs]
    end = max(ends) if axis == "env_steps" else min(ends)
    first = max(run.episodes[0][axis] for run in runs)
    x = np.unique(np.linspace(min(first, end), end, POINTS).round().astype(int))
    values = np.stack(
        [[running(run.episodes, key, axis, x, window) for run in row] for row in rows]
    )  # [seeds, tasks, G]
    return Curve(x, np.moveaxis(values, -1, 0), window if key == "success" else None)


def running(rows: Sequence[dict[str, Any]], key: str, axis: str, x: np.ndarray, window: int) -> np.ndarray:
    """The mean of the last `window` rows at or before each x, [G]."""
    at = np.array([row[axis] for row in rows])
    sums = np.concatenate([[0.0], np.cumsum([float(row[key]) for row in rows])])
    seen = np.searchsorted(at, x, side="right").clip(1)
    start = (seen - window).clip(0)
    return (sums[seen] - sums[start]) / (seen - start)


def update_curve(ablation: Ablation, method: str, key: str) -> Curve | None:
    """A metric of the updates along environment steps; None if the method does not log it."""
    rows = ablation.of(method)
    if not rows or not all(run.updates and key in run.updates[-1] for row in rows for run in row):
        return None
    runs = [run for row in rows for run in row]
    first = max(run.updates[0]["env_steps"] for run in runs)
    end = max(run.updates[-1]["env_steps"] for run in runs)
    x = np.unique(np.linspace(first, end, POINTS).round().astype(int))
    values = np.stack([[running(run.updates, key, "env_steps", x, 1) for run in row] for row in rows])
    return Curve(x, np.moveaxis(values, -1, 0))


def paths(run: RunRecord, when: str) -> list[np.ndarray]:
    """Where the run's `early` or `final` episodes went, [T, 2] each; empty for a family without positions."""
    file = run.folder / "trajectories.npz"
    if not file.exists():
        return []
    try:
        with np.load(file, allow_pickle=False) as archive:
            return [archive[name] for name in archive.files if name.startswith(when)]
    except Exception as error:  # numpy and zipfile raise half a dozen kinds
        raise UserError(
            f"{file}: is damaged ({type(error).__name__}); delete this run's folder and run it again"
        ) from None
