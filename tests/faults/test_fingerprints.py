"""What was made of a run knows the run again: evaluations and adapted agents refuse one that has changed, and folders damage."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from skillmeta.cli import main
from skillmeta.envs.make import make_envs
from skillmeta.errors import CheckpointError, UserError
from skillmeta.evaluation.records import read_evaluation
from skillmeta.programs.adapt import load_adapted
from skillmeta.programs.evaluate import ORIGIN
from skillmeta.programs.train import make_learner, save_actor
from skillmeta.reading import CHECKSUMS, checksums, read_json, read_npz, read_rows, verify
from skillmeta.run.identity import Identity
from skillmeta.seeds import Seeds
from skillmeta.skills.vae import SkillModel
from skillmeta.tasks.base import make_family
from tests.faults.damage import bomb, promising, sealed
from tests.faults.strangers import POINTS, command, meta_run, points, watched
from tests.skills.fakes import skill_model


@pytest.fixture(autouse=True)
def _no_pages(monkeypatch):
    monkeypatch.setattr("skillmeta.programs.evaluate.write_page", lambda *arguments, **options: None)


EVALUATE = ("evaluate", "tasks/point_robot", "agents=[theirs]", "episodes=0", "tasks=1", "--out", "mine")
ADAPT = ("adapt", "theirs", "tasks/point_robot", "--episodes", "1", "--out", "mine")


def train_again(folder: Path) -> None:
    """The run's actor, with other parameters."""
    learner = make_learner(points(), make_envs(make_family(POINTS), 1).spec, None, Seeds(1))
    save_actor(folder, learner.actor(), 10, Identity({}))


@pytest.mark.parametrize("arguments", [EVALUATE, ADAPT], ids=lambda a: a[0])
def test_what_was_made_of_another_run_is_not_continued(place, capsys, arguments):
    meta_run(place.theirs)
    assert main(arguments) == 0 and main(arguments) == 0  # the second finds everything there
    capsys.readouterr()
    train_again(place.theirs)
    sentence = command(*arguments)(place, capsys)
    assert "depends on the run" in sentence and "which changed after this was saved" in sentence


def test_an_adapted_agent_does_not_act_with_another_runs_parameters(place):
    meta_run(place.theirs)
    assert main(ADAPT) == 0
    assert load_adapted(place.home / "mine")[0].belief is not None
    train_again(place.theirs)
    with pytest.raises(UserError, match="mine/belief: depends on the run in .*theirs, which changed"):
        load_adapted(place.home / "mine")


def test_what_an_adapted_agent_says_of_itself_has_a_checksum(place):
    meta_run(place.theirs)
    assert main(ADAPT) == 0
    about = place.home / "mine" / "adapted.yaml"
    about.write_text(about.read_text().replace("index: 0", "index: 1"))
    with pytest.raises(UserError, match="index: 0 -> 1"):
        load_adapted(place.home / "mine")


def test_an_evaluation_keeps_what_it_is_of_before_its_first_trial(place, monkeypatch):
    meta_run(place.theirs)

    def stop(*arguments: object) -> bool:
        assert (place.home / "mine" / ORIGIN / "manifest.json").exists()
        return False

    monkeypatch.setattr("skillmeta.programs.evaluate.acted", stop)
    assert main(EVALUATE) == 130


def test_a_finished_folder_knows_its_files_again(place):
    meta_run(place.theirs)
    assert main(EVALUATE) == 0
    for name in ("config.yaml", "environment.json", "parts/agent-0-0.npz", "result.json", CHECKSUMS):
        path = place.home / "mine" / name
        whole = path.read_bytes()
        data = bytearray(whole)
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(
            UserError, match="does not match its checksum|is missing or damaged|of another format or damaged"
        ):
            read_evaluation(place.home / "mine")
        path.write_bytes(whole)
    assert read_evaluation(place.home / "mine") is not None


@pytest.mark.parametrize("name", ["../outside/secret", "/etc/hostname", "a/../../../outside/secret"])
def test_checksums_are_of_files_in_the_folder(place, name):
    place.theirs.joinpath(CHECKSUMS).write_text(checksums({name: "0"}))
    assert "names" in watched(place, lambda: verify(place.theirs))


@pytest.mark.parametrize("name", ["../../../outside/secret", "/outside", "a\nb"])
def test_an_evaluations_actors_are_names_of_files(place, name):
    result = {
        "family": "point", "split": "test", "tasks": ["a"], "groups": [""], "notes": [], "actors": {name: 1}, "repeats": 1,
        "training_seeds": {name: [0]}, "training_steps": {}, "references": {}, "new_tasks": True, "benchmark": None,
    }  # fmt: skip
    (place.theirs / "result.json").write_text(json.dumps(result))
    assert "is no name of a file" in watched(place, lambda: read_evaluation(place.theirs))


def test_archives_of_nothing_are_not_unpacked(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    bomb(tmp_path / "a.npz")
    assert (tmp_path / "a.npz").stat().st_size < 2**22
    with pytest.raises(UserError, match="promises 134,217,728 bytes"):
        read_npz(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as out:
        out.writestr("x.npy", promising((10**12, 0)))
    assert read_npz(tmp_path / "b.npz")["x"].size == 0


@pytest.mark.parametrize("length", [2**60, 2**31, 0])
def test_a_header_of_tensors_longer_than_the_file_is_refused(tmp_path, length):
    skill_model().save(tmp_path / "model")
    sealed(lambda scalars, tensors: None)(tmp_path / "model" / "state.json")
    data = (tmp_path / "model" / "state.safetensors").read_bytes()
    (tmp_path / "model" / "state.safetensors").write_bytes(length.to_bytes(8, "little") + data[8:])
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    manifest["sha256"]["state.safetensors"] = hashlib.sha256(
        (tmp_path / "model" / "state.safetensors").read_bytes()
    ).hexdigest()
    (tmp_path / "model" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="was not written by skillmeta"):
        SkillModel.load(tmp_path / "model")


BAD_JSON = {
    "[1]": "a mapping is expected",
    "{": "missing or damaged",
    "[" * 10**5: "deeper",
    '{"a":' * 70 + "1" + "}" * 70: "deeper",
    '{"a": 1' + "0" * 30 + "}": "64 bits",
    '{"a": ' + "9" * 5000 + "}": "64 bits",
    "\udcff": "missing or damaged",
}


@pytest.mark.parametrize(("text", "words"), BAD_JSON.items(), ids=range(len(BAD_JSON)))
def test_json_is_a_shallow_mapping_of_plain_values(tmp_path, text, words):
    (tmp_path / "a.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=words):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.jsonl").write_bytes(b'{"kind": "iteration"}\n' + text.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(UserError, match="line 2"):
        read_rows(tmp_path / "a.jsonl")
