"""What is said of a training run before it takes its folder, and what its result has to say of itself."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from skillmeta.errors import ConfigError
from skillmeta.skills.vae import SkillModel
from skillmeta.tasks.base import TaskConfig, TaskFamily
from skillmeta.types import EnvSpec, Observed, Task

NO_SUCCESS = (
    "The environment reports no success, so none is stated; put `success`, true or false, into the info of its steps to have it "
    "counted."
)
SAME_TASKS = (
    "Equal actions gave equal observations and rewards in several tasks, and `task` in the info does not differ: see that `reset` "
    'uses options["task"]. Where rewards are sparse, put the task into the info.'
)
FAR = 1.0  # times the span of the logs, beyond which an observation is from elsewhere
NEAR = 0.01  # of the span of the logs; what moves less has other units
BEYOND = 1.2  # times an environment's largest action, that an action of the logs may be without a word
SMALL = 0.02  # of an environment's largest actions; if all of the logs are smaller, they have other units
NOTED = 1.05  # how many times env_steps a run may take without a word


def learns(options: Any) -> bool:
    """Whether an algorithm with this `Config` is meant to learn: the skill prior alone is not."""
    return bool(getattr(options, "updates_per_decision", 1) > 0)


def replay_bytes(options: Any, spec: EnvSpec, decisions: int | None = None) -> int:
    """What the replays of an algorithm take when they are full, or hold so many decisions together; 0 where it has none."""
    capacity = getattr(options, "training_tasks", 1) * getattr(options, "replay_capacity", 0)
    row = 4 * (2 * spec.observation_dim + spec.action_dim + 2)
    return row * (capacity if decisions is None else min(capacity, decisions))


def check_memory(options: Any, spec: EnvSpec, env_steps: int) -> None:
    """Raises ConfigError for replays that will not fit into this machine's memory. They are filled as decisions are made."""
    need, there = replay_bytes(options, spec, env_steps), memory()
    if there is not None and need > there:
        raise ConfigError(too_large(options, spec, need, f"{size(there)} are free"))


def too_large(options: Any, spec: EnvSpec, need: int, instead: str) -> str:
    tasks = f" for each of {options.training_tasks} tasks" if hasattr(options, "training_tasks") else ""
    return (
        f"algorithm.replay_capacity is {options.replay_capacity:,} decisions{tasks}, of {spec.observation_dim:,} observed numbers "
        f"each: {size(need)}, and {instead}; lower it"
    )


def size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"


def memory() -> int | None:
    """Bytes that this process may still take; None where that cannot be asked."""
    found: list[int] = []
    try:
        about = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(int(about["MemAvailable"].split()[0]) * 1024)
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))  # "max" where there is no limit
    except (OSError, KeyError, ValueError):
        pass
    if not found and hasattr(os, "sysconf"):
        try:
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        except (OSError, ValueError):
            pass
    return min(found, default=None)


def notes_on(family: TaskFamily) -> list[str]:
    """What an environment was found to lack."""
    return [*([] if family.reports_success else [NO_SUCCESS]), *([] if family.tasks_differ else [SAME_TASKS])]


