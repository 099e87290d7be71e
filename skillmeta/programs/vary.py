"""An ablation without YAML: one config, the keys of it that vary, and their values. And how long it will take.

Every combination of the values is a method. A key of pretraining that a config of training names, `training.beta` for example,
varies the skill models: the pretraining that made the config's `skills` is done again for each of its values and each seed.
"""

from __future__ import annotations

import copy
import itertools
import re
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from skillmeta.config import build, override, read_yaml, to_plain
from skillmeta.errors import ConfigError, UserError
from skillmeta.programs.ablate import AblationConfig, make_jobs, pretraining_jobs, run_one
from skillmeta.programs.pretrain import PretrainConfig
from skillmeta.programs.train_config import TrainConfig, complete_config, train_config
from skillmeta.reading import read_json
from skillmeta.run.jobs import Job
from skillmeta.run.run import STOP_FILE, is_finished, read_metrics
from skillmeta.run.signals import times_asked
from skillmeta.trust import check_modules

PIECE_SECONDS = 10.0  # of training that is timed, a run
LOOK_SECONDS = 0.25
OF_TRAINING = {f.name for f in fields(TrainConfig)}
OF_SKILLS = {f.name for f in fields(PretrainConfig)}
ELSEWHERE = {  # keys that are no values of a method: what to do instead
    "env_steps": "methods are compared on equal steps; set it once, as env_steps=N",
    "max_episodes": "methods are compared on equal budgets; set it once, as max_episodes=N",
    "kind": "an ablation without YAML is of one kind of run",
    "seed": "use --seeds N",
    "training.seed": "use --seeds N",
}


@dataclass(frozen=True)
class Varied:
    """A key, and the values that it takes, as they are written on the command line."""

    key: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Varied:
        """`key=a,b`; commas inside brackets are part of a value. Raises ConfigError."""
        key, equals, values = text.partition("=")
        found = tuple(part.strip() for part in re.split(r",(?![^\[{]*[\]}])", values))
        if not equals or not key or "" in found or len(found) < 2:
            raise ConfigError(f"--vary {text!r}: two values or more are expected, as in training.beta=1e-3,1e-2")
        return cls(key, found)

    def chosen(self, value: str) -> str:
        return f"{self.key}={value}"


@dataclass(frozen=True)
class Plan:
    """What is going to be run."""

    config: AblationConfig
    skills: str | None = None  # a model that is there, of the sizes of those that are pretrained: for timing


def is_one_run(config: DictConfig) -> bool:
    """Whether this is a config of training or of pretraining, in which nothing varies."""
    of_one = (OF_TRAINING | OF_SKILLS) - {one.name for one in fields(AblationConfig)}
    return "methods" not in config and bool(of_one & set(config))


def planned(
    config: DictConfig, name: str, vary: Sequence[Varied], seeds: Sequence[int] | None, workers: int | None = None
) -> Plan:
    """The ablation in which keys of a config vary.

    Args:
        config: of `skillmeta finetune`, `meta-train` or `skills`, called `name`.
        seeds: training seeds; None: three, from the config's own on.

    Raises ConfigError for a key that there is not, or that cannot vary, and for a value that another one equals.
    """
    if "methods" in config:
        raise ConfigError(f"{name}: is a config of an ablation, which says itself what varies; use it without --vary")
    if {"dataset", "family", "agents", "oracle"} & set(config):
        raise ConfigError(f"{name}: --vary takes a config of `skillmeta finetune`, `meta-train` or `skills`")
    for one in vary:
        if one.key in ELSEWHERE:
            raise ConfigError(f"--vary {one.key}: {ELSEWHERE[one.key]}")
    if len({one.key for one in vary}) < len(vary):
        raise ConfigError("--vary names a key twice; write all of its values behind one")
    stacked = [
        *(config.pop("stack_seeds", None) or ())
    ]  # its seeds; here each run is one of its own, which a piece times
    seeds = stacked or None if seeds is None else seeds
    common: dict[str, Any] = {
        "title": f"{name}: {', '.join(one.key for one in vary)}",
        "claim": "Every combination of the values; all else is as in the config.",
        "seeds": list(range(3)) if seeds is None else list(seeds),
    } | ({} if workers is None else {"workers": workers})
    of_pretraining = [one for one in vary if _section(one) not in OF_TRAINING]
    if "source" in config:
        sections, _ = _combinations(config, vary, lambda node: to_plain(build(PretrainConfig, node)))
        return Plan(build(AblationConfig, {**common, "methods": {}, "skills": sections}))
    skills = config.get("skills")
    if of_pretraining:
        base, check = _pretraining(skills, of_pretraining[0]), lambda node: to_plain(build(PretrainConfig, node))
        sections, own_section = _combinations(base, of_pretraining, check)
        common["skills"] = sections
    else:
        sections, own_section = {"": None}, ""
    tasks = next((one.values for one in vary if one.key == "task.index"), (str(_index(config)),))
    rest = [one for one in vary if one not in of_pretraining and one.key != "task.index"]
    methods, own = _combinations(config, rest, _complete)
    named: dict[str, Any] = {}
    for (model, section), (method, node) in itertools.product(sections.items(), methods.items()):
        called = "_".join(part for part in (model, method) if part) or "config"
        named[called] = {**node, "skills": model} if section is not None else node
    reference = "_".join(part for part in (own_section, own) if part)
    common["reference"] = reference if reference in named else next(iter(named))
    common["tasks"] = [_number(one) for one in tasks]
    return Plan(build(AblationConfig, {**common, "methods": named}), skills)


