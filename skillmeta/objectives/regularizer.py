"""Prior regularisation: a prior, a divergence from it, and a coefficient with its controller.

Maximum-entropy RL is the special case of the uniform prior. With H the entropy of the policy in the coordinates of the unit
box [-1, 1]^A, KL(pi || uniform) = A log 2 - H, whatever the units of the actions. The divergence that is reported and
controlled is this KL, so SAC's target entropy -A (Haarnoja et al. 2018) is a target divergence of A (1 + log 2). What a value
pays is the KL without its constant, -H = log pi: a constant in every decision would change which episodes are worth ending.
This is the convention of SAC's published code, whose actions lie in [-1, 1]^A. Swap the prior for p(z|s) and the same
algorithm is SPiRL (eq. 4 to 7).
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from skillmeta.config import NonNegativeFloat, PositiveFloat, checked
from skillmeta.errors import ConfigError
from skillmeta.nn.distributions import Categorical, Gaussian, Policy, SkillPrior, TanhGaussian, kl_estimate
from skillmeta.nn.optimizers import adam, apply_gradients
from skillmeta.types import Parts, Prior


@checked
class RegularizerConfig:
    """What the policy is pulled towards, and how hard."""

    FORMER_KEYS: ClassVar[dict[str, str]] = {
        "initial_weight": "initial_coefficient",
        "minimum_weight": "minimum_coefficient",
        "maximum_weight": "maximum_coefficient",
        "target_clip": "td_divergence_clip",
    }

    prior: Literal["uniform", "skill"] = "uniform"  # uniform: plain SAC; skill: p(z|s) of the skill model
    divergence: Literal["kl", "reverse_kl", "none"] = "kl"  # KL(pi || prior), KL(prior || pi), or nothing
    controller: Literal["fixed", "two_way", "one_way"] = "two_way"  # towards the target; one_way: it only grows (SiMPL)
    initial_coefficient: PositiveFloat = 1.0  # of the divergence
    target_divergence: NonNegativeFloat | None = (
        None  # nats a decision; null with a uniform prior: A (1 + log 2), entropy -A
    )
    learning_rate: PositiveFloat = 3e-4  # of the log coefficient
    minimum_coefficient: PositiveFloat = 1e-6  # it never falls below
    maximum_coefficient: PositiveFloat = 1e3  # it never rises above
    td_divergence_clip: PositiveFloat | None = None  # the divergence's largest value in the TD target (SiMPL: 5 to 20)

    def __post_init__(self) -> None:
        if self.prior == "uniform" and self.divergence == "reverse_kl":
            raise ValueError("reverse_kl needs a prior with a density on all of the action space; set prior: skill")
        if self.prior == "skill" and self.controller != "fixed" and self.target_divergence is None:
            raise ValueError(
                "target_divergence is missing: a controlled coefficient needs it (nats a decision, e.g. 1.0)"
            )
        check_limits(self)


def described(config: RegularizerConfig) -> str:
    """What holds the policy, as a phrase for pages."""
    if config.divergence == "none":
        return "no divergence and no entropy bonus holds it"
    name = {"kl": "KL(policy || prior)", "reverse_kl": "KL(prior || policy)"}[config.divergence]
    what = "an entropy bonus" if config.prior == "uniform" else f"a coefficient times {name}"
    target = (
        "its usual target"
        if config.target_divergence is None
        else f"{config.target_divergence:g} nat{'' if config.target_divergence == 1 else 's'}"
    )
    how = {
        "fixed": f"the coefficient is fixed at {config.initial_coefficient:g}",
        "two_way": f"the coefficient is controlled towards {target}",
        "one_way": f"the coefficient grows while the divergence is above {target}",
    }
    return f"{what}; {how[config.controller]}"


@checked
class CoefficientConfig:
    """A coefficient of a divergence in nats, and its controller."""

    controller: Literal["fixed", "two_way", "one_way"] = "two_way"  # towards the target; one_way: it only grows
    initial_coefficient: PositiveFloat = 1.0  # of the divergence
    target_divergence: NonNegativeFloat = 1.0  # nats
    learning_rate: PositiveFloat = 3e-4  # of the log coefficient
    minimum_coefficient: PositiveFloat = 1e-6  # it never falls below
    maximum_coefficient: PositiveFloat = 1e3  # it never rises above
    per_task: bool = False  # each training task has its own

    def __post_init__(self) -> None:
        check_limits(self)


def check_limits(config: RegularizerConfig | CoefficientConfig) -> None:
    """Raises ValueError for an initial coefficient outside its limits."""
    if not config.minimum_coefficient <= config.initial_coefficient <= config.maximum_coefficient:
        raise ValueError(
            f"initial_coefficient is {config.initial_coefficient}; it must lie between minimum_coefficient "
            f"{config.minimum_coefficient} and maximum_coefficient {config.maximum_coefficient}"
        )


class Coefficient:
    """A coefficient that is controlled towards a target divergence, or several of them.

    Args:
        config: its controller, start and limits.
        target: nats; None where nothing is controlled.
        shape: () for one, (K,) for K of them.
    """

    def __init__(
        self, config: RegularizerConfig | CoefficientConfig, target: float | None, shape: tuple[int, ...] = ()
    ):
        self.config, self.target = config, target
        self.log = torch.full(shape, math.log(config.initial_coefficient))
        self.optimizer = adam([self.log], config.learning_rate)

    def parts(self) -> Parts:
        return {"log_coefficient": self.log, "optimizer": self.optimizer}

    def value(self) -> Tensor:
        return self.log.exp()

    def update(self, divergence: Tensor, which: Tensor | None = None) -> None:
        """Move towards the target: up when the divergence [B] is above it, down (two_way) when below.

        Args:
            which: of K coefficients, the one that each divergence belongs to, [B], all different. Without it the mean of the
                divergences moves the only one.
        """
        if self.config.controller == "fixed":
            return
        assert self.target is not None  # the config guarantees it
        if which is None:
            gradient = (self.target - divergence).mean()
        else:
            gradient = torch.zeros_like(self.log).index_copy(0, which, self.target - divergence)
        if self.config.controller == "one_way":
            gradient = gradient.clamp(max=0)
        apply_gradients(self.optimizer, [gradient])
        self.log.clamp_(math.log(self.config.minimum_coefficient), math.log(self.config.maximum_coefficient))


class Regularizer:
    """The divergence of a policy from its prior, and its coefficient.

    Args:
        config: see `RegularizerConfig`.
        bound: [A], half the width of the action box; the uniform prior lives on [-bound, bound].
    """

    def __init__(self, config: RegularizerConfig, bound: Tensor):
        self.config = config
        self.constant = len(bound) * math.log(2) if config.prior == "uniform" else 0.0  # of the KL, see above
        target = config.target_divergence
        if target is None and config.prior == "uniform":
            target = len(bound) + self.constant
        self.controller = Coefficient(config, target)

    def parts(self) -> Parts:
        return self.controller.parts()

    @property
    def target(self) -> float | None:
        """The target divergence, nats."""
        return self.controller.target

    @property
    def log_coefficient(self) -> Tensor:
        return self.controller.log

    @property
    def controlled(self) -> bool:
        return self.config.controller != "fixed" and self.config.divergence != "none"

    def coefficient(self) -> Tensor:
        """The coefficient of the divergence, a scalar; 0 where there is no divergence."""
        return self.controller.value() if self.config.divergence != "none" else torch.zeros_like(self.log_coefficient)

    def divergence(self, policy: Policy, prior: Prior | None, noise: Tensor) -> Tensor:
        """Divergence of each row, [B], nats. Closed form between Gaussians; else the one-sample estimate at the point that `noise`
        [B, A] stands for: an action of the policy, or of the prior in the reverse direction. Against the uniform prior it is
        log pi(a) + log(volume)."""
        if self.config.divergence == "none":
            return noise.new_zeros(noise.shape[:-1])
        if isinstance(policy, Categorical):
            raise ConfigError("the policy is over discrete actions, and the divergence is of continuous ones")
        if self.config.prior == "uniform":
            if not isinstance(policy, TanhGaussian):
                raise ConfigError("a uniform prior needs a policy that stays in the action box")
            return policy.rsample_log_prob(noise) + (2 * policy.bound).log().sum(-1)
        if not isinstance(policy, Gaussian) or not isinstance(prior, SkillPrior):
            raise ConfigError("a skill prior needs an unsquashed Gaussian policy in the same latent space")
        if self.config.divergence == "kl":
            return kl_estimate(policy, prior, noise)
        if isinstance(prior, Gaussian):
            return prior.kl(policy)
        drawn = prior.rsample(noise)
        return prior.log_prob(drawn) - policy.log_prob(drawn)

    def cost(self, divergence: Tensor) -> Tensor:
        """What a decision pays for a divergence [B], before the coefficient: all of it, but log pi in the unit box for the uniform
        prior; 0 where there is no divergence."""
        return divergence - self.constant if self.config.divergence != "none" else divergence

    def td_cost(self, divergence: Tensor) -> Tensor:
        """The cost as the TD target sees it: of a divergence that is clipped from above where the config says so."""
        clip = self.config.td_divergence_clip
        return self.cost(divergence if clip is None else divergence.clamp(max=clip))

    def update_coefficient(self, divergence: Tensor) -> None:
        """Move the coefficient towards the target: up when the divergence [B] is above it, down (two_way) when below."""
        if self.controlled:
            self.controller.update(divergence)
