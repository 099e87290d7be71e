"""What is raised to break off a block that comes to no safe point arrives, once."""

from __future__ import annotations

import gc
import signal
import time

import pytest

from skillmeta.run import signals
from skillmeta.run.signals import StopSignals

GRACE, LONG = 0.1, 5.0


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(signals, "GRACE_SECONDS", GRACE)
    monkeypatch.setattr(signals, "AGAIN_SECONDS", GRACE)


def works(seconds: float) -> None:
    """Without a safe point."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("where", ["a callback of the garbage collector", "__del__"])
def test_an_interrupt_that_python_ignores_is_raised_again(where):
    ended = []

    def slow() -> None:
        works(LONG)
        ended.append(True)

    class Slow:
        def __del__(self) -> None:
            slow()

    def callback(phase: str, info: dict[str, int]) -> None:
        gc.callbacks.remove(callback)
        slow()

    with pytest.raises(KeyboardInterrupt), StopSignals():
        signal.raise_signal(signal.SIGINT)
        if where == "__del__":
            Slow()
        else:
            gc.callbacks.append(callback)
            gc.collect()
        assert not ended  # the first one broke that off, and came to nothing
        works(LONG)
        pytest.fail("nothing has broken it off")


@pytest.mark.parametrize("cleaning", ["finally", "with", "except and another error"])
def test_blocks_that_it_leaves_clean_up_without_another_interrupt(cleaning):
    cleaned = []

    class Block:
        def __enter__(self) -> None:
            pass

        def __exit__(self, *unused: object) -> None:
            works(5 * GRACE)
            cleaned.append(True)

    with pytest.raises(KeyboardInterrupt), StopSignals():
        signal.raise_signal(signal.SIGTERM)
        if cleaning == "with":
            with Block():
                works(LONG)
        try:
            works(LONG)
        except KeyboardInterrupt:
            if cleaning == "except and another error":
                try:
                    raise ValueError
                except ValueError:
                    works(5 * GRACE)
                    cleaned.append(True)
            raise
        finally:
            if cleaning == "finally":
                works(5 * GRACE)
                cleaned.append(True)
    assert cleaned == [True]


def test_another_ctrl_c_breaks_off_the_cleaning_too():
    with pytest.raises(KeyboardInterrupt) as raised, StopSignals():
        signal.raise_signal(signal.SIGINT)
        try:
            works(LONG)
        finally:
            signal.raise_signal(signal.SIGINT)
            pytest.fail("nothing has broken it off")
    assert isinstance(raised.value.__context__, KeyboardInterrupt)


def test_after_a_safe_point_nothing_is_broken_off():
    with StopSignals() as asked:
        signal.raise_signal(signal.SIGINT)
        asked.safe()
        works(4 * GRACE)
