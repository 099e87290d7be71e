"""Families of bandits whose optima differ between tasks: returns that no policy reaches without adapting to its task.

With best actions -1 and 1 a policy with mean m and standard deviation s returns -(1 + m^2 + s^2) on average over the tasks, at most
-1; with 0.5 and 1.5 at most -0.25; with two arms 0.5.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from skillmeta.algorithms import maml, promp, reptile
from skillmeta.errors import ConfigError
from skillmeta.nn.distributions import Gaussian
from skillmeta.seeds import Seeds
from tests.learners import make_learner
from tests.oracles.bandits import BanditSource, returns_by_round

LEARNERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "maml": (maml, {"inner_lr": 0.3, "cg_iterations": 4}),
    "first-order maml": (maml, {"inner_lr": 0.3, "cg_iterations": 4, "first_order": True}),
    "e-maml": (maml, {"inner_lr": 0.3, "cg_iterations": 4, "exploration_credit": True}),
    "cavia": (maml, {"inner_lr": 1.0, "cg_iterations": 4, "context": 2}),
    "promp": (promp, {"inner_lr": 0.1, "learning_rate": 0.02}),
    "reptile": (reptile, {"inner_lr": 0.1}),
}


def skill_prior(observation: Tensor) -> Gaussian:
    """N(0.3, e^-0.7) in a one-dimensional skill space, whatever is observed."""
    return Gaussian(torch.full((len(observation), 1), 0.3), torch.full((len(observation), 1), -0.7))


def made(name: str, space: str, **options: Any) -> Any:
    module, own = LEARNERS[name]
    sliced = {} if module is reptile else {"tasks_at_once": 4}
    config = module.Config(**{"tasks": 4, "rollouts": 20, "hidden": 8, "depth": 1, **sliced, **own, **options})
    prior = skill_prior if space == "skills" else None
    return make_learner(
        module, config, 1, np.ones(2 if space == "arms" else 1, np.float32), space == "arms", prior, seeds=Seeds(0)
    )


@pytest.mark.parametrize(
    ("name", "space", "best", "without", "after"),
    [
        ("maml", "box", (-1.0, 1.0), -1.0, -0.75),
        ("maml", "arms", (0, 1), 0.5, 0.7),
        ("promp", "arms", (0, 1), 0.5, 0.8),
        ("maml", "skills", (-1.0, 1.0), -1.0, -0.5),
        ("first-order maml", "skills", (-1.0, 1.0), -1.0, -0.5),
        ("e-maml", "skills", (-1.0, 1.0), -1.0, -0.5),
        ("cavia", "skills", (-1.0, 1.0), -1.0, -0.5),
        ("promp", "skills", (-1.0, 1.0), -1.0, -0.5),
        ("reptile", "skills", (0.5, 1.5), -0.25, -0.2),
    ],
)
def test_one_inner_step_reaches_what_no_policy_reaches_without_adapting(name, space, best, without, after):
    options = {"inner_lr": 0.1} if space == "arms" else {}
    learner, source = made(name, space, **options), BanditSource(best, space == "arms")
    untrained = returns_by_round(learner.actor(), best, 2, space == "arms")
    for _ in range(15):
        learner.iterate(source)
    before, adapted = returns_by_round(learner.actor(), best, 2, space == "arms")
    assert before < without + 0.05 and adapted > after > without
    assert adapted > untrained[1]


@pytest.mark.parametrize("name", LEARNERS)
def test_in_skill_space_the_first_policy_is_the_prior_and_can_adapt(name):
    actor = made(name, "skills").actor()
    observation = torch.linspace(-2, 2, 40).unsqueeze(-1)
    belief = actor.begin(2, torch.Generator())
    skill, _ = actor.act(observation, belief, torch.Generator().manual_seed(1), explore=False)
    noise = torch.randn(2, 20, 1, generator=torch.Generator().manual_seed(1)).view(-1, 1)
    assert torch.equal(skill, skill_prior(observation).rsample(noise))
    before, after = returns_by_round(actor, (-1.0, 1.0), 2)
    assert after > before + 0.1


@pytest.mark.parametrize("name", ["maml", "cavia", "promp", "reptile"])
def test_the_prior_coefficient_holds_the_adapted_policy_near_the_prior(name):
    def distance(coefficient: float) -> float:
        """Mean squared distance of an adapted policy's skills from the prior's, in deviations of the prior."""
        learner, source = made(name, "skills", prior_coefficient=coefficient), BanditSource((3.0, 4.0))
        for _ in range(7):
            learner.iterate(source)
        actions = source.last.action[:, 1]
        return float((((actions - 0.3) / np.exp(-0.7)) ** 2).mean())

    assert distance(1.0) < 0.75 * distance(0.0)


@pytest.mark.parametrize("name", ["maml", "promp", "reptile"])
def test_a_coefficient_without_a_prior_is_refused(name):
    with pytest.raises(ConfigError, match="prior_coefficient is 0.2, but actions are primitive and have no prior"):
        made(name, "box", prior_coefficient=0.2)
    with pytest.raises(ValueError, match="prior_coefficient"):
        made(name, "box", prior_coefficient=-0.2)
