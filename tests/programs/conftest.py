"""Pages cost more than the runs that they are about: tests here look at the numbers that pages are made of."""

import pytest


@pytest.fixture(autouse=True)
def _no_pages(monkeypatch):
    for name in ("train", "evaluate", "pretrain"):
        monkeypatch.setattr(f"skillmeta.programs.{name}.write_page", lambda *arguments, **options: None)
