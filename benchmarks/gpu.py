"""Whether an accelerator learns what the CPU does, and when it is faster: `python -m benchmarks.gpu [--device cuda] [--json FILE]`.

Under eight minutes, from the root of a checkout. With `--device cpu` the CPU is compared with itself.

1. Learning. Milliseconds of an update at the sizes of the presets, without the collection of what is learned from: on the CPU, on
   the device as it runs there (with CUDA graphs), and there without graphs. And the share of the latter in which a kernel runs.
2. Seeds. Updates a second of SAC in skill space for 1, 8 and 64 seeds: alone in a plain loop, and stacked with CUDA graphs.
3. Acting. Milliseconds of one action for 1, 32 and 256 environments, observations from NumPy and actions back to it.
4. Equality. Each learner of the contract tests collects and learns on the CPU, is saved, and continues from there on both devices:
   the same episodes, batches and noise. Stated is the largest difference of a parameter, a moment of an optimiser or a metric, and
   the one that rounding alone makes: on the CPU, from numbers that were changed in their last digits. Above the tolerance, and
   above three times what rounding makes, the exit status is 1. And twice more on the device, with graphs and without: whether each
   repeats the first to the bit.
5. Whole runs. Skills, fine-tuning, a stack and meta-training from the command line on the device, each to its page.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

from skillmeta.algorithms import sac
from skillmeta.cli import main as skillmeta_main
from skillmeta.data.windows import WindowBatch
from skillmeta.nn import cuda_graph
from skillmeta.nn.stack import Stack
from skillmeta.objectives.regularizer import RegularizerConfig
from skillmeta.run.checkpoint import load_state, save_state, state_hash
from skillmeta.run.device import CPU, device_of, move, placed
from skillmeta.run.parts import restore_parts, state_of
from skillmeta.run.run import environment
from skillmeta.seeds import Seeds
from skillmeta.skills.training import SkillTrainer, TrainingConfig
from skillmeta.skills.vae import SkillModel, SkillModelConfig
from skillmeta.types import EnvSpec
from tests.contracts.test_learners import CASES, Trained, made, made_of
from tests.goldens.cases import MAZE, PENDULUM, POINT, SKILL_PRIOR, save_logs

LAST_DIGITS = 1e-7  # of a float32
RELATIVE, ABSOLUTE = 1e-3, 1e-4  # float rounding, which an optimiser's moments near 0 enlarge
SPIRL = {"name": "sac", "policy_start": "prior", "regularizer": SKILL_PRIOR}
SIZES: dict[str, tuple[str, dict[str, Any]]] = {  # presets, with a few updates
    "sac": ("finetune", {"task": PENDULUM, "algorithm": {"name": "sac", "updates_per_decision": 0.25}}),
    "sac, 2 x 64, batch 64": (
        "finetune",
        {"task": PENDULUM, "algorithm": {"name": "sac", "hidden": 64, "batch_size": 64, "updates_per_decision": 0.25}},
    ),
    "sac, compiled": ("finetune", {"task": PENDULUM, "algorithm": {"name": "sac", "compile": True, "updates_per_decision": 0.25}}),
    "spirl": ("finetune", {"task": MAZE, "algorithm": {**SPIRL, "updates_per_decision": 4.0}, "skills": True}),
    "pearl": ("meta-train", {"task": POINT, "algorithm": {"name": "pearl", "training_tasks": 20, "updates": 30}}),
    "simpl": (
        "meta-train",
        {"task": MAZE, "algorithm": {"name": "simpl", "training_tasks": 12, "first_episodes": 2, "reuse": 300.0}, "skills": True},
    ),
    "rl2": ("meta-train", {"task": POINT, "algorithm": {"name": "rl2", "tasks": 64, "episodes": 2}}),
    "maml": ("meta-train", {"task": POINT, "algorithm": {"name": "maml"}}),
    "promp": ("meta-train", {"task": POINT, "algorithm": {"name": "promp"}}),
    "reptile": ("meta-train", {"task": POINT, "algorithm": {"name": "reptile"}}),
}  # fmt: skip


ROWS = 10_000  # of a replay
SECONDS = 3  # of a measurement, at most


class Shape(NamedTuple):
    """Sizes of SAC in skill space."""

    observed: int
    units: int
    depth: int
    batch: int


SHAPES = {"maze, 2 x 128, batch 128": Shape(4, 128, 2, 128), "kitchen, 3 x 256, batch 256": Shape(60, 256, 3, 256)}


# -- equality ----------------------------------------------------------------------------------------------------------------
def difference(found: Any, wanted: Any) -> float:
    """The largest difference of two states or metrics, in parts of the tolerance: at most 1 where they agree."""
    if isinstance(wanted, dict):
        return max((difference(found[key], value) for key, value in wanted.items()), default=0.0)
    if isinstance(wanted, torch.Tensor) and not wanted.is_floating_point():
        return 0.0 if torch.equal(found.cpu(), wanted.cpu()) else float("inf")
    if isinstance(wanted, (torch.Tensor, float)):
        one, other = (torch.as_tensor(value).detach().cpu().double() for value in (found, wanted))
        return float(((one - other).abs() / (ABSOLUTE + RELATIVE * other.abs())).max()) if one.numel() else 0.0
    return 0.0


def nudged(state: Any, generator: torch.Generator) -> Any:
    """A state whose numbers are changed in their last digits."""
    if isinstance(state, dict):
        return {key: nudged(value, generator) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(nudged(value, generator) for value in state)
    if isinstance(state, torch.Tensor) and state.dtype == torch.float32:
        return state * (1 + LAST_DIGITS * torch.randn(state.shape, generator=generator))
    return state


def compared(kind: str, name: str, device: torch.device, folder: Path) -> dict[str, Any]:
    """A learner continues from the same checkpoint on the CPU, on the device, and in four other ways."""
    begun = made(kind, name, folder)
    begun.learner.iterate(begun.source)
    save_state(folder / "state", state_of(begun.learner.parts()))

    def continued(where: torch.device, nudge: int | None = None) -> tuple[Any, Any]:
        one, state = made(kind, name, folder, where), load_state(folder / "state")[0]
        if nudge is not None:
            state = nudged(state, torch.Generator().manual_seed(nudge))
        restore_parts(one.learner.parts(), state)
        one.source.restore(begun.source.state())
        metrics = one.learner.iterate(one.source)
        return metrics, state_of(one.learner.parts())

    def far(found: tuple[Any, Any], wanted: tuple[Any, Any]) -> float:
        return max(difference(one, other) for one, other in zip(found, wanted, strict=True))

    def same(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
        return bool(one[0] == other[0] and state_hash(one[1]) == state_hash(other[1]))

    here, there = continued(CPU), continued(device)
    again, rounded = continued(device), [continued(CPU, nudge) for nudge in range(2)]
    with eager():
        without = continued(device)
    return {
        "learner": name,
        "difference": far(there, here),
        "rounding": max(far(one, here) for one in rounded),
        "repeats": same(again, there),
        "graph_is_eager": same(without, there),
    }


def agrees(row: dict[str, Any]) -> bool:
    """Whether a learner's difference is within the tolerance, or within what rounding explains."""
    return bool(row["difference"] <= max(1.0, 3 * row["rounding"]))


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """Updates in here are not recorded as CUDA graphs."""
    with mock.patch.object(cuda_graph, "WARM_UP", sys.maxsize):
        yield


