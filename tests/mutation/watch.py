"""Which lines of the product every test executes, and its CPU seconds: a plugin of pytest."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest


class Watch:
    """Of a copy of the working tree. `coverage` must be collecting while pytest runs."""

    def __init__(self, folder: Path):
        self.folder, self.seconds = folder, dict[str, float]()
        sources = [str(folder / package) for package in ("skillmeta", "pretrain", "downstream")]
        self.coverage = coverage.Coverage(data_file=None, config_file=False, source=sources, messages=False)
        self.coverage.set_option("run:disable_warnings", ["no-data-collected", "module-not-imported"])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        before = sum(os.times()[:4])
        self.coverage.switch_context(item.nodeid)
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = sum(os.times()[:4]) - before

    def write(self, path: Path) -> None:
        data, names = self.coverage.get_data(), list(self.seconds)
        numbers = {name: number for number, name in enumerate(names)}
        lines = {
            str(Path(file).relative_to(self.folder)): {
                line: found
                for line, contexts in data.contexts_by_lineno(file).items()
                if (found := [numbers[name] for name in contexts if name in numbers])
            }
            for file in data.measured_files()
        }
        path.write_text(json.dumps({"seconds": self.seconds, "lines": lines}))
