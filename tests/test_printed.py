"""Every command that the README and the docs print is run, on a small budget, in the order of its page."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from skillmeta.cli import main

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
OWN = r"YOUR_|MY_|path/to|new\.npz"  # what a reader puts something of their own for
LONG = {  # what is not run here, and where it is
    "skillmeta reproduce maze": "hours; its page says so",
    "skillmeta ablate ablations/regularizer --out /shared/runs/regularizer --cluster auto": "tests/faults/test_cluster.py",
}
BEFORE = {"docs/methods.md": ["skillmeta meta-train meta/simpl_maze --out runs/simpl"]}  # what another page has made
ALONE = ("README.md", "docs/logs.md")  # these start with nothing; the others where the README ends
SKILLS = ("training.steps=20", "training.held_out_every=10", "quality.episodes=1")
SECTIONS = {  # of skills, in ablations that collect logs
    "ablations/maze_floor": [""], "ablations/maze_skills": [""], "ablations/regularizer": ["closed_loop.", "open_loop."],
    "ablations/simpl": [""], "ablations/simpl_factors": [""],
    "ablations/priors": ["gaussian.", "longer.", "wider.", "mixture.", "longer_mixture.", "short.", "long."],
}  # fmt: skip
STARTS = {"ablations/simpl": ["simpl"], "ablations/simpl_factors": ["default", "ten_goals", "one_way", "capped"]}
RUNNERS = ("expert.tasks=2", "expert.iterations=3")  # that are trained first


def commands(page: str) -> list[str]:
    """What a page prints to be typed, of this program."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", (ROOT / page).read_text(), re.S | re.M)
    lines = (line.partition(" #")[0].strip() for block in blocks for line in block.splitlines())
    return [line for line in lines if line.startswith("skillmeta ") and not re.search(OWN, line) and line not in LONG]


PAGES = [
    name
    for name in ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md")))]
    if name != "docs/commands.md" and commands(name)
]


def short(line: str) -> list[str]:
    """The words of a command, with keys that make it short."""
    _, command, *rest = shlex.split(line)
    config = rest[0] if rest else ""
    if command == "collect":
        rest += ["expert.steps=3000", *(RUNNERS if config == "pretrain/half_cheetah_logs" else ())]
    elif command == "skills":
        rest += SKILLS
    elif command == "finetune":
        rest += ["env_steps=3000", "evaluation.episodes=1"]
    elif command == "meta-train":
        rest += ["env_steps=3000"]
    elif command == "evaluate" and config == "tasks/maze":
        rest += ["episodes=1"]
    elif command == "ablate" and "--vary" in rest:
        rest += SKILLS if config.startswith("pretrain/") else ["env_steps=2000", "evaluation.episodes=1"]
        rest += ["--seeds", "1", "--workers", "1"]
    elif command == "ablate":
        rest += ["changes.env_steps=2000", "--seeds", "1", "--workers", "1"]
        rest += [f"skills.{section}{one}" for section in SECTIONS.get(config, []) for one in SKILLS]
        rest += [f"starts.{name}.env_steps=3000" for name in STARTS.get(config, [])]
        rest += ["logs.expert.steps=3000"] if config in SECTIONS else []
        few = config in ("ablations/regularizer", "ablations/priors", *STARTS)
        rest += ["tasks=[0]", "changes.evaluation.episodes=1"] if few else []
    return [command, *rest]


def run_page(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
    for line in [*BEFORE.get(page, []), *commands(page)]:
        status = main(short(line))
        said = capsys.readouterr()
        assert status == 0, f"{page}: {line}\n{said.out[-2000:]}{said.err[-2000:]}"


@pytest.fixture(scope="module")
def after_readme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("printed")


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_prints_runs(page, after_readme, tmp_path, monkeypatch, capsys):
    if page == "README.md":
        run_page(page, after_readme, monkeypatch, capsys)
        return
    if page not in ALONE:
        shutil.copytree(after_readme, tmp_path, dirs_exist_ok=True)
        for line in commands(page):
            for made in re.findall(r"--out (\S+)", line):
                shutil.rmtree(tmp_path / made, ignore_errors=True)
    run_page(page, tmp_path, monkeypatch, capsys)
