"""Ctrl-C and SIGTERM: who hears them, and the exit status that says which of them it was. Nothing heavy is imported here."""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

GRACE_SECONDS = (
    8.0  # to come to a safe point, before what is going on is broken off: what is on disk is whole at any time
)

AGAIN_SECONDS = 0.5  # after which it is broken off again, where Python has ignored that

_last = int(signal.SIGINT)  # what this process was stopped by
_times = 0  # that it was asked to stop


def exit_status() -> int:
    """Of a command that was stopped: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + _last


def times_asked() -> int:
    """How often this process has been asked to stop while `StopSignals` listened."""
    return _times


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Within a block, SIGTERM raises KeyboardInterrupt, as Ctrl-C does."""
    global _last
    _last = int(signal.SIGINT)

    def raise_interrupt(number: int, frame: FrameType | None) -> None:
        global _last
        _last = number
        raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, raise_interrupt)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _signal_again(thread: int, number: int) -> None:
    """Signal the main thread, whose number is `thread`. Windows cannot interrupt what it waits for."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(thread, number)
    else:
        _thread.interrupt_main(signal.Signals(number))


class StopSignals:
    """Within a block, the first Ctrl-C or SIGTERM sets `heard` and calls `tell`. A second one, or GRACE_SECONDS in which nobody
    has called `safe`, raises KeyboardInterrupt. Only in the main thread; a signal that is ignored stays so.

    Python ignores what is raised in a `__del__` or a callback of its garbage collector, so after GRACE_SECONDS it is raised until
    it arrives.
    """

    def __init__(self, tell: Callable[[], None] = lambda: None):
        self.heard = False
        self._tell = tell
        self._safe = threading.Event()
        self._waited = False  # a signal is on its way because GRACE_SECONDS are over
        self._raised: KeyboardInterrupt | None = None  # last
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:  # whoever started this has decided otherwise
                    self._before[number] = signal.signal(number, self._signalled)
        return self

    def __exit__(self, *unused: object) -> None:
        self.safe()
        self._raised = None
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def safe(self) -> None:
        """A safe point is reached: what follows may take its time."""
        self._safe.set()

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        global _last, _times
        _last, _times = number, _times + 1
        if self.heard:
            waited, self._waited = self._waited, False
            if waited and (self._safe.is_set() or self._arriving()):
                return
            self._raised = KeyboardInterrupt()
            raise self._raised
        self.heard = True
        threading.Thread(target=self._break_off, args=(threading.get_ident(), number), daemon=True).start()
        self._tell()

    def _break_off(self, thread: int, number: int) -> None:
        seconds = GRACE_SECONDS
        while not self._safe.wait(seconds):
            self._waited = True
            _signal_again(thread, number)
            seconds = AGAIN_SECONDS

    def _arriving(self) -> bool:
        """Whether what was raised is being handled: blocks that it leaves are cleaning up."""
        error = sys.exc_info()[1]
        while error is not None and error is not self._raised:
            error = error.__context__
        return error is not None
