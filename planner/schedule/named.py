"""Schedules by name."""

from __future__ import annotations

from planner.ir.errors import ScheduleError
from planner.schedule.actions import Schedule
from planner.schedule.families import generate, schedule_names
from planner.schedule.synthesise import synthesise
from planner.schedule.text import load_schedule, parse_schedule
from planner.schedule.times import StageTimes

__all__ = ["is_path", "make_schedule", "schedule_names"]


def make_schedule(name: str,
                  *,
                  ranks: int,
                  microbatches: int,
                  chunks: int = 1) -> Schedule:
    """Make the schedule of a name, or read one.

    Parameters
    ----------
    name : str
        One of :func:`schedule_names`; ``auto`` for one that is synthesised
        for equal stages (:func:`synthesise` takes stages as they are);
        the path of a schedule's text (a name with a dot or a slash); or
        the text itself (with a newline).
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
    if "\n" in name:
        return _checked("the schedule's text",
                        parse_schedule(name, where="the schedule's text"),
                        ranks, microbatches, chunks)
    if is_path(name):
        return _checked(name, load_schedule(name), ranks, microbatches, chunks)
    if name == "auto":
        return synthesise(StageTimes.uniform(ranks * chunks),
                          ranks=ranks,
                          microbatches=microbatches).schedule
    return generate(name, ranks, microbatches, chunks)


def is_path(name: str) -> bool:
    """Whether a schedule's name is the path of its text."""
    return "\n" not in name and ("/" in name or "." in name)


def _checked(where: str, schedule: Schedule, ranks: int, microbatches: int,
             chunks: int) -> Schedule:
    for what, wanted, found in (("ranks", ranks, len(schedule.ranks)),
                                ("micro-batches", microbatches,
                                 schedule.microbatches),
                                ("stages", ranks * chunks, schedule.stages)):
        if wanted != found:
            raise ScheduleError(f"{where} is for {found} {what}, and {wanted} "
                                "were asked for")
    return schedule
