"""The loop that trains everything: a skill model from logs, one task, a family of tasks.

It shows progress, logs a row for each iteration, evaluates on held-out data every so often, saves checkpoints, and stops at the
next iteration when asked to (Ctrl-C, SIGTERM, or a scheduler). A run that was stopped or killed resumes to the same bits.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from skillmeta.errors import CheckpointError, UserError, first_line
from skillmeta.run.health import Health
from skillmeta.run.parts import restore_parts, state_of
from skillmeta.run.progress import Progress
from skillmeta.run.run import Run, read_metrics
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


class Watcher(Stateful, Protocol):
    """Looks at what each iteration collected, and keeps something of it for the result."""

    def watch(self) -> None: ...


def run_loop(
    run: Run,
    trainable: Trainable[ExperienceT],
    source: ExperienceT,
    total: int,
    checkpoint_seconds: float = 30.0,
    evaluation: Evaluation | None = None,
    watcher: Watcher | None = None,
    quiet: bool = False,
    health: Literal["stop", "warn", "off"] = "warn",
) -> Clock | None:
    """Train until the source is spent, from the newest checkpoint if there is one.

    Args:
        total: of the source's first cost, for the progress.
        health: what is done where a loss is beyond reason, see `skillmeta.run.health`.

    Returns how long it took; None if the run was asked to stop before the end (its state is saved then).

    Raises UserError where training has diverged and `health` is `stop`, or a metric is not finite.
    """
    clock = Clock()
    parts: dict[str, Part | Parts] = {"trainable": trainable.parts(), "source": source, "clock": clock}
    if watcher is not None:
        parts["watcher"] = watcher
    if (state := run.restore()) is not None:
        try:
            restore_parts(parts, state)
        except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, AssertionError, IndexError) as error:
            raise CheckpointError(
                f"{run.folder}: its newest checkpoint is not of this run ({type(error).__name__}: {first_line(error)}); delete it "
                "to continue from the one before, or start anew in another --out"
            ) from None
    healthy = Health(read_metrics(run.folder) if state is not None else ())
    before, started = clock.seconds, time.monotonic()
    saved = started

    def save() -> None:
        clock.seconds = before + time.monotonic() - started
        run.checkpoint(next(iter(source.cost().values())), state_of(parts))

    unit = next(iter(source.cost())).removeprefix("env_")
    with Progress(total, run.folder.name, unit, quiet=quiet) as progress:
        while not source.spent:
            if run.stop_requested:
                save()
                return None
            metrics = trainable.iterate(source)
            row = {**source.scores(), **metrics}
            cost = source.cost()
            done = next(iter(cost.values()))
            if row:
                run.log("iteration", **cost, updates=trainable.updates, **row)
            if health != "off" and (said := healthy.look(row)):
                if health == "stop":
                    raise UserError(f"{run.folder}: {said}, and start anew in another --out; health=warn continues")
                print(f"warning: {run.folder}: {said}", file=sys.stderr, flush=True)
            if watcher is not None:
                watcher.watch()
            if evaluation is not None and (source.spent or done // evaluation.every > clock.evaluations):
                clock.evaluations = done // evaluation.every
                run.log("evaluation", **cost, updates=trainable.updates, **evaluation.scores())
            progress.update(min(done, total), **{name: row[name] for name in SHOWN if name in row})
            run.report_progress(source.fraction, f"{done:,} of {total:,} {unit}")
            if time.monotonic() - saved > checkpoint_seconds:
                save()
                saved = time.monotonic()
    save()
    return clock
