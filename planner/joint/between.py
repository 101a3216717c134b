"""Layouts of a cell, from those for fewer and for more rows.

What a micro-batch takes in given layouts is concave in its rows: work is in
proportion to them, kernels and messages take a while whatever their size,
and of ways to communicate the quickest is taken. So is the least over all
layouts, and layouts that are best for fewer rows and for more are so for the
rows between; the time of a micro-batch is no less than on the straight line
between those two, whatever its layouts. What bends the other way is left
out: devices whose caches are quicker for few bytes, and layouts of a ring,
whose messages are exposed only where there is little to compute. Where a ring
does not pay, it does not for fewer rows either. What policies add to times
outweighs these however many rows there are, so that it moves no layouts.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, field

from planner.ir.layouts import ProgramLayout
from planner.joint.space import Cell, divisors
from planner.pipeline.axes import without_axis

__all__ = ["Between"]

Axes = tuple[int, int, int]


@dataclass(slots=True)
class Between:
    """Remembers layouts of cells.

    Parameters
    ----------
    batch : int
        Rows of the whole batch, of which no part is a micro-batch: what is
        computed before micro-batches otherwise is computed in it.
    bends : callable
        Whether the times of given layouts are not concave.
    """

    batch: int
    bends: Callable[[ProgramLayout], bool]
    _known: dict[Axes, dict[int, ProgramLayout]] = field(default_factory=dict)
    _rows: dict[Axes, list[int]] = field(default_factory=dict)
    _alike: dict[tuple[Cell, Cell], bool] = field(default_factory=dict)
    _bending: dict[tuple[Axes, int], bool] = field(default_factory=dict)

    def learn(self, cell: Cell, layout: ProgramLayout | None) -> None:
        """Take a cell's layouts into account, the micro-batches' axis last.
        """
        if layout is None or cell.rows >= self.batch:
            return
        known = self._known.setdefault(_axes(cell), {})
        if cell.rows not in known:
            bisect.insort(self._rows.setdefault(_axes(cell), []), cell.rows)
        known[cell.rows] = layout

    def instead(self, cell: Cell) -> Cell:
        """What to lay out first where more rows of a cell's axes are asked
        for than one: the fewest or the most, between which others are."""
        known = self._known.get(_axes(cell))
        if not known or min(known) < cell.rows < max(known):
            return cell
        rows = [
            n for n in divisors(self.batch)
            if n < self.batch and n % cell.ep == 0
        ]
        end = rows[-1] if cell.rows > max(known) else rows[0]
        return cell._replace(rows=end)

    def around(self, cell: Cell) -> tuple[Cell, Cell] | None:
        """The nearest cells of fewer and of more rows that are known; None
        where there are not both, or times may bend between them."""
        known = self._rows.get(_axes(cell), ())
        before = bisect.bisect_left(known, cell.rows)
        after = bisect.bisect_right(known, cell.rows)
        if before == 0 or after == len(known):
            return None
        fewer, more = known[before - 1], known[after]
        if self._bends_at(cell, more):
            return None
        return cell._replace(rows=fewer), cell._replace(rows=more)

    def settles(self, cell: Cell) -> bool:
        """Whether these have the same layouts, which are its own then."""
        pair = self.around(cell)
        return pair is not None and self._are_alike(pair)

    def _are_alike(self, pair: tuple[Cell, Cell]) -> bool:
        if pair not in self._alike:
            known = self._known[_axes(pair[0])]
            self._alike[pair] = _are_alike(*(known[c.rows] for c in pair))
        return self._alike[pair]

    def _bends_at(self, cell: Cell, rows: int) -> bool:
        key = (_axes(cell), rows)
        if key not in self._bending:
            self._bending[key] = self.bends(self._known[key[0]][rows])
        return self._bending[key]


def _axes(cell: Cell) -> Axes:
    return cell.ep, cell.cp, cell.tp


def _are_alike(one: ProgramLayout, other: ProgramLayout) -> bool:
    """Over all axes but the micro-batches, which differ in number."""
    last = len(one.mesh.sizes) - 1
    return without_axis(one, last) == without_axis(other, last)
