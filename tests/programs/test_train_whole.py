"""Every learner by the commands of a user: interrupted or not, in one process or two; evaluated, adapted, on a page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from downstream.evaluate import main as evaluate_main
from downstream.meta_train import main as meta_main
from skillmeta.cli import main
from skillmeta.programs.train import train
from skillmeta.programs.train_config import TrainConfig
from skillmeta.run.checkpoint import load_state
from skillmeta.run.files import locked_folder
from skillmeta.run.run import read_metrics
from skillmeta.seeds import Seeds
from skillmeta.tasks.base import TaskConfig, task_id

RL2 = {"name": "rl2", "tasks": 8, "hidden": 8, "epochs": 1, "minibatches": 2, "episodes": 2}
MAML = {"name": "maml", "tasks": 2, "rollouts": 3, "hidden": 8}
PEARL = {
    "name": "pearl", "training_tasks": 4, "tasks_per_iteration": 2, "prior_episodes": 1, "posterior_episodes": 1,
    "first_episodes": 1, "updates": 2, "tasks": 2, "batch_size": 4, "context_size": 3, "hidden": 8, "replay_capacity": 90,
    "context_capacity": 30,
}  # fmt: skip
PROMP = {"name": "promp", "tasks": 2, "rollouts": 3, "hidden": 8, "steps": 1}
REPTILE = {"name": "reptile", "tasks": 2, "rollouts": 3, "hidden": 8}
TRANSFORMER = {**RL2, "core": "transformer", "previous_observation": True}
PEARL_OTHERWISE = {**PEARL, "encoder": "gru", "context": "trial", "original": {"value_network": True}}
PEARL_TAUGHT = {
    **PEARL, "encoder": "attention", "context": "trial", "context_visits": 2, "shaped_reward": True, "teacher": {}
}  # fmt: skip
VARIANTS = [PEARL, PROMP, REPTILE, TRANSFORMER, PEARL_OTHERWISE, PEARL_TAUGHT]  # the contract tests resume each learner
ALL = [RL2, MAML, *(pytest.param(variant, marks=pytest.mark.slow) for variant in VARIANTS)]
POINTS = TaskConfig("point", split="train", options={"max_episode_steps": 5})
SPARSE = TaskConfig(
    "point", split="train", options={"max_episode_steps": 5, "sparse": True}
)  # it has a dense reward to learn from


@pytest.fixture(autouse=True)
def _no_pages():
    """Some tests here look at pages; the others use `no_page`."""


@pytest.fixture
def no_page(monkeypatch):
    """A page costs more than the tiny runs of the tests that do not look at it."""
    monkeypatch.setattr("skillmeta.programs.train.write_page", lambda *arguments, **options: None)


def flat(state: object) -> list[float]:
    if isinstance(state, dict):
        return [number for value in state.values() for number in flat(value)]
    return np.asarray(state, float).ravel().tolist()


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize("algorithm", ALL)
def test_an_interrupted_run_continues_as_if_it_had_not_been(algorithm, tmp_path, monkeypatch):
    task = SPARSE if algorithm is PEARL_TAUGHT else POINTS
    config = TrainConfig("meta-train", task, algorithm=algorithm, env_steps=600, envs_per_batch=16)
    whole = train(config, tmp_path / "whole", quiet=True)
    assert whole is not None

    from skillmeta.run.run import Run

    looked = [0]

    def stop(self: Run) -> bool:
        looked[0] += 1
        return looked[0] % 3 == 0

    monkeypatch.setattr(Run, "stop_requested", property(stop))
    result, starts = None, 0
    while result is None:
        result, starts = train(config, tmp_path / "parts", quiet=True), starts + 1
    assert starts > 1
    assert {k: v for k, v in result.items() if k != "seconds"} == {k: v for k, v in whole.items() if k != "seconds"}
    states = [load_state(tmp_path / run / "actor")[0] for run in ("whole", "parts")]
    assert flat(states[0]) == flat(states[1])
    assert read_metrics(tmp_path / "whole") == read_metrics(tmp_path / "parts")


@pytest.mark.usefixtures("no_page")
def test_two_processes_are_one(tmp_path):
    results = [
        train(
            TrainConfig("meta-train", POINTS, algorithm=RL2, env_steps=200, envs_per_batch=4, processes=n),
            tmp_path / str(n),
            quiet=True,
        )
        for n in (1, 2)
    ]
    a, b = ({k: v for k, v in result.items() if k != "seconds"} for result in results if result)
    assert a == b


@pytest.mark.parametrize("algorithm", [RL2, *(pytest.param(one, marks=pytest.mark.slow) for one in (MAML, PEARL))])
def test_a_run_is_judged_between_its_brackets(algorithm, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(f"task: {{family: point, split: train}}\nalgorithm: {json.dumps(algorithm)}\nenv_steps: 500\n")
    assert meta_main([str(config), "--out", str(tmp_path / "run")]) == 0
    arguments = [
        "tasks/point_robot",
        f"agents=[{tmp_path / 'run'}]",
        "--out",
        str(tmp_path / "page"),
        "tasks=4",
        "evaluation_seed=3",
    ]
    assert evaluate_main(arguments) == 0
    summary = json.loads((tmp_path / "page" / "summary.json").read_text())
    assert (
        list(summary["results"]) == ["agent", "random", "oracle", "no adaptation"]
        and summary["training_steps"]["agent"][0] >= 500
    )


@pytest.mark.usefixtures("no_page")
def test_an_agent_of_other_dimensions_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, algorithm in (("rl2", RL2), ("maml", MAML), ("pearl", PEARL)):
        assert train(
            TrainConfig("meta-train", POINTS, algorithm=algorithm, env_steps=50, envs_per_batch=16),
            tmp_path / name,
            quiet=True,
        )
        assert main(["adapt", name, "tasks/maze"]) == 2
        assert "trained on other dimensions than 4 observed numbers" in capsys.readouterr().err


def test_wrong_configs_are_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for change, sentence in (
        ("algorithm.name=rl3", "there is no module rl3 in skillmeta.algorithms, beside the config or"),
        ("algorithm.core=rnn", "choose gru, lstm, snail or transformer"),
        ("task.split=tset", "there is no split 'tset'"),
        ("task.split=test", "held out from training; choose train or any of bandit"),
        ("task.split=validation", "held out from training; choose train or any of bandit"),
        ("env_step=3", "did you mean 'env_steps'"),
    ):
        assert main(["meta-train", "meta/rl2_bandit_5", change, "--out", "run"]) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize("algorithm", ALL)
def test_an_adapted_agent_goes_on_from_what_it_knows(algorithm, tmp_path, capsys):
    """Saved and loaded, its next episode is the one that would have followed in the trial."""
    from downstream.adapt import main as adapt_main
    from skillmeta.collect.trials import trial
    from skillmeta.errors import UserError
    from skillmeta.evaluation.adapted import AdaptedAgent
    from skillmeta.programs.adapt import load_adapted, loaded

    task = SPARSE if algorithm is PEARL_TAUGHT else POINTS
    assert train(
        TrainConfig("meta-train", task, algorithm=algorithm, env_steps=300, envs_per_batch=16),
        tmp_path / "run",
        quiet=True,
    )
    arguments = [
        str(tmp_path / "run"),
        "tasks/point_robot",
        "options.max_episode_steps=5",
        "index=2",
        "--episodes",
        "2",
    ]
    assert adapt_main([*arguments, "--out", str(tmp_path / "adapted")]) == 0
    assert adapt_main([*arguments, "--out", str(tmp_path / "adapted")]) == 0
    assert "adapted already" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"holds another adapted agent \(seed: 0 -> 1\)"):
        adapt_main([*arguments, "--seed", "1", "--out", str(tmp_path / "adapted")])
    with locked_folder(tmp_path / "taken"), pytest.raises(UserError, match="another process is running in this folder"):
        adapt_main([*arguments, "--out", str(tmp_path / "taken")])
    agent, envs, task = load_adapted(tmp_path / "adapted")
    rows = agent.rollouts

    streams = Seeds(0, task_id(task))

    def following(actor, environments, seeds, flags):
        draws = streams.stream("adaptation_acting").torch()
        return trial(actor, environments, [task] * rows, seeds, draws, flags)

    original, fresh, _ = loaded(tmp_path / "run", TaskConfig("point", index=2, options={"max_episode_steps": 5}), False)
    seeds = streams.stream("adaptation_resets").integers(2 * rows).reshape(rows, 2)
    flags = [k < original.exploration_episodes for k in range(2)]
    next_seed = np.full((rows, 1), 77)
    _, belief = following(original, fresh, seeds, flags)
    wanted, _ = following(AdaptedAgent(original, belief), fresh, next_seed, [False])
    resumed, _ = following(agent, envs, next_seed, [False])
    assert np.allclose(wanted.reward[:, 0], resumed.reward[:, 0], atol=1e-6)
    if rows == 1:  # acts by its mode: so what follows is also what follows in one trial of three
        whole, _ = following(original, fresh, np.concatenate([seeds, next_seed], 1), [*flags, False])
        assert np.allclose(whole.reward[:, 2], resumed.reward[:, 0], atol=1e-6)
    with pytest.raises(UserError, match="holds no adapted agent"):
        load_adapted(tmp_path / "nowhere")


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize(
    "algorithm",
    [
        RL2,
        MAML,
        {**MAML, "context": 2},
        PROMP,
        REPTILE,
        {**PEARL, "regularizer": {"prior": "skill", "target_divergence": 1.0}},
    ],
)
@pytest.mark.parametrize("see_task", [False, True])
def test_actions_may_be_skills(algorithm, see_task, tmp_path):
    """In the maze, with an untrained skill model: residuals on its prior, one decision ten steps."""
    from tests.skills.fakes import skill_model

    skill_model(observation_dim=4, action_dim=2).save(tmp_path / "skills")
    config = TrainConfig("meta-train", TaskConfig("maze", split="train", options={"max_episode_steps": 60}),
        skills=str(tmp_path / "skills"), see_task=see_task, algorithm=algorithm, env_steps=300, envs_per_batch=8,
    )  # fmt: skip
    result = train(config, tmp_path / "run", quiet=True)
    assert result is not None and result["env_steps"] >= 300


def test_runs_side_by_side_make_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        train(
            TrainConfig("meta-train", POINTS, algorithm=RL2, env_steps=300, envs_per_batch=16, seed=seed),
            Path(f"a/seed{seed}"),
            quiet=True,
        )
    train(
        TrainConfig("meta-train", POINTS, algorithm=MAML, env_steps=300, envs_per_batch=16), Path("maml-0"), quiet=True
    )
    assert "How to make this again" in Path("maml-0/report.html").read_text()  # every run has its own
    assert main(["report", "a/seed0", "a/seed1", "maml-0", "--out", "page"]) == 0
    told = json.loads(Path("page/summary.json").read_text())["methods"]
    assert {name: one["training_seeds"] for name, one in told.items()} == {"a": [0, 1], "maml": [0]}
    rows = [[r for r in read_metrics(Path(f"a/seed{s}")) if r["kind"] == "iteration"] for s in (0, 1)]
    last = [np.mean([row["return_last"] for row in each[-5:]]) for each in rows]
    assert told["a"]["training"]["return_last"]["value"] == pytest.approx(np.mean(last))
    ends = [told[name]["training"]["return_last"] for name in ("a", "maml")]
    assert ends[0]["ci95"] is not None and ends[1]["ci95"] is None
    assert (
        "one training seed only" in Path("page/report.html").read_text()
        and Path("page/pictures/return_last_env_steps.png").exists()
    )
    assert main(["report", "a/seed0", "nothing"]) == 2
    assert "nothing: holds no run" in capsys.readouterr().err


def test_an_agent_that_sees_the_task_is_an_oracle(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cheetah = TaskConfig("half_cheetah", split="train", options={"max_episode_steps": 6})
    for name, sees in (("blind", False), ("oracle", True)):
        config = TrainConfig("meta-train", cheetah, see_task=sees, algorithm=RL2, env_steps=60, envs_per_batch=4)
        assert train(config, tmp_path / name, quiet=True)
    asked = [
        "evaluate",
        "tasks/cheetah_vel_maml",
        "task.options.max_episode_steps=6",
        "tasks=2",
        "evaluation_seed=3",
        "episodes=1",
        "agents=[blind]",
    ]
    assert main([*asked, "oracle=[oracle]", "--out", "page"]) == 0
    summary = json.loads(Path("page/summary.json").read_text())
    assert list(summary["results"]) == ["agent", "random", "oracle", "no adaptation"]
    assert main([*asked, "oracle=[blind]", "--out", "other"]) == 2
    assert "these agents do not see the task" in capsys.readouterr().err


def test_what_the_family_lacks_is_said_before_the_folder_is_taken(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["meta-train", "meta/pearl_point", "algorithm.shaped_reward=true", "--out", "run"]) == 2
    assert "has no dense reward to learn from" in capsys.readouterr().err and not Path("run").exists()
