"""What runs have left on disk, as data: nothing that a folder names is imported."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from skillmeta.config import (
    NonNegativeInt,
    PositiveInt,
    build,
    check_file_name,
    checked,
    differences,
    read_yaml,
    to_plain,
)
from skillmeta.errors import ConfigError, UserError
from skillmeta.evaluation.adaptation import Adaptation, BenchmarkTable, Evaluation, joined
from skillmeta.evaluation.statistics import Scores
from skillmeta.reading import AGAIN, NUMBER, OPTIONAL_NUMBER, MapOf, expect, read_json, read_npz, verify
from skillmeta.run.run import read_metrics, read_result

DELETE = "delete it and run the command again"
MACHINE = ("cpu", "cores", "system")
MODEL_RESULT = {  # of a pretraining run; what is only shown may be anything
    "source": str,
    "verdict": [str],
    "held_out": {
        **dict.fromkeys(("kl", "prior_kl", "prior_nll", "unconditional_nll", "windows"), NUMBER),
        **dict.fromkeys(("error_by_action", "error_by_action_prior", "action_variance"), [NUMBER]),
        **dict.fromkeys(("active_dimensions", "dimensions"), object),
    },
    "rollouts": [
        {
            "name": str,
            "episodes": int,
            "env_steps": int,
            **dict.fromkeys(("coverage", "total_coverage", "success"), OPTIONAL_NUMBER),
        }
    ],
}
EVALUATION_RESULT = {
    **dict.fromkeys(("family", "split"), str),
    **dict.fromkeys(("tasks", "groups", "notes"), [str]),
    "actors": MapOf(int),
    "repeats": int,
    **dict.fromkeys(("training_seeds", "training_steps"), MapOf([int])),
    "references": MapOf(MapOf(str)),
    "new_tasks": bool,
    "benchmark": (dict, type(None)),
}
WINDOW_EPISODES, WINDOW_ROWS = 10, 5  # a point of a training curve is the mean of at least so many of both


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
    # name: a config of training, or changes and `config:`; none where skill models are compared
    methods: dict[str, Any] = field(default_factory=dict)
    reference: str | None = None  # the method that the others are compared with; null: the last of `methods`
    tasks: list[NonNegativeInt] | Spaced = field(
        default_factory=lambda: [0]
    )  # of kind finetune; {count: 3, by: path_cells}
    seeds: list[NonNegativeInt] = field(default_factory=lambda: [0, 1, 2])  # training seeds

    def __post_init__(self) -> None:
        for name in ("tasks", "seeds"):
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
    """One training run, finished or not. Rows are those of its metrics.jsonl, in order."""

    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]  # the command that made it, versions, machine
    result: dict[str, Any] | None
    rows: list[
        dict[str, Any]
    ]  # of its iterations: what training scored, and what the learner logs under names with a slash
    held_out: list[dict[str, Any]]  # evaluations on held-out tasks while it trained

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def row_episodes(self) -> int:
        """Episodes that each row of training scores is the mean of, at least."""
        ends = [int(row.get("episodes", 1)) for row in self.rows]
        return max(1, min(after - before for before, after in zip([0, *ends], ends, strict=False)))

    @property
    def window(self) -> int:
        """Rows that a point of a training curve is the mean of."""
        return max(WINDOW_ROWS, -(-WINDOW_EPISODES // self.row_episodes))

    def last(self, key: str) -> float:
        """Mean of a training score over the last window of rows that state it."""
        return float(np.mean([row[key] for row in self.rows if key in row][-self.window :]))


@dataclass(frozen=True)
class ModelRecord:
    """One pretraining run of a skill model."""

    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    result: dict[str, Any]
    rows: list[dict[str, Any]]  # of its metrics.jsonl


@dataclass(frozen=True)
class Study:
    """Training runs side by side: those of an ablation, or some that were named."""

    methods: Mapping[
        str, list[list[RunRecord]]
    ]  # name -> runs as [training seed][task]; one column for all tasks of a split
    title: str = ""
    claim: str = ""
    tasks: Sequence[int] = ()  # indices of an ablation's tasks
    reference: str | None = None  # the method that others are compared with
    missing: Sequence[str] = ()  # runs that have no result yet
    planned: int = 0  # runs of an ablation, finished or not
    config: Mapping[str, Any] | None = None  # of an ablation
    environment: Mapping[str, Any] | None = None
    starts: Sequence[RunRecord] = ()  # that methods of an ablation start from, as far as they have finished
    apart: Sequence[str] = ()  # sentences on runs that may have been taken for training seeds of one method

    def runs(self, method: str) -> list[RunRecord]:
        return [run for row in self.methods[method] for run in row]

    @property
    def every(self) -> list[RunRecord]:
        return [run for name in self.methods for run in self.runs(name)]

    @property
    def notes(self) -> list[str]:
        """`apart`, and what results say of themselves: each sentence once, with the methods that it is about if not about all."""
        said: dict[str, dict[str, None]] = {}
        named = [(name, run) for name in self.methods for run in self.runs(name)]
        for name, run in [*named, *((f"the start {run.folder.parent.name}", run) for run in self.starts)]:
            for note in (run.result or {}).get("notes", ()):
                said.setdefault(str(note), {})[name] = None
        return [
            *self.apart,
            *(note if [*of] == [*self.methods] else f"{', '.join(of)}: {note}" for note, of in said.items()),
        ]

    def seeds(self, method: str) -> list[int]:
        """Training seeds that a method has finished on every task."""
        return [row[0].seed for row in self.methods[method]]

    def has(self, method: str, key: str) -> bool:
        """Whether the results of all runs of a method state a number."""
        return all(run.result is not None and key in run.result for run in self.runs(method))

    def values(self, method: str, key: str) -> np.ndarray:
        """A number of the results, [training seeds, tasks]; every run of the method must have it."""
        return np.array([[(run.result or {})[key] for run in row] for row in self.methods[method]], float)

    def scores(self, method: str, key: str) -> Scores:
        """A score of the final evaluation: a share of its episodes where the name has `success` in it."""
        trials = int(self.values(method, "num_episodes").min()) if "success" in key else None
        return Scores(self.values(method, key), trials)

    def paired(self, method: str, other: str, key: str) -> tuple[Scores, Scores]:
        """A score of two methods for the training seeds that both have finished."""
        both = [seed for seed in self.seeds(method) if seed in self.seeds(other)]
        a, b = (
            Scores(scores.values[[self.seeds(name).index(seed) for seed in both]], scores.trials)
            for name, scores in ((one, self.scores(one, key)) for one in (method, other))
        )
        return a, b


def of_all_tasks(config: Mapping[str, Any]) -> bool:
    """Whether a run's config trains on all tasks of a split, not on one task."""
    return bool(config.get("kind", "finetune") != "finetune")


