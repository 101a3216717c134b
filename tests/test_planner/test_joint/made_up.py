"""Block tables of made-up programs, and combinations priced from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from planner.cluster.device import Coefficient
from planner.cluster.spec import ClusterSpec, DeviceKind, Link, NodeGroup, Tier
from planner.joint.bounds import CellBounds
from planner.joint.branch import Branching
from planner.joint.links import Links
from planner.joint.score import CellScores
from planner.joint.space import Cell, Point, Space
from planner.joint.tables import BlockTable, BlockTimes
from planner.joint.ways import State

__all__ = ["MadeUp", "Sum", "mixed_nodes", "scores_on", "search", "two_nodes"]

Array = NDArray[np.float64]


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
    sum_s_per_byte : float
        Of adding the gradients of one micro-batch to others.
    """

    forward_s: tuple[float, ...]
    input_s: tuple[float, ...]
    weight_s: tuple[float, ...]
    parameter_bytes: tuple[float, ...]
    saved_bytes: tuple[float, ...]
    losses: tuple[float, float, float] = (1.5, 1.4, 1.3)
    start_s: float = 0.0
    sum_s_per_byte: float = 0.0

    def table(self, cell: Cell,
              devices: Sequence[DeviceKind] = ()) -> BlockTable:
        share = cell.rows / cell.ranks
        worse = math.prod(loss**math.log2(size) for loss, size in zip(
            self.losses, (cell.ep, cell.cp, cell.tp), strict=True))

        def time_s(each: tuple[float, ...]) -> Array:
            return np.array(each) * share * worse + self.start_s

        def times_on(device: DeviceKind) -> BlockTimes:
            # Every other block gains from a quicker device.
            gain = np.resize([device.peak(torch.float32) / 1e12, 1.0],
                             len(self.forward_s))
            return BlockTimes(forward_s=time_s(self.forward_s) / gain,
                              input_s=time_s(self.input_s) / gain,
                              weight_s=time_s(self.weight_s) / gain,
                              sums_s=none,
                              rerun_s=time_s(self.forward_s) / gain,
                              once_s=none)

        size = np.array(self.parameter_bytes) / (cell.tp * cell.ep)
        saved = np.array(self.saved_bytes) * share
        none = np.zeros(len(size))
        sums = size * self.sum_s_per_byte
        return BlockTable(cell=cell,
                          blocks=tuple(f"block.{i}" for i in range(len(size))),
                          call_times_s={},
                          forward_s=time_s(self.forward_s),
                          input_s=time_s(self.input_s),
                          weight_s=time_s(self.weight_s),
                          sums_s=sums,
                          rerun_s=time_s(self.forward_s),
                          once_s=none,
                          saved_bytes=saved,
                          kept_bytes=saved / 4,
                          transient_bytes=none,
                          rerun_bytes=none,
                          parameter_bytes=size,
                          gradient_bytes=size,
                          resting_bytes=size,
                          state_bytes=2 * size,
                          taken_bytes=saved / 4,
                          handed_bytes=saved / 4,
                          kind=np.arange(len(size)),
                          trained_bytes=tuple(size[:, None]),
                          own_bytes=size,
                          forward_launches=none,
                          backward_launches=none,
                          again_s=none,
                          made_by=none,
                          times_on={d: times_on(d)
                                    for d in devices})

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
    run_s: float
    memory_bytes: float

    @staticmethod
    def of(point: Point, scores: CellScores) -> Sum:
        score = scores.score(point)
        time_s = (scores.simulated_s(point)
                  if point.is_staged else score.time_s)
        return Sum(point=point, run_s=time_s, memory_bytes=score.memory_bytes)

    def times(self, factor: float) -> Sum:
        return dataclasses.replace(self, run_s=self.run_s * factor)


def two_nodes(size: int,
              fabric_bytes_per_s: float,
              *,
              alone_speedup: float = 1.0) -> ClusterSpec:
    """Two nodes with quick links inside."""
    alone = Coefficient(name="alone_speedup",
                        value=alone_speedup,
                        source="made up")
    device = DeviceKind(name="made up",
                        memory_bytes=10**12,
                        memory_bandwidth_bytes_per_s=1e12,
                        peak_flops_per_s=(("float32", 1e12), ),
                        launch_overhead_s=1e-6,
                        coefficients=(alone, ))
    inside = Link(latency_s=1e-6, bandwidth_bytes_per_s=1e11)
    between = Link(latency_s=1e-5, bandwidth_bytes_per_s=fabric_bytes_per_s)
    return ClusterSpec(name="two nodes",
                       device=device,
                       tiers=(Tier(name="node", size=size, link=inside),
                              Tier(name="fabric", size=2, link=between)))


def mixed_nodes(size: int, fabric_bytes_per_s: float) -> ClusterSpec:
    """The same; the second node is quicker and has less memory."""
    cluster = two_nodes(size, fabric_bytes_per_s)
    quick = dataclasses.replace(cluster.device,
                                name="quick",
                                memory_bytes=cluster.device.memory_bytes -
                                10**8,
                                peak_flops_per_s=(("float32", 3e12), ))
    return dataclasses.replace(cluster,
                               others=(NodeGroup(num_nodes=1, device=quick), ))


def scores_on(blocks: MadeUp, cluster: ClusterSpec, links: Links,
              cell: Cell) -> CellScores:
    """Of blocks all of which repeat."""
    devices = (*cluster.kinds(), cluster.weakest())
    return CellScores(blocks.table(cell, devices if cluster.is_mixed else ()),
                      links, np.ones(len(blocks.forward_s), dtype=np.bool_))


def search(
    blocks: MadeUp,
    space: Space,
    cluster: ClusterSpec,
    memory_limit_bytes: float = float("inf"),
    *,
    tolerance: float = 0.0,
    until_s: float = float("inf"),
    runners_up: int = 0,
    priced: float = 1.0,
) -> Branching[Sum]:
    """Branch and bound over made-up blocks, all of which repeat; prices are
    so many times what combinations take."""
    links = Links(cluster)
    more = links.mean_limit_bytes(space.ranks) - cluster.weakest().memory_bytes
    found = Branching(
        space=space,
        bounds=CellBounds(space, links, blocks.state,
                          np.ones(len(blocks.forward_s), dtype=np.bool_),
                          memory_limit_bytes + more),
        scores=lambda cell: scores_on(blocks, cluster, links, cell),
        price=lambda point, scores: Sum.of(point, scores).times(priced),
        fits=lambda s: s.memory_bytes <= memory_limit_bytes,
        memory_limit_bytes=memory_limit_bytes,
        tolerance=tolerance,
        until_s=until_s,
        runners_up=runners_up)
    found.run()
    return found
