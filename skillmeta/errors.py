"""What can be wrong on the user's side. Each message is one sentence: where, what was found, what was expected, what to do."""

import errno
import traceback

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


class UserError(Exception):
    """Something the user can fix. The command line prints the sentence and exits with 2."""


class ConfigError(UserError):
    """A configuration that cannot run: unknown key, wrong type, impossible value."""


class DataError(UserError):
    """A log that cannot be learned from: missing or corrupt file, wrong shapes, values that are not finite."""


class CheckpointError(UserError):
    """A checkpoint or model that cannot be loaded: missing, damaged, or made for something else."""


class EnvironmentFailed(UserError):
    """An environment raised, returned what is not finite, took too long, or took its process with it.

    Args:
        what: it did, a phrase.
        row: of the environments in lockstep; -1 for all, where they step as arrays.
        seed: of the episode's reset.
        moment: `reset` or `step 3`.
        trace: the traceback, where there is one.
        task: that it was in, a phrase, where it is known.
    """

    def __init__(self, what: str, row: int, seed: int, moment: str, trace: str = "", task: str = ""):
        super().__init__(what, row, seed, moment, trace, task)
        self.what, self.row, self.seed, self.moment, self.trace, self.task = what, row, seed, moment, trace, task

    def __str__(self) -> str:
        return f"the environment failed at the {self.moment} of the episode with reset seed {self.seed}: it {self.what}"


def disk_sentence(error: OSError) -> str | None:
    """What to say where a disk is full or must not be written; None for another error, which is a program's."""
    if error.errno not in DISK:
        return None
    place = f"{error.filename}: " if error.filename else ""
    return (
        f"{place}{error.strerror}; free some space or name a place that can be written, then run the same command again, which "
        "continues from what is complete"
    )


def raised(error: Exception) -> str:
    """An error in code of the user's own, and where in it."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [one for one in frames if "site-packages" not in one.filename and not one.filename.startswith("<")]
    last = (own or frames)[-1]
    return f"{error!r} ({last.filename}:{last.lineno})"


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type's name where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
