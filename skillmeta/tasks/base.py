"""What a task and a family of tasks are.

A task is a frozen dataclass of numbers, strings and tuples of them: hashable, printable, JSON both ways, the same in every
process. A family is a value too: named splits of tasks, and an environment whose `reset(options={"task": task})` sets one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, Protocol

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs

from skillmeta.config import NonNegativeInt, OptionsOf, build, check_config, checked, is_builtin, module_of, to_plain
from skillmeta.errors import ConfigError, UserError
from skillmeta.seeds import Seeds
from skillmeta.types import Actor

Task = Any  # a frozen dataclass; families differ in its fields
ANY = "any"  # the split of fresh draws from the whole distribution, less the neighbourhoods of held-out tasks
VALIDATION = "validation"  # the split that configs are tuned on; test tasks are evaluated once, with the final config


class Expert(Protocol):
    """Acts in one environment whose task it may look at: `env.unwrapped.task`."""

    def __call__(self, observation: np.ndarray) -> Any: ...  # [O] -> [A] in the environment's own units, or an index


@dataclass(frozen=True)
class BenchmarkScore:
    """A score that the benchmark's own evaluator would state of the same episodes.

    Args:
        title, text, label: of its table, for readers.
        score: (primitive steps until the first success, or all of the episode's [environments, episodes]; success, bool of the
            same shape; the group of each environment) -> the score.
    """

    title: str
    text: str
    label: str
    score: Callable[[np.ndarray, np.ndarray, Sequence[str]], float]


@dataclass(frozen=True)
class TaskFamily:
    """A distribution over tasks, and the environment that they live in.

    Args:
        name: what configs call it.
        version: raised whenever the same config would give other tasks, rewards or dynamics.
        definition: what is drawn, seen, done and rewarded, and where that comes from; printed by `skillmeta tasks`.
        max_episode_steps: primitive steps of an episode, at most; a longer one is cut off. 0: as many as it takes.
        splits: the fixed tasks of each named split: `train`, `validation`, `test`, and others where the literature has them.
        make_env: makes one environment. Its reset sets the task from `options["task"]`; without one the task stays. Its info
            has `task` (plain values) and `success`.
        check: raises ConfigError for what is wrong with the environment that takes time to find; called once before a command runs.
        reports_success: whether `success` means anything; without it, nothing is said of it.
        tasks_differ: whether tasks were seen to differ; without it, that is said.
        draw_task: a fresh task; the split "any". A family without it has only its fixed ones.
        training_splits: the splits that may be trained on. Of the others, `validation` is for tuning and all the rest are test
            splits, which may share tasks with each other.
        distance, margin: tasks of a training, a validation and a test split differ, and their distance, in units that the
            definition states, is at least the margin; so is that of fresh draws from validation and test tasks. A margin of 0
            says that all splits are independent draws of one distribution, or share a finite set of tasks out.
        same_tasks: the benchmark trains and tests on the same tasks: `train`, `validation` and `test` are equal, and the
            definition says so.
        features: what an oracle sees of a task, float32 [F]; by default its numbers.
        facts: what else is worth telling of a task in tables, by name.
        group: the class that a task belongs to, for tables; "" where there are none.
        benchmark_score: shown beside ours, where the benchmark that the family is from counts otherwise.
        native: N environments as arrays, where stepping them one by one would be slow; see `skillmeta.tasks.batched`.
        expert: a policy that knows the task, made after every reset.
        bayes_optimal: what no agent that does not know the task does better than over trials of so many episodes, where that can be
            computed: an actor.
        shaped_reward: what may be learned from instead, where a task's own reward is sparse: rewards [N, T] of episodes in a task.
            It is there for training alone; what is evaluated, and what an agent is shown of a task, is the task's own reward.
        positions, coverage, draw: x and y [..., 2] of observations [..., O], and after them whatever else coverage asks for;
            the share of the world that positions [N, 2 or more] have visited; the world's outline, and a task where given, on
            matplotlib axes.
    """

    name: str
    version: int
    definition: str
    max_episode_steps: int
    splits: Mapping[str, Sequence[Task]]
    make_env: Callable[[], gymnasium.Env]
    check: Callable[[], None] = field(default=lambda: None)
    reports_success: bool = True
    tasks_differ: bool = True
    draw_task: Callable[[np.random.Generator], Task] | None = None
    training_splits: Sequence[str] = ("train", ANY)
    distance: Callable[[Task, Task], float] = field(default=lambda task, other: float(task != other))
    margin: float = 0.0
    same_tasks: bool = False
    features: Callable[[Task], np.ndarray] = field(default=lambda task: numbers(task))
    facts: Callable[[Task], dict[str, Any]] = field(default=lambda task: {})
    group: Callable[[Task], str] = field(default=lambda task: "")
    benchmark_score: BenchmarkScore | None = None
    native: Callable[[int], Any] | None = None
    expert: Callable[[gymnasium.Env, np.random.Generator], Expert] | None = None
    bayes_optimal: Callable[[int], Actor[Any]] | None = None
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
        """One task: of a split, each equally likely, or a fresh draw ("any") that keeps the margin from held-out tasks."""
        if split == ANY and self.draw_task is not None:
            return draw_tasks(self.draw_task, generator, 1, lambda task: self.apart(task, self.held_out))[0]
        tasks = self.tasks(split)
        return tasks[int(generator.integers(len(tasks)))]

    @cached_property
    def held_out(self) -> frozenset[Task]:
        """Every task that must not be trained on: those of validation and test splits."""
        if self.same_tasks:
            return frozenset()
        return frozenset(t for split, tasks in self.splits.items() if split not in self.training_splits for t in tasks)

    def apart(self, task: Task, others: Collection[Task]) -> bool:
        """Whether a task differs from all others and keeps the margin from them."""
        return task not in others and (
            self.margin == 0 or all(self.distance(task, other) >= self.margin for other in others)
        )

    def require_training_split(self, split: str) -> None:
        """Raises UserError, naming the splits that may be trained on, if this is none of them, or if it shares tasks with those."""
        trainable = [s for s in self.training_splits if s in self.splits or (s == ANY and self.draw_task is not None)]
        if split not in trainable:
            self.tasks(split)  # a split that does not exist is another error
            raise UserError(
                f"task.split is {split!r}, whose tasks are held out from training; choose {' or '.join(trainable)} "
                f"of {self.name}"
            )
        if shared := self.shared(split):
            raise UserError(
                f"task.split is {split!r}, of whose {len(self.tasks(split))} tasks {len(shared)} are held out from training or "
                f"nearer to those than {self.margin:g}, as {to_json(shared[0])}; give the splits of {self.name} different tasks, "
                "or say same_tasks=True where they are meant to be the same"
            )

    def shared(self, split: str) -> list[Task]:
        """Tasks of a training split that are no further than the margin from held-out ones."""
        if split not in self.training_splits:
            return []
        return [task for task in self.splits.get(split, ()) if not self.apart(task, self.held_out)]


def draw_tasks(
    draw: Callable[[np.random.Generator], Task],
    generator: np.random.Generator,
    count: int,
    keep: Callable[[Task], bool] = lambda task: True,
) -> tuple[Task, ...]:
    """So many different tasks: draws, in their order, less those that `keep` refuses.

    Raises UserError if 1000 draws a task do not give them.
    """
    drawn: dict[Task, None] = {}
    for _ in range(1000 * count):
        if len(drawn) == count:
            break
        task = draw(generator)
        if keep(task):
            drawn[task] = None
    if len(drawn) < count:
        raise UserError(
            f"{len(drawn)} of {count} tasks were found that differ and keep the margin from those of other splits; "
            "ask for fewer tasks in the family's options"
        )
    return tuple(drawn)


def validation_generator(tasks_seed: int) -> np.random.Generator:
    """What validation tasks are drawn with: a stream of its own, so that they leave the other splits as they are."""
    return Seeds(tasks_seed).stream("validation_tasks").numpy()


def evenly_spaced(family: TaskFamily, split: str, count: int, by: str) -> list[int]:
    """Indices of tasks at evenly spaced ranks of a fact, from the smallest to the largest; one alone is the median.

    A choice of a few tasks that looks at no result, for example three goals of a maze by `path_cells`. Where a task does not keep
    the family's margin from those chosen before it, the nearest rank that does takes its place.

    Raises UserError if `by` is no numeric fact of the family, or if the split has not so many tasks that are apart.
    """
    tasks = family.tasks(split)
    facts = [family.facts(task) for task in tasks]
    if not all(isinstance(fact.get(by), (int, float)) for fact in facts):
        known = ", ".join(name for name, value in facts[0].items() if isinstance(value, (int, float))) or "none"
        raise UserError(
            f"tasks.by is {by!r}, which is no number that {family.name} states of its tasks; it has: {known}"
        )
    order = sorted(range(len(tasks)), key=lambda i: (facts[i][by], i))
    last = len(tasks) - 1
    chosen: list[int] = []
    for rank in np.linspace(0, last, count) if count > 1 else [last / 2]:
        free = [r for r, i in enumerate(order) if family.apart(tasks[i], [tasks[j] for j in chosen])]
        if not free:
            raise UserError(
                f"tasks.count is {count}; split {split!r} of {family.name} has {len(chosen)} tasks that are apart by "
                f"{family.margin:g}; ask for fewer"
            )
        chosen.append(order[min(free, key=lambda r: abs(r - rank))])
    return chosen


def to_json(task: Task) -> str:
    """One line of JSON with sorted keys: equal tasks, equal text."""
    return json.dumps(to_plain(task), sort_keys=True, allow_nan=False)


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


@checked
class TaskConfig:
    """Which task. `family` names a module of skillmeta.tasks, or a module of your own with `Config` and `family`."""

    family: str = "maze"  # module of skillmeta.tasks, or yours
    split: str = "test"  # which of the family's tasks
    index: NonNegativeInt = 0  # of the task in its split, where one task is asked for
    options: Annotated[dict[str, Any], OptionsOf("tasks", named_by="family")] = field(default_factory=dict)


def make_family(config: TaskConfig) -> TaskFamily:
    """The family that a config names. Raises ConfigError for a family or an option that there is not."""
    module = module_of("tasks", config.family, "task.family")
    if not hasattr(module, "family"):
        raise ConfigError(f"task.family is {config.family!r}; the module {module.__name__} has no function `family`")
    check_config(module)
    options = build(module.Config, config.options, "task.options")
    try:
        made = module.family(options)
    except TypeError as error:
        called = error.__traceback__
        if str(error).startswith("TaskFamily.__init__()") or called is None or called.tb_next is None:
            raise ConfigError(f"{module.__name__}, family: {error}") from None  # what it calls, or how it is called
        raise
    if not isinstance(made, TaskFamily):
        raise ConfigError(f"task.family: {module.__name__}.family returns a {type(made).__name__}, not a TaskFamily")
    for split, tasks in made.splits.items():
        if not all(isinstance(task, Hashable) for task in tasks):
            raise ConfigError(
                f"the family {made.name}: tasks of split {split!r} are not hashable; make their class @dataclass(frozen=True)"
            )
    return made


def chosen_task(family: TaskFamily, config: TaskConfig) -> Task:
    tasks = family.tasks(config.split)
    if config.index >= len(tasks):
        raise ConfigError(f"task.index is {config.index}; split {config.split!r} has tasks 0 to {len(tasks) - 1}")
    return tasks[config.index]


def fixed_split(family: TaskFamily, config: TaskConfig) -> TaskConfig:
    """The config of a task that can be named: where its split is of fresh draws, the first task of the family's first split."""
    return config if config.split in family.splits else replace(config, split=next(iter(family.splits)), index=0)


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
    env = made.make_env()
    if made.max_episode_steps and not is_builtin("tasks", family):  # those of the package end by themselves
        env = gymnasium.wrappers.TimeLimit(env, made.max_episode_steps)
    return FirstTask(env, chosen_task(made, config))


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
