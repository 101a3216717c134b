"""Memory of a combination, from the table of its cell."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from planner.joint.held import Held, flying
from planner.joint.links import Links, place_of
from planner.joint.space import Point
from planner.joint.stages import StageCuts
from planner.joint.tables import BlockTable

__all__ = ["CellMemory"]

Array = NDArray[np.float64]


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
        self._of_ranks: dict[tuple[StageCuts, int, bool, bool], Held] = {}
        self._peaks: dict[bool, float] = {}

    def least_room_bytes(self, point: Point, cuts: StageCuts,
                         by_rank: Callable[[Array], Array]) -> float:
        """Of the rank with least room, less what its device has more than
        the smallest.

        Parameters
        ----------
        point : Point
        cuts : StageCuts
            Where its stages begin.
        by_rank : callable
            From values of blocks to their sums over those of each rank.
        """
        key = (cuts, point.pp, point.schedule == "zbv", point.recompute)
        if key not in self._of_ranks:
            self._of_ranks[key] = self.of_blocks(
                point.recompute).summed(by_rank)
        total = self._of_ranks[key].at_once(point, flying(point))
        if self._links.is_mixed:
            total = total - self._links.spare_bytes(place_of(point, "pp"))
        return float(total.max()) + self.beside_bytes(point)

    def of_blocks(self, recompute: bool) -> Held:
        """What each block holds."""
        if recompute not in self._of_blocks:
            table, again = self._table, self._repeated & recompute
            kept = np.where(again, table.kept_bytes, table.saved_bytes)
            self._of_blocks[recompute] = Held(table.parameter_bytes,
                                              table.gradient_bytes,
                                              table.state_bytes, kept)
        return self._of_blocks[recompute]

    def beside_bytes(self, point: Point) -> float:
        """Peak of a block, and its parameters where they are gathered."""
        table = self._table
        if point.recompute not in self._peaks:
            again = self._repeated & point.recompute
            peak = table.transient_bytes + np.where(again, table.saved_bytes,
                                                    0.0)
            self._peaks[point.recompute] = float(peak.max())
        gathered = (float(table.parameter_bytes.max())
                    if point.sharding == "fsdp" else 0.0)
        return gathered + self._peaks[point.recompute]
