"""Meta-World's manipulation tasks, from its environment classes: ML1, ML10, ML45, or classes of your own.

Yu et al. 2019 (arXiv:1910.10897), package metaworld 3.1. Its vector ids are not used: ML1's training id serves the test goals,
defaults of others crash, and its environments change task by themselves. Here a task is the class and the vector that places
the object and the goal, as Meta-World's own benchmark draws it.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import gymnasium
import numpy as np
from filelock import FileLock
from gymnasium.spaces import Box

from skillmeta.config import Bound, NonNegativeInt, checked, to_plain
from skillmeta.errors import ConfigError, UserError
from skillmeta.tasks import picture
from skillmeta.tasks.base import BenchmarkScore, Expert, TaskFamily
from skillmeta.tasks.metaworld_official import official_success

GOALS = 50  # that Meta-World draws of each class
VALIDATION_GOALS = 10  # that we draw of each training class, in the same way
SIMULATORS_KEPT = 15
VECTOR = 6  # numbers that place object and goal, at most
HAND_LOW, HAND_HIGH = np.array([-0.525, 0.348]), np.array([0.525, 1.025])  # x and y that the hand can reach


OFFICIAL = BenchmarkScore(
    "Meta-World's own number, which is biased",
    "Its evaluator counts the first three episodes that finish anywhere in a class. Successes finish early and failures take the "
    "whole episode, so failures are hardly ever counted: it states 1.00 for an agent that solves a fifth of the environments. It "
    "is here to be compared with published tables only.",
    "success as Meta-World's evaluator counts",
    lambda steps, success, groups: official_success(steps, success, groups)[0],
)


@checked
class Config:
    """Meta-World's ML10 by default."""

    FORMER_KEYS: ClassVar[dict[str, str]] = {"horizon": "max_episode_steps"}

    benchmark: Literal["ML1", "ML10", "ML45", "custom"] = "ML10"  # custom: the classes that are named below
    name: str = "reach-v3"  # the class of ML1
    train_classes: list[str] = field(default_factory=list)  # of custom
    test_classes: list[str] = field(default_factory=list)  # of custom
    goals_per_class: Annotated[int, Bound(at_least=1, at_most=GOALS)] = GOALS  # the first so many of Meta-World's
    seed: NonNegativeInt = 1  # of Meta-World's own draws
    goal_visible: bool = False  # the observation has the goal
    reward_version: Literal["v1", "v2"] = "v2"  # v2: 0 to 10; v1 is not normalised and ruins some learners
    end_at_success: bool = False  # an episode ends at its first success
    max_episode_steps: Annotated[int, Bound(at_least=1, at_most=500)] = (
        500  # steps of an episode; the simulators run 500
    )

    def __post_init__(self) -> None:
        if self.benchmark == "custom" and not (self.train_classes and self.test_classes):
            raise ValueError("benchmark: custom needs train_classes and test_classes")


@dataclass(frozen=True)
class Setting:
    """A class of Meta-World, and where object and goal are: its `rand_vec`."""

    name: str
    vector: tuple[float, ...]


def package() -> Any:
    """The metaworld module. Raises UserError naming the extra where it is not installed."""
    try:
        import metaworld
    except ImportError:
        raise UserError("Meta-World needs the package metaworld: in the clone, pip install -e '.[metaworld]'") from None
    return metaworld


def drawn(config: Config) -> dict[str, tuple[Setting, ...]]:
    """The benchmark's training and test tasks, as Meta-World draws them from the seed, and validation tasks.

    Every simulator is reset 50 or 60 times for that (ML45: a minute), so the lists are kept below $SKILLMETA_CACHE, or
    ~/.cache/skillmeta.
    """
    from importlib.metadata import version

    package()
    what: dict[str, Any] = {"benchmark": config.benchmark, "seed": config.seed}
    if config.benchmark == "ML1":
        what["name"] = config.name
    if config.benchmark == "custom":
        what |= {"train": config.train_classes, "test": config.test_classes}
    name = "-".join(str(part).replace("/", "_") for part in ("metaworld", version("metaworld"), *what.values()))
    if len(name) > 150:  # two long lists of classes may begin alike
        name = f"{name[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    file = Path(os.environ.get("SKILLMETA_CACHE", "~/.cache/skillmeta")).expanduser() / f"{name}.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(file) + ".lock"):
            if file.exists():
                try:
                    return read(json.loads(file.read_text()))
                except (ValueError, KeyError, TypeError):
                    pass  # a damaged cache is made anew
            lists = draw(config)
            partly = file.with_suffix(".part")
            partly.write_text(json.dumps(lists))
            partly.replace(file)
    except OSError:  # a home that cannot be written: slower, but no reason to stop
        lists = draw(config)
    return read(lists)


