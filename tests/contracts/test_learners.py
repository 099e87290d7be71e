"""What holds of every learner, in primitive actions and in skill space: saving, resuming, and what an actor can reach."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from skillmeta.algorithms import best_of, distral, mier, mql, pearl, sac, simpl, varibad
from skillmeta.collect.source import Budget, OnlineSource
from skillmeta.collect.trials import trial
from skillmeta.collect.workers import Workers
from skillmeta.data.contexts import ContextBuffer
from skillmeta.data.replay import Replay
from skillmeta.envs.make import EnvsFactory, make_envs
from skillmeta.errors import ConfigError
from skillmeta.evaluation.adapted import pack, unpack
from skillmeta.objectives import on_policy
from skillmeta.programs.train import make_learner, spec_of
from skillmeta.programs.train_config import train_config
from skillmeta.run.checkpoint import load_state, save_state, state_hash
from skillmeta.run.device import CPU, placed
from skillmeta.run.parts import restore_parts, state_of
from skillmeta.seeds import Seeds
from skillmeta.skills.vae import SkillModel
from skillmeta.tasks.base import chosen_task, make_family
from tests.elsewhere import ELSEWHERE, OnTheCPU, elsewhere
from tests.goldens.cases import FINETUNE, META, save_skills

CASES = [
    *(("finetune", name) for name in ("sac", "sac_normalized", "sac_skills", "spirl", "best_of")),
    *(("meta-train", name) for name in (
        "pearl", "pearl_teacher", "pearl_skills", "simpl", "distral", "rl2", "rl2_lstm", "rl2_skills", "varibad",
        "varibad_point", "varibad_skills", "mql", "mql_skills", "mier", "mier_reward", "mier_skills",
        "maml", "maml_discrete", "cavia", "maml_skills", "promp", "promp_skills", "reptile", "reptile_skills",
    )),
]  # fmt: skip
QUICK = (
    "sac_normalized",
    "spirl",
    "best_of",
    "pearl_teacher",
    "simpl",
    "distral",
    "rl2_skills",
    "varibad",
    "mql_skills",
    "mier_skills",
    "maml_skills",
    "promp",
    "reptile",
)  # one of each algorithm


@dataclass
class Trained:
    """A learner, the source that it learns from, and an observation to act on."""

    learner: Any
    source: OnlineSource
    observation: torch.Tensor


def made(
    kind: str, name: str, folder: Path, device: torch.device = CPU, prior: Literal["gaussian", "mixture"] = "gaussian"
) -> Trained:
    options = {**(FINETUNE if kind == "finetune" else META)[name.removesuffix("_normalized")]}
    if name == "sac_normalized":
        options["algorithm"] = {**options["algorithm"], "normalize_observations": True}
    if name == "simpl":
        options["algorithm"] = {**options["algorithm"], "reuse": 5.0}  # a few updates
    return made_of(kind, options, folder, device, prior)


def made_of(
    kind: str,
    options: dict[str, Any],
    folder: Path,
    device: torch.device = CPU,
    prior: Literal["gaussian", "mixture"] = "gaussian",
) -> Trained:
    if options.pop("skills", False):
        save_skills(folder / "skills", prior)
        options["skills"] = str(folder / "skills")
    config = train_config(options, kind)
    family = make_family(config.task)
    skills = SkillModel.load(config.skills) if config.skills else None
    envs, seeds = make_envs(family, 1, skills, config.see_task), Seeds(3)
    task = chosen_task(family, config.task)
    source = OnlineSource(
        Workers(EnvsFactory(config.task, config.skills, config.see_task), 1, config.envs_per_batch),
        (lambda _: task) if kind == "finetune" else lambda generator: family.sample(generator, config.task.split),
        seeds,
        Budget(10_000),
        shaped_reward=family.shaped_reward,
    )
    observation = torch.from_numpy(envs.reset([0], [task]))
    return Trained(make_learner(config, spec_of(envs, family), skills, seeds, device), source, observation)


def action_of(actor: Any, observation: torch.Tensor) -> torch.Tensor:
    """The first action of an actor, in each of its rollouts of one task."""
    generator = torch.Generator().manual_seed(5)
    with torch.inference_mode():
        belief = actor.begin(1, generator)
        return actor.act(observation.repeat(actor.rollouts, 1), belief, generator, True)[0]


def assert_near(found: Any, wanted: Any, at: str = "") -> None:
    """Equal but for float rounding, which an optimiser's moments near 0 enlarge."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            assert_near(found[key], value, f"{at}/{key}")
    elif isinstance(wanted, torch.Tensor) and wanted.is_floating_point():
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5, msg=lambda said: f"{at}: {said}")
    elif isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted), at


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_restored_learner_goes_on_as_the_one_that_was_saved(kind, name, tmp_path):
    one, other = made(kind, name, tmp_path), made(kind, name, tmp_path)
    one.learner.iterate(one.source)
    restore_parts(other.learner.parts(), pickle.loads(pickle.dumps(state_of(one.learner.parts()))))
    other.source.restore(one.source.state())
    assert one.learner.iterate(one.source) == other.learner.iterate(other.source)
    assert state_hash(state_of(one.learner.parts())) == state_hash(state_of(other.learner.parts()))
    assert one.source.state() == other.source.state()


