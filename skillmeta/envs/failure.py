"""What it means for whoever steps environments that one of them raised, was too slow, or returned what is not finite."""

from __future__ import annotations

import traceback
from typing import Any

import numpy as np

from skillmeta.errors import EnvironmentFailed, UserError, first_line
from skillmeta.run import watch

CAUGHT = (Exception, watch.Overdue)


class NotFinite(ValueError):
    """An environment returned a NaN or an infinity."""


def finite(value: Any, what: str) -> Any:
    """`value` if all of it is finite: a NaN is stopped before it reaches a buffer and from there the weights."""
    if not np.isfinite(value).all():
        raise NotFinite(f"returned {what} that is not finite ({np.array2string(np.asarray(value), threshold=8)})")
    return value


def failure(error: BaseException) -> UserError:
    """What was caught within a watched act, as one sentence that says which act it was; a UserError is one already."""
    if isinstance(error, UserError):
        return error
    act = watch.doing()
    assert act is not None
    watch.ends()  # what follows is not the environment's time: a full trace takes a while
    if isinstance(error, NotFinite):
        what = str(error)
    elif isinstance(error, watch.Overdue):
        what = f"took longer than {act.limit:g} seconds"
    else:
        assert isinstance(error, Exception)
        what = f"raised {type(error).__name__}: {first_line(error)}"
    trace = "".join(traceback.format_exception(error))
    return EnvironmentFailed(what, act.row, act.seed, act.moment, trace)
