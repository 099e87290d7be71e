"""The skill model of SPiRL (Pertsch et al. 2020, arXiv:2010.11944): sequence encoder, decoder, skill prior.

A skill is a vector z [Z] that stands for H primitive actions. The closed-loop decoder (SPiRL's later default) is a policy
a = f(s, z) asked at every step; the open-loop one unrolls z into H actions at once. Nothing squashes z, here or downstream:
the policy acts in the space that the decoder was trained in.

With `cloning` a skill is one primitive action, z = a in [-1, 1]^A: the encoder is the action itself up to the smallest standard
deviation, the decoder the identity, and the prior p(a|s) is what maximum likelihood calls behaviour cloning.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from einops import repeat
from torch import Tensor, nn

from skillmeta.config import PositiveInt, build, checked
from skillmeta.errors import CheckpointError, ConfigError
from skillmeta.limits import largest
from skillmeta.nn.distributions import (
    LAYERS,
    LOG_STDDEV_RANGE,
    Gaussian,
    SkillPrior,
    flow,
    gaussian,
    layer_size,
    mixture,
)
from skillmeta.nn.few_rows import FEW_ROWS, ConditionedMLP
from skillmeta.nn.networks import FARTHEST, MLP, Normalizer, SequenceEncoder
from skillmeta.reading import expect
from skillmeta.run.checkpoint import MANIFEST, load_state, save_state
from skillmeta.run.parts import restore_parts
from skillmeta.skills.observe import Columns, check_shapes, columns_of
from skillmeta.types import EnvSpec, Observed

Controller = Callable[[Tensor, int], Tensor]  # (observation [B, O], step within the skill) -> action [B, A]


@checked
class SkillModelConfig:
    """Sizes; the defaults are SPiRL's for the kitchen, closed loop."""

    horizon: PositiveInt = 10  # H, primitive steps of a skill
    dim: PositiveInt = 10  # Z, numbers that a skill is
    closed_loop: bool = True  # the decoder sees the state at every step, and so does the encoder
    hidden: PositiveInt = 128  # width of every hidden layer
    decoder_depth: PositiveInt = 6  # hidden layers of the decoder
    prior: Literal["gaussian", "mixture", "flow"] = "gaussian"  # p(z|s): a Gaussian, several with weights, a bent one
    prior_components: PositiveInt = 10  # Gaussians of a mixture
    prior_hidden: PositiveInt | None = None  # units of a layer of the prior; null: those of hidden
    prior_depth: PositiveInt = 7  # hidden layers of the prior
    cloning: bool = False  # a skill is one action and only the prior is learned; needs horizon 1, dim becomes A

    def __post_init__(self) -> None:
        if self.cloning and self.horizon != 1:
            raise ValueError(f"horizon is {self.horizon}; with cloning: true a skill is one action, so set it to 1")


class OpenLoopDecoder(nn.Module):
    """z [B, Z] -> H actions [B, H, A], by an LSTM that gets z at every step."""

    def __init__(self, dim: int, action_dim: int, hidden: int, horizon: int, generator: torch.Generator):
        super().__init__()
        self.horizon = horizon
        self.embed = MLP(dim, hidden, hidden, 1, generator)
        self.sequence = SequenceEncoder(hidden, action_dim, hidden, generator)

    def forward(self, z: Tensor) -> Tensor:
        inputs = repeat(self.embed(z), "b d -> b h d", h=self.horizon)
        return self.sequence.every(inputs)


class FastDecoder(NamedTuple):
    """A closed-loop decoder and its units as arrays."""

    decode: ConditionedMLP
    mean: np.ndarray  # [O] of observations
    stddev: np.ndarray  # [O]
    middle: np.ndarray  # [A] of actions
    scale: np.ndarray  # [A]