def _section(one: Varied) -> str:
    return one.key.partition(".")[0]


def _index(config: DictConfig) -> int:
    return train_config(config).task.index


def _number(text: str) -> int | str:
    return int(text) if text.isdigit() else text  # else the config says that it is none


def _complete(node: DictConfig) -> Any:
    config = train_config(node)
    return complete_config(to_plain(config), config.algorithm["name"])


def _pretraining(skills: Any, one: Varied) -> DictConfig:
    """The config of the pretraining that made a skill model. Raises ConfigError where there is none."""
    if _section(one) not in OF_SKILLS:
        raise ConfigError(f"--vary {one.key}: is a key neither of training nor of pretraining")
    file = Path(str(skills)) / "config.yaml"
    if skills is None or not file.exists():
        where = "skills is null" if skills is None else f"skills is {skills}, which holds no run of pretraining"
        raise ConfigError(f"--vary {one.key}: is a key of the pretraining of skills, and {where}; pretrain them first")
    node = read_yaml(file)
    check_modules({"task": node.get("task")}, file, False)
    return OmegaConf.create(node)


def _combinations(
    base: DictConfig, vary: Sequence[Varied], complete: Callable[[DictConfig], Any]
) -> tuple[dict[str, Any], str | None]:
    """Every combination of values as a config by name, and the name of the one that is the config as it stands."""
    own: list[str] | None = []
    before = complete(base)
    for one in vary:
        seen: dict[str, Any] = {}
        for value in one.values:
            made = complete(_changed(base, [one.chosen(value)]))
            twin = next((other for other, known in seen.items() if known == made), None)
            if twin is not None:
                raise ConfigError(f"--vary {one.key}: {twin} and {value} are the same")
            seen[value] = made
        mine = next((value for value, made in seen.items() if made == before), None)
        own = None if own is None or mine is None else [*own, mine]
    short = [one.key.rpartition(".")[2] for one in vary]
    labels = [key if short.count(key) == 1 else one.key for key, one in zip(short, vary, strict=True)]

    def called(values: Sequence[str]) -> str:
        text = "_".join(f"{label}-{value}" for label, value in zip(labels, values, strict=True))
        return re.sub(r"[^\w.-]+", "-", text).strip("-")

    found = {}
    for values in itertools.product(*(one.values for one in vary)):
        changes = [one.chosen(value) for one, value in zip(vary, values, strict=True)]
        found[called(values)] = OmegaConf.to_container(_changed(base, changes), resolve=True)
    if len(found) < len(list(itertools.product(*(one.values for one in vary)))):
        raise ConfigError("--vary: two values have one name as a folder; name them apart")
    return found, None if own is None else called(own)


def _changed(base: DictConfig, changes: Sequence[str]) -> DictConfig:
    return override(copy.deepcopy(base), changes)


# -- how long --------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Piece:
    """What was found out in a short piece of a run."""

    seconds: float  # that the whole run will take, at the speed of the piece
    learned: bool  # whether the piece came to updates


