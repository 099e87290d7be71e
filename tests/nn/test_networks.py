"""Perceptrons no larger than they are, how the sequence encoder begins, and statistics that are taken over."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skillmeta.errors import ConfigError
from skillmeta.limits import NETWORK
from skillmeta.nn.networks import MLP, Normalizer, SequenceEncoder, recurrent


def mlp(hidden: int, depth: int) -> MLP:
    return MLP(2, 1, hidden, depth, torch.Generator().manual_seed(0))


def test_a_network_is_refused_for_the_weights_of_all_its_layers():
    wide = 8192  # one layer between two of them would be too large
    assert wide**2 > NETWORK > sum(one.numel() for one in mlp(wide, 1).parameters())
    with pytest.raises(ConfigError, match=f"a network of {wide * (3 + wide):,} parameters is asked for"):
        mlp(wide, 2)
    deep = NETWORK // 1024**2 + 2  # no layer is too large alone
    with pytest.raises(ConfigError, match="a network of .* parameters is asked for"):
        mlp(1024, deep)


def test_a_sequence_encoder_is_refused_for_its_recurrent_weights():
    hidden = int((NETWORK / 8) ** 0.5) + 1  # its other layers are far smaller
    with pytest.raises(ConfigError, match="a network of .* parameters is asked for"):
        SequenceEncoder(1, 1, hidden, torch.Generator())


def test_the_sequence_encoder_begins_with_open_forget_gates():
    """Of the four gates one has biases of about 1 in sum, the others of about 0: it remembers what it saw first."""
    hidden = 256
    lstm = SequenceEncoder(2, 3, hidden, torch.Generator().manual_seed(0)).lstm
    gates = (lstm.bias_ih_l0 + lstm.bias_hh_l0).detach().view(4, hidden)
    assert (gates - torch.tensor([0.0, 1.0, 0.0, 0.0])[:, None]).abs().max() <= 2 * hidden**-0.5


@pytest.mark.parametrize("make", [nn.GRU, nn.LSTM])
def test_a_recurrent_layer_begins_as_torch_has_it(make: type[nn.GRU] | type[nn.LSTM]):
    """Every parameter is uniform between plus and minus one over the root of its units."""
    limit = 64**-0.5
    for parameter in recurrent(make, 3, 64, torch.Generator().manual_seed(0)).parameters():
        assert -limit <= parameter.min() < -0.9 * limit and 0.9 * limit < parameter.max() <= limit


def test_statistics_are_taken_over_and_a_constant_observation_is_only_centred():
    normalizer = Normalizer(
        5
    )  # the last ones: noise of what nobody moves; what float32 makes of a thousand times 12345.678
    normalizer.take(torch.tensor([1.0, -2.0, 5.0, 0.0, 12345.0]), torch.tensor([0.5, 20.0, 0.0, 1e-6, 1e-3]))
    assert normalizer(torch.tensor([2.0, -42.0, 5.5, 0.25, 12347.0])).tolist() == [2.0, -2.0, 0.5, 0.25, 2.0]
    small = Normalizer(3)
    small.take(torch.zeros(3), torch.tensor([2.0**-20, 2.0**-22, 2.0**-40]))
    assert small(torch.tensor([2.0**-20, 2.0**-20, 2.0**-20])).tolist() == [1.0, 4.0, 2.0**-20]


def test_what_lies_far_from_the_logs_is_seen_at_ten_deviations_and_features_of_the_task_as_they_are():
    normalizer = Normalizer(2)
    normalizer.take(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.25]))
    seen = normalizer(torch.tensor([[5.5, 2.0, 99.0], [6.5, -99.0, -99.0]]))
    assert seen.tolist() == [[9.0, 8.0, 99.0], [10.0, -10.0, -99.0]]
