"""Where tests of strangers' files happen, what is watched there, and what strangers send.

`home` is the working folder: it holds `canary.py`, which leaves a mark if it is ever imported, and a secret that no page and no
sentence may show. `theirs` is a folder that came from somebody else. An audit hook watches which files Python opens.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from skillmeta.cli import main
from skillmeta.config import dump_yaml, read_yaml, to_plain
from skillmeta.envs.make import make_envs
from skillmeta.errors import UserError
from skillmeta.evaluation.adapted import pack
from skillmeta.programs.page import write_page
from skillmeta.programs.train import load_trained, make_learner, save_actor
from skillmeta.programs.train_config import TrainConfig, train_config
from skillmeta.run.checkpoint import save_state
from skillmeta.run.identity import RUN_FORMAT, Identity
from skillmeta.seeds import Seeds
from skillmeta.skills.vae import SkillModel
from skillmeta.tasks.base import TaskConfig, make_family
from tests.reports.fakes import fake_run

ROOT = Path(__file__).parents[2]
SECRET = "s3cret-of-the-user"
CANARY = "open('ran', 'w')\ndef make(*arguments, **options): raise SystemError('made')\n"
SCRIPT = '"></text></svg></title><script>alert(1)</script><img src=x onerror=alert(1)>'
POINTS = TaskConfig("point", split="train", options={"max_episode_steps": 5})
RL2 = {"name": "rl2", "tasks": 4, "hidden": 8, "epochs": 1, "minibatches": 2, "episodes": 1}

_opened: list[Path] | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is None:
        return
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        _opened.append(Path(os.path.realpath(os.fsdecode(arguments[0]))))
    elif event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn"):
        _opened.append(Path("/a-process-was-started"))


sys.addaudithook(_audit)  # stays for the life of the process, and does nothing outside `watched`


@dataclass
class Place:
    """Where a test happens."""

    home: Path
    theirs: Path = field(init=False)
    outside: Path = field(init=False)

    def __post_init__(self) -> None:
        self.theirs, self.outside = self.home / "theirs", self.home.parent / "outside"

    def untouched(self) -> dict[str, str]:
        """Every file outside of `theirs` and of the folder that the user names for results, and its hash."""
        found = {}
        for root in (self.home, self.outside):
            for path in sorted(root.rglob("*")):
                inside = path.relative_to(root).parts[0] in ("theirs", "mine", "__pycache__") and root == self.home
                if path.is_file() and not inside:
                    found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found


def watched(place: Place, act: Callable[[], Any]) -> str:
    """Do it, and hold it to the law. Returns the sentence of the refusal, or "" where there was none."""
    global _opened
    before = place.untouched()
    _opened = []
    try:
        act()
        sentence = ""
    except UserError as error:
        sentence = str(error)
    finally:
        opened, _opened = _opened, None
    assert not (place.home / "ran").exists(), "code of a stranger ran"
    assert place.untouched() == before, "something outside was written"
    assert not [path for path in opened if path.is_relative_to(place.outside)], "something outside was read"
    assert Path("/a-process-was-started") not in opened
    assert "\n" not in sentence and SECRET not in sentence
    for path in (p for folder in ("theirs", "mine") for p in (place.home / folder).rglob("*.html")):
        assert SECRET not in path.read_text()
    return sentence


def command(*arguments: str) -> Callable[[Place, Any], str]:
    """A command that must end with status 2 and one sentence."""

    def act(place: Place, capsys: Any) -> str:
        def run() -> None:
            assert main([str(argument) for argument in arguments]) == 2

        watched(place, run)
        printed = capsys.readouterr().err
        assert printed.startswith("error: ") and printed.count("\n") == 1 and SECRET not in printed
        return printed

    return act


# -- what strangers send -------------------------------------------------------------------------------------------------------
def meta_run(folder: Path, **changes: Any) -> Path:
    """A finished run of meta-training, without the training. `changes` are made to its config afterwards."""
    config = points()
    learner = make_learner(config, make_envs(make_family(POINTS), 1).spec, None, Seeds(0))
    save_actor(folder, learner.actor(), 10, Identity({}))
    (folder / "config.yaml").write_text(dump_yaml({**to_plain(config), **changes}))
    scores = {"return_first": 1.0, "return_last": 2.0, "success_last": 0.0, "env_steps": 10}
    rows = [
        {"kind": "iteration", **scores, "ppo/kl": 0.1},
        {"kind": "iteration", **scores, "env_steps": 20, "ppo/kl": 1},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "environment.json").write_text(json.dumps({"command": "skillmeta meta-train x"}))
    (folder / "result.json").write_text(json.dumps({"updates": 1, "seconds": 1.0}))
    return folder


def points() -> TrainConfig:
    return train_config({"task": to_plain(POINTS), "algorithm": RL2}, "meta-train")


def named(name: Any) -> dict[str, Any]:
    return {"algorithm": {**RL2, "name": name}}


def ablation(folder: Path, task: dict[str, Any] | None = None, **changes: Any) -> Path:
    """An ablation of one method, one task and one seed."""
    fake_run(folder / "methods" / "m" / "task-0" / "seed-0", 0.5, 0, 0)
    run_config = folder / "methods" / "m" / "task-0" / "seed-0" / "config.yaml"
    if task is not None:
        run_config.write_text(dump_yaml({**read_yaml(run_config), "task": task}))
    config = {"title": "T", "claim": "", "methods": {"m": "x"}, "tasks": [0], "seeds": [0], **changes}
    (folder / "config.yaml").write_text(dump_yaml(config))
    about = {"command": "skillmeta ablate x", "python": "3", "versions": {"torch": "2"}, "threads": "1"}
    machine = {"cpu": "some", "cores": 2, "system": "linux"}
    (folder / "environment.json").write_text(json.dumps({**about, "machine": machine}))
    return folder


def adapted(folder: Path, run: Path, task: dict[str, Any] | None = None) -> Path:
    """An adapted agent, without the adaptation."""
    config = TaskConfig("point", options={"max_episode_steps": 5})
    agent = load_trained(meta_run(folder.parent / "for-the-belief"), envs_of(config)).actor
    save_state(
        folder / "belief",
        {"belief": pack(agent.begin(1, torch.Generator().manual_seed(0)))},
        {"run_format": RUN_FORMAT},
    )
    about = {"run": str(run), "task": task or to_plain(config), "episodes": 1, "seed": 0}
    (folder / "adapted.yaml").write_text(dump_yaml(about))
    return folder


def envs_of(config: TaskConfig) -> Callable[[SkillModel | None, bool], Any]:
    family = make_family(config)
    return lambda skills, sees_task: make_envs(family, 1, skills, sees_task)


def trained(folder: Path, trust: bool = False) -> Any:
    return load_trained(folder, envs_of(TaskConfig("point", options={"max_episode_steps": 5})), trust)


def write_page_of_runs(folder: Path) -> Path:
    page = write_page([folder], command="skillmeta report x")
    assert page is not None
    return page
