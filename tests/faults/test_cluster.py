"""A Ray cluster of three nodes on this machine: what it computes is what one machine does, to the bit, whatever dies.

`python -m pytest -m slow tests/faults/test_cluster.py -s` prints what it measured (docs/cluster.md).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from skillmeta.config import build, dump_yaml, load
from skillmeta.errors import UserError
from skillmeta.programs.ablate import AblationConfig, ablate
from skillmeta.programs.train import train
from skillmeta.programs.train_config import train_config
from skillmeta.reading import read_json
from skillmeta.run import cluster as program
from skillmeta.run.cluster import Cluster, pool_of
from skillmeta.run.files import lock_folder
from tests.faults.harness import BANDIT, RL2, contents
from tests.run.tasks import task

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
NODES = 3
STEPS = 200
SAC = {"name": "sac", "batch_size": 16, "random_decisions": 20}
ABLATION = {
    "title": "Twelve jobs",
    "methods": {name: {"algorithm": {**SAC, "hidden": hidden}} for name, hidden in (("wide", 12), ("narrow", 8))},
    "changes": {
        "task": {"family": "tests.faults.waiting"},
        "env_steps": STEPS,
        "evaluation": {"episodes": 1},
        "checkpoint_seconds": 1.0,
    },
    "tasks": [0, 1],
    "seeds": [0, 1, 2],
}


class Nodes:
    """A cluster, its address, and the processes of its nodes."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as Local

        small = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
        self.local = Local(initialize_head=True, head_node_args={**small, "include_dashboard": False})
        self.nodes = [self.local.head_node, *(self.local.add_node(**small) for _ in range(NODES - 1))]
        self.address = self.local.address

    def raylet(self, number: int) -> int:
        (one,) = self.nodes[number].all_processes["raylet"]
        return int(one.process.pid)

    def workers(self, number: int) -> list[int]:
        """Processes below a node that serve tasks."""
        return [
            pid for pid in below(self.raylet(number)) if "Worker" in command_of(pid) or "spawn_main" in command_of(pid)
        ]

    def kill(self, number: int) -> None:
        """What is left of a machine whose power goes: nothing."""
        gone = [self.raylet(number), *below(self.raylet(number))]
        for pid in gone:
            os.kill(pid, signal.SIGSTOP)  # so that none acts on the end of another
        for pid in gone:
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install -e '.[cluster]'")
    made = Nodes()
    yield made
    ray.shutdown()
    made.local.shutdown()


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, Any]:
    """What one machine makes of the ablation."""
    out = tmp_path_factory.mktemp("here")
    began = time.monotonic()
    assert len(ablate(build(AblationConfig, ABLATION), out).done) == 12
    print(f"\n12 jobs in two processes of this machine: {time.monotonic() - began:.0f} s")
    return results(out)


def results(out: Path) -> dict[str, Any]:
    """All files of all runs, and the tables, without what the wall clock decides: times, and how many checkpoints were made, which
    the last file of a replay's rows is numbered by."""
    found = {}
    for name, value in contents(out).items():
        if name.startswith("methods/") or name in ("results.csv", "summary.json"):
            if name.endswith("state.json"):
                value.pop("rows", None)
            found[re.sub(r"rows-\d+", "rows", name)] = value
    return found


def below(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    try:
        children = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        for thread in Path(f"/proc/{pid}/task").iterdir():
            children += [int(one) for one in (thread / "children").read_text().split() if int(one) not in children]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [*children, *(other for child in children for other in below(child))]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="ignore")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def holds(pids: Sequence[int]) -> Path | None:
    """The run folder that one of these processes has locked."""
    for pid in pids:
        try:
            files = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        found = next((Path(file).parent for file in files if file.endswith("/.lock")), None)
        if found is not None:
            return found
    return None


def progress(folder: Path) -> tuple[float, str]:
    try:
        found = read_json(folder / "progress.json")
        return float(found["fraction"]), str(found["text"])
    except UserError:
        return 0.0, ""


def finished(out: Path) -> int:
    return len(list(out.glob("methods/*/*/*/result.json")))


