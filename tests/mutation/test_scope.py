"""What is mutated, and what a mutant is tested with, is what the documentation says."""

from __future__ import annotations

import json
from pathlib import Path

from tests.mutation.executed import Executed
from tests.mutation.scope import left_out, modules, numbered

ROOT = Path(__file__).parents[2]

SOURCE = """
@dataclass(frozen=True)
class Config:
    size: int | None = 3

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError("no")

    def twice(self) -> int:
        return 2 * self.size

def function(values: list[int | str], *, step=-1):
    assert values is not None
    if not values:
        raise ValueError(f"{len(values) + 1}")
    return [*values, step - 4]

class Seen(Protocol[T]):
    @property
    def far(self) -> bool: return 7 < 8
"""


def test_defaults_bounds_messages_and_annotations_are_left_out_and_nothing_else():
    lines = SOURCE.splitlines()

    def is_left_out(piece: str) -> bool:
        line = next(number for number, text in enumerate(lines, 1) if piece in text)
        position = (line, lines[line - 1].index(piece))
        return any(low <= position < high for low, high in left_out(SOURCE))

    for piece in (
        "@dataclass",
        "True",
        "| None",
        "3",
        "< 1",
        "| str",
        "*, step",
        "is not None",
        "+ 1",
        "*values,",
        "@property",
        "7 <",
    ):
        assert is_left_out(piece), piece
    for piece in ("* self.size", "2 *", "-1", "not values", "- 4", "4]"):
        assert not is_left_out(piece), piece


def test_a_place_keeps_its_number_when_other_lines_change():
    lines = ["a = 1 + b", "", "def f(x):", "    return x - 1", "a = 1 + b"]
    places = [(1, 4), (1, 6), (4, 13), (5, 4)]

    def numbers(lines: list[str], places: list[tuple[int, int]], seed: int = 3) -> list[int]:
        return [number for number, _ in numbered(seed, Path("m.py"), "\n".join(lines), places)]

    before = numbers(lines, places)
    assert len(set(before)) == 4  # two places of one text are two
    changed = ["", "a = 1 + b", "def g(x):", "    y = 3 + x", "    return x - 1", "a = 1 + b"]
    after = numbers(changed, [(2, 4), (2, 6), (4, 10), (5, 13), (6, 4)])
    assert [after[0], after[1], after[3], after[4]] == before and after[2] not in before
    assert not set(numbers(lines, places, seed=4)) & set(before)


SUM = """
@cache
def total(values,
          start=0):
    for value in values:
        start = (start
                 + value)
    return start
"""


def test_a_mutant_is_tested_by_the_tests_that_execute_its_statement_the_fastest_first_then_by_others(tmp_path):
    (tmp_path / "sum.py").write_text(SUM)
    (tmp_path / "sum.txt").write_text("")
    (tmp_path / "watched.json").write_text(
        json.dumps({
            "seconds": {"a.py::slow": 9.0, "a.py::quick": 1.0, "b.py::empty": 0.5, "c.py::elsewhere": 0.1},
            "lines": {"sum.py": {"5": [0, 1, 2], "6": [0], "7": [1], "8": [2, 3]}, "other.py": {"1": [3]}},
        })
    )  # fmt: skip
    tests = Executed.read([tmp_path / "watched.json"])

    def of(line: int, limit: float = 100.0, module: str = "sum.py") -> list[str]:
        return tests.of(tmp_path, module, line, limit)

    everything = ["c.py::elsewhere", "b.py::empty", "a.py::quick", "a.py::slow"]
    assert of(4) == of(2) == everything  # of a function's head, all that execute its body
    assert of(7) == of(6) == ["a.py::quick", "a.py::slow", "c.py::elsewhere", "b.py::empty"]  # a statement of two lines
    assert of(5) == ["b.py::empty", "a.py::quick", "a.py::slow", "c.py::elsewhere"]  # a loop's head without its body
    assert of(7, limit=5.0) == ["a.py::quick"] and of(8, limit=0.0) == ["c.py::elsewhere"]  # at least one
    assert of(1, module="sum.txt") == []


def test_every_module_is_found():
    found = {path for _, path in modules(ROOT)}
    assert (
        len(found) > 60
        and Path("skillmeta/algorithms/sac.py") in found
        and Path("skillmeta/programs/train.py") in found
    )
