"""What a task and a family of tasks are.

A task is a frozen dataclass of numbers, texts and tuples of them: hashable, printable, JSON both ways, the same in every
process. A family is a value too: named splits of tasks, and an environment whose `reset(options={"task": task})` sets one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs

from skillmeta.config import build, module_of, to_plain
from skillmeta.errors import ConfigError, UserError

Task = Any  # a frozen dataclass; families differ in its fields
ANY = "any"  # the split of fresh draws from the whole distribution


class Expert(Protocol):
    """Acts in one environment whose task it may look at: `env.unwrapped.task`."""

    def __call__(self, observation: np.ndarray) -> Any: ...  # [O] -> [A] in the environment's own units, or an index


@dataclass(frozen=True)
class TaskFamily:
    """A distribution over tasks, and the environment that they live in.

    Args:
        name: what configs call it.
        version: raised whenever the same config would give other tasks, rewards or dynamics.
        definition: what is drawn, seen, done and rewarded, and where that comes from; printed by `skillmeta tasks`.
        horizon: primitive steps of an episode, at most.
        splits: the fixed tasks of each named split; `train` and `test` at least, others where the literature has them.
        make_env: makes one environment. Its reset sets the task from `options["task"]`; without one the task stays. Its info
            has `task` (plain values) and `success`.
        draw_task: a fresh task; the split "any". A family without it has only its fixed ones.
        features: what an oracle sees of a task, float32 [F]; by default its numbers.
        facts: what else is worth telling of a task in tables, by name.
        group: the class that a task belongs to, for tables; "" where there are none.
        native: N environments as arrays, where stepping them one by one would be slow; see `skillmeta.tasks.native`.
        expert: a policy that knows the task, made after every reset.
        shaped_reward: what may be learned from instead, where a task's own reward is sparse: rewards [N, T] of episodes in a task.
            It is there for training alone; what is judged, and what an agent is shown of a task, is the task's own reward.
        positions, coverage, draw: x and y [..., 2] of observations [..., O], and after them whatever else coverage asks for;
            the share of the world that positions [N, 2 or more] have visited; the world's outline, and a task where given, on
            matplotlib axes.
    """

    name: str
    version: int
    definition: str
    horizon: int
    splits: Mapping[str, Sequence[Task]]
    make_env: Callable[[], gymnasium.Env]
    draw_task: Callable[[np.random.Generator], Task] | None = None
    features: Callable[[Task], np.ndarray] = field(default=lambda task: numbers(task))
    facts: Callable[[Task], dict[str, Any]] = field(default=lambda task: {})
    group: Callable[[Task], str] = field(default=lambda task: "")
    native: Callable[[int], Any] | None = None
    expert: Callable[[gymnasium.Env, np.random.Generator], Expert] | None = None
    shaped_reward: Callable[[Task, Any], np.ndarray] | None = None
    positions: Callable[[np.ndarray], np.ndarray] | None = None
    coverage: Callable[[np.ndarray], float] | None = None
    draw: Callable[[Any, Task | None], None] | None = None

    def tasks(self, split: str) -> tuple[Task, ...]:
        """The fixed tasks of a split. Raises UserError, naming the splits, if there is no such one."""
        if split not in self.splits:
            named = ", ".join(self.splits)
            raise UserError(f"{self.name}: there is no split {split!r} of fixed tasks; choose one of {named}")
        return tuple(self.splits[split])

    def sample(self, generator: np.random.Generator, split: str = "train") -> Task:
        """One task: of a split, each equally likely, or of the whole distribution ("any")."""
        if split == ANY and self.draw_task is not None:
            return self.draw_task(generator)
        tasks = self.tasks(split)
        return tasks[int(generator.integers(len(tasks)))]


def to_json(task: Task) -> str:
    """One line of JSON with sorted keys: equal tasks, equal text."""
    return json.dumps(to_plain(task), sort_keys=True, allow_nan=False)


def from_json(kind: type, text: str) -> Task:
    """The task of class `kind` that `to_json` wrote. Raises ConfigError for text that is no such task."""
    try:
        plain = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"task: is not JSON ({error})") from None
    return build(kind, plain, "task")


def task_id(task: Task) -> str:
    """Eight hexadecimal digits that name a task in tables and files, the same in every process."""
    return hashlib.sha256(to_json(task).encode()).hexdigest()[:8]


def numbers(task: Task) -> np.ndarray:
    """All numbers in a task's fields, in their order, float32 [F]."""

    def walk(value: Any) -> list[float]:
        if isinstance(value, (tuple, list)):
            return [number for item in value for number in walk(item)]
        return [float(value)] if isinstance(value, (int, float)) else []

    return np.array([n for f in dataclasses.fields(task) for n in walk(getattr(task, f.name))], np.float32)