class SkillModel(nn.Module):
    """What pretraining hands to everything downstream.

    Args:
        config: sizes.
        observation_dim, action_dim: O and A.
        action_low, action_high: [A], the bounds of the environment's actions; decoded actions are clipped to them.
        generator: draws the initial weights.
        observed: the parts of the O numbers, in their order, where the logs name them.

    `seen_in` gives the same model for an environment whose observations have more than these numbers, or another order of them.
    """

    action_low: Tensor
    action_high: Tensor
    latent_stddev: Tensor

    def __init__(
        self,
        config: SkillModelConfig,
        observation_dim: int,
        action_dim: int,
        action_low: Tensor,
        action_high: Tensor,
        generator: torch.Generator,
        observed: Sequence[Observed] = (),
    ):
        super().__init__()
        self.config, self.observation_dim, self.action_dim = config, observation_dim, action_dim
        self.observed, self.columns = tuple(observed), cast(Columns, slice(0, observation_dim))
        self.observation_range: np.ndarray | None = (
            None  # least and largest in the logs, [2, O], of a model that was saved
        )
        self.horizon, self.dim = config.horizon, action_dim if config.cloning else config.dim
        seen = observation_dim if config.closed_loop else 0
        hidden = config.hidden
        self.normalizer = Normalizer(observation_dim)
        self.decoder: nn.Module
        if not config.cloning:
            self.encoder = SequenceEncoder(action_dim + seen, 2 * self.dim, hidden, generator)
        if config.cloning:
            self.decoder = nn.Identity()
        elif config.closed_loop:
            self.decoder = MLP(observation_dim + self.dim, action_dim, hidden, config.decoder_depth, generator)
        else:
            self.decoder = OpenLoopDecoder(self.dim, action_dim, hidden, config.horizon, generator)
        numbers = 2 * self.dim
        if config.prior == "mixture":
            numbers = config.prior_components * (1 + numbers)
        elif config.prior == "flow":
            numbers += LAYERS * layer_size(self.dim)
        width = config.prior_hidden or hidden
        self.prior_network = MLP(observation_dim, numbers, width, config.prior_depth, generator)
        self.register_buffer("action_low", action_low.float().clone())
        self.register_buffer("action_high", action_high.float().clone())
        self._fast: FastDecoder | None = None  # made when it is needed
        self.register_buffer("latent_stddev", torch.ones(self.dim))  # of the aggregate posterior, set after training

    # Inside, observations are normalised and actions scaled to [-1, 1]; outside, both are the environment's own.
    @property
    def action_middle(self) -> Tensor:
        return (self.action_high + self.action_low) / 2

    @property
    def action_scale(self) -> Tensor:
        return (self.action_high - self.action_low) / 2

    def unit_actions(self, actions: Tensor) -> Tensor:
        """The environment's actions [..., A] in [-1, 1]."""
        return (actions - self.action_middle) / self.action_scale

    def posterior(self, unit_actions: Tensor, normalized: Tensor) -> Gaussian:
        """q(z | a_1:H[, s_1:H]) from unit actions [B, H, A] and normalised observations [B, H, O]: over [B, Z]."""
        if self.config.cloning:
            action = unit_actions[:, 0]
            return Gaussian(action, torch.full_like(action, LOG_STDDEV_RANGE[0]))
        inputs = torch.cat([unit_actions, normalized], -1) if self.config.closed_loop else unit_actions
        return gaussian(self.encoder(inputs))

    def reconstruct(self, normalized: Tensor, z: Tensor) -> Tensor:
        """Unit actions [B, H, A] that skill z [B, Z] takes in the normalised observations [B, H, O]."""
        if self.config.cloning:
            return z.unsqueeze(1)
        inputs = z
        if self.config.closed_loop:
            inputs = torch.cat([normalized, repeat(z, "b z -> b h z", h=normalized.shape[1])], -1)
        actions: Tensor = self.decoder(inputs)
        return actions

    def prior_of(self, normalized: Tensor) -> SkillPrior:
        """p(z | s) from normalised observations [B, O]: over [B, Z]."""
        numbers = self.prior_network(normalized)
        if self.config.prior == "mixture":
            return mixture(numbers, self.config.prior_components)
        return flow(numbers, self.dim) if self.config.prior == "flow" else gaussian(numbers)

    # -- what downstream uses: the environment's own units. F: numbers that skills do not see, a goal or features of the task ----
    def seen_in(self, observed: Sequence[Observed], where: str) -> SkillModel:
        """The same model, with the same weights, that sees its parts of observations with these. Raises CheckpointError."""
        found = copy.copy(self)
        found.columns = columns_of(self.observed, self.observation_dim, observed, where)
        return found

    def fitted_to(self, spec: EnvSpec, where: str) -> SkillModel:
        """The same in an environment. Raises CheckpointError if it was trained on other observations or actions."""
        check_shapes((self.observation_dim, self.action_dim), spec, where)
        return self.seen_in(spec.observed, where)

    def observe(self, observation: Tensor) -> Tensor:
        """What skills see, [..., O], of observations [..., O + F]."""
        return observation[..., self.columns]

    def encode(self, actions: Tensor, observations: Tensor) -> Gaussian:
        """q(z | a[, s]) of windows: actions [B, H, A], observations [B, H, O + F]; over [B, Z]."""
        return self.posterior(self.unit_actions(actions), self.normalizer(self.observe(observations)))

    def prior(self, observation: Tensor) -> SkillPrior:
        """p(z | s) at observation [B, O + F]; over [B, Z]."""
        return self.prior_of(self.normalizer(self.observe(observation)))

    def normalize(self, observation: Tensor) -> Tensor:
        """Observations [..., O + F] as networks see them; what skills do not see passes unchanged."""
        if self.columns == slice(0, self.observation_dim):
            result: Tensor = self.normalizer(observation)
            return result
        result = observation.clone()
        result[..., self.columns] = self.normalizer(self.observe(observation))
        return result

    def controller(self, z: Tensor) -> Controller:
        """The policy that executes skill z [B, Z]: (observation [B, O + F], step) -> action [B, A], clipped to the bounds."""
        middle, scale = self.action_middle, self.action_scale

        def clipped(unit: Tensor) -> Tensor:
            return middle + scale * unit.clamp(-1, 1)

        if self.config.cloning:
            return lambda observation, _: clipped(z)
        if self.config.closed_loop:
            see = self.observe
            return lambda observation, _: clipped(self.decoder(torch.cat([self.normalizer(see(observation)), z], -1)))
        plan = clipped(self.decoder(z))
        return lambda _, step: plan[:, step]

    def fast_controller(self, z: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
        """`controller` on arrays, for a frozen model. Equal to it up to float32 rounding.

        A closed-loop decoder acts at every primitive step. For up to `FEW_ROWS` environments it runs in NumPy.
        """
        if self.config.cloning or not self.config.closed_loop or len(z) > FEW_ROWS:
            act = self.controller(torch.from_numpy(z))
            return lambda observation, step: act(torch.from_numpy(observation), step).numpy()
        if self._fast is None:
            self._fast = FastDecoder(
                ConditionedMLP(cast(MLP, self.decoder), self.observation_dim),
                self.normalizer.mean.numpy(),
                self.normalizer.stddev.numpy(),
                self.action_middle.numpy(),
                self.action_scale.numpy(),
            )
        decode, mean, stddev, middle, scale = self._fast
        condition, columns = decode.condition(z), self.columns

        def act_few(observation: np.ndarray, step: int) -> np.ndarray:
            normalized = (observation[:, columns] - mean) / stddev
            unit = decode(np.minimum(np.maximum(normalized, -FARTHEST), FARTHEST), condition)
            result: np.ndarray = middle + scale * np.minimum(np.maximum(unit, -1.0), 1.0)
            return result

        return act_few

    @property
    def latent_bound(self) -> Tensor:
        """[Z], four standard deviations of the aggregate posterior: the box that skills are clipped to; that of unit actions where
        a skill is one."""
        return torch.ones_like(self.latent_stddev) if self.config.cloning else 4 * self.latent_stddev

    # -- on disk -------------------------------------------------------------------------------------------------------
    def save(self, folder: Path, about: dict[str, object] | None = None) -> None:
        """Write weights and everything needed to rebuild the model into a folder, atomically and without code."""
        meta = {
            "kind": "skill_model",
            "config": asdict(self.config),
            "observation_dim": self.observation_dim,
            "action_dim": self.action_dim,
            "observed": [list(part) for part in self.observed],
            "about": about or {},
        }
        save_state(Path(folder), {"model": dict(self.state_dict())}, meta)

    @classmethod
    def load(cls, folder: str | Path) -> SkillModel:
        """The model in a folder written by `save`, or in the run folder of a finished pretraining. Frozen.

        Raises CheckpointError, naming the folder, if there is none, it is damaged, or it holds something else.
        """
        folder = model_folder(folder)
        if not (folder / MANIFEST).exists() and (folder / "config.yaml").exists():
            raise CheckpointError(
                f"{folder}: holds a run, but no skill model; name the --out of a finished `skillmeta skills`"
            )
        state, meta = load_state(folder)
        if meta.get("kind") != "skill_model":
            raise CheckpointError(f"{folder}: holds {meta.get('kind', 'something else')!r}, not a skill model")
        try:
            weights = state["model"]
            config = build(SkillModelConfig, meta["config"])
            check_sizes(config, (meta["observation_dim"], meta["action_dim"]), weights)
            model = cls(
                config,
                meta["observation_dim"],
                meta["action_dim"],
                weights["action_low"],
                weights["action_high"],
                torch.Generator().manual_seed(0),
                observed_of(meta),
            )
            restore_parts({"model": model}, {"model": weights})
            model.observation_range = range_of(meta)
        except (ConfigError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise CheckpointError(f"{folder}: does not describe a skill model ({error!r}); use another one") from None
        except RuntimeError as error:
            raise CheckpointError(f"{folder}: the weights do not fit the model they name: {error}") from None
        return model.requires_grad_(False)


def observed_of(meta: Mapping[str, Any]) -> tuple[Observed, ...]:
    """The parts of a saved model's observations. Raises ValueError for what is none, or is not as wide as they are."""
    expect(listed := meta.get("observed", []), [list], "observed")
    parts = tuple(Observed(key, size) for key, size in listed)
    for part in parts:
        expect(part.key, str, "a key of observed")
        expect(part.size, int, part.key)
    if parts and (any(part.size < 1 for part in parts) or sum(part.size for part in parts) != meta["observation_dim"]):
        raise ValueError(f"observed is {str(listed)[:100]}, of other sizes than its {meta['observation_dim']} numbers")
    return parts


def range_of(meta: Mapping[str, Any]) -> np.ndarray | None:
    """The least and largest observations of a saved model's logs, [2, O], where it keeps them. Raises ValueError for others."""
    if "observation_range" not in (about := meta.get("about") or {}):
        return None
    found = np.asarray(about["observation_range"], np.float32)
    if found.shape != (2, meta["observation_dim"]):
        raise ValueError(f"observation_range has shape {found.shape}, not (2, {meta['observation_dim']})")
    return found


def check_sizes(config: SkillModelConfig, dims: tuple[int, int], weights: Mapping[str, Tensor]) -> None:
    """Raises ValueError for a model that would be larger than its weights are, before memory is taken for it."""
    held = sum(tensor.numel() for tensor in weights.values())
    depth = max(config.prior_depth, config.decoder_depth if config.closed_loop and not config.cloning else 1)
    width = max(config.hidden, config.prior_hidden or 0)
    if min(dims) < 1 or max(*dims, width, config.prior_components) > held or (depth - 1) * config.hidden**2 > held:
        raise ValueError(f"its sizes {dims}, {width} and {depth} are of more than the {held:,} numbers that it has")
    for key, value in (("horizon", config.horizon), ("dim", config.dim)):
        if value > (limit := largest(key) or value):
            raise ValueError(f"{key} is {value}; at most {limit:,} is read from a folder")


def model_folder(folder: str | Path) -> Path:
    """Where the skill model is that a user names by its own folder or by that of its run."""
    folder = Path(folder)
    inside = not (folder / MANIFEST).exists() and (folder / "model").is_dir()
    return folder / "model" if inside else folder
