"""A child of this process that runs something and keeps what it prints."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

CRASHED = 70  # the exit status after an exception


def forked(act: Callable[[], int], said: Path) -> int:
    """Fork, run `act` in the child, and end it with the status that it returns. What it prints is in the file `said`.

    Everything is imported already, which takes a process of its own seconds. Returns the child's process id.
    """
    child = os.fork()
    if child == 0:
        status = CRASHED
        try:
            with open(said, "w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
            status = act()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return child
