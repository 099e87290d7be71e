"""Conjugate gradients, the line search and the linear baseline against NumPy's dense solvers and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skillmeta.objectives.on_policy import conjugate_gradients, linear_values, trust_region_step
from tests.oracles import maml_reference as reference


def quadratic(seed: int, size: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size))
    return root @ root.T + 0.5 * np.eye(size), rng.normal(size=size)


@pytest.mark.parametrize("size", [1, 6, 20])
def test_conjugate_gradients_are_numpys_solve(size):
    matrix, right = quadratic(size, size)
    h, b = torch.from_numpy(matrix), torch.from_numpy(right)
    x, image = conjugate_gradients(lambda v: h @ v, b, iterations=3 * size)
    assert np.allclose(x.numpy(), np.linalg.solve(matrix, right), atol=1e-7) and torch.allclose(image, b, atol=1e-7)


def test_conjugate_gradients_stop_after_their_iterations_and_each_one_helps():
    matrix, right = quadratic(0, 12)
    h, b = torch.from_numpy(matrix), torch.from_numpy(right)
    calls: list[int] = []
    errors = []
    for iterations in range(1, 13):
        calls.clear()
        x = conjugate_gradients(lambda v: (calls.append(1), h @ v)[1], b, iterations)[0].numpy()
        assert len(calls) == iterations
        errors.append((x - np.linalg.solve(matrix, right)) @ matrix @ (x - np.linalg.solve(matrix, right)))
    assert all(later < earlier for earlier, later in zip(errors, errors[1:], strict=False))  # monotone in the H-norm


@pytest.mark.parametrize("radius", [1e-3, 0.1])
def test_on_a_linear_loss_the_step_is_the_closed_form(radius):
    """min g.x within x.Hx / 2 <= radius is at -sqrt(2 radius / g.H^-1 g) H^-1 g, on the boundary."""
    matrix, slope = quadratic(1)
    h, g = torch.from_numpy(matrix), torch.from_numpy(slope)
    natural = np.linalg.solve(matrix, slope)
    best = -np.sqrt(2 * radius / (slope @ natural)) * natural
    step = trust_region_step(
        torch.zeros(6, dtype=torch.float64), 0.0, g, lambda v: h @ v,
        lambda x: (float(g @ x), float(x @ h @ x / 2) - 1e-9), radius, cg_iterations=20,
    )  # fmt: skip
    assert step.part == 1 and np.allclose(step.parameters.numpy(), best, atol=1e-6)
    assert step.divergence == pytest.approx(radius, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "divergence", "parts"),
    [
        (lambda part: -1.0 if part < 0.5 else 1.0, lambda part: 0.0, 0.8**4),  # the first part whose loss is lower
        (lambda part: -1.0, lambda part: 0.02 if part > 0.6 else 0.01, 0.8**3),  # whose KL is at most the radius
        (lambda part: 0.0, lambda part: 0.0, 0.0),  # an equal loss is no improvement
        (lambda part: float("nan"), lambda part: 0.0, 0.0),
        (lambda part: -1.0, lambda part: 0.011, 0.0),
        (lambda part: -1.0 if part < 0.8**14.5 else 1.0, lambda part: 0.0, 0.0),  # 15 tries
        (lambda part: -1.0 if part < 0.8**13.5 else 1.0, lambda part: 0.0, 0.8**14),
    ],
)
def test_the_line_search_takes_the_first_step_that_improves_within_the_radius(loss, divergence, parts):
    full = np.sqrt(2 * 0.01)

    def judge(x: torch.Tensor) -> tuple[float, float]:
        part = -float(x[0]) / full
        return loss(part), divergence(part)

    step = trust_region_step(torch.zeros(1), 0.0, torch.ones(1), lambda v: v, judge, max_kl=0.01)
    assert step.part == pytest.approx(parts) and float(step.parameters[0]) == pytest.approx(-parts * full, abs=1e-7)
    assert step.loss == (-1.0 if parts else 0.0)


def test_without_a_gradient_nothing_moves():
    step = trust_region_step(torch.ones(3), 1.0, torch.zeros(3), lambda v: v, lambda x: (1.0, 0.0), 0.01)
    assert step.parameters.tolist() == [1.0] * 3 and step.part == 0


def test_the_linear_baseline_is_numpys_lstsq_in_each_task():
    rng = np.random.default_rng(0)
    observation = rng.normal(size=(2, 4, 9, 2))
    observation[0, 0, 0, 0] = 30.0  # clipped to 10
    lengths = rng.integers(3, 10, size=(2, 4))
    valid = (np.arange(9) < lengths[:, :, None]).astype(float)
    returns = rng.normal(size=(2, 4, 9)) + observation[..., 0].clip(-1, 1)
    arguments = (torch.from_numpy(a).float() for a in (observation, np.where(valid, returns, 50.0), valid))
    ours = linear_values(*arguments).numpy()
    for task in range(2):
        wanted = reference.baseline(
            [observation[task, b, :t] for b, t in enumerate(lengths[task])],
            [returns[task, b, :t] for b, t in enumerate(lengths[task])],
        )
        for b, t in enumerate(lengths[task]):
            assert np.allclose(ours[task, b, :t], wanted[b], atol=1e-3) and (ours[task, b, t:] == 0).all()


def test_the_linear_baseline_is_exact_on_returns_that_are_linear_in_its_features():
    observation = torch.randn(1, 5, 8, 2, generator=torch.Generator().manual_seed(0))
    time = torch.arange(8) / 100
    returns = 1 + 2 * observation[..., 0] - observation[..., 1] ** 2 + 30 * time
    values = linear_values(observation, returns, torch.ones(1, 5, 8))
    assert torch.allclose(values, returns, atol=0.02)
    constant = linear_values(observation, torch.full((1, 5, 8), 3.0), torch.ones(1, 5, 8))
    assert torch.allclose(constant, torch.full((1, 5, 8), 3.0), atol=1e-4)