def read(lists: dict[str, Any]) -> dict[str, tuple[Setting, ...]]:
    return {
        split: tuple(Setting(name, tuple(vector)) for name, vector in lists[split])
        for split in ("train", "validation", "test")
    }


def draw(config: Config) -> dict[str, list[tuple[str, list[float]]]]:
    """Meta-World's own benchmark object, its pickled tasks opened. Raises ConfigError for a class that there is not."""
    metaworld = package()
    try:
        if config.benchmark == "ML1":
            benchmark = metaworld.ML1(config.name, seed=config.seed)
        elif config.benchmark == "custom":
            benchmark = metaworld.CustomML(config.train_classes, config.test_classes, seed=config.seed)
        else:
            benchmark = getattr(metaworld, config.benchmark)(seed=config.seed)
    except (ValueError, KeyError) as error:
        known = ", ".join(sorted(metaworld.env_dict.ALL_V3_ENVIRONMENTS))
        raise ConfigError(f"task.options: Meta-World has no such class ({error}); it has {known}") from None

    def opened(tasks: Any) -> list[tuple[str, list[float]]]:
        return [(task.env_name, [float(v) for v in pickle.loads(task.data)["rand_vec"]]) for task in tasks]

    return {
        "train": opened(benchmark.train_tasks),
        "validation": validation(benchmark.train_classes, config.seed + 2),
        "test": opened(benchmark.test_tasks),
    }


def validation(classes: Mapping[str, type], seed: int) -> list[tuple[str, list[float]]]:
    """Other placements in the training classes, drawn as Meta-World draws its own, which only does 50 at a time.

    Its training placements are drawn from the benchmark's seed and ML1's test placements from the seed above it. Numpy's global
    generator, which its simulators draw from, is left as it was.
    """
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        chosen = []
        for name, make in classes.items():
            simulator: Any = make()
            simulator._freeze_rand_vec, simulator._set_task_called = False, True
            for _ in range(VALIDATION_GOALS):
                simulator.reset()
                chosen.append((name, [float(v) for v in simulator._last_rand_vec]))
            simulator.close()
        return chosen
    finally:
        np.random.set_state(before)


