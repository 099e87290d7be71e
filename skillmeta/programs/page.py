"""The page and the numbers of what is in a folder, written by every program at its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from skillmeta.errors import UserError
from skillmeta.reports.content import read_content, write_numbers
from skillmeta.tasks.base import TaskFamily


def write_page(
    folders: Sequence[Path],
    out: Path | None = None,
    command: str = "",
    trust: bool = False,
    family: TaskFamily | None = None,
    required: bool = False,
) -> Path | None:
    """`report.html`, its pictures and its numbers, from the files of runs alone. Returns the page.

    Args:
        folders: one of an ablation, an evaluation, a training run or a pretraining run; or several training runs.
        out: where the page goes; by default the first folder.
        command: that wrote this page, where it is not the run's own.
        trust, family: as for `skillmeta.reports.content.read_content`.
        required: raise UserError where matplotlib is not installed; by default only the numbers are written then, and None
    returned.
    """
    content = read_content(folders, command, trust, family)
    out = out or folders[0]
    out.mkdir(parents=True, exist_ok=True)
    write_numbers(out, content)
    try:
        from skillmeta.reports.page import write_report
    except ImportError as error:
        if error.name != "matplotlib":
            raise
        if required:
            raise UserError("pages need the package matplotlib: in the clone, pip install -e '.[report]'") from None
        return None
    return write_report(out, content)