@pytest.mark.parametrize(
    ("kind", "name"), [case if case[1] in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES]
)
def test_a_learner_goes_on_as_well_elsewhere(kind, name, tmp_path):
    """Saved on one device it is restored on another and back; what it collects, learns and does is the same."""
    one = made(kind, name, tmp_path)
    one.learner.iterate(one.source)
    save_state(tmp_path / "here", state_of(one.learner.parts()))
    with elsewhere():
        other = made(kind, name, tmp_path, ELSEWHERE)
        restore_parts(other.learner.parts(), load_state(tmp_path / "here")[0])
        other.source.restore(one.source.state())
        found = other.learner.iterate(OnTheCPU(other.source))
        save_state(tmp_path / "elsewhere", state_of(other.learner.parts()))
    assert found == pytest.approx(one.learner.iterate(one.source), rel=1e-3, abs=1e-5)
    wanted = pickle.loads(pickle.dumps(state_of(one.learner.parts())))
    acted = action_of(one.learner.actor(), one.observation)
    assert_near(action_of(placed(other.learner.actor(), CPU), one.observation), acted)
    restore_parts(one.learner.parts(), load_state(tmp_path / "elsewhere")[0])
    assert_near(state_of(one.learner.parts()), wanted)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_restored_actor_acts_as_the_one_that_was_saved(kind, name, tmp_path):
    one, fresh = made(kind, name, tmp_path), made(kind, name, tmp_path).learner.actor()
    one.learner.iterate(one.source)
    actor = one.learner.actor()
    restore_parts(fresh.parts(), state_of(actor.parts()))
    wanted = action_of(actor, one.observation)
    assert torch.equal(action_of(fresh, one.observation), wanted)
    assert torch.equal(action_of(pickle.loads(pickle.dumps(actor)), one.observation), wanted)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_what_was_learned_of_a_task_is_kept_and_acts_as_before(kind, name, tmp_path):
    """Whole trials change a belief's numbers, never its structure: so `skillmeta adapt` can save it and put it back."""
    one, generator = made(kind, name, tmp_path), torch.Generator().manual_seed(1)
    one.learner.iterate(one.source)
    actor, task = one.learner.actor(), one.source.draw_tasks(1)[0]
    envs, before = one.source.workers.envs(actor.rollouts), actor.begin(1, generator)
    for rounds in (1, actor.exploration_episodes + 1):
        resets = Seeds(rounds).stream("resets").integers(actor.rollouts * rounds).reshape(actor.rollouts, rounds)
        _, belief = trial(actor, envs, [task] * actor.rollouts, resets, generator)
        save_state(tmp_path / str(rounds), {"belief": pack(belief)})
        kept = unpack(before, load_state(tmp_path / str(rounds))[0]["belief"])
        acted = [
            actor.act(one.observation.repeat(actor.rollouts, 1), known, torch.Generator().manual_seed(5), True)[0]
            for known in (belief, kept)
        ]
        assert type(kept) is type(belief) and torch.equal(*acted)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("finetune", "sac_skills"), ("finetune", "spirl"), ("finetune", "best_of"), ("meta-train", "pearl_skills")],
)
def test_it_learns_and_acts_where_the_prior_is_a_mixture(kind, name, tmp_path):
    one, fresh = (made(kind, name, tmp_path, prior="mixture") for _ in range(2))
    metrics = one.learner.iterate(one.source)
    assert one.learner.updates and all(math.isfinite(value) for value in metrics.values())
    restore_parts(fresh.learner.parts(), state_of(one.learner.parts()))
    acted = action_of(one.learner.actor(), one.observation)
    assert torch.equal(action_of(fresh.learner.actor(), one.observation), acted)
    assert not torch.allclose(acted, action_of(made(kind, name, tmp_path).learner.actor(), one.observation))


