"""A log as decisions: nothing of what lies in the windows is lost, ends are at the end, z is the encoder's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skillmeta.data.episodes import single_episode
from skillmeta.data.replay import Replay
from skillmeta.data.trials import join, stack
from skillmeta.skills.relabel import decisions
from skillmeta.skills.vae import SkillModel, SkillModelConfig
from skillmeta.types import Episodes

H = 4


def skill_model() -> SkillModel:
    sizes = SkillModelConfig(horizon=H, dim=3, hidden=8, decoder_depth=1, prior_depth=1)
    return SkillModel(sizes, 2, 1, -torch.ones(1), torch.ones(1), torch.Generator().manual_seed(0)).requires_grad_(
        False
    )


def log(steps: int, terminates: bool, seed: int = 0) -> Episodes:
    rng, last = np.random.default_rng(seed), np.arange(steps) == steps - 1
    return single_episode(
        rng.normal(size=(steps + 1, 2)).astype(np.float32),
        rng.uniform(-1, 1, (steps, 1)).astype(np.float32),
        rng.integers(0, 9, steps).astype(np.float32),
        last & terminates,
        last & (not terminates),
        rng.random(steps) < 0.1,
    )


def together(episodes: list[Episodes]) -> Episodes:
    return join([stack([episode]) for episode in episodes]).episodes(0)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 14), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_decisions_are_what_a_loop_over_windows_finds(lengths, seed):
    model, logs = skill_model(), [log(n, e % 2 == 0, seed + e) for e, n in enumerate(lengths)]
    found = decisions(together(logs), model)
    for e, (steps, episode) in enumerate(zip(lengths, logs, strict=True)):
        left_out, count = steps % H, steps // H
        assert found.valid[e].tolist() == [d < count for d in range(found.valid.shape[1])]
        assert found.lengths[e] == H * count and found.returns[e] == episode.reward[0, left_out:].sum()
        for d in range(count):
            window = slice(left_out + d * H, left_out + (d + 1) * H)
            action, seen = (torch.from_numpy(values[:, window]) for values in (episode.action, episode.observation))
            torch.testing.assert_close(torch.from_numpy(found.action[e, d]), model.encode(action, seen).mean[0])
            np.testing.assert_array_equal(found.observation[e, d], episode.observation[0, window.start])
            np.testing.assert_array_equal(found.observation[e, d + 1], episode.observation[0, window.stop])
            assert found.reward[e, d] == episode.reward[0, window].sum() and found.steps[e, d] == H
            assert found.success[e, d] == episode.success[0, window].any()
            assert found.terminated[e, d] == (d == count - 1 and e % 2 == 0)
            assert found.truncated[e, d] == (d == count - 1 and e % 2 == 1)


def test_what_an_episode_has_at_its_end_survives_whatever_its_length():
    """A reward of 1 in the step in which the world ends is the last decision's; the rest that is left out is at the start."""
    for steps in range(H, 4 * H):
        ends = np.arange(steps) == steps - 1
        episode = single_episode(
            np.zeros((steps + 1, 2), np.float32), np.zeros((steps, 1), np.float32), ends.astype(np.float32), ends
        )
        found = decisions(episode, skill_model())
        assert found.returns.tolist() == [1.0] and found.reward[0, -1] == 1 and found.terminated[0].tolist()[-1]
        assert not found.truncated.any()


def test_z_is_the_posteriors_mean_or_a_sample_of_it_with_the_noise_that_was_passed():
    model, episode = skill_model(), log(3 * H, True)
    columns = (torch.from_numpy(values[0, : 3 * H]) for values in (episode.action, episode.observation))
    posterior = model.encode(*(column.unflatten(0, (3, H)) for column in columns))
    noise = torch.randn(3, 3, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(torch.from_numpy(decisions(episode, model).action[0]), posterior.mean)
    sampled = decisions(episode, model, torch.Generator().manual_seed(5)).action[0]
    torch.testing.assert_close(torch.from_numpy(sampled), posterior.mean + posterior.stddev * noise)


def test_a_high_level_learns_from_them_as_from_its_own_decisions():
    replay = Replay(50, 2, 3)
    logs = together([log(9, True), log(3, True), log(8, False)])  # the second is shorter than a skill
    replay.add(decisions(logs, skill_model()))
    assert len(replay) == 4 and replay.columns.terminated[:4].tolist() == [0, 1, 0, 0]
    np.testing.assert_array_equal(replay.columns.next_observation[1], logs.observation[0, 9])
    np.testing.assert_array_equal(replay.columns.observation[2], logs.observation[2, 0])
    replay.add(decisions(log(3, True), skill_model()))
    assert len(replay) == 4


def test_decisions_are_not_relabelled_again():
    with pytest.raises(ValueError, match="of decisions; skills are found in primitive steps"):
        decisions(decisions(log(9, True), skill_model()), skill_model())
