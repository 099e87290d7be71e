"""Scripts without a main guard: a spawned worker imports the script of its parent, and would do again whatever that calls."""

from __future__ import annotations

import multiprocessing
import sys

NO_GUARD = 78  # the exit status of such a worker, by which its parent knows it


def sentence(module: str, call: str) -> str:
    """What is wrong with the script that is the module of this name."""
    file = getattr(sys.modules.get(module), "__file__", None) or "the script"
    fix = "put the calls below `if __name__ == '__main__':`"
    return f"{file}: a worker process imports this script, and it calls {call}; {fix}"


def check_guard(name: str) -> None:
    """End this process if it is a worker that only imports the script of its parent. To be called before a program is started.

    Raises SystemExit, which no `except Exception` of the script catches.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        print(f"error: {sentence('__mp_main__', f'skillmeta.{name}')}", file=sys.stderr, flush=True)
        raise SystemExit(NO_GUARD)
