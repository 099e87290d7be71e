"""Which numbers of an environment's observation a skill model sees, by the names that its logs have for them.

A model of logs with the keys `joints, gripper` sees those parts of a Dict observation wherever they lie in it. What else is
observed, a goal for example, is for the policy.
"""

from __future__ import annotations

from collections.abc import Sequence

from skillmeta.errors import CheckpointError
from skillmeta.types import EnvSpec, Observed

Columns = slice | list[int]  # of an observation's last axis
ALONE = "observation"  # the part that logs without names are of, where the whole does not fit


def columns_of(seen: Sequence[Observed], size: int, observed: Sequence[Observed], where: str) -> Columns:
    """The numbers that skills see of an environment's observations.

    Args:
        seen: the parts of the logs' observations, in their order; () where they have no names.
        size: how many numbers they are.
        observed: the parts of the environment's observations; () where it names none, and then they begin with what skills see.
        where: named in the error.

    Raises:
        CheckpointError: the environment has not the parts of the logs.
    """
    places, begin = {}, 0
    for part in observed:
        places[part.key] = range(begin, begin + part.size)
        begin += part.size
    if not places or (not seen and begin == size):
        return slice(0, size)
    wanted = seen or (Observed(ALONE, size),)
    for part in wanted:
        if len(places.get(part.key, ())) != part.size:
            has = ", ".join(f"{key} ({len(place)})" for key, place in places.items())
            raise CheckpointError(
                f"{where}: the skills see {', '.join(f'{key} ({n})' for key, n in seen) or f'{size} numbers'}, the environment's "
                f"observation has {has}; name keys of the logs that it has, as in SOURCE?KEY,KEY, and pretrain skills on them"
            )
    indices = [i for part in wanted for i in places[part.key]]
    whole = slice(indices[0], indices[0] + len(indices))
    return whole if indices == list(range(whole.start, whole.stop)) else indices


def check_shapes(
    dims: tuple[int, int], spec: EnvSpec, where: str, fix: str = "pretrain skills on logs of this environment"
) -> None:
    """Raises CheckpointError if skills are of observations and actions of other sizes `dims` than the environment's."""
    observation_dim = dims[0] if spec.observed else spec.observation_dim  # named parts are compared by their names
    if dims != (observation_dim, spec.action_dim):
        raise CheckpointError(
            f"{where}: the skills are of observations of {dims[0]} and actions of {dims[1]} numbers, the environment has "
            f"{spec.observation_dim} and {spec.action_dim}; {fix}"
        )
