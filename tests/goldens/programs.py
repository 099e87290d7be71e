"""How the cases are run: the one place that knows the programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from skillmeta.config import build
from skillmeta.programs.pretrain import PretrainConfig, pretrain
from skillmeta.programs.train import train
from skillmeta.programs.train_config import train_config
from skillmeta.run.checkpoint import load_state
from skillmeta.run.run import read_metrics
from tests.goldens.cases import FINETUNE, META, PRETRAIN

Measured = tuple[list[dict[str, Any]], Any, Any]  # metrics, result, what acts


def with_skills(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {**case, "skills": str(folder / "skills")} if case.get("skills") else case


def run_finetune(name: str, run: Path, folder: Path) -> Measured:
    options = {"env_steps": 240, "evaluation": {"episodes": 2}, **with_skills(FINETUNE[name], folder)}
    return run_training("finetune", options, run)


def run_meta(name: str, run: Path, folder: Path) -> Measured:
    return run_training("meta-train", with_skills(META[name], folder), run)


def run_training(kind: str, options: dict[str, Any], run: Path) -> Measured:
    result = train(train_config(options, kind), run, quiet=True)
    return list(read_metrics(run)), result, load_state(run / "actor")[0]


def run_pretrain(name: str, run: Path, folder: Path) -> Measured:
    model = {"horizon": 5, "dim": 3, "hidden": 16, "decoder_depth": 2, "prior_depth": 2, **PRETRAIN[name]}
    options = {
        "source": str(folder / "logs.npz"),
        "model": model,
        "training": {"steps": 20, "batch_size": 8, "held_out_every": 10, "held_out_windows": 16, "beta": 0.01},
    }
    result = pretrain(build(PretrainConfig, options), run, quiet=True)
    assert result is not None
    result.pop("source")
    return list(read_metrics(run)), result, load_state(run / "model")[0]


RUN: dict[str, Callable[[str, Path, Path], Measured]] = {
    "finetune": run_finetune,
    "meta": run_meta,
    "pretrain": run_pretrain,
}
