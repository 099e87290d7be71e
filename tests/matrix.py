"""The quick part of the suite on each Python and with the lowest and the newest versions that pyproject.toml allows.

python -m tests.matrix                                  each of Python 3.11 to 3.13 that is on PATH, both kinds of versions
python -m tests.matrix --keep torch                     with torch as constraints.txt has it: its builds are gigabytes
python -m tests.matrix --python 3.11 --pins lowest      one cell

Each cell is a virtual environment in a temporary folder. `lowest` installs the lower bound of each of the package's
dependencies, `newest` what pip chooses. Prints a table, and what failed. Exit status 1 if a cell failed, or if there was none.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
PINS = ("lowest", "newest")
EXTRAS = "report,frames,minari,robotics,metaworld"  # that the quick part needs
TOOLS = ("pytest>=8", "pytest-timeout>=2.3", "hypothesis>=6.100", "hatchling>=1.26")
QUICK = (
    "tests/test_cli.py",
    "tests/test_config.py",
    "tests/contracts",
    "tests/data",
    "tests/envs",
    "tests/nn",
    "tests/objectives",
)
# What pip says of versions that do not go together.
CONFLICT = r"The user requested|^ERROR: (?!Cannot install|Resolution)"
SHOWN = ("numpy", "torch", "gymnasium", "mujoco", "stable-baselines3")  # versions in the table


@dataclass(frozen=True)
class Cell:
    """What came of one environment."""

    python: str
    pins: str
    versions: str
    result: str
    seconds: float
    passed: bool | None  # None: there was no such Python


def dependencies() -> list[Requirement]:
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return [Requirement(line) for line in found]


def lower_bound(requirement: Requirement) -> str:
    """`name==version` of the lowest version that a requirement allows. Raises ValueError if it states none."""
    found = [one.version for one in requirement.specifier if one.operator in (">=", "==", "~=")]
    if not found:
        raise ValueError(f"{requirement}: pyproject.toml states no lower bound")
    return f"{requirement.name}=={found[0]}"


def constrained(name: str) -> str:
    """`name==version` of constraints.txt. Raises ValueError if it is not there."""
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if canonicalize_name(line.partition("==")[0]) == canonicalize_name(name):
            return line
    raise ValueError(f"{name}: is not in constraints.txt")


def pins_of(kind: str, keep: Sequence[str]) -> list[str]:
    """The versions that an environment is held to."""
    kept = {canonicalize_name(name): constrained(name) for name in keep}
    lowest = {canonicalize_name(one.name): lower_bound(one) for one in dependencies()} if kind == "lowest" else {}
    return sorted({**lowest, **kept}.values())


def interpreter(version: str) -> str | None:
    """A Python that starts and is of that version; a shim of a version manager may be there and lead nowhere."""
    found = shutil.which(f"python{version}")
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    if found is None:
        return None
    said = subprocess.run([found, "-c", code], capture_output=True, text=True)
    return found if said.returncode == 0 and said.stdout.strip() == version else None


def run(command: Sequence[str], log: Path) -> bool:
    with log.open("a") as out:
        return subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT).returncode == 0


def cell(version: str, kind: str, keep: Sequence[str], tests: Sequence[str], folder: Path) -> Cell:
    python = interpreter(version)
    if python is None:
        return Cell(version, kind, "", "not run: there is no such Python on PATH", 0.0, None)
    began, log = time.monotonic(), folder / "log.txt"
    folder.mkdir(parents=True)
    (folder / "pins.txt").write_text("\n".join(pins_of(kind, keep)) + "\n")
    own = folder / "venv" / "bin" / "python"
    pip = [str(own), "-m", "pip", "install", "--progress-bar", "off"]
    install = [*pip, *TOOLS, f"{ROOT}[{EXTRAS}]", "-c", str(folder / "pins.txt")]
    made = run([python, "-m", "venv", str(folder / "venv")], log) and run(install, log)
    if not made:
        return Cell(version, kind, "", f"not installed: {last(log, CONFLICT)}", time.monotonic() - began, False)
    passed = run([str(own), "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], log)
    result = last(log, r"\d+ (passed|failed|error)")
    return Cell(version, kind, versions(own), result, time.monotonic() - began, passed)


def versions(python: Path) -> str:
    code = f"from importlib.metadata import version; print(', '.join(n + ' ' + version(n) for n in {SHOWN!r}))"
    return subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def last(log: Path, pattern: str) -> str:
    """The last line of a log that has a pattern, or its last line."""
    lines = [line.strip() for line in log.read_text().splitlines() if line.strip()] or ["no output"]
    return next((line for line in reversed(lines) if re.search(pattern, line)), lines[-1]).strip("= ")


def table(cells: Sequence[Cell]) -> str:
    head = "| python | pins | versions | result | seconds |\n|---|---|---|---|---|\n"
    return head + "\n".join(f"| {c.python} | {c.pins} | {c.versions} | {c.result} | {c.seconds:.0f} |" for c in cells)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__.splitlines()[0])
    parser.add_argument("--python", nargs="+", default=PYTHONS, metavar="X.Y")
    parser.add_argument("--pins", nargs="+", default=PINS, choices=PINS)
    parser.add_argument("--keep", nargs="+", default=[], metavar="PACKAGE", help="as in constraints.txt, in every cell")
    parser.add_argument(
        "--tests", nargs="+", default=QUICK, metavar="PATH", help="what pytest runs; by default the quick part"
    )
    parser.add_argument("--folder", type=Path, help="where environments and logs are left; by default they are removed")
    arguments = parser.parse_args(argv)
    cells = []
    with tempfile.TemporaryDirectory() as temporary:
        root = (arguments.folder or Path(temporary)).resolve()
        for version in arguments.python:
            for kind in arguments.pins:
                print(f"python {version}, {kind} pins", file=sys.stderr, flush=True)
                folder = root / f"{version}-{kind}"
                cells.append(cell(version, kind, arguments.keep, arguments.tests, folder))
                if cells[-1].passed is False:
                    print("\n".join((folder / "log.txt").read_text().splitlines()[-60:]), file=sys.stderr)
    print(table(cells))
    if arguments.keep:
        print(f"\nAs in constraints.txt in every row: {', '.join(map(constrained, arguments.keep))}.")
    ran = [one.passed for one in cells if one.passed is not None]
    return 0 if ran and all(ran) else 1


if __name__ == "__main__":
    raise SystemExit(main())