def read_run(folder: Path) -> RunRecord:
    """Raises UserError for a folder without a training run, or a damaged one."""
    if not (folder / "config.yaml").exists():
        raise UserError(f"{folder}: holds no run; name the --out of a training command")
    verify(folder)
    config = read_yaml(folder / "config.yaml")
    rows, result = read_metrics(folder), read_result(folder)
    where = read_environment(folder) if (folder / "environment.json").exists() else {"command": ""}
    with as_expected(folder / "config.yaml"):
        expect(config, {"seed": int}, "")
        expect(config.get("env_steps", 1), int, "env_steps")
        expect(config.get("task", None) or {}, dict, "task")
        expect(config.get("algorithm", None) or {}, dict, "algorithm")
    with as_expected(folder / "metrics.jsonl"):
        expect(rows, [{"kind": str, "env_steps": int}], "row")
        if any("episodes" in row for row in rows):
            expect(rows, [{"episodes": int}], "row")
    with as_expected(folder / "result.json"):
        stated = dict(result or {})
        expect(stated.pop("notes", []), [str], "notes")
        expect(stated.pop("device", ""), str, "device")
        expect(stated, MapOf(NUMBER), "")
    iterations = [row for row in rows if row["kind"] == "iteration"]
    held_out = [row for row in rows if row["kind"] == "evaluation"]
    return RunRecord(folder, config, where, result, iterations, held_out)


@contextlib.contextmanager
def as_expected(file: Path) -> Iterator[None]:
    """Raises UserError in the place of ValueError."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{file}: is damaged ({error}); {AGAIN}") from None


def read_environment(folder: Path) -> dict[str, Any]:
    """A folder's environment.json: where its results come from. Raises UserError for a damaged one."""
    path = folder / "environment.json"
    where = read_json(path)
    with as_expected(path):
        expect(where.get("versions", {}), dict, "versions")
        expect(where.get("machine") or dict.fromkeys(MACHINE), dict.fromkeys(MACHINE, object), "machine")
    return {**where, "command": str(where.get("command", ""))}


