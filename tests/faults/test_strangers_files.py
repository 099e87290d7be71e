"""Strangers' files: nothing outside a folder is read or written, pages show their strings as text, and their logs are arrays."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from skillmeta.config import build, dump_yaml, read_yaml
from skillmeta.data.episodes import single_episode
from skillmeta.data.minari_store import write_minari
from skillmeta.data.sources import load_source
from skillmeta.errors import UserError
from skillmeta.evaluation.records import paths, read_run, read_study
from skillmeta.programs.ablate import AblationConfig, ablate
from skillmeta.programs.adapt import load_adapted
from skillmeta.programs.page import write_page
from skillmeta.programs.train import train
from skillmeta.reports import plots
from skillmeta.run.checkpoint import save_state
from skillmeta.run.identity import RUN_FORMAT
from skillmeta.skills.vae import SkillModel
from tests.faults.strangers import (
    SCRIPT,
    Place,
    ablation,
    adapted,
    command,
    meta_run,
    points,
    trained,
    watched,
    write_page_of_runs,
)
from tests.skills.fakes import skill_model


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


def test_what_pages_say_of_a_runs_config_is_of_its_kind(place):
    config = read_yaml(meta_run(place.theirs) / "config.yaml")
    for key, value in (("seed", "x"), ("env_steps", "many"), ("task", [1]), ("algorithm", "x"), ("algorithm", [1])):
        (place.theirs / "config.yaml").write_text(dump_yaml({**config, key: value}))
        assert f"config.yaml: is damaged ({key} is {str(value)!r}" in watched(place, lambda: read_run(place.theirs))
    for key in ("task", "algorithm"):  # which it may leave out
        (place.theirs / "config.yaml").write_text(dump_yaml({**config, key: None}))
        assert watched(place, lambda: read_run(place.theirs)) == ""


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
    rows = [{"kind": kind, "steps": 1, "score": 1.0} for kind in ("train", "held_out")]
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
    assert "log.npz, observations: is an array of objects" in watched(
        place, lambda: load_source(str(place.theirs / "log.npz"))
    )
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
    save_state(folder / "belief", state, {"run_format": RUN_FORMAT})
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
