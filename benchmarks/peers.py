"""Meta-updates of other projects, their own code as published, for `meta.py --peers DIR`.

DIR holds clones of github.com/tristandeleu/pytorch-maml-rl and github.com/katerakelly/oyster. Neither installs beside
today's Gymnasium: what they import for sampling and logging is stubbed here, what is timed is not touched.
"""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch


def stub(name: str, **content: Any) -> None:
    """A module that only has to be importable."""
    module = types.ModuleType(name)
    module.__dict__.update(content)
    sys.modules[name] = module


def importable(folder: Path) -> None:
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not there; clone {folder.name} into {folder.parent}")
    sys.path.insert(0, str(folder))


class Episodes:
    """As pytorch-maml-rl's sampler gives them: [time, episodes, ...], random numbers of HalfCheetah's sizes."""

    batch_size, observation_shape, action_shape = 20, (20,), (6,)

    def __init__(self, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.observations = torch.randn(100, 20, 20, generator=generator)
        self.actions = torch.randn(100, 20, 6, generator=generator)
        self.advantages = torch.randn(100, 20, generator=generator)
        self.lengths = [100] * 20

    def __len__(self) -> int:
        return 100


def maml_rl_update(folder: Path, first_order: bool) -> Callable[[], None]:
    """pytorch-maml-rl's `MAMLTRPO.step` with its HalfCheetah config: 40 tasks, 20 episodes of 100 steps twice, 20-64-64-6."""
    importable(folder / "pytorch-maml-rl")
    stub("maml_rl.samplers", MultiTaskSampler=None)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    from maml_rl.metalearners import MAMLTRPO
    from maml_rl.policies.normal_mlp import NormalMLPPolicy

    torch.manual_seed(0)
    learner = MAMLTRPO(NormalMLPPolicy(20, 6, (64, 64), torch.tanh), fast_lr=0.1, first_order=first_order)

    def sampled(seed: int) -> asyncio.Future[Episodes]:
        future = loop.create_future()
        future.set_result(Episodes(seed))
        return future

    before, after = [sampled(i) for i in range(40)], [sampled(40 + i) for i in range(40)]

    def update() -> None:
        learner.step([before], after, max_kl=1e-2, cg_damping=1e-5, ls_max_steps=15, ls_backtrack_ratio=0.8)

    return update


def oyster_update(folder: Path) -> Callable[[], None]:
    """oyster's `_do_training` with its cheetah-vel config: 16 tasks x 256, context 100, three layers of 300, of the encoder 200."""
    importable(folder / "oyster")
    for name in ("gtimer", "joblib"):
        stub(name)
    stub("gym", spaces=gymnasium.spaces)
    sys.modules["gym.spaces"] = gymnasium.spaces
    import inspect

    if not hasattr(inspect, "getargspec"):  # of Python up to 3.10
        inspect.getargspec = lambda f: inspect.getfullargspec(f)[:4]  # type: ignore[attr-defined]
    from rlkit.torch.networks import FlattenMlp, MlpEncoder
    from rlkit.torch.sac.agent import PEARLAgent
    from rlkit.torch.sac.policies import TanhGaussianPolicy
    from rlkit.torch.sac.sac import PEARLSoftActorCritic

    torch.manual_seed(0)
    wide, latent, observation, action = [300] * 3, 5, 20, 6
    encoder = MlpEncoder(hidden_sizes=[200] * 3, input_size=observation + action + 1, output_size=2 * latent)
    critics = [FlattenMlp(hidden_sizes=wide, input_size=observation + action + latent, output_size=1) for _ in range(2)]
    value = FlattenMlp(hidden_sizes=wide, input_size=observation + latent, output_size=1)
    policy = TanhGaussianPolicy(hidden_sizes=wide, obs_dim=observation + latent, latent_dim=latent, action_dim=action)
    belief = {"recurrent": False, "use_information_bottleneck": True, "use_next_obs_in_context": False}
    box = gymnasium.spaces.Box
    env = types.SimpleNamespace(observation_space=box(-1, 1, (observation,)), action_space=box(-1, 1, (action,)))
    learner = PEARLSoftActorCritic(
        env=env, train_tasks=list(range(16)), eval_tasks=[], latent_dim=latent,
        nets=[PEARLAgent(latent, encoder, policy, sparse_rewards=False, **belief), *critics, value],
        policy_lr=3e-4, qf_lr=3e-4, vf_lr=3e-4, context_lr=3e-4, kl_lambda=0.1, soft_target_tau=0.005, meta_batch=16,
        batch_size=256, embedding_batch_size=100, embedding_mini_batch_size=100, reward_scale=5.0,
        replay_buffer_size=2000, **belief,
    )  # fmt: skip
    numbers = np.random.default_rng(0)
    for buffers in (learner.replay_buffer, learner.enc_replay_buffer):
        for buffer in buffers.task_buffers.values():
            for column in (buffer._observations, buffer._next_obs, buffer._actions, buffer._rewards):
                column[:] = numbers.normal(size=column.shape)
            buffer._size = 2000
    learner.training_mode(True)
    return lambda: learner._do_training(list(range(16)))
