"""An algorithm of the user's own is a module: beside the config, or in the working folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from skillmeta.cli import main
from skillmeta.config import module_of
from skillmeta.run.run import read_metrics, read_result

CONFIG = """
task: {family: tests.programs.telltale}
algorithm: {name: steady, action: 0.5}
env_steps: 6
evaluation: {episodes: 2}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a config, and the user somewhere else."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("skillmeta.config.modules._folders", [])
    folder = tmp_path / "project"
    (tmp_path / "elsewhere").mkdir()
    folder.mkdir()
    (folder / "mine.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path / "elsewhere")
    yield folder
    sys.modules.pop("steady", None)


def write_module(folder: Path, name: str = "steady") -> None:
    (folder / f"{name}.py").write_text("from tests.programs.scripted import Config, Learner\n")


@pytest.mark.parametrize("command", ["finetune", "meta-train"])
@pytest.mark.parametrize("place", ["beside the config", "in the working folder"])
def test_it_is_found(project, command, place):
    write_module(project if place == "beside the config" else Path.cwd())
    assert main([command, str(project / "mine.yaml"), "--out", "run"]) == 0
    result = read_result(Path("run"))
    assert result is not None and result["env_steps"] >= 6


def test_nothing_found_is_one_sentence_that_says_where(project, capsys):
    assert main(["finetune", str(project / "mine.yaml")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "error: algorithm.name is 'steady'; there is no module steady in skillmeta.algorithms, beside the"
    )
    assert "config or in the working folder" in said and not Path("runs").exists()


def test_a_built_in_name_wins(project):
    write_module(project, "sac")
    write_module(Path.cwd(), "sac")
    assert main(["config", "show", str(project / "mine.yaml"), "algorithm={name: sac}"]) == 0
    assert module_of("algorithms", "sac", "").__name__ == "skillmeta.algorithms.sac"


def test_what_is_no_algorithm_is_said(project, capsys):
    (project / "steady.py").write_text("class Config: ...\n")
    assert main(["finetune", str(project / "mine.yaml")]) == 2
    assert "the module steady has no class `Learner`" in capsys.readouterr().err


LEARNER = "from tests.programs import scripted\nfrom tests.programs.scripted import Config\n\nclass Learner(scripted.Learner):\n"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("    def actor(self):\n        return self.nothing\n", "its Learner's actor() raised AttributeError"),
        ("    def actor(self):\n        return self\n", "its actor has no rollouts, exploration_episodes, begin, act"),
        (
            "    def __init__(self, config, spec): ...\n",
            "its Learner takes (config, spec); it is made as Learner(config,",
        ),
        ("    parts = property()\n", "its Learner has no parts; skillmeta/types.py says what is needed"),
        (
            "    def iterate(self, source):\n        super().iterate(source)\n",
            "steady: Learner.iterate returned None; return",
        ),
    ],
)
def test_what_a_learner_lacks_is_said_before_its_budget_is_spent(wrong, said, project, capsys):
    (project / "steady.py").write_text(LEARNER + wrong)
    assert main(["finetune", str(project / "mine.yaml"), "env_steps=6000", "--out", "run"]) == 2
    printed = capsys.readouterr().err
    assert said in printed and "Traceback" not in printed
    assert not Path("run/metrics.jsonl").exists() or not read_metrics(Path("run"))


CHECKED = "from __future__ import annotations\nfrom skillmeta.config import checked\n\n"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            "class Config:\n    action: float = 0.5\n",
            "Config is no dataclass; put @checked above it (from skillmeta.config",
        ),
        (
            f"{CHECKED}@checked\nclass Config:\n    action: PosInt = 1\n",
            "Config: the type of a field is unknown (name 'PosInt' is not defined)",
        ),
    ],
)
@pytest.mark.parametrize("rest", ["class Learner: ...\n", "def family(config): ...\n"])
def test_a_config_that_cannot_be_filled_is_said_with_its_file(config, said, rest, project, capsys):
    (project / "steady.py").write_text(config + rest)
    changes = ["algorithm={name: steady}" if "Learner" in rest else "task={family: steady}", "algorithm={name: sac}"]
    assert main(["finetune", str(project / "mine.yaml"), *changes[: 1 if "Learner" in rest else 2]]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: steady.py") and said in printed and "Traceback" not in printed


@pytest.mark.parametrize(
    ("returned", "found"), [("action", "a Tensor"), ("(action, belief, 0)", "a tuple of 3"), ("None", "a NoneType")]
)
def test_an_act_that_does_not_return_two_things_is_said(returned, found, project, capsys):
    """Also where the actions of two environments could be taken for a pair."""
    (project / "steady.py").write_text(
        "from tests.programs import scripted\nfrom tests.programs.scripted import Config\n\n"
        "class Actor(scripted.Actor):\n"
        "    def act(self, *given):\n"
        f"        action, belief = super().act(*given)\n        return {returned}\n\n"
        "class Learner(scripted.Learner):\n"
        "    def actor(self):\n        return Actor(self.config, self.acting.rewards, self.acting.weight)\n"
    )
    assert main(["finetune", str(project / "mine.yaml"), "num_envs=2", "evaluation.episodes=2", "--out", "run"]) == 2
    said = f"the actor's act returned {found}; a tuple (actions, belief) is expected"
    assert said in capsys.readouterr().err


FAMILY = "from dataclasses import dataclass\nfrom skillmeta.tasks.base import TaskFamily\n\n@dataclass\nclass Config: ...\n\n"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            "def family(config):\n    return TaskFamily(name='mine', version=1, max_episode_steps=3, splits={}, make_env=list)\n",
            "TaskFamily.__init__() missing 1 required positional argument: 'definition'",
        ),
        ("def family():\n    return None\n", "family() takes 0 positional arguments but 1 was given"),
    ],
)
def test_a_family_that_lacks_an_argument_is_said(wrong, said, project, capsys):
    (project / "steady.py").write_text(FAMILY + wrong)
    assert main(["finetune", str(project / "mine.yaml"), "task={family: steady}", "algorithm={name: sac}"]) == 2
    assert f"error: steady, family: {said}" in capsys.readouterr().err


