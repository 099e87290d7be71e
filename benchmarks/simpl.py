"""What a meta-update of SiMPL costs, on one thread: `python benchmarks/simpl.py [--rounds N] [--json FILE]`.

Beside it, in turn, a plain version of the published update: one task after another, eager, with the sizes of the authors' code for
the maze. Tasks 4 + 26, 1024 decisions of each, contexts of 4 and 8192 decisions, a set transformer of two blocks with 32 inducing
points, three layers of 256, a prior of seven layers of 128. Decisions are random numbers.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from meta import in_turn
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn.functional import softplus

from skillmeta.algorithms import simpl
from skillmeta.config import build, load
from skillmeta.seeds import Seeds
from skillmeta.skills.vae import SkillModel, SkillModelConfig
from skillmeta.types import EnvSpec

ROWS = 9000  # of a replay
S, Z, E = 4, 10, 5  # numbers of a state, a skill, and what a task is inferred as


def layers(inputs: int, outputs: int, hidden: int, depth: int) -> nn.Sequential:
    sizes = [inputs, *[hidden] * depth]
    hidden_layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden_layers, nn.Linear(sizes[-1], outputs))


class Attention(nn.Module):
    """Multi-head attention of a set transformer (Lee et al. 2019, MAB): queries [N, D] look at keys [M, D]."""

    def __init__(self, queries: int, keys: int, width: int = 128, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = nn.Linear(queries, width), nn.Linear(keys, width), nn.Linear(keys, width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        q, k, v = (
            part.view(len(part), self.heads, -1).transpose(0, 1)
            for part in (self.q(queries), self.k(keys), self.v(keys))
        )
        weights = torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, -1)
        seen = (q + weights @ v).transpose(0, 1).flatten(1)
        return seen + torch.relu(self.out(seen))


class SetTransformer(nn.Module):
    """Two blocks of induced attention, a pooling one, and a layer that gives mean and standard deviation."""

    def __init__(self, inputs: int, width: int = 128, inducing: int = 32):
        super().__init__()
        self.points = nn.ParameterList([torch.randn(inducing, width) / width**0.5 for _ in range(2)])
        self.seed = nn.Parameter(torch.randn(1, width) / width**0.5)
        self.induce = nn.ModuleList([Attention(width, inputs), Attention(width, width)])
        self.attend = nn.ModuleList([Attention(inputs, width), Attention(width, width)])
        self.pool, self.head = Attention(width, width), layers(width, 2 * E, width, 1)

    def forward(self, x: Tensor) -> Normal:
        for points, induce, attend in zip(self.points, self.induce, self.attend, strict=True):
            x = attend(x, induce(points, x))
        mean, raw = self.head(self.pool(self.seed, x))[0].chunk(2)
        return Normal(mean, softplus(raw) + 1e-3)


class Plain:
    """The published update, a task at a time."""

    def __init__(self) -> None:
        self.prior = layers(S, 2 * Z, 128, 7).requires_grad_(False)
        self.policy, self.encoder = layers(S + E, 2 * Z, 256, 3), SetTransformer(2 * S + Z + 2)
        self.critics = nn.ModuleList([layers(S + E + Z, 1, 256, 3) for _ in range(2)])
        self.targets = copy.deepcopy(self.critics)
        own = (self.policy.parameters(), [*self.critics.parameters(), *self.encoder.parameters()])
        self.policy_adam, self.critic_adam = (torch.optim.Adam(parameters, 3e-4) for parameters in own)
        batches = [(4, 3e-3)] * 4 + [(8192, 1e-3)] * 26
        self.tasks = [
            ([torch.randn(1024, n) for n in (S, Z, S)], torch.rand(1024), torch.randn(size, 2 * S + Z + 2), coefficient)
            for size, coefficient in batches
        ]

    def policies(self, state: Tensor, e: Tensor) -> tuple[Independent, Tensor]:
        """The policy and its divergence from the prior."""
        mean, raw = self.prior(state).chunk(2, -1)
        prior = Independent(Normal(mean, softplus(raw) + 1e-3), 1)
        more, wider = self.policy(torch.cat([state, e], -1)).chunk(2, -1)
        policy = Independent(Normal(mean + more, softplus(raw + wider) + 1e-3), 1)
        return policy, kl_divergence(policy, prior)

    def values(self, critics: nn.ModuleList, state: Tensor, e: Tensor, z: Tensor) -> list[Tensor]:
        return [critic(torch.cat([state, e, z], -1)).squeeze(-1) for critic in critics]

    def update(self) -> None:
        critic_losses, policy_losses = [], []
        for (state, z, following), reward, context, coefficient in self.tasks:
            posterior = self.encoder(context)
            e = posterior.rsample((len(state),))
            with torch.no_grad():
                policy, divergence = self.policies(following, e)
                value = torch.minimum(*self.values(self.targets, following, e, policy.sample()))
                target = reward + 0.99 * (value - coefficient * divergence.clamp(0, 5))
            errors = [((value - target) ** 2).mean() for value in self.values(self.critics, state, e, z)]
            kl = kl_divergence(posterior, Normal(torch.zeros(E), torch.ones(E))).sum()
            critic_losses.append(sum(errors) + 1e-5 * kl)
            policy, divergence = self.policies(state, e.detach())
            value = torch.minimum(*self.values(self.critics, state, e.detach(), policy.rsample()))
            policy_losses.append((coefficient * divergence - value).mean())
        for adam, losses in ((self.policy_adam, policy_losses), (self.critic_adam, critic_losses)):
            adam.zero_grad()  # of the critics also what the policy's loss left
            (sum(losses) / len(losses)).backward()
        self.policy_adam.step()
        self.critic_adam.step()
        with torch.no_grad():
            for target, source in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                target.lerp_(source, 0.005)


def ours(name: str, **changes: Any) -> Callable[[], object]:
    """An update of a preset, with a skill prior of the published sizes."""
    path = Path(__file__).parents[1] / "configs" / "meta" / f"{name}.yaml"
    algorithm = {**load(path).algorithm, "replay_capacity": ROWS, "context_capacity": ROWS, **changes}
    config = build(simpl.Config, {key: value for key, value in algorithm.items() if key not in ("name", "base")})
    bound = torch.ones(2)
    skills = SkillModel(SkillModelConfig(dim=Z), S, 2, -bound, bound, torch.Generator().manual_seed(0))
    spec = EnvSpec(S, skills.latent_bound.numpy())
    learner = simpl.Learner(config, spec, skills.requires_grad_(False), Seeds(0))
    generator = torch.Generator().manual_seed(1)
    for buffer in (*learner.replays, *learner.contexts):
        for column in ("observation", "action", "reward", "next_observation"):
            getattr(buffer.columns, column).normal_(generator=generator)
        buffer.added = ROWS
    return lambda: learner.step(learner.draw(), bound.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plain, measured = Plain(), {}
    for name, update in (
        ("the published sizes, a set transformer", ours("simpl_maze_published")),
        ("the published sizes, attention", ours("simpl_maze_published", encoder="attention")),
        ("the published sizes, a product of Gaussians", ours("simpl_maze_published", encoder="product")),
        ("the default", ours("simpl_maze")),
    ):
        own, its = in_turn(update, plain.update, arguments.rounds)
        ratio = statistics.median(b / a for a, b in zip(own, its, strict=True))
        measured[name] = {"seconds": statistics.median(own), "plain_seconds": statistics.median(its), "times": ratio}
        seconds = f"{statistics.median(own):.3f} s of CPU time; plain {statistics.median(its):.2f} s"
        print(f"{name}: {seconds}, {ratio:.1f} times", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
