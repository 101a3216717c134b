"""What blocks and ranks hold in memory, by how parameters are sharded."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.joint.space import Point
from planner.schedule.estimate import peak_in_flight

__all__ = [
    "Held", "flying", "in_each_stage", "in_flight", "kept_whole", "owners_of"
]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes of memory, of each block or each rank, whole along data
    parallelism: parameters as they are used, gradients, parameters at rest
    and optimizer state at best, and what is kept of a micro-batch in flight.
    """

    parameters: Array
    gradients: Array
    resting: Array
    state: Array
    kept: Array

    def summed(self, sums: Callable[[Array], Array]) -> Held:
        """Of stages or ranks, from what their parts have.

        Parameters
        ----------
        sums : callable
            From rows of values of parts to rows of sums.
        """
        return Held(*sums(
            np.array([
                self.parameters, self.gradients, self.resting, self.state,
                self.kept
            ])))

    def at_once(self, point: Point, flying: Array) -> Array:
        """All, with so many micro-batches in flight."""
        return self.always(point) + flying * self.kept

    def always(self, point: Point) -> Array:
        """What is held for a step, whatever is in flight."""
        used = self.parameters * (point.sharding != "fsdp")
        return used + self.rested(point) + self.gradients

    def rested(self, point: Point) -> Array:
        """What data parallelism divides, but parameters that it does not."""
        rest, state = kept_whole(point.sharding, point.dp)
        found: Array = (self.resting * rest * (point.sharding != "ddp") +
                        self.state * state)
        return found


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


@functools.cache
def in_each_stage(schedule: str, ranks: int, microbatches: int,
                  chunks: int) -> NDArray[np.int64]:
    """Micro-batches that each rank holds at once of every stage that it has,
    at least, at some moment: before its first backward, or of a V before it
    frees what it has of the first half."""
    if chunks == 1:
        return in_flight(schedule, ranks, microbatches, 1)
    rank = np.arange(ranks)
    if schedule == "zbv":
        return rank + 1
    turn = -(-microbatches // max(1, microbatches // ranks))
    return np.minimum(turn, 2 * (ranks - rank) - 1)


def owners_of(point: Point) -> NDArray[np.int64]:
    """The rank of each stage."""
    return _owners(point.schedule, point.pp, point.chunks)


@functools.cache
def _owners(schedule: str, ranks: int, chunks: int) -> NDArray[np.int64]:
    there = np.arange(ranks)
    if schedule == "zbv":
        return np.concatenate([there, there[::-1]])
    return np.tile(there, chunks)
