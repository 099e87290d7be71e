"""Progress of one long piece of work: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

LINE_SECONDS = 5.0


class Progress:
    """Use as `with Progress(total, label, unit) as progress:` and call `update(completed, name=value, ...)`."""

    def __init__(self, total: float, label: str, unit: str, quiet: bool = False):
        self.total, self.label, self.unit, self.quiet = total, label, unit, quiet
        self._bar: Any = None
        self._first: float | None = None
        self._started = self._spoken = time.monotonic()
        self._last = ""

    def __enter__(self) -> Progress:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(self.label, total=self.total, text="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif not self.quiet and kind is None and self._last:
            self._say()

    def update(self, completed: float, **fields: float) -> None:
        """Say how far it is; extra fields are shown as they are now."""
        if self.quiet:
            return
        now = time.monotonic()
        if self._first is None:
            self._first, self._started = completed, now
        rate = (completed - self._first) / max(1e-9, now - self._started)
        values = "  ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in fields.items())
        speed = f"  {rate:,.0f} {self.unit}/s" if rate > 0 else ""
        text = f"{completed:,.0f}/{self.total:,.0f} {self.unit}{speed}  {values}".rstrip()
        self._last = f"{self.label}  {100 * completed / self.total:3.0f}%  {text}"
        if self._bar is not None:
            self._bar.update(self._task, completed=completed, text=text)
        elif now - self._spoken > LINE_SECONDS:
            self._say()

    def _say(self) -> None:
        self._spoken = time.monotonic()
        print(self._last, file=sys.stderr, flush=True)
