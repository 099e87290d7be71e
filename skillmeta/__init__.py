"""Learn skills from logs of past behaviour, then learn new tasks from less experience with them.

From Python: `load` gives what acts of a trained run, `export` writes it into a file; `pretrain`, `finetune`, `meta_train`,
`evaluate` and `ablate` are the commands as functions (`skillmeta.api`); `SkillEnv` is a Gymnasium environment whose actions are
skills.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.2.0.dev0"

if TYPE_CHECKING:
    from skillmeta.agent import load as load
    from skillmeta.api import ablate as ablate
    from skillmeta.api import evaluate as evaluate
    from skillmeta.api import finetune as finetune
    from skillmeta.api import meta_train as meta_train
    from skillmeta.api import pretrain as pretrain
    from skillmeta.envs.skill_space import SkillEnv as SkillEnv
    from skillmeta.envs.skill_space import SkillVectorEnv as SkillVectorEnv
    from skillmeta.errors import UserError as UserError
    from skillmeta.exporting import export as export

_PLACES = {  # imported when they are asked for: `skillmeta --help` needs no torch
    "load": "agent",
    "export": "exporting",
    "UserError": "errors",
    **dict.fromkeys(("pretrain", "finetune", "meta_train", "evaluate", "ablate"), "api"),
    **dict.fromkeys(("SkillEnv", "SkillVectorEnv"), "envs.skill_space"),
}
__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module 'skillmeta' has no attribute {name!r}")
    return getattr(importlib.import_module(f"skillmeta.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