def said(plan: Plan, out: Path) -> str:
    """How many runs there are: a sentence, before anything is made."""
    config = plan.config
    jobs, models = make_jobs(config, out, ""), pretraining_jobs(config, out, "")
    parts = []
    if models:
        parts.append(f"{len(models)} skill models ({len(config.skill_sections)} settings x {len(config.seeds)} seeds)")
    if jobs:
        per = len(jobs) // (len(config.methods) * len(config.seeds))
        tasks = f" x {per} tasks" if per > 1 else ""
        methods, seeds = len(config.methods), len(config.seeds)
        parts.append(
            f"{len(jobs)} run{'s' * (len(jobs) > 1)} ({methods} method{'s' * (methods > 1)}{tasks} x {seeds} "
            f"seed{'s' * (seeds > 1)})"
        )
    left = sum(not is_finished(job.folder) for job in [*models, *jobs])
    there = len(models) + len(jobs) - left
    return f"{' and '.join(parts)}, {config.workers} at once" + (f"; {there} are done" if there else "")


def estimated(plan: Plan, out: Path) -> str:
    """How long what is left will take, from short timed pieces of its first and last runs: a sentence."""
    config = plan.config
    kinds = (pretraining_jobs(config, out, ""), make_jobs(config, out, ""))
    total, learned, timed = 0.0, True, []
    for jobs in kinds:
        left = [job for job in jobs if not is_finished(job.folder)]
        if not left:
            continue
        ends = [left[0]] if len({str(to_plain(job.payload[0])) for job in left}) == 1 else [left[0], left[-1]]
        pieces = [time_piece(_before_models(job, plan)) for job in ends]
        total += len(left) * sum(piece.seconds for piece in pieces) / len(pieces)
        learned &= all(piece.learned for piece in pieces)
        timed += [job.name for job in ends]
    if not timed:
        return "nothing is left to be done"
    how = "about" if learned else "at least"
    why = "" if learned else ", in which no update was made yet"
    return (
        f"{how} {duration(total / config.workers)}: training alone, at the speed of {PIECE_SECONDS:.0f} s of "
        f"{', '.join(timed)}{why}; evaluations and pages come on top"
    )


def _before_models(job: Job, plan: Plan) -> Job:
    """A run, as it can be timed before its skill model is there."""
    config, command = job.payload
    if isinstance(config, TrainConfig) and plan.config.skill_sections and config.skills is not None:
        config = replace(config, skills=plan.skills)
    return replace(job, payload=(config, command))


def time_piece(job: Job, seconds: float = PIECE_SECONDS) -> Piece:
    """Train a piece of a run in a folder of its own, and forget it. Raises KeyboardInterrupt where the user stops it."""
    with tempfile.TemporaryDirectory() as folder:
        place, seen, asked = Path(folder) / "piece", list[tuple[float, float, bool]](), threading.Event()
        over = threading.Event()

        def look() -> None:
            while not over.wait(LOOK_SECONDS):
                try:
                    share = float(read_json(place / "progress.json")["fraction"])
                except (UserError, KeyError, TypeError, ValueError):
                    continue
                if not seen or share > seen[-1][1]:
                    seen.append((time.monotonic(), share, _updated(place, job)))
                if time.monotonic() - seen[0][0] > seconds and not asked.is_set():
                    asked.set()
                    (place / STOP_FILE).touch()

        began, before = time.monotonic(), times_asked()
        watch = threading.Thread(target=look, daemon=True)
        watch.start()
        try:
            run_one(replace(job, folder=place))
        finally:
            over.set()
            watch.join()
        if times_asked() > before:
            raise KeyboardInterrupt
        return measured(began, time.monotonic(), seen)


def _updated(folder: Path, job: Job) -> bool:
    if isinstance(job.payload[0], PretrainConfig):
        return True
    rows = read_metrics(folder)
    return bool(rows and rows[-1].get("updates", 0))


def measured(began: float, ended: float, seen: Sequence[tuple[float, float, bool]]) -> Piece:
    """The seconds of a whole run, from moments of a piece: (when, the share that was done, whether updates were made)."""
    learning = [one for one in seen if one[2]]
    used = learning if len(learning) > 1 else list(seen)
    if len(used) > 1 and used[-1][1] > used[0][1]:
        return Piece((used[-1][0] - used[0][0]) / (used[-1][1] - used[0][1]), bool(learning))
    return Piece((ended - began) / (used[-1][1] if used else 1.0), bool(learning) or not seen)


def duration(seconds: float) -> str:
    """In words: hours, minutes or seconds."""
    if seconds < 60:
        return f"{seconds:.0f} seconds" if seconds >= 1.5 else "1 second"
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"
