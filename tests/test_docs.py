"""Pages that are written by programs say what the programs say."""

from __future__ import annotations

from tests import commands, config_pages


def test_the_page_of_commands_is_what_they_say():
    assert commands.FILE.read_text() == commands.page(), "run `python -m tests.commands`"


def test_the_pages_of_config_keys_are_what_the_dataclasses_say():
    for file, said in config_pages.pages().items():
        assert file.read_text() == said, f"{file}: run `python -m tests.config_pages`"


def test_every_key_of_a_page_has_a_meaning():
    """A key without a comment behind its field would have an empty cell."""
    for said in config_pages.pages().values():
        empty = [line for line in said.splitlines() if line.startswith("| `") and line.endswith("|  |")]
        assert not empty
