"""What becomes of an environment that fails: the run stops, or continues without the episode.

Where an environment fails is a function of a reset's seed more often than not, and seeds are functions of counters. So resets that
failed are written down, beside the run's metrics, and are never made again: each is replaced by another one, a function of it. A
resumed run replaces what the interrupted one did, and nothing depends on the number of processes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import gymnasium
import numpy as np

from skillmeta.config import NonNegativeInt, PositiveFloat, checked
from skillmeta.envs.failure import CAUGHT, failure, finite
from skillmeta.errors import EnvironmentFailed, UserError
from skillmeta.run import watch
from skillmeta.seeds import Seeds
from skillmeta.tasks.base import task_id
from skillmeta.types import Task

ReturnedT = TypeVar("ReturnedT", bound=tuple[Any, ...])  # by reset or step
FAILURES = "failures.jsonl"  # in a run's folder; a row for each failure
SHOWN = 60  # characters of a task in a sentence


@checked
class EnvironmentConfig:
    """What is done where an environment raises, returns what is not finite, takes too long, or takes its process with it."""

    # end; continue without the episode; the same, with environments in worker processes that are replaced after each failure
    on_error: Literal["stop", "drop_episode", "restart_worker"] = "stop"
    max_errors: NonNegativeInt = 10  # episodes that are dropped; one more ends the run
    step_seconds: PositiveFloat = 60.0  # that a step may take, and a reset ten times as much

    @property
    def isolated(self) -> bool:
        """Whether environments are in worker processes, even if one is enough."""
        return self.on_error == "restart_worker"


class Failures:
    """Failures of one run, over all its sessions.

    Args:
        config: what is done about them.
        folder: of the run, where they are written; None keeps them in memory.
    """

    def __init__(self, config: EnvironmentConfig | None = None, folder: Path | None = None):
        self.config = config or EnvironmentConfig()
        self.path = None if folder is None else folder / FAILURES
        self.replaced = 0  # resets that others took the place of, in this session
        rows = [] if folder is None else read_failures(folder)
        self.count = len(rows)
        self._resets = {(task, seed) for row in rows for task, seed in row["resets"]}

    def usable(self, tasks: Sequence[Task], seeds: np.ndarray) -> np.ndarray:
        """Seeds of resets [N, K] in N tasks, with others in place of those that failed."""
        if not self._resets:
            return seeds
        found = seeds.copy()
        for row, task in enumerate(tasks):
            name = name_of(task)
            for k, seed in enumerate(seeds[row].tolist()):
                while (name, seed) in self._resets:
                    seed = int(Seeds(seed).stream("replacements").integers(1)[0])
                    self.replaced += 1
                found[row, k] = seed
        return found

    def add(self, resets: Sequence[tuple[Task, int]], where: str, what: str, trace: str = "") -> None:
        """Write a failure down, and say it where the run continues. Raises UserError where it does not.

        Args:
            resets: in these tasks, with these seeds: they are not made again.
            where: task, episode, step.
            what: happened.
        """
        named = [(name_of(task), int(seed)) for task, seed in resets]
        self._resets.update(named)
        self.count += 1
        if self.path is not None:
            row = {"resets": named, "where": where, "what": what, "trace": trace}
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
        if self.config.on_error == "stop":
            again = " the same command resumes with another reset in its place, and" if self.path is not None else ""
            raise UserError(
                f"{where}: the environment {what};{again} environment.on_error=drop_episode continues without such episodes"
            )
        if self.count > self.config.max_errors:
            raise UserError(
                f"{where}: the environment {what}; {self.count} episodes have failed and environment.max_errors is "
                f"{self.config.max_errors}: repair the environment or raise it; the same command resumes"
            )
        print(
            f"dropped: {where}: the environment {what} ({self.count} of at most {self.config.max_errors})",
            file=sys.stderr,
            flush=True,
        )

    def note(self) -> list[str]:
        """A sentence for a page, if there is anything to say."""
        return note_on(self.count)


def note_on(count: int) -> list[str]:
    """A sentence for a page on so many failures, if there are any."""
    if not count:
        return []
    return [
        f"Environments failed {count} times. The episodes were dropped, and others took their place; see {FAILURES}."
    ]


def name_of(task: Task) -> str:
    """What a task is called in failures.jsonl."""
    try:
        return task_id(task)
    except Exception:  # of tests and of others' families that are no dataclass
        return repr(task)


def shown(task: Task) -> str:
    """A task in a sentence."""
    text = repr(task)
    return f"task {name_of(task)} ({text if len(text) <= SHOWN else text[:SHOWN] + '...'})"


def watched(env: gymnasium.Env, max_episode_steps: int = 0) -> gymnasium.Env:
    """The same environment, which a collector of logs may look into. Its steps and resets have a time limit, and its episodes end
    after `max_episode_steps` unless that is 0. Where one raises, or returns what is not finite, that is an EnvironmentFailed."""
    reset, step = env.reset, env.step
    seed, taken, episodes, task = 0, 0, 0, ""

    def act(moment: int, call: Callable[[], ReturnedT]) -> ReturnedT:
        try:
            watch.begins(0, seed, moment)
            returned = call()
            shape = env.observation_space.shape
            if shape is not None:  # else it is a Dict
                if np.shape(returned[0]) != shape:
                    raise ValueError(f"an observation has shape {np.shape(returned[0])}, its space {shape}")
                finite(np.asarray(returned[0], np.float32), "an observation")
            if moment != watch.RESET:
                finite(np.float32(returned[1]), "a reward")
            return returned
        except CAUGHT as error:
            failed = failure(error)
            if isinstance(failed, EnvironmentFailed):
                what, row, seen, when, trace, _ = failed.args
                failed = EnvironmentFailed(what, row, seen, when, trace, task)
            raise failed from error
        finally:
            watch.ends()

    def watched_reset(**options: Any) -> tuple[Any, dict[str, Any]]:
        nonlocal seed, taken, episodes, task
        seed, taken, episodes = options.get("seed") or 0, 0, episodes + 1
        named = (options.get("options") or {}).get("task", getattr(env.unwrapped, "task", None))
        task = shown(named) if named is not None else ""
        watch.label(f"{task}, episode {episodes - 1}".removeprefix(", "))
        return act(watch.RESET, lambda: reset(**options))

    def watched_step(action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        nonlocal taken
        taken += 1
        observation, reward, terminated, truncated, info = act(taken - 1, lambda: step(action))
        return observation, reward, terminated, truncated or (taken == max_episode_steps and not terminated), info

    env.reset, env.step = watched_reset, watched_step  # type: ignore[method-assign]
    return env


def read_failures(folder: Path) -> list[dict[str, Any]]:
    """The failures of the run in a folder; a last line that was torn by a kill is left out."""
    path = folder / FAILURES
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]
