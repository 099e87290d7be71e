"""skillmeta from Python: `load`, and the commands as functions."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

import skillmeta
from skillmeta.agent import Agent
from skillmeta.collect.trials import trial
from skillmeta.envs.make import make_envs
from skillmeta.errors import ConfigError, UserError
from skillmeta.programs.train import make_learner, spec_of
from skillmeta.programs.train_config import train_config
from skillmeta.seeds import Seeds
from skillmeta.skills.vae import SkillModel
from skillmeta.tasks.base import TaskConfig, chosen_task, make_family
from tests.goldens.cases import save_logs, save_skills

POINT = {"family": "point", "options": {"max_episode_steps": 30}}
SAC = {"name": "sac", "hidden": 8, "batch_size": 8, "random_decisions": 10}
SKILLS = {
    "name": "sac",
    "hidden": 8,
    "policy_start": "prior",
    "regularizer": {"prior": "skill", "target_divergence": 1.0},
}


def episode(agent: Agent, env: gymnasium.Env, seed: int) -> tuple[float, bool, list[np.ndarray]]:
    """What a user writes."""
    observation, info = env.reset(seed=seed)
    agent.reset()
    total, success, actions = 0.0, False, []
    while not agent.done:
        action = agent.act(observation)
        observation, reward, terminated, truncated, info = env.step(action)
        agent.observe(observation, reward, terminated, truncated, info)
        total, success = total + reward, success or info["success"]
        actions.append(action)
    return total, success, actions


def test_a_loaded_run_does_in_the_users_loop_what_its_evaluation_says(tmp_path, monkeypatch, capsys):
    """The script of examples/, as it stands: the success of the run's own evaluation, to the digit."""
    task = {"family": "point", "options": {"max_episode_steps": 30, "goal_radius": 0.7}}
    run = skillmeta.finetune({"task": task, "algorithm": SAC, "env_steps": 120}, tmp_path / "run")
    monkeypatch.setattr(sys, "argv", ["act_in_your_environment.py", str(run.folder)])
    script = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "act_in_your_environment.py"))
    assert f"success {run.numbers['mode_success']}," in capsys.readouterr().out
    assert 0 < run.numbers["mode_success"] < 1 and len(script["successes"]) == 20
    assert np.mean(script["returns"]) == pytest.approx(run.numbers["mode_return"], rel=1e-5)


@pytest.mark.parametrize(
    ("algorithm", "task", "skills"),
    [
        ({"name": "rl2", "hidden": 8}, {"family": "bandit", "options": {"arms": 3, "max_episode_steps": 5}}, False),
        ({"name": "pearl", "hidden": 8, "exploration_episodes": 1}, POINT, False),
        (
            {"name": "maml", "rollouts": 2, "hidden": 8},
            POINT,
            False,
        ),
        ({"name": "rl2", "hidden": 8}, {"family": "maze", "options": {"max_episode_steps": 25}}, True),
        (SKILLS, {"family": "maze", "options": {"max_episode_steps": 25}}, True),
    ],
    ids=["rl2", "pearl", "maml", "rl2 on skills", "sac on skills"],
)
def test_an_agent_in_the_users_loop_is_the_actor_in_its_trials(algorithm, task, skills, tmp_path):
    """Three rounds of a trial, to the digit: what was observed is learned from, and the clock of skills is kept."""
    save_skills(tmp_path)
    model = SkillModel.load(tmp_path) if skills else None
    config = TaskConfig(**{"split": "test", **task})
    family = make_family(config)
    envs = make_envs(family, 1, model)
    made = train_config({"algorithm": algorithm, "kind": "meta-train", "task": task})
    actor = make_learner(made, spec_of(envs, family), model, Seeds(0)).actor()

    agent = Agent(actor, model, config, 0, sample=True, seed=3)
    env = agent.make_env()
    rounds = 2 if actor.rollouts > 1 else 3
    resets = np.arange(100, 100 + rounds * actor.rollouts).reshape(rounds, actor.rollouts)
    by_hand = [[episode(agent, env, int(seed))[0] for seed in row] for row in resets]

    if actor.rollouts == 1:
        generator = Seeds(3).stream("acting").torch()
        done, _ = trial(actor, envs, [chosen_task(family, config)], resets.T, generator)
        assert np.allclose(np.ravel(by_hand), done.returns.ravel(), atol=1e-5)
    else:  # its rollouts come one after another here, and at once there: the same draws in another order
        assert agent._belief.steps == 1
        agent.reset()
        assert agent._belief.steps == 2


