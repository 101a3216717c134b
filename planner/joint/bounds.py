"""Bounds on cells whose table was not made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from planner.cluster.spec import DeviceKind
from planner.joint.links import Links, Place
from planner.joint.score import kept_whole
from planner.joint.space import Cell, Space
from planner.joint.tables import BlockTable

__all__ = ["CellBounds", "State"]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Of a whole program, divided by nothing.

    Parameters
    ----------
    parameter_bytes, gradient_bytes, optimizer_bytes : float
    """

    parameter_bytes: float
    gradient_bytes: float
    optimizer_bytes: float


class CellBounds:
    """What is known of all cells from the tables of some.

    The ranks of a cell take together no less time for a row of the batch
    than those of a cell whose sizes divide its own and that has as many
    rows or more: whatever lays out the one lays out the other, work is at
    best divided evenly, collectives among more ranks take no less, and the
    more rows at a time, the better devices and links are used.

    Parameters
    ----------
    space : Space
    links : Links
    state : State
    memory_limit_bytes : float
        The mean of all devices.
    """

    def __init__(self, space: Space, links: Links, state: State,
                 memory_limit_bytes: float) -> None:
        self._space, self._links, self._state = space, links, state
        self._limit_bytes = memory_limit_bytes
        self._row_s: dict[Cell, float] = {}
        self._ways: dict[Cell, tuple[float, float]] = {}

    def learn(self, table: BlockTable) -> None:
        """Take a table into account."""
        cell = table.cell
        work_s = float(table.work_s.sum()) / self._speed(table)
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
        row_s = max((s for c, s in self._row_s.items() if c.is_part_of(cell)),
                    default=0.0)
        if cell not in self._ways:
            self._ways[cell] = min(self._ways_of(cell))
        work_s = row_s * self._space.batch / self._space.ranks
        excess, once_s = self._ways[cell]
        return excess, work_s + once_s

    def _ways_of(self, cell: Cell) -> Iterator[tuple[float, float]]:
        """Of each way to keep parameters: bytes too many, and seconds."""
        state = self._state
        for split in self._space.splits(cell):
            parts = cell.ranks * split.pp
            for sharding in self._space.shardings:
                rest, kept = kept_whole(sharding, split.dp)
                total = (state.parameter_bytes * rest + state.gradient_bytes +
                         state.optimizer_bytes * kept)
                once_s = min(
                    self._once_s(sharding, split.microbatches, place)
                    for place in ((split.pp, split.dp, cell.ranks),
                                  (1, split.dp, parts)))
                yield max(0.0, total / parts - self._limit_bytes), once_s

    def _once_s(self, sharding: str, microbatches: int, place: Place) -> float:
        """As if all parameters of a rank were one."""
        size = self._state.gradient_bytes * place[1] / self._space.ranks
        return sum(count * self._links.time_s(kind, size, place)
                   for kind, count in _moves(sharding, microbatches))


def _rate(table: BlockTable, device: DeviceKind) -> float:
    """Seconds of the weakest device in one of another, of the block that
    gains most."""
    weakest_s, own_s = (np.maximum(t.work_s, 1e-30)
                        for t in (table, table.on(device)))
    return max(1.0, float((weakest_s / own_s).max()))


def _moves(sharding: str, microbatches: int) -> list[tuple[str, int]]:
    if sharding == "ddp":
        return [("all_reduce", 1)]
    gathers = 2 * microbatches if sharding == "fsdp" else 1
    return [("reduce_scatter", 1), ("all_gather", gathers)]
