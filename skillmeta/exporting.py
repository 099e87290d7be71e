"""A trained policy as a file that needs no skillmeta: a program of torch.export, ONNX, or a policy of Stable-Baselines3.

What is exported acts by the policy's mode, in the environment's own units, one primitive step at a time, as `skillmeta.load` does.
It is a function without memory. In skill space what it has to remember goes in and comes out:

    primitive actions   observation [N, O]                            -> action [N, A]
    skills              observation [N, O], skill [N, Z], step [N]    -> action [N, A], next_skill [N, Z], next_step [N]

`step` counts within the skill: begin an episode with 0, which chooses a skill, and hand back what came out.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, flatdim
from torch import Tensor, nn

from skillmeta.agent import Agent, load
from skillmeta.errors import ConfigError, UserError, first_line
from skillmeta.nn.networks import MLP, NEGATIVE_SLOPE
from skillmeta.nn.policies import SquashedPolicy
from skillmeta.skills.vae import SkillModel

OUTPUTS = ("action", "next_skill", "next_step")


def export(folder: str | Path, file: str | Path, *, trust: bool = False) -> Path:
    """Write what acts, of a finished run or an adapted agent, into a file: `.pt2`, `.onnx` or, for Stable-Baselines3, `.zip`.

    Args:
        folder, trust: as for `skillmeta.load`.

    Raises UserError for an agent that learns while it acts, a policy that the format cannot hold, or another ending of the file.
    """
    file = Path(file)
    kinds: dict[str, Callable[[Agent, Path], None]] = {".pt2": to_torch, ".onnx": to_onnx, ".zip": to_stable_baselines}
    if file.suffix not in kinds:
        raise ConfigError(
            f"{file}: ends in none of .pt2 (torch.export), .onnx and .zip (Stable-Baselines3), which say the format"
        )
    agent = load(folder, trust=trust)
    file.parent.mkdir(parents=True, exist_ok=True)
    kinds[file.suffix](agent, file)
    return file


class Acting(nn.Module):
    """What an agent does at an observation, as a function of tensors; see the head of this file.

    Raises UserError for an agent that learns while it acts, whose action depends on more than that, and for discrete actions.
    """

    low: Tensor
    high: Tensor

    def __init__(self, agent: Agent):
        super().__init__()
        if agent.actor.begin(1, torch.Generator()) is not None:
            raise UserError(
                "this agent learns a task from what it is shown while it acts, which no exported function does; load it by "
                "skillmeta.load, or export a policy of one task"
            )
        if not isinstance(agent.action_space, Box):
            raise UserError(f"actions are {agent.action_space}; what has a Box of actions can be exported")
        assert agent.skills is None or isinstance(agent.skills, SkillModel)
        self.actor, self.skills = agent.actor, agent.skills
        self.whole = np.issubdtype(agent.action_space.dtype, np.integer)  # actions are integers
        self.held = nn.ModuleList(modules_of(agent.actor.parts()))  # whose parameters are written
        self.register_buffer("low", torch.from_numpy(np.asarray(agent.action_space.low, np.float32)))
        self.register_buffer("high", torch.from_numpy(np.asarray(agent.action_space.high, np.float32)))
        self._generator = torch.Generator()  # unused by the mode

    def chosen(self, observation: Tensor) -> Tensor:
        """The decision there, [N, A] or [N, Z]."""
        decision, _ = self.actor.act(observation, None, self._generator, False)
        return decision

    def own_units(self, action: Tensor) -> Tensor:
        clipped = torch.minimum(torch.maximum(action, self.low), self.high)
        return clipped.round() if self.whole else clipped


class ActingByActions(Acting):
    """Primitive actions."""

    def forward(self, observation: Tensor) -> Tensor:
        unit = self.chosen(observation).clamp(-1, 1)
        return self.own_units((self.high + self.low) / 2 + (self.high - self.low) / 2 * unit)


class ActingBySkills(Acting):
    """Skills."""

    def forward(self, observation: Tensor, skill: Tensor, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        assert self.skills is not None
        bound = self.skills.latent_bound
        new = torch.minimum(torch.maximum(self.chosen(observation), -bound), bound)
        skill = torch.where((step == 0).unsqueeze(-1), new, skill)
        control, horizon = self.skills.controller(skill), self.skills.horizon
        if self.skills.config.closed_loop or horizon == 1:
            action = control(observation, 0)
        else:  # the whole plan, and of each row its step
            plan = torch.stack([control(observation, h) for h in range(horizon)], 1)
            action = plan.gather(1, step.reshape(-1, 1, 1).expand(-1, 1, plan.shape[-1])).squeeze(1)
        return self.own_units(action), skill, (step + 1) % horizon


def modules_of(parts: Any) -> Iterator[nn.Module]:
    """The networks among the parts of an actor, however deep."""
    if isinstance(parts, nn.Module):
        yield parts
    elif isinstance(parts, Mapping):
        for part in parts.values():
            yield from modules_of(part)
    elif isinstance(parts, Sequence) and not isinstance(parts, str):
        for part in parts:
            yield from modules_of(part)


def acting(agent: Agent) -> tuple[Acting, dict[str, Tensor]]:
    """The function of an agent, and inputs that it may be called with, of two rows."""
    example = {"observation": torch.zeros(2, flatdim(agent.observation_space))}
    if agent.skills is None:
        return ActingByActions(agent).eval(), example
    example |= {"skill": torch.zeros(2, agent.skills.dim), "step": torch.tensor([0, agent.skills.horizon - 1])}
    return ActingBySkills(agent).eval(), example


def program(agent: Agent) -> torch.export.ExportedProgram:
    """The function of an agent for any number of rows, as torch.export has it."""
    made, example = acting(agent)
    rows = torch.export.Dim("rows", min=1)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            return torch.export.export(
                made, (), example, dynamic_shapes={name: {0: rows} for name in example}, strict=False
            )
        except Exception as error:  # torch.export raises its own kinds, and those of the code that it traces
            raise UserError(
                f"torch.export cannot follow what this agent does in `act` ({type(error).__name__}: {first_line(error)}); act with "
                "skillmeta.load instead"
            ) from None


def to_torch(agent: Agent, file: Path) -> None:
    """`torch.export.load(file).module()(observation=...)`."""
    torch.export.save(program(agent), file)


def to_onnx(agent: Agent, file: Path) -> None:
    """One file, with the names of the head of this module. Raises UserError if onnx is not installed."""
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{file}: ONNX needs the package {missing[0]}: in the clone, pip install -e '.[export]'")
    made, example = acting(agent)
    rows = torch.export.Dim("rows", min=1)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            made,
            (),
            str(file),
            kwargs=example,
            input_names=list(example),
            output_names=list(OUTPUTS[: 1 if agent.skills is None else 3]),
            dynamic_shapes={name: {0: rows} for name in example},
            dynamo=True,
            external_data=False,
            verbose=False,
        )


# -- Stable-Baselines3 --------------------------------------------------------------------------------------------------------
class SpacesAlone(gymnasium.Env):
    """An environment of which only the spaces are looked at."""

    def __init__(self, observation_space: Box, action_space: Box):
        self.observation_space, self.action_space = observation_space, action_space


def to_stable_baselines(agent: Agent, file: Path) -> None:
    """`SAC.load(file).predict(observation, deterministic=True)`, of skills as the actions of a `SkillEnv`.

    Its actor is ours, the normaliser folded into its first layer, without the clip: farther than ten deviations from the logs the
    two differ. Its critics are new: it acts, and does not continue learning from where ours stopped. Raises UserError
    for a policy that is not SAC's.
    """
    from stable_baselines3 import SAC

    policy = getattr(agent.actor, "policy", None)
    if not isinstance(policy, SquashedPolicy):
        raise UserError(
            f"{file}: Stable-Baselines3 has no policy that starts as a prior, or learns a task while it acts; export .pt2 or .onnx"
        )
    observed, actions = agent.observation_space, agent.action_space
    if not isinstance(observed, Box) or len(observed.shape) != 1 or not isinstance(actions, Box):
        raise UserError(f"{file}: Stable-Baselines3's MlpPolicy takes a flat Box; these are {observed} and {actions}")
    if agent.skills is None and np.issubdtype(actions.dtype, np.integer):
        raise UserError(f"{file}: Stable-Baselines3's SAC does not round to integers; these are {actions}")
    if agent.skills is not None:
        actions = Box(-1.0, 1.0, (agent.skills.dim,), np.float32)
    elif not (np.isfinite(actions.low).all() and np.isfinite(actions.high).all()):
        raise UserError(f"{file}: Stable-Baselines3 takes bounded actions; these are {actions}")
    hidden = [layer.out_features for layer in policy.net.layers[:-1]]
    activation = functools.partial(nn.LeakyReLU, NEGATIVE_SLOPE)
    made = SAC(
        "MlpPolicy",
        SpacesAlone(observed, Box(actions.low, actions.high, dtype=np.float32)),
        buffer_size=1,
        policy_kwargs={"net_arch": hidden, "activation_fn": activation},
        device="cpu",
    )
    fill(made.actor, policy.net, *statistics(agent, observed.shape[0]))
    made.save(file)


def statistics(agent: Agent, dim: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [dim] that the agent's policy sees observations normalised by; 0 and 1 where it does not."""
    mean, stddev = torch.zeros(dim), torch.ones(dim)
    if isinstance(agent.skills, SkillModel):
        columns, normalizer = agent.skills.columns, agent.skills.normalizer
        mean[columns], stddev[columns] = normalizer.mean, normalizer.stddev
    elif (own := getattr(agent.actor, "normalizer", None)) is not None:
        mean[: len(own.mean)], stddev[: len(own.mean)] = own.mean, own.stddev
    return mean, stddev


@torch.no_grad()
def fill(actor: Any, net: MLP, mean: Tensor, stddev: Tensor) -> None:
    """Give an actor of Stable-Baselines3's SAC the numbers of ours, which sees (observation - mean) / stddev."""
    *hidden, last = [(layer.weight.clone(), layer.bias.clone()) for layer in net.layers]  # type: ignore[operator]
    weight, bias = hidden[0]
    hidden[0] = (weight / stddev, bias - weight.double() @ (mean.double() / stddev.double()))
    means, log_stddevs = (tuple(part.chunk(2)) for part in last)
    layers = [layer for layer in actor.latent_pi if isinstance(layer, nn.Linear)]
    pairs = [
        *zip(layers, hidden, strict=True),
        (actor.mu, (means[0], log_stddevs[0])),
        (actor.log_std, (means[1], log_stddevs[1])),
    ]
    for layer, (weight, bias) in pairs:
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
