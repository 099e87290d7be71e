"""Gradient steps on a context: where they lead on losses that are known, and what one can differentiate through."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from skillmeta.nn.distributions import Gaussian
from skillmeta.objectives.context_step import clipped, context_steps, model_loss

GOALS = torch.tensor([[1.0, 2.0], [-300.0, 400.0]])


def square(context: Tensor) -> Tensor:
    return 0.5 * ((context - GOALS) ** 2).sum(-1)


def start() -> Tensor:
    return torch.zeros(2, 2, requires_grad=True)


def test_steps_shrink_the_distance_and_a_long_gradient_is_cut_in_its_own_task_alone():
    found = context_steps(square, start(), 3, 0.1, 10.0, create_graph=False)
    torch.testing.assert_close(found[0], GOALS[0] * (1 - 0.9**3))
    torch.testing.assert_close(found[1], 3 * 0.1 * 10.0 * torch.tensor([-0.6, 0.8]))


def test_no_steps_are_the_start_and_a_task_without_decisions_stays_there():
    first = start()
    assert context_steps(square, first, 0, 0.1, 10.0, create_graph=True) is first
    valid = torch.tensor([[1.0, 1.0], [0.0, 0.0]])

    def loss(context: Tensor) -> Tensor:
        def model(inputs: Tensor, context: Tensor) -> Gaussian:
            mean = inputs * context.unsqueeze(1)
            return Gaussian(mean, torch.zeros_like(mean))

        return model_loss(model, torch.ones(2, 2, 2), torch.ones(2, 2, 2), valid, context)

    scale = torch.ones((), requires_grad=True)
    found = context_steps(lambda c: scale * loss(c), first, 2, 0.1, 10.0, create_graph=True)
    assert not found[1].any() and found[0].tolist() == pytest.approx([0.19, 0.19])
    (slope,) = torch.autograd.grad(found.sum(), scale)  # finite, also where a gradient is zero
    assert float(slope) == pytest.approx(2 * (0.1 * 2 - 0.02))


@pytest.mark.parametrize("create_graph", [True, False])
def test_one_differentiates_through_the_steps_only_where_it_is_asked_for(create_graph):
    scale = torch.ones((), requires_grad=True)
    found = context_steps(lambda c: scale * square(c), start(), 2, 0.1, 1e9, create_graph)
    if create_graph:
        (slope,) = torch.autograd.grad(found[0, 0], scale)  # of 1 - (1 - 0.1 scale)^2
        assert float(slope) == pytest.approx(2 * 0.1 * 0.9)
    else:
        assert torch.autograd.grad(found[0, 0], scale, allow_unused=True) == (None,)


def test_a_models_loss_is_the_mean_over_valid_decisions():
    def model(inputs: Tensor, context: Tensor) -> Gaussian:
        return Gaussian(inputs, torch.zeros_like(inputs))

    outputs = torch.tensor([[[1.0], [2.0], [9.0]], [[0.0], [0.0], [0.0]]])
    valid = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    found = model_loss(model, torch.zeros(2, 3, 1), outputs, valid, torch.zeros(2, 1))
    constant = 0.5 * torch.log(torch.tensor(2 * torch.pi))
    torch.testing.assert_close(found - constant, torch.tensor([(0.5 + 2.0) / 2, 0.0]))


def test_gradients_are_cut_together():
    one, other = torch.tensor([3.0]), torch.tensor([[4.0]])
    assert [float(g) for g in clipped([one, other], 10.0)] == [3.0, 4.0]
    assert [float(g) for g in clipped([one, other], 1.0)] == pytest.approx([0.6, 0.8])
