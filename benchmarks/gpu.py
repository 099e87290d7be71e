"""Whether an accelerator learns what the CPU does, and when it is faster: `python -m benchmarks.gpu [--device cuda] [--json FILE]`.

Under eight minutes, from the root of a checkout. With `--device cpu` the CPU is compared with itself.

1. Equality. Each learner of the contract tests collects and learns on the CPU, is saved, and continues from there on both devices:
   the same episodes, batches and noise. Stated is the largest difference of a parameter, a moment of an optimiser or a metric;
   above the tolerance the exit status is 1. And a second time on the device: whether it repeats itself to the bit.
2. Learning. Milliseconds of an update at the sizes of the presets, without the collection of what is learned from.
3. Acting. Milliseconds of one action for 1, 32 and 256 environments, observations from NumPy and actions back to it.
4. Where there are kernels: the share of an update in which one runs. The rest is what a CUDA graph or torch.compile could save.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

from skillmeta.data.windows import WindowBatch
from skillmeta.nn.optimizers import adam
from skillmeta.run.checkpoint import load_state, save_state, state_hash
from skillmeta.run.device import CPU, device_of, normal, placed
from skillmeta.run.parts import restore_parts, state_of
from skillmeta.run.run import environment
from skillmeta.skills.training import skill_losses
from skillmeta.skills.vae import SkillModel, SkillModelConfig
from tests.contracts.test_learners import CASES, Trained, made, made_of
from tests.goldens.cases import MAZE, PENDULUM, POINT, SKILL_PRIOR

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


def compared(kind: str, name: str, device: torch.device, folder: Path) -> dict[str, Any]:
    """A learner continues from the same checkpoint on the CPU, and twice on the device."""
    begun = made(kind, name, folder)
    begun.learner.iterate(begun.source)
    save_state(folder / "state", state_of(begun.learner.parts()))
    ends = []
    for where in (CPU, device, device):
        one = made(kind, name, folder, where)
        restore_parts(one.learner.parts(), load_state(folder / "state")[0])
        one.source.restore(begun.source.state())
        metrics = one.learner.iterate(one.source)
        ends.append((metrics, one.learner.parts()))
    (wanted, here), (found, there), (again, second) = ends
    return {
        "learner": name,
        "difference": max(difference(found, wanted), difference(state_of(there), state_of(here))),
        "repeats": found == again and state_hash(state_of(there)) == state_hash(state_of(second)),
    }


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


def skills(batch: int, device: torch.device, repeats: int) -> float:
    """Milliseconds of an update of the skill model at the kitchen's sizes, windows from the CPU."""
    generator, ones = torch.Generator().manual_seed(0), torch.ones(9)
    model = SkillModel(SkillModelConfig(), 60, 9, -ones, ones, generator).to(device)
    optimizer, g = adam(model.parameters(), 1e-3), np.random.default_rng(0)
    none = torch.zeros(batch, 10)
    observed, done = (torch.from_numpy(g.normal(size=s).astype(np.float32)) for s in ((batch, 11, 60), (batch, 10, 9)))
    windows = WindowBatch(observed, done.clamp(-1, 1), none, none.bool(), none.bool())

    def update() -> None:
        noise = normal(model.action_low, generator, batch, model.dim)
        losses = skill_losses(model, placed(windows, device), noise)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(losses.total(4.5e-3))
        optimizer.step()

    return timed(update, device, repeats)


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


def timed(function: Callable[[], None], device: torch.device, rounds: int) -> float:
    for _ in range(3):
        function()
    seen = []
    for _ in range(rounds):
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
    device, only = device_of(options.device), tuple(options.only or [""])
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    where = environment(" ".join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]]))
    print(f"{named}; {where['machine']['cpu']}, one thread, torch {torch.__version__}", flush=True)
    equal: list[dict[str, Any]] = []
    times: list[dict[str, Any]] = []

    def both(what: str, measure: Callable[[torch.device], float]) -> None:
        row = {"what": what, "cpu": measure(CPU), "device": measure(device)}
        times.append(row)
        print(f"{what:<34} cpu {row['cpu']:9.3f} ms   {device} {row['device']:9.3f} ms", flush=True)

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for kind, name in CASES:
            if name.startswith(only):
                equal.append(compared(kind, name, device, folder))
                print(
                    "{learner:<34} {difference:9.4f} of the tolerance, repeats itself: {repeats}".format(**equal[-1]),
                    flush=True,
                )
        for name in SIZES:
            if name.startswith(only):
                both(f"update of {name}", lambda at, name=name: learning(name, at, folder, options.repeats))  # type: ignore[misc]
                if device.type == "cuda" and "compiled" not in name:
                    times[-1]["busy"] = busy(name, device, folder)
                    print(f"{'':<34} a kernel runs in {times[-1]['busy']:.0%} of it", flush=True)
        for batch in (128, 1024, 8192):
            if "skills".startswith(only):
                both(f"update of skills, batch {batch}", lambda at, batch=batch: skills(batch, at, options.repeats))  # type: ignore[misc]
        for count in (1, 32, 256):
            if "acting".startswith(only):
                both(f"acting, {count}", lambda at, count=count: acting(count, at, folder, options.repeats))  # type: ignore[misc]
    wrong = [row["learner"] for row in equal if not row["difference"] <= 1]
    print(f"not equal: {', '.join(wrong)}" if wrong else f"{len(equal)} learners equal within the tolerance")
    if options.json:
        Path(options.json).write_text(json.dumps({**where, "device": named, "equal": equal, "times": times}, indent=1))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
