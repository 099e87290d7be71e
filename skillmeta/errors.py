"""What can be wrong on the user's side. Each message is one sentence: where, what was found, what was expected, what to do."""


class UserError(Exception):
    """Something the user can fix. The command line prints the sentence and exits with 2."""


class ConfigError(UserError):
    """A configuration that cannot run: unknown key, wrong type, impossible value."""


class DataError(UserError):
    """A log that cannot be learned from: missing or corrupt file, wrong shapes, values that are not finite."""


class CheckpointError(UserError):
    """A checkpoint or model that cannot be loaded: missing, damaged, or made for something else."""


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type's name where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