def read_model(folder: Path) -> ModelRecord | None:
    """A pretraining run; None where there is none that has finished. Raises UserError for a damaged one."""
    result = read_result(folder)
    if result is None:
        return None
    rows = read_metrics(folder)
    with as_expected(folder / "result.json"):
        expect(result, MODEL_RESULT, "")
        expect(result.get("notes", []), [str], "notes")
    with as_expected(folder / "metrics.jsonl"):
        expect(rows, [{"kind": str, "score": NUMBER, "steps": int}], "row")
    return ModelRecord(folder, read_yaml(folder / "config.yaml"), read_environment(folder), result, rows)


def read_study(folder: Path) -> Study:
    """What an ablation has written so far: methods of which at least one training seed is complete over all tasks.

    Raises UserError for a folder whose config or runs are damaged.
    """
    verify(folder, fix="run the ablation's command again")
    config = read_yaml(folder / "config.yaml")
    compared = {f.name: config[f.name] for f in fields(Comparison) if f.name in config}
    try:
        comparison = build(Comparison, compared)
    except ConfigError as error:
        raise ConfigError(f"{folder / 'config.yaml'}: {error}") from None
    if isinstance(comparison.tasks, Spaced):  # an ablation writes the indices that its rule has given
        raise ConfigError(f"{folder / 'config.yaml'}: tasks is a rule; a list of indices is expected")
    methods, missing, planned = {}, [], 0
    for method in comparison.methods:
        root = folder / "methods" / method
        columns = [f"task-{task}" for task in comparison.tasks] if not list(root.glob("seed-*")) else [""]
        complete = []
        for seed in comparison.seeds:
            row = []
            planned += len(columns)
            for column in columns:
                where = root / column / f"seed-{seed}"
                run = read_run(where) if (where / "config.yaml").exists() else None
                if run is None or run.result is None or not run.rows:
                    missing.append(" ".join([method, *([column.replace("-", " ")] if column else []), f"seed {seed}"]))
                else:
                    row.append(run)
            if len(row) == len(columns):
                complete.append(row)
        if complete:
            methods[method] = complete
    environment = read_environment(folder)
    starts = [read_run(one) for one in sorted(folder.glob("starts/*/seed-*")) if (one / "config.yaml").exists()]
    return Study(
        methods,
        comparison.title,
        comparison.claim,
        comparison.tasks,
        comparison.reference or next(reversed(comparison.methods), None),
        missing,
        planned,
        {**config, **to_plain(comparison)},
        environment,
        [run for run in starts if run.result is not None],
    )


def side_by_side(folders: Sequence[Path]) -> Study:
    """Runs that were named, by method: those whose configs differ in the seed alone. A method is called as its folders are, without
    the seed.

    Raises UserError for a folder without a run, or one that has not finished an iteration.
    """
    same: dict[str, list[RunRecord]] = {}
    for folder in folders:
        run = read_run(folder)
        if not run.rows:
            raise UserError(f"{folder}: has no iteration of training yet; run its command first")
        rest = {key: value for key, value in run.config.items() if key != "seed"}
        same.setdefault(json.dumps(rest, sort_keys=True), []).append(run)  # in whatever order they were written
    named: dict[str, list[list[RunRecord]]] = {}
    apart: list[str] = []
    for runs in same.values():
        path = runs[0].folder.resolve()
        seeds = [run.seed for run in runs]
        if len(set(seeds)) < len(seeds):
            listed = ", ".join(str(run.folder) for run in runs)
            raise UserError(f"{listed}: have one config and the training seeds {seeds}; name one run of each seed")
        of_a_seed = re.fullmatch(r"(seed)?[-_]?\d+", path.name)
        name = path.parent.name if of_a_seed else re.sub(r"[-_](seed)?[-_]?\d+$", "", path.name)
        if name in named:
            name, first = f"{name} {len(named) + 1}", name
            changed = [
                one for one in differences(named[first][0][0].config, runs[0].config) if one.split(":")[0] != "seed"
            ]
            apart.append(f"{name} is no {first} with another training seed, they differ in {'; '.join(changed[:3])}.")
        named[name] = [[run] for run in sorted(runs, key=lambda run: run.seed)]
    return Study(named, apart=apart)


def paths(run: RunRecord, when: str) -> list[np.ndarray]:
    """Where the run's `early` or `final` episodes went, [T, 2] each; empty for a family without positions."""
    file = run.folder / "trajectories.npz"
    if not file.exists():
        return []
    return [path for name, path in read_paths(file).items() if name.startswith(when)]


def read_paths(file: Path) -> dict[str, np.ndarray]:
    """Paths [T, 2] by name, without what the family's positions have beside x and y. Raises UserError for a damaged file."""
    arrays = read_npz(file)
    for name, path in arrays.items():
        if (
            path.ndim != 2
            or path.shape[1] < 2
            or not len(path)
            or path.dtype.kind != "f"
            or not np.isfinite(path).all()
        ):
            raise UserError(f"{file}, {name}: is no path of finite [T, 2]; {AGAIN}")
    return {name: path[:, :2] for name, path in arrays.items()}