@dataclass(frozen=True)
class TaskConfig:
    """Which task. `family` names a module of skillmeta.tasks, or a dotted module of your own with `Config` and `family`."""

    family: str = "maze"
    split: str = "test"
    index: int = 0
    options: dict[str, Any] = field(default_factory=dict)  # the family's Config

    def __post_init__(self) -> None:
        if self.index < 0:
            raise ValueError(f"index is {self.index}; tasks are counted from 0")


def make_family(config: TaskConfig) -> TaskFamily:
    """The family that a config names. Raises ConfigError for a family or an option that there is not."""
    module = module_of("tasks", config.family, "task.family")
    if not hasattr(module, "family"):
        raise ConfigError(f"task.family is {config.family!r}; the module {module.__name__} has no function `family`")
    made = module.family(build(module.Config, config.options, "task.options"))
    if not isinstance(made, TaskFamily):
        raise ConfigError(f"task.family: {module.__name__}.family returns a {type(made).__name__}, not a TaskFamily")
    return made


def chosen_task(family: TaskFamily, config: TaskConfig) -> Task:
    tasks = family.tasks(config.split)
    if config.index >= len(tasks):
        raise ConfigError(f"task.index is {config.index}; split {config.split!r} has tasks 0 to {len(tasks) - 1}")
    return tasks[config.index]


# -- as a registered Gymnasium environment ---------------------------------------------------------------------------------
ENVIRONMENT = "skillmeta/Task-v0"


def environment_spec(config: TaskConfig) -> EnvSpec:
    """What `gymnasium.make` needs to make a family's environment again in another process: an entry point given by name, and
    plain keywords. Data sets carry it, so that Minari can recover the environment that they were recorded in."""
    kwargs = {
        "family": config.family,
        "split": config.split,
        "index": config.index,
        "options": to_plain(config.options),
    }
    return EnvSpec(ENVIRONMENT, entry_point="skillmeta.tasks.base:make_env", kwargs=kwargs, disable_env_checker=True)


def make_env(
    family: str,
    split: str = "test",
    index: int = 0,
    options: dict[str, Any] | None = None,
    render_mode: str | None = None,
) -> gymnasium.Env:
    """One environment of a family, whose task is the split's `index`-th until another is set.

    `gymnasium.make("skillmeta/Task-v0", family="maze")` once `skillmeta.tasks` is imported.
    """
    config = TaskConfig(family, split, index, options or {})
    made = make_family(config)
    return FirstTask(made.make_env(), chosen_task(made, config))


class FirstTask(gymnasium.Wrapper, RecordConstructorArgs):
    """Sets a task at the first reset that names none."""

    def __init__(self, env: gymnasium.Env, task: Task):
        RecordConstructorArgs.__init__(self, task=task)
        gymnasium.Wrapper.__init__(self, env)
        self.first: Task | None = task

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if self.first is not None:
            options = {"task": self.first, **(options or {})}
            self.first = None
        return self.env.reset(seed=seed, options=options)