def agent_of(tmp_path, algorithm=SKILLS, skills=True, **options) -> Agent:
    save_skills(tmp_path)
    model = SkillModel.load(tmp_path) if skills else None
    config = TaskConfig("maze", "test", 0, {"max_episode_steps": 25})
    family = make_family(config)
    made = train_config({"algorithm": algorithm})
    learner = make_learner(made, spec_of(make_envs(family, 1, model), family), model, Seeds(0))
    return Agent(learner.actor(), model, config, 0, options.get("sample", False), options.get("seed", 0))


def test_a_run_on_fresh_draws_acts_in_the_first_task_that_is_listed_and_episodes_end_where_the_family_says(tmp_path):
    task = {"family": "tests.tasks.endless", "split": "any"}
    config = {
        "task": task,
        "algorithm": {"name": "rl2", "hidden": 4, "tasks": 2, "minibatches": 1, "episodes": 1},
        "env_steps": 40,
    }
    run = skillmeta.meta_train(config, tmp_path / "run", evaluation__every=None)
    agent = skillmeta.load(run.folder, trust=True)
    assert (agent.task.split, agent.task.index) == ("train", 0)
    env, steps = agent.make_env(), 0
    observation, _ = env.reset(seed=0)
    agent.reset()
    while not agent.done and steps < 100:
        observation, *rest = env.step(agent.act(observation))
        agent.observe(observation, *rest)
        steps += 1
    assert steps == 20


@pytest.mark.parametrize("wrong", ["x", [0.0] * 3, [np.nan] * 4, {"place": [0.0] * 4}])
def test_an_observation_that_is_none_is_refused(wrong, tmp_path):
    with pytest.raises(
        UserError, match="^the observation (has shape|has numbers that are not finite|is not of the space)"
    ):
        agent_of(tmp_path).act(wrong)


def test_who_only_wants_actions_need_not_observe(tmp_path):
    agent = agent_of(tmp_path)
    observation, _ = agent.make_env().reset(seed=0)
    agent.reset()
    actions = [agent.act(observation) for _ in range(25)]  # of a horizon of five: five decisions
    assert all(agent.action_space.contains(action) for action in actions)
    other = agent_of(tmp_path)
    assert np.array_equal([other.act(observation) for _ in range(25)], actions)


def test_an_agent_that_learns_says_that_it_was_not_shown_anything(tmp_path):
    agent = agent_of(tmp_path, {"name": "rl2", "hidden": 8})
    observation, _ = agent.make_env().reset(seed=0)
    with pytest.raises(UserError, match=r"call observe\(\*env.step\(action\)\)"):
        for _ in range(agent.skills.horizon + 1):
            agent.act(observation)


def test_wrong_use_is_one_sentence(tmp_path):
    agent = agent_of(tmp_path)
    with pytest.raises(ConfigError, match=r"shape \(3,\).*trained on 4 numbers"):
        agent.act(np.zeros(3))
    with pytest.raises(UserError, match="call act"):
        agent.observe(np.zeros(4), 0.0, False, False)
    with pytest.raises(UserError, match="holds no run"):
        skillmeta.load(tmp_path / "nothing")
    (tmp_path / "config.yaml").write_text("source: logs.npz")
    with pytest.raises(UserError, match="is a skill model, which acts in no task by itself"):
        skillmeta.load(tmp_path)
    with pytest.raises(UserError, match="env is 'Pendulm-v1': .*Did you mean"):
        skillmeta.finetune({}, tmp_path / "run", env="Pendulm-v1")


def test_a_run_finds_its_skills_from_another_working_folder(tmp_path, monkeypatch):
    task = {"family": "maze", "split": "test", "index": 0, "options": {"max_episode_steps": 25}}
    save_skills(tmp_path / "runs" / "skills")
    monkeypatch.chdir(tmp_path)
    config = {
        "algorithm": SKILLS,
        "skills": "runs/skills",
        "task": task,
        "env_steps": 25,
        "evaluation": {"episodes": 1},
    }
    run = skillmeta.finetune(config, "runs/deep/mine")
    observation = np.zeros(4, np.float32)
    action = skillmeta.load(run.folder).act(observation)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert np.array_equal(skillmeta.load(tmp_path / "runs" / "deep" / "mine").act(observation), action)
    (tmp_path / "runs" / "skills").rename(tmp_path / "lost")
    with pytest.raises(
        UserError, match="the skill model runs/skills is neither in this folder nor in one above the run"
    ):
        skillmeta.load(tmp_path / "runs" / "deep" / "mine")


