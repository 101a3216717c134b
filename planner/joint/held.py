"""What blocks and ranks hold in memory, by how parameters are sharded."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.joint.space import Point
from planner.schedule.estimate import peak_in_flight

__all__ = ["Held", "flying", "in_flight", "kept_whole"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes of memory, of each block or each rank, whole along data
    parallelism: parameters, gradients, optimizer state, and what is kept of
    a micro-batch in flight."""

    parameters: Array
    gradients: Array
    state: Array
    kept: Array

    def summed(self, sums: Callable[[Array], Array]) -> Held:
        """Of ranks, from what blocks have."""
        return Held(sums(self.parameters), sums(self.gradients),
                    sums(self.state), sums(self.kept))

    def at_once(self, point: Point, flying: Array) -> Array:
        """All, with so many micro-batches in flight."""
        rest, state = kept_whole(point.sharding, point.dp)
        rest += point.sharding == "zero1"
        return (self.parameters * rest + self.gradients + self.state * state +
                flying * self.kept)


def flying(point: Point) -> Array:
    """Micro-batches that each rank holds at once."""
    return in_flight(point.schedule, point.pp, point.microbatches,
                     point.chunks) / point.chunks


def kept_whole(sharding: str, data_ranks: int) -> tuple[float, float]:
    """What part of parameters, and of optimizer state, a rank has."""
    return (1.0, 1.0) if sharding == "ddp" else (1.0 / data_ranks, ) * 2


@functools.cache
def in_flight(schedule: str, ranks: int, microbatches: int,
              chunks: int) -> NDArray[np.int64]:
    """Most parts of micro-batches that each rank holds at once."""
    return peak_in_flight(schedule,
                          ranks=ranks,
                          microbatches=microbatches,
                          chunks=chunks,
                          rank=np.arange(ranks))
