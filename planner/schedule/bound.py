"""What no schedule can beat."""

from __future__ import annotations

from planner.schedule.listing import Problem
from planner.schedule.times import edge_table

__all__ = ["lower_bound_s"]


def lower_bound_s(problem: Problem) -> float:
    """Seconds that no schedule of these stages beats.

    No rank can end before its first input is there and its work done.
    """
    heads = _heads(problem)
    times, bound = problem.times, 0.0
    for rank in range(problem.ranks):
        mine = [s for s, r in enumerate(problem.stage_rank) if r == rank]
        work = sum(
            times.forward_s[s] +
            min(times.backward_s[s], times.input_s[s] + times.weight_s[s])
            for s in mine)
        head = min((heads[s] for s in mine), default=0.0)
        bound = max(bound, head + problem.microbatches * work)
    return bound


def _heads(problem: Problem) -> list[float]:
    """When the first input of each stage can be there."""
    lag = edge_table(problem.p2p_s, problem.edges)
    heads = [0.0] * len(problem.stage_rank)
    for number, (source, target) in sorted(enumerate(problem.edges),
                                           key=lambda e: e[1][::-1]):
        crosses = problem.stage_rank[source] != problem.stage_rank[target]
        heads[target] = max(
            heads[target], heads[source] + problem.times.forward_s[source] +
            (lag[number] if crosses else 0.0))
    return heads
