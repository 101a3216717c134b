"""What each action of a schedule waits for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from planner.ir.errors import ScheduleError
from planner.schedule.actions import KINDS, Action, Edges, Schedule, chain

__all__ = ["ActionGraph", "build_graph", "check_edges"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionGraph:
    """The actions of a schedule, numbered so that none waits for a later.

    Parameters
    ----------
    schedule : Schedule
    edges : Edges
    actions : list of Action
        By number. Fewer than the schedule has where it is stuck.
    codes : list of int
        Of each action: its kind's place in `KINDS`, times the number of
        stages, plus its stage.
    numbers : tuple of list of int
        For each rank the numbers of its actions, in its order.
    rank : list of int
        Of each action.
    previous : list of int
        The action before it on its rank, -1 for none.
    need : list of int
        An action whose result it reads, -1 for none; without what its
        rank's order implies.
    edge : list of int
        The edge over which it gets there, -1 for none and where both are on
        one rank.
    more : dict of int to tuple of (int, int)
        Further (need, edge) of the actions that read more than one.
    """

    schedule: Schedule
    edges: Edges
    actions: list[Action]
    codes: list[int]
    numbers: tuple[list[int], ...]
    rank: list[int]
    previous: list[int]
    need: list[int]
    edge: list[int]
    more: dict[int, tuple[tuple[int, int], ...]]

    @property
    def is_stuck(self) -> bool:
        """Whether some action never runs."""
        return len(self.actions) < sum(map(len, self.schedule.ranks))

    def messages(self) -> Iterator[tuple[int, int, int]]:
        """(sender, reader, edge) of what goes from rank to rank."""
        for reader, first in enumerate(zip(self.need, self.edge)):
            for sender, edge in (first, *self.more.get(reader, ())):
                if edge >= 0:
                    yield sender, reader, edge


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
    return tuple(sorted({(source, target) for source, target in edges}))


def _neighbours(
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
        before, after = _neighbours(edges, schedule.stages)
        self.sources = {"F": before, "B": after, "I": after}
        self.offset = {k: n * schedule.stages for n, k in enumerate(KINDS)}
        self.done: dict[tuple[bool, int, int], int] = {}
        self.waiting: dict[tuple[bool, int, int], list[int]] = {}
        self.numbers: list[list[int]] = [[] for _ in schedule.ranks]
        self.actions: list[Action] = []
        self.codes: list[int] = []
        self.rank: list[int] = []
        self.previous: list[int] = []
        self.need: list[int] = []
        self.edge: list[int] = []
        self.more: dict[int, tuple[tuple[int, int], ...]] = {}

    def run(self) -> None:
        awake = list(range(len(self.schedule.ranks)))[::-1]
        while awake:
            awake.extend(self._work(awake.pop()))

    def _work(self, rank: int) -> list[int]:
        """Run a rank until it waits; the ranks that this wakes."""
        woken: list[int] = []
        numbers = self.numbers[rank]
        for action in self.schedule.ranks[rank][len(numbers):]:
            kind, stage = action.kind, action.stage
            number = len(self.actions)
            if kind == "W":
                self.need.append(-1)
                self.edge.append(-1)
            else:
                if not self._reads(action, rank, number):
                    break
                key = (kind != "F", stage, action.microbatch)
                self.done[key] = number
                woken += self.waiting.pop(key, ())
            self.actions.append(action)
            self.codes.append(self.offset[kind] + stage)
            self.rank.append(rank)
            self.previous.append(numbers[-1] if numbers else -1)
            numbers.append(number)
        return woken

    def _reads(self, action: Action, rank: int, number: int) -> bool:
        """Note what an action reads; False, and wait, if it isn't there."""
        found = []
        for stage, edge in self.sources[action.kind][action.stage]:
            key = (action.kind != "F", stage, action.microbatch)
            source = self.done.get(key)
            if source is None:
                self.waiting.setdefault(key, []).append(rank)
                return False
            found.append((source, edge if self.rank[source] != rank else -1))
        first = found[0] if found else (-1, -1)
        self.need.append(first[0])
        self.edge.append(first[1])
        if len(found) > 1:
            self.more[number] = tuple(found[1:])
        return True

    def graph(self) -> ActionGraph:
        return ActionGraph(schedule=self.schedule,
                           edges=self.edges,
                           actions=self.actions,
                           codes=self.codes,
                           numbers=tuple(self.numbers),
                           rank=self.rank,
                           previous=self.previous,
                           need=self.need,
                           edge=self.edge,
                           more=self.more)
