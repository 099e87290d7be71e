"""What is mutated."""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

FOLDERS = ("algorithms", "objectives", "collect", "data", "skills", "nn", "evaluation")
PROGRAMS = ("train", "evaluate", "adapt", "ablate", "collect", "pretrain")

Position = tuple[int, int]  # line from 1, column from 0


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    """(folder, file relative to the root) of everything that is mutated; programs are one folder."""
    for folder in FOLDERS:
        for path in sorted((root / "skillmeta" / folder).glob("*.py")):
            if path.name != "__init__.py":
                yield folder, path.relative_to(root)
    for name in PROGRAMS:
        yield "programs", Path("skillmeta/programs") / f"{name}.py"


def numbered(seed: int, module: Path, source: str, places: Iterable[Position]) -> Iterator[tuple[int, Position]]:
    """Each place with a random number that depends on the seed and the text of its line alone: who takes the places with the lowest
    numbers takes the same ones when other lines change."""
    lines, seen = source.splitlines(), Counter[tuple[str, int]]()
    for line, column in sorted(places):
        text = lines[line - 1].strip()
        spot = text, column - lines[line - 1].index(text)
        name = f"{seed} {module.as_posix()} {spot} {seen[spot]}"
        seen[spot] += 1
        yield int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"), (line, column)


def name_of(base: ast.expr) -> str | None:
    """Of a class's base: `Protocol` of Protocol and of Protocol[T]."""
    return getattr(base.value if isinstance(base, ast.Subscript) else base, "id", None)


def left_out(source: str) -> list[tuple[Position, Position]]:
    """Where no mutant is wanted: messages, annotations, asserts, decorators of dataclasses, defaults and bounds of configs,
    protocols, whose bodies never run; and stars that are no operators."""

    def parts(node: ast.AST) -> Iterator[ast.AST | None]:
        if isinstance(node, (ast.Raise, ast.Assert, ast.JoinedStr)):
            yield node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "dataclass"):
            yield node
        elif isinstance(node, ast.FunctionDef):
            yield node.returns
        elif isinstance(node, (ast.arg, ast.AnnAssign)):
            yield node.annotation
        elif isinstance(node, ast.ClassDef) and "Protocol" in map(name_of, node.bases):
            yield from node.body
            yield from (decorator for child in node.body for decorator in getattr(child, "decorator_list", ()))
        elif isinstance(node, ast.ClassDef) and node.name.endswith("Config"):
            for child in node.body:
                if isinstance(child, ast.AnnAssign) or getattr(child, "name", "") == "__post_init__":
                    yield child

    nodes: list = [part for node in ast.walk(ast.parse(source)) for part in parts(node) if part is not None]
    found = [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in nodes]
    found += [((line, column - 1), (line, column)) for (line, column), _ in found]  # the @ of a decorator
    before = ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.string in ("*", "**") and before in ("(", "[", "{", ",", ":", "="):
            found.append((token.start, token.end))
        before = token.string.strip() or before
    return found
