"""Where a synthesised schedule is searched: placements and policies."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from planner.schedule.listing import Policy, Problem

__all__ = ["list_tasks", "loop", "placements"]

Limits = tuple[float, ...]
"""The most that each rank keeps, in bytes."""


def list_tasks(
        problems: list[Problem],
        known: list[Limits]) -> Iterator[tuple[Problem, Policy, Limits]]:
    """What to try, so that every prefix has some of each kind.

    Parameters
    ----------
    problems : list of Problem
        One for each placement.
    known : list of tuple of float
        What named schedules keep: list schedules within less memory than
        there is are less eager, and often faster.
    """
    for policy in policies(problems[0]):
        for problem in problems:
            for limit in limits(problem, known):
                yield problem, policy, limit


def loop(stages: int, ranks: int) -> tuple[int, ...]:
    """The rank of each stage, where ranks take stages in turn."""
    return tuple(s % ranks for s in range(stages))


def placements(stages: int, ranks: int) -> list[tuple[int, ...]]:
    """In turn, and back and forth."""
    first = loop(stages, ranks)
    back = tuple(r if s // ranks % 2 == 0 else ranks - 1 - r
                 for s, r in enumerate(first))
    return [first] if back == first else [first, back]


def policies(problem: Problem) -> Iterator[Policy]:
    many = len(problem.stage_rank) > problem.ranks
    which = (1, 0, -1) if many else (1, )
    for forwards, backwards in itertools.product(which, which):
        for prefer in ("backward", "turns", "forward"):
            for weights, patience in (("gaps", 1.0), ("gaps", 0.5),
                                      ("gaps", 0.0), ("next", 0.0), ("whole",
                                                                     0.0)):
                yield Policy(prefer=prefer,
                             forwards=forwards,
                             backwards=backwards,
                             weights=weights,
                             patience=patience)


def limits(problem: Problem,
           known: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """The memory limit, and lower ones as named schedules keep to."""
    limits = {problem.cap_bytes}
    for peak in known:
        limits.add(tuple(map(min, zip(problem.cap_bytes, peak))))
    return sorted(limits, reverse=True)
