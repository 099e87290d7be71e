"""Pages cost more than the runs that they are about: tests here look at the numbers that pages are made of."""

import pytest


@pytest.fixture(autouse=True)
def _no_pages(monkeypatch):
    monkeypatch.setattr("skillmeta.programs.meta_train.write_page", lambda folder: None)
    monkeypatch.setattr("skillmeta.programs.evaluate.write_adaptation_page", lambda folder, evaluation, command: None)
    monkeypatch.setattr("skillmeta.programs.pretrain.write_page", lambda run, family: None)
