"""Times of collectives over the axes that the joint search varies.

Which links an axis uses depends on its size and on how many ranks lie
inside of one of its steps and outside of all its groups.
"""

from __future__ import annotations

import math

from planner.cluster import axis_link
from planner.cluster.axis import AxisInfo
from planner.cluster.spec import ClusterSpec
from planner.cost.collective import collective_time_s
from planner.joint.space import Point

__all__ = ["Links", "Place", "place_of"]

Place = tuple[int, int, int]
"""Ranks outside of an axis, on it, and inside of each of its steps."""


class Links:
    """Remembers what it has priced.

    Parameters
    ----------
    cluster : ClusterSpec
    """

    def __init__(self, cluster: ClusterSpec) -> None:
        self._cluster = cluster
        self._overhead_s = cluster.weakest().launch_overhead_s
        self._axes: dict[Place, AxisInfo] = {}
        self._times: dict[tuple[str, float, Place], float] = {}

    def time_s(self, kind: str, size_bytes: float, place: Place) -> float:
        """Of one collective over an axis; 0 over a single rank."""
        if place[1] == 1:
            return 0.0
        key = (kind, size_bytes, place)
        if key not in self._times:
            if place not in self._axes:
                self._axes[place] = axis_link(self._cluster, place, 1)
            self._times[key] = self._overhead_s + collective_time_s(
                kind, size_bytes, self._axes[place])
        return self._times[key]


def place_of(point: Point, axis: str) -> Place:
    """Where an axis lies in a combination's order of the axes."""
    sizes, place = point.mesh.sizes, point.order.index(axis)
    return (math.prod(sizes[:place]), sizes[place],
            math.prod(sizes[place + 1:]))
