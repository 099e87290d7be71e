"""The `skillmeta` command: the programs of pretrain/ and downstream/ under one name. Nothing heavy is imported here."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from skillmeta import __version__
from skillmeta.errors import UserError, disk_sentence
from skillmeta.run.signals import exit_status, terminable

PROGRAMS: dict[str, tuple[str, str, str]] = {  # name: (module, what it does, an example)
    "demo": ("downstream.demo", "the whole path in minutes: logs, skills, a new task, the effect of the prior", "demo"),
    "collect": ("pretrain.collect", "make logs with a planner", "collect pretrain/maze_logs"),
    "inspect": ("pretrain.inspect", "what is in a source of logs", "inspect minari:skillmeta/maze20-v0"),
    "skills": (
        "pretrain.skills",
        "learn skills and their prior from logs",
        "skills pretrain/maze --out runs/maze-skills",
    ),
    "finetune": ("downstream.finetune", "learn one task", "finetune downstream/maze_spirl --out runs/maze-spirl"),
    "meta-train": (
        "downstream.meta_train",
        "learn to learn a family's tasks",
        "meta-train meta/rl2_bandit_5 --out runs/rl2",
    ),
    "adapt": (
        "downstream.adapt",
        "let a trained agent get to know a task",
        "adapt runs/rl2 tasks/bandit_5 --out runs/adapted",
    ),
    "evaluate": (
        "downstream.evaluate",
        "how agents adapt to new tasks, next to random, oracle and no adaptation",
        "evaluate tasks/point_robot",
    ),
    "tasks": (
        "downstream.tasks",
        "list task families, draw their tasks, film an episode",
        "tasks maze --video maze.webp",
    ),
    "film": ("downstream.film", "film an episode of a trained run in its task", "film runs/maze-spirl"),
    "export": (
        "downstream.export",
        "what acts of a run, as ONNX, of torch.export or of Stable-Baselines3",
        "export runs/maze-spirl --to policy.onnx",
    ),
    "ablate": (
        "downstream.ablate",
        "methods x tasks x seeds, and the page",
        "ablate ablations/regularizer --out runs/regularizer",
    ),
    "report": ("downstream.report", "write the page of what is in a folder again", "report runs/demo"),
    "reproduce": ("downstream.reproduce", "a published result, at full length", "reproduce maze"),
    "config": ("skillmeta.programs.show_config", "list and show the configs that come with it", "config list"),
    "doctor": ("skillmeta.programs.doctor", "is this installation complete?", "doctor"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command. Returns the exit status: 0, 1 if some runs of an ablation failed, 2 for a user's error, 130
    after Ctrl-C, 143 after SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return until_nobody_reads(lambda: run_command(arguments))


def run_command(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"skillmeta {__version__}")
        return 0
    name, *rest = arguments
    if name not in PROGRAMS:
        import difflib

        near = difflib.get_close_matches(name, PROGRAMS, 1)
        hint = f"did you mean {near[0]!r}?" if near else "`skillmeta --help` lists them"
        print(f"error: there is no command {name!r}; {hint}", file=sys.stderr)
        return 2
    return run_program(lambda argv: find_program(name).main(argv), rest)


def until_nobody_reads(act: Callable[[], int]) -> int:
    """Do it, and end quietly where the reader of what it prints has gone, as `head` does."""
    try:
        try:
            return act()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its end
        return 0


def find_program(name: str) -> ModuleType:
    """The module of a command. The packages `pretrain` and `downstream` lie beside this one in a checkout, in it in a wheel."""
    module = PROGRAMS[name][0]
    inside = Path(__file__).parent / module.partition(".")[0]
    return importlib.import_module(f"skillmeta.{module}" if inside.is_dir() else module)


def usage() -> str:
    lines = [
        "usage: skillmeta COMMAND ...",
        "",
        "Learn skills from logs of past behaviour, then learn new tasks from less experience with them.",
        "",
        "commands (each has its own --help):",
    ]
    lines += [f"  {name:<10} {what}" for name, (_, what, _) in PROGRAMS.items()]
    lines += ["", "for example:"]
    lines += [f"  skillmeta {example}" for _, _, example in PROGRAMS.values()]
    return "\n".join(lines)


def run_program(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Run a program's main: what the user can fix is one sentence and exit status 2, never a traceback."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads than one are slower on a busy machine, and other bits
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo reads it when it is imported; its own default needs a screen
    try:
        with terminable():
            return until_nobody_reads(lambda: main(argv))
    except UserError as error:
        text = "".join(c if c.isprintable() else " " for c in str(error))  # names in files may steer a terminal
        print(f"error: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command resumes from its last checkpoint, where it has made one", file=sys.stderr)
        return exit_status()
    except OSError as error:
        if (sentence := disk_sentence(error)) is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 2


class ConfigParser(argparse.ArgumentParser):
    """Its help ends with every key of the command's config. That imports the program, so it is done when help is asked for."""

    def format_help(self) -> str:
        from skillmeta.config import described
        from skillmeta.programs.show_config import keys_of_command

        keys = described(keys_of_command(self.prog.split()[1]), values=False)
        title = "keys, here with their defaults; `skillmeta config show CONFIG` lists those of a config"
        return f"{super().format_help()}\n{title}:\n{keys}\n"


def config_parser(program: str, description: str, default: str | None = None) -> argparse.ArgumentParser:
    """The arguments that programs share: a config, overrides, an output folder where `--out` is added by the caller."""
    parser = ConfigParser(prog=program, description=description)
    what = "a YAML file, or the name of a config that comes with the package"
    if default is None:
        parser.add_argument("config", help=what)
    else:
        parser.add_argument("config", nargs="?", default=default, help=f"{what} (default: {default})")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="changes to its keys, e.g. seed=1; task=NAME and algorithm=NAME choose presets of configs/",
    )
    return parser


def add_trust(parser: argparse.ArgumentParser, what: str) -> None:
    """`--trust`, for programs that read run folders."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help=f"import the modules that {what} names, which runs their code; only for folders of people you trust",
    )


def command_line(program: str, argv: Sequence[str] | None) -> str:
    """The command as the user could type it again."""
    import shlex

    return shlex.join(["skillmeta", *program.split()[1:], *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