def whole(device: torch.device, folder: Path) -> None:
    """Commands on the device, each to its page. Raises SystemExit where one fails."""
    save_logs(folder / "log.npz")
    skills = ("skills", "pretrain/maze", f"source={folder / 'log.npz'}", "task=null", "training.steps=20")
    maze = (
        "finetune",
        "downstream/maze_sac",
        "task.options.max_episode_steps=50",
        "env_steps=200",
        "algorithm.random_decisions=50",
    )
    small = "algorithm={training_tasks: 2, tasks: 2, tasks_per_iteration: 1, first_episodes: 1}"
    pearl = ("meta-train", "meta/pearl_point", "env_steps=4000", small)
    for number, command in enumerate((skills, maze, (*maze, "stack_seeds=[0,1]"), pearl)):
        out = folder / f"whole-{number}"
        if status := skillmeta_main([*command, f"device={device}", "--out", str(out)]):
            raise SystemExit(f"skillmeta {' '.join(command)} ended with {status}")
        assert list(out.rglob("report.html"))


# -- speed -------------------------------------------------------------------------------------------------------------------
def finished(device: torch.device) -> float:
    """The time, once everything on the device is done."""
    if device != CPU:
        torch.accelerator.synchronize(device)
    return time.perf_counter()


class Clocked:
    """A source, and how long it took to collect."""

    def __init__(self, source: Any, device: torch.device):
        self.source, self.device, self.seconds = source, device, 0.0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.source, name)
        if not callable(found):
            return found

        def call(*args: Any) -> Any:
            start = finished(self.device)
            result = found(*args)
            self.seconds += finished(self.device) - start
            return result

        return call


