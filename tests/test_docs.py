"""Pages that are written by programs say what the programs say."""

from __future__ import annotations

from tests import commands


def test_the_page_of_commands_is_what_they_say():
    assert commands.FILE.read_text() == commands.page(), "run `python -m tests.commands`"
