"""Files of strangers: each is refused in one sentence or does no harm. No code of theirs runs, and nothing outside is touched.

`home` is the working folder: it holds `canary.py`, which leaves a mark if it is ever imported, and a secret that no page and no
sentence may show. `theirs` is a folder that came from somebody else. An audit hook watches which files Python opens.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import pickle
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skillmeta.cli import main
from skillmeta.config import build, dump_yaml, load, module_of, read_yaml, to_plain
from skillmeta.data.episodes import single_episode
from skillmeta.data.minari_store import write_minari
from skillmeta.data.sources import load_source
from skillmeta.envs.make import make_envs
from skillmeta.errors import ConfigError, UserError
from skillmeta.evaluation.records import paths, read_study
from skillmeta.programs.ablate import AblationConfig, ablate
from skillmeta.programs.adapt import load_adapted, pack
from skillmeta.programs.page import write_page
from skillmeta.programs.train import TrainConfig, load_trained, make_learner, save_actor, train, train_config
from skillmeta.reports import plots
from skillmeta.run.checkpoint import save_state
from skillmeta.run.identity import RUN_FORMAT, Identity
from skillmeta.seeds import Seeds
from skillmeta.skills.vae import SkillModel
from skillmeta.tasks.base import TaskConfig, make_family
from tests.reports.fakes import fake_run
from tests.skills.fakes import skill_model

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


@pytest.fixture
def place(tmp_path, monkeypatch) -> Iterator[Place]:
    made = Place(tmp_path / "home")
    made.theirs.mkdir(parents=True)
    made.outside.mkdir()
    (made.home / "canary.py").write_text(CANARY)
    (made.outside / "secret").write_text(SECRET + "\n")
    monkeypatch.chdir(made.home)
    monkeypatch.setattr(sys, "path", [*sys.path, str(made.home)])
    monkeypatch.setenv("SECRET", SECRET)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(made.theirs))
    yield made
    for name in [name for name in sys.modules if name.partition(".")[0] in ("canary", "canaries", "my")]:
        del sys.modules[name]


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
    save_state(folder / "belief", {"belief": pack(agent.begin(1, torch.Generator().manual_seed(0)))}, {})
    about = {"run": str(run), "task": task or to_plain(config), "episodes": 1, "seed": 0}
    (folder / "adapted.yaml").write_text(dump_yaml(about))
    return folder


def envs_of(config: TaskConfig) -> Callable[[SkillModel | None, bool], Any]:
    family = make_family(config)
    return lambda skills, sees_task: make_envs(family, 1, skills, sees_task)


def trained(folder: Path, trust: bool = False) -> Any:
    return load_trained(folder, envs_of(TaskConfig("point", options={"max_episode_steps": 5})), trust)


# -- modules -------------------------------------------------------------------------------------------------------------------
READERS = {
    "evaluate": ("evaluate", "tasks/point_robot", "agents=[theirs]", "--out", "mine"),
    "evaluate, as oracle": ("evaluate", "tasks/point_robot", "oracle=[theirs]", "--out", "mine"),
    "adapt": ("adapt", "theirs", "tasks/point_robot", "--out", "mine"),
    "tasks": ("tasks", "point_robot", "--video", "mine/film.webp", "--agent", "theirs"),
}


@pytest.mark.parametrize("reader", READERS)
def test_the_module_of_a_run_is_refused_by_every_program_that_reads_runs(place, capsys, reader):
    meta_run(place.theirs, **named("canaries.algorithm"))
    (place.home / "canaries").mkdir()
    (place.home / "canaries" / "__init__.py").write_text(CANARY)
    sentence = command(*READERS[reader])(place, capsys)
    for part in ("theirs/config.yaml", "algorithm.name", "'canaries.algorithm'", "--trust"):
        assert part in sentence


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("canary", "names the module 'canary'"),
        ("os", "names the module 'os'"),
        ("__init__", "names the module '__init__'"),
        ("os.path", "names the module 'os.path'"),
        ("..canary", "names the module '..canary'"),
        (".canary", "names the module '.canary'"),
        ("skillmeta.algorithms..canary", "names the module"),
        ("skillmeta.tasks.gym", "names the module"),
        ("skillmeta.algorithms.canary", "names the module 'skillmeta.algorithms.canary'"),
        (["canary.x"], "names the module"),
        (None, "names the module"),
        ("canary; import canary", "names the module"),
    ],
)
def test_names_that_only_look_built_in_are_refused(place, name, words):
    meta_run(place.theirs, **named(name))
    assert words in watched(place, lambda: trained(place.theirs))


GYM = {"family": "gym", "split": "test", "index": 0}
TASKS = {
    "family": ({"family": "canary.family", "options": {}}, "task.family names the module 'canary.family'"),
    "import": ({**GYM, "options": {"imports": ["canary"]}}, "task.options.imports[0] names the module 'canary'"),
    "import, spelled out": (
        {**GYM, "family": "skillmeta.tasks.gym", "options": {"imports": ["canary"]}},
        "task.options.imports[0]",
    ),
    "id": ({**GYM, "options": {"id": "canary:Env-v0"}}, "task.options.id names the module 'canary'"),
    "keyword": (
        {**GYM, "options": {"id": "skillmeta/Task-v0", "kwargs": {"family": "canary.family"}}},
        "task.options.kwargs.family passes text to gymnasium.make",
    ),
    "file": ({**GYM, "options": {"id": "Ant-v5", "kwargs": {"a": [{"b": "/x.xml"}]}}}, "task.options.kwargs.a[0].b"),
    "no family": ({"family": "maze_planner", "options": {}}, "task.family names the module 'maze_planner'"),
    "a plain name": ({"family": "canary", "options": {}}, "task.family names the module 'canary'"),
    "no config": ({"family": "base", "options": {}}, "has no Config"),
    "not a mapping": ("canary.family", "a mapping of"),
}


@pytest.mark.parametrize("kind", TASKS)
def test_the_task_of_an_ablation_and_of_an_adapted_agent_is_data(place, capsys, kind):
    task, words = TASKS[kind]
    ablation(place.theirs, task)
    assert words in command("report", "theirs")(place, capsys)
    folder = adapted(place.theirs / "adapted", meta_run(place.theirs / "run"), task)
    assert words in watched(place, lambda: load_adapted(folder))


def test_the_run_that_an_adapted_agent_names_is_data_too(place):
    folder = adapted(place.theirs / "adapted", meta_run(place.theirs / "run", **named("canary.algorithm")))
    assert "algorithm.name names the module" in watched(place, lambda: load_adapted(folder))


def test_a_run_is_not_resumed_with_what_its_folder_says(place, capsys):
    """The command's config acts; that of the folder is only compared with it."""
    meta_run(place.theirs, **named("canary.algorithm"))
    sentence = command("meta-train", "meta/rl2_bandit_5", "--out", "theirs")(place, capsys)
    assert "holds a run with another config" in sentence


