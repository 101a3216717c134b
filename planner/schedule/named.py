"""Schedules by name."""

from __future__ import annotations

from functools import lru_cache

from planner.ir.errors import ScheduleError
from planner.schedule import flush, vshape
from planner.schedule.actions import Schedule
from planner.schedule.registry import generator, names
from planner.schedule.text import load_schedule

__all__ = ["make_schedule", "schedule_names"]

_FAMILIES = (flush, vshape)


def schedule_names() -> tuple[str, ...]:
    """The schedules that :func:`make_schedule` knows by name."""
    return names()


def make_schedule(name: str,
                  *,
                  ranks: int,
                  microbatches: int,
                  chunks: int = 1) -> Schedule:
    """Make the schedule of a name, or read one from a file.

    Parameters
    ----------
    name : str
        One of :func:`schedule_names`, or the path of a schedule's text (a
        name with a dot or a slash).
    ranks : int
        Ranks of the pipeline.
    microbatches : int
        Micro-batches of a step.
    chunks : int
        Stages of each rank.

    Raises
    ------
    ScheduleError
        For an unknown name and for numbers that the schedule isn't for.

    Examples
    --------
    >>> print(make_schedule("1f1b", ranks=2, microbatches=2))
    0F0 0F1 0B0 0B1
    1F0 1B0 1F1 1B1
    """
    for what, value in (("ranks", ranks), ("microbatches", microbatches),
                        ("chunks", chunks)):
        if value < 1:
            raise ScheduleError(f"{name}: {what} must be at least 1, "
                                f"got {value}")
    if "/" in name or "." in name:
        return _loaded(name, ranks, microbatches, chunks)
    return _generated(name, ranks, microbatches, chunks)


# A schedule never changes, and a search asks for the same ones many times.
@lru_cache(maxsize=64)
def _generated(name: str, ranks: int, microbatches: int,
               chunks: int) -> Schedule:
    return generator(name)(ranks, microbatches, chunks)


def _loaded(path: str, ranks: int, microbatches: int, chunks: int) -> Schedule:
    schedule = load_schedule(path)
    for what, wanted, found in (("ranks", ranks, len(schedule.ranks)),
                                ("micro-batches", microbatches,
                                 schedule.microbatches),
                                ("stages", ranks * chunks, schedule.stages)):
        if wanted != found:
            raise ScheduleError(f"{path} is for {found} {what}, and {wanted} "
                                "were asked for")
    return schedule
