"""One thread a process: two noisy cores are shared by all workers, and the number of threads changes the bits."""

import io
import os
import signal
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo reads it when it is imported; its own default needs a screen

import pytest
import torch
from matplotlib.figure import Figure

torch.set_num_threads(1)
# A test run that a script put into the background ignores Ctrl-C, and so would the runs that its tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

DRAW = Figure.savefig
UNDRAWN: dict[type, Any] = {io.StringIO: "<svg></svg>", io.BytesIO: b"png"}


@pytest.fixture(scope="session", autouse=True)
def _undrawn() -> Iterator[None]:
    """Figures are made but not drawn, which takes seconds a page. Tests of what is drawn use `drawn`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, file, **options: file.write(UNDRAWN[type(file)]))
        yield


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn."""
    monkeypatch.setattr(Figure, "savefig", DRAW)