def iterated(one: Trained, device: torch.device) -> tuple[float, int]:
    """Milliseconds of learning in one iteration, and its updates."""
    source, updates, start = Clocked(one.source, device), one.learner.updates, finished(device)
    one.learner.iterate(source)
    return 1000 * (finished(device) - start - source.seconds), one.learner.updates - updates


def learning(name: str, device: torch.device, folder: Path, repeats: int) -> float:
    """Milliseconds an update, the median over iterations."""
    kind, options = SIZES[name]
    one = made_of(kind, {**options}, folder, device)
    for _ in range(2):  # the first one may learn nothing, or compile
        iterated(one, device)
    return statistics.median(
        spent / max(1, updates) for spent, updates in (iterated(one, device) for _ in range(repeats))
    )


class Fixed:
    """A source of skill training that gives the same windows at every update."""

    spent = False

    def __init__(self, windows: WindowBatch):
        self.windows = windows

    def sample(self, generator: torch.Generator, rows: slice) -> WindowBatch:
        return self.windows


def skills(batch: int, device: torch.device, repeats: int) -> float:
    """Milliseconds of an update of the skill model at the kitchen's sizes, windows from the CPU."""
    ones, g = torch.ones(9), np.random.default_rng(0)
    model = SkillModel(SkillModelConfig(), 60, 9, -ones, ones, torch.Generator().manual_seed(0)).to(device)
    none = torch.zeros(batch, 10)
    observed, done = (torch.from_numpy(g.normal(size=s).astype(np.float32)) for s in ((batch, 11, 60), (batch, 10, 9)))
    windows = WindowBatch(observed, done.clamp(-1, 1), none, none.bool(), none.bool())
    config = TrainingConfig(batch_size=batch, held_out_every=10**6)
    trainer = SkillTrainer(model, config, (windows, torch.zeros(batch, model.dim)), Seeds(0))
    source: Any = Fixed(windows)
    return timed(lambda: trainer.iterate(source), device, 10 * repeats)


def learner(seed: int, prior: SkillModel, device: torch.device, shape: Shape) -> sac.Learner:
    """SPiRL with a replay that is full."""
    guided = RegularizerConfig(prior="skill", target_divergence=1.0)
    config = sac.Config(
        guided, "prior", shape.units, shape.depth, shape.depth, batch_size=shape.batch, replay_capacity=ROWS
    )
    made = sac.Learner(config, EnvSpec(shape.observed, np.ones(prior.dim, np.float32)), prior, Seeds(seed))
    columns = made.replay.columns
    for values in (columns.observation, columns.action, columns.reward, columns.next_observation):
        values.uniform_(-1, 1, generator=torch.Generator().manual_seed(seed))
    made.replay.added = ROWS
    move(made.parts(), device)
    return made


def stacked(count: int, shape: Shape, device: torch.device, repeats: int) -> float:
    """Milliseconds of an update of each of so many seeds; 0: of one seed alone."""
    ones, config = torch.ones(2), SkillModelConfig()
    prior = SkillModel(config, shape.observed, 2, -ones, ones, torch.Generator().manual_seed(0)).to(device)
    learners = [learner(seed, prior.requires_grad_(False), device, shape) for seed in range(max(1, count))]
    stack = Stack(learners) if count else None
    updates = 10

    def learn() -> None:
        if stack is None:
            learners[0].learn(updates)
        else:
            stack.learn([updates] * count)

    return timed(learn, device, 2 * repeats) / updates


def acting(count: int, device: torch.device, folder: Path, repeats: int) -> float:
    """Milliseconds of one action of SAC's default policy (2 x 256) for so many environments."""
    actor = placed(
        made_of("finetune", {"task": PENDULUM, "algorithm": {"name": "sac"}}, folder).learner.actor(), device
    )
    observation, generator = np.zeros((count, 3), np.float32), torch.Generator()

    def act() -> None:
        seen = torch.from_numpy(observation).to(device)
        actor.act(seen, None, generator, False)[0].cpu().numpy()

    with torch.inference_mode():
        return timed(act, device, 100 * repeats)


