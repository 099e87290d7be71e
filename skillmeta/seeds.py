"""Every stream of random numbers by name: a pure function of (run seed, task, stream, counters).

A key is hashed with the lengths of its parts, so that no two keys collide by construction: neither [seed, 1] and [seed, 1, 0], nor
a stream of seed s and another one of seed s + 1, nor the same seed on two tasks. Whoever draws asks for a stream by name; nobody
adds numbers to a seed. The values are frozen by a test: a change of this file changes every result.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

StreamName = Literal[
    "weights",  # initial parameters
    "updates",  # batches and noise of a learner's updates
    "skill_weights",  # the same of a skill model, so that equal seeds of both are independent
    "skill_updates",
    "acting",  # noise of a policy that collects experience; counter: episodes or calls so far
    "resets",  # environment resets of training; counter: episodes or calls so far
    "replacements",  # a reset in place of one that failed, whose seed is the run seed
    "tasks",  # tasks drawn in training; counter: the call
    "training_tasks",  # the fixed set of tasks that a learner keeps buffers for
    "evaluation_resets",
    "evaluation_acting",
    "adaptation_resets",
    "adaptation_acting",
    "start",  # how fine-tuning gets to know its task
    "expert",  # noise of an expert
    "collector",  # logs
    "collector_shards",  # seeds of the parts of a collection
    "held_out_episodes",  # which episodes of a log are held out
    "held_out_windows",  # which windows of them are looked at, and with which noise
    "latent_windows",  # training windows that the spread of the latent space is measured on
    "quality_windows",
    "quality_resets",
    "quality_acting",
    "validation_tasks",  # of a task family; the run seed is the family's tasks_seed
    "shown_tasks",  # tasks drawn to be shown to a user
]
NAMES: tuple[str, ...] = get_args(StreamName)


@dataclass(frozen=True)
class Stream:
    """One stream. `at` gives a stream of its own for each value of a counter."""

    key: tuple[int | str, ...]

    def at(self, *counters: int) -> Stream:
        return Stream((*self.key, *(int(counter) for counter in counters)))

    def entropy(self) -> int:
        """128 bits, different for different keys."""
        digest = hashlib.sha256()
        for part in self.key:
            encoded = f"{type(part).__name__}:{part}".encode()
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        return int.from_bytes(digest.digest()[:16], "little")

    def numpy(self) -> np.random.Generator:
        return np.random.default_rng(self.entropy())

    def torch(self) -> torch.Generator:
        """A CPU generator. torch seeds it with 32 bits, so two of 10,000 streams agree with a chance of one in a hundred."""
        return torch.Generator().manual_seed(self.entropy() % 2**63)

    def integers(self, count: int) -> np.ndarray:
        """So many seeds below 2^32 for whoever takes integers, such as an environment's reset; int64 [count]."""
        return np.random.SeedSequence(self.entropy()).generate_state(count).astype(np.int64)


@dataclass(frozen=True)
class Seeds:
    """The streams of one run.

    Args:
        run: the seed that a user gives.
        task: names the task of a run on one task (`skillmeta.tasks.base.task_id`), so that equal seeds on different tasks are
            independent; "" for a run on a distribution of tasks.
    """

    run: int
    task: str = ""

    def stream(self, name: StreamName, *counters: int) -> Stream:
        """Raises ValueError for a name that is not in `NAMES`."""
        if name not in NAMES:
            raise ValueError(f"there is no stream {name!r}; choose one of {', '.join(NAMES)}")
        return Stream((int(self.run), self.task, name)).at(*counters)
