"""The commands as functions: `import skillmeta; skillmeta.finetune("downstream/maze_spirl", "runs/spirl", seed=1)`.

Each takes a config (the name of one that comes with the package, a file, or a mapping), the folder of its results, and changes to
the config's keys. It does what the command does: it resumes what was interrupted, and returns at once what is finished. A key with
a dot is written with two underscores, `training__beta=1e-3`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from omegaconf import DictConfig, OmegaConf

from skillmeta.config import build, load, override, stack
from skillmeta.errors import ConfigError, UserError, first_line
from skillmeta.programs.ablate import AblationConfig
from skillmeta.programs.ablate import ablate as run_ablation
from skillmeta.programs.evaluate import EvaluateConfig, run_evaluation
from skillmeta.programs.pretrain import PretrainConfig
from skillmeta.programs.pretrain import pretrain as run_pretraining
from skillmeta.programs.train import train
from skillmeta.programs.train_config import train_config
from skillmeta.programs.vary import Varied, is_one_run, planned
from skillmeta.reading import read_npz
from skillmeta.run.files import write_npz
from skillmeta.run.guard import check_guard
from skillmeta.run.run import read_metrics
from skillmeta.skills.vae import SkillModel

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

Config = str | Path | Mapping[str, Any]


@dataclass(frozen=True, repr=False)
class Result:
    """What a command left in its folder."""

    folder: Path
    numbers: dict[str, Any]  # of result.json or summary.json

    def __repr__(self) -> str:
        kind, scores = _main_scores(self.numbers)
        return f"<{kind} in {self.folder}: {scores}; page {self.page}>"

    @property
    def page(self) -> Path:
        """The page of the results; it is there if matplotlib is installed."""
        return self.folder / "report.html"

    def frame(self) -> pandas.DataFrame:
        """Its table as a pandas frame: metrics of a run, a row an iteration; runs of an ablation; episodes of an
        evaluation, and of an ablation of meta-training alone.

        Raises UserError if pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UserError("frames need the package pandas: in the clone, pip install -e '.[frames]'") from None
        rows = read_metrics(self.folder)
        for name in ("results.csv", "episodes.csv"):
            if not rows and (self.folder / name).exists():
                return pandas.read_csv(self.folder / name)
        return pandas.DataFrame(rows)

    def plot(self, *columns: str) -> Figure:
        """Columns of a run's metrics against its steps; by default return and success, of skills the losses.

        Raises UserError if matplotlib is not installed, or for a column that no row has.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise UserError("plots need the package matplotlib: in the clone, pip install -e '.[report]'") from None
        rows = [row for row in read_metrics(self.folder) if row["kind"] == "iteration"]
        if not rows:
            raise UserError(
                f"{self.folder}: has no metrics of one run; look at {self.page}, or plot columns of frame()"
            )
        found = sorted({name for row in rows for name, value in row.items() if isinstance(value, int | float)})
        usual = ("return", "success") if "return" in found else ("reconstruction", "kl", "prior_nll")
        chosen = columns or tuple(name for name in usual if name in found)
        if unknown := [name for name in chosen if name not in found]:
            raise UserError(f"{self.folder}: no row of the metrics has {unknown[0]!r}; there are {', '.join(found)}")
        against = "env_steps" if "env_steps" in found else "steps"
        figure = Figure(figsize=(5 * len(chosen), 3.5), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(chosen), squeeze=False)[0], chosen, strict=True):
            some = [row for row in rows if name in row]
            axes.plot([row[against] for row in some], [row[name] for row in some])
            axes.set(xlabel=against.replace("_", " "), ylabel=name)
        return figure


@dataclass(frozen=True, repr=False)
class SkillResult(Result):
    """A finished pretraining."""

    @property
    def model(self) -> SkillModel:
        return SkillModel.load(self.folder)


def pretrain(
    config: Config, out: str | Path, *, logs: Mapping[str, np.ndarray] | None = None, **changes: Any
) -> SkillResult:
    """Learn skills and their prior from logs, as `skillmeta skills` does.

    Args:
        logs: arrays as in an NPZ file of logs (`observations`, `actions`, ...), in place of the config's `source`; they are kept in
            `out`/logs.npz.
    """
    check_guard("pretrain")
    out = Path(out)
    if logs is not None:
        if not isinstance(logs, Mapping):
            raise UserError(
                f"logs is a {type(logs).__name__}, and arrays by name are expected; of a file it is source=FILE"
            )
        _keep(out, {name: _array(name, values) for name, values in logs.items()})
        changes["source"] = str(out / "logs.npz")
    made = build(PretrainConfig, _resolved(config, changes))
    return SkillResult(out, _finished(run_pretraining(made, out, _call("pretrain", config, out, changes), quiet=True)))


def finetune(config: Config, out: str | Path, *, env: str | gymnasium.Env | None = None, **changes: Any) -> Result:
    """Learn one task, as `skillmeta finetune` does.

    Args:
        env: the id of a registered Gymnasium environment, or one that `gymnasium.make` made, in place of the config's task.
    """
    check_guard("finetune")
    changes |= _task_of(env)
    made = train_config(_resolved(config, changes), "finetune")
    return Result(Path(out), _finished(train(made, Path(out), _call("finetune", config, out, changes), quiet=True)))


def meta_train(config: Config, out: str | Path, **changes: Any) -> Result:
    """Learn to learn a family's tasks, as `skillmeta meta-train` does."""
    check_guard("meta_train")
    made = train_config(_resolved(config, changes), "meta-train")
    return Result(Path(out), _finished(train(made, Path(out), _call("meta_train", config, out, changes), quiet=True)))


