"""What strangers' folders name: no module of theirs is imported, no value is more than a value, and what is trusted says so."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillmeta.cli import main
from skillmeta.config import dump_yaml, load, module_of, read_yaml, to_plain
from skillmeta.errors import ConfigError, UserError
from skillmeta.evaluation.records import read_study
from skillmeta.programs.ablate import AblationConfig, ablate
from skillmeta.programs.adapt import load_adapted
from skillmeta.programs.page import write_page
from skillmeta.programs.train import load_trained, train
from skillmeta.programs.train_config import train_config
from skillmeta.reports import plots
from skillmeta.run.identity import Identity
from skillmeta.tasks.base import TaskConfig
from tests.faults.strangers import (
    CANARY,
    RL2,
    ROOT,
    SECRET,
    Place,
    ablation,
    adapted,
    command,
    envs_of,
    meta_run,
    named,
    points,
    trained,
    watched,
    write_page_of_runs,
)
from tests.reports.fakes import fake_run

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
    "importlib.import_module": {"config/modules.py", "skillmeta/__init__.py", "skillmeta/cli.py", "programs/doctor.py"},
    "loader.exec_module": {"d4rl_table.py"},  # of the installed package d4rl
    # Meta-World hands its tasks over pickled, within the process that makes them. The pool pickles what goes between this process
    # and the workers that it has started, over a pipe that nobody else can write;
    # on a cluster by Ray, whose ports run anybody's code anyway (SECURITY.md).
    "pickle.loads": {"metaworld.py", "run/pool.py", "run/cluster.py"},
    "pickle.dumps": {"metaworld.py", "run/pool.py", "run/cluster.py"},
    "yaml.load": {"config/plain.py"},
    "OmegaConf.load": {"config/load.py"},  # configs that the user names
    "h5py.File": {"data/hdf5.py", "minari_store.py"},  # the latter writes, in memory
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


# -- sizes ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"algorithm": {**RL2, "hidden": 10**9}}, "algorithm.hidden is 1000000000; at most 8,192"),
        ({"algorithm": {**RL2, "layers": 10**6}}, "algorithm.layers is 1000000; at most 64"),
        ({"algorithm": {**RL2, "hidden": 8192}}, "a network of 268,632,064 parameters"),
        ({"num_envs": 10**12}, "num_envs is 1000000000000; at most 10,000"),
        ({"task": {"family": "bandit", "options": {"arms": 10**9}}}, "task.options.arms is 1000000000"),
        (
            {"algorithm": {"name": "sac", "replay_capacity": 10**12}},
            "replay_capacity is 1000000000000; at most 10,000,000",
        ),
        ({"algorithm": {**RL2, "episodes": float("inf")}}, "algorithm.episodes is inf"),
        ({"algorithm": {**RL2, "episodes": float("nan")}}, "algorithm.episodes is nan"),
    ],
)
def test_what_a_config_in_a_folder_asks_for_has_limits(place, changes, words):
    meta_run(place.theirs, **changes)
    assert words in watched(place, lambda: trained(place.theirs))


def test_a_run_of_the_users_own_is_continued_whatever_its_sizes(place):
    meta_run(place.theirs, num_envs=20_000)
    config = {**to_plain(points()), "num_envs": 20_000}
    assert Identity(config).changes_of(place.theirs / "config.yaml", config) == []
