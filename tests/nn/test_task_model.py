"""A model of tasks: limits of its variances, and several at once."""

from __future__ import annotations

import torch

from skillmeta.nn.task_model import TaskModel
from skillmeta.nn.windows import stacked


def made() -> TaskModel:
    return TaskModel(3, 2, 4, 8, 2, torch.Generator().manual_seed(0))


def test_log_variances_stay_within_their_limits_and_have_gradients_there():
    model = made()
    with torch.no_grad():
        model.net.layers[-1].bias[4:] = torch.tensor([-1000.0, -30.0, 30.0, 1000.0])
    log_variance = 2 * model(torch.zeros(5, 3), torch.zeros(2)).log_stddev
    torch.testing.assert_close(log_variance[0], torch.tensor([-10.0, -10.0, 0.5, 0.5]), rtol=0, atol=1e-3)
    low, high = torch.autograd.grad(log_variance.sum(), [model.lowest, model.highest])
    torch.testing.assert_close(low, torch.tensor([5.0, 5.0, 0.0, 0.0]), rtol=0, atol=1e-2)
    torch.testing.assert_close(high, torch.tensor([0.0, 0.0, 5.0, 5.0]), rtol=0, atol=1e-2)
    assert model.width().item() == 42.0


def test_each_task_has_its_context_and_where_they_are_stacked_its_parameters():
    model, generator = made(), torch.Generator().manual_seed(1)
    inputs, context = torch.randn(3, 5, 3, generator=generator), torch.randn(3, 2, generator=generator)
    several = stacked(model, 3)
    with torch.no_grad():
        for p in several.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    together, apart = model(inputs, context), several(inputs, context)
    for n in range(3):
        one = model(inputs[n], context[n])
        torch.testing.assert_close(one.mean, together.mean[n])
        torch.testing.assert_close(one.log_stddev, together.log_stddev[n])
        own = made()
        with torch.no_grad():
            for p, each in zip(own.parameters(), several.parameters(), strict=True):
                p.copy_(each[n])
        torch.testing.assert_close(own(inputs[n], context[n]).mean, apart.mean[n])
        torch.testing.assert_close(own(inputs[n], context[n]).log_stddev, apart.log_stddev[n])