@pytest.mark.parametrize(
    "name",
    [name for kind, name in CASES if name.endswith("_skills") and name != "pearl_skills" and kind != "finetune"]
    + ["simpl", "distral"],
)
def test_it_says_so_where_a_mixture_will_not_do(name, tmp_path):
    with pytest.raises(ConfigError, match="needs a Gaussian skill prior, and that under `skills:` is a mixture"):
        made("meta-train", name, tmp_path, prior="mixture")


KINDS = [f"{at}{what}" for at in ("small_context_", "") for what in ("prior/divergence", "posterior/kl")]
UPDATES: dict[str, tuple[str, Sequence[str]]] = {  # what makes an update of each algorithm, and what that returns
    "sac_normalized": ("update", sac.METRICS), "best_of": ("update", best_of.METRICS), "mier": ("update", mier.METRICS),
    "pearl_teacher": ("step", (*pearl.METRICS, "belief/nll")), "simpl": ("step", (*simpl.LOSSES, *KINDS)),
    "distral": ("step", distral.METRICS), "mql": ("update", mql.METRICS), "rl2": ("update", on_policy.PPO_METRICS),
    "varibad_point": ("update", on_policy.PPO_METRICS), "varibad_skills": ("infer", varibad.METRICS),
}  # fmt: skip


@pytest.mark.parametrize("name", UPDATES)
def test_what_an_iteration_reports_are_means_over_its_updates(name, tmp_path):
    one = made("finetune" if ("finetune", name) in CASES else "meta-train", name, tmp_path)
    part, names = UPDATES[name]
    learner = one.learner.td3 if name == "mql" else one.learner
    update, told = getattr(learner, part), list[torch.Tensor]()

    def watched(*inputs: Any) -> torch.Tensor:
        told.append(update(*inputs).clone())
        return told[-1]

    setattr(learner, part, watched)
    one.learner.iterate(one.source)  # in which some learn nothing
    told.clear()
    metrics, every = one.learner.iterate(one.source), torch.stack(told)
    # MQL's policy has a loss in every other update alone.
    count = (every != 0).sum(0) if name == "mql" else len(every)
    assert len(every) > 1 and [metrics[key] for key in names] == pytest.approx(
        (every.sum(0) / count).tolist(), rel=1e-4
    )


def reachable(value: Any, seen: set[int]) -> list[Any]:
    """Everything that can be reached from a value by attributes, items and methods."""
    if id(value) in seen or isinstance(value, (str, int, float, bool, type(None), type)):
        return []
    seen.add(id(value))
    inner = [*getattr(value, "__dict__", {}).values(), getattr(value, "__self__", None)]
    if isinstance(value, dict):
        inner += value.values()
    elif isinstance(value, (list, tuple, set)):
        inner += value
    return [value, *(found for part in inner for found in reachable(part, seen))]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_no_way_leads_from_an_actor_to_what_learns(kind, name, tmp_path):
    found = reachable(made(kind, name, tmp_path).learner.actor(), set())
    assert not [
        part for part in found if isinstance(part, (Replay, ContextBuffer, torch.optim.Optimizer, torch.Generator))
    ]
    assert any(isinstance(part, torch.Tensor) for part in found)


def test_this_check_can_fail(tmp_path):
    assert any(isinstance(part, Replay) for part in reachable(made("finetune", "sac", tmp_path).learner, set()))
