"""Logs that are larger than memory, converted once into arrays that are mapped: a folder each below `$SKILLMETA_CACHE/logs`.

A folder is written beside its place and renamed: it is whole or not there. It holds for the files that it was made of, by their
names, sizes and times, and is verified by its checksums whenever it is opened. What does not hold, or is damaged, is made again. It
may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skillmeta.data.episodes import EpisodeDataset
from skillmeta.data.layouts import Request
from skillmeta.data.room import Room, on_disk
from skillmeta.errors import DataError
from skillmeta.reading import checksums, read_json, sha256, verify
from skillmeta.run.files import FolderInUse, acquire_lock, remove, replacing_folder, wait_for_lock, write_synced
from skillmeta.types import Observed

FORMAT = 2  # of a folder; raised when what a reader makes of the same files changes
ABOUT, MANIFEST = "about.json", "manifest.json"
COLUMNS = ("observation", "action", "reward", "terminated", "truncated", "success")
FIX = "it is made again"


def cache_folder() -> Path:
    return Path(os.environ.get("SKILLMETA_CACHE", "~/.cache/skillmeta")).expanduser() / "logs"


@dataclass(frozen=True)
class Converted:
    """Where the arrays of a source lie if it is large.

    Args:
        folder: theirs.
        made_of: what must be the same for them to hold, as JSON values.
        source: as it is written.
    """

    folder: Path
    made_of: Mapping[str, Any]
    source: str

    @classmethod
    def of(cls, request: Request, path: Path, files: Sequence[Path]) -> Converted:
        """Those of a source that is asked for, which is in these files below a path."""
        asked = {"path": str(path.resolve()), "source": request.source, "clip_actions": request.clip_actions}
        name = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:20]
        found = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        state = hashlib.sha256(json.dumps(found).encode()).hexdigest()
        return cls(cache_folder() / name, {"format": FORMAT, **asked, "files": state}, request.source)

    def load(self, above: int, read: Callable[[Room], EpisodeDataset]) -> EpisodeDataset:
        """The data set that `read` makes in a room: in memory, or in files if its arrays have more than `above` bytes. Waits where
        another process makes the same files."""
        while (found := self._opened(above)) is None:
            try:
                return self._made(above, read)
            except FolderInUse as busy:
                print(busy, file=sys.stderr, flush=True)
                wait_for_lock(self._lock)
        return found

    @property
    def _lock(self) -> Path:
        return self.folder.with_name(f".{self.folder.name}.lock")

    def _made(self, above: int, read: Callable[[Room], EpisodeDataset]) -> EpisodeDataset:
        """What `read` makes. Raises FolderInUse where its files are being made by another process."""
        with ExitStack() as stack:
            made: list[Path] = []

            def folder() -> Path:
                busy = f"{self.source}: another process is converting it; this one waits"
                stack.callback(acquire_lock(self._lock, busy).release)
                remove(self.folder)  # what is there does not hold; two of this size may not fit onto the disk
                made.append(stack.enter_context(replacing_folder(self.folder)))
                return made[0]

            dataset = read(Room(above, self.folder.parent, folder))
            if not made:
                return dataset
            with on_disk(self.folder.parent):
                self._describe(made[0], dataset)
                stack.close()
        return self._mapped(above, read_json(self.folder / ABOUT, DataError, FIX))

    def _describe(self, folder: Path, dataset: EpisodeDataset) -> None:
        """Write what is to be known of arrays that lie in a folder."""
        np.save(folder / "offsets.npy", dataset.offsets, allow_pickle=False)
        about = {
            "made_of": dict(self.made_of),
            "bytes": sum(getattr(dataset, name).nbytes for name in COLUMNS),
            "action_low": dataset.action_low.tolist(),
            "action_high": dataset.action_high.tolist(),
            "notes": list(dataset.notes),
            "observed": [list(part) for part in dataset.observed],
            "spanned": dataset.spanned,
        }
        write_synced(folder / ABOUT, json.dumps(about, indent=1).encode())
        digests = {file.name: sha256(file) for file in sorted(folder.iterdir())}
        write_synced(folder / MANIFEST, checksums(digests).encode())

    def _opened(self, above: int) -> EpisodeDataset | None:
        """The arrays if they are there, hold, are undamaged and are too large to be read into memory."""
        if not (self.folder / MANIFEST).exists():
            return None
        try:
            about = read_json(self.folder / ABOUT, DataError, FIX)
            if about.get("made_of") != self.made_of or about.get("bytes", 0) <= above:
                return None
            verify(self.folder, MANIFEST, DataError, FIX)
            return self._mapped(above, about)
        except DataError:
            return None

    def _mapped(self, above: int, about: Mapping[str, Any]) -> EpisodeDataset:
        columns = {name: np.lib.format.open_memmap(self.folder / f"{name}.npy", "r") for name in COLUMNS}
        low, high = (np.array(about[name], np.float32) for name in ("action_low", "action_high"))
        return EpisodeDataset(
            **columns,
            offsets=np.load(self.folder / "offsets.npy", allow_pickle=False),
            action_low=low,
            action_high=high,
            source=self.source,
            notes=tuple(about["notes"]),
            observed=tuple(Observed(*part) for part in about["observed"]),
            spanned=bool(about["spanned"]),
            room=Room(above, self.folder.parent),
        )
