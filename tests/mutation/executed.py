"""What a mutant is tested with: tests by the lines that they execute, and the seconds of each."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def statement(path: Path, line: int) -> range:
    """The lines of the innermost statement there: of a loop or condition its head, of a function or class all."""
    found = range(line, line + 1)
    for node in ast.walk(parsed(path)):  # from the outside inwards
        if not isinstance(node, ast.stmt):
            continue
        first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
        end = node.end_lineno or first
        if not first <= line <= end:
            continue
        body: Any = getattr(node, "body", None)
        if body and not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            end = max(first, body[0].lineno - 1)  # in the body, a statement further inside is found
        found = range(first, end + 1)
    return found


@dataclass(frozen=True)
class Executed:
    """Tests of all files: their seconds, and for each module the tests that execute its lines."""

    seconds: dict[str, float]
    lines: dict[str, dict[int, set[str]]]

    @classmethod
    def read(cls, paths: Iterable[Path]) -> Executed:
        seconds, lines = dict[str, float](), dict[str, dict[int, set[str]]]()
        for path in paths:
            found = json.loads(path.read_text())
            names = list(found["seconds"])
            seconds |= found["seconds"]
            for module, executed in found["lines"].items():
                for line, numbers in executed.items():
                    lines.setdefault(module, {}).setdefault(int(line), set()).update(names[n] for n in numbers)
        return cls(seconds, lines)

    def of(self, root: Path, module: str, line: int, limit: float) -> list[str]:
        """Those that execute the statement, then those that execute the module, each the fastest first: what `limit` seconds hold.

        Tests of a file stand together, so that what they share is made once.
        """
        executed = self.lines.get(module, {})
        here = set().union(*(executed.get(one, set()) for one in statement(root / module, line)))
        others = set().union(*executed.values()) - here
        chosen, spent = list[str](), 0.0
        for name in [name for tests in (here, others) for name in sorted(tests, key=lambda t: (self.seconds[t], t))]:
            spent += self.seconds[name]
            if chosen and spent > limit:
                break
            chosen.append(name)
        files = list(dict.fromkeys(name.partition("::")[0] for name in chosen))
        return sorted(chosen, key=lambda name: files.index(name.partition("::")[0]))
