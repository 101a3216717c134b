"""Schedules for stages as they are: uneven, with messages that take time.

The named schedules are right for stages of equal times. Here they are only
where the search starts: list scheduling under many policies, then local
search from the best few. The result is never slower, simulated, than the
best named schedule that fits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.ir.errors import InfeasiblePlan, ScheduleError
from planner.schedule.actions import Schedule
from planner.schedule.bound import lower_bound_s
from planner.schedule.engine import makespan
from planner.schedule.families import generate, schedule_names
from planner.schedule.graph import build_graph, check_edges
from planner.schedule.improve import fits, fuse, improve
from planner.schedule.listing import Policy, Problem, list_schedule
from planner.schedule.simulation import peaks
from planner.schedule.space import list_tasks, placements
from planner.schedule.times import EdgeTimes, StageMemory, StageTimes

__all__ = ["Synthesis", "synthesise"]

_STARTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthesis:
    """What the search found.

    Parameters
    ----------
    schedule : Schedule
    makespan_s : float
        Simulated.
    bound_s : float
        No schedule of these stages is faster.
    best_named : str
        The fastest named schedule that fits, empty if none does.
    best_named_s : float
        Its makespan.
    tried : int
        Schedules that were simulated before the local search.
    """

    schedule: Schedule
    makespan_s: float
    bound_s: float
    best_named: str
    best_named_s: float
    tried: int

    @property
    def gap(self) -> float:
        """By how much of the bound the makespan may be too long."""
        return self.makespan_s / self.bound_s - 1 if self.bound_s else 0.0


@dataclass(frozen=True, slots=True)
class _Candidate:
    makespan_s: float
    order: int
    name: str
    schedule: Schedule


def synthesise(times: StageTimes,
               *,
               ranks: int,
               microbatches: int,
               edges: Sequence[tuple[int, int]] | None = None,
               p2p_s: EdgeTimes = 0.0,
               memory: StageMemory | None = None,
               cap_bytes: Sequence[float] | None = None,
               placement: Sequence[int] | None = None,
               effort: int = 300_000,
               seed: int = 0,
               time_limit_s: float | None = None) -> Synthesis:
    """Search a schedule for stages of given times.

    Parameters
    ----------
    times : StageTimes
        Of every stage; a multiple of `ranks` of them.
    ranks, microbatches : int
    edges : sequence of (int, int), optional
        Which stage feeds which; a chain if left out.
    p2p_s : float or mapping of (int, int) to float
        Seconds of a message.
    memory : StageMemory, optional
        What stages keep; one byte for each micro-batch if left out.
    cap_bytes : sequence of float, optional
        The most that each rank may keep; no limit if left out.
    placement : sequence of int, optional
        The rank of each stage; if left out, stages in turn and, with
        several on a rank, back and forth are both tried.
    effort : int
        Actions that are scheduled and simulated, in about as many times 10
        microseconds: half by list scheduling, half in the local search.
    seed : int
        Of the local search. The same arguments give the same schedule,
        unless the time limit cuts the search short.
    time_limit_s : float, optional
        After which no more schedules are tried.

    Raises
    ------
    ScheduleError
        When the stages are no multiple of the ranks, or `cap_bytes` or
        `placement` are for other numbers.
    InfeasiblePlan
        When not even one micro-batch at a time fits the limit.

    Examples
    --------
    >>> seconds = [1, 2, 1, 1]
    >>> found = synthesise(StageTimes.in_parts(seconds, seconds, seconds),
    ...                    ranks=4, microbatches=8, p2p_s=0.25,
    ...                    cap_bytes=[4, 4, 4, 4])
    >>> found.best_named, found.best_named_s, found.makespan_s
    ('zbh1', 50.25, 49.25)
    """
    _check(times, ranks, cap_bytes, placement)
    places = ([tuple(placement)] if placement is not None else placements(
        times.stages, ranks))
    problems = [
        Problem(stage_rank=place,
                microbatches=microbatches,
                times=times,
                edges=check_edges(edges, times.stages),
                p2p_s=p2p_s,
                memory=memory or StageMemory.uniform(times.stages),
                cap_bytes=(math.inf, ) *
                ranks if cap_bytes is None else tuple(cap_bytes))
        for place in places
    ]
    return _Search(problems, effort, seed, time_limit_s).run()


def _check(times: StageTimes, ranks: int, cap_bytes: Sequence[float] | None,
           placement: Sequence[int] | None) -> None:
    if times.stages % ranks or not times.stages:
        raise ScheduleError(f"{times.stages} stages can't be dealt evenly to "
                            f"{ranks} ranks; cut the model into a multiple")
    if cap_bytes is not None and len(cap_bytes) != ranks:
        raise ScheduleError(f"cap_bytes has {len(cap_bytes)} numbers and "
                            f"there are {ranks} ranks; give one for each")
    if placement is not None and (len(placement) != times.stages
                                  or set(placement) != set(range(ranks))):
        raise ScheduleError(
            f"the placement {tuple(placement)} doesn't put {times.stages} "
            f"stages on all of {ranks} ranks; give the rank of each stage")


class _Search:
    """The candidates so far."""

    def __init__(self, problems: list[Problem], effort: int, seed: int,
                 time_limit_s: float | None) -> None:
        self.problems = problems
        self.effort, self.budget, self.seed = effort, effort, seed
        self.found: dict[Schedule, _Candidate] = {}
        self.best_s = math.inf
        self.bound_s = min(map(lower_bound_s, problems))
        self.end_s = (math.inf if time_limit_s is None else time.monotonic() +
                      time_limit_s)

    def _is_over(self) -> bool:
        """Whether nothing can get better, or time is up."""
        if self.best_s <= self.bound_s * (1 + 1e-12):
            return True
        return self.end_s < math.inf and time.monotonic() > self.end_s

    def run(self) -> Synthesis:
        limits = self._add_named()
        named = min(self.found.values(), key=_rank, default=None)
        for problem, policy, limit in list_tasks(self.problems, limits):
            if self.budget < self.effort / 2 and self.found or self._is_over():
                break
            self._add_listed(problem, policy, limit)
        if not self.found:
            raise self._infeasible()
        best = self._improved()
        return Synthesis(schedule=best.schedule,
                         makespan_s=best.makespan_s,
                         bound_s=self.bound_s,
                         best_named=named.name if named else "",
                         best_named_s=named.makespan_s if named else math.inf,
                         tried=len(self.found))

    def _add(self, name: str, schedule: Schedule, problem: Problem) -> None:
        if schedule in self.found:
            return
        graph = build_graph(schedule, problem.edges)
        if not graph.is_stuck and fits(graph, problem):
            time_s = makespan(graph, problem.times, problem.p2p_s)
            self.best_s = min(self.best_s, time_s)
            self.found[schedule] = _Candidate(time_s, len(self.found), name,
                                              schedule)

    def _add_named(self) -> list[tuple[float, ...]]:
        """Try the named schedules; what each would keep on the ranks."""
        limits = []
        first = self.problems[0]
        for name in schedule_names():
            try:
                schedule = generate(name, first.ranks, first.microbatches,
                                    len(first.stage_rank) // first.ranks)
            except ScheduleError:
                continue
            limits.append(
                peaks(build_graph(schedule, first.edges), first.memory))
            for problem in self.problems:
                if schedule.stage_rank == problem.stage_rank:
                    self._add(name, schedule, problem)
        return limits

    def _add_listed(self, problem: Problem, policy: Policy,
                    limit: tuple[float, ...]) -> None:
        schedule = list_schedule(replace(problem, cap_bytes=limit), policy)
        self.budget -= 3 * len(problem.stage_rank) * problem.microbatches
        if schedule is not None:
            self._add("", schedule, problem)
            self._add("", fuse(schedule), problem)

    def _improved(self) -> _Candidate:
        starts = sorted(self.found.values(), key=_rank)[:_STARTS]
        best = starts[0]
        for number, start in enumerate(starts):
            problem = next(p for p in self.problems
                           if p.stage_rank == start.schedule.stage_rank)
            size = sum(map(len, start.schedule.ranks))
            schedule, time_s = improve(start.schedule,
                                       problem,
                                       tries=self.effort // (6 * size),
                                       seed=self.seed + number,
                                       is_over=self._is_over)
            if time_s < best.makespan_s:
                best = _Candidate(time_s, len(self.found), "", schedule)
                self.best_s = time_s
        return best

    def _infeasible(self) -> InfeasiblePlan:
        problem = self.problems[0]
        need = [
            sum(b
                for b, r in zip(problem.memory.saved_bytes, problem.stage_rank)
                if r == rank) for rank in range(problem.ranks)
        ]
        return InfeasiblePlan(
            f"no schedule fits: one micro-batch at a time keeps {need} bytes "
            f"on the ranks, and they may keep {list(problem.cap_bytes)}; use "
            "more micro-batches, recompute more, or cut the stages otherwise")


def _rank(candidate: _Candidate) -> tuple[float, int]:
    return candidate.makespan_s, candidate.order
