"""The loop that trains everything: a skill model from logs, one task, a family of tasks.

It shows progress, logs a row for each iteration, evaluates on held-out data every so often, saves checkpoints, and stops at the
next iteration when asked to (Ctrl-C, SIGTERM, or a scheduler). A run that was stopped or killed resumes to the same bits.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

from skillmeta.errors import CheckpointError, UserError, first_line
from skillmeta.run.health import Health
from skillmeta.run.parts import restore_parts, state_of
from skillmeta.run.progress import Progress
from skillmeta.run.run import read_metrics
from skillmeta.types import Experience, Metrics, Part, Parts, State, Stateful, Trainable

ExperienceT = TypeVar("ExperienceT", bound=Experience)
SHOWN = (
    "success",
    "return_last",
    "score",
    "prior/divergence",
    "dropped",
)  # beside the progress bar, where they are logged


@dataclass
class Clock:
    """How long a run has taken, over all its sessions, and how many evaluations it has made."""

    seconds: float = 0.0
    evaluations: int = 0

    def state(self) -> State:
        return {"seconds": self.seconds, "evaluations": self.evaluations}

    def restore(self, state: State) -> None:
        seconds, evaluations = state["seconds"], state["evaluations"]
        assert isinstance(seconds, float) and isinstance(evaluations, int)
        self.seconds, self.evaluations = seconds, evaluations


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated while training, and how often: every `every` of the source's cost, and at the end."""

    scores: Callable[[], Metrics]
    every: int


class Kept(Protocol):
    """Where a loop keeps what it does: a `Run`, or that of several processes."""

    @property
    def folder(self) -> Path: ...
    @property
    def stop_requested(self) -> bool: ...
    def restore(self) -> State | None: ...
    def log(self, kind: str, **values: float | int | str | bool) -> None: ...
    def report_progress(self, fraction: float, text: str) -> None: ...
    def checkpoint(self, step: int, state: State) -> None: ...


class Watcher(Stateful, Protocol):
    """Looks at what each iteration collected, and keeps something of it for the result."""

    def watch(self) -> None: ...


class Training(Generic[ExperienceT]):
    """One run while it trains: restored from its newest checkpoint, if there is one.

    Args:
        total: of the source's first cost, for the progress.
        health: what is done where a loss is beyond reason, see `skillmeta.run.health`.
    """

    def __init__(
        self,
        run: Kept,
        trainable: Trainable[ExperienceT],
        source: ExperienceT,
        total: int,
        checkpoint_seconds: float = 30.0,
        evaluation: Evaluation | None = None,
        watcher: Watcher | None = None,
        quiet: bool = False,
        health: Literal["stop", "warn", "off"] = "warn",
    ):
        self.run, self.trainable, self.source, self.total = run, trainable, source, total
        self.checkpoint_seconds, self.evaluation, self.watcher, self.health = (
            checkpoint_seconds, evaluation, watcher, health,
        )  # fmt: skip
        self.clock = Clock()
        self.parts: dict[str, Part | Parts] = {"trainable": trainable.parts(), "source": source, "clock": self.clock}
        if watcher is not None:
            self.parts["watcher"] = watcher
        if (state := run.restore()) is not None:
            try:
                restore_parts(self.parts, state)
            except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, AssertionError, IndexError) as error:
                raise CheckpointError(
                    f"{run.folder}: its newest checkpoint is not of this run ({type(error).__name__}: {first_line(error)}); delete "
                    "it to continue from the one before, or start anew in another --out"
                ) from None
        rows = read_metrics(run.folder) if state is not None else []
        logged = max((int(row.get("updates", 0)) for row in rows), default=0)
        if trainable.updates < logged:
            raise CheckpointError(
                f"{run.folder}: its learner counts {trainable.updates} updates after a restart, its metrics {logged}: `parts` of "
                "the algorithm leaves out what counts them, and perhaps more; complete it, then start anew in another --out"
            )
        self.healthy = Health(rows if health != "off" else ())
        self.before, self.started = self.clock.seconds, time.monotonic()
        self.saved = self.started
        self.unit = next(iter(source.cost())).removeprefix("env_")
        self.progress = Progress(total, run.folder.name, self.unit, quiet=quiet)

    def save(self) -> None:
        self.saved = time.monotonic()
        self.clock.seconds = self.before + self.saved - self.started
        self.run.checkpoint(next(iter(self.source.cost().values())), state_of(self.parts))

    def after(self, metrics: Metrics) -> None:
        """What follows an iteration: its row, evaluation, progress, and a checkpoint where one is due, or it was the last."""
        row, cost = {**self.source.scores(), **metrics}, self.source.cost()
        done, updates = next(iter(cost.values())), self.trainable.updates
        if row:
            self.run.log("iteration", **cost, updates=updates, **row)
        if self.health != "off" and (said := self.healthy.look(row)):
            if self.health == "stop":
                raise UserError(f"{self.run.folder}: {said}, and start anew in another --out; health=warn continues")
            print(f"warning: {self.run.folder}: {said}", file=sys.stderr, flush=True)
        if self.watcher is not None:
            self.watcher.watch()
        evaluation = self.evaluation
        if evaluation is not None and (self.source.spent or done // evaluation.every > self.clock.evaluations):
            self.clock.evaluations = done // evaluation.every
            self.run.log("evaluation", **cost, updates=updates, **evaluation.scores())
        self.progress.update(min(done, self.total), **{name: row[name] for name in SHOWN if name in row})
        self.run.report_progress(self.source.fraction, f"{done:,} of {self.total:,} {self.unit}")
        if time.monotonic() - self.saved > self.checkpoint_seconds:
            self.save()


def run_loop(
    trainings: Sequence[Training[ExperienceT]],
    iterate: Callable[[Sequence[int]], Sequence[Metrics]] | None = None,
) -> bool:
    """Train until every source is spent.

    Args:
        iterate: an iteration of those trainings, by their index, that are not at their end; by default each makes its own.

    Returns False if a run was asked to stop before the end; the state of each is saved then, as at the end.

    Raises UserError where training has diverged and `health` is `stop`, or a metric is not finite.
    """
    with contextlib.ExitStack() as shown:
        for one in trainings:
            shown.enter_context(one.progress)
        while live := [k for k, one in enumerate(trainings) if not one.source.spent]:
            if any(one.run.stop_requested for one in trainings):
                break
            if iterate is not None:
                found = iterate(live)
            else:
                found = [trainings[k].trainable.iterate(trainings[k].source) for k in live]
            for k, metrics in zip(live, found, strict=True):
                if not isinstance(metrics, Mapping):
                    kind = type(trainings[k].trainable)
                    raise UserError(
                        f"{kind.__module__}: {kind.__name__}.iterate returned {metrics!r}; return its metrics, a dict of numbers"
                    )
                trainings[k].after(metrics)
        for one in trainings:
            one.save()
    return not live
