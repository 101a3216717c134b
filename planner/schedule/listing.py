"""List scheduling: every rank takes the best of what it could do now."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from planner.schedule.actions import Action, Edges, Schedule
from planner.schedule.times import (EdgeTimes, StageMemory, StageTimes,
                                    edge_table)

__all__ = ["Policy", "Problem", "list_schedule"]

# Times are sums of floats: what should be equal may differ in the last bits.
_EPSILON = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is to be scheduled.

    Parameters
    ----------
    stage_rank : tuple of int
        The rank of each stage.
    microbatches : int
    times : StageTimes
    edges : Edges
    p2p_s : float or mapping of (int, int) to float
        Seconds of a message.
    memory : StageMemory
    cap_bytes : tuple of float
        The most that each rank may keep.
    """

    stage_rank: tuple[int, ...]
    microbatches: int
    times: StageTimes
    edges: Edges
    p2p_s: EdgeTimes
    memory: StageMemory
    cap_bytes: tuple[float, ...]

    @property
    def ranks(self) -> int:
        return len(self.cap_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a rank takes first.

    Parameters
    ----------
    prefer : str
        ``backward``, ``forward``, or ``turns``: the other than before.
    forwards, backwards : int
        Which stage of several: 1 the last, -1 the first, 0 that with the
        oldest micro-batch.
    weights : str
        ``whole``: backwards are not cut; ``next``: ``W`` follows ``I``;
        ``gaps``: ``W`` where there is nothing else to do.
    patience : float
        In gaps: how much of the time of a ``W`` has to be free at least.
    """

    prefer: str = "backward"
    forwards: int = 1
    backwards: int = 1
    weights: str = "gaps"
    patience: float = 0.5


def list_schedule(problem: Problem, policy: Policy) -> Schedule | None:
    """Schedule greedily in time; None where some work doesn't fit.

    A forward starts only if, with what it keeps, the later stages of its
    rank still have room for one micro-batch. So the oldest micro-batch can
    always go on, and the memory limit causes no deadlock.
    """
    work = _Work(problem, policy)
    work.run()
    if any(b < problem.microbatches for b in work.done["B"]):
        return None
    return Schedule(tuple(map(tuple, work.rows)))


class _Work:
    """The state of all ranks while time goes on."""

    def __init__(self, problem: Problem, policy: Policy) -> None:
        self.problem, self.policy = problem, policy
        stages, ranks = len(problem.stage_rank), problem.ranks
        self.mine = [[s for s in range(stages) if problem.stage_rank[s] == r]
                     for r in range(ranks)]
        self.rows: list[list[Action]] = [[] for _ in range(ranks)]
        self.free = [0.0] * ranks
        self.kept = [0.0] * ranks
        self.turn = ["B"] * ranks
        self.pending: list[list[Action]] = [[] for _ in range(ranks)]
        self.done = {"F": [0] * stages, "B": [0] * stages}
        self.events = [(0.0, r) for r in range(ranks)]
        self._set_tables(stages)

    def _set_tables(self, stages: int) -> None:
        problem = self.problem
        count, rank = problem.microbatches, problem.stage_rank
        lag = edge_table(problem.p2p_s, problem.edges)
        outputs: dict[str, list[list[tuple[int, float]]]] = {
            k: [[] for _ in range(stages)]
            for k in "FB"
        }
        missing = {k: [0] * stages for k in "FB"}
        for number, (source, target) in enumerate(problem.edges):
            time = 0.0 if rank[source] == rank[target] else lag[number]
            outputs["F"][source].append((target, time))
            outputs["B"][target].append((source, time))
            missing["F"][target] += 1
            missing["B"][source] += 1
        self.outputs = outputs
        self.missing = {
            k: [[missing[k][s]] * count for s in range(stages)]
            for k in "FB"
        }
        self.arrival = {
            k: [[0.0] * count for _ in range(stages)]
            for k in "FB"
        }
        table = problem.times.table, problem.memory.table
        self.seconds, self.change = ({
            k: row[n * stages:(n + 1) * stages]
            for n, k in enumerate("FBIW")
        } for row in table)
        saved = problem.memory.saved_bytes
        self.room = [
            sum(saved[t] for t in range(s, stages) if rank[t] == rank[s])
            for s in range(stages)
        ]

    def run(self) -> None:
        heapq.heapify(self.events)
        while self.events:
            now, rank = heapq.heappop(self.events)
            if now < self.free[rank]:
                continue
            for action in self._choose(rank, now):
                self._start(rank, action, max(now, self.free[rank]))

    def _start(self, rank: int, action: Action, now: float) -> None:
        kind, stage, microbatch = (action.kind, action.stage,
                                   action.microbatch)
        end = now + self.seconds[kind][stage]
        self.rows[rank].append(action)
        self.kept[rank] += self.change[kind][stage]
        self.free[rank] = end
        heapq.heappush(self.events, (end, rank))
        if kind == "W":
            return
        way = "F" if kind == "F" else "B"
        self.turn[rank] = way
        self.done[way][stage] += 1
        for other, lag in self.outputs[way][stage]:
            arrival = self.arrival[way][other]
            arrival[microbatch] = max(arrival[microbatch], end + lag)
            self.missing[way][other][microbatch] -= 1
            heapq.heappush(self.events,
                           (end + lag, self.problem.stage_rank[other]))

    def _open(self, rank: int, way: str) -> Iterator[tuple[float, int, int]]:
        """(arrival, stage, micro-batch) of what is known to come next."""
        for stage in self.mine[rank]:
            number = self.done[way][stage]
            limit = (self.problem.microbatches
                     if way == "F" else self.done["F"][stage])
            if number < limit and not self.missing[way][stage][number]:
                yield self.arrival[way][stage][number], stage, number

    def _choose(self, rank: int, now: float) -> list[Action]:
        """What the rank starts now, nothing if it had better wait."""
        soon = now + _EPSILON * (1.0 + now)
        cap = self.problem.cap_bytes[rank] * (1.0 + _EPSILON)
        found = {w: list(self._open(rank, w)) for w in "FB"}
        fits = [
            o for o in found["F"] if self.kept[rank] + self.room[o[1]] <= cap
        ]
        has_full = len(fits) < len(found["F"])
        found["F"] = fits
        ready = {w: [o for o in found[w] if o[0] <= soon] for w in "FB"}
        for way in self._order(rank):
            if ready[way]:
                return self._take(rank, way, ready[way])
        pending = self.pending[rank]
        if not pending:
            return []
        coming = min((o[0] for w in "FB" for o in found[w]), default=None)
        needed = self.policy.patience * self.seconds["W"][pending[0].stage]
        if has_full or coming is None or coming - now >= needed:
            return [pending.pop(0)]
        return []

    def _order(self, rank: int) -> str:
        prefer = self.policy.prefer
        if prefer == "turns":
            return "BF" if self.turn[rank] == "F" else "FB"
        return "BF" if prefer == "backward" else "FB"

    def _take(self, rank: int, way: str,
              ready: list[tuple[float, int, int]]) -> list[Action]:
        sign = self.policy.forwards if way == "F" else self.policy.backwards
        _, stage, number = min(ready,
                               key=lambda o: (-sign * o[1], o[2], -o[1]))
        if way == "F":
            return [Action("F", stage, number)]
        if self.policy.weights == "whole":
            return [Action("B", stage, number)]
        parts = Action("I", stage, number), Action("W", stage, number)
        if self.policy.weights == "next":
            return list(parts)
        self.pending[rank].append(parts[1])
        return [parts[0]]
