"""Every module that is mutated has tests, and what is left out of mutation is what the documentation says."""

from __future__ import annotations

from pathlib import Path

from tests.mutation.scope import covering_tests, left_out, modules

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
"""


def test_defaults_bounds_messages_and_annotations_are_left_out_and_nothing_else():
    lines = SOURCE.splitlines()

    def is_left_out(piece: str) -> bool:
        line = next(number for number, text in enumerate(lines, 1) if piece in text)
        position = (line, lines[line - 1].index(piece))
        return any(low <= position < high for low, high in left_out(SOURCE))

    for piece in ("@dataclass", "True", "| None", "3", "< 1", "| str", "*, step", "is not None", "+ 1", "*values,"):
        assert is_left_out(piece), piece
    for piece in ("* self.size", "2 *", "-1", "not values", "- 4", "4]"):
        assert not is_left_out(piece), piece


def test_every_module_has_tests():
    found = {module: covering_tests(ROOT, module) for _, module in modules(ROOT)}
    assert len(found) > 30 and all(found.values())
    assert Path("tests/algorithms/test_sac.py") in found[Path("skillmeta/algorithms/sac.py")]  # by its name
    assert Path("tests/envs/test_skill_space.py") in found[Path("skillmeta/algorithms/sac.py")]  # it imports the module
    assert all((ROOT / test).exists() for tests in found.values() for test in tests)
