"""Block tables of made-up programs, and combinations priced from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.cluster.spec import ClusterSpec, DeviceKind, Link, Tier
from planner.joint.bounds import CellBounds, State
from planner.joint.branch import Branching
from planner.joint.links import Links
from planner.joint.score import CellScores, Graphs
from planner.joint.space import Cell, Point, Space
from planner.joint.tables import BlockTable

__all__ = ["MadeUp", "Sum", "search", "two_nodes"]

Array = NDArray[np.float64]

_GRAPHS = Graphs()


@dataclass(frozen=True, kw_only=True)
class MadeUp:
    """Blocks whose ranks do the worse, the more share a row.

    Parameters
    ----------
    forward_s, input_s, weight_s : sequence of float
        Of a row on one rank, by block.
    parameter_bytes : sequence of float
    saved_bytes : sequence of float
        Of a row.
    losses : tuple of float
        What twice as many ranks on ``ep``, ``cp`` and ``tp`` take longer
        together.
    start_s : float
        Of every way through a block, however many rows.
    """

    forward_s: tuple[float, ...]
    input_s: tuple[float, ...]
    weight_s: tuple[float, ...]
    parameter_bytes: tuple[float, ...]
    saved_bytes: tuple[float, ...]
    losses: tuple[float, float, float] = (1.5, 1.4, 1.3)
    start_s: float = 0.0

    def table(self, cell: Cell) -> BlockTable:
        share = cell.rows / cell.ranks
        worse = math.prod(loss**math.log2(size) for loss, size in zip(
            self.losses, (cell.ep, cell.cp, cell.tp), strict=True))

        def time_s(each: tuple[float, ...]) -> Array:
            return np.array(each) * share * worse + self.start_s

        size = np.array(self.parameter_bytes) / (cell.tp * cell.ep)
        saved = np.array(self.saved_bytes) * share
        none = np.zeros(len(size))
        return BlockTable(cell=cell,
                          blocks=tuple(f"block.{i}" for i in range(len(size))),
                          call_times_s={},
                          forward_s=time_s(self.forward_s),
                          input_s=time_s(self.input_s),
                          weight_s=time_s(self.weight_s),
                          once_s=none,
                          saved_bytes=saved,
                          kept_bytes=saved / 4,
                          transient_bytes=none,
                          parameter_bytes=size,
                          gradient_bytes=size,
                          state_bytes=2 * size,
                          taken_bytes=saved / 4,
                          kind=np.arange(len(size)),
                          trained_bytes=tuple(size[:, None]))

    @property
    def state(self) -> State:
        size = sum(self.parameter_bytes)
        return State(parameter_bytes=size,
                     gradient_bytes=size,
                     optimizer_bytes=2 * size)


@dataclass(frozen=True, kw_only=True)
class Sum:
    """A combination, its schedule simulated from end to end."""

    point: Point
    time_s: float
    memory_bytes: float

    @staticmethod
    def of(point: Point, scores: CellScores) -> Sum:
        score = scores.score(point)
        time_s = score.time_s
        if point.is_staged:
            time_s = scores.once_s(point) + scores.makespan_s(
                point, _GRAPHS, point.microbatches)
        return Sum(point=point, time_s=time_s, memory_bytes=score.memory_bytes)


def two_nodes(size: int, fabric_bytes_per_s: float) -> ClusterSpec:
    """Two nodes with quick links inside."""
    device = DeviceKind(name="made up",
                        memory_bytes=10**12,
                        memory_bandwidth_bytes_per_s=1e12,
                        peak_flops_per_s=(("float32", 1e12), ),
                        launch_overhead_s=1e-6)
    inside = Link(latency_s=1e-6, bandwidth_bytes_per_s=1e11)
    between = Link(latency_s=1e-5, bandwidth_bytes_per_s=fabric_bytes_per_s)
    return ClusterSpec(name="two nodes",
                       device=device,
                       tiers=(Tier(name="node", size=size, link=inside),
                              Tier(name="fabric", size=2, link=between)))


def search(
        blocks: MadeUp,
        space: Space,
        cluster: ClusterSpec,
        memory_limit_bytes: float = float("inf"),
        *,
        tolerance: float = 0.0,
        until_s: float = float("inf"),
) -> Branching[Sum]:
    """Branch and bound over made-up blocks, all of which repeat."""
    links = Links(cluster)
    repeated = np.ones(len(blocks.forward_s), dtype=np.bool_)

    def scores(cell: Cell) -> CellScores:
        return CellScores(blocks.table(cell), links, repeated)

    found = Branching(space=space,
                      bounds=CellBounds(space, links, blocks.state,
                                        memory_limit_bytes),
                      scores=scores,
                      price=Sum.of,
                      fits=lambda s: s.memory_bytes <= memory_limit_bytes,
                      memory_limit_bytes=memory_limit_bytes,
                      tolerance=tolerance,
                      until_s=until_s)
    found.run()
    return found
