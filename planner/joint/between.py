"""Layouts of a cell, from those for fewer and for more rows.

What a micro-batch takes in given layouts is concave in its rows: work is in
proportion to them, kernels and messages take a while whatever their size,
and of ways to communicate the quickest is taken. So is the least over all
layouts, and layouts that are best for fewer rows and for more are so for the
rows between; the time of a micro-batch then is no less than on the straight
line between those two. What bends the other way is left out: devices whose
caches are quicker for few bytes, and messages of a ring that are exposed only
where there is little to compute.
"""

from __future__ import annotations

import dataclasses
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
        Whether the times of a cell's layouts may not be concave.
    """

    batch: int
    bends: Callable[[Cell], bool]
    _known: dict[Axes, dict[int, ProgramLayout]] = field(default_factory=dict)
    _alike: dict[tuple[Cell, Cell], bool] = field(default_factory=dict)

    def learn(self, cell: Cell, layout: ProgramLayout | None) -> None:
        """Take a cell's layouts into account, the micro-batches' axis last.
        """
        if (layout is not None and cell.rows < self.batch
                and not self.bends(cell)):
            self._known.setdefault(_axes(cell), {})[cell.rows] = layout

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
        return dataclasses.replace(cell, rows=end)

    def around(self, cell: Cell) -> tuple[Cell, Cell] | None:
        """The cells of fewer and of more rows whose layouts are its own;
        None where these are not known."""
        known = self._known.get(_axes(cell), {})
        fewer = max((n for n in known if n < cell.rows), default=0)
        more = min((n for n in known if n > cell.rows), default=0)
        if not fewer or not more:
            return None
        pair = (dataclasses.replace(cell, rows=fewer),
                dataclasses.replace(cell, rows=more))
        if pair not in self._alike:
            self._alike[pair] = _are_alike(known[fewer], known[more])
        return pair if self._alike[pair] else None


def _axes(cell: Cell) -> Axes:
    return cell.ep, cell.cp, cell.tp


def _are_alike(one: ProgramLayout, other: ProgramLayout) -> bool:
    """Over all axes but the micro-batches, which differ in number."""
    last = len(one.mesh.sizes) - 1
    return without_axis(one, last) == without_axis(other, last)
