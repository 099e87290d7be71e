"""A place for tests of strangers' files."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.faults.strangers import CANARY, SECRET, Place


@pytest.fixture
def place(tmp_path, monkeypatch) -> Iterator[Place]:
    made = Place(tmp_path / "home")
    made.theirs.mkdir(parents=True)
    made.outside.mkdir()
    (made.home / "canary.py").write_text(CANARY)
    (made.outside / "secret").write_text(SECRET + "\n")
    monkeypatch.chdir(made.home)
    monkeypatch.setattr(sys, "path", [*sys.path, str(made.home)])
    monkeypatch.setenv("SECRET", SECRET)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(made.theirs))
    yield made
    for name in [name for name in sys.modules if name.partition(".")[0] in ("canary", "canaries", "my")]:
        del sys.modules[name]
