"""Branch and bound over combinations, the most promising first.

A combination is bounded more and more closely, each time it comes up: with
its cell, by what its ranks have to do at least and the way that this is run;
block by block, by the table that its cell has at best, which is known from
those of other cells; by that of its cell itself; with what is moved once a
step; with its schedule simulated; and at last it is laid out and priced in
full. What is never taken up again can't be much better than what was found,
and the least of its bounds says how much.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar, Union

from planner.joint.bounds import CellBounds
from planner.joint.score import CellScores, Score
from planner.joint.space import AXES, Cell, Point, Space

__all__ = ["Branching", "Priced"]


class Priced(Protocol):
    """A combination priced in full."""

    @property
    def run_s(self) -> float:
        """What is minimised."""
        ...


Found = TypeVar("Found", bound=Priced)

_LEAST = 4
"""How many are priced where none fits, or when time is up."""

_ROUNDING = 1e-9

_RESERVE = 0.1
"""Of the time, for pricing what was laid out until then."""

_Item = Union[Cell, Point, "_Guessed", Score, "_Closer", "_Simulated"]
_Entry = tuple[float, float, int, _Item]
"""Bytes too many, a bound on its time, a number that breaks ties."""


@dataclass(frozen=True, slots=True)
class _Guessed:
    """A way to run a cell, with the table that this has at best.

    Parameters
    ----------
    way : Point
    changes : int
        How often more had become known of the cell.
    """

    way: Point
    changes: int


@dataclass(frozen=True, slots=True)
class _Closer:
    """A combination scored with what is moved once a step as it is."""

    score: Score


@dataclass(frozen=True, slots=True)
class _Simulated:
    """A combination whose schedule was simulated."""

    score: Score


@dataclass(kw_only=True)
class Branching(Generic[Found]):
    """What is asked, and once it has run, what was found.

    Parameters
    ----------
    space : Space
    bounds : CellBounds
    scores : callable
        What scores a cell's combinations; None where it can't be laid out.
    price : callable
        A combination priced in full; None where it turns out illegal.
    fits : callable
        Whether it keeps the memory limit.
    memory_limit_bytes : float
    tolerance : float
        By what part a combination must promise to be better than the best,
        or it is not priced.
    known_s : float
        Of the best plan that is known already.
    until_s : float
        When to stop, by the monotonic clock.
    runners_up : int
        How many more are priced in the end, to compare: of each other split
        of the ranks whose cell is laid out the most promising, or where
        sizes are given, of each other schedule, number of micro-batches,
        sharding at rest and recomputation.

    Attributes
    ----------
    found : list
        What was priced in full.
    bound_s : float
        No combination takes less.
    scored : dict
        Of each split of the ranks whose cell was laid out, the combination
        that promises most.
    short : float
        By what part of its bound a combination took less when it was priced,
        at most. Others may as well, so that all bounds are less by it.
    """

    space: Space
    bounds: CellBounds
    scores: Callable[[Cell], CellScores | None]
    price: Callable[[Point, CellScores], Found | None]
    fits: Callable[[Found], bool]
    memory_limit_bytes: float
    tolerance: float = 0.0
    known_s: float = float("inf")
    until_s: float = float("inf")
    runners_up: int = 0
    found: list[Found] = field(default_factory=list)
    bound_s: float = float("inf")
    scored: dict[tuple[int, ...], Score] = field(default_factory=dict)
    short: float = 0.0
    _seen: int = 0
    _found_s: float = float("inf")
    _limit_s: float = float("inf")
    _heap: list[_Entry] = field(default_factory=list)
    _known: dict[Cell, CellScores | None] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _kinds: set[tuple[object, ...]] = field(default_factory=set)

    def run(self) -> None:
        """Until no bound is better than what was found, or time is up."""
        self._learn(Cell(rows=self.space.batch))
        for cell in self.space.cells():
            self._push(*self.bounds.roughly(cell), cell)
        if self.until_s < float("inf"):
            now_s = time.monotonic()
            self._limit_s = now_s + (1 - _RESERVE) * (self.until_s - now_s)
        while self._heap and not self._is_done():
            self._step()
        left_s = self._left_s()
        if self._is_late():
            self._settle()
        self._price_runners_up()
        self.bound_s = min(self.bound_s, self.best_s,
                           left_s * (1 - self.short))

    def _left_s(self) -> float:
        """The least that may still be found of what was not taken up again.
        """
        best_s = self.best_s
        left = ((excess, b) if b >= best_s or not isinstance(item, Cell) else
                self.bounds.of(item) for excess, b, _, item in self._heap)
        return min([b for excess, b in left if excess == 0.0], default=best_s)

    def _is_late(self) -> bool:
        return time.monotonic() > self._limit_s

    def _settle(self) -> None:
        """Price the most promising of what is laid out; where nothing is,
        and there is time, of the most promising cell."""
        self._heap, heap = [], sorted(self._heap)
        ahead: dict[Cell, None] = {}
        for excess, bound_s, _, item in heap:
            cell = _cell_of(item)
            if isinstance(item, (Score, _Closer, _Simulated)):
                self._push(excess, bound_s, item)
            elif self._known.get(cell) is None:
                ahead[cell] = None
            elif isinstance(item, Cell):
                self._open(cell)
            else:
                self._push(excess, bound_s, item)
        for cell in ahead:
            if (self._heap or self.found or time.monotonic() > self.until_s):
                break
            if self._learn(cell) is not None:
                self._open(cell)
        enough = len(self.found) + _LEAST
        while self._heap and len(self.found) < enough:
            excess, bound_s, _, _ = self._heap[0]
            if (bound_s >= self.best_s or excess and self.found
                    or time.monotonic() > self.until_s and self.found):
                break
            self._step()

    def _price_runners_up(self) -> None:
        """One of each kind of which none was priced, in the order of their
        bounds."""
        enough = len(self.found) + self.runners_up
        while (self._heap and len(self.found) < enough
               and time.monotonic() < self.until_s):
            excess, _, _, item = self._heap[0]
            if excess:
                break
            if (_cell_of(item) not in self._known
                    or self._kind_of(item) in self._kinds):
                heapq.heappop(self._heap)
            else:
                self._step()

    def _kind_of(self, item: _Item) -> tuple[object, ...]:
        """What tells runners-up apart."""
        point = _point_of(item)
        if point is None or not self.space.fixed:
            return _split_of(item)
        return (point.schedule, point.chunks, point.microbatches,
                point.sharding, point.recompute)

    @property
    def best_s(self) -> float:
        """Of what is known and fits."""
        fitting = filter(self.fits, self.found[self._seen:])
        self._found_s = min([self._found_s, *(f.run_s for f in fitting)])
        self._seen = len(self.found)
        return min(self.known_s, self._found_s)

    def _is_done(self) -> bool:
        excess, bound_s, _, _ = self._heap[0]
        best_s = self.best_s
        if self._is_late():
            return True
        if best_s < float("inf"):
            bound_s *= 1 - self.short
            return excess > 0.0 or bound_s >= best_s * (1 - self.tolerance)
        return excess > 0.0 and len(self.found) >= _LEAST

    def _push(self, excess: float, bound_s: float, item: _Item) -> None:
        heapq.heappush(self._heap,
                       (excess, bound_s, next(self._numbers), item))

    def _step(self) -> None:
        """Bound what comes first more closely, or price it."""
        excess, bound_s, _, item = heapq.heappop(self._heap)
        if isinstance(item, Cell):
            now = self.bounds.roughly(item)
            if now <= (excess, bound_s):
                now = self.bounds.of(item)
            if now > (excess, bound_s):
                self._push(*now, item)
            elif self._learn_one(self.bounds.parts.first(item)):
                self._push(*self.bounds.of(item), item)
            else:
                self._open(item)
        elif isinstance(item, Point):
            self._guess(item)
        elif isinstance(item, _Guessed):
            self._take_up(item)
        elif isinstance(item, Score):
            self._push_score(
                self._scores_of(item.point).closely(item.point), bound_s,
                _Closer)
        elif isinstance(item, _Closer):
            point = item.score.point
            simulated_s = self._scores_of(point).simulated_s(point)
            self._push(excess, max(bound_s, simulated_s),
                       _Simulated(item.score))
        else:
            self._price(item.score, bound_s)

    def _guess(self, way: Point) -> None:
        if way.cell in self._known:
            self._score(way)
            return
        excess, bound_s = self.bounds.closely(way, self.memory_limit_bytes)
        self._push(excess, bound_s, _Guessed(way,
                                             self.bounds.changes(way.cell)))

    def _take_up(self, guessed: _Guessed) -> None:
        """Know more of its cell, and at last all."""
        way, cell = guessed.way, guessed.way.cell
        if guessed.changes == self.bounds.changes(cell):
            if not self._learn_one(self.bounds.parts.all(cell)):
                self._learn(cell)
        self._guess(way)

    def _learn_one(self, cells: Sequence[Cell]) -> bool:
        """Of those that are not known, if there is one."""
        for cell in cells:
            if cell not in self._known and not self.bounds.knows(cell):
                first = self.bounds.instead(cell)
                self._learn(cell if first in self._known else first)
                return True
        return False

    def _learn(self, cell: Cell) -> CellScores | None:
        if cell not in self._known:
            self._known[cell] = scores = self.scores(cell)
            if scores is not None:
                self.bounds.learn(scores.table)
        return self._known[cell]

    def _scores_of(self, point: Point) -> CellScores:
        """Of a point whose cell is laid out."""
        scores = self._known[point.cell]
        assert scores is not None
        return scores

    def _open(self, cell: Cell) -> None:
        for excess, bound_s, way in self.bounds.each(cell):
            self._push(excess, bound_s, way)

    def _score(self, way: Point) -> None:
        if self._known[way.cell] is None:
            return
        scores = self._scores_of(way)
        for point in self.space.in_orders(way):
            score = scores.score(point)
            self._push_score(score)
            best = self.scored.setdefault(_split_of(score), score)
            if (self._excess_bytes(score),
                    score.time_s) < (self._excess_bytes(best), best.time_s):
                self.scored[_split_of(score)] = score

    def _excess_bytes(self, score: Score) -> float:
        return max(0.0, score.memory_bytes - self.memory_limit_bytes)

    def _push_score(self,
                    score: Score,
                    bound_s: float = 0.0,
                    of: Callable[[Score], _Item] = lambda s: s) -> None:
        """With its memory."""
        self._push(self._excess_bytes(score), max(bound_s, score.time_s),
                   of(score))

    def _price(self, score: Score, bound_s: float) -> None:
        scores = self._scores_of(score.point)
        priced = self.price(score.point, scores)
        self._kinds.add(self._kind_of(score))
        if priced is not None:
            self.found.append(priced)
            short = 1 - priced.run_s / max(bound_s, 1e-30)
            if short > _ROUNDING:
                self.short = max(self.short, short)


def _point_of(item: _Item) -> Point | None:
    """Of everything but a cell."""
    if isinstance(item, (_Closer, _Simulated)):
        item = item.score
    if isinstance(item, Score):
        return item.point
    if isinstance(item, _Guessed):
        return item.way
    return item if isinstance(item, Point) else None


def _cell_of(item: _Item) -> Cell:
    point = _point_of(item)
    if point is not None:
        return point.cell
    assert isinstance(item, Cell)
    return item


def _split_of(item: _Item) -> tuple[int, ...]:
    """Ranks by axis; of a cell none, since it may be split in many ways."""
    point = _point_of(item)
    if point is None:
        return ()
    return tuple(point.sizes[n] for n in AXES)