def evaluate(config: Config, out: str | Path, *, trust: bool = False, **changes: Any) -> Result:
    """Trials of agents and of reference agents in every task of a split, as `skillmeta evaluate` does."""
    check_guard("evaluate")
    node = load(config, folder="tasks") if isinstance(config, str | Path) else OmegaConf.create(dict(config))
    node = OmegaConf.create({"task": node}) if "family" in node else node
    command = _call("evaluate", config, out, changes)
    _finished(run_evaluation(build(EvaluateConfig, _changed(node, changes)), Path(out), command, trust=trust))
    return Result(Path(out), json.loads((Path(out) / "summary.json").read_text()))


def ablate(
    config: Config, out: str | Path, *, vary: Mapping[str, Sequence[Any]] | None = None, **changes: Any
) -> Result:
    """Methods x tasks x seeds, as `skillmeta ablate` does. Raises UserError if some runs failed.

    Args:
        vary: keys of a config of `finetune`, `meta_train` or `pretrain`, and the values that each takes; `seeds` and `workers` may
            then stand among the changes. {"training.beta": [1e-3, 1e-2]}; two underscores are a dot here, too. As `--seeds 2`,
            `seeds=2` is the seeds 0 and 1.
    """
    check_guard("ablate")
    if "seeds" in changes:
        changes["seeds"] = _seeds(changes["seeds"])
    name = str(config) if isinstance(config, str | Path) else "config"
    if vary is None:
        node = _resolved(config, changes)
        if is_one_run(node):
            raise ConfigError(f"{name}: this is the config of one run; pass vary={{KEY: [VALUE, VALUE]}}")
        made = build(AblationConfig, node)
    else:
        seeds, workers = changes.pop("seeds", None), changes.pop("workers", None)
        for key, values in vary.items():
            if isinstance(values, str) or not isinstance(values, Iterable):
                raise ConfigError(f"vary: {key} is {values!r}; write a list of values")
        keys = [Varied(_dotted(key), tuple(_json(value) for value in values)) for key, values in vary.items()]
        made = planned(_resolved(config, changes), name, keys, seeds, workers).config
        changes |= {"vary": dict(vary)} | ({} if seeds is None else {"seeds": seeds})
    outcome = run_ablation(made, Path(out), _call("ablate", config, out, changes))
    if outcome.failed:
        raise UserError("; ".join(f"{name}: {why}" for name, why in outcome.failed.items()))
    _finished(None if outcome.stopped else outcome)
    return Result(Path(out), json.loads((Path(out) / "summary.json").read_text()))


def _main_scores(numbers: Mapping[str, Any]) -> tuple[str, str]:
    """What kind of result has these numbers, and what to say of it in a line."""
    for kind, key in (("skills", "verdict"), ("ablation", "headline")):
        if sentences := numbers.get(key):
            return kind, str(sentences[0]).rstrip(".")
    if agents := numbers.get("results"):  # by agent: estimates of each episode
        key = "success" if all(one.get("success") for one in agents.values()) else "returns"
        listed = ", ".join(f"{name} {one[key][-1]['value']:.3g}" for name, one in agents.items())
        return "evaluation", f"{key} in the last episode: {listed}"
    chosen = [key for key in ("success", "success_last", "return", "return_last") if key in numbers]
    return "run", ", ".join(f"{key} {numbers[key]:.3g}" for key in chosen) or "no scores"


