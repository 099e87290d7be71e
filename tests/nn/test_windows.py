"""A GRU over windows is torch's; networks of several tasks at once compute what each computes alone."""

from __future__ import annotations

import torch
from torch import nn

from skillmeta.nn.windows import WindowGRU, stacked


def test_it_is_torchs_gru():
    generator = torch.Generator().manual_seed(0)
    own, other = WindowGRU(4, 3, generator), nn.GRU(4, 3, batch_first=True)
    with torch.no_grad():
        for wanted, parameter in zip(other.parameters(), (own.of_inputs, own.of_state), strict=False):
            wanted.copy_(parameter.weight)
        other.bias_ih_l0.copy_(own.of_inputs.bias)
        other.bias_hh_l0.copy_(own.of_state.bias)
    x = torch.randn(5, 7, 4, generator=generator)
    torch.testing.assert_close(own(x), other(x)[0][:, -1])


def test_stacked_parameters_are_each_tasks_own():
    generator = torch.Generator().manual_seed(0)
    ones = [WindowGRU(4, 3, generator) for _ in range(2)]
    both = stacked(ones[0], 2)
    with torch.no_grad():
        for parameter, *each in zip(both.parameters(), *(one.parameters() for one in ones), strict=True):
            assert torch.equal(parameter[1], each[0])
            parameter[1] = each[1]
    x = torch.randn(2, 5, 7, 4, generator=generator)
    torch.testing.assert_close(both(x), torch.stack([one(x[k]) for k, one in enumerate(ones)]))
    assert ones[0].of_inputs.weight.dim() == 2  # the original is as it was
