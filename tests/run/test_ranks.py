"""Two processes that share out each batch learn what one learns with all of it, stop together and resume to the bit.

Processes are forked: this one has imported everything. The last test is the command as a user types it, by torchrun.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from skillmeta.errors import ConfigError, UserError
from skillmeta.programs.pretrain import PretrainConfig, pretrain
from skillmeta.reading import read_json
from skillmeta.run.ranks import Ranks
from skillmeta.run.run import read_metrics, read_result
from skillmeta.skills.training import TrainingConfig
from skillmeta.skills.vae import SkillModel, SkillModelConfig
from tests.forked import forked

STEPS = 30
CONFIG = {"model": SkillModelConfig(horizon=5, dim=2, hidden=8, decoder_depth=1, prior_depth=1)}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with logs."""
    folder = tmp_path_factory.mktemp("ranks")
    rng = np.random.default_rng(0)
    log = {
        "observations": rng.normal(size=(300, 2)),
        "actions": rng.uniform(-1, 1, (300, 2)),
        "timeouts": np.arange(300) % 30 == 29,
    }
    np.savez(folder / "log.npz", **{name: array.astype(np.float32) for name, array in log.items()})
    return folder


@pytest.fixture(autouse=True, scope="module")
def _no_page():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skillmeta.programs.pretrain.write_page", lambda *arguments, **options: None)
        yield


def config(place: Path, batch_size: int = 16) -> PretrainConfig:
    training = TrainingConfig(
        steps=STEPS - 10, prior_steps=10, batch_size=batch_size, held_out_every=10, held_out_windows=32
    )
    return PretrainConfig(str(place / "log.npz"), training=training, **CONFIG)


def together(place: Path, name: str, act: Callable[[Ranks], int]) -> tuple[list[int], str]:
    """Do something in two connected processes. Returns how they ended and what they printed."""

    meeting = place / f"{name}.store"
    meeting.unlink(missing_ok=True)  # of an earlier pair

    def one(rank: int) -> int:
        store = dist.FileStore(str(meeting), 2)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
        return act(Ranks(rank, 2))

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    said = [place / f"{name}-{rank}.txt" for rank in (0, 1)]
    children = [forked(lambda rank=rank: one(rank), said[rank]) for rank in (0, 1)]
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return ends, "".join(path.read_text() for path in said)


def trained(place: Path, name: str, watch: Callable[[Ranks], object] = lambda ranks: None) -> tuple[list[int], str]:
    def act(ranks: Ranks) -> int:
        watch(ranks)
        return 0 if pretrain(config(place), place / name, quiet=True, ranks=ranks) is not None else 130

    return together(place, name, act)


def after_steps(act: Callable[[torch.optim.Optimizer, int], object]) -> None:
    """Do something after each step of an optimiser, in a child of its own."""
    step, count = torch.optim.Adam.step, itertools.count(1)

    def stepped(optimizer, *arguments):
        step(optimizer, *arguments)
        act(optimizer, next(count))

    torch.optim.Adam.step = stepped


@pytest.fixture(scope="module")
def two(place) -> Path:
    """A run of two processes, and what each one's parameters were after every step."""

    def keep(ranks: Ranks) -> None:
        def add(optimizer, count):
            flat = torch.cat([p.detach().flatten() for group in optimizer.param_groups for p in group["params"]])
            with open(place / f"parameters-{ranks.rank}", "ab") as file:
                file.write(flat.numpy().tobytes())

        after_steps(add)

    ends, said = trained(place, "two", keep)
    assert ends == [0, 0], said
    return place / "two"


def test_two_processes_learn_what_one_learns_with_the_whole_batch(place, two):
    assert pretrain(config(place), place / "one", quiet=True) is not None
    one_rows, two_rows = read_metrics(place / "one"), read_metrics(two)
    assert len(one_rows) == len(two_rows) > 4
    for one_row, two_row in zip(one_rows, two_rows, strict=True):
        assert one_row.pop("kind") == two_row.pop("kind") and one_row == pytest.approx(two_row, rel=1e-4)
    one_model, two_model = (SkillModel.load(folder).state_dict() for folder in (place / "one", two))
    for name, values in one_model.items():
        torch.testing.assert_close(two_model[name], values, rtol=1e-3, atol=1e-5)
    assert read_result(two)["processes"] == 2 and "processes" not in read_result(place / "one")
    first, second = ((place / f"parameters-{rank}").read_bytes() for rank in (0, 1))
    assert first == second and len(first) == STEPS * 4 * sum(p.numel() for p in SkillModel.load(two).parameters())
    assert [Ranks(rank, 4).part(8) for rank in range(4)] == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)]


@pytest.mark.slow
def test_whoever_is_asked_to_stop_all_stop_and_resume_to_the_same_bits(place, two):
    """SIGTERM to the second process alone."""

    def stop_at_seven(ranks: Ranks) -> None:
        if ranks.rank == 1:
            after_steps(lambda optimizer, count: count == 7 and os.kill(os.getpid(), signal.SIGTERM))

    ends, said = trained(place, "cut", stop_at_seven)
    assert ends == [130, 130], said
    (saved,) = (place / "cut" / "checkpoints").iterdir()
    assert saved.name == "ckpt-000000000007"
    ends, said = trained(place, "cut")
    assert ends == [0, 0], said
    for file in ("metrics.jsonl", "model/state.safetensors"):
        assert (place / "cut" / file).read_bytes() == (two / file).read_bytes()
    assert trained(place, "cut")[0] == [0, 0]  # it is finished, and both know


def test_where_one_ends_the_others_say_so(place):
    def act(ranks: Ranks) -> int:
        if ranks.rank == 1:
            after_steps(lambda optimizer, count: os._exit(9))
        try:
            pretrain(config(place), place / "lone", quiet=True, ranks=ranks)
        except UserError as error:
            print(error)
            return 2
        return 0

    ends, said = together(place, "lone", act)
    assert ends == [2, 9] and "another process of this training has ended" in said
    with pytest.raises(ConfigError, match="^training.batch_size is 15; set it to a multiple of the 2 processes$"):
        pretrain(config(place, 15), place / "odd", ranks=Ranks(0, 2))
    assert not (place / "odd").exists()


def torchrun(place: Path, *changes: str) -> subprocess.Popen:
    command = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "skillmeta.cli",
        "skills",
        "pretrain/maze",
    ]
    mine = [f"source={place / 'log.npz'}", "task=null", "model.hidden=8", "model.horizon=5", "training.batch_size=16"]
    arguments = [sys.executable, *command, *mine, *changes, "--out", str(place / "run")]
    return subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
    )


@pytest.mark.slow
def test_torchrun_trains_stops_and_resumes(place):
    steps = ("training.steps=600", "training.held_out_every=100")
    process = torchrun(place, *steps)
    while (
        not (place / "run" / "progress.json").exists() or read_json(place / "run" / "progress.json")["fraction"] < 0.1
    ):
        assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[0]
    assert process.returncode != 0 and len(list((place / "run" / "checkpoints").iterdir())) == 1, said
    process = torchrun(place, *steps)
    said = process.communicate(timeout=200)[0]
    assert process.returncode == 0 and said.count("model: ") == 1, said
    assert read_result(place / "run")["processes"] == 2
