"""Memory of a combination, from the table of its cell."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from planner.joint.held import Held, flying, in_each_stage, owners_of
from planner.joint.links import Links, place_of
from planner.joint.once import Resting
from planner.joint.space import Point
from planner.joint.stages import StageCuts
from planner.joint.tables import BlockTable
from planner.schedule.actions import chain
from planner.schedule.checked import checked_graph
from planner.schedule.simulation import peaks
from planner.schedule.times import StageMemory

__all__ = ["LONG", "CellMemory"]

Array = NDArray[np.float64]

LONG = 2**13
"""Stages times micro-batches, from which a bound must do."""


class CellMemory:
    """What the blocks and the ranks of a cell's combinations hold.

    Parameters
    ----------
    table : BlockTable
    links : Links
    repeated : array of bool
        Which blocks are of a class that repeats, and so may run again.
    """

    def __init__(self, table: BlockTable, links: Links,
                 repeated: NDArray[np.bool_]) -> None:
        self._table, self._links = table, links
        self._repeated = repeated
        self._of_blocks: dict[bool, Held] = {}
        self._of_stages: dict[tuple[StageCuts, bool], tuple[Held, Array]] = {}
        self._of_ranks: dict[tuple[object, ...], tuple[Held, Array]] = {}
        self._flying: dict[tuple[object, ...], Array] = {}
        self._peaks: dict[bool, Array] = {}
        self._beside: dict[tuple[bool, bool], float] = {}

    def least_room_bytes(self, point: Point, cuts: StageCuts,
                         by_rank: Callable[[Array], Array]) -> float:
        """Of the rank with least room, less what its device has more than
        the smallest, at least.

        Parameters
        ----------
        point : Point
        cuts : StageCuts
            Where its stages begin.
        by_rank : callable
            From values of stages, or rows of them, to their sums over those
            of each rank.
        """
        if not point.is_staged:
            return self._unstaged_bytes(point)
        key = (cuts, point.pp, point.schedule == "zbv", point.recompute)
        if key not in self._of_ranks:
            of_stages, kept = self._in_stages(cuts, point.recompute)
            self._of_ranks[key] = of_stages.summed(by_rank), kept
        held, kept = self._of_ranks[key]
        flown = (*key, point.schedule, point.microbatches)
        if flown not in self._flying:
            self._flying[flown] = flying(point) * _least_of_ranks(point, kept)
        total = held.always(point) + self._flying[flown]
        if self._links.is_mixed:
            total = total - self._links.spare_bytes(place_of(point, "pp"))
        return float(total.max()) + self.beside_bytes(point)

    def resting_bytes(self, point: Point, cuts: StageCuts, resting: Resting,
                      by_rank: Callable[[Array], Array]) -> float:
        """The same with parameters where they rest at best.

        Parameters
        ----------
        point, cuts, by_rank
            As for :meth:`least_room_bytes`.
        resting : Resting
        """
        held = self.of_blocks(point.recompute)
        total = by_rank(
            cuts.sums(resting.parameter_bytes + resting.gathered_bytes +
                      held.gradients + resting.state_bytes))
        _, kept = self._in_stages(cuts, point.recompute)
        total = total + _kept_bytes(point, kept)
        again = cuts.most(resting.again_bytes)
        total = total + np.bincount(owners_of(point), again, point.pp)
        peaks_of = np.zeros(point.pp)
        np.maximum.at(peaks_of, owners_of(point),
                      cuts.most(self._peaks_bytes(point)))
        total = total + peaks_of
        if self._links.is_mixed:
            total = total - self._links.spare_bytes(place_of(point, "pp"))
        return float(total.max())

    def _unstaged_bytes(self, point: Point) -> float:
        """Of a step of all blocks, at least: at the end of its forward, or
        of the backward, when gradients are packed to be summed."""
        held, again = (self.of_blocks(point.recompute),
                       self._repeated & point.recompute)
        base = float(held.rested(point).sum() + held.kept[again].sum())
        whole = np.zeros(len(held.kept))
        if point.sharding == "ddp":
            base += float(held.parameters.sum())
        elif point.sharding == "zero1":
            whole = np.cumsum(held.parameters)
        else:
            whole = held.parameters
        kept = np.cumsum(np.where(again, 0.0, held.kept))
        later = held.gradients.sum() - np.cumsum(held.gradients)
        moments = (kept + whole + self._peaks_bytes(point) +
                   np.where(again, later, 0.0))
        packed = float(held.gradients.sum()) * (1 + (point.dp > 1))
        return base + max(float(moments.max()), packed)

    def _in_stages(self, cuts: StageCuts,
                   recompute: bool) -> tuple[Held, Array]:
        """What the blocks of each stage hold, and what it keeps of a
        micro-batch."""
        if (cuts, recompute) not in self._of_stages:
            held = self.of_blocks(recompute).summed(cuts.sums)
            kept = held.kept + cuts.firsts(self._table.taken_bytes)
            self._of_stages[cuts, recompute] = held, kept
        return self._of_stages[cuts, recompute]

    def of_blocks(self, recompute: bool) -> Held:
        """What each block holds."""
        if recompute not in self._of_blocks:
            table, again = self._table, self._repeated & recompute
            kept = np.where(again, table.kept_bytes, table.saved_bytes)
            self._of_blocks[recompute] = Held(table.parameter_bytes,
                                              table.gradient_bytes,
                                              table.resting_bytes,
                                              table.state_bytes, kept)
        return self._of_blocks[recompute]

    def beside_bytes(self, point: Point) -> float:
        """Peak of a block, and its parameters where they are gathered."""
        key = point.recompute, point.sharding == "fsdp"
        if key not in self._beside:
            gathered = (float(self._table.parameter_bytes.max())
                        if point.sharding == "fsdp" else 0.0)
            self._beside[key] = gathered + float(
                self._peaks_bytes(point).max())
        return self._beside[key]

    def _peaks_bytes(self, point: Point) -> Array:
        """Of each block, beside all that is kept."""
        table = self._table
        if point.recompute not in self._peaks:
            self._peaks[point.recompute] = np.where(
                self._repeated & point.recompute,
                table.rerun_bytes + table.saved_bytes, table.transient_bytes)
        return self._peaks[point.recompute]


def _least_of_ranks(point: Point, of_stages: Array) -> Array:
    """Of each rank what the micro-batches in flight take at least in the
    mean, if they are those of the stage that takes least, or some of each."""
    if point.chunks == 1:
        return of_stages
    least, owners = np.full(point.pp, np.inf), owners_of(point)
    np.minimum.at(least, owners, of_stages)
    each = in_each_stage(point.schedule, point.pp, point.microbatches,
                         point.chunks) / flying(point)
    found: Array = np.maximum(least * point.chunks,
                              np.bincount(owners, of_stages, point.pp) * each)
    return found


def _kept_bytes(point: Point, of_stages: Array) -> Array:
    """Most that each rank keeps at once of its stages' micro-batches, which
    does not grow with these once all stages have some."""
    stages, count = len(of_stages), min(point.microbatches, 2 * point.pp)
    if point.chunks == 1 or stages * count > LONG:
        return _least_of_ranks(point, of_stages) * flying(point)
    graph = checked_graph(point.schedule,
                          ranks=point.pp,
                          microbatches=count,
                          chunks=point.chunks,
                          stages=stages,
                          edges=chain(stages))
    sizes = tuple(of_stages.tolist())
    return np.array(
        peaks(graph, StageMemory(saved_bytes=sizes, held_bytes=sizes)))
