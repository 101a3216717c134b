"""What every way to run a cell takes at least, whatever its layouts.

A way is a split into stages and micro-batches, a schedule, what data
parallelism shards at rest, and whether blocks run again. Work and memory
are those of the program on one rank, at best divided evenly among all.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.joint.held import in_each_stage, kept_whole
from planner.joint.links import Links
from planner.joint.space import Cell, Point, Space
from planner.joint.tables import BlockTable

__all__ = ["Demand", "State", "Ways", "ways_of"]

Array = NDArray[np.float64]

_ROUNDED = 1 - 1e-9
"""Sums in another order are no more."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Of a row of the batch, on one rank.

    Parameters
    ----------
    work_s : float
    again_s : float
        What is computed once more of the blocks that may run again.
    head : float
        The least part that the forward is of the work of the first blocks,
        however many.
    saved_bytes, kept_bytes : float
        Saved for the backward: all, or where blocks run again.
    """

    work_s: float = 0.0
    again_s: float = 0.0
    head: float = 0.0
    saved_bytes: float = 0.0
    kept_bytes: float = 0.0

    @staticmethod
    def of(table: BlockTable, repeated: NDArray[np.bool_]) -> Demand:
        """From the table of one rank; `repeated`: blocks that may run
        again."""
        rows = table.cell.rows
        forward_s, work_s = (np.cumsum(a)
                             for a in (table.forward_s, table.work_s))
        parts = forward_s / np.maximum(work_s, 1e-30)
        kept = np.where(repeated, table.kept_bytes, table.saved_bytes)
        return Demand(work_s=float(work_s[-1]) / rows,
                      again_s=float((table.rerun_s * repeated).sum()) / rows,
                      head=float(parts.min()),
                      saved_bytes=float(table.saved_bytes.sum()) / rows,
                      kept_bytes=float(kept.sum()) / rows)


@dataclass(frozen=True, slots=True)
class Ways:
    """Of one cell; an entry for each.

    Parameters
    ----------
    points : tuple of Point
        Those of `Space.ways`.
    excess_bytes : array
        Beyond the memory limit.
    idle : array
        What a step takes at least, in times of a rank's work.
    again_s : array
        What a rank does once more.
    least_s : array
        What a step takes at least, beside what is moved once.
    once_s : array
        What data parallelism moves once a step, beside all work.
    adding : array
        Part of the micro-batches whose gradients are added to others.
    """

    points: tuple[Point, ...]
    excess_bytes: Array
    idle: Array
    again_s: Array
    least_s: Array
    once_s: Array
    adding: Array

    def times_s(self, work_s: float, sums_s: float) -> Array:
        """Seconds of a step, of what a rank has to do: its work, and adding
        the gradients of all micro-batches."""
        whole_s = work_s + self.adding * sums_s + self.again_s
        return np.maximum(np.maximum(self.idle * whole_s, self.least_s),
                          whole_s + self.once_s) * _ROUNDED

    def bound(self, work_s: float, sums_s: float) -> tuple[float, float]:
        """Bytes too many and seconds of the best."""
        times_s = self.times_s(work_s, sums_s)
        best = np.lexsort((times_s, self.excess_bytes))[0]
        return float(self.excess_bytes[best]), float(times_s[best])


def ways_of(cell: Cell, space: Space, links: Links, state: State,
            demand: Demand, limit_bytes: float) -> Ways:
    """All ways of a cell.

    Parameters
    ----------
    cell : Cell
    space : Space
    links : Links
    state : State
    demand : Demand
    limit_bytes : float
        Memory of a rank, the mean of all.
    """
    points, rows = tuple(space.ways(cell)), []
    moves = _Moves(cell, links, state)
    for way in points:
        taken = _memory_bytes(way, state, demand, is_mixed=links.is_mixed)
        again = demand.again_s * space.batch / space.ranks * way.recompute
        once_s = moves.once_s(way)
        least_s = max(_least_s(way, demand), moves.gathers_s(way))
        if not way.is_staged:
            # Messages are at best hidden, and follow each other.
            least_s, once_s = once_s, once_s * links.interference
        elif links.alone_speedup > 1:
            # Who ends first reduces its gradients while others are at work.
            least_s, once_s = least_s / links.alone_speedup, 0.0
        idle = max(1.0, _idle(way) / links.alone_speedup)
        rows.append((max(0.0, taken * _ROUNDED - limit_bytes), idle, again,
                     least_s, once_s, way.adding))
    return Ways(points, *np.array(rows, dtype=np.float64).T)


def _memory_bytes(way: Point, state: State, demand: Demand, *,
                  is_mixed: bool) -> float:
    """Of the rank that takes most: what all have together spread so that
    it takes least, whichever blocks are whose. Without stages what is saved
    is gone when there are all gradients."""
    rest, kept = kept_whole(way.sharding, way.dp)
    held = (state.parameter_bytes * rest +
            state.optimizer_bytes * kept) / way.cell.ranks
    used, gradients = (n / way.cell.ranks for n in (state.parameter_bytes *
                                                    (way.sharding == "zero1"),
                                                    state.gradient_bytes))
    row = demand.kept_bytes if way.recompute else demand.saved_bytes
    saved = row * way.cell.rows / way.cell.ranks
    if not way.is_staged:
        return held + max(used + saved * (not is_mixed), gradients)
    total = held + used + gradients
    if is_mixed:
        return total / way.pp
    most, shares = _in_flight(way.schedule, way.pp, way.microbatches,
                              way.chunks)
    return (saved + total / most) / shares


@functools.cache
def _in_flight(schedule: str, ranks: int, microbatches: int,
               chunks: int) -> tuple[float, float]:
    """Most micro-batches that a rank holds of its blocks at once, and the
    sum of its inverse over ranks."""
    each = in_each_stage(schedule, ranks, microbatches, chunks)
    return float(each.max()), float((1 / each).sum())


def _idle(way: Point) -> float:
    """Of stages that end at once where each rank has one and each action's
    work is done before the next rank's begins: the earlier have less."""
    if way.pp == 1 or way.schedule != "1f1b":
        return 1.0
    share = 1 - (1 - 1 / way.microbatches)**way.pp
    return way.pp / (way.microbatches * share)


