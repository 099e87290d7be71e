"""What workers do in the tests of the pool. Nothing heavy is imported here: each worker does it anew."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from skillmeta.errors import UserError
from skillmeta.run.pool import REPORT_SECONDS, report


class Odd(UserError):
    """An error of a user's own, which pickle cannot make again."""

    def __init__(self, one: int, other: int):
        super().__init__(f"{one} is not {other}")


def remember(value: int) -> None:
    global remembered
    assert "remembered" not in globals()  # once in each worker
    remembered = value


def task(what: tuple[str, Any]) -> Any:
    """Does what the first word says with the second thing."""
    kind, value = what
    if kind == "die_unless":  # the file is there, which the first attempt makes
        if not value.exists():
            value.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "raise":
        raise value
    elif kind == "odd":
        raise Odd(1, 2)
    elif kind == "lambda":
        return lambda: None
    elif kind == "count":
        for step in range(value):
            time.sleep(REPORT_SECONDS + 0.05)
            report(step)
    elif kind == "hold":
        value.touch()
        time.sleep(1000)
    elif kind == "lock":
        from skillmeta.run.files import locked_folder

        with locked_folder(value):
            return "locked"
    elif kind == "state":
        import torch

        return remembered, os.getpid(), torch.get_num_threads(), signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    elif kind == "write":
        value += 1
    return kind, value