def expected_notes(options: Any, family: TaskFamily, env_steps: int, started: bool) -> list[str]:
    """What is worth knowing of a run before it begins.

    Args:
        options: the algorithm's `Config`. Its `iteration_episodes`, where it has them, are how many episodes the first iteration
            and each later one take.
        started: it starts from another run, so no action is random.
    """
    said = notes_on(family)
    at_random = 0 if started else getattr(options, "random_decisions", 0)
    if at_random >= env_steps and learns(options):
        said.append(
            f"algorithm.random_decisions is {at_random:,} and env_steps {env_steps:,}: every action of training will be random; "
            "lower the one or raise the other."
        )
    first, later = getattr(options, "iteration_episodes", (0, 0))
    steps = family.max_episode_steps
    if first * steps:
        taken = first * steps
        taken += max(0, -(-(env_steps - taken) // (later * steps))) * later * steps
        if taken > NOTED * env_steps:
            said.append(
                f"An iteration is not cut short and takes {first} episodes of up to {steps} steps"
                + (f" at first, {later} later" if later != first else "")
                + f": training may take {taken:,} steps, {taken - env_steps:,} more than env_steps."
            )
    return said


def result_notes(options: Any, family: TaskFamily, env_steps: int, result: Mapping[str, Any]) -> list[str]:
    """What a reader of a run's result has to know."""
    said = notes_on(family)
    taken = int(result["env_steps"])
    if result["updates"] == 0 and learns(options):
        at_random = getattr(options, "random_decisions", 0)
        made = f": algorithm.random_decisions is {at_random:,} and {result['decisions']:,} decisions were made"
        if type(options).__module__.startswith("skillmeta.algorithms."):
            said.append(f"No update was made, nothing was learned{made if at_random else ''}.")
        else:  # one of the user's own may only have forgotten to count
            said.append(
                "No update was counted: nothing was learned, or the learner does not count `updates` in `iterate`."
            )
    if taken > NOTED * env_steps:
        more = f"{taken - env_steps:,} more than env_steps"
        said.append(f"Training took {taken:,} environment steps, {more}: an iteration is not cut short.")
    return said


def range_notes(skills: SkillModel, seen: np.ndarray) -> list[str]:
    """A sentence where the least and largest observed numbers [2, O] of some episodes are far from those of the skills' logs: the
    two differ in units, or in the order of their numbers."""
    if skills.observation_range is None:
        return []
    (least, most), (low, high) = (skills.observe(torch.from_numpy(seen))).numpy(), skills.observation_range
    span = high - low
    moved = span > 1e-6 * np.maximum(1, np.maximum(np.abs(low), np.abs(high)))
    beyond, outside = (
        np.maximum(low - least, most - high),
        np.maximum(low - most, least - high),
    )  # some of it, all of it
    still = (outside > NEAR * span) & (most - least < NEAR * span)
    # What was constant in the logs has no units that are known: only another constant, 1 or more away, is far.
    far = np.where(moved, (beyond > FAR * span) | still, outside > FAR)
    worst = int((far * beyond).argmax())
    why = "the environment and the logs may differ in units, or in the order of their numbers"
    if far[worst]:
        return [
            f"Observation {worst} went from {least[worst]:.4g} to {most[worst]:.4g} in the first episodes, and from "
            f"{low[worst]:.4g} to {high[worst]:.4g} in the logs of the skills: {why}."
        ]
    if moved.any() and (most - least < NEAR * span)[moved].all():
        return [
            f"In the first episodes no observation moved by {NEAR:.0%} of what it did in the logs of the skills: {why}."
        ]
    return []


def action_notes(skills: SkillModel, bound: np.ndarray) -> list[str]:
    """A sentence where the actions of the skills' logs are far larger or far smaller than what an environment takes, as `bound` [A]
    says: they are not scaled, and what is beyond its bounds is cut off."""
    if not np.isfinite(bound).all():
        return []
    low, high = skills.action_low.numpy(), skills.action_high.numpy()
    largest = np.maximum(np.abs(low), np.abs(high))
    worst = int((largest / bound).argmax())
    if largest[worst] > BEYOND * bound[worst]:
        differ = "skills do not scale their actions, so what is beyond is cut off"
    elif (largest < SMALL * bound).all():
        differ = f"no action of the skills reaches {SMALL:.0%} of what the environment takes"
    else:
        return []
    return [
        f"Action {worst} of the skills' logs goes from {low[worst]:.4g} to {high[worst]:.4g}, and the environment takes up to "
        f"{bound[worst]:.4g}: {differ}. Give the environment an action space in the units of the logs."
    ]


def name_notes(skills: SkillModel, observed: Sequence[Observed]) -> list[str]:
    """A sentence where the skills' logs name their observations and an environment does not, so that no order could be compared."""
    if not skills.observed or observed:
        return []
    names = ", ".join(f"{key} ({size})" for key, size in skills.observed)
    return [
        f"The skills' logs name what they observe: {names}. The environment's observation has no names to compare "
        "them with: its numbers must be these, in this order."
    ]


def training_tasks(family: TaskFamily, config: TaskConfig, task: Task | None) -> frozenset[Task]:
    """The fixed tasks that a run is trained on: its one task, or those of its split. Fresh draws are none of them."""
    return frozenset(family.splits.get(config.split, ()) if task is None else (task,))


def trained_on(tasks: Sequence[Task], trained: Collection[Task], split: str) -> list[str]:
    """A sentence on tasks that are evaluated on and were trained on, if there are any."""
    count = sum(task in trained for task in tasks)
    if not count:
        return []
    were = "was" if count == 1 else "were"
    return [f"{count} of {len(tasks)} {split} tasks {were} trained on; the score says nothing about new ones"]


def continued_notes(before: Sequence[Mapping[str, int | None]], options: Any = None) -> list[str]:
    """A sentence on a run that was continued after its end, if it did, and on what depends on the length.

    Args:
        before: the lengths that it had, see `Run.continued`.
        options: the algorithm's `Config`; None: a skill model is trained.
    """
    if not before:
        return []
    had = ", then ".join(" and ".join(f"{key}={value}" for key, value in one.items()) for one in before)
    said = f"This run first had {had} and was made longer"
    differs = "it differs from a run that begins with its present length"
    if options is not None and not getattr(options, "anneal", False):
        return [f"{said}: where the old budget cut an episode off, {differs}."]
    what = "the cosine of the learning rate" if options is None else "what anneals over the budget"
    return [f"{said}: {differs}, since {what} rose again to what it is at that share of the present length."]
