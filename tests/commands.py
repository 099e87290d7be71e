"""The page of commands, docs/commands.md: the head of each one's --help, and the sentence that a wrong input gets.

python -m tests.commands     writes it anew
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from pathlib import Path
from unittest import mock

from skillmeta.cli import main

FILE = Path(__file__).parents[1] / "docs" / "commands.md"
WRONG = {  # command: a wrong key, a wrong value, something that does not exist
    "collect": ("pretrain/maze_logs shard=2", "pretrain/maze_logs expert.steps=-1", "pretrain/maze_log"),
    "skills": ("pretrain/maze modle.dim=4", "pretrain/maze model.dim=ten", "pretrain/maze source=nothing.npz"),
    "finetune": (
        "downstream/maze_sac sed=1",
        "downstream/maze_sac env_steps=0",
        "downstream/maze_sac task=cheetah_val",
    ),
    "meta-train": (
        "meta/rl2_bandit_5 env_step=3",
        "meta/rl2_bandit_5 processes=two",
        "meta/rl2_bandit_5 algorithm=rl3",
    ),
    "adapt": ("runs/rl2 bandit_5 indx=3", "runs/rl2 bandit_5 index=-1", "nowhere bandit_5"),
    "evaluate": ("bandit_5 epsiodes=1", "bandit_5 episodes=-1", "bandit_5 agents=[nowhere]"),
    "ablate": ("demo method.sac=x", "demo workers=0", "ablations/regulariser"),
}
HEAD = """# Commands

What `skillmeta COMMAND --help` begins with, and what wrong inputs get: one sentence on stderr and exit status 2. After its
head each `--help` lists every key of the command's config with its default, type, limits and meaning; `skillmeta
config show NAME` does so for a config. This page is written by `python -m tests.commands`, and a test compares it.

| exit status | meaning |
|---|---|
| 0 | done, or done before |
| 1 | some runs of an ablation failed; the others are done |
| 2 | something that you can fix: a wrong or damaged file, a full or read-only disk, a folder in use; one sentence says what |
| 130 | stopped by Ctrl-C, within 10 seconds |
| 143 | stopped by SIGTERM, within 10 seconds |

After 130 and 143 the same command resumes: training and pretraining from a checkpoint that is saved when they are asked to stop,
evaluations and ablations from what is complete, `collect` and `adapt` from the start.
"""


def help_head(command: str) -> str:
    """The usage and the description of a command."""
    printed = io.StringIO()
    with (
        mock.patch.dict(os.environ, COLUMNS="120"),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        main([command, "--help"])
    return "\n\n".join(printed.getvalue().split("\n\n")[:2])


def sentence(command: str, arguments: str) -> str:
    """What a wrong input gets, in a working folder that holds nothing."""
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stderr(printed):
        with mock.patch.dict(os.environ, MINARI_DATASETS_PATH=folder):
            assert main([command, *arguments.split()]) == 2, arguments
    (line,) = printed.getvalue().splitlines()
    return line


def page() -> str:
    parts = [HEAD]
    for command, wrong in WRONG.items():
        rows = "\n".join(f"| `skillmeta {command} {one}` | {sentence(command, one)} |" for one in wrong)
        parts.append(f"## {command}\n\n```\n{help_head(command)}\n```\n\n| input | sentence |\n|---|---|\n{rows}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    FILE.write_text(page())