def _least_s(way: Point, demand: Demand) -> float:
    """The same where only the forward comes before the next rank's work."""
    if way.pp == 1 or way.schedule != "zbh1":
        return 0.0
    row_s = demand.work_s + demand.again_s * way.recompute
    work_s = row_s * way.cell.rows / way.cell.ranks
    head = demand.head * demand.work_s / row_s if row_s else 0.0
    if not head:
        return 0.0
    return work_s * head / (1 - (1 - head / way.microbatches)**way.pp)


class _Moves:
    """What data parallelism moves of a cell's ranks, by how it is split."""

    def __init__(self, cell: Cell, links: Links, state: State) -> None:
        self._ranks, self._links, self._state = cell.ranks, links, state
        self._known: dict[tuple[object, ...], float] = {}

    def gathers_s(self, way: Point) -> float:
        """Parameters of a rank, again for both ways of each micro-batch."""
        if way.sharding != "fsdp" or not way.is_staged:
            return 0.0
        return 2 * way.microbatches * self._moved_s(("all_gather", ), way)

    def once_s(self, way: Point) -> float:
        """Of several stages on a rank only those that end last are sure to
        wait; what is gathered before the first use may be so while a rank
        waits for its first micro-batch."""
        if way.chunks > 1:
            return 0.0
        if way.sharding == "ddp":
            return self._moved_s(("all_reduce", ), way)
        gathers = {"zero1": 1, "fsdp": 2}[way.sharding] * (not way.is_staged)
        return self._moved_s(("reduce_scatter", *["all_gather"] * gathers),
                             way)

    def _moved_s(self, kinds: tuple[str, ...], way: Point) -> float:
        """As if all parameters of a rank were one."""
        key = (kinds, way.pp, way.dp)
        if key not in self._known:
            ranks = self._ranks
            size = self._state.gradient_bytes / (ranks * way.pp)
            places = ((way.pp, way.dp, ranks), (1, way.dp, ranks * way.pp))
            self._known[key] = min(
                sum(self._links.time_s(kind, size, p) for kind in kinds)
                for p in places)
        return self._known[key]
