"""Fine-tuning that starts from a trained agent."""

from __future__ import annotations

import contextlib
import copy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from skillmeta.collect.source import Budget, OnlineSource
from skillmeta.collect.workers import Workers
from skillmeta.config import build, to_plain
from skillmeta.envs.make import EnvsFactory, make_envs
from skillmeta.errors import ConfigError, UserError
from skillmeta.evaluation.records import read_run
from skillmeta.programs.train import load_trained, make_learner, train
from skillmeta.programs.train_config import TrainConfig
from skillmeta.reports.description import description
from skillmeta.run.checkpoint import load_state
from skillmeta.run.device import CPU
from skillmeta.run.parts import restore_parts, state_of
from skillmeta.run.run import read_metrics, read_result
from skillmeta.seeds import Seeds
from skillmeta.skills.vae import SkillModel
from skillmeta.tasks.base import chosen_task, make_family, task_id
from tests.elsewhere import ELSEWHERE, OnTheCPU, elsewhere
from tests.goldens.cases import save_skills

MAZE = {"family": "maze", "options": {"max_episode_steps": 20}}
KIND = {"tasks": 1, "context_size": 4}
SIMPL = {
    "name": "simpl",
    "training_tasks": 2,
    "tasks_per_iteration": 2,
    "first_episodes": 1,
    "reuse": 1.0,
    "small_context": KIND,
    "large_context": KIND,
    "batch_size": 4,
    "latent_dim": 3,
    "context_episodes": 2,
    "hidden": 8,
    "depth": 1,
}
SAC = {
    "name": "sac",
    "hidden": 8,
    "policy_depth": 1,
    "critic_depth": 1,
    "batch_size": 4,
    "policy_start": "prior",
    "regularizer": {"prior": "skill", "target_divergence": 1.0, "initial_coefficient": 0.5},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    save_skills(folder / "skills")
    meta = {
        "kind": "meta-train",
        "task": {**MAZE, "split": "train"},
        "skills": str(folder / "skills"),
        "env_steps": 150,
    }
    assert train(build(TrainConfig, {**meta, "algorithm": SIMPL}), folder / "meta", quiet=True)
    return folder


def config(folder: Path, start: dict[str, Any] | None = None, algorithm: dict[str, Any] | None = None) -> TrainConfig:
    plain = {
        "task": {**MAZE, "split": "test", "index": 1},
        "skills": str(folder / "skills"),
        "start": {"run": str(folder / "meta"), "episodes": 2, **(start or {})},
        "algorithm": {**SAC, **(algorithm or {})},
        "env_steps": 80,
        "evaluation": {"episodes": 2},
    }
    return build(TrainConfig, plain)


def parts_of(made: TrainConfig, device: torch.device = CPU) -> tuple[Any, OnlineSource]:
    """A learner, and where it learns."""
    family = make_family(made.task)
    task = chosen_task(family, made.task)
    seeds, skills = Seeds(made.seed, task_id(task)), SkillModel.load(made.skills) if made.skills else None
    learner = make_learner(made, make_envs(family, 1, skills).spec, skills, seeds, device)
    workers = Workers(EnvsFactory(made.task, made.skills), 1, 1)
    return learner, OnlineSource(workers, lambda generator: task, seeds, Budget(1000))


def test_it_goes_on_with_the_networks_of_the_run_and_what_its_agent_infers(folder):
    learner, source = parts_of(config(folder))
    family = make_family(config(folder).task)
    agent = load_trained(folder / "meta", lambda skills, sees: make_envs(family, 1, skills, sees)).actor
    for network, own in ((agent.policy, learner.learner.policy), (agent.critics, learner.learner.targets)):
        for one, other in zip(network.parameters(), own.parameters(), strict=True):
            assert torch.equal(one, other)
    assert float(learner.learner.regularizer.coefficient()) == pytest.approx(float(agent.log_coefficient.exp()))

    generator = Seeds(0, task_id(chosen_task(family, config(folder).task))).stream("start").torch()
    belief = agent.begin(1, generator)
    for _ in range(2):
        before = learner.updates
        learner.iterate(source)
        assert learner.updates == before  # nothing is learned while it gets to know the task
        belief = agent.adapt(belief, learner.known.shown[-1], generator)
        assert torch.equal(learner.known.features, belief.e[0])
    known = learner.known.features.clone()
    learner.iterate(source)
    assert torch.equal(learner.known.features, known) and torch.equal(learner.actor().features, known)
    assert (learner.learner.replay.at(torch.arange(3)).observation[:, -3:] == known).all()


def test_a_fixed_coefficient_stays_where_the_config_has_it(folder):
    fixed = {**SAC["regularizer"], "controller": "fixed"}
    learner, _ = parts_of(config(folder, algorithm={"regularizer": fixed}))
    assert float(learner.learner.regularizer.coefficient()) == pytest.approx(0.5)


def test_a_policy_that_was_trained_acts_and_learns_from_the_first_episode_on(folder):
    learner, source = parts_of(config(folder, algorithm={"random_decisions": 1000}))
    assert learner.learner.explorer() is learner.learner.acting
    for _ in range(3):
        learner.iterate(source)
    assert learner.updates > 0


@pytest.mark.parametrize("episodes", [1, 2])
def test_too_few_episodes_to_infer_the_task_are_noted(episodes, folder, tmp_path):
    result = train(config(folder, {"episodes": episodes}), tmp_path / "run", quiet=True)
    notes = [
        note for note in (result or {}).get("notes", []) if note.startswith("start.episodes is 1, and the agent finds")
    ]
    assert len(notes) == (episodes == 1)


@pytest.mark.parametrize("keep", [True, False])
def test_the_first_episodes_are_learned_from_if_they_are_kept(keep, folder):
    learner, source = parts_of(config(folder, {"keep": keep}))
    for _ in range(3):
        learner.iterate(source)
    decisions = 20 // learner.learner.skills.horizon
    assert len(learner.learner.replay) == decisions * (3 if keep else 1) == learner.updates


@pytest.mark.parametrize("stopped", [0, 1, 2, 3])
def test_a_restored_run_continues_to_the_bit(stopped, folder):
    learner, source = parts_of(config(folder))
    for _ in range(stopped):
        learner.iterate(source)
    saved = copy.deepcopy({"learner": state_of(learner.parts()), "source": source.state()})
    other, again = parts_of(config(folder))
    restore_parts(other.parts(), saved["learner"])
    again.restore(saved["source"])
    for _ in range(4 - stopped):
        assert learner.iterate(source) == other.iterate(again)
    for one, two in zip(
        learner.actor().actor.policy.parameters(), other.actor().actor.policy.parameters(), strict=True
    ):
        assert torch.equal(one, two)
    assert torch.equal(learner.known.features, other.known.features)


def test_a_whole_run_is_evaluated_saved_and_loaded(folder, tmp_path):
    made = config(folder)
    result = train(made, tmp_path / "run", quiet=True)
    assert result is not None and result["episodes"] == 4 and result["num_episodes"] == 2
    family = make_family(made.task)
    trained = load_trained(tmp_path / "run", lambda skills, sees: make_envs(family, 1, skills, sees))
    saved = load_state(tmp_path / "run" / "actor")[0]["actor"]
    assert torch.equal(trained.actor.features, saved["features"]) and bool(saved["features"].abs().sum() > 0)
    observation, generator = torch.zeros(1, 4), torch.Generator().manual_seed(0)
    action, _ = trained.actor.act(observation, trained.actor.begin(1, generator), generator, False)
    assert bool(action.isfinite().all())


NORMALIZED = {"name": "sac", "hidden": 8, "batch_size": 4, "normalize_observations": True, "random_decisions": 1}


@pytest.mark.parametrize("case", ["skills", "actions", "normalised actions"])
def test_a_run_on_one_task_continues_on_another(folder, tmp_path, case):
    in_skills, plain_sac = case == "skills", {"name": "sac", "hidden": 8, "batch_size": 4}
    algorithm = SAC if in_skills else plain_sac if case == "actions" else NORMALIZED
    plain = {
        "task": {**MAZE, "split": "test", "index": 1},
        "skills": str(folder / "skills") if in_skills else None,
        "algorithm": algorithm,
        "env_steps": 80,
        "evaluation": {"episodes": 1},
        "checkpoint_seconds": 1e-300,
    }
    assert train(build(TrainConfig, plain), tmp_path / "first", quiet=True)
    first = load_state(tmp_path / "first" / "actor")[0]["actor"]
    start = {"run": str(tmp_path / "first"), "episodes": 1}
    made = build(TrainConfig, {**plain, "task": {**MAZE, "split": "test", "index": 2}, "start": start})
    family = make_family(made.task)
    skills = SkillModel.load(made.skills) if made.skills else None
    learner = make_learner(made, make_envs(family, 1, skills).spec, skills, Seeds(0))
    own = {name: dict(part.state_dict()) for name, part in learner.learner.networks.items()}
    for name, part in own.items():
        for key, value in part.items():
            assert torch.equal(value, first["critics" if name == "targets" else name][key])
    assert torch.equal(learner.learner.regularizer.log_coefficient, first["log_coefficient"])
    if case != "skills":
        other = {**plain_sac, **({} if case == "normalised actions" else NORMALIZED)}
        unlike = build(TrainConfig, {**to_plain(made), "algorithm": other})
        with pytest.raises(ConfigError, match="normalize_observations is .*, and .* in the run that it starts from"):
            make_learner(unlike, make_envs(family, 1, skills).spec, skills, Seeds(0))
    result = train(made, tmp_path / "second", quiet=True)
    assert result is not None and result["episodes"] == 4
    second = load_state(tmp_path / "second" / "actor")[0]["actor"]["actor"]
    if case == "normalised actions":
        assert float(first["normalizer"]["stddev"].min()) < 1
        for key, value in first["normalizer"].items():
            assert torch.equal(second["normalizer"][key], value)
    assert not torch.equal(second["log_coefficient"], first["log_coefficient"])
    third = build(TrainConfig, {**to_plain(made), "start": {"run": str(tmp_path / "second"), "episodes": 0}})
    learner = make_learner(third, make_envs(family, 1, skills).spec, skills, Seeds(0))
    assert torch.equal(learner.learner.regularizer.log_coefficient, second["log_coefficient"])


def test_an_agents_policy_is_the_prior_where_the_config_says_so(folder, tmp_path):
    made = config(folder, {"prior": "agent"})
    learner, source = parts_of(made)
    family = make_family(made.task)
    agent = load_trained(folder / "meta", lambda skills, sees: make_envs(family, 1, skills, sees)).actor
    for _ in range(2):
        learner.iterate(source)
    observation, e = torch.randn(5, 4), learner.known.features
    expected = agent.policy(
        torch.cat([agent.skills.normalize(observation), e.expand(5, -1)], -1), agent.prior(observation)
    )
    assert bool((expected.kl(agent.prior(observation)) > 0).any())
    sac, seen = learner.learner, torch.cat([observation, e.expand(5, -1)], -1)
    held = sac.skills.prior(seen)
    start = sac.policy(sac.skills.normalize(seen), held)  # the policy begins as that prior
    for one in (held, start):
        assert torch.equal(one.mean, expected.mean) and torch.equal(one.log_stddev, expected.log_stddev)
    assert torch.equal(next(sac.critics.parameters()), next(agent.critics.parameters()))
    assert float(sac.regularizer.coefficient()) == pytest.approx(0.5)  # the config's: the agent's was for another prior

    def act(run):
        generator = torch.Generator().manual_seed(0)
        actor = load_trained(run, lambda skills, sees: make_envs(family, 1, skills, sees)).actor
        return actor.act(observation, actor.begin(5, generator), generator, False)[0]

    assert train(made, tmp_path / "run", quiet=True)
    start = {"run": str(tmp_path / "run"), "episodes": 0, "prior": "agent"}
    further = replace(made, start=build(TrainConfig, {"start": start}).start, env_steps=20)
    further = replace(further, algorithm={**made.algorithm, "updates_per_decision": 0.0})
    assert train(further, tmp_path / "further", quiet=True)  # nothing is learned: it acts as what it is held near
    assert torch.equal(act(tmp_path / "further"), act(tmp_path / "run"))
    said = description(read_run(tmp_path / "further"))
    before = sum(read_result(run)["env_steps"] for run in (tmp_path / "run", folder / "meta"))
    assert read_result(tmp_path / "further")["env_steps_before"] == before
    assert "the policy of run, acts in skills" in said
    assert said.endswith(f"it starts from run, which learned in {before:,} environment steps")
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="run: holds no finished run; put it back"):
        act(tmp_path / "further")
    (tmp_path / "moved").rename(tmp_path / "run")
    for changed, message in (
        (
            replace(further, start=replace(further.start, prior="skill")),
            "held near another agent's; set start.prior to agent",
        ),
        (replace(made, algorithm={"name": "sac", "hidden": 8}), "set algorithm.policy_start to prior"),
        (replace(made, skill_prior="marginal"), "skill_prior is marginal, and start.run: .* was trained with state"),
        (
            replace(made, skills=None),
            "skills is null, and start.run: .* was trained with .*; set skills as it is there",
        ),
        (replace(made, see_task=True), "see_task is True, and start.run: .* was trained with False"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(changed, tmp_path / "no", quiet=True)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_pearls_agent_is_a_start_with_critics_of_the_tasks_own_rewards_alone(tmp_path, scale):
    pearl = {"name": "pearl", "training_tasks": 2, "tasks_per_iteration": 2, "first_episodes": 1, "tasks": 2}
    pearl |= {"prior_episodes": 1, "posterior_episodes": 0, "updates": 2, "batch_size": 4, "latent_dim": 3, "hidden": 8}
    pearl |= {"depth": 1, "exploration_episodes": 1, "reward_scale": scale}
    meta = {"kind": "meta-train", "task": {**MAZE, "split": "train"}, "env_steps": 200, "algorithm": pearl}
    assert train(build(TrainConfig, meta), tmp_path / "meta", quiet=True)
    plain = {
        "task": {**MAZE, "split": "test", "index": 1},
        "start": {"run": str(tmp_path / "meta"), "episodes": 2},
        "algorithm": {"name": "sac", "hidden": 8, "policy_depth": 1, "critic_depth": 1, "batch_size": 4},
        "env_steps": 80,
        "evaluation": {"episodes": 2},
    }
    made = build(TrainConfig, plain)
    learner, source = parts_of(made)
    family, sac = make_family(made.task), learner.learner
    agent = load_trained(tmp_path / "meta", lambda skills, sees: make_envs(family, 1, skills, sees)).actor
    same = [
        torch.equal(one, other) for one, other in zip(agent.critics.parameters(), sac.targets.parameters(), strict=True)
    ]
    assert all(same) if scale == 1 else not all(same)
    assert torch.equal(sac.regularizer.log_coefficient, agent.log_coefficient) is (scale == 1)
    for _ in range(2):
        learner.iterate(source)
    posterior, observation = agent.encoder.posterior(learner.known.belief.evidence), torch.randn(5, 4)
    e = posterior.mean[0]
    assert torch.equal(learner.known.features, e) and bool(e.abs().sum() > 0)
    shaped = replace(agent, config=replace(agent.config, shaped_reward=True)).start(learner.known.belief)
    assert shaped.critics is None and shaped.log_coefficient is None
    seen = torch.cat([observation, e.expand(5, -1)], -1)
    assert torch.equal(sac.policy(seen).base.mean, agent.policy(seen).base.mean)
    with pytest.raises(ConfigError, match="is no residual on a prior; set it to skill"):
        parts_of(build(TrainConfig, {**plain, "start": {**plain["start"], "prior": "agent"}}))
    assert train(made, tmp_path / "run", quiet=True)


@pytest.mark.parametrize("prior", ["skill", "agent"])
def test_it_learns_on_a_device_what_it_learns_on_the_cpu(prior, folder):
    made, losses = config(folder, {"prior": prior}), []
    for device in (CPU, ELSEWHERE):
        with contextlib.nullcontext() if device == CPU else elsewhere():
            learner, source = parts_of(made, device)
            for _ in range(3):
                metrics = learner.iterate(source if device == CPU else OnTheCPU(source))
        losses.append(metrics["critic/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_what_does_not_go_together_is_refused_before_the_folder_is_taken(folder, tmp_path):
    with pytest.raises(
        ConfigError, match="critic has layers of 8x10, 1x8, 8x10, 1x8; here they are 8x10, 8x8, 1x8, 8x10"
    ):
        train(config(folder, algorithm={"critic_depth": 2}), tmp_path / "run")
    plain = {"policy_start": "random", "regularizer": {"prior": "uniform"}}
    with pytest.raises(ConfigError, match="another kind of policy; set algorithm.policy_start to prior"):
        train(config(folder, algorithm=plain), tmp_path / "run")
    with pytest.raises(ConfigError, match="learner that cannot start from another; sac can"):
        train(replace(config(folder), algorithm={"name": "rl2", "hidden": 8}), tmp_path / "run")
    save_skills(tmp_path / "others")
    other = SkillModel.load(tmp_path / "others")
    other.latent_stddev.mul_(2)
    other.save(tmp_path / "others")
    with pytest.raises(ConfigError, match="another skill model"):
        train(replace(config(folder), skills=str(tmp_path / "others")), tmp_path / "run")
    with pytest.raises(ConfigError, match="run is missing"):
        build(TrainConfig, {"skills": "x", "start": {"episodes": 3}})
    assert not (tmp_path / "run").exists()


DOUBLED = '''
from dataclasses import replace

from skillmeta.algorithms import sac
from skillmeta.algorithms.sac import Config


class Learner(sac.Learner):
    """SAC that learns from rewards of 100 a decision, whatever it was given."""

    def iterate(self, source):
        episodes = source.episode(self.explorer())
        return self.learn_from(replace(episodes, reward=0 * episodes.reward + 100))
'''


def test_a_learner_of_the_users_own_learns_as_it_says_and_may_start_from_its_own_run(folder, tmp_path, monkeypatch):
    """Its `iterate` is what runs, on episodes that show what is known of the task."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "doubled.py").write_text(DOUBLED)
    mine = config(folder, {"keep": True}, {"name": "doubled"})
    result = train(mine, tmp_path / "run", quiet=True)
    assert result is not None
    assert read_metrics(tmp_path / "run")[-1]["critic/target"] > 20 and result["updates"] > 0
    again = replace(mine, start=replace(mine.start, run=str(tmp_path / "run"), episodes=0))
    assert train(again, tmp_path / "again", quiet=True)
    stranger = replace(again, algorithm={**mine.algorithm, "name": "sac"})
    with pytest.raises(ConfigError, match="doubled"):
        train(stranger, tmp_path / "other", quiet=True)
    sys.modules.pop("doubled", None)
