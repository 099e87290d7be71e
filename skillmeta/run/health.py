"""Whether a run has diverged: losses, errors of values, targets and steps held against a limit and against how they began.

A number that is not finite ends a run in any case (`Run.log`). What this finds is finite and beyond reason: a learning rate of 1000
gives losses of 1e14 and more, and a run that would end without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

WATCHED = ("loss", "error", "target", "step_norm")  # how the names of such metrics end
LIMIT = 1e10  # of any of them
GROWTH = 1e6  # over its largest value in the first rows
SMALL = 1e3  # what is below has not diverged, however small it was
FIRST_ROWS = 5  # that state it


class Health:
    """Looks at one row of metrics after another."""

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()):
        self._first: dict[str, list[float]] = {}
        self.said = ""  # the first finding
        for row in rows:
            self.look(row)

    def look(self, row: Mapping[str, Any]) -> str:
        """A sentence at the first number that is beyond reason, else ""."""
        for name, value in row.items():
            if self.said or not name.endswith(WATCHED):
                continue
            first = self._first.setdefault(name, [])
            size = abs(float(value))
            if size > LIMIT or (len(first) == FIRST_ROWS and size > max(SMALL, GROWTH * max(first))):
                began = f", and was {max(first):.3g} at first" if first else ""
                self.said = (
                    f"{name} is {value:.3g}{began}: training has diverged, so lower the learning rate or the rewards"
                )
                return self.said
            if len(first) < FIRST_ROWS:
                first.append(size)
        return ""
