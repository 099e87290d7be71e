"""The config of a training run: one kind for `finetune` and `meta-train`, and for every method of an ablation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal

from omegaconf import DictConfig

from skillmeta.collect.failures import EnvironmentConfig
from skillmeta.config import (
    DeviceName,
    NonNegativeInt,
    OptionsOf,
    PositiveFloat,
    PositiveInt,
    build,
    check_config,
    checked,
    module_of,
    to_plain,
)
from skillmeta.errors import ConfigError, UserError
from skillmeta.programs.start import StartConfig
from skillmeta.run.trackers import TrackerName
from skillmeta.tasks.base import TaskConfig


@checked
class EvaluationConfig:
    """How the policy is evaluated: at the end of a run on one task, and while it trains."""

    episodes: PositiveInt = 20  # at the end, of the policy as it samples, and as many of its mode
    every: PositiveInt | None = None  # primitive steps between evaluations while it trains; null: none
    tasks: PositiveInt = 10  # of the split `validation`, at most, that these are on; fine-tuning's are on its own task
    trial_episodes: NonNegativeInt = 2  # K that an agent adapts on there; K + 1 are run
    repeats: PositiveInt = 1  # trials in each task, with other resets


@checked
class TrainConfig:
    """One learner with one seed, on one task or on the tasks of a split."""

    FORMER_KEYS: ClassVar[dict[str, str]] = {"chunk": "envs_per_batch"}

    kind: Literal["finetune", "meta-train"] = "finetune"  # on the task task.index of a split, or on tasks drawn from it
    task: TaskConfig = field(default_factory=TaskConfig)  # what is learned
    skills: str | None = None  # folder of a skill model; null acts in the environment's own actions
    skill_prior: Literal["state", "marginal"] = "state"  # p(z|s), or one Gaussian for all states, a reference
    start: StartConfig | None = None  # a trained agent that fine-tuning begins with; null: with none
    see_task: bool = False  # append the task's features to what is observed: an oracle, a reference agent for others
    # what learns: its name, and the keys of that module's `Config`
    algorithm: Annotated[dict[str, Any], OptionsOf("algorithms")] = field(default_factory=lambda: {"name": "sac"})
    env_steps: PositiveInt = 100_000  # primitive steps of training, all methods alike
    max_episodes: PositiveInt | None = None  # stop after this many episodes even if steps are left
    device: DeviceName = "cpu"  # that learns; auto: an accelerator where there is one; acting is on the CPU
    num_envs: PositiveInt = 1  # environments in lockstep, for learners that ask for single episodes
    processes: PositiveInt | Literal["ray"] = 1  # that trials are run in; ray: of a cluster (docs/cluster.md)
    envs_per_batch: PositiveInt = 256  # environments that share a policy's forward pass in trials
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)  # how the trained policy is evaluated
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)  # what is done where one fails
    health: Literal["stop", "warn", "off"] = "warn"  # where losses are beyond reason; a NaN ends the run in any case
    trackers: list[TrackerName] = field(default_factory=list)  # that show its metrics too, in its folder
    checkpoint_seconds: PositiveFloat = 30.0  # between two checkpoints
    seed: NonNegativeInt = 0  # training seed
    # of kind finetune: training seeds that one process trains, their updates as one, each in OUT/seed-K; empty: `seed` alone
    stack_seeds: list[NonNegativeInt] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.skill_prior != "state" and self.skills is None:
            raise ValueError(
                f"skill_prior is {self.skill_prior!r} and skills is null; name a skill model, or leave it out"
            )
        if self.start is not None and (self.kind != "finetune" or self.num_envs != 1):
            raise ValueError("start is of kind: finetune, with num_envs: 1; leave it out, or set these")
        if len(set(self.stack_seeds)) != len(self.stack_seeds):
            raise ValueError(f"stack_seeds repeats itself: {self.stack_seeds}")
        if "name" not in self.algorithm:
            raise ValueError("algorithm has no name; say which one, e.g. algorithm: {name: sac}")


DEFAULTS = {  # of a kind, where a config leaves them out
    "finetune": TrainConfig(),
    "meta-train": TrainConfig("meta-train", TaskConfig(split="train"), algorithm={"name": "rl2"}, env_steps=1_000_000),
}


def train_config(node: DictConfig | Mapping[str, Any], kind: str | None = None, at: str = "") -> TrainConfig:
    """A config of training, with the defaults of its kind.

    Args:
        kind: what the command expects; None takes what the config says.

    Raises ConfigError if the config is of another kind.
    """
    found = node.get("kind")
    if kind is not None and found not in (None, kind):
        raise ConfigError(f"{at + '.' if at else ''}kind is {found!r}; use `skillmeta {found}`, or set kind={kind}")
    return build(TrainConfig, node, at, DEFAULTS.get(str(kind or found), DEFAULTS["finetune"]))


def config_of_run(folder: Path, node: DictConfig | Mapping[str, Any]) -> TrainConfig:
    """The config that a run has kept, its skill model and the run that it started from where they are now: a path that is relative
    to the folder that the run was started from may be read from another one. Raises ConfigError for an invalid config and UserError
    if there is no such folder."""
    config = build(TrainConfig, node, str(folder / "config.yaml"))
    if config.skills is not None:
        config = replace(config, skills=found_again(config.skills, folder, "skill model"))
    if config.start is not None:
        run = found_again(config.start.run, folder, "run that it starts from,")
        config = replace(config, start=replace(config.start, run=run))
    return config


def found_again(path: str, folder: Path, what: str) -> str:
    """Where a path of a run's config is, relative to here or to a folder above the run. Raises UserError if it is in none."""
    if Path(path).is_absolute() or Path(path).is_dir():
        return path
    for above in folder.resolve().parents:
        if (above / path).is_dir():
            return str(above / path)
    raise UserError(
        f"{folder / 'config.yaml'}: the {what} {path} is neither in this folder nor in one above the run; start from the folder "
        "that the run was started from, or put it back"
    )


def algorithm_of(config: TrainConfig, at: str = "") -> tuple[ModuleType, Any]:
    """The module that a config names as its algorithm, and its `Config`, filled. Raises ConfigError if they do not exist."""
    options = dict(config.algorithm)
    module = module_of("algorithms", name := options.pop("name"), f"{at}.algorithm.name".strip("."))
    if not hasattr(module, "Learner"):
        raise ConfigError(f"algorithm.name is {name!r}; the module {module.__name__} has no class `Learner`")
    check_config(module)
    return module, build(module.Config, options, f"{at}.algorithm".strip("."))


def complete_config(plain: Mapping[str, Any], algorithm: str) -> dict[str, Any]:
    """A config with every default, without what is done about failures; those of its algorithm only if that is the named one, which
    the user vouches for. Whether a run is one of a stack is part of it, which other seeds the stack has is not."""
    config = train_config(plain)
    full: dict[str, Any] = to_plain(config)
    for key in ("environment", "health", "device", "trackers"):  # may change from session to session
        del full[key]
    full["stack_seeds"] = [0] if config.stack_seeds else []
    if config.algorithm["name"] == algorithm:
        _, options = algorithm_of(config)
        full["algorithm"] = {"name": algorithm, **to_plain(options)}
    return full
