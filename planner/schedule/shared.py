"""When actions end on ranks that share processors.

Where a machine has more ranks than processors, a rank that waits leaves its
part to the others. Times of actions are those with all ranks at work; with
fewer at work each runs faster, in proportion, up to what it does alone.
Between two events the number of ranks at work, and so their speed, stays.
A rank that reduces its gradients after its last action is at work, too.

Replicas of a pipeline that share its processors drift apart within a step: while
one has many idle ranks, others have as many at work as in the mean, and while all
of its ranks are at work, others have no more.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from planner.schedule.graph import ActionGraph
from planner.schedule.times import StageTimes

__all__ = ["shared_times"]


def shared_times(
        graph: ActionGraph, times: StageTimes, lag: Sequence[float],
        busy: Sequence[float] | None) -> tuple[list[float], list[float]]:
    """Starts and ends of actions that start as soon as they can.

    Parameters
    ----------
    graph : ActionGraph
    times : StageTimes
        With an `alone_speedup` and `replicas`.
    lag : sequence of float
        Seconds of each edge, and at -1 a 0.
    busy : sequence of float or None
        Of each edge, for how long a message keeps the link from its rank to
        the other busy.

    Returns
    -------
    list of float, list of float
        Seconds, by number of the graph's actions.
    """
    run = _Run(graph, times, lag, busy)
    found = run.times()
    if times.replicas == 1 or not run.span_s:
        return found
    # As if they were in step, which is close.
    return _Run(graph,
                times,
                lag,
                busy,
                others_at_work=(times.replicas - 1) * run.at_work_s /
                run.span_s).times()


class _Run:

    def __init__(self,
                 graph: ActionGraph,
                 times: StageTimes,
                 lag: Sequence[float],
                 busy: Sequence[float] | None,
                 *,
                 others_at_work: float | None = None) -> None:
        self.graph, self.seconds, self.lag = graph, times.table, lag
        self.others_at_work = others_at_work or 0.0
        self.ranks = len(
            graph.numbers) * (1 if others_at_work is None else times.replicas)
        self.busy = busy or [0.0] * len(lag)
        self.free: defaultdict[tuple[int, int], float] = defaultdict(float)
        self.speedup = times.alone_speedup
        self.starts = [0.0] * len(graph.actions)
        self.ends = [0.0] * len(graph.actions)
        self.readers: defaultdict[int, list[tuple[int, int]]]
        self.readers = defaultdict(list)
        self.unmet = [0] * len(graph.actions)
        for number, first in enumerate(zip(graph.need, graph.edge)):
            for need, edge in (first, *graph.more.get(number, ())):
                if need >= 0:
                    self.readers[need].append((number, edge))
                    self.unmet[number] += 1
        self.ready_s = [0.0] * len(graph.actions)
        self.next = [0] * len(graph.numbers)
        self.reduce_s = [0.0] * len(graph.numbers)
        for rank, seconds in zip(graph.schedule.stage_rank, times.reduce_s
                                 or ()):
            self.reduce_s[rank] += seconds
        self.span_s = self.at_work_s = 0.0

    def times(self) -> tuple[list[float], list[float]]:
        now, left = 0.0, dict[int, float]()
        while True:
            coming = self._begin(now, left)
            if not left and coming == math.inf:
                return self.starts, self.ends
            speed = min(self.speedup, self.ranks /
                        (len(left) + self.others_at_work)) if left else 1.0
            least = min(left.values(), default=math.inf)
            before = now
            if now + least / speed <= coming:
                passed_s, now = least, now + least / speed
            else:
                passed_s, now = (coming - now) * speed, coming
            self.span_s = now
            self.at_work_s += len(left) * (now - before)
            for rank in list(left):
                left[rank] -= passed_s
                if left[rank] <= 1e-12 * passed_s:
                    del left[rank]
                    self._end(rank, now)

    def _begin(self, now: float, left: dict[int, float]) -> float:
        """Start what can; when the next of the waiting ranks can."""
        coming = math.inf
        for rank, row in enumerate(self.graph.numbers):
            if rank in left:
                continue
            if self.next[rank] == len(row):
                if self.reduce_s[rank]:
                    left[rank], self.reduce_s[rank] = self.reduce_s[rank], 0.0
                continue
            number = row[self.next[rank]]
            if self.unmet[number]:
                continue
            if self.ready_s[number] > now:
                coming = min(coming, self.ready_s[number])
                continue
            self.starts[number] = now
            left[rank] = self.seconds[self.graph.codes[number]]
        return coming

    def _end(self, rank: int, now: float) -> None:
        if self.next[rank] == len(self.graph.numbers[rank]):
            return
        number = self.graph.numbers[rank][self.next[rank]]
        self.next[rank] += 1
        self.ends[number] = now
        for reader, edge in self.readers[number]:
            self.unmet[reader] -= 1
            link = rank, self.graph.rank[reader]
            leaves = max(now, self.free[link])
            self.free[link] = leaves + self.busy[edge]
            self.ready_s[reader] = max(self.ready_s[reader],
                                       leaves + self.lag[edge])