@pytest.mark.parametrize("program", ["finetune", "meta-train"])
@pytest.mark.parametrize("mark", ["environment.json", "metrics.jsonl", "result.json", "actor"])
def test_a_module_in_a_run_folder_is_never_imported_by_its_config(place, capsys, monkeypatch, program, mark):
    """Not even if the user names the config of the run, or stands in its folder."""
    meta_run(place.theirs, **named("evil"))
    for path in place.theirs.iterdir():
        if path.name not in ("config.yaml", mark):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (place.theirs / "evil.py").write_text(CANARY)
    assert "there is no module evil" in command(program, "theirs/config.yaml", f"kind={program}", "--out", "mine")(
        place, capsys
    )
    monkeypatch.chdir(place.theirs)
    assert "there is no module evil" in command(program, "config.yaml", f"kind={program}", "--out", "../mine")(
        place, capsys
    )
    assert not (place.theirs / "ran").exists()


@pytest.mark.parametrize("reader", READERS)
def test_a_plain_name_is_a_module_of_a_strangers_too(place, capsys, reader):
    """`canary` lies in the working folder, where a config of the user's own would find it."""
    meta_run(place.theirs, **named("canary"))
    assert "algorithm.name names the module 'canary'" in command(*READERS[reader])(place, capsys)


# -- YAML ----------------------------------------------------------------------------------------------------------------------
LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join('*' + before for _ in range(9))}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
YAMLS = {
    "a variable": ("seed: ${oc.env:SECRET}\n", "an interpolation"),
    "a variable in a key": ("${oc.env:SECRET}: 1\n", "an interpolation"),
    "a variable in a list": ("a: [{b: 'x ${oc.env:SECRET}'}]\n", "a[0].b"),
    "another value": ("a: 1\nseed: ${a}\n", "an interpolation"),
    "a function": ("a: !!python/object/apply:os.system ['touch ran']\n", "cannot be read as YAML"),
    "a module": ("a: !!python/module:canary\n", "cannot be read as YAML"),
    "an object": ("a: !!python/object/new:pathlib.Path [x]\n", "cannot be read as YAML"),
    "a billion laughs": (LAUGHS, "has an alias"),
    "itself": ("a: &a [*a]\n", "has an alias"),
    "merged keys": ("a: &a {b: 1}\nc: {<<: *a}\n", "has an alias"),
    "a long file": ("a: " + "x" * 200_000, "is larger than"),
    "deep nesting": ("a: " + "[" * 1_000, "cannot be read as YAML"),
    "a long integer": ("env_steps: 1" + ":1" * 1000, "more than 64 bits"),
    "a date": ("seed: 2020-01-01\n", "is a date"),
    "bytes": ("seed: !!binary aGVsbG8=\n", "is a bytes"),
    "a list": ("- a\n", "holds a list"),
    "nothing": ("", "holds a NoneType"),
    "no text": ("\x80\x81", "cannot be read as YAML"),
    "control characters": ("a: \x1b[2J\n", "cannot be read as YAML"),
}


