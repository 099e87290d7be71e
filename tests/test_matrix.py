"""The matrix of Pythons and versions: what it installs follows from pyproject.toml, and what it could not run is said."""

from __future__ import annotations

import pytest
from packaging.requirements import Requirement

from tests import matrix


def test_lowest_pins_are_lower_bounds_of_every_dependency():
    pins = matrix.pins_of("lowest", [])
    by_name = {Requirement(pin).name: Requirement(pin) for pin in pins}
    for one in matrix.dependencies():
        (exact,) = by_name.pop(one.name).specifier
        assert exact.operator == "==" and one.specifier.contains(exact.version)
    assert not by_name
    assert matrix.pins_of("newest", []) == []


@pytest.mark.parametrize("kind", matrix.PINS)
def test_a_kept_package_is_the_constraints(kind):
    pins = matrix.pins_of(kind, ["torch"])
    assert [pin for pin in pins if pin.startswith("torch==")] == [matrix.constrained("torch")]


def test_a_dependency_without_a_lower_bound_is_refused():
    with pytest.raises(ValueError, match="states no lower bound"):
        matrix.lower_bound(Requirement("numpy<3"))


def test_a_python_that_is_not_there_or_does_not_start_is_said(tmp_path, monkeypatch, capsys):
    shim = tmp_path / "python3.12"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert matrix.main(["--python", "3.12", "3.13", "--pins", "newest"]) == 1
    rows = [line for line in capsys.readouterr().out.splitlines() if "there is no such Python" in line]
    assert [row.split("|")[1].strip() for row in rows] == ["3.12", "3.13"]
