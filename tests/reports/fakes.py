"""Folders as runs leave them, with numbers that were made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from skillmeta.config import dump_yaml

ENVIRONMENT = {
    "command": "skillmeta ablate x",
    "python": "3",
    "versions": {"torch": "2"},
    "threads": "1",
    "machine": {"cpu": "some", "cores": 2, "system": "linux"},
}


def write_run(folder: Path, config: dict[str, Any], rows: list[dict[str, Any]], result: dict[str, Any] | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(
        dump_yaml({"algorithm": {"name": "sac"}, "env_steps": 5000, "seed": 0, **config})
    )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def fake_run(folder: Path, level: float, task: int, seed: int) -> None:
    """A run on one task that learned steadily to `level`."""
    rng = np.random.default_rng([task, seed, int(100 * level)])
    rows, steps = [], 0
    for number in range(1, 31):
        steps += int(rng.integers(100, 200))
        success = int(rng.random() < level * number / 30)
        cost = {"env_steps": steps, "episodes": number, "decisions": steps // 10, "updates": number}
        learner = {"prior/divergence": 1.0 + level, "prior/coefficient": 0.1, "critic/loss": 0.2}
        scores = {"return": float(success), "return_first": float(success), "return_last": float(success)}
        scores |= {"success": success, "success_last": success, "length": 150, "trials": 1}
        rows.append({"kind": "iteration", **cost, **scores, **(learner if number > 1 else {})})
    scores = {"success": round(level + 0.01 * seed, 3), "return": level, "mode_success": level, "mode_return": level}
    counts = {"env_steps": 5000, "episodes": 30, "decisions": 500, "updates": 480, "seconds": 3.2, "num_episodes": 20}
    config = {"kind": "finetune", "task": {"family": "maze", "index": task}, "max_episodes": None, "seed": seed}
    write_run(folder, config, rows, {**scores, **counts})
    path = np.cumsum(rng.normal(size=(50, 2)), 0).astype(np.float32)
    np.savez(folder / "trajectories.npz", early_0=path, final_0=path + 1)


def fake_meta_run(folder: Path, level: float, seed: int, held_out: bool = True, **config: Any) -> None:
    """A run of meta-training whose last episodes get better by `level` an iteration, 4 trials of 2 episodes each."""
    rows: list[dict[str, Any]] = []
    for number in range(1, 13):
        cost = {"env_steps": 100 * number, "episodes": 8 * number, "decisions": 100 * number, "updates": number}
        last = level * number + seed
        scores = {"return": last / 2, "return_first": 0.0, "return_last": last, "success": 0.0, "success_last": 0.0}
        rows.append({"kind": "iteration", **cost, **scores, "trials": 4, "ppo/kl": 0.1 * number})
        if held_out and number % 4 == 0:
            scores = {"evaluation/return": last - 1, "evaluation/success": 0.0, "evaluation/sampled": 0.0}
            rows.append({"kind": "evaluation", **cost, **scores})
    result = {"env_steps": 1200, "episodes": 96, "updates": 12, "seconds": 2.0, "return_last": 12 * level + seed}
    task = {"family": "point", "split": "train"}
    write_run(folder, {"kind": "meta-train", "task": task, "seed": seed, **config}, rows, result)


def fake_model(folder: Path, seed: int, cloning: bool = False) -> None:
    """A pretraining run."""
    folder.mkdir(parents=True)
    same = {"episodes": 2, "env_steps": 50, "split": "validation"}
    rollouts = [
        {"name": name, **same, "coverage": share, "total_coverage": share, "success": success}
        for name, share, success in (("skills from the prior", 0.3, 0.5), ("the logs", 0.4, None))
    ]
    held_out: dict[str, Any] = {"kl": 1.0, "prior_kl": 0.5, "prior_nll": 2.0, "unconditional_nll": 5.0 + seed}
    held_out |= {"windows": 3, "active_dimensions": 1, "dimensions": 2, "action_variance": [1.0]}
    held_out |= {"error_by_action": [0.0 if cloning else 0.25], "error_by_action_prior": [0.5]}
    result = {"source": "log.npz", "verdict": ["Fine."], "rollouts": rollouts, "held_out": held_out}
    rows = [
        {"kind": kind, "steps": step, "score": 1.0 / step} for step in (1, 2) for kind in ("iteration", "evaluation")
    ]
    config = {"source": "log.npz", "model": {"cloning": cloning}, "task": None}
    (folder / "config.yaml").write_text(dump_yaml(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
    (folder / "result.json").write_text(json.dumps(result))