@pytest.mark.parametrize("kind", YAMLS)
def test_the_config_of_a_run_folder_is_plain_values_only(place, kind):
    text, words = YAMLS[kind]
    (meta_run(place.theirs) / "config.yaml").write_bytes(text.encode("latin-1"))
    sentence = watched(place, lambda: trained(place.theirs))
    assert words in sentence and "theirs/config.yaml" in sentence and len(sentence) < 500


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("config.yaml", read_study),
        ("adapted.yaml", load_adapted),
        ("config.yaml", lambda folder: write_page_of_runs(folder)),
        ("config.yaml", lambda folder: train(points(), folder, quiet=True)),
        ("config.yaml", lambda folder: ablate(AblationConfig(methods={"m": "downstream/maze_sac"}), folder)),
    ],
)
def test_so_is_every_other_config_that_is_read_from_a_folder(place, name, read):
    (meta_run(place.theirs) / name).write_text("seed: ${oc.env:SECRET}\n")
    sentence = watched(place, lambda: read(place.theirs))
    assert "seed is '${oc.env:SECRET}', an interpolation" in sentence and name in sentence


keys = st.from_regex(r"[a-z_]{1,9}", fullmatch=True)
scalars = st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text()
plain = st.recursive(
    st.none() | scalars.filter(lambda value: "${" not in str(value)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None)
@given(value=st.dictionaries(keys, plain, max_size=3))
def test_what_is_written_to_run_folders_is_read_back_as_it_was(tmp_path_factory, value):
    file = tmp_path_factory.getbasetemp() / "round-trip.yaml"
    file.write_text(dump_yaml(value), encoding="utf-8")
    assert read_yaml(file) == value


def test_a_config_on_the_command_line_may_read_the_environment(place):
    (place.home / "mine.yaml").write_text("seed: ${oc.decode:${oc.env:SEED,3}}\nskills: ${oc.env:SECRET}\n")
    config = train_config(load("mine.yaml"))
    assert config.seed == 3 and config.skills == SECRET
    assert "${" not in dump_yaml(config)  # resolved in the run folder


# -- links and names that lead out of a folder -----------------------------------------------------------------------------------
def link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


LINKS: dict[str, tuple[Callable[[Place], None], Callable[[Place], Any]]] = {
    "a run's config": (lambda p: link(p.theirs / "config.yaml", p.outside / "secret"), lambda p: trained(p.theirs)),
    "an agent's state": (
        lambda p: link(p.theirs / "actor" / "state.json", p.outside / "secret"),
        lambda p: trained(p.theirs),
    ),
    "an agent": (lambda p: (p.theirs / "actor2").symlink_to(p.outside), lambda p: trained(p.theirs)),
    "a relative one": (
        lambda p: (p.theirs / "x").symlink_to("../../outside/secret"),
        lambda p: trained(p.theirs),
    ),
    "metrics that a resumed run would cut": (
        lambda p: link(p.theirs / "metrics.jsonl", p.outside / "secret"),
        lambda p: train(points(), p.theirs, quiet=True),
    ),
    "the lock of a run": (
        lambda p: link(p.theirs / ".lock", p.outside / "secret"),
        lambda p: train(points(), p.theirs, quiet=True),
    ),
    "the pictures of a page": (
        lambda p: (p.theirs / "pictures").symlink_to(p.outside),
        lambda p: write_page_of_runs(p.theirs),
    ),
    "the metrics on a page": (
        lambda p: link(p.theirs / "metrics.jsonl", p.outside / "secret"),
        lambda p: write_page_of_runs(p.theirs),
    ),
    "a pipe": (lambda p: os.mkfifo(p.theirs / "actor" / "pipe"), lambda p: trained(p.theirs)),
}


def write_page_of_runs(folder: Path) -> Path:
    page = write_page([folder], command="skillmeta report x")
    assert page is not None
    return page


@pytest.mark.parametrize("kind", LINKS)
def test_links_out_of_a_run_folder_are_not_followed(place, kind):
    make, act = LINKS[kind]
    meta_run(place.theirs)
    make(place)
    sentence = watched(place, lambda: act(place))
    assert "theirs" in sentence and ("is a link that leads out" in sentence or "neither a file" in sentence)


@pytest.mark.parametrize("program", [["adapt", "theirs", "tasks/point_robot"], ["report", "theirs", "theirs"]])
def test_results_are_not_written_through_links(place, capsys, program):
    meta_run(place.theirs)
    (place.home / "mine").mkdir()
    (place.home / "mine" / "pictures").symlink_to(place.outside)
    assert "mine/pictures: is a link" in command(*program, "--out", "mine")(place, capsys)


def test_links_in_an_ablation_are_not_followed(place):
    ablation(place.theirs)
    where = place.theirs / "methods" / "m" / "task-0" / "seed-0"
    link(where / "trajectories.npz", place.outside / "secret")
    assert "trajectories.npz: is a link" in watched(place, lambda: write_page([place.theirs]))
    config = AblationConfig(methods={"m": "downstream/maze_sac"}, seeds=[0])
    assert "trajectories.npz: is a link" in watched(place, lambda: ablate(config, place.theirs))


def test_links_within_a_folder_and_the_folder_as_a_link_are_fine(place):
    (meta_run(place.theirs) / "again.yaml").symlink_to("config.yaml")
    (place.home / "linked").symlink_to(place.theirs)
    assert trained(place.home / "linked").env_steps == 10


def test_a_skill_model_that_is_a_pipe_is_not_waited_for(place):
    skill_model(observation_dim=2, action_dim=2).save(place.theirs / "model")
    (place.theirs / "model" / "state.json").unlink()
    os.mkfifo(place.theirs / "model" / "state.json")
    assert "state.json: cannot be read" in watched(place, lambda: SkillModel.load(place.theirs / "model"))


def test_a_run_names_its_skills_and_nothing_else_is_read_as_such(place):
    meta_run(place.theirs, skills=str(place.outside / "nothing"))
    assert "there is no such folder" in watched(place, lambda: trained(place.theirs))


NAMES = ["../../outside", "a/b", "/tmp/x", ".hidden", "..", "", "a b", "a\x1b[2Jb", "<script>", "x" * 101, "ü", 3, None]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_method_is_called_as_a_file_may_be(place, name):
    def mine() -> None:
        build(AblationConfig, {"methods": {name: "downstream/maze_sac"}})

    def theirs() -> None:
        ablation(place.theirs, methods={name: "x"})
        read_study(place.theirs)

    assert "methods: a name is" in watched(place, mine)
    if name is not None:  # OmegaConf has no such key
        assert "methods: a name is" in watched(place, theirs)


@pytest.mark.parametrize(
    "changes", [{"tasks": ["../../../outside"]}, {"seeds": ["0/../../../../outside"]}, {"title": [1]}]
)
def test_tasks_and_seeds_of_an_ablation_are_numbers(place, changes):
    ablation(place.theirs, **changes)
    sentence = watched(place, lambda: read_study(place.theirs))
    assert "config.yaml" in sentence and next(iter(changes)) in sentence


@pytest.mark.parametrize("name", ["../x", "no_adaptation", "random", "a b", ""])
def test_an_evaluations_name_is_a_file_name_of_its_own(place, capsys, name):
    assert "name" in command("evaluate", "tasks/point_robot", f"name={name!r}", "--out", "mine")(place, capsys)
    assert not (place.home / "mine").exists()


# -- pages ---------------------------------------------------------------------------------------------------------------------
class Elements(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    handle_startendtag = handle_starttag


TAGS = set(
    "html head meta title style body h1 h2 p table thead tbody tr th td div figure figcaption pre details summary svg g path "
    "defs use text tspan clippath rect image circle".split()
)


def check_page(path: Path) -> None:
    parser = Elements()
    parser.feed(path.read_text())
    for tag, attributes in parser.found:
        assert tag in TAGS, f"{path}: <{tag}>"
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("src", "action", "srcset", "formaction")
            assert name != "href" or (value or "").startswith(("#", "data:image/png;base64,"))


def test_this_check_of_pages_can_fail(tmp_path):
    for bad in ("<script>", "<p onclick=x>", "<use href='http://x'>", "<img src=x>"):
        (tmp_path / "p.html").write_text(bad)
        with pytest.raises(AssertionError):
            check_page(tmp_path / "p.html")


def test_no_string_of_a_stranger_is_an_element_of_the_page_of_an_ablation(place, monkeypatch, drawn):
    monkeypatch.setattr(plots, "save_png", lambda figure, path: None)  # a page has SVG; PNG takes as long again
    ablation(place.theirs, title=SCRIPT, claim=SCRIPT, **{SCRIPT: SCRIPT})
    machine = {"cpu": SCRIPT, "cores": SCRIPT, "system": SCRIPT}
    about = {"command": SCRIPT, "python": SCRIPT, "versions": {SCRIPT: SCRIPT}, "machine": machine}
    (place.theirs / "environment.json").write_text(json.dumps(about))
    run_config = place.theirs / "methods" / "m" / "task-0" / "seed-0" / "config.yaml"
    run_config.write_text(dump_yaml({**read_yaml(run_config), "skills": SCRIPT}))
    skills = place.theirs / "skills" / "seed-0"
    skills.mkdir(parents=True)
    rollout = {"name": SCRIPT, "episodes": 1, "env_steps": 1, "coverage": 0.1, "total_coverage": 0.1, "success": 0.0}
    fit: dict[str, Any] = {name: 1.0 for name in ("kl", "prior_kl", "prior_nll", "unconditional_nll")}
    fit |= {"active_dimensions": SCRIPT, "dimensions": SCRIPT, "windows": 3}
    fit |= {name: [0.1] for name in ("error_by_action", "error_by_action_prior", "action_variance")}
    prior = {"source": SCRIPT, "verdict": [SCRIPT], "rollouts": [rollout], "held_out": fit}
    (skills / "config.yaml").write_text(dump_yaml({"source": SCRIPT, SCRIPT: SCRIPT}))
    (skills / "environment.json").write_text(json.dumps(about))
    (skills / "result.json").write_text(json.dumps(prior))
    rows = [{"kind": kind, "step": 1, "score": 1.0} for kind in ("train", "held_out")]
    (skills / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert watched(place, lambda: write_page([place.theirs])) == ""
    assert (place.theirs / "report.html").read_text().count("&lt;script&gt;") > 10
    check_page(place.theirs / "report.html")


def test_no_string_of_a_stranger_is_an_element_of_the_page_of_runs(place, drawn):
    folder = meta_run(place.theirs / "run<script>0", note=SCRIPT)
    rows = (folder / "metrics.jsonl").read_text().replace("ppo/kl", json.dumps("x/" + SCRIPT)[1:-1])
    (folder / "metrics.jsonl").write_text(rows)
    (folder / "environment.json").write_text(json.dumps({"command": SCRIPT}))
    assert watched(place, lambda: write_page_of_runs(folder)) == ""
    check_page(folder / "report.html")


# -- logs ----------------------------------------------------------------------------------------------------------------------
def minari_log(place: Place) -> tuple[Path, Path]:
    """The metadata and the arrays of a data set, test/some-v0."""
    flags = np.zeros(6, bool)
    episode = single_episode(
        np.ones((7, 3), np.float32), np.zeros((6, 2), np.float32), np.ones(6), flags, np.eye(6, dtype=bool)[5]
    )
    folder = write_minari("test/some-v0", [episode], -np.ones(2), np.ones(2))
    (folder / "manifest.json").unlink()  # a stranger writes none, or one that fits
    return folder / "data" / "metadata.json", folder / "data" / "main_data.hdf5"


def in_metadata(**changes: Any) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        file, _ = minari_log(place)
        plain = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({key: value for key, value in plain.items() if value is not None}))

    return make


def in_arrays(change: Callable[[Place, h5py.File], None]) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        with h5py.File(place.outside / "theirs.hdf5", "w") as other:
            other["x"] = np.full((7, 3), 7.0, np.float32)
            other.create_group("g")["x"] = np.zeros((6, 2), np.float32)
        np.full(21, 7.0, np.float32).tofile(place.outside / "raw")
        _, path = minari_log(place)
        with h5py.File(path, "a") as file:
            change(place, file)

    return make


def replaced(group: h5py.Group, key: str, value: Any) -> None:
    del group[key]
    group[key] = value


def virtual(place: Place, group: h5py.Group, key: str, shape: tuple[int, ...]) -> None:
    layout = h5py.VirtualLayout(shape, np.float32)
    layout[...] = h5py.VirtualSource(str(place.outside / "theirs.hdf5"), "x", (7, 3))[: shape[0], : shape[1]]
    del group[key]
    group.create_virtual_dataset(key, layout)


def external(place: Place, group: h5py.Group, key: str, shape: tuple[int, ...]) -> None:
    del group[key]
    group.create_dataset(key, shape, np.float32, external=[(str(place.outside / "raw"), 0, h5py.h5f.UNLIMITED)])


def through(file: h5py.File, place: Place) -> None:
    file["episode_0"]["way"] = h5py.ExternalLink(str(place.outside / "theirs.hdf5"), "/g")
    replaced(file["episode_0"], "actions", h5py.SoftLink("/episode_0/way/x"))


SPEC = json.dumps(
    {
        "id": "x-v0", "entry_point": "canary:make", "reward_threshold": None, "nondeterministic": False, "max_episode_steps": 5,
        "order_enforce": True, "disable_env_checker": True, "kwargs": {}, "additional_wrappers": [], "vector_entry_point": None,
    }
)  # fmt: skip
DISCRETE = json.dumps({"type": "Discrete", "dtype": "int64", "start": 0, "n": 3})
MINARI: dict[str, tuple[Callable[[Place], None], str, str]] = {
    "an environment, no action space": (in_metadata(env_spec=SPEC, action_space=None), "", ""),
    "an environment, no spaces": (in_metadata(env_spec=SPEC, action_space=None, observation_space=None), "", ""),
    "an environment beside its spaces": (in_metadata(env_spec=SPEC, eval_env_spec=SPEC), "", ""),
    "choices": (in_metadata(action_space=DISCRETE), "", "actions are of a 'Discrete'"),
    "a space of another type": (in_metadata(action_space='{"type": "canary.make"}'), "", "'canary.make'"),
    "a space that is none": (in_metadata(action_space="[]"), "", "cannot be read"),
    "another format": (in_metadata(data_format="arrow"), "", "stored as 'arrow'"),
    "more episodes than there are": (in_metadata(total_episodes=10**12), "", "holds 1 episodes"),
    "an id that climbs": (in_metadata(), "../outside/x-v0", "is no id that Minari knows"),
    "an id from the root": (in_metadata(), "/outside/x-v0", "is no id that Minari knows"),
    "an id without a version": (in_metadata(), "test/some", "is no id that Minari knows"),
    "an episode elsewhere": (
        in_arrays(lambda p, f: replaced(f, "episode_0", h5py.ExternalLink(str(p.outside / "theirs.hdf5"), "/g"))),
        "",
        "main_data.hdf5, episode_0: is a link",
    ),
    "observations elsewhere": (
        in_arrays(
            lambda p, f: replaced(f["episode_0"], "observations", h5py.ExternalLink(str(p.outside / "theirs.hdf5"), "x"))
        ),
        "",
        "episode_0/observations: is a link",
    ),
    "actions elsewhere, by a detour": (in_arrays(lambda p, f: through(f, p)), "", "episode_0/actions: is a link"),
    "virtual observations": (
        in_arrays(lambda p, f: virtual(p, f["episode_0"], "observations", (7, 3))),
        "",
        "episode_0/observations: has its values in other files",
    ),
    "observations in a raw file": (
        in_arrays(lambda p, f: external(p, f["episode_0"], "observations", (7, 3))),
        "",
        "episode_0/observations: has its values in other files",
    ),
    "rewards that are a group": (
        in_arrays(lambda p, f: [f["episode_0"].pop("rewards"), f["episode_0"].create_group("rewards")]),
        "",
        "episode_0/rewards: is a group",
    ),
    "infos elsewhere": (
        in_arrays(lambda p, f: replaced(f["episode_0"], "infos", h5py.ExternalLink(str(p.outside / "theirs.hdf5"), "g"))),
        "",
        "episode_0/infos: is a link",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MINARI)
def test_a_minari_data_set_is_arrays_of_its_own_and_makes_nothing(place, kind):
    make, dataset_id, words = MINARI[kind]
    make(place)
    sentence = watched(place, lambda: load_source(f"minari:{dataset_id or 'test/some-v0'}"))
    assert words in sentence and bool(words) == bool(sentence)


def test_an_external_file_is_not_even_opened(place):
    """HDF5 opens files behind Python's back, so the audit hook does not see it; the time of the last access does."""
    other = place.outside / "theirs.hdf5"
    in_arrays(lambda p, f: replaced(f["episode_0"], "actions", h5py.ExternalLink(str(other), "x")))(place)
    os.utime(other, (1, other.stat().st_mtime))
    with pytest.raises(UserError, match="is a link"):
        load_source("minari:test/some-v0")
    seen = other.stat().st_atime
    with h5py.File(other) as file:
        file["x"][()]
    if other.stat().st_atime == 1:
        pytest.skip("this file system keeps no time of the last access")
    assert seen == 1


@pytest.mark.parametrize("what", ["test", "test/some-v0", "test/some-v0/data", "test/some-v0/data/main_data.hdf5"])
def test_a_minari_data_set_does_not_lead_out_of_its_root(place, what):
    minari_log(place)
    path = place.theirs / what
    path.rename(place.outside / "moved")
    path.symlink_to(place.outside / "moved")
    assert "is a link that leads out" in watched(place, lambda: load_source("minari:test/some-v0"))


FLAT = {
    "an external link": lambda p, f: replaced(f, "actions", h5py.ExternalLink(str(p.outside / "theirs.hdf5"), "x")),
    "a soft link": lambda p, f: replaced(f, "actions", h5py.SoftLink("/rewards")),
    "a virtual data set": lambda p, f: virtual(p, f, "actions", (6, 2)),
    "a raw file": lambda p, f: external(p, f, "actions", (6, 2)),
}


@pytest.mark.parametrize("kind", FLAT)
def test_a_flat_file_is_arrays_of_its_own(place, kind):
    def fill(where: Place, file: h5py.File) -> None:
        del file["episode_0"]
        file["observations"], file["rewards"] = np.ones((6, 3), np.float32), np.ones(6, np.float32)
        file["actions"] = np.zeros((6, 2), np.float32)
        FLAT[kind](where, file)

    in_arrays(fill)(place)
    path = place.theirs / "test" / "some-v0" / "data" / "main_data.hdf5"
    assert f"{path}, actions: " in watched(place, lambda: load_source(str(path)))


class Payload:
    """Marks its unpickling."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(Path("ran").resolve()), "w")


def test_pickles_are_nowhere_opened(place):
    objects = np.array([Payload()], dtype=object)
    np.savez(place.theirs / "log.npz", observations=objects, actions=objects)
    (place.home / "ran").unlink(missing_ok=True)
    assert "cannot be read" in watched(place, lambda: load_source(str(place.theirs / "log.npz")))
    ablation(place.theirs)
    where = place.theirs / "methods" / "m" / "task-0" / "seed-0"
    np.savez(where / "trajectories.npz", early_0=objects)
    assert "trajectories.npz: is damaged" in watched(place, lambda: paths(read_study(place.theirs).every[0], "early"))


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
def test_a_state_with_a_right_checksum_is_still_data(place, name):
    """Whoever writes the file writes its checksum."""
    model = place.theirs / "model"
    skill_model(observation_dim=2, action_dim=2).save(model)
    (model / name).write_bytes(pickle.dumps(Payload()))
    manifest = json.loads((model / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256((model / name).read_bytes()).hexdigest()
    (model / "manifest.json").write_text(json.dumps(manifest))
    assert "was not written by skillmeta" in watched(place, lambda: SkillModel.load(model))


@pytest.mark.parametrize("state", [{}, {"actor": {}}, {"actor": "x"}, {"actor": [1], "env_steps": "many"}])
def test_an_agent_of_another_shape_is_refused(place, state):
    save_state(meta_run(place.theirs) / "actor", state, {"run_format": RUN_FORMAT})
    assert "holds no actor of its algorithm" in watched(place, lambda: trained(place.theirs))
    folder = adapted(place.theirs / "adapted", meta_run(place.theirs / "run"))
    save_state(folder / "belief", state, {})
    assert "is not what the agent of" in watched(place, lambda: load_adapted(folder))


@pytest.mark.parametrize(
    "meta", [{}, {"config": {"hiden": 3}}, {"config": "x"}, {"config": {}, "observation_dim": "x"}]
)
def test_a_skill_model_of_another_shape_is_refused(place, meta):
    save_state(place.theirs / "model", {"model": {"action_low": torch.zeros(1)}}, {"kind": "skill_model", **meta})
    assert "does not describe a skill model" in watched(place, lambda: SkillModel.load(place.theirs / "model"))


def test_no_sentence_steers_the_terminal(place, capsys):
    name = "a\x1b[2J\x07\nb"
    ablation(place.theirs, methods={name: "x"})
    assert "\x1b" not in command("report", "theirs")(place, capsys)


# -- and what is trusted ---------------------------------------------------------------------------------------------------------
OWN = "from skillmeta.algorithms.rl2 import Learner, Config\n"


@pytest.fixture
def own(place) -> Place:
    """A user with an algorithm and a family of their own, in the working folder."""
    (place.home / "my").mkdir()
    (place.home / "my" / "__init__.py").touch()
    (place.home / "my" / "algorithm.py").write_text(OWN)
    (place.home / "my" / "family.py").write_text("from skillmeta.tasks.maze import Config, family\n")
    return place


@pytest.mark.parametrize("name", ["rl2", "skillmeta.algorithms.rl2"])
def test_built_in_names_need_no_trust(place, name):
    assert trained(meta_run(place.theirs, **named(name))).env_steps == 10
    assert module_of("algorithms", name, "algorithm.name").__name__ == "skillmeta.algorithms.rl2"


def test_trust_imports_the_module(own, capsys):
    meta_run(own.theirs, **named("my.algorithm"))
    assert trained(own.theirs, trust=True).env_steps == 10
    arguments = ["tasks/point_robot", "agents=[theirs]", "episodes=0", "tasks=1"]
    assert main(["evaluate", *arguments, "--out", "mine", "--trust"]) == 0
    assert main(["adapt", "theirs", "tasks/point_robot", "--episodes", "1", "--out", "adapted", "--trust"]) == 0
    assert "--trust" in watched(own, lambda: load_adapted(own.home / "adapted"))
    assert load_adapted(own.home / "adapted", trust=True)[0].belief is not None
    assert "warning" not in capsys.readouterr().err


def test_a_module_in_the_commands_config_is_trusted_and_its_hash_kept(own, capsys):
    file = own.home / "my" / "algorithm.py"
    command = [
        "meta-train", "meta/rl2_bandit_5", "algorithm={name: my.algorithm, tasks: 4, hidden: 8, epochs: 1, minibatches: 2}",
        "env_steps=50", "--out", "mine",
    ]  # fmt: skip
    assert main(command) == 0
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    about = json.loads((own.home / "mine" / "environment.json").read_text())
    assert about["modules"] == {"my.algorithm": digest}
    assert main(command) == 0 and "warning" not in capsys.readouterr().err
    file.write_text(OWN + "# changed\n")
    changed = "the module my.algorithm has changed since this run began"
    for _ in range(2):  # the hash stays that of the beginning
        assert main(command) == 0 and changed in capsys.readouterr().err
    task = TaskConfig("bandit")
    load_trained(own.home / "mine", envs_of(task), trust=True)
    assert changed in capsys.readouterr().err
    with pytest.raises(UserError, match="--trust"):
        load_trained(own.home / "mine", envs_of(task))


def test_an_ablation_is_resumed_by_its_own_config_and_reported_with_trust(own, monkeypatch):
    monkeypatch.setattr(plots, "save_png", lambda figure, path: None)
    monkeypatch.setattr(plots, "to_svg", lambda figure, name: "")
    config = AblationConfig(
        methods={"m": {"config": "downstream/maze_sac"}},
        changes={"task": {"family": "my.family"}},
        tasks=[0],
        seeds=[0],
    )
    out = own.home / "mine"
    fake_run(out / "methods" / "m" / "task-0" / "seed-0", 0.5, 0, 0)
    run_config = out / "methods" / "m" / "task-0" / "seed-0" / "config.yaml"
    run_config.write_text(dump_yaml({**read_yaml(run_config), "task": {"family": "my.family"}}))
    assert ablate(config, out, "skillmeta ablate x").done and (out / "report.html").exists()
    with pytest.raises(ConfigError, match="task.family names the module 'my.family'.*--trust"):
        write_page([out])
    assert write_page([out], trust=True) == out / "report.html"


# -- the code itself -----------------------------------------------------------------------------------------------------------
ALLOWED = {  # call: the files that may make it
    # modules that a trusted config, or the package, names
    "importlib.import_module": {"config/modules.py", "skillmeta/cli.py", "programs/doctor.py"},
    "loader.exec_module": {"d4rl_table.py"},  # of the installed package d4rl
    # Meta-World hands its tasks over pickled, within the process that makes them. The pool pickles what goes between this process
    # and the workers that it has started, over a pipe that nobody else can write.
    "pickle.loads": {"metaworld.py", "run/pool.py"},
    "pickle.dumps": {"metaworld.py", "run/pool.py"},
    "yaml.load": {"config/plain.py"},
    "OmegaConf.load": {"config/load.py"},  # configs that the user names
    "h5py.File": {"sources.py", "minari_store.py"},  # the latter writes, in memory
}
FORBIDDEN = ("pickle.", "torch.load", "torch.save", "eval", "exec", "compile", "__import__", "load_dataset", "joblib.")


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def objections(path: Path) -> list[str]:
    found = []
    for name, node in calls(path):
        allowed = next((files for call, files in ALLOWED.items() if name == call or name.endswith("." + call)), None)
        if allowed is not None:
            found += [] if path.as_posix().endswith(tuple(allowed)) else [name]
        elif name in FORBIDDEN or name.startswith(tuple(f for f in FORBIDDEN if f.endswith("."))):
            found.append(name)
        elif name.endswith(".load_dataset"):
            found.append(name)
        elif re.fullmatch(r"(np|numpy)\.(load|savez|savez_compressed|save)", name):
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            found += [] if keywords.get("allow_pickle") == "False" else [name]
    return found


def test_no_file_of_the_project_loads_code():
    files = [path for room in ("skillmeta", "pretrain", "downstream") for path in (ROOT / room).rglob("*.py")]
    assert len(files) > 80
    assert {str(path): said for path in files if (said := objections(path))} == {}


@pytest.mark.parametrize(
    "line", ["np.load(x)", "pickle.load(x)", "torch.load(x)", "eval(x)", "minari.load_dataset(x)", "h5py.File(x)"]
)
def test_this_check_of_the_code_can_fail(tmp_path, line):
    (tmp_path / "a.py").write_text(line)
    assert objections(tmp_path / "a.py")