def test_an_ablation_of_twelve_jobs_in_which_a_node_is_killed(expected, nodes, tmp_path):
    said: list[str] = []

    def kill_a_node() -> None:
        """The last one, when some jobs are done and the one on it has saved, and is in the middle."""
        while True:
            folder = holds(nodes.workers(NODES - 1))
            if finished(tmp_path) >= 3 and folder is not None and list(folder.glob("checkpoints/ckpt-*")):
                if 0.3 < progress(folder)[0] < 0.8:
                    break
            time.sleep(0.05)
        began, before = time.monotonic(), progress(folder)[1]
        nodes.kill(NODES - 1)
        saved = max(folder.glob("checkpoints/ckpt-*"), default=None)
        said.append(
            f"killed with {finished(tmp_path)} jobs done: {folder.relative_to(tmp_path)} at {before}, saved {saved and saved.name}"
        )
        stamp = (folder / "progress.json").stat().st_mtime_ns
        while (folder / "progress.json").stat().st_mtime_ns == stamp:
            time.sleep(0.05)
        said.append(f"{time.monotonic() - began:.1f} s later it continues elsewhere at {progress(folder)[1]}")

    killer = threading.Thread(target=kill_a_node, daemon=True)
    killer.start()
    began = time.monotonic()
    outcome = ablate(build(AblationConfig, ABLATION), tmp_path, cluster=nodes.address)
    said.append(f"12 jobs on {NODES} nodes of one CPU, one of which is killed: {time.monotonic() - began:.0f} s")
    killer.join(10)
    print("\n" + "\n".join(said))
    assert len(said) == 3 and len(outcome.done) == 12 and not outcome.failed and not outcome.stopped
    assert results(tmp_path) == expected
    print(f"{len(expected)} files are equal, to the byte")


def test_trials_on_a_cluster_are_those_of_this_machine(nodes, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    config = {"task": BANDIT, "env_steps": 200, "algorithm": {**RL2, "tasks": 8}, "envs_per_batch": 2}
    made = {}
    for processes in (1, "ray"):
        out = tmp_path / str(processes)
        node = load(
            "meta/rl2_bandit_5", [f"{key}={value}" for key, value in config.items()] + [f"processes={processes}"]
        )
        assert train(train_config(node), out, quiet=True, page=False) is not None
        made[processes] = [(out / file).read_bytes() for file in ("metrics.jsonl", "actor/state.safetensors")]
    assert made[1] == made["ray"] and made[1][0].count(b"\n") > 2


def start(config: Path, out: Path, nodes: Nodes, there: Sequence[int]) -> subprocess.Popen:
    """The command, when two nodes have a job of it."""
    command = [sys.executable, "-m", "downstream.ablate", str(config), "--out", str(out), "--cluster", nodes.address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while sum(holds(nodes.workers(node)) is not None for node in there) < 2:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    return process


def test_a_command_that_is_stopped_or_killed_leaves_nothing_and_resumes(expected, nodes, tmp_path):
    (tmp_path / "twelve.yaml").write_text(dump_yaml(ABLATION))
    out = tmp_path / "out"
    there = range(NODES - 1)  # the last one may be dead
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)):
        process = start(tmp_path / "twelve.yaml", out, nodes, there)
        began = time.monotonic()
        process.send_signal(number)
        said = process.communicate(timeout=60)[0]
        ended = time.monotonic() - began
        assert process.returncode == status, said
        while [pid for node in there for pid in nodes.workers(node) if "spawn_main" in command_of(pid)]:
            assert time.monotonic() - began < 30
            time.sleep(0.05)
        print(
            f"\n{signal.Signals(number).name}: ended after {ended:.1f} s, no worker left after {time.monotonic() - began:.1f} s"
        )
        assert not list(out.glob("**/.stop")) or number == signal.SIGKILL
    assert len(ablate(build(AblationConfig, load(tmp_path / "twelve.yaml")), out, cluster=nodes.address).done) == 12
    found = results(out)
    for name in expected:
        if not name.endswith(("environment.json", "checksums.json")):  # these have the command
            assert found[name] == expected[name], name


def test_a_folder_that_a_lost_worker_still_holds_is_waited_for(nodes, tmp_path, monkeypatch):
    """As one does on a machine that only seemed to be dead."""
    lock = lock_folder(tmp_path)
    pool = pool_of(Cluster(nodes.address), task)
    (number,) = pool.give([("lock", tmp_path)])
    try:
        while not (ends := pool.ended()):
            pass
        assert "another process is running in this folder" in str(ends[0].error)
        (number,) = pool.give([("lock", tmp_path)])
        pool._until[number] = time.monotonic() + 60  # as if its worker had been lost
        for _ in range(10):
            assert pool.ended(0.5) == []
        lock.release()
        while not (ends := pool.ended()):
            pass
        assert ends[0].result == "locked"
    finally:
        pool.close()


def test_a_machine_that_does_not_see_the_folders_or_has_other_versions_is_named(nodes, tmp_path, monkeypatch):
    for shared, match in (
        ((tmp_path / "gone",), "/gone: is not there on .*, a machine of the cluster"),
        ((), "has numpy .* and this one 0.1; install"),
    ):
        pool = pool_of(Cluster(nodes.address, shared), task)
        pool.give([("x", 1)])
        if not shared:
            monkeypatch.setattr(program, "versions", lambda: {"numpy": "0.1"})
        with pytest.raises(UserError, match=match):
            while True:
                pool.ended()
        pool.close()
