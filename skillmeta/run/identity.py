"""What a run is, written into its checkpoints and its actor, so that they are not continued as something else without a word.

That is its config with every default filled in, the shapes that it was made for, and fingerprints of the skill model or the logs
that it depends on. The config is compared after filling defaults: one that a key has come with since then changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skillmeta import __version__
from skillmeta.config import differences, read_yaml
from skillmeta.errors import CheckpointError, ConfigError, UserError
from skillmeta.reading import sha256
from skillmeta.run.checkpoint import MANIFEST
from skillmeta.run.files import whole
from skillmeta.types import EnvSpec

RUN_FORMAT = 3  # of checkpoints and actors; raised when random streams, or what learners save, change
START_ANEW = "start anew in another --out"


@dataclass(frozen=True)
class Input:
    """Something on disk that a run depends on."""

    path: str
    sha256: str  # changes when it does


@dataclass(frozen=True)
class Identity:
    """What a run is, as of now.

    Args:
        config: with every default, as plain values.
        complete: fills the present defaults of a plain config that was written earlier. Imports nothing that only that one names.
        shapes: of what it observes and how it acts.
        inputs: what it is (`skill model`, `logs`) and where.
        lengths: keys that may grow while the run stays the same, with dots; null is more than any number.
    """

    config: Mapping[str, Any]
    complete: Callable[[dict[str, Any]], Mapping[str, Any]] = lambda config: config
    shapes: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Input] = field(default_factory=dict)
    lengths: Sequence[str] = ()

    def meta(self) -> dict[str, Any]:
        """What a checkpoint or an actor keeps of it, as JSON values."""
        return {
            "run_format": RUN_FORMAT,
            "version": __version__,
            "config": dict(self.config),
            "shapes": dict(self.shapes),
            "inputs": {what: {"path": one.path, "sha256": one.sha256} for what, one in self.inputs.items()},
        }

    def check(self, folder: Path, meta: Mapping[str, Any]) -> None:
        """Raises UserError, in a sentence that names `folder` and what to do, if what has this `meta` is of something else."""
        check_run_format(folder, meta)
        check_inputs(folder, meta, self.inputs)
        saved = _mapping(folder, meta, "config")
        if saved and (changed := self._changes(saved, self.config)):
            raise ConfigError(
                f"{folder}: was saved with other defaults ({'; '.join(changed[:5])}); set these keys as they were, or {START_ANEW}"
            )
        shapes = _mapping(folder, meta, "shapes")
        if shapes and (changed := differences(shapes, through_json(self.shapes))):
            raise UserError(
                f"{folder}: was saved for environments of other shapes ({'; '.join(changed[:5])}); put the old environment back, "
                f"or {START_ANEW}"
            )

    def changes_of(self, saved: Path, config: Mapping[str, Any]) -> list[str]:
        """What differs from the config in a file of the run's folder, a phrase a key; `config` is what would be written there."""
        return self._changes(read_yaml(saved, limited=False), config)

    def grown(self, saved: Path) -> dict[str, int | None]:
        """The lengths in a file of the run's folder that have grown since, and what they were; none where there is no such file."""
        if not saved.exists():
            return {}
        try:
            before = through_json(self.complete(read_yaml(saved, limited=False)))
        except ConfigError:
            return {}
        return {key: was for key in self.lengths if (was := value_at(before, key)) != value_at(self.config, key)}

    def _changes(self, saved: dict[str, Any], config: Mapping[str, Any]) -> list[str]:
        try:
            before, now = through_json(self.complete(saved)), through_json(self.config)
            for key in self.lengths:
                was, length = value_at(before, key), value_at(now, key)
                if length is None or (was is not None and was <= length):
                    set_at(before, key, length)
            return differences(before, now)
        except ConfigError:  # it has a key that is no more: as it stands
            return differences(through_json(saved), through_json(config))


def value_at(config: Mapping[str, Any], key: str) -> Any:
    """The value of a key with dots."""
    for part in key.split("."):
        config = config[part]
    return config


def set_at(config: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for part in sections:
        config = config[part]
    config[last] = value


def check_run_format(folder: Path, meta: Mapping[str, Any]) -> None:
    """Raises UserError if what is in a folder, with this `meta`, was saved by a version with other streams or learners."""
    if meta.get("run_format") != RUN_FORMAT:
        raise UserError(
            f"{folder}: was saved by another version of skillmeta (run format {meta.get('run_format', 1)}, this one has "
            f"{RUN_FORMAT}); use that version, or {START_ANEW}"
        )


def check_inputs(folder: Path, meta: Mapping[str, Any], inputs: Mapping[str, Input]) -> None:
    """Raises UserError if an input is not what it was when the state in `folder` was saved. One that was not kept passes."""
    before = _mapping(folder, meta, "inputs")
    for what, now in inputs.items():
        if what not in before:
            continue
        was = _mapping(folder, before, what).get("sha256")
        if was != now.sha256:
            raise UserError(
                f"{folder}: depends on the {what} in {now.path}, which changed after this was saved (SHA-256 {str(was)[:12]}, now "
                f"{now.sha256[:12]}); put the old one back, or {START_ANEW}"
            )


def _mapping(folder: Path, meta: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = meta.get(key, {})
    if not isinstance(found, dict):
        raise CheckpointError(f"{folder}: its {key} is no mapping; it was not written by skillmeta, use another one")
    return found


def through_json(value: Mapping[str, Any]) -> Any:
    """Plain values as they come back from a checkpoint."""
    return json.loads(json.dumps(dict(value)))


def saved_state(path: str | Path, folder: Path) -> Input:
    """What a user named `path`, whose state `save_state` wrote into `folder`, as an input: its manifest has all checksums."""
    return Input(str(path), sha256(whole(folder) / MANIFEST))


def shapes_of(spec: EnvSpec) -> dict[str, Any]:
    """What a learner knows of its environments, as plain values."""
    return {
        "observation_dim": spec.observation_dim,
        "action_bound": [float(bound) for bound in spec.action_bound],
        "discrete": spec.discrete,
        "shaped_reward": spec.shaped_reward,
    }
