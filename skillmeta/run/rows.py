"""Rows of parts that grow, as files of a checkpoint that are written once and shared by all checkpoints after it.

A checkpoint's folder has every row that it needs. Files that the checkpoint before it wrote are linked into it, which costs no
bytes; one more file has the rows that are in none of them. So no checkpoint depends on another folder, and a file is gone when the
last checkpoint that needs it is removed. Where the file system has no hard links, every row is written again.

A file of the checkpoint before is not linked, and its rows are written again, if it is small, so that files do not become many, or
if more than half of its rows are forgotten. So what is written is at most twice what is new, and WHOLE bytes; what lies on the disk
is at most twice what is kept, and that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from skillmeta.types import Growing, State, Storable

WHOLE = 8 << 20  # bytes; a smaller file is written again, with the next rows
NAME = re.compile(r"rows-(\d+)\.safetensors")

Spans = list[tuple[int, int]]  # [begin, end) of rows
Files = dict[str, dict[str, Spans]]  # by name: of each part, by its path, the spans in its tensors
Piece = tuple[int, int, Mapping[str, Tensor]]  # begin and end of rows, and their columns


@dataclass(frozen=True)
class Rows:
    """Rows that were loaded: all that the part kept when it was saved."""

    kept: range
    columns: Mapping[str, Tensor]  # [len(kept), ...]
    origin: object = field(default_factory=object)

    def rows(self, begin: int, end: int) -> Mapping[str, Tensor]:
        first = self.kept.start
        return {name: column[begin - first : end - first] for name, column in self.columns.items()}


@dataclass(frozen=True)
class Written:
    """A checkpoint that this process wrote or continued from, and the origins of the parts whose rows it has, by path."""

    folder: Path
    origins: Mapping[str, object]

    @classmethod
    def of(cls, folder: Path, state: State) -> Written:
        return cls(folder, {path: part.origin for path, part in growing_parts(state)})


def growing_parts(state: Storable, path: str = "") -> Iterator[tuple[str, Growing]]:
    """The parts of a state that grow, with their paths."""
    if isinstance(state, dict):
        for name, value in state.items():
            yield from growing_parts(value, f"{path}/{name}")
    elif isinstance(state, (list, tuple)):
        for i, value in enumerate(state):
            yield from growing_parts(value, f"{path}/{i}")
    elif isinstance(state, Growing):
        yield path, state


def link_files(before: Written, files: Files, folder: Path, parts: Mapping[str, Growing]) -> Files:
    """Link those files of the checkpoint before into a new folder that are worth keeping. Returns what they have.

    A part of another origin, a new replay where another one was, has none of its rows in them.
    """
    same = {path: part for path, part in parts.items() if before.origins.get(path) is part.origin}
    linked = {}
    for name, has in files.items():
        spans = {part: held for part, held in has.items() if part in same}
        kept = sum(len(_cut(span, same[part].kept)) for part, held in spans.items() for span in held)
        if kept == 0 or 2 * kept < sum(end - begin for held in has.values() for begin, end in held):
            continue
        try:
            if (before.folder / name).stat().st_size >= WHOLE:
                os.link(before.folder / name, folder / name)
                linked[name] = spans
        except OSError:  # no hard links here, or too many of it: its rows are written again
            continue
    return linked


def missing(parts: Mapping[str, Growing], files: Files) -> dict[str, Spans]:
    """The rows that parts keep and no file has."""
    found = {}
    for part, grown in parts.items():
        at, spans = grown.kept.start, []
        for begin, end in sorted(span for has in files.values() for span in has.get(part, [])):
            if at < begin:
                spans.append((at, begin))
            at = max(at, end)
        if at < grown.kept.stop:
            spans.append((at, grown.kept.stop))
        if spans:
            found[part] = spans
    return found


def next_name(files: Iterable[str]) -> str:
    """A name that none of the files has."""
    last = max((int(NAME.sub(r"\1", name)) for name in files), default=0)
    return f"rows-{last + 1:06d}.safetensors"


def columns_of(part: Growing, spans: Spans) -> dict[str, Tensor]:
    """Each column of the rows in some spans, one after another."""
    pieces = [part.rows(begin, end) for begin, end in spans]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def pieces_of(spans: Mapping[str, Spans], tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Piece]]:
    """What a file has, as (part, piece), given the tensors in it. It may have tensors of other parts, which are no more."""
    columns: dict[str, dict[str, Tensor]] = {part: {} for part in spans}
    for name, values in tensors.items():
        part, _, column = name.rpartition("/")
        if part in columns:
            columns[part][column] = values
    for part, held in spans.items():
        first = 0
        for begin, end in held:
            rows = slice(first, first := first + end - begin)
            yield part, (begin, end, {name: values[rows] for name, values in columns[part].items()})


def assemble(kept: range, pieces: Iterable[Piece]) -> Rows:
    """The rows that a part keeps, put together from what files have of them. Raises ValueError if some are in none."""
    found: list[dict[str, Tensor]] = []
    at = kept.start
    for begin, end, columns in sorted(pieces, key=lambda piece: piece[0]):
        if some := _cut((begin, end), kept):
            found.append({name: values[some.start - begin : some.stop - begin] for name, values in columns.items()})
            if some.start != at or {len(values) for values in found[-1].values()} != {len(some)}:
                break
            at = some.stop
    if at != kept.stop:
        raise ValueError(f"no row {at}")
    return Rows(kept, {name: torch.cat([piece[name] for piece in found]) for name in (found or [{}])[0]})


def _cut(span: tuple[int, int], kept: range) -> range:
    return range(max(span[0], kept.start), min(span[1], kept.stop))
