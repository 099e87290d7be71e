"""Mutation testing: `python -m tests.mutation`; see docs/testing.md.

cosmic-ray finds the places where code can be mutated and mutates it. Here are the sample, which is stratified by folder, and the
runs: one process imports the large packages once and forks a child for each mutant, which runs the tests that execute the mutated
line in a copy of the working tree.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import importlib
import json
import os
import py_compile
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from tests.mutation.executed import Executed
from tests.mutation.scope import left_out, modules, numbered
from tests.mutation.watch import Watch

ROOT = Path(__file__).parents[2]
CPU_SECONDS = 60  # of a mutant's tests; those are chosen to need half of it on the code as it is
WATCHED_SECONDS = 600  # of the tests of a file, while their lines are watched
WALL_SECONDS = 300
NO_TESTS = int(pytest.ExitCode.NO_TESTS_COLLECTED)  # of a file whose tests are all slow
PRELOADED = ("torch", "torch._dynamo", "scipy.stats", "mujoco", "gymnasium", "stable_baselines3", "matplotlib.pyplot",
             "omegaconf", "h5py", "minari", "hypothesis", "rich.live")  # fmt: skip
# Replacements that a person could have written by mistake: of the others (+ by >>) most only crash.
BINARY = (
    "Add_Sub",
    "Sub_Add",
    "Mul_Div",
    "Div_Mul",
    "FloorDiv_Div",
    "Mod_FloorDiv",
    "Pow_Mul",
    "BitAnd_BitOr",
    "BitOr_BitAnd",
)
COMPARISON = ("Eq_NotEq", "NotEq_Eq", "Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt",
              "Is_IsNot", "IsNot_Is")  # fmt: skip
UNARY = ("Delete_USub", "Delete_Not", "Delete_Invert", "USub_UAdd")
OTHER = ("AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd", "NumberReplacer",
         "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "RemoveDecorator", "ZeroIterationForLoop")  # fmt: skip
OPERATORS = {
    *(f"ReplaceBinaryOperator_{pair}" for pair in BINARY),
    *(f"ReplaceComparisonOperator_{pair}" for pair in COMPARISON),
    *(f"ReplaceUnaryOperator_{pair}" for pair in UNARY),
    *OTHER,
}


@dataclass(frozen=True)
class Mutant:
    """A change of one module."""

    folder: str
    module: str
    line: int
    operator: str
    occurrence: int

    @property
    def key(self) -> str:
        return f"{self.module}:{self.operator.partition('/')[2]}:{self.occurrence}"

    @property
    def source(self) -> str:
        """The module, mutated."""
        return mutate_code((ROOT / self.module).read_text(), get_operator(self.operator)(), self.occurrence)

    def diff(self) -> str:
        before = (ROOT / self.module).read_text().splitlines()
        return "\n".join(
            difflib.unified_diff(before, self.source.splitlines(), self.module, self.module, "", "", 2, "")
        )


def sites(path: Path) -> dict[tuple[int, int], list[tuple[str, int]]]:
    """For each position that can be mutated, the (operator, occurrence) that do it."""
    source = path.read_text()
    nodes, unwanted = list(ast_nodes(get_ast(source))), left_out(source)
    found: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for name in (name for name in operator_names() if name.partition("/")[2] in OPERATORS):
        operator = get_operator(name)()
        positions = (start for node in nodes for start, _ in operator.mutation_positions(node))
        for occurrence, start in enumerate(positions):
            if not any(low <= start < high for low, high in unwanted):
                found.setdefault(start, []).append((name, occurrence))
    return found


def sample(count: int, seed: int) -> list[Mutant]:
    """Mutants at random places, one each, in random order; every folder has its share of all places."""
    strata: dict[str, list[tuple[int, Mutant]]] = {}
    for folder, module in modules(ROOT):
        found = sites(ROOT / module)
        for number, place in numbered(seed, module, (ROOT / module).read_text(), found):
            mutant = Mutant(folder, str(module), place[0], *found[place][number % len(found[place])])
            strata.setdefault(folder, []).append((number, mutant))
    total = sum(map(len, strata.values()))
    exact = {folder: min(count, total) * len(places) / total for folder, places in strata.items()}
    shares = {folder: int(share) for folder, share in exact.items()}
    for folder in sorted(exact, key=lambda f: shares[f] - exact[f])[: min(count, total) - sum(shares.values())]:
        shares[folder] += 1
    chosen = []
    for folder, places in strata.items():
        print(f"{folder}: {shares[folder]} of {len(places)} places")
        chosen += sorted(places, key=itemgetter(0))[: shares[folder]]
    return [mutant for _, mutant in sorted(chosen, key=itemgetter(0))]


# -- running tests in forked children ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class End:
    """How a run of tests ended."""

    key: str
    outcome: str  # survived, caught, timeout
    seconds: float  # of CPU
    caught_by: str


class Tree:
    """A copy of the working tree, for one run of tests at a time."""

    def __init__(self, folder: Path, results: Path):
        self.folder, self.results, self.pid = folder, results, 0
        listed = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
        for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")[
            :-1
        ]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
        for path in (folder / "skillmeta").rglob("*.py"):  # valid for exactly this content, whatever its time and size
            py_compile.compile(str(path), invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)

    def watched(self, key: str) -> Path:
        """What the tests of a file execute."""
        return self.results / f"{key.replace('/', '.')}.json"

    def start(self, key: str, tests: list[str], mutant: Mutant | None = None) -> None:
        self.key, self.mutant, self.began = key, mutant, time.monotonic()
        self.log = self.folder.with_suffix(".log")
        if mutant:
            (self.folder / mutant.module).write_text(mutant.source)
        Path(f"{self.folder}.tmp").mkdir()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._test(tests)

    def _test(self, tests: list[str]) -> None:
        """In the child."""
        code, limit = 99, CPU_SECONDS if self.mutant else WATCHED_SECONDS
        try:
            os.setsid()
            os.chdir(self.folder)
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
            output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(output, stream)
            for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
                del sys.modules[name]
            sys.modules["__main__"] = types.ModuleType("__main__")  # what spawned workers would import
            sys.path[:] = [str(self.folder), *(entry for entry in sys.path if Path(entry).resolve() != ROOT)]
            os.environ["PYTHONPATH"] = os.pathsep.join(
                sys.path[:1] + os.environ.get("PYTHONPATH", "").split(os.pathsep)
            )
            os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = f"{self.folder}.tmp/hypothesis"
            options = ["-x", "-q", "-p", "no:cacheprovider", "--basetemp", f"{self.folder}.tmp/pytest", "--tb=line"]
            if self.mutant:
                code = int(pytest.main([*options, *tests]))
            else:
                watch = Watch(self.folder)
                with watch.coverage.collect():
                    code = int(pytest.main([*options, *tests], plugins=[watch]))
                watch.write(self.watched(self.key))
        finally:
            os._exit(code)

    def ended(self) -> End | None:
        """Whether the run has ended, and how."""
        pid, status, used = os.wait4(self.pid, os.WNOHANG)
        late = time.monotonic() - self.began > (WALL_SECONDS if self.mutant else 2 * WATCHED_SECONDS)
        if not pid and not late:
            return None
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if not pid:
            _, status, used = os.wait4(self.pid, 0)
        if self.mutant:
            shutil.copy2(ROOT / self.mutant.module, self.folder / self.mutant.module)
        shutil.rmtree(f"{self.folder}.tmp", ignore_errors=True)
        code, self.pid = os.waitstatus_to_exitcode(status), 0
        text = self.log.read_text(errors="replace")
        if code == 99:
            raise SystemExit(f"tests could not be run:\n{text[-3000:]}")
        reasons = re.findall(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
        outcome = (
            "timeout" if late or code == -signal.SIGXCPU else "caught" if code not in (0, NO_TESTS) else "survived"
        )
        return End(self.key, outcome, round(used.ru_utime + used.ru_stime, 2), reasons[0] if reasons else str(code))


def run_all(trees: list[Tree], work: Iterable[tuple[str, list[str], Mutant | None]]) -> Iterator[End]:
    """Every (key, test files, mutant), as many at once as there are trees; in the order in which they end."""
    waiting = iter(work)
    while True:
        for tree in trees:
            if not tree.pid and (one := next(waiting, None)):
                tree.start(*one)
        if not any(tree.pid for tree in trees):
            return
        time.sleep(0.05)
        yield from (end for tree in trees if tree.pid and (end := tree.ended()))


def resumed(path: Path, trees: list[Tree], work: list[tuple[str, list[str], Mutant | None]]) -> dict[str, End]:
    """Results of all work by key; those that the file has are not run again, new ones are appended to it."""
    lines = path.read_text().splitlines() if path.exists() else []
    done = {end.key: end for end in (End(**json.loads(line)) for line in lines)}
    done |= {key: End(key, "survived", 0.0, "no test") for key, tests, _ in work if not tests}
    left = [one for one in work if one[0] not in done]
    with path.open("a") as file:
        for number, end in enumerate(run_all(trees, left), 1):
            file.write(json.dumps(asdict(end)) + "\n")
            file.flush()
            done[end.key] = end
            print(f"{number}/{len(left)}  {end.outcome}  {end.seconds:.1f} s  {end.key}  {end.caught_by}", flush=True)
    return {key: done[key] for key, _, _ in work}


def report(mutants: list[Mutant], ends: dict[str, End]) -> str:
    """The score by folder, and the survivors with their diffs."""
    lines = ["| folder | mutants | caught | of them by time | score |", "|---|---|---|---|---|"]
    for folder in [*dict.fromkeys(m.folder for m in mutants), "all"]:
        found = [ends[m.key].outcome for m in mutants if folder in (m.folder, "all")]
        caught, late = len(found) - found.count("survived"), found.count("timeout")
        lines.append(f"| {folder} | {len(found)} | {caught} | {late} | {caught / len(found):.0%} |")
    used = sum(end.seconds for end in ends.values())
    lines.append(f"\n{used / 3600:.2f} core-hours, {used / max(1, len(ends)):.1f} s a mutant.")
    for m in sorted(mutants, key=lambda m: (m.module, m.line)):
        if ends[m.key].outcome == "survived":
            lines.append(f"\n### {m.key}, line {m.line}\n\n```diff\n{m.diff()}\n```")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--sample", type=int, default=400, help="mutants in all (default 400)")
    parser.add_argument("--seed", type=int, default=20261126, help="of the sample (default 20261126)")
    parser.add_argument("--first", type=int, help="run only the first so many of the sample, which is in random order")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", MUJOCO_GL="egl", PYTHONDONTWRITEBYTECODE="1")
    sys.dont_write_bytecode = True
    mutants = sample(arguments.sample, arguments.seed)[: arguments.first]
    sources = [path for folder in ("skillmeta", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]
    out = ROOT / "runs" / "mutation" / hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:8]
    out.mkdir(parents=True, exist_ok=True)
    for name in PRELOADED:
        importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        trees = [Tree(Path(folder) / str(i), out) for i in range(arguments.processes)]
        files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py"))
        print(f"{len(files)} test files on the code as it is")
        cost = resumed(out / "tests.jsonl", trees, [(test, [test], None) for test in files])
        for test in [test for test in files if cost[test].outcome != "survived"]:
            print(f"{test} fails on the code as it is, and is not used: {cost[test].caught_by}")
        tests = Executed.read(trees[0].watched(test) for test in files if cost[test].outcome == "survived")
        chosen = {m.key: tests.of(ROOT, m.module, m.line, CPU_SECONDS / 2) for m in mutants}
        ends = resumed(out / "mutants.jsonl", trees, [(m.key, chosen[m.key], m) for m in mutants])
    (out / "report.md").write_text(report(mutants, ends))
    print(f"{report(mutants, ends).partition('###')[0]}\nSurvivors: {out / 'report.md'}")


if __name__ == "__main__":
    main()