def timed(function: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Milliseconds of a call, the median over rounds: all, or what fits into some seconds."""
    for _ in range(5):  # the first ones may compile, or be recorded
        function()
    seen: list[float] = []
    while len(seen) < rounds and sum(seen) < 1000 * SECONDS:
        start = finished(device)
        function()
        seen.append(1000 * (finished(device) - start))
    return statistics.median(seen)


def busy(name: str, device: torch.device, folder: Path) -> float:
    """The share of learning's time in which a kernel runs."""
    kind, options = SIZES[name]
    one = made_of(kind, {**options}, folder, device)
    for _ in range(2):
        iterated(one, device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        spent, _ = iterated(one, device)
    return sum(event.self_device_time_total for event in seen.key_averages()) / 1000 / spent


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", nargs="*", help="learners whose names begin so")
    parser.add_argument("--repeats", type=int, default=5, help="iterations that a time is the median of")
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    warnings.filterwarnings("always", message="updates run without")
    device, only = device_of(options.device), tuple(options.only or [""])
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    where = environment(" ".join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]]))
    print(f"{named}; {where['machine']['cpu']}, one thread, torch {torch.__version__}", flush=True)
    equal: list[dict[str, Any]] = []
    times: list[dict[str, Any]] = []
    seeds: list[dict[str, Any]] = []

    def each(what: str, measure: Callable[[torch.device], float], graphs: bool = True) -> dict[str, Any]:
        row = {"what": what, "cpu": measure(CPU), "device": measure(device)}
        line = f"{what:<34} cpu {row['cpu']:9.3f} ms   {device} {row['device']:9.3f} ms"
        if graphs and device.type == "cuda":
            with eager():
                row["eager"] = measure(device)
            line += f"   without graphs {row['eager']:9.3f} ms"
        times.append(row)
        print(line, flush=True)
        return row

    def wanted(name: str) -> bool:
        return name.startswith(only)

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in filter(wanted, SIZES):
            row = each(f"update of {name}", functools.partial(learning, name, folder=folder, repeats=options.repeats))
            if device.type == "cuda" and "compiled" not in name:
                with eager():
                    row["busy"] = busy(name, device, folder)
                print(f"{'':<34} without graphs a kernel runs in {row['busy']:.0%} of it", flush=True)
        for batch in (128, 1024, 8192):
            if wanted("skills"):
                each(f"update of skills, batch {batch}", functools.partial(skills, batch, repeats=options.repeats))
        for size, shape in SHAPES.items() if wanted("seeds") else ():
            with eager():
                alone = stacked(0, shape, device, options.repeats)
            for count in (0, 1, 8, 64):
                spent = stacked(count, shape, device, options.repeats)
                seeds.append(
                    {"size": size, "seeds": max(1, count), "stack": count > 0, "ms": spent, "plain_loop_ms": alone}
                )
                how = f"{count} stacked" if count else "1 alone"
                rate = 1000 * max(1, count) / spent
                print(
                    f"seeds, {size:<27} {how:>10} {spent:8.3f} ms, {rate:8.0f} updates a second, {rate * alone / 1000:6.1f} times "
                    "a plain loop",
                    flush=True,
                )
        for count in (1, 32, 256):
            if wanted("acting"):
                act = functools.partial(acting, count, folder=folder, repeats=options.repeats)
                each(f"acting, {count}", act, graphs=False)
        if wanted("whole"):
            whole(device, folder)
        for kind, name in CASES:
            if wanted(name):
                equal.append(compared(kind, name, device, folder))
                print(
                    "{learner:<24} {difference:9.4f} of the tolerance, rounding alone {rounding:9.4f}; repeats itself: {repeats}, "
                    "graph as without: {graph_is_eager}".format(**equal[-1]),
                    flush=True,
                )
    wrong = [row["learner"] for row in equal if not agrees(row)]
    print(
        f"not equal: {', '.join(wrong)}"
        if wrong
        else f"{len(equal)} learners equal within the tolerance, or within rounding"
    )
    if options.json:
        found = {**where, "device": named, "equal": equal, "times": times, "seeds": seeds}
        Path(options.json).write_text(json.dumps(found, indent=1))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
