"""The generators of schedules, by name."""

from __future__ import annotations

from collections.abc import Callable

from planner.ir.errors import ScheduleError
from planner.names import nearest
from planner.schedule.actions import Schedule

__all__ = ["Generator", "generator", "names", "register"]

Generator = Callable[[int, int, int], Schedule]
"""Of ranks, micro-batches and chunks (stages of each rank)."""

_GENERATORS: dict[str, Generator] = {}


def register(name: str) -> Callable[[Generator], Generator]:
    """Decorate the generator of the schedule `name`.

    Raises
    ------
    ValueError
        For a name that is taken.
    """

    def add(function: Generator) -> Generator:
        if name in _GENERATORS:
            raise ValueError(f"schedule {name!r} is registered twice")
        _GENERATORS[name] = function
        return function

    return add


def names() -> tuple[str, ...]:
    """Names of the registered schedules, sorted."""
    return tuple(sorted(_GENERATORS))


def generator(name: str) -> Generator:
    """The generator of the schedule `name`.

    Raises
    ------
    ScheduleError
        For a name that is not registered.
    """
    if name not in _GENERATORS:
        raise ScheduleError(
            f"there is no schedule {name!r}; {nearest(name, names())} (or "
            "auto for a synthesised one, or the path of a text)")
    return _GENERATORS[name]
