"""What presets promise of one another and of their families."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from skillmeta.algorithms import pearl
from skillmeta.config import build, load
from skillmeta.programs.train_config import TrainConfig, train_config
from skillmeta.tasks.base import make_family


@pytest.mark.parametrize("name", ["point", "cheetah_vel", "cheetah_dir", "maze_skills"])
def test_a_no_context_preset_is_pearls_without_latents_and_an_oracle_is_that_with_the_task(name):
    def preset(path: Path) -> TrainConfig:
        return train_config(load(path), "meta-train", str(path))

    pearls, blind = (preset(Path(f"configs/meta/{method}_{name}.yaml")) for method in ("pearl", "no_context"))
    changed = {"latent_dim": 0, "context_size": 1, "exploration_episodes": 0}
    assert blind == replace(pearls, algorithm={**pearls.algorithm, **changed})
    oracle = Path(f"configs/meta/oracle_{name}.yaml")
    assert not oracle.exists() or preset(oracle) == replace(blind, see_task=True)


@pytest.mark.parametrize("path", sorted(Path("configs/meta").glob("pearl_*.yaml")), ids=lambda path: path.stem)
def test_a_presets_contexts_hold_a_whole_trial(path):
    """Otherwise the run stops after its first visit to every task."""
    config = train_config(load(path), "meta-train", str(path))
    algorithm = build(pearl.Config, {k: v for k, v in config.algorithm.items() if k != "name"}, str(path))
    decisions = make_family(config.task).max_episode_steps // (
        10 if config.skills else 1
    )  # the maze's skills take ten steps
    if algorithm.context == "trial":
        assert algorithm.context_capacity >= (1 + algorithm.posterior_episodes) * decisions