def part(folder: Path, name: str, number: int, repeat: int) -> Path:
    """The file of what one actor did in one repeat of an evaluation. Raises UserError for a name that leaves the folder."""
    if "/" in name or os.sep in name or not name.isprintable():
        raise UserError(f"{folder / 'result.json'}: actors has {name[:100]!r}, which is no name of a file; {DELETE}")
    return folder / "parts" / f"{name.replace(', ', '-').replace(' ', '_')}-{number}-{repeat}.npz"


def paths_part(folder: Path, name: str) -> Path:
    """The file of where an actor went in the first task: `K/I` is episode K of the I-th rollout."""
    return part(folder, name, 0, 0).with_name(f"{part(folder, name, 0, 0).stem}-paths.npz")


def read_episode_paths(folder: Path, name: str, episodes: int) -> list[list[np.ndarray]]:
    """Paths of each episode of a trial in the first task. Raises UserError for a damaged file."""
    arrays = read_paths(paths_part(folder, name))
    return [[array for n, array in arrays.items() if n.startswith(f"{k}/")] for k in range(episodes)]


def read_part(path: Path, tasks: int, rounds: int | None = None) -> Adaptation:
    """What an actor did in one repeat, in so many tasks and rounds. Raises UserError for a damaged file."""
    arrays = read_npz(path, [f.name for f in fields(Adaptation)], fix=DELETE)
    shape = arrays["returns"].shape
    right = len(shape) == 5 and min(shape) > 0 and shape[3] == tasks and rounds in (None, shape[4])
    for name, values in arrays.items():
        of_rounds = name in ("explored", "sampled")
        kinds = "f" if name == "returns" else "biu" if name.endswith(("steps", "to_success")) else "b"
        if not right or values.shape != (shape[4:] if of_rounds else shape) or values.dtype.kind not in kinds:
            raise UserError(f"{path}, {name}: is {values.dtype} {values.shape} for {tasks} tasks; {DELETE}")
    if not np.isfinite(arrays["returns"]).all():
        raise UserError(f"{path}, returns: are not finite; {DELETE}")
    return Adaptation(**arrays)


def read_evaluation(folder: Path) -> Evaluation | None:
    """A finished evaluation; None where there is none. Raises UserError for a damaged one."""
    result = read_result(folder)
    if result is None:
        return None
    with as_expected(folder / "result.json"):
        expect(result, EVALUATION_RESULT, "")
        names, count = result["actors"].keys(), len(result["tasks"])
        referred = [name for roles in result["references"].values() for name in roles.values()]
        if (
            not names
            or not count
            or not {*result["references"], *referred} <= names
            or names != result["training_seeds"].keys()
        ):
            raise ValueError("actors, references and training_seeds are not of the same names")
        if len(result["groups"]) != count or min(result["repeats"], *result["actors"].values()) < 1:
            raise ValueError("tasks, groups and actors are not as many as each other")
        if result["training_steps"].keys() != result["references"].keys():
            raise ValueError("training_steps are not of the agents")
        if any(len(seeds) not in (0, result["actors"][name]) for name, seeds in result["training_seeds"].items()):
            raise ValueError("training_seeds are not as many as actors")
    try:
        results = {
            name: joined(
                [
                    joined([read_part(part(folder, name, i, repeat), count) for repeat in range(result["repeats"])], 1)
                    for i in range(number)
                ],
                0,
            )
            for name, number in result["actors"].items()
        }
        return Evaluation(
            family=str(result["family"]),
            split=str(result["split"]),
            tasks=tuple(result["tasks"]),
            groups=tuple(result["groups"]),
            results=results,
            training_seeds={name: tuple(seeds) for name, seeds in result["training_seeds"].items()},
            references=result["references"],
            training_steps={name: tuple(steps) for name, steps in result["training_steps"].items()},
            new_tasks=bool(result["new_tasks"]),
            reports_success=None if result.get("reports_success") is None else bool(result["reports_success"]),
            notes=tuple(result["notes"]),
            benchmark=BenchmarkTable(**result["benchmark"]) if result["benchmark"] else None,
            paths={
                name: read_episode_paths(folder, name, len(one.explored))
                for name, one in results.items()
                if name in result["references"] and paths_part(folder, name).exists()
            },
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{folder / 'result.json'}: is damaged ({error!r}); delete it and run the command again"
        ) from None
