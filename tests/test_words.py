"""Code, docs, configs and messages use the field's words. `words.yaml` has those that they replace, and allowed other senses."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORDS: list[dict[str, Any]] = yaml.safe_load((ROOT / "tests" / "words.yaml").read_text())
KINDS = (".py", ".md", ".yaml", ".toml", ".ipynb")
THIS = ("tests/words.yaml", "tests/test_words.py")
FORMER = re.compile(r"\bFORMER(_KEYS)?\b[^=\n]*= \{.*?\}", re.S)


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """What each file says, without its tables of former keys, by path."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    paths = listed or [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if ".venv" not in p.parts]
    kept = [path for path in paths if path.endswith(KINDS) and path not in THIS and (ROOT / path).exists()]
    return {path: FORMER.sub(lambda found: "\n" * found[0].count("\n"), (ROOT / path).read_text()) for path in kept}


def occurrences(word: Mapping[str, Any], texts: Mapping[str, str]) -> Iterator[tuple[str, int, str]]:
    """Path, number and line of each line that has the word."""
    pattern, within = re.compile(word["pattern"]), re.compile(word.get("within", ""))
    for path, text in texts.items():
        if within.search(path):
            low, lines = text.lower(), None
            for number in sorted({at for stem in word["stems"] for at in line_numbers(low, stem)}):
                lines = lines or text.split("\n")
                if pattern.search(lines[number]):
                    yield path, number + 1, lines[number]


def line_numbers(text: str, stem: str) -> Iterator[int]:
    """Of the lines that have the stem, from 0: fast, so that regular expressions need not look at all lines."""
    number = begin = 0
    while (at := text.find(stem, begin)) >= 0:
        number += text.count("\n", begin, at)
        begin = at + len(stem)
        yield number


def allows(one: Mapping[str, str], path: str, line: str) -> bool:
    return bool(re.search(one["place"], path) and re.search(one.get("line", ""), line))


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word["as_in"])
def test_no_word_is_used_in_the_sense_that_another_one_has(word, texts):
    allowed = word.get("allowed", [])
    used, wrong = set(), []
    for path, number, line in occurrences(word, texts):
        senses = {one["sense"] for one in allowed if allows(one, path, line)}
        used |= senses
        if not senses:
            wrong.append(f"{path}:{number}: {line.strip()}")
    assert not wrong, f"say {word['say']!r}, or state the sense in tests/words.yaml:\n" + "\n".join(wrong)
    assert used == {one["sense"] for one in allowed}, "nothing needs this line of tests/words.yaml any more"


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word["as_in"])
def test_each_pattern_finds_its_example(word):
    assert list(occurrences({**word, "within": ""}, {"a.py": f"before\n{word['as_in']}\nafter"})) == [
        ("a.py", 2, word["as_in"])
    ]
