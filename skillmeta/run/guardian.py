"""A process beside a run whose environments are in the run's own process. It says what that was at where it dies in a step of one,
and ends it where a step hangs in a library that keeps Python's lock, which nothing inside can.

`skillmeta.run.watch` starts it as a script. It imports nothing of this package, so that it costs some megabytes and no time.
"""

import mmap
import os
import signal
import struct
import sys
import time

RESTART = (
    "set environment.on_error=restart_worker, which continues without such episodes, then run the same command again"
)
LOOK_SECONDS = 0.25  # between two looks
LOOKS = 4  # in a row at which an act is overdue: where both processes were stopped, the parent first says that it is awake again


def guard(parent: int, file: int, numbers: int, size: int, reset_factor: float, grace: float) -> None:
    """Look at what the parent does until it is gone.

    Args:
        file: of `size` bytes: numbers in double precision and a label, see `skillmeta.run.watch`.
    """
    shared = mmap.mmap(file, size, access=mmap.ACCESS_READ)
    overdue = 0  # looks in a row
    while True:
        alive = os.getppid() == parent
        since, limit, _, seed, step = struct.unpack_from(f"{numbers}d", shared)
        label = bytes(shared[8 * numbers :]).rstrip(b"\0").decode(errors="ignore")
        where = f"{f'{label}, ' if label else ''}reset seed {seed:.0f}, {'reset' if step < 0 else f'step {step:.0f}'}"
        if not alive:
            if since:
                say(f"{where}: the process died or was killed while the environment was at work; {RESTART}")
            return
        allowed = limit * (reset_factor if step < 0 else 1.0)
        late = bool(since and limit) and time.monotonic() - since > allowed + grace and not stopped(parent)
        overdue = overdue + 1 if late else 0
        if overdue == LOOKS:
            say(f"{where}: the environment took longer than {allowed:g} seconds, in a library; {RESTART}")
            os.kill(parent, signal.SIGKILL)
            return
        time.sleep(LOOK_SECONDS)


def stopped(process: int) -> bool:
    """Whether a process waits for SIGCONT; False where there is no /proc."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] == b"T"
    except OSError:
        return False


def say(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent decides what they mean
    guard(*map(int, sys.argv[1:5]), *map(float, sys.argv[5:]))
