"""The rows of a run's metrics.jsonl, mirrored to TensorBoard and Weights & Biases as they are written.

They are named by the config's `trackers`. TensorBoard's files are in the run's folder; those of W&B where it keeps them, in ./wandb
or $WANDB_DIR, since it makes links that a run's folder must not have. Nothing is sent anywhere, unless WANDB_MODE=online asks for
it. A tracker that fails is said once and left out: no run ends because of it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from skillmeta.errors import ConfigError, first_line

TrackerName = Literal["tensorboard", "wandb"]
STEPS = ("env_steps", "steps")  # what rows are drawn against, where they have it
PREFIX = "evaluation/"  # of the numbers of rows of that kind


class Tracker(Protocol):
    """Somewhere that shows numbers against steps."""

    def show(self, step: int, numbers: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


def check_trackers(names: Sequence[str]) -> None:
    """Raises ConfigError for one whose package is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"trackers: {name} needs the package {name}: in the clone, pip install -e '.[{name}]'")


class TensorBoard:
    """Event files in a folder. From the first step of a resumed run on, what was there before is hidden."""

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        self.folder = folder / "tensorboard"
        self._writer: Any = None

    def show(self, step: int, numbers: Mapping[str, float]) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self.folder, purge_step=step)
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WeightsAndBiases:
    """A run of W&B, offline unless WANDB_MODE says otherwise; a resumed run keeps its id."""

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        self.folder, self.config = folder, config
        self._run: Any = None

    def show(self, step: int, numbers: Mapping[str, float]) -> None:
        if self._run is None:
            import wandb

            identity = self.folder / "wandb-id"
            if not identity.exists():
                identity.write_text(uuid.uuid4().hex[:12])
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "skillmeta"),
                name=self.folder.resolve().name,
                id=identity.read_text(),
                resume="allow",
                reinit="create_new",  # beside those of other runs of this process
                mode=os.environ.get("WANDB_MODE", "offline"),
                config=dict(self.config),
                settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True),
            )
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()


KINDS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


class Trackers:
    """Those of a run. They are begun at its first row, so that a run that fails before leaves nothing.

    Args:
        names: of `KINDS`.
        folder: of the run.
        config: that is shown with it.
    """

    def __init__(self, names: Sequence[str] = (), folder: Path = Path(), config: Mapping[str, Any] | None = None):
        self.folder = folder
        self.active: dict[str, Tracker] = {name: KINDS[name](folder, config or {}) for name in names}

    def row(self, row: Mapping[str, Any]) -> None:
        """Show a row of metrics.jsonl."""
        if self.active and (step := next((row[key] for key in STEPS if key in row), None)) is not None:
            numbers = dict(numbers_of(row))
            for name in list(self.active):
                self._safely(name, lambda tracker: tracker.show(step, numbers))

    def close(self) -> None:
        for name in list(self.active):
            self._safely(name, lambda tracker: tracker.close())
        self.active = {}

    def _safely(self, name: str, act: Callable[[Tracker], None]) -> None:
        try:
            act(self.active[name])
        except Exception as error:  # whatever it is, it is the tracker's
            del self.active[name]
            print(
                f"warning: {self.folder}: the tracker {name} failed and is left out ({first_line(error)}); metrics.jsonl stays",
                file=sys.stderr,
                flush=True,
            )


def numbers_of(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a row, named as in metrics.jsonl; those of an evaluation begin with `evaluation/`."""
    of_evaluation = row.get("kind") == "evaluation"
    for name, value in row.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        yield (f"{PREFIX}{name}" if of_evaluation and not name.startswith(PREFIX) else name), value