def test_samples_differ_and_the_mode_does_not(tmp_path):
    observation = np.zeros(4, np.float32)
    assert np.array_equal(agent_of(tmp_path).act(observation), agent_of(tmp_path, seed=1).act(observation))
    one, other = (agent_of(tmp_path, sample=True, seed=seed).act(observation) for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_skills_from_arrays_then_a_task_of_an_environment(tmp_path):
    save_logs(tmp_path / "log.npz")
    with np.load(tmp_path / "log.npz") as log:
        arrays = dict(log)
    small = {"model": {"horizon": 5, "hidden": 8}, "training": {"steps": 6, "batch_size": 8, "held_out_every": 3}}
    skills = skillmeta.pretrain(small, tmp_path / "skills", logs=arrays)
    assert skills.model.horizon == 5 and skills.numbers["source"].endswith("logs.npz")
    assert len(skills.frame()) and skills.plot().axes
    again = skillmeta.pretrain(small, tmp_path / "skills", logs=arrays)
    assert again.numbers == skills.numbers
    env = gymnasium.make("Pendulum-v1", g=5.0)
    run = skillmeta.finetune({"algorithm": SAC, "env_steps": 250}, tmp_path / "run", env=env, evaluation__episodes=1)
    saved = json.loads(json.dumps(skillmeta.load(run.folder).task.options))
    assert saved == {"id": "Pendulum-v1", "kwargs": {"g": 5.0}}
    env = gymnasium.make("Pendulum-v1", max_episode_steps=50)
    shorter = skillmeta.finetune(
        {"algorithm": SAC, "env_steps": 50}, tmp_path / "less", env=env, evaluation__episodes=1
    )
    assert shorter.numbers["episodes"] == 1
    score = f"return {run.numbers['return']:.3g}"
    assert repr(run) == f"<run in {run.folder}: {score}; page {run.page}>"
    assert repr(skills).startswith(f"<skills in {skills.folder}: ") and len(repr(skills)) < 400
    assert set(run.frame()["kind"]) == {"iteration"} and run.frame()["env_steps"].iloc[-1] == 250
    with pytest.raises(UserError, match="no row of the metrics has 'nonsense'"):
        run.plot("nonsense")


def test_arrays_of_a_run_are_not_replaced_by_others(tmp_path):
    """Also where the user took away the checksums: the model is of the arrays that are kept."""
    save_logs(tmp_path / "log.npz")
    with np.load(tmp_path / "log.npz") as log:
        arrays = {**log, "notes": np.array([np.nan])}
    small = {"model": {"horizon": 5, "hidden": 8}, "training": {"steps": 6, "batch_size": 8, "held_out_every": 3}}
    out, less = tmp_path / "skills", {**arrays, "actions": arrays["actions"][:-1]}
    with pytest.raises(skillmeta.UserError, match="actions"):  # nothing was learned of these
        skillmeta.pretrain(small, out, logs=less)
    skills = skillmeta.pretrain(small, out, logs=arrays)
    kept = (out / "logs.npz").stat()
    assert skillmeta.pretrain(small, out, logs=arrays).numbers == skills.numbers
    assert (out / "logs.npz").stat().st_ino == kept.st_ino
    (out / "checksums.json").unlink()
    other = {**arrays, "actions": arrays["actions"] / 2}
    typed = {**arrays, "notes": arrays["notes"].view(np.int64)}
    long = {**arrays, "notes": arrays["notes"][None]}
    renamed = {{"notes": "remarks"}.get(name, name): values for name, values in arrays.items()}
    for logs in (other, typed, long, less, renamed):
        with pytest.raises(skillmeta.UserError, match="logs.npz: holds other arrays than `logs`, and the skills in"):
            skillmeta.pretrain(small, out, logs=logs)
    assert (out / "logs.npz").stat() == kept
    (out / "logs.npz").write_bytes((out / "logs.npz").read_bytes()[:100])
    with pytest.raises(skillmeta.UserError, match="logs.npz: is damaged"):
        skillmeta.pretrain(small, out, logs=arrays)


@pytest.mark.parametrize("values", [[[1.0, 2.0], [3.0]], [None, 1.0]])
def test_what_is_no_array_of_logs_is_named(values, tmp_path):
    with pytest.raises(skillmeta.UserError, match=r"^logs\['observations'\]: is no array of numbers \("):
        skillmeta.pretrain("pretrain/maze", tmp_path / "out", logs={"observations": values})
    assert not (tmp_path / "out").exists()


def test_meta_training_and_evaluation_as_functions(tmp_path):
    bandit = {"family": "bandit", "split": "any", "options": {"arms": 2, "max_episode_steps": 3}}
    rl2 = {"name": "rl2", "tasks": 4, "hidden": 4, "epochs": 1, "minibatches": 1}
    run = skillmeta.meta_train({"task": bandit, "algorithm": rl2}, tmp_path / "run", env_steps=36)
    task = {**bandit, "split": "test"}
    done = skillmeta.evaluate(
        {"task": task, "tasks": 2, "episodes": 1}, tmp_path / "evaluation", agents=[str(run.folder)]
    )
    assert len(done.frame()) and done.numbers
    assert repr(done).startswith(f"<evaluation in {done.folder}: success in the last episode: agent ")
    assert repr(run).startswith(f"<run in {run.folder}: return ")
    assert "skillmeta.evaluate(" in json.loads((done.folder / "environment.json").read_text())["command"]


def test_a_wrong_key_is_the_sentence_of_the_command(tmp_path):
    with pytest.raises(ConfigError, match="envsteps"):
        skillmeta.finetune({"algorithm": SAC}, tmp_path / "run", envsteps=3)
    assert torch is not None and not (tmp_path / "run").exists()


def test_values_of_keys_may_be_paths_results_and_numbers_of_numpy(tmp_path):
    save_logs(tmp_path / "log.npz")
    small = {"model": {"horizon": 5, "hidden": 8}, "training": {"steps": 6, "batch_size": 8, "held_out_every": 3}}
    skills = skillmeta.pretrain(small, tmp_path / "skills", source=tmp_path / "log.npz", training__seed=np.int64(1))
    again = skillmeta.pretrain(small, tmp_path / "more", source=tmp_path / "log.npz", start=skills)
    assert again.numbers["verdict"]
    env = skillmeta.SkillEnv(PointOfLogs(), tmp_path / "skills")
    assert env.reset(seed=0)[0].shape == (4,) and env.step(env.action_space.sample())[0].shape == (4,)
    with pytest.raises(skillmeta.UserError, match="a change of the config is a Generator"):
        skillmeta.pretrain(small, tmp_path / "none", source=np.random.default_rng())
    for values in (0.5, "0.5"):
        with pytest.raises(skillmeta.UserError, match="vary: algorithm.action is .*0.5.*; write a list of values"):
            skillmeta.ablate("downstream/maze_sac", tmp_path / "c", vary={"algorithm.action": values})
    with pytest.raises(skillmeta.UserError, match="logs is a str, and arrays by name are expected"):
        skillmeta.pretrain(small, tmp_path / "none", logs=str(tmp_path / "log.npz"))


def test_an_environment_with_a_wrapper_that_would_be_lost_is_refused(tmp_path):
    env = gymnasium.wrappers.TransformReward(gymnasium.make("Pendulum-v1"), lambda reward: reward / 10)
    with pytest.raises(skillmeta.UserError, match="env has the wrapper TransformReward, and is made again from what"):
        skillmeta.finetune({"algorithm": SAC, "env_steps": 250}, tmp_path / "run", env=env)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("env", "said"),
    [(gymnasium.make, "function"), (gymnasium.make_vec("Pendulum-v1", 2, "sync"), "SyncVectorEnv")],
)
def test_what_is_no_environment_is_said(env, said, tmp_path):
    with pytest.raises(
        skillmeta.UserError, match=f"^env is a {said}; the id of a registered environment is expected, or"
    ):
        skillmeta.finetune({"algorithm": SAC, "env_steps": 250}, tmp_path / "run", env=env)


