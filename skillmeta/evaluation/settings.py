"""Skill models of several settings side by side: what each found out on held-out episodes, over its training seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from skillmeta.evaluation.records import ModelRecord
from skillmeta.evaluation.statistics import Estimate, Scores, estimate

QUANTITIES = {  # of a model: what they are
    "explained": "action variance explained",
    "state_nats": "nats that the state is worth to the prior",
    "visited": "visited an episode by skills from the prior",
}


def explained(held_out: Mapping[str, Any]) -> float:
    """Share of the variance of held-out actions that decoded skills explain."""
    return 1 - float(np.mean(held_out["error_by_action"])) / max(1e-12, float(np.mean(held_out["action_variance"])))


def quantities(model: ModelRecord) -> dict[str, float]:
    """The numbers of one model that there are."""
    found = model.result["held_out"]
    visited = [r["coverage"] for r in model.result["rollouts"][:1] if r["coverage"] is not None]
    return {
        "explained": explained(found),
        "state_nats": found["unconditional_nll"] - found["prior_nll"],
        **({"visited": visited[0]} if visited else {}),
    }


def by_setting(models: Mapping[str, ModelRecord]) -> dict[str, dict[str, Estimate]]:
    """Of each setting each quantity that all of its models have: models are named `skills/SETTING/seed-N`."""
    rows: dict[str, list[dict[str, float]]] = {}
    for name, model in models.items():
        rows.setdefault(PurePosixPath(name).parent.name, []).append(quantities(model))
    return {
        setting: {
            key: estimate(Scores(np.array([[row[key]] for row in found])))
            for key in QUANTITIES
            if all(key in row for row in found)
        }
        for setting, found in rows.items()
    }


def headline(settings: Mapping[str, Mapping[str, Estimate]]) -> str:
    listed = ", ".join(f"{name} {found['explained'].text('.2f')}" for name, found in settings.items())
    return f"Share of the variance of held-out actions that decoded skills explain [95 % interval]: {listed}."


def table(settings: Mapping[str, Mapping[str, Estimate]]) -> tuple[Sequence[str], list[list[str]]]:
    """Its head and its rows."""
    keys = [key for key in QUANTITIES if any(key in found for found in settings.values())]
    rows = [[name, *(found[key].text() if key in found else "" for key in keys)] for name, found in settings.items()]
    return ["setting", *(QUANTITIES[key] for key in keys)], rows
