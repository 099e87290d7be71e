"""Short runs of every algorithm in both action spaces: what the goldens are recorded of."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from skillmeta.skills.vae import SkillModel, SkillModelConfig

HORIZON = 4
MAZE: dict[str, Any] = {
    "family": "maze",
    "split": "train",
    "options": {"size": 20, "layout_seed": 0, "max_episode_steps": 40},
}
POINT: dict[str, Any] = {"family": "point", "split": "train"}
SPARSE_POINT: dict[str, Any] = {
    "family": "point",
    "split": "train",
    "options": {"goals": "half_circle", "start_extent": 0.0, "sparse": True},
}
PENDULUM: dict[str, Any] = {"family": "gym", "split": "test", "options": {"id": "Pendulum-v1"}}
PEARL: dict[str, Any] = {
    "name": "pearl", "training_tasks": 4, "tasks_per_iteration": 2, "tasks": 3, "first_episodes": 2, "prior_episodes": 1,
    "posterior_episodes": 2, "updates": 6, "hidden": 16, "batch_size": 16, "context_size": 12,
}  # fmt: skip
SKILL_PRIOR: dict[str, Any] = {
    "prior": "skill",
    "target_divergence": 1.0,
    "initial_coefficient": 0.01,
    "minimum_coefficient": 0.01,
    "learning_rate": 1e-3,
}
SAC: dict[str, Any] = {
    "name": "sac",
    "hidden": 16,
    "batch_size": 16,
    "updates_per_decision": 0.25,
    "random_decisions": 20,
}
SPIRL: dict[str, Any] = {
    "name": "sac",
    "hidden": 16,
    "batch_size": 16,
    "policy_start": "prior",
    "regularizer": SKILL_PRIOR,
}
SIMPL: dict[str, Any] = {
    "name": "simpl", "training_tasks": 4, "tasks_per_iteration": 2, "first_episodes": 2, "reuse": 30.0, "hidden": 16,
    "batch_size": 16, "context_episodes": 2, "small_context": {"tasks": 1}, "large_context": {"tasks": 2, "context_size": 24},
}  # fmt: skip
DISTRAL: dict[str, Any] = {
    "name": "distral", "training_tasks": 4, "tasks_per_iteration": 2, "episodes": 1, "reuse": 30.0, "hidden": 16, "depth": 2,
    "tasks": 2, "batch_size": 16,
}  # fmt: skip
RL2: dict[str, Any] = {"name": "rl2", "tasks": 6, "hidden": 16, "minibatches": 2, "epochs": 2}
VARIBAD: dict[str, Any] = {
    "name": "varibad", "episodes": 2, "tasks": 6, "memory": 8, "hidden": 16, "minibatches": 2, "epochs": 2,
    "inference_trials": 4, "inference_updates": 3, "inference_rate": 1e-3, "replay_capacity": 150,
}  # fmt: skip
MQL: dict[str, Any] = {
    "name": "mql", "tasks": 3, "random_decisions": 20, "updates": 6, "batch_size": 16, "hidden": 16, "context_dim": 4,
    "context_length": 5, "adaptation": {"new_updates": 2, "meta_updates": 4, "batch_size": 8, "carried": 30},
}  # fmt: skip
MIER: dict[str, Any] = {
    "name": "mier", "training_tasks": 4, "tasks_per_iteration": 2, "tasks": 3, "updates": 6, "hidden": 16, "batch_size": 8,
    "model": {"hidden": 16}, "relabelling": {"updates": 3, "model_steps": 2, "batch_size": 20, "carried": 30},
}  # fmt: skip
MAML: dict[str, Any] = {"name": "maml", "tasks": 4, "rollouts": 3, "hidden": 16}
PROMP: dict[str, Any] = {"name": "promp", "tasks": 4, "rollouts": 3, "hidden": 16, "steps": 2}
REPTILE: dict[str, Any] = {"name": "reptile", "tasks": 4, "rollouts": 3, "hidden": 16}

FINETUNE: dict[str, dict[str, Any]] = {
    "sac": {"task": {**MAZE, "index": 3}, "algorithm": SAC},
    "sac_one_way": {
        "task": PENDULUM,
        "algorithm": {**SAC, "regularizer": {"controller": "one_way", "td_divergence_clip": 4.0}},
    },
    "sac_skills": {"task": {**MAZE, "index": 3}, "algorithm": {**SAC, "random_decisions": 0}, "skills": True},
    "spirl": {"task": {**MAZE, "index": 3}, "algorithm": SPIRL, "skills": True},
    "spirl_reverse_kl": {
        "task": {**MAZE, "index": 3},
        "algorithm": {**SPIRL, "regularizer": {**SKILL_PRIOR, "divergence": "reverse_kl", "td_divergence_clip": 0.5}},
        "skills": True,
        "skill_prior": "marginal",
    },
    "prior_start": {
        "task": {**MAZE, "index": 3},
        "algorithm": {**SPIRL, "regularizer": {"divergence": "none"}},
        "skills": True,
    },
    "best_of": {
        "task": {**MAZE, "index": 3},
        "algorithm": {"name": "best_of", "candidates": 3, "hidden": 16, "batch_size": 16},
        "skills": True,
    },
}
META: dict[str, dict[str, Any]] = {
    "pearl": {"task": POINT, "algorithm": PEARL, "env_steps": 700},
    "pearl_see_task": {"task": POINT, "see_task": True, "algorithm": {**PEARL, "latent_dim": 0}, "env_steps": 700},
    "pearl_oyster": {
        "task": POINT,
        "algorithm": {
            **PEARL,
            "original": {"kl_reduction": "sum", "replacement": True, "value_network": True, "policy_penalty": 0.001},
            "regularizer": {"controller": "fixed", "initial_coefficient": 1.0},
            "next_observation": True,
            "encoder_hidden": 12,
        },
        "env_steps": 700,
    },
    "pearl_teacher": {
        "task": SPARSE_POINT,
        "algorithm": {
            **PEARL,
            "encoder": "attention",
            "shaped_reward": True,
            "teacher": {},
            "latent_dim": 2,
            "context": "trial",
            "context_visits": 3,
        },
        "env_steps": 900,
    },
    "pearl_gru": {
        "task": POINT,
        "algorithm": {**PEARL, "encoder": "gru", "deterministic": True, "context": "visit"},
        "env_steps": 700,
    },
    "pearl_prior_factor": {"task": POINT, "algorithm": {**PEARL, "prior_factor": True}, "env_steps": 700},
    "pearl_skills": {
        "task": MAZE,
        "algorithm": {**PEARL, "context": "trial", "context_size": 60, "regularizer": SKILL_PRIOR},
        "skills": True,
        "env_steps": 1500,
    },
    "simpl": {
        "task": MAZE,
        "algorithm": SIMPL,
        "skills": True,
        "env_steps": 1500,
        "envs_per_batch": 3,
    },
    "distral": {"task": MAZE, "algorithm": DISTRAL, "skills": True, "env_steps": 1500, "envs_per_batch": 3},
    "rl2": {
        "task": {"family": "bandit", "split": "train", "options": {"arms": 5}},
        "algorithm": RL2,
        "env_steps": 2000,
    },
    "rl2_lstm": {"task": POINT, "algorithm": {**RL2, "core": "lstm", "episodes": 2}, "env_steps": 720},
    "rl2_snail": {
        "task": POINT,
        "algorithm": {**RL2, "core": "snail", "receptive_field": 32, "hidden": 4},
        "env_steps": 360,
    },
    "rl2_transformer": {
        "task": POINT,
        "algorithm": {**RL2, "core": "transformer", "episodes": 2, "free_episodes": 1, "previous_observation": True},
        "env_steps": 480,
    },
    "rl2_skills": {"task": MAZE, "algorithm": {**RL2, "episodes": 2}, "skills": True, "env_steps": 960},
    "varibad": {
        "task": {"family": "gridworld", "split": "train"},
        "algorithm": {**VARIBAD, "decoder": {"reward": "bernoulli"}},
        "env_steps": 400,
    },
    "varibad_point": {
        "task": POINT,
        "algorithm": {
            **VARIBAD,
            "core": "lstm",
            "head": {"kind": "hyper"},
            "rl_loss_in_encoder": True,
            "decoder": {"transition": True, "observation_coefficient": 1.0},
        },
        "env_steps": 720,
    },
    "varibad_skills": {"task": MAZE, "algorithm": VARIBAD, "skills": True, "env_steps": 960},
    "mql": {"task": POINT, "algorithm": MQL, "env_steps": 300},
    "mql_skills": {"task": MAZE, "algorithm": {**MQL, "exploration_episodes": 2}, "skills": True, "env_steps": 960},
    "mier": {"task": POINT, "algorithm": MIER, "env_steps": 300},
    "mier_reward": {
        "task": POINT,
        "algorithm": {**MIER, "model": {"hidden": 16, "predicts": "reward"}, "relabelling": {"updates": 0}},
        "env_steps": 300,
    },
    "mier_skills": {
        "task": MAZE,
        "algorithm": {**MIER, "exploration_episodes": 2, "regularizer": SKILL_PRIOR},
        "skills": True,
        "env_steps": 960,
    },
    "maml": {"task": POINT, "algorithm": MAML, "env_steps": 960},
    "maml_first_order": {"task": POINT, "algorithm": {**MAML, "first_order": True}, "env_steps": 480},
    "maml_credit": {"task": POINT, "algorithm": {**MAML, "exploration_credit": True}, "env_steps": 480},
    "maml_discrete": {
        "task": {"family": "bandit", "split": "train", "options": {"arms": 5}},
        "algorithm": MAML,
        "env_steps": 480,
    },
    "cavia": {"task": POINT, "algorithm": {**MAML, "context": 3}, "env_steps": 480},
    "maml_skills": {"task": MAZE, "algorithm": MAML, "skills": True, "env_steps": 960},
    "promp": {"task": POINT, "algorithm": PROMP, "env_steps": 480},
    "promp_skills": {"task": MAZE, "algorithm": PROMP, "skills": True, "env_steps": 960},
    "reptile": {"task": POINT, "algorithm": REPTILE, "env_steps": 480},
    "reptile_skills": {"task": MAZE, "algorithm": REPTILE, "skills": True, "env_steps": 960},
}
PRETRAIN: dict[str, dict[str, Any]] = {
    "closed_loop": {"closed_loop": True},
    "open_loop": {"closed_loop": False},
    "cloning": {"cloning": True, "horizon": 1},
}


def save_skills(folder: Path, prior: Literal["gaussian", "mixture"] = "gaussian") -> None:
    """An untrained model of the maze's shapes: what it does is arbitrary but fixed."""
    config = SkillModelConfig(
        horizon=HORIZON, dim=3, hidden=16, decoder_depth=1, prior=prior, prior_components=4, prior_depth=1
    )
    ones = torch.ones(2)
    SkillModel(config, 4, 2, -ones, ones, torch.Generator().manual_seed(7)).save(folder)


def save_logs(path: Path) -> None:
    """Eight episodes of a damped point that is pushed in circles."""
    rng = np.random.default_rng(11)
    observations, actions, ends = [], [], []
    for _ in range(8):
        state = rng.normal(size=4).astype(np.float32)
        for t in range(30):
            action = np.array([math.sin(t / 5), math.cos(t / 5)]) * 0.8 + 0.1 * rng.normal(size=2)
            observations.append(state)
            actions.append(np.clip(action, -1, 1))
            ends.append(t == 29)
            state = (0.9 * state + 0.1 * np.concatenate([action, state[:2]])).astype(np.float32)
    np.savez(
        path,
        observations=np.array(observations, np.float32),
        actions=np.array(actions, np.float32),
        timeouts=np.array(ends),
        terminals=np.zeros(len(ends), bool),
    )
