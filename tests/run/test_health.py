"""A run that diverges says so once, while its numbers are still finite."""

from __future__ import annotations

import pytest

from skillmeta.cli import main
from skillmeta.run.health import Health
from skillmeta.run.run import read_metrics


@pytest.mark.parametrize(
    ("values", "at"),
    [
        ([1.0] * 9, None),
        ([1e-9] * 5 + [10.0], None),  # small, however much it has grown
        ([1e7] * 5 + [1e9], None),  # large from the start, as rewards may be
        ([1.0] * 5 + [-1e7], 5),
        ([1.0, 1e11], 1),
    ],
)
def test_it_is_said_where_a_number_has_left_its_history_or_all_reason(values, at):
    health = Health()
    said = [health.look({"return": 1e30, "critic/loss": value}) for value in values]
    assert [i for i, one in enumerate(said) if one] == ([] if at is None else [at])
    assert health.look({"critic/loss": 1e30}) == "" or at is None  # once
    assert Health({"critic/loss": value} for value in values).said == health.said or at is None


def test_a_learning_rate_of_a_thousand_warns_or_stops(tmp_path, capsys):
    options = ["task={family: point, options: {max_episode_steps: 5}}", "env_steps=60", "evaluation.episodes=1",
               "algorithm={hidden: 8, batch_size: 8, random_decisions: 5, learning_rate: 1000.0}"]  # fmt: skip
    assert main(["finetune", "downstream/maze_sac", *options, "--out", str(tmp_path / "warn")]) in (
        0,
        2,
    )  # a NaN may come
    assert capsys.readouterr().err.count("training has diverged, so lower the learning rate") == 1
    assert len(read_metrics(tmp_path / "warn")) > 1
    assert main(["finetune", "downstream/maze_sac", *options, "health=stop", "--out", str(tmp_path / "stop")]) == 2
    said = capsys.readouterr().err
    assert "error: " in said and "training has diverged" in said and said.count("\n") == 1