SCRIPT = """
import skillmeta

print("imported")
run = {"task": {"family": "tests.programs.telltale"}, "algorithm": {"name": "tests.programs.scripted"}, "env_steps": 6}
try:
    skillmeta.ablate(run, OUT, vary={"algorithm.action": [0.25, 0.5]}, seeds=[0], workers=2)
except Exception as error:
    print(f"{type(error).__name__}: {error}")
print("the end")
"""


def test_a_script_without_a_main_guard_is_one_sentence(tmp_path):
    """The workers import it and end at its first call; the parent ends, too, and starts no others."""
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT.replace("OUT", repr(str(tmp_path / "out"))))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=100, env=environment)
    fix = "put the calls below `if __name__ == '__main__':`"
    imports = f"{script}: a worker process imports this script, and it calls"
    assert f"UserError: {imports} a function of skillmeta; {fix}\n" in done.stdout and done.stdout.count("the end") == 1
    assert done.stdout.count("imported") <= 3  # it, and a worker for each of two runs
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert 1 <= len(said) <= 2 and set(said) == {f"error: {imports} skillmeta.ablate; {fix}"}
    assert "Traceback" not in done.stderr and not list((tmp_path / "out").glob("methods/*/*/*/result.json"))


class PointOfLogs(gymnasium.Env):
    """An environment with the observations and actions of `save_logs`."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        return np.zeros(4, np.float32), {}

    def step(self, action):
        return np.zeros(4, np.float32), 0.0, False, False, {}