def _array(name: str, values: Any) -> np.ndarray:
    """One of the arrays of logs. Raises UserError for what is none, as lists of unequal lengths are."""
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise UserError(f"logs[{name!r}]: is no array of numbers ({first_line(error)})") from None
    if array.dtype.hasobject:
        raise UserError(f"logs[{name!r}]: is no array of numbers (it holds Python objects)")
    return array


def _keep(out: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays that skills are learned from into `out`. Raises UserError if the skills there are of others."""
    kept = out / "logs.npz"
    if kept.exists() and (out / "config.yaml").exists():  # without a run in it, nothing was learned from what is kept
        if not _equal(read_npz(kept), arrays):
            raise UserError(
                f"{kept}: holds other arrays than `logs`, and the skills in {out} are of those; use another out"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    write_npz(kept, arrays)


def _equal(some: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> bool:
    """Whether arrays have the same names, types, shapes and bytes; a NaN equals itself."""

    def same(one: np.ndarray, other: np.ndarray) -> bool:
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()

    return some.keys() == others.keys() and all(same(some[name], others[name]) for name in some)


def _task_of(env: str | gymnasium.Env | None) -> dict[str, Any]:
    """The section `task` that stands for an environment, if one was named."""
    if env is None:
        return {}
    if not isinstance(env, str | gymnasium.Env):
        raise UserError(
            f"env is a {type(env).__name__}; the id of a registered environment is expected, or one environment that "
            "gymnasium.make made (num_envs=N, a key of the config, learns in several)"
        )
    try:
        spec = gymnasium.spec(env) if isinstance(env, str) else env.spec
    except gymnasium.error.Error as error:
        raise UserError(f"env is {env!r}: {first_line(error)}") from None
    if not isinstance(env, str):
        _check_layers(env)
    if spec is None:
        raise UserError(f"{env}: is not registered, so it cannot be made again; gymnasium.register it, and pass its id")
    options: dict[str, Any] = {"id": spec.id} | ({"kwargs": dict(spec.kwargs)} if spec.kwargs else {})
    if spec.max_episode_steps not in (None, gymnasium.spec(spec.id).max_episode_steps):
        options["max_episode_steps"] = spec.max_episode_steps
    return {"task": {"family": "gym", "options": options}}


def _check_layers(env: gymnasium.Env) -> None:
    """Raises UserError for wrappers beyond those of `gymnasium.make`: the environment is made again from what is registered."""
    while isinstance(env, gymnasium.Wrapper):
        if not isinstance(env, PassiveEnvChecker | OrderEnforcing | TimeLimit):
            raise UserError(
                f"env has the wrapper {type(env).__name__}, and is made again from what is registered, without it; register an "
                "entry point that wraps it, and pass its id"
            )
        env = env.env


def _call(name: str, config: Config, out: str | Path, changes: Mapping[str, Any]) -> str:
    """The call, for the pages of its results."""
    said = [repr(str(config) if isinstance(config, Path) else config), repr(str(out))]
    return f"skillmeta.{name}({', '.join([*said, *(f'{key}={value!r}' for key, value in changes.items())])})"


def _resolved(config: Config, changes: Mapping[str, Any]) -> DictConfig:
    node = load(config) if isinstance(config, str | Path) else stack(OmegaConf.create(), OmegaConf.create(dict(config)))
    return _changed(node, changes)


def _changed(node: DictConfig, changes: Mapping[str, Any]) -> DictConfig:
    return override(node, [f"{_dotted(name)}={_json(value)}" for name, value in changes.items()])


def _dotted(name: str) -> str:
    """A key as configs write it."""
    return name.replace("__", ".")


def _seeds(value: Any) -> Any:
    """Training seeds; a number is that of the seeds from 0 on. Raises ConfigError for what is neither a number nor a list."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return list(range(value))
    if value is None or (isinstance(value, Iterable) and not isinstance(value, str | Mapping)):
        return None if value is None else list(value)
    raise ConfigError(f"seeds is {value!r}; write how many, or a list of them")


def _json(value: Any) -> str:
    """A value of a key, as text: also a path, a result, which stands for its folder, and NumPy's numbers."""

    def plain(other: Any) -> Any:
        if isinstance(other, Result):
            return str(other.folder)
        if isinstance(other, Path):
            return str(other)
        if isinstance(other, np.generic | np.ndarray):
            return other.tolist()
        raise UserError(
            f"a change of the config is a {type(other).__name__}; numbers, text, lists and mappings are expected"
        )

    return json.dumps(value, default=plain)


def _finished(result: Any) -> Any:
    """Raises KeyboardInterrupt for a run that was stopped: the same call resumes it."""
    if result is None:
        raise KeyboardInterrupt("stopped before the end; the same call resumes from the last checkpoint")
    return result