def test_a_type_error_deeper_in_a_family_keeps_its_traceback(project):
    (project / "steady.py").write_text(FAMILY + "def family(config):\n    return 1 + 'a'\n")
    with pytest.raises(TypeError, match="unsupported operand"):
        main(["finetune", str(project / "mine.yaml"), "task={family: steady}", "algorithm={name: sac}"])


def test_a_module_that_needs_what_is_not_there_is_not_taken_for_missing(project, capsys):
    (project / "steady.py").write_text("import stead\n")
    assert main(["finetune", str(project / "mine.yaml")]) == 2
    assert "algorithm.name 'steady' needs the package 'stead'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f(:\n", "importing that module raised SyntaxError: invalid syntax ("),
        ("import numpy\n\nx = numpy.nope\n", "raised AttributeError(\"module 'numpy' has no attribute 'nope'\") ("),
    ],
)
def test_a_module_that_cannot_be_imported_is_said_with_its_line(text, said, project, capsys):
    (project / "steady.py").write_text(text)
    assert main(["finetune", str(project / "mine.yaml")]) == 2
    printed = capsys.readouterr().err
    assert said in printed and f"steady.py:{text.count(chr(10))})" in printed and "Traceback" not in printed


def test_an_ablation_finds_it_in_its_workers(project):
    write_module(project)
    (project / "two.yaml").write_text(
        "methods: {a: {algorithm: {name: steady, action: 0.5}}}\ntasks: [0]\nseeds: [0]\nworkers: 1\n"
        "changes: {task: {family: tests.programs.telltale}, env_steps: 6, evaluation: {episodes: 2}}\n"
    )
    assert main(["ablate", str(project / "two.yaml"), "--out", "out"]) == 0
    assert read_result(Path("out/methods/a/task-0/seed-0")) is not None


def test_parts_that_leave_out_the_count_of_updates_are_noticed_when_the_run_continues(project, capsys):
    (project / "steady.py").write_text(
        "from tests.programs import scripted\nfrom tests.programs.scripted import Config\n\n"
        "class Learner(scripted.Learner):\n    def parts(self):\n        return {'acting': self.acting.parts()}\n"
    )
    assert main(["finetune", str(project / "mine.yaml"), "--out", "run"]) == 0
    before = read_metrics(Path("run"))
    assert main(["finetune", str(project / "mine.yaml"), "env_steps=12", "--out", "run"]) == 2
    said = capsys.readouterr().err
    assert "its learner counts 0 updates after a restart, its metrics 2: `parts` of the algorithm leaves out" in said
    assert read_metrics(Path("run")) == before


def test_a_learner_that_does_not_count_its_updates_is_not_said_to_have_learned_nothing(project):
    (project / "steady.py").write_text(LEARNER + "    updates = 0\n")
    assert main(["finetune", str(project / "mine.yaml"), "--out", "run"]) == 0
    result = read_result(Path("run"))
    assert result is not None and result["notes"] == [
        "No update was counted: nothing was learned, or the learner does not count `updates` in `iterate`."
    ]


def test_an_agent_that_cannot_be_traced_is_one_sentence(project, capsys):
    (project / "steady.py").write_text(
        "from dataclasses import dataclass\nfrom tests.programs import scripted\nfrom tests.programs.scripted import Config\n\n"
        "class Actor(scripted.Actor):\n"
        "    def begin(self, num, generator):\n        return None\n\n"
        "    def observe(self, belief, action, step):\n        return None\n\n"
        "    def adapt(self, belief, episodes, generator):\n        return None\n\n"
        "    def act(self, observation, belief, generator, explore):\n"
        "        if float(observation.sum()) > 0:\n            return 0 * observation[:, :1], belief\n"
        "        return observation[:, :1], belief\n\n"
        "class Learner(scripted.Learner):\n"
        "    def actor(self):\n        return Actor(self.config, self.acting.rewards, self.acting.weight)\n"
    )
    assert main(["finetune", str(project / "mine.yaml"), "--out", "run"]) == 0
    assert main(["export", "run", "--to", "policy.pt2", "--trust"]) == 2
    said = capsys.readouterr().err
    assert "torch.export cannot follow what this agent does in `act`" in said and "Traceback" not in said
