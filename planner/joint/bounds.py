"""Bounds on cells whose table was not made."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from planner.cluster.spec import DeviceKind
from planner.joint.links import Links
from planner.joint.space import Cell, Point, Space
from planner.joint.tables import BlockTable
from planner.joint.ways import Demand, State, Ways, ways_of

__all__ = ["CellBounds"]


class CellBounds:
    """What is known of all cells from the tables of some.

    The ranks of a cell take together no less time for a row of the batch
    than those of a cell whose sizes divide its own and that has as many
    rows or more: whatever lays out the one lays out the other, work is at
    best divided evenly, collectives among more ranks take no less, and the
    more rows at a time, the better devices and links are used.

    What one rank saves for the backward is divided evenly at best, too, so
    that cells are bounded by the ways to run them that fit.

    Parameters
    ----------
    space : Space
    links : Links
    state : State
    repeated : array of bool
        Which blocks may run again.
    memory_limit_bytes : float
        The mean of all devices.
    """

    def __init__(self, space: Space, links: Links, state: State,
                 repeated: NDArray[np.bool_],
                 memory_limit_bytes: float) -> None:
        self._space, self._links, self._state = space, links, state
        self._repeated, self._limit_bytes = repeated, memory_limit_bytes
        self._demand = Demand()
        self._row_s: dict[Cell, float] = {}
        self._ways: dict[Cell, Ways] = {}

    def learn(self, table: BlockTable) -> None:
        """Take a table into account."""
        cell, speed = table.cell, self._speed(table)
        if cell == Cell(rows=self._space.batch) and speed == 1.0:
            self._demand = Demand.of(table, self._repeated)
            self._ways.clear()
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

    def of(self, cell: Cell) -> tuple[float, float]:
        """Bytes too many, and seconds of a step, both at least."""
        return self._ways_of(cell).bound(self._work_s(cell))

    def each(self, cell: Cell) -> Iterator[tuple[float, float, Point]]:
        """The same of each way to run a cell."""
        ways = self._ways_of(cell)
        yield from zip(ways.excess_bytes.tolist(),
                       ways.times_s(self._work_s(cell)).tolist(),
                       ways.points,
                       strict=True)

    def hidden_s(self, cell: Cell) -> dict[Point, float]:
        """Seconds of a step of the ways that fit, at least, where what is
        moved once a step hides behind the work of stages."""
        ways = self._ways_of(cell)
        each = zip(ways.points,
                   ways.hidden_s(self._work_s(cell)).tolist(),
                   ways.excess_bytes.tolist(),
                   strict=True)
        return {way: time_s for way, time_s, excess in each if not excess}

    def _work_s(self, cell: Cell) -> float:
        """Of a rank in a step, at least."""
        row_s = max((s for c, s in self._row_s.items() if c.is_part_of(cell)),
                    default=0.0)
        return row_s * self._space.batch / self._space.ranks

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
