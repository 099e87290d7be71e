"""Pages describe a method from its config."""

from __future__ import annotations

import pkgutil

import pytest

from skillmeta import algorithms
from skillmeta.config import build
from skillmeta.config.modules import module_of

NAMES = sorted(module.name for module in pkgutil.iter_modules(algorithms.__path__))


def described(name: str, changes: dict, acts_in: str = "skills", prior: str | None = "p(z|s)") -> str:
    module = module_of("algorithms", name, "algorithm.name")
    return module.describe(build(module.Config, changes), acts_in, prior)


@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_has_a_phrase_that_says_how_it_acts(name):
    assert "acts in loops" in described(name, {}, "loops")


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("sac", "simpl")])
def test_the_skill_prior_is_named_where_there_is_one(name):
    assert "p(z|s)" in described(name, {}) and "p(z|s)" not in described(name, {}, prior=None)


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("pearl", {"latent_dim": 0}, "infers nothing of a task"),
        ("pearl", {"deterministic": True, "latent_dim": 3}, "the mean of what is inferred of a task (3 numbers"),
        ("pearl", {"shaped_reward": True}, "learn from the dense reward"),
        (
            "pearl",
            {"teacher": {}, "shaped_reward": True, "context": "trial", "encoder": "gru"},
            "a teacher that sees the dense reward shows the encoder what to infer",
        ),
        ("pearl", {"original": {"replacement": True}}, "habits of the authors' code"),
        ("rl2", {"core": "lstm", "episodes": 3}, "a memory (lstm) over trials of 3 episodes"),
        ("rl2", {"episodes": 2, "free_episodes": 1}, "E-RL2"),
        ("rl2", {"head": {"kind": "hyper"}}, "by which policy and value are emitted"),
        ("varibad", {"latent_dim": 3, "episodes": 2}, "trials of 2 episodes; a belief (3 numbers and their variances)"),
        ("varibad", {"rl_loss_in_encoder": True}, "that PPO changes too"),
        (
            "varibad",
            {"decoder": {"observation_coefficient": 1.0}},
            "that predicts the rewards and next observations of a whole trial",
        ),
        (
            "mql",
            {"adaptation": {"new_updates": 7}},
            "after 1 episode of a new task 7 updates on it and 50 on rows of meta-training",
        ),
        ("mql", {"adaptation": {"new_updates": 0, "meta_updates": 0}}, "parameters are not adapted"),
        ("mier", {"model": {"predicts": "reward"}}, "2 gradient steps of a model of rewards adapt after 1 episode"),
        (
            "mier",
            {"relabelling": {"updates": 9}},
            "and 9 updates of SAC on decisions of training that the model relabels",
        ),
        ("maml", {"first_order": True}, "first-order MAML"),
        ("maml", {"context": 4}, "CAVIA's 4 context numbers"),
        ("maml", {"prior_coefficient": 0.3}, "pays 0.3 times KL(policy || prior)"),
        ("promp", {}, "pays 0.1 times KL(policy || prior)"),
        ("reptile", {"inner_steps": 4}, "4 gradient steps"),
        ("simpl", {"context_episodes": 7}, "after 7 episodes"),
        ("simpl", {}, "with a small context, a coefficient times KL(policy || prior)"),
        (
            "simpl",
            {"small_context": None},
            "(encoder product) after 20 episodes; with a large context, a coefficient times",
        ),
    ],
)
def test_what_the_config_says_is_in_the_phrase_and_nothing_more(name, changes, says):
    assert says in described(name, changes) and (says in described(name, {})) == (not changes)
