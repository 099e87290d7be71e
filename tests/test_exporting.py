"""An exported policy does what `skillmeta.load` does, without skillmeta."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from skillmeta.agent import Agent
from skillmeta.cli import main
from skillmeta.envs.make import make_envs
from skillmeta.envs.skill_space import SkillEnv
from skillmeta.errors import ConfigError, UserError
from skillmeta.exporting import acting, export, to_onnx, to_stable_baselines, to_torch
from skillmeta.programs.train import make_learner, spec_of, train
from skillmeta.programs.train_config import train_config
from skillmeta.seeds import Seeds
from skillmeta.skills.vae import SkillModel
from skillmeta.tasks.base import TaskConfig, make_family
from tests.envs import users
from tests.skills.fakes import skill_model

MAZE = TaskConfig("maze", "test", 0, {"max_episode_steps": 25})
PENDULUM = TaskConfig("gym", "test", 0, {"id": "Pendulum-v1"})  # whose torque is within 2
SAC = {"name": "sac", "hidden": 8}
PRIOR = {**SAC, "policy_start": "prior", "regularizer": {"prior": "skill", "target_divergence": 1.0}}


def agent_of(task: TaskConfig, algorithm: dict, model: SkillModel | None = None) -> Agent:
    """One with weights and statistics that are nowhere zero or one."""
    family = make_family(task)
    envs = make_envs(family, 1, model)
    learner = make_learner(train_config({"algorithm": algorithm}), spec_of(envs, family), model, Seeds(0))
    actor = learner.actor()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in actor.policy.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    if actor.normalizer is not None:
        actor.normalizer.fit(torch.randn(9, 3, generator=generator) * torch.tensor([0.2, 1.0, 5.0]) + 0.5)
    return Agent(actor, model, task, 0, sample=False, seed=0)


def model_of(closed_loop: bool, observation_dim: int = 4, **options: Any) -> SkillModel:
    model = skill_model(closed_loop=closed_loop, observation_dim=observation_dim, action_dim=2, **options)
    model.normalizer.mean.copy_(torch.linspace(-1, 1, observation_dim))
    model.normalizer.stddev.copy_(torch.linspace(0.5, 2, observation_dim))
    return model


CASES = {
    "actions": lambda: agent_of(PENDULUM, SAC),
    "normalised": lambda: agent_of(PENDULUM, {**SAC, "normalize_observations": True, "random_decisions": 1}),
    "skills": lambda: agent_of(MAZE, SAC, model_of(True)),
    "skills of an open loop": lambda: agent_of(MAZE, SAC, model_of(False)),
    "prior": lambda: agent_of(MAZE, PRIOR, model_of(True)),
    "mixture": lambda: agent_of(MAZE, PRIOR, model_of(True, prior="mixture")),
    "flow": lambda: agent_of(MAZE, PRIOR, model_of(True, prior="flow")),
}


def observations(agent: Agent, count: int) -> np.ndarray:
    shape = (count, *agent.observation_space.shape)
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def acted(agent: Agent, seen: np.ndarray) -> np.ndarray:
    agent.reset()
    return np.stack([agent.act(observation) for observation in seen])


def stepped(agent: Agent, seen: np.ndarray, call) -> np.ndarray:
    """The same by an exported function, two rows at once, of which the second is one step behind."""
    if agent.skills is None:
        return call({"observation": seen})[0]
    skill, step = np.zeros((2, agent.skills.dim), np.float32), np.zeros(2, np.int64)
    rows = []
    for t in range(len(seen)):
        step[1] *= t > 1  # it begins its episode here
        both = np.stack([seen[t], seen[t - 1]])
        action, skill, step = call({"observation": both, "skill": skill, "step": step})
        step = step.copy()
        rows.append(action)
    first, second = np.stack(rows, 1)
    assert np.allclose(first[:-1], second[1:], atol=1e-5)
    return first


def test_actions_that_are_integers_are_exported_as_such(tmp_path):
    users.register()
    agent = agent_of(TaskConfig("gym", options={"id": "users/Whole-v0", "max_episode_steps": 5}), SAC)
    seen = observations(agent, 25)
    whole = stepped(agent, seen, called(acting(agent)[0]))
    assert (whole == acted(agent, seen)).all() and len(np.unique(whole)) > 2
    with pytest.raises(UserError, match="does not round to integers"):
        to_stable_baselines(agent, tmp_path / "policy.zip")


@pytest.mark.parametrize("case", CASES)
def test_the_function_does_what_the_agent_does(case):
    """What is exported, before it is."""
    agent = CASES[case]()
    seen = observations(agent, 25)
    assert np.allclose(stepped(agent, seen, called(acting(agent)[0])), acted(agent, seen), atol=1e-5)
    assert np.ptp(acted(agent, seen)) > 0.1


def called(made):
    """A module's outputs as arrays."""

    def call(inputs):
        with torch.inference_mode():
            found = made(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        return [one.numpy() for one in (found if isinstance(found, tuple) else (found,))]

    return call


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_program_of_torch_does_what_the_agent_does(case, tmp_path):
    agent = CASES[case]()
    to_torch(agent, tmp_path / "policy.pt2")
    made = torch.export.load(tmp_path / "policy.pt2").module()
    seen = observations(agent, 25)
    assert np.allclose(stepped(agent, seen, called(made)), acted(agent, seen), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_onnx_does_what_the_agent_does(case, tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="pip install -e '.[export]' onnxruntime")
    import onnxruntime

    agent = CASES[case]()
    to_onnx(agent, tmp_path / "policy.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "policy.onnx"))
    seen = observations(agent, 25)
    found = stepped(agent, seen, lambda inputs: session.run(None, inputs))
    assert np.allclose(found, acted(agent, seen), atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["policy.onnx"]


@pytest.mark.parametrize("case", ["actions", "normalised"])
def test_a_policy_of_stable_baselines_does_what_the_agent_does(case, tmp_path):
    from stable_baselines3 import SAC as Theirs

    agent = CASES[case]()
    to_stable_baselines(agent, tmp_path / "policy.zip")
    seen = 0.3 * observations(agent, 25)  # within ten deviations: their policy has no clip
    found, _ = Theirs.load(tmp_path / "policy.zip").predict(seen, deterministic=True)
    assert np.allclose(found, acted(agent, seen), atol=1e-5)


def test_a_policy_of_stable_baselines_on_skills_acts_in_a_skill_env(tmp_path):
    """An episode of `SkillEnv` under it is the agent's own."""
    from stable_baselines3 import SAC as Theirs

    agent = agent_of(MAZE, SAC, model_of(True))
    to_stable_baselines(agent, tmp_path / "policy.zip")
    theirs, env = Theirs.load(tmp_path / "policy.zip"), SkillEnv(agent.make_env(), model_of(True))
    observation, _ = env.reset(seed=4)
    ended = False
    while not ended:
        observation, _, terminated, truncated, _ = env.step(theirs.predict(observation, deterministic=True)[0])
        ended = terminated or truncated
    own = agent.make_env()
    other, _ = own.reset(seed=4)
    agent.reset()
    for _ in range(env.env_steps):
        other, *_ = own.step(agent.act(other))
    assert np.allclose(other, observation, atol=1e-4)


def test_what_cannot_be_exported_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no policy that starts as a prior"):
        to_stable_baselines(CASES["prior"](), tmp_path / "policy.zip")
    with pytest.raises(ConfigError, match=r"policy.bin: ends in none of .pt2"):
        export(tmp_path, tmp_path / "policy.bin")
    bandit = TaskConfig("bandit", "test", 0, {"arms": 3, "max_episode_steps": 5})
    family = make_family(bandit)
    config = train_config({"kind": "meta-train", "algorithm": {"name": "rl2", "hidden": 8}})
    actor = make_learner(config, spec_of(make_envs(family, 1), family), None, Seeds(0)).actor()
    with pytest.raises(UserError, match="learns a task from what it is shown"):
        to_torch(Agent(actor, None, bandit, 0, False, 0), tmp_path / "policy.pt2")
    monkeypatch.setattr("skillmeta.exporting.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"ONNX needs the package onnx: in the clone, pip install -e '\.\[export\]'"):
        to_onnx(CASES["actions"](), tmp_path / "policy.onnx")
    assert not list(tmp_path.iterdir())


def test_the_command_says_how_the_file_is_used(tmp_path, capsys):
    sac = {**SAC, "batch_size": 8, "random_decisions": 10}
    config = {"task": {"family": "gym", "options": {"id": "Pendulum-v1"}}, "algorithm": sac, "env_steps": 20}
    train(train_config({**config, "evaluation": {"episodes": 1}}), tmp_path / "run", quiet=True, page=False)
    file = tmp_path / "deep" / "policy.zip"
    assert main(["export", str(tmp_path / "run"), "--to", str(file)]) == 0
    assert f"SAC.load({str(file)!r})" in capsys.readouterr().out and file.exists()