class MetaWorldEnv(gymnasium.Env):
    """One simulator for each class that it was asked for, made when first needed, the last ones kept."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, config: Config, task: Setting):
        self.config, self.task = config, task
        self.render_mode = "rgb_array"
        self.observation_space = Box(-np.inf, np.inf, (39,), np.float32)
        self.action_space = Box(-1.0, 1.0, (4,), np.float32)
        self._simulators: OrderedDict[str, Any] = OrderedDict()
        self._pictures: dict[str, Any] = {}

    def _simulator(self, name: str) -> Any:
        if name not in self._simulators:
            metaworld = package()
            make = metaworld.env_dict.ALL_V3_ENVIRONMENTS[name]
            self._simulators[name] = make(reward_function_version=self.config.reward_version)
            if len(self._simulators) > SIMULATORS_KEPT:
                self._simulators.popitem(last=False)[1].close()
        self._simulators.move_to_end(name)
        return self._simulators[name]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.task = (options or {}).get("task") or self.task
        self._task_info, self._steps = to_plain(self.task), 0
        self.simulator = simulator = self._simulator(self.task.name)
        metaworld = package()
        # Its reward sees what its benchmark's agents see: the goal hidden. What we show is decided in `_observe`.
        data = {"rand_vec": np.array(self.task.vector), "env_cls": type(simulator), "partially_observable": True}
        simulator.set_task(metaworld.Task(env_name=self.task.name, data=pickle.dumps(data)))
        observation, _ = simulator.reset()  # all that it draws is in the task's vector: the seed has nothing to decide
        return self._observe(observation), self._info({"success": False})

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, _, _, info = self.simulator.step(np.asarray(action, np.float32))
        self._steps += 1
        info = self._info(info)
        ended = self.config.end_at_success and info["success"]
        return (
            self._observe(observation),
            float(reward),
            ended,
            self._steps >= self.config.max_episode_steps and not ended,
            info,
        )

    def goal(self) -> np.ndarray:
        """Where the goal is, [3], as a goal-visible observation has it in its last three numbers."""
        return np.asarray(self.simulator._target_pos, np.float32)

    def _observe(self, observation: np.ndarray) -> np.ndarray:
        seen = observation.astype(np.float32)
        seen[36:39] = self.goal() if self.config.goal_visible else 0.0
        return seen

    def _info(self, simulated: dict[str, Any]) -> dict[str, Any]:
        task = {"name": self._task_info["name"], "vector": list(self._task_info["vector"])}
        return {"success": bool(simulated["success"]), "task": task}

    def render(self) -> np.ndarray:
        upside_down = picture.frame(self._pictures, self.simulator.model, self.simulator.data, camera="corner2")
        return np.ascontiguousarray(upside_down[::-1, ::-1])  # as Meta-World's cameras are

    def close(self) -> None:
        picture.close(self._pictures)
        for simulator in self._simulators.values():
            simulator.close()
        self._simulators.clear()


def family(config: Config) -> TaskFamily:
    """The benchmark's classes with their goals."""
    splits = {split: first_of_each(tasks, config.goals_per_class) for split, tasks in drawn(config).items()}
    train, test = splits["train"], splits["test"]
    classes = sorted({task.name for task in (*train, *test)})
    names = list(dict.fromkeys(task.name for task in train)), list(dict.fromkeys(task.name for task in test))
    title = f"ML1 {config.name}" if config.benchmark == "ML1" else config.benchmark

    def features(task: Setting) -> np.ndarray:
        vector = np.zeros(VECTOR)
        vector[: len(task.vector)] = task.vector
        return np.concatenate([[task.name == name for name in classes], vector]).astype(np.float32)

    def expert(env: gymnasium.Env, generator: np.random.Generator) -> Expert:
        from metaworld.policies import ENV_POLICY_MAP

        inner: Any = env.unwrapped
        policies: Any = ENV_POLICY_MAP
        policy = policies[inner.task.name]()
        goal = inner.goal()

        def act(observation: np.ndarray) -> np.ndarray:
            seen = observation.astype(np.float64)
            seen[36:39] = goal  # the experts read it there
            with warnings.catch_warnings():  # that its answer will be clipped, which is done here
                warnings.simplefilter("ignore")
                result: np.ndarray = np.clip(policy.get_action(seen), -1, 1).astype(np.float32)
                return result

        return act

    def outline(axes: Any, task: Setting | None) -> None:
        (left, front), (right, back) = HAND_LOW, HAND_HIGH
        axes.set_xlim(left - 0.05, right + 0.05)
        axes.set_ylim(front - 0.05, back + 0.05)
        axes.plot([left, right, right, left, left], [front, front, back, back, front], color="#555555", linewidth=1)
        if task is not None:
            axes.set_xlabel(task.name)

    shown = "and the goal" if config.goal_visible else "the goal hidden (zeros)"
    end = ", or until success" if config.end_at_success else ""
    return TaskFamily(
        name="metaworld",
        version=1,
        definition=(
            f"Meta-World {title}: training classes {', '.join(names[0])}; test classes {', '.join(names[1])}; "
            f"{config.goals_per_class} placements of each, Meta-World's own draws from seed {config.seed}; for validation up to "
            f"{VALIDATION_GOALS} others of each training class. Reward: Meta-World's "
            f"{config.reward_version}. "
            f"{config.max_episode_steps} steps{end}. Seen: hand, gripper, objects, the same one step ago, {shown}. "
            "Success: Meta-World's, at this step. Yu et al. 2019 (arXiv:1910.10897), package metaworld 3.1."
        ),
        max_episode_steps=config.max_episode_steps,
        splits=splits,
        make_env=lambda: MetaWorldEnv(config, train[0]),
        features=features,
        group=lambda task: task.name,
        benchmark_score=OFFICIAL,
        expert=expert,
        positions=lambda observations: observations[..., :2],
        coverage=coverage,
        draw=outline,
    )


def first_of_each(tasks: tuple[Setting, ...], count: int) -> tuple[Setting, ...]:
    """The first so many placements of every class."""
    kept: dict[str, int] = {}
    chosen = []
    for task in tasks:
        kept[task.name] = kept.get(task.name, 0) + 1
        if kept[task.name] <= count:
            chosen.append(task)
    return tuple(chosen)


def coverage(positions: np.ndarray) -> float:
    """Share of a 20x20 grid over the hand's reach that positions [N, 2] fall into."""
    cells = np.floor((positions - HAND_LOW) / (HAND_HIGH - HAND_LOW) * 20).astype(int)
    inside = cells[((cells >= 0) & (cells < 20)).all(1)]
    return len(np.unique(inside, axis=0)) / 400
