"""What a schedule takes: time, idle time and memory of each rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from planner.ir.errors import ScheduleError
from planner.schedule.actions import Action, Schedule
from planner.schedule.engine import finish_times
from planner.schedule.graph import ActionGraph, build_graph
from planner.schedule.shared import shared_times
from planner.schedule.times import (EdgeTimes, StageMemory, StageTimes,
                                    edge_table)

__all__ = ["Simulation", "peaks", "simulate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """A schedule in time.

    Parameters
    ----------
    graph : ActionGraph
    makespan_s : float
        From the first start to the last end.
    ends_s : list of float
        When each action of the graph ends.
    durations_s : list of float
        How long each takes.
    idle_s : tuple of float
        For each rank the time in which it does nothing.
    memory : StageMemory
    peak_bytes : tuple of float
        The most that each rank keeps at once.
    peak_in_flight : tuple of int
        The most (stage, micro-batch) pairs between forward and the end of
        backward on each rank at once.
    """

    graph: ActionGraph
    makespan_s: float
    ends_s: list[float]
    durations_s: list[float]
    idle_s: tuple[float, ...]
    memory: StageMemory
    peak_bytes: tuple[float, ...]
    peak_in_flight: tuple[int, ...]

    @property
    def bubble(self) -> tuple[float, ...]:
        """Of each rank the part of the makespan in which it is idle."""
        return tuple(i / self.makespan_s if self.makespan_s else 0.0
                     for i in self.idle_s)

    @property
    def bubble_fraction(self) -> float:
        """The part of all ranks' time that is idle."""
        return sum(self.bubble) / max(len(self.bubble), 1)

    def row(self, rank: int) -> list[tuple[Action, float, float]]:
        """(action, start, end) of a rank, in its order."""
        return [(self.graph.actions[n], self.ends_s[n] - self.durations_s[n],
                 self.ends_s[n]) for n in self.graph.numbers[rank]]

    def memory_timeline(self, rank: int) -> list[tuple[float, float]]:
        """(seconds, bytes from then on) of a rank, in order of time."""
        change = self.memory.table
        moments, kept = [], 0.0
        for number, (action, start, end) in zip(self.graph.numbers[rank],
                                                self.row(rank)):
            kept += change[self.graph.codes[number]]
            moments.append((start if action.kind == "F" else end, kept))
        return moments


def simulate(schedule: Schedule | ActionGraph,
             times: StageTimes,
             *,
             edges: Sequence[tuple[int, int]] | None = None,
             p2p_s: EdgeTimes = 0.0,
             occupancy_s: EdgeTimes | None = None,
             memory: StageMemory | None = None) -> Simulation:
    """Run a schedule on paper.

    Each rank starts its next action when the one before has ended and what
    it reads has arrived. Sends and receives take time, but no time of the
    rank.

    Parameters
    ----------
    schedule : Schedule or ActionGraph
        What is simulated many times with other numbers is best passed as
        its graph, since building that takes most of the time.
    times : StageTimes
        Of every stage.
    edges : sequence of (int, int), optional
        Which stage feeds which; a chain if left out.
    p2p_s : float or mapping of (int, int) to float
        Seconds until a message has arrived, of all edges or by edge.
        Stages on one rank send nothing.
    occupancy_s : float or mapping of (int, int) to float, optional
        Seconds for which a message keeps its link busy; if left out, links
        carry any number of messages at once.
    memory : StageMemory, optional
        What stages keep; one byte for each micro-batch if left out.

    Raises
    ------
    ScheduleError
        When the schedule deadlocks; `check_schedule` says where.
    ValueError
        When `times` or `memory` are of another number of stages.

    Examples
    --------
    >>> from planner.schedule.named import make_schedule
    >>> found = simulate(make_schedule("1f1b", ranks=4, microbatches=8),
    ...                  StageTimes.uniform(4))
    >>> found.makespan_s, found.idle_s[0], found.peak_in_flight
    (33.0, 9.0, (4, 3, 2, 1))
    """
    graph = (schedule if isinstance(schedule, ActionGraph) else build_graph(
        schedule, edges))
    memory = memory or StageMemory.uniform(graph.schedule.stages)
    _check(graph, times, memory)
    durations, ends = _spans(graph, times, p2p_s, occupancy_s)
    span = max(ends, default=0.0)
    ones = StageMemory.uniform(graph.schedule.stages)
    return Simulation(graph=graph,
                      makespan_s=span,
                      ends_s=ends,
                      durations_s=durations,
                      idle_s=tuple(span - sum(durations[n] for n in row)
                                   for row in graph.numbers),
                      memory=memory,
                      peak_bytes=peaks(graph, memory),
                      peak_in_flight=tuple(map(int, peaks(graph, ones))))


def _spans(graph: ActionGraph, times: StageTimes, p2p_s: EdgeTimes,
           occupancy_s: EdgeTimes | None) -> tuple[list[float], list[float]]:
    """How long actions take, and when they end."""
    table = times.table
    if times.alone_speedup == 1:
        return ([table[c] for c in graph.codes],
                finish_times(graph, times, p2p_s, occupancy_s))
    busy = (None if occupancy_s is None else edge_table(
        occupancy_s, graph.edges))
    starts, ends = shared_times(graph, times, edge_table(p2p_s, graph.edges),
                                busy)
    return [e - s for s, e in zip(starts, ends, strict=True)], ends


def peaks(graph: ActionGraph, memory: StageMemory) -> tuple[float, ...]:
    """The most that each rank keeps at once, in bytes.

    It depends on the order of the rank's actions and on no time, since what
    a rank keeps is kept and freed by its own actions.
    """
    change = memory.table
    return tuple(
        max(accumulate(change[graph.codes[n]] for n in row), default=0.0)
        for row in graph.numbers)


def _check(graph: ActionGraph, times: StageTimes, memory: StageMemory) -> None:
    stages = graph.schedule.stages
    for what, found in (("times", times.stages), ("memory",
                                                  len(memory.saved_bytes))):
        if found != stages:
            raise ValueError(f"{what} are given for {found} stages, and the "
                             f"schedule has {stages}")
    if graph.is_stuck:
        raise ScheduleError("the schedule deadlocks; check_schedule says "
                            "where")
