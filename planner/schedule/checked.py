"""Schedules that can run, made and checked once for all that use them."""

from __future__ import annotations

import functools

from planner.schedule.actions import Edges
from planner.schedule.check import check_schedule
from planner.schedule.graph import ActionGraph
from planner.schedule.named import is_path, make_schedule

__all__ = ["checked_graph"]

_KEPT = 64


def checked_graph(name: str, *, ranks: int, microbatches: int, chunks: int,
                  stages: int, edges: Edges) -> ActionGraph:
    """The actions of a schedule, after it was checked.

    A search tries the same schedule with many layouts, and one of tens of
    thousands of actions takes as long to make as a pipeline to price. What
    a path names is read again, since the file may have changed.

    Parameters
    ----------
    name, ranks, microbatches, chunks
        As :func:`planner.schedule.named.make_schedule` takes them.
    stages : int
        How many there are to schedule.
    edges : tuple of (int, int)
        Which of them feeds which.

    Raises
    ------
    ScheduleError
        When there is no such schedule, or it can't run.
    """
    make = _made if is_path(name) else _known
    return make(name, ranks, microbatches, chunks, stages, edges)


def _made(name: str, ranks: int, microbatches: int, chunks: int, stages: int,
          edges: Edges) -> ActionGraph:
    schedule = make_schedule(name,
                             ranks=ranks,
                             microbatches=microbatches,
                             chunks=chunks)
    return check_schedule(schedule, edges=edges, stages=stages)


_known = functools.lru_cache(maxsize=_KEPT)(_made)
