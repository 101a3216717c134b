"""What each action of a schedule waits for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planner.ir.errors import ScheduleError
from planner.schedule.actions import Action, Edges, Schedule, chain

__all__ = ["ActionGraph", "build_graph", "check_edges"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionGraph:
    """The actions of a schedule, numbered so that none waits for a later.

    Parameters
    ----------
    schedule : Schedule
    edges : Edges
    actions : tuple of Action
        By number. Fewer than the schedule has where it is stuck.
    rank : tuple of int
        Of each action.
    position : tuple of int
        Of each action among those of its rank.
    previous : tuple of int
        The action before it on its rank, -1 for none.
    needs : tuple of tuple of (int, int)
        For each action the actions whose results it reads, each with the
        number of the edge, without what its rank's order implies.
    stuck : tuple of int
        How many actions of each rank can run; the length of its row where
        all can.
    """

    schedule: Schedule
    edges: Edges
    actions: tuple[Action, ...]
    rank: tuple[int, ...]
    position: tuple[int, ...]
    previous: tuple[int, ...]
    needs: tuple[tuple[tuple[int, int], ...], ...]
    stuck: tuple[int, ...]


def check_edges(edges: Sequence[tuple[int, int]] | None, stages: int) -> Edges:
    """Edges in order; those of a chain for None.

    Raises
    ------
    ScheduleError
        For an edge that isn't from a stage to a later one.
    """
    if edges is None:
        return chain(stages)
    for source, target in edges:
        if not 0 <= source < target < stages:
            raise ScheduleError(
                f"the edge from stage {source} to stage {target} isn't one "
                f"from a stage to a later one of the {stages} stages; number "
                "the stages in the order in which values flow")
    return tuple(sorted(set(map(tuple, edges))))  # type: ignore[arg-type]


def neighbours(
    edges: Edges, stages: int
) -> tuple[list[list[tuple[int, int]]], list[list[tuple[int, int]]]]:
    """For each stage (stage before, edge) pairs, and those after."""
    before: list[list[tuple[int, int]]] = [[] for _ in range(stages)]
    after: list[list[tuple[int, int]]] = [[] for _ in range(stages)]
    for number, (source, target) in enumerate(edges):
        before[target].append((source, number))
        after[source].append((target, number))
    return before, after


def build_graph(schedule: Schedule,
                edges: Sequence[tuple[int, int]] | None = None) -> ActionGraph:
    """Number the actions in an order in which they can run.

    Parameters
    ----------
    schedule : Schedule
    edges : sequence of (int, int), optional
        Which stage feeds which; a chain if left out.
    """
    edges = check_edges(edges, schedule.stages)
    builder = _Builder(schedule, edges)
    builder.run()
    return builder.graph()


class _Builder:
    """Lets every rank work until it waits, and wakes who waits for it."""

    def __init__(self, schedule: Schedule, edges: Edges) -> None:
        self.schedule, self.edges = schedule, edges
        self.before, self.after = neighbours(edges, schedule.stages)
        self.done: dict[tuple[bool, int, int], int] = {}
        self.waiting: dict[tuple[bool, int, int], list[int]] = {}
        self.next = [0] * len(schedule.ranks)
        self.last = [-1] * len(schedule.ranks)
        self.actions: list[Action] = []
        self.rank: list[int] = []
        self.position: list[int] = []
        self.previous: list[int] = []
        self.needs: list[tuple[tuple[int, int], ...]] = []

    def run(self) -> None:
        awake = list(range(len(self.schedule.ranks)))[::-1]
        while awake:
            awake.extend(self._work(awake.pop()))

    def _work(self, rank: int) -> list[int]:
        """Run a rank until it waits; the ranks that this wakes."""
        woken: list[int] = []
        row = self.schedule.ranks[rank]
        for position in range(self.next[rank], len(row)):
            action = row[position]
            needs = self._ready(action, rank)
            if needs is None:
                break
            number = len(self.actions)
            self.actions.append(action)
            self.rank.append(rank)
            self.position.append(position)
            self.previous.append(self.last[rank])
            self.needs.append(needs)
            self.last[rank] = number
            self.next[rank] = position + 1
            if action.kind != "W":
                key = (action.kind != "F", action.stage, action.microbatch)
                self.done[key] = number
                woken += self.waiting.pop(key, ())
        return woken

    def _ready(self, action: Action,
               rank: int) -> tuple[tuple[int, int], ...] | None:
        """What the action reads; None, and noted, if that isn't there."""
        if action.kind == "W":
            return ()
        is_backward = action.kind != "F"
        found = []
        for stage, edge in (self.after
                            if is_backward else self.before)[action.stage]:
            key = (is_backward, stage, action.microbatch)
            number = self.done.get(key)
            if number is None:
                self.waiting.setdefault(key, []).append(rank)
                return None
            found.append((number, edge))
        return tuple(found)

    def graph(self) -> ActionGraph:
        return ActionGraph(schedule=self.schedule,
                           edges=self.edges,
                           actions=tuple(self.actions),
                           rank=tuple(self.rank),
                           position=tuple(self.position),
                           previous=tuple(self.previous),
                           needs=tuple(self.needs),
                           stuck=tuple(self.next))
