"""D4RL's table of data sets and reference scores, read out of the user's own installation of d4rl.

Importing d4rl starts gym and looks for simulators that no longer install. Its table is one file of literals without imports, so
only that file is loaded, and only when an id is asked for. `pip install --no-deps d4rl==1.1` is enough.
"""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path
from types import ModuleType

from skillmeta.errors import DataError, UserError

INSTALL = "pip install --no-deps d4rl==1.1"


def table() -> ModuleType:
    """The module d4rl.infos, without the package around it. Raises UserError with the install line where d4rl is absent."""
    package = importlib.util.find_spec("d4rl")
    if package is None or not package.submodule_search_locations:
        raise UserError(f"d4rl ids need d4rl's table of data sets: {INSTALL}")
    path = Path(next(iter(package.submodule_search_locations))) / "infos.py"
    spec = importlib.util.spec_from_file_location("skillmeta_d4rl_infos", path)
    if spec is None or spec.loader is None or not path.exists():
        raise UserError(f"{path}: d4rl's table is not where version 1.1 has it; {INSTALL}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dataset_url(dataset_id: str) -> str:
    """Where D4RL keeps a data set. Raises DataError with the nearest ids for an unknown one."""
    urls = table().DATASET_URLS
    if dataset_id not in urls:
        near = difflib.get_close_matches(dataset_id, urls, 3)
        raise DataError(f"d4rl:{dataset_id}: D4RL has no such data set; did you mean {' or '.join(near) or 'another'}?")
    return str(urls[dataset_id])


def normalized_score(dataset_id: str, episode_return: float) -> float:
    """D4RL's score: 0 for its random policy, 1 for its expert. Raises DataError where it has no reference."""
    infos = table()
    if dataset_id not in infos.REF_MIN_SCORE:
        raise DataError(f"d4rl:{dataset_id}: D4RL has no reference scores for it")
    low, high = infos.REF_MIN_SCORE[dataset_id], infos.REF_MAX_SCORE[dataset_id]
    return float((episode_return - low) / (high - low))
