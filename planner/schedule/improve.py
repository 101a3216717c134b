"""Local search: small changes of a schedule that make it no slower."""

from __future__ import annotations

import random
from collections.abc import Callable

from planner.schedule.actions import Action, Schedule
from planner.schedule.engine import finish_times
from planner.schedule.graph import ActionGraph, build_graph
from planner.schedule.listing import Problem
from planner.schedule.simulation import peaks

__all__ = ["fits", "fuse", "improve"]

_REACH = 6
_AFTER = {"B": "F", "I": "F", "W": "I"}


def fits(graph: ActionGraph, problem: Problem) -> bool:
    """Whether each rank keeps no more than it may."""
    return all(
        peak <= cap * (1 + 1e-9)
        for peak, cap in zip(peaks(graph, problem.memory), problem.cap_bytes))


def fuse(schedule: Schedule) -> Schedule:
    """With every ``I`` whose ``W`` comes next as one ``B``."""
    rows = []
    for row in schedule.ranks:
        fused: list[Action] = []
        for action in row:
            last = fused[-1] if fused else None
            if action.kind == "W" and last == Action("I", action.stage,
                                                     action.microbatch):
                fused[-1] = Action("B", action.stage, action.microbatch)
            else:
                fused.append(action)
        rows.append(tuple(fused))
    return Schedule(tuple(rows))


def improve(schedule: Schedule, problem: Problem, *, tries: int, seed: int,
            is_over: Callable[[], bool]) -> tuple[Schedule, float]:
    """Move actions on the critical path ahead of what delays them.

    Parameters
    ----------
    schedule : Schedule
        A valid one within the limits of `problem`.
    problem : Problem
    tries : int
        How many moves are tried.
    seed : int
    is_over : callable
        Whether to stop before.

    Returns
    -------
    Schedule, float
        The schedule, no slower, and its makespan in seconds.
    """
    chance = random.Random(seed)
    best = build_graph(schedule, problem.edges)
    ends = finish_times(best, problem.times, problem.p2p_s)
    path = _critical(best, ends, problem)
    for _ in range(tries):
        if not path or is_over():
            break
        moved = _move(best, chance.choice(path), chance)
        if moved is None:
            continue
        graph = build_graph(moved, problem.edges)
        if graph.is_stuck or not fits(graph, problem):
            continue
        found = finish_times(graph, problem.times, problem.p2p_s)
        # Equals are taken too: most steps lead along a plateau.
        if max(found) <= max(ends):
            best, ends = graph, found
            path = _critical(best, ends, problem)
    return best.schedule, max(ends)


def _critical(graph: ActionGraph, ends: list[float],
              problem: Problem) -> list[int]:
    """Actions that start late because their rank was at work."""
    table = problem.times.table
    number = max(range(len(ends)), key=ends.__getitem__)
    path = []
    while number >= 0:
        start = ends[number] - table[graph.codes[number]]
        before = graph.previous[number]
        if before >= 0 and ends[before] >= start * (1 - 1e-12):
            path.append(number)
            number = before
            continue
        reads = [
            graph.need[number], *(n for n, _ in graph.more.get(number, ()))
        ]
        number = max((n for n in reads if n >= 0),
                     key=ends.__getitem__,
                     default=-1)
    return path


def _move(graph: ActionGraph, number: int,
          chance: random.Random) -> Schedule | None:
    """Put a critical action earlier, or what is before it later."""
    rank = graph.rank[number]
    row = [graph.actions[n] for n in graph.numbers[rank]]
    at = row.index(graph.actions[number])
    reach = chance.randint(1, _REACH)
    if chance.random() < 0.5:
        source, target = at, max(at - reach, 0)
    else:
        source, target = at - 1, min(at - 1 + reach, len(row) - 1)
    action = row.pop(source)
    row.insert(target, action)
    if not _in_order(row, min(source, target), max(source, target)):
        return None
    rows = list(graph.schedule.ranks)
    rows[rank] = tuple(row)
    return Schedule(tuple(rows))


def _in_order(row: list[Action], start: int, stop: int) -> bool:
    """Whether between two places nothing is ahead of what it needs."""
    seen: set[Action] = set()
    inside = set(row[start:stop + 1])
    for action in row[start:stop + 1]:
        first = _AFTER.get(action.kind)
        if first is not None:
            needed = Action(first, action.stage, action.microbatch)
            if needed in inside and needed not in seen:
                return False
        seen.add(action)
    return True
