"""Configs: what is accepted, and the sentence for everything that is not."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest

from skillmeta.config import (
    Bound,
    PositiveInt,
    Range,
    Share,
    build,
    checked,
    differences,
    dump_yaml,
    keys,
    list_configs,
    load,
    module_of,
    read_yaml,
    to_plain,
)
from skillmeta.errors import ConfigError
from skillmeta.programs.ablate import AblationConfig, make_jobs, method_config
from skillmeta.programs.collect import CollectConfig, collect
from skillmeta.programs.pretrain import PretrainConfig
from skillmeta.programs.show_config import filled, keys_of_command
from skillmeta.programs.train import task_of
from skillmeta.programs.train_config import TrainConfig, train_config
from skillmeta.tasks.base import TaskConfig, make_family


@dataclass(frozen=True)
class Inner:
    gamma: float = 0.99
    depth: int = 2

    def __post_init__(self) -> None:
        if self.gamma > 1:
            raise ValueError(f"gamma is {self.gamma}; at most 1")


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    name: str | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    flag: bool = False
    free: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Places:
    pairs: tuple[tuple[str, float], ...] = ()
    fixed: tuple[str, int] = ("a", 1)


def test_tuples_have_a_kind_for_each_place():
    assert build(Places, {"pairs": [["g", 1], ["h", 2.5]]}).pairs == (("g", 1.0), ("h", 2.5))
    with pytest.raises(ConfigError, match=r"pairs\[0\]: is \['g'\]; 2 values are expected"):
        build(Places, {"pairs": [["g"]]})


def test_values_are_filled_in_and_converted():
    built = build(Outer, {"inner": {"gamma": 1, "depth": "3"}, "seeds": [1, 2], "free": {"a": {"b": 1}}})
    assert built == Outer(Inner(1.0, 3), None, [1, 2], False, {"a": {"b": 1}})
    assert build(Inner, {"gamma": "1e-1"}).gamma == 0.1  # YAML reads 1e-1 as text


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        ({"iner": {}}, "unknown key 'iner'; did you mean 'inner'"),
        ({"inner": {"gama": 1}}, "inner: unknown key 'gama'; did you mean 'gamma'"),
        ({"inner": {"zzz": 1}}, "it has gamma, depth"),
        ({"inner": {"gamma": "fast"}}, "inner.gamma: is 'fast'; a number is expected"),
        ({"inner": {"depth": 1.5}}, "inner.depth: is 1.5; an integer is expected"),
        ({"inner": {"depth": True}}, "inner.depth: is True"),
        ({"inner": 3}, "inner: is 3; a mapping"),
        ({"inner": {"gamma": 2}}, "inner.gamma is 2.0; at most 1"),
        ({"seeds": 3}, "seeds: is 3; a list"),
        ({"seeds": [1, "x"]}, r"seeds\[1\]: is 'x'"),
        ({"flag": "yes"}, "flag: is 'yes'; true or false"),
        ({"name": 3}, "name: is 3; a string"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_the_path(node, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(Outer, node)


@dataclass(frozen=True)
class Moved:
    FORMER_KEYS: ClassVar[dict[str, str]] = {
        "discounting": "gamma",
        "floor": "inner.gamma",
        "per": "is no longer a key; remove it",
    }
    gamma: float = 0.9


@dataclass(frozen=True)
class Holder:
    part: Moved = field(default_factory=Moved)


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("discounting", "part.discounting: is now called 'gamma'"),
        ("floor", "part.floor: is now called 'inner.gamma'"),
        ("per", "part.per: is no longer a key; remove it"),
    ],
)
def test_a_former_key_has_one_sentence_with_its_new_name(key, sentence):
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        build(Holder, {"part": {key: 1}})


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: load("tasks/maze_layouts"), "tasks/maze_layouts: is now called tasks/maze_unseen"),
        (lambda: load("downstream/maze_sac", ["task=maze_layouts"]), "maze_layouts: is now called tasks/maze_unseen"),
        (
            lambda: make_family(TaskConfig("maze_layouts")),
            "task.family is 'maze_layouts', which is now called 'maze_unseen'",
        ),
        (
            lambda: collect(CollectConfig("test/none-v0", family="kitchen", collector="kitchen_expert")),
            "collector is 'kitchen_expert', which is now called 'kitchen'",
        ),
    ],
)
def test_a_former_name_has_one_sentence_with_the_new_one(act, sentence):
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        act()


@checked
class Limited:
    steps: PositiveInt = 3
    share: Share | None = None
    goal: Literal["near", "far"] = "near"
    between: Range = field(default_factory=lambda: [0.0, 1.0])
    shares: list[Share] = field(default_factory=list)
    ranges: dict[str, Range] = field(default_factory=dict)
    rest: Annotated[float, Bound(above=0, below=1)] = 0.5

    def __post_init__(self) -> None:
        if self.share is not None and self.share > self.rest:
            raise ValueError(f"share is {self.share}; it must not be above rest")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"share": 1.5}, "share is 1.5; it must be between 0 and 1"),
        ({"share": float("nan")}, "share is nan; it must be between 0 and 1"),
        ({"goal": "up"}, "goal is 'up'; choose near or far"),
        ({"between": [1.0, 0.0]}, "between is [1.0, 0.0]; two numbers, the lower one first, are expected"),
        ({"shares": [0.5, -1.0]}, "shares[1] is -1.0; it must be between 0 and 1"),
        ({"ranges": {"g": [1.0]}}, "ranges.g is [1.0]; two numbers, the lower one first, are expected"),
        ({"rest": 1.0}, "rest is 1.0; it must be above 0 and below 1"),
        ({"share": 0.7}, "share is 0.7; it must not be above rest"),
    ],
)
def test_a_limit_is_checked_from_yaml_and_in_python_with_one_sentence(values, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        Limited(**values)
    with pytest.raises(ConfigError, match=f"^part.{re.escape(sentence)}$"):
        build(Limited, values, "part")


def test_what_a_section_leaves_out_has_the_default_of_its_field():
    assert build(Limited, {"steps": 2}, default=Limited(goal="far")) == Limited(steps=2, goal="far")


def test_every_key_of_a_program_has_a_meaning():
    """The comment behind its field."""
    commands = ("collect", "skills", "finetune", "meta-train", "evaluate", "adapt", "ablate")
    unsaid = {key.name for command in commands for key in keys_of_command(command) if not key.meaning}
    assert unsaid == set()
    for room in ("tasks", "experts", "algorithms"):
        for path in (Path(__file__).parents[1] / "skillmeta" / room).glob("[a-z]*.py"):
            if hasattr(module := importlib.import_module(f"skillmeta.{room}.{path.stem}"), "Config"):
                assert [key.name for key in keys(module.Config, {}) if not key.meaning] == [], path


def test_bases_overrides_and_renamed_sections(tmp_path):
    (tmp_path / "base.yaml").write_text("algorithm: {name: sac, lr: 1.0, deep: {a: 1, b: 2}}\nsteps: 10\n")
    (tmp_path / "child.yaml").write_text("base: base.yaml\nalgorithm: {deep: {a: 5}}\n")
    merged = load(tmp_path / "child.yaml", ["steps=20"])
    assert merged == {"algorithm": {"name": "sac", "lr": 1.0, "deep": {"a": 5, "b": 2}}, "steps": 20}
    (tmp_path / "other.yaml").write_text("base: child.yaml\nalgorithm: {name: ppo}\n")
    assert load(tmp_path / "other.yaml")["algorithm"] == {"name": "ppo"}  # another algorithm has other keys


def test_a_section_may_be_a_preset_by_name():
    spirl = load("downstream/maze_spirl")
    changed = load(
        "downstream/maze_spirl", ["task.index=3", "task=cheetah_vel", "algorithm.hidden=64", "algorithm=pearl"]
    )
    assert changed["task"] == {"family": "half_cheetah", "options": {"observation": 20}, "index": 3}
    assert changed["algorithm"] == {"name": "pearl", "hidden": 64}  # nothing of SPiRL is left
    assert {key: changed[key] for key in ("skills", "env_steps")} == {
        key: spirl[key] for key in ("skills", "env_steps")
    }
    assert load("downstream/maze_spirl", ["task=tasks/maze"])["task"] == load("tasks/maze")
    assert load("downstream/maze_spirl", ["algorithm.base=sac"])["algorithm"] == load("algorithms/sac")
    assert load("downstream/maze_spirl", ["skills=maze"])["skills"] == "maze"  # the folder of a model
    assert load("demo", ["skills=maze", "skills.training.steps=3"])["skills"]["training"]["steps"] == 3
    assert load("demo", ["logs=maze_logs"])["logs"]["dataset"] == "skillmeta/maze20-v0"


def test_sections_that_are_presets_in_files(tmp_path):
    (tmp_path / "mine.yaml").write_text("name: sac\nhidden: 8\n")
    (tmp_path / "a.yaml").write_text("algorithm: {base: mine.yaml, batch_size: 4}\ntask: {options: {size: 9}}\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\nalgorithm: rl2\ntask: {base: maze, split: any}\n")
    (tmp_path / "c.yaml").write_text("base: a.yaml\nalgorithm: {batch_size: 5}\ntask: ${x}\nx: {family: point}\n")
    assert load(tmp_path / "a.yaml")["algorithm"] == {"name": "sac", "hidden": 8, "batch_size": 4}
    assert load(tmp_path / "b.yaml") == {"algorithm": {"name": "rl2"}, "task": {"family": "maze", "split": "any"}}
    assert load(tmp_path / "c.yaml")["algorithm"] == {"name": "sac", "hidden": 8, "batch_size": 5}
    assert load(tmp_path / "c.yaml")["task"] == {"family": "point"}
    (tmp_path / "self.yaml").write_text("task: {base: self.yaml}\nfamily: maze\n")
    with pytest.raises(ConfigError, match="leads back to itself"):
        load(tmp_path / "self.yaml")


def test_a_section_and_named_ones_are_distinguished_by_their_keys():
    one = build(AblationConfig, {"methods": {"m": "x"}, "skills": {"training": {"steps": 3}}})
    assert one.skill_sections[""].training.steps == 3
    two = build(AblationConfig, {"methods": {"m": "x"}, "skills": {"a": {"training": {"steps": 4}}, "b": {}}})
    assert two.skill_sections["a"].training.steps == 4 and list(two.skill_sections) == ["a", "b"]
    shown = {key.name: key.value for key in keys(AblationConfig, to_plain(two))}
    assert shown["skills.a.training.steps"] == 4 and "skills.training.steps" not in shown
    with pytest.raises(ConfigError, match="skills.a.training: unknown key 'step'"):
        build(AblationConfig, {"methods": {"m": "x"}, "skills": {"a": {"training": {"step": 4}}}})


def test_a_key_that_one_section_alone_has_is_said_with_it():
    with pytest.raises(ConfigError, match=r"^unknown key 'seed'; did you mean 'training.seed'\?$"):
        build(PretrainConfig, {"seed": 3})
    with pytest.raises(ConfigError, match=r"^skills.a: unknown key 'dim'; did you mean 'skills.a.model.dim'\?$"):
        build(AblationConfig, {"methods": {"m": "x"}, "skills": {"a": {"source": "x", "dim": 4}}})
    with pytest.raises(ConfigError, match=r"^unknown key 'episodes'; .*(did you mean 'max_episodes'|it has)"):
        build(TrainConfig, {"episodes": 3})  # of `evaluation`, and of `start`


def test_named_sections_of_skills_may_be_presets_too(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "methods: {m: x}\nskills: {one: {base: maze, model: {dim: 3}}, two: {task: maze, source: a}}\n"
    )
    found = load(tmp_path / "a.yaml", ["skills.one.training.steps=5", "skills.two.task.index=1"])["skills"]
    preset = load("pretrain/maze")
    assert found["one"]["model"] == {**preset["model"], "dim": 3} and found["one"]["source"] == preset["source"]
    assert found["one"]["training"] == {**preset["training"], "steps": 5}
    assert found["two"] == {"task": {**load("tasks/maze"), "index": 1}, "source": "a"}


def test_a_word_that_yaml_reads_as_false_is_the_word_where_it_is_one_of_the_values():
    for health in (False, "off"):
        assert train_config({"algorithm": {"name": "sac"}, "health": health}).health == "off"
    for wrong in (True, 0):
        with pytest.raises(ConfigError, match="health"):
            train_config({"algorithm": {"name": "sac"}, "health": wrong})


def test_a_method_of_an_ablation_may_name_presets():
    methods = {"m": {"config": "downstream/maze_spirl", "algorithm": {"base": "sac", "hidden": 7}}}
    config = AblationConfig(methods=methods, changes={"task": "cheetah_vel", "skills": None})
    made = method_config(config, "m", Path("out"), 0)
    assert made.task.family == "half_cheetah" and made.algorithm["hidden"] == 7 and "policy_start" not in made.algorithm


def test_missing_cyclic_and_malformed_files_are_said(tmp_path):
    with pytest.raises(ConfigError, match="did you mean downstream/maze_spirl"):
        load("downstream/maze_spirrl")
    (tmp_path / "a.yaml").write_text("base: b.yaml")
    (tmp_path / "b.yaml").write_text("base: a.yaml")
    with pytest.raises(ConfigError, match=r"leads back to itself \(a.yaml -> b.yaml -> a.yaml\)"):
        load(tmp_path / "a.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1, 2")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="a config is a mapping"):
        load(tmp_path / "list.yaml")
    with pytest.raises(ConfigError, match="has no '='"):
        load("downstream/maze_spirl", ["steps"])


def test_a_config_survives_yaml_and_differences_are_named(tmp_path):
    config = Outer(Inner(0.5), "x", [3])
    (tmp_path / "c.yaml").write_text(dump_yaml(config))
    assert build(Outer, read_yaml(tmp_path / "c.yaml")) == config
    changed = differences(to_plain(config), to_plain(Outer(Inner(0.6), "x", [3, 4])))
    assert changed == ["inner.gamma: 0.5 -> 0.6", "seeds: [3] -> [3, 4]"]


@pytest.mark.parametrize("name", list_configs())
def test_every_config_that_comes_along_can_run(name):
    """Each is checked against the schema of its program, and so are the options of what it chooses."""
    config = filled(load(name))
    if isinstance(config, AblationConfig):
        assert make_jobs(config, Path("out"), "")
    elif isinstance(config, TrainConfig):
        algorithm = dict(config.algorithm)
        build(module_of("algorithms", algorithm.pop("name"), "").Config, algorithm)
        task_of(make_family(config.task), config)
    elif isinstance(config, TaskConfig):
        build(module_of("tasks", config.family, "").Config, config.options)
