"""Configs by name: files, what they are based on, and the presets that their sections name."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from skillmeta.config.modules import search_in
from skillmeta.errors import ConfigError, first_line

SECTIONS = {"task": "tasks", "algorithm": "algorithms"}  # key of a section: the folder of its presets
SECTIONS_OF_ABLATION = {"logs": "pretrain", "skills": "pretrain"}  # elsewhere `skills` is a run folder
FORMER = {"tasks/maze_layouts": "tasks/maze_unseen"}


def config_dir() -> Path:
    """The folder of the configs that come with the package, installed or in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def list_configs(folder: str = "") -> list[str]:
    """Names that `load` takes, e.g. `downstream/maze_spirl`; of one folder, without it."""
    root = config_dir() / folder
    return sorted(str(path.relative_to(root).with_suffix("")) for path in root.rglob("*.yaml"))


def find_config(name: str | Path, folder: str = "", beside: Path | None = None) -> Path:
    """A file as it is named, or a config that comes with the package.

    Args:
        folder: of configs, whose names are known without it: `cheetah_vel` in `tasks`.
        beside: the folder that a relative path may start from.

    Raises ConfigError with the nearest names.
    """
    root = config_dir()
    places = [beside / name] if beside else []
    places += [Path(name), root / name, root / f"{name}.yaml", root / folder / f"{name}.yaml"]
    for path in places:
        if path.is_file():
            return path.resolve()
    if now := FORMER.get(str(name)) or FORMER.get(f"{folder}/{name}"):
        raise ConfigError(f"{name}: is now called {now}")
    near = difflib.get_close_matches(str(name).removeprefix(f"{folder}/"), list_configs(folder), 3, 0.4)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; `skillmeta config list` shows those that come with it"
    raise ConfigError(f"{name}: there is no such file or {f'preset of configs/{folder}' if folder else 'config'}{hint}")


def load(name: str | Path, overrides: Sequence[str] = (), folder: str = "") -> DictConfig:
    """A YAML file on top of its `base:`, another file beside it or another config, and then `a.b=c` overrides; see `stack`.

    Raises ConfigError for a missing or malformed file, a cycle of bases, or a malformed override.
    """
    path = find_config(name, folder)
    if not path.is_relative_to(config_dir().resolve()):
        search_in(path.parent)
    return override(_with_base(path, ()), overrides)


def override(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """`config` with `a.b=c` overrides, in any order: what chooses a section comes before what changes it."""
    for text in overrides:
        if "=" not in text:
            raise ConfigError(f"override {text!r} has no '='; write section.key=value")
    sections = {*SECTIONS, *SECTIONS_OF_ABLATION}
    chosen = [text for text in overrides if text.partition("=")[0].rpartition(".")[2] in sections]
    for texts in (chosen, [text for text in overrides if text not in chosen]):
        try:
            layer = OmegaConf.from_dotlist(texts)
        except Exception as error:
            raise ConfigError(f"overrides {' '.join(overrides)!r}: {first_line(error)}") from None
        config = stack(config, layer)
    return config


def stack(
    config: DictConfig, layer: DictConfig, beside: Path | None = None, above: tuple[Path, ...] = ()
) -> DictConfig:
    """`layer` on top of `config`.

    A section (`task`, `algorithm`; in an ablation also `logs`, `skills` and what is named in it) may be the name of a preset, or
    a mapping whose `base` is one: it then is that preset, with the mapping's other keys on top, and nothing of `config`'s section.
    A section whose `name` or `family` differs from `config`'s starts from empty: other schema, other keys. So does one that is a
    list where `config` has a mapping, or the other way round.

    Args:
        beside: the folder of the file that `layer` was read from.
        above: files that are being read, to notice a cycle.
    """
    is_ablation = "methods" in config or "methods" in layer
    for key, folder in (SECTIONS | SECTIONS_OF_ABLATION if is_ablation else SECTIONS).items():
        _stack_section(config, layer, key, folder, beside, above)
    for name in layer:
        if name in config and _start_of(config, name, layer._get_node(name)) is None:
            del config[name]
    return typing.cast(DictConfig, OmegaConf.merge(config, layer))


def _stack_section(
    config: DictConfig, layer: DictConfig, key: str, folder: str, beside: Path | None, above: tuple[Path, ...]
) -> None:
    """One section of `layer` on top of that of `config`; it is no part of `layer` any more."""
    section = None if OmegaConf.is_interpolation(layer, key) else layer.get(key)
    if isinstance(section, str):
        section = OmegaConf.create({"base": section})
    if not isinstance(section, DictConfig):
        return
    base = section.pop("base", None)
    if base is not None:
        config[key] = _with_base(find_config(base, folder, beside), above)
    below = _start_of(config, key, section)
    below = OmegaConf.create() if below is None else below
    if key == "skills":  # several by name
        for name in list(section):
            if isinstance(section._get_node(name), DictConfig):
                _stack_section(below, section, str(name), folder, beside, above)
    config[key] = stack(below, section, beside, above)
    del layer[key]


def _start_of(config: DictConfig, key: Any, new: Any) -> Any:
    """What of `config` a new value of a key is merged onto; None: nothing."""
    old = config._get_node(key)
    if {type(new), type(old)} == {DictConfig, ListConfig}:
        return None
    if isinstance(new, DictConfig):
        if not isinstance(old, DictConfig) or any(n in new and new[n] != old.get(n) for n in ("name", "family")):
            return None
    return old


def _with_base(path: Path, above: tuple[Path, ...]) -> DictConfig:
    if path in above:
        raise ConfigError(f"{path}: `base` leads back to itself ({' -> '.join(p.name for p in [*above, path])})")
    layer, above = _parse(path), (*above, path)
    base = layer.pop("base", None)
    below = OmegaConf.create() if base is None else _with_base(find_config(base, "", path.parent), above)
    return stack(below, layer, path.parent, above)


def _parse(path: Path) -> DictConfig:
    try:
        layer = OmegaConf.load(path)
    except Exception as error:  # yaml and OmegaConf errors alike are the file's
        raise ConfigError(f"{path}: is not valid YAML ({first_line(error)})") from None
    if not isinstance(layer, DictConfig):
        raise ConfigError(f"{path}: holds a {type(layer).__name__}; a config is a mapping of keys to values")
    return layer
