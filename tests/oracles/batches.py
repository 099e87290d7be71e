"""Fixed batches for the oracles: ragged episodes with numbers in the padding that must not matter."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from skillmeta.nn.distributions import Gaussian
from skillmeta.objectives.inner_step import Samples, Shape
from skillmeta.run.parts import restore_parts
from skillmeta.types import Batch, Trials
from tests.oracles import maml_reference as reference
from tests.oracles.maml_reference import Data, Spec, Theta

OBSERVED, ACTIONS, HIDDEN = 3, 2, 4


def parameters(spec: Spec, seed: int = 0) -> Theta:
    """Random parameters of two hidden layers, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    widths = [OBSERVED + spec.context, HIDDEN, HIDDEN, ACTIONS]
    shapes = [s for a, b in zip(widths, widths[1:], strict=False) for s in ((b, a), (b,))]
    made = [0.5 * torch.randn(s, generator=generator, dtype=torch.float64) for s in (*shapes, (ACTIONS,))]
    return [p.requires_grad_(True) for p in made]


def shape_of(spec: Spec) -> Shape:
    return Shape(OBSERVED, ACTIONS, HIDDEN, 2, spec.discrete, spec.context)


def samples(spec: Spec, seed: int, tasks: int = 3, count: int = 9) -> Samples:
    """Random decisions with ragged masks, double precision; `log_prob` is near that of a policy, not equal to it."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    action = normal(tasks, count, ACTIONS)
    if spec.discrete:
        action = torch.nn.functional.one_hot(action.argmax(-1), ACTIONS).double()
    valid = (torch.arange(count) < torch.tensor([[count], [count - 4], [count - 2]])[:tasks]).double()
    made = Samples(
        normal(tasks, count, OBSERVED), action, normal(tasks, count), normal(tasks, count), valid,
        normal(tasks, count, ACTIONS), 0.3 * normal(tasks, count, ACTIONS),
    )  # fmt: skip
    theta = parameters(spec)
    rows = [
        reference.log_prob(spec, reference.policy(spec, theta, torch.zeros(spec.context), data), data.action).detach()
        for data in (Data(*(getattr(made, name)[i] for name in Data._fields)) for i in range(tasks))
    ]
    return made._replace(log_prob=torch.stack(rows) + 0.2 * normal(tasks, count))


def rows(batch: Samples) -> list[Data]:
    """Each task's valid decisions."""
    return [
        Data(*(getattr(batch, name)[i][batch.valid[i].bool()].double() for name in Data._fields))
        for i in range(len(batch.valid))
    ]


def trials(spec: Spec, seed: int, tasks: int = 3, rollouts: int = 4, rounds: int = 2, time: int = 6) -> Trials:
    """Random episodes of different lengths; actions and rewards in the padding are not zero."""
    rng = np.random.default_rng(seed)
    num = tasks * rollouts
    observation = rng.normal(size=(num, rounds, time + 1, OBSERVED)).astype(np.float32)
    action = rng.normal(size=(num, rounds, time, ACTIONS)).astype(np.float32)
    if spec.discrete:
        action = np.eye(ACTIONS, dtype=np.float32)[action.argmax(-1)]
    lengths = rng.integers(3, time + 1, size=(num, rounds, 1))
    valid = np.arange(time) < lengths
    reward = observation[..., :-1, 0] + action[..., 0] + 0.5 * rng.normal(size=(num, rounds, time))
    reward = np.where(valid, reward, 20.0).astype(np.float32)
    last = np.arange(time) == lengths - 1
    return Trials(observation, action, reward, ~valid & False, last, valid.astype(np.int64), ~valid & False, valid)


def put(learner: Any, theta: Theta) -> None:
    """Give a learner these parameters."""
    own = {"parameters": learner.parts()["parameters"]}
    restore_parts(own, {"parameters": {str(i): p.detach().float() for i, p in enumerate(theta)}})


def normalize(observation: Tensor) -> Tensor:
    return (observation - 0.3) / 2


def prior(observation: Tensor) -> Gaussian:
    """A skill prior that depends on the raw observation."""
    return Gaussian(torch.tanh(observation[:, :ACTIONS]), 0.2 * observation[:, 1:] - 0.5)


def wide_prior(observation: Tensor) -> Gaussian:
    """Wider than the box, so that clipping decides."""
    return Gaussian(0.5 * observation[:, :ACTIONS], -0.5 + 0.2 * observation[:, 1:])


def data_of(
    spec: Spec, batch: Trials, k: int, stacked: list[tuple[Theta, Tensor]], discount: float, skills: bool
) -> list[Data]:
    """What is learned from the k-th episodes, from the arrays: `stacked` are the tasks' parameters and contexts that acted."""
    found = []
    rollouts = len(batch.reward) // len(stacked)
    for task, (theta, context) in enumerate(stacked):
        numbers = range(task * rollouts, (task + 1) * rollouts)
        lengths = [int(batch.valid[n, k].sum()) for n in numbers]
        raw = [batch.observation[n, k, :t].astype(float) for n, t in zip(numbers, lengths, strict=True)]
        seen = [(o - 0.3) / 2 if skills else o for o in raw]
        rewards = [batch.reward[n, k, :t].astype(float) for n, t in zip(numbers, lengths, strict=True)]
        action = np.concatenate([batch.action[n, k, :t] for n, t in zip(numbers, lengths, strict=True)]).astype(float)
        joined = np.concatenate(raw)
        mean = np.tanh(joined[:, :ACTIONS]) if skills else np.zeros_like(action)
        spread = 0.2 * joined[:, 1:] - 0.5 if skills else np.zeros_like(action)
        arrays = (
            np.concatenate(seen), action, reference.advantages_of(seen, rewards, discount), action[:, 0], mean, spread
        )  # fmt: skip
        data = Data(*(torch.from_numpy(a) for a in arrays))
        acting = reference.policy(spec, theta, context, data)
        found.append(data._replace(log_prob=reference.log_prob(spec, acting, data.action).detach()))
    return found


class FixedSource:
    """Stands for `OnlineSource`: always the same trials."""

    def __init__(self, batch: Trials):
        self.batch = batch

    def trials(self, actor: Any, tasks: int, episodes: int) -> Batch:
        assert self.batch.reward.shape[:2] == (tasks * actor.rollouts, episodes)
        return Batch(self.batch, ())
