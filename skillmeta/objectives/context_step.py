"""Gradient steps on the context of a model of tasks, and the model's loss (CAVIA, Zintgraf et al. 2019, arXiv:1810.03642; MIER).

    phi <- phi - rate clip(grad_phi -mean log p(y | x; phi))

Functions of numbers and networks. Leading axes [N] are of tasks, whose losses and contexts are apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from skillmeta.nn.distributions import Gaussian

Model = Callable[[Tensor, Tensor], Gaussian]  # inputs [N, B, I], contexts [N, C] -> over outputs [N, B, P]


def model_loss(model: Model, inputs: Tensor, outputs: Tensor, valid: Tensor, context: Tensor) -> Tensor:
    """-log p of outputs [N, B, P], nats, averaged over the valid rows [N, B] of each task: [N]. 0 where there are none."""
    log_prob = model(inputs, context).log_prob(outputs)
    return -(log_prob * valid).sum(-1) / valid.sum(-1).clamp(min=1)


def context_steps(
    loss: Callable[[Tensor], Tensor], context: Tensor, steps: int, rate: float, clip: float, create_graph: bool
) -> Tensor:
    """Contexts [N, C] after some steps of gradient descent, each of a gradient that is no longer than `clip` in any task.

    Args:
        loss: contexts [N, C] -> each task's loss, [N].
        context: where it begins; it has to require gradients.
        create_graph: one can differentiate through the steps; otherwise they are constants that are added.
    """
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(loss(context).sum(), context, create_graph=create_graph)
        length = gradient.norm(dim=-1, keepdim=True)
        context = context - rate * gradient * (clip / length.clamp(min=clip))
    return context


def clipped(gradients: Sequence[Tensor], limit: float) -> list[Tensor]:
    """Gradients of all parameters, which together are no longer than the limit."""
    length = torch.stack([gradient.norm() for gradient in gradients]).norm()
    factor = limit / length.clamp(min=limit)
    return [gradient * factor for gradient in gradients]
