"""Bounds on cells whose table was not made."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from planner.cluster.spec import DeviceKind
from planner.joint.between import Between
from planner.joint.links import Links
from planner.joint.optimistic import Optimistic
from planner.joint.parts import Parts
from planner.joint.score import COPIED, CellScores
from planner.joint.space import Cell, Point, Space
from planner.joint.stages import StageCuts
from planner.joint.tables import BlockTable
from planner.joint.ways import Demand, State, Ways, ways_of
from planner.pipeline.cuts import Piece

__all__ = ["CellBounds"]

_GRAIN = 32
"""Parts of the longest block, in which others are measured to cut cells."""

_FEW = 16
"""Ways to cut a program, up to which all are looked at."""

_ROUNDED = 1 - 1e-9
"""Sums in another order are no more."""


@dataclass(frozen=True, slots=True)
class _Guess:
    """A cell's scores at best, and these cut into stages, by how many there
    are and whether blocks run again, as long as no more becomes known."""

    changes: int
    scores: CellScores
    cut: dict[tuple[int, bool], list[CellScores]] = field(default_factory=dict)


class CellBounds:
    """What is known of all cells from the tables of some.

    What one rank saves for the backward is divided evenly at best, so that
    cells are bounded by the ways to run them that fit, and ways by the table
    that their cell has at best (`planner.joint.optimistic`). This is cut
    where stages of it take about equally long, which is where that of the
    cell will be cut, within a block; where there are few ways to cut a
    program, all are looked at.

    Parameters
    ----------
    space : Space
    links : Links
    state : State
    repeated : array of bool
        Which blocks may run again.
    memory_limit_bytes : float
        The mean of all devices.
    finer : callable, optional
        From a number of stages to the blocks in pieces, as for `CellScores`.
    between : Between, optional
        What is known of layouts for other rows.

    Attributes
    ----------
    parts : Parts
        What cells are made of.
    """

    def __init__(
        self,
        space: Space,
        links: Links,
        state: State,
        repeated: NDArray[np.bool_],
        memory_limit_bytes: float,
        finer: Callable[[BlockTable, int], Sequence[Piece]] | None = None,
        between: Between | None = None,
    ) -> None:
        self._space, self._links, self._state = space, links, state
        self._repeated, self._limit_bytes = repeated, memory_limit_bytes
        self._finer, self._between = finer, between
        self.parts = Parts(space.batch, space.sizes())
        self._demand = Demand()
        self._optimistic: Optimistic | None = None
        self._row_s: dict[Cell, float] = {}
        self._ways: dict[Cell, Ways] = {}
        self._guesses: dict[Cell, _Guess] = {}
        self._cuts: dict[tuple[int, bytes], StageCuts] = {}
        self._every: dict[int, list[StageCuts]] = {}

    def learn(self, table: BlockTable) -> None:
        """Take a table into account."""
        table = table.at_least()
        cell, speed = table.cell, self._speed(table)
        if cell == Cell(rows=self._space.batch):
            self._optimistic = Optimistic(table, self._between, self.parts)
            if speed == 1.0:
                self._demand = Demand.of(table, self._repeated)
                self._ways.clear()
        elif self._optimistic is not None:
            self._optimistic.learn(table)
        if self._links.is_mixed or self._optimistic is None:
            work_s = float(table.work_s.sum()) / speed
            self._row_s[cell] = work_s * cell.ranks / cell.rows

    def _speed(self, table: BlockTable) -> float:
        """How many times the work of as many of the weakest all devices do
        at most, whichever blocks they have."""
        if not self._links.is_mixed:
            return 1.0
        devices = self._links.devices((1, self._space.ranks, 1))
        rates = {d: _rate(table, d) for d in dict.fromkeys(devices)}
        return sum(rates[d] for d in devices) / len(devices)

    def roughly(self, cell: Cell) -> tuple[float, float]:
        """Less closely than `of`, without looking at its ways."""
        return 0.0, self._work_s(cell)[0] * _ROUNDED

    def of(self, cell: Cell) -> tuple[float, float]:
        """Bytes too many, and seconds of a step, both at least."""
        return self._ways_of(cell).bound(*self._work_s(cell))

    def each(self, cell: Cell) -> Iterator[tuple[float, float, Point]]:
        """The same of each way to run a cell."""
        ways = self._ways_of(cell)
        yield from zip(ways.excess_bytes.tolist(),
                       ways.times_s(*self._work_s(cell)).tolist(),
                       ways.points,
                       strict=True)

    def changes(self, cell: Cell) -> int:
        """How often more became known of a cell."""
        return 0 if self._optimistic is None else self._optimistic.changes(
            cell)

    def knows(self, cell: Cell) -> bool:
        """Whether a cell's times are known without laying it out."""
        return self._optimistic is not None and self._optimistic.knows(cell)

    def instead(self, cell: Cell) -> Cell:
        """What to lay out first, since it tells more."""
        return cell if self._between is None else self._between.instead(cell)

    def closely(self, way: Point, limit_bytes: float) -> tuple[float, float]:
        """Bytes too many and seconds of a step, both at least, from the
        table of its cell at best; no seconds where it does not fit."""
        guess = self._guess(way.cell)
        if guess is None:
            return 0.0, 0.0
        found = []
        for points in self._alike(way):
            for cut in self._cut(guess, points[0]):
                excess = cut.memory_bytes(points[0]) * _ROUNDED - limit_bytes
                if excess > 0.0:
                    found.append((excess, 0.0))
                else:
                    found.append((0.0, min(map(cut.time_s, points))))
        return min(found)

    def _alike(self, way: Point) -> list[list[Point]]:
        """Its points, with those that take the same memory."""
        points = list(self._space.in_orders(way))
        return [[p] for p in points] if self._links.is_mixed else [points]

    def _cut(self, guess: _Guess, point: Point) -> list[CellScores]:
        """Wherever stages may begin."""
        if self._links.is_mixed:
            return self._wherever(guess.scores, point)
        key = (point.pp * point.chunks, point.recompute)
        if key not in guess.cut:
            guess.cut[key] = self._wherever(guess.scores, point)
        return guess.cut[key]

    def _wherever(self, scores: CellScores, point: Point) -> list[CellScores]:
        stages = point.pp * point.chunks
        if stages == 1:
            return [scores]
        if stages not in self._every:
            self._every[stages] = StageCuts.every(scores.table.blocks, stages,
                                                  _FEW)
        whole = [scores.cut_at(c) for c in self._every[stages]]
        if whole or self._links.is_mixed:
            # It may have cuts inside of blocks.
            return [*whole, scores]
        return [scores.cut_at(self._even(scores, point))]

    def _even(self, scores: CellScores, point: Point) -> StageCuts:
        """As for all cells whose blocks are about as long to each other."""
        work_s = scores.work_s(point)
        parts = np.rint(work_s * (_GRAIN / work_s.max()))
        key = (point.pp * point.chunks, parts.tobytes())
        if key not in self._cuts:
            self._cuts[key] = scores.even_cuts(parts, point)
        return self._cuts[key]

    def _guess(self, cell: Cell) -> _Guess | None:
        """What a cell's combinations take at best."""
        if self._optimistic is None:
            return None
        changes, guess = self._optimistic.changes(cell), self._guesses.get(
            cell)
        if guess is None or changes != guess.changes:
            table = self._optimistic.table(cell)
            if guess is None:
                finer = self._finer and functools.partial(self._finer, table)
                scores = CellScores(table, self._links, self._repeated, finer)
            else:
                scores = guess.scores.of_table(table)
            self._guesses[cell] = guess = _Guess(changes, scores)
        return guess

    def _work_s(self, cell: Cell) -> tuple[float, float]:
        """Of a rank in a step, and adding all gradients, at least."""
        rows = self._space.batch / self._space.ranks
        if self._space.is_whole(cell) and cell.has_rows_to_divide:
            rows *= 1 - COPIED
        if not self._row_s and self._optimistic is not None:
            work_s, sums_s = self._optimistic.row_s(cell)
            return work_s * rows, sums_s * rows
        row_s = max((s for c, s in self._row_s.items() if c.is_part_of(cell)),
                    default=0.0)
        return row_s * rows, 0.0

    def _ways_of(self, cell: Cell) -> Ways:
        if cell not in self._ways:
            self._ways[cell] = ways_of(cell, self._space, self._links,
                                       self._state, self._demand,
                                       self._limit_bytes)
        return self._ways[cell]


def _rate(table: BlockTable, device: DeviceKind) -> float:
    """Seconds of the weakest device in one of another, of the block that
    gains most."""
    weakest_s, own_s = (np.maximum(t.work_s, 1e-30)
                        for t in (table, table.on(device)))
    return max(1.0, float((weakest_s / own_s).max()))
