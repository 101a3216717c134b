"""Times of collectives over the axes that the joint search varies, and the
devices along them.

Which links an axis uses depends on its size and on how many ranks lie
inside of one of its steps and outside of all its groups; and so does which
devices are at each of its places, where there are several kinds.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from planner.cluster import devices_along
from planner.cluster.axis import AxisInfo, step_link
from planner.cluster.spec import ClusterSpec, DeviceKind
from planner.cost.collective import collective_time_s
from planner.cost.queue import queued_s
from planner.cost.timeline import Streams
from planner.joint.space import AXES, Point
from planner.limits import MemoryLimits

__all__ = ["Links", "Place", "place_of"]

Array = NDArray[np.float64]
Place = tuple[int, int, int]
"""Ranks outside of an axis, on it, and inside of each of its steps."""


class Links:
    """Remembers what it has priced.

    Parameters
    ----------
    cluster : ClusterSpec
    limits : MemoryLimits, optional
        Those of the devices if left out.

    Attributes
    ----------
    interference : float
        By what part of the time of messages that are hidden computing gets
        longer, at least.
    alone_speedup : float
        How many times as fast a rank is while others wait, at most.
    is_mixed : bool
        Whether there are several kinds of device.
    action_s : float
        What an action of a schedule takes besides its stage, at least.
    """

    def __init__(self,
                 cluster: ClusterSpec,
                 limits: MemoryLimits | None = None) -> None:
        self._cluster = cluster
        self._limits = limits or MemoryLimits(cluster=cluster)
        self._overhead_s = cluster.weakest().launch_overhead_s
        streams = [Streams.of(d) for d in cluster.kinds()]
        self.interference = min(s.interference for s in streams)
        self.alone_speedup = max(s.alone_speedup for s in streams)
        self.is_mixed = cluster.is_mixed
        self.action_s = min(s.action_s for s in streams)
        self._streams = streams
        self._devices: dict[Place, tuple[DeviceKind, ...]] = {}
        self._axes: dict[Place, AxisInfo] = {}
        self._of: dict[tuple[Place, ...], tuple[object, ...]] = {}
        self._times: dict[tuple[str, float, Place], float] = {}

    def host_s(self, device_s: Array, launches: Array) -> Array:
        """By how much a host that launches makes work longer, at least;
        on devices of several kinds that is not known."""
        if self.is_mixed or not self._streams[0].dispatch_s:
            return np.zeros(device_s.shape)
        streams = self._streams[0]
        whole_s: Array = queued_s(device_s, launches * streams.dispatch_s,
                                  streams.queue_order)
        return whole_s - device_s

    def devices(self, place: Place) -> tuple[DeviceKind, ...]:
        """Of the ranks at each place along an axis."""
        if place not in self._devices:
            self._devices[place] = devices_along(self._cluster, place, 1)
        return self._devices[place]

    def limit_bytes(self, place: Place) -> Array:
        """Of memory, at each place along an axis."""
        return np.array([self._limits.on(d) for d in self.devices(place)],
                        dtype=np.float64)

    def spare_bytes(self, place: Place) -> Array:
        """What may be taken along an axis beyond the least of all limits."""
        if not self.is_mixed:
            return np.zeros(place[1])
        return self.limit_bytes(place) - self._limits.least_bytes

    def mean_limit_bytes(self, ranks: int) -> float:
        """Of the first devices, each on its own."""
        each = self.devices((1, ranks, 1))
        return sum(map(self._limits.on, each)) / ranks

    def time_s(self, kind: str, size_bytes: float, place: Place) -> float:
        """Of one collective over an axis; 0 over a single rank."""
        if place[1] == 1:
            return 0.0
        key = (kind, size_bytes, place)
        if key not in self._times:
            launched_s = 0.0 if kind == "send" else self._overhead_s
            self._times[key] = launched_s + collective_time_s(
                kind, size_bytes, self._axis(place))
        return self._times[key]

    def of(self, point: Point) -> tuple[object, ...]:
        """What each axis runs over, and on which devices."""
        places = tuple(place_of(point, axis) for axis in AXES)
        if places not in self._of:
            links = map(self._axis, places)
            self._of[places] = (
                *links, *(map(self.devices, places) if self.is_mixed else ()))
        return self._of[places]

    def _axis(self, place: Place) -> AxisInfo:
        if place not in self._axes:
            self._axes[place] = step_link(self._cluster, place, 1)
        return self._axes[place]


def place_of(point: Point, axis: str) -> Place:
    """Where an axis lies in a combination's order of the axes."""
    cell = point.cell
    return _place_of(point.order, axis, point.pp, point.dp, cell.ep, cell.cp,
                     cell.tp)


@functools.cache
def _place_of(order: tuple[str, ...], axis: str, *ranks: int) -> Place:
    of = dict(zip(AXES, ranks, strict=True))
    sizes, place = [of[n] for n in order], order.index(axis)
    return (math.prod(sizes[:place]), sizes[place],
            math.prod(sizes[place + 1:]))
