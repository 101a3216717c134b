"""Measurements of devices and links that nobody has built."""

from __future__ import annotations

from collections.abc import Iterable

from planner.cluster.device import Coefficient, DeviceKind
from planner.cluster.link import Link, Tier
from planner.cluster.spec import ClusterSpec
from planner.profile.fit_device import predicted_s
from planner.profile.fit_link import collective_s
from planner.profile.operations import OPERATIONS
from planner.profile.point import COLLECTIVE_KINDS, Point
from planner.profile.store import Measured

__all__ = ["DEVICE", "cluster", "measured"]

_COEFFICIENTS = {
    "exposed": 0.25,
    "cache_bytes": 3e6,
    "cache_bytes_per_s": 40e9
}
_SHARES = {"attention": 0.3, "attention_bfloat16": 0.02}
DEVICE = DeviceKind(name="made up",
                    memory_bytes=2**34,
                    memory_bandwidth_bytes_per_s=9e9,
                    peak_flops_per_s=(("float32", 150e9), ("bfloat16", 900e9)),
                    launch_overhead_s=4e-6,
                    efficiencies=tuple(
                        Coefficient(name=n, value=v, source="made up")
                        for n, v in _SHARES.items()),
                    coefficients=tuple(
                        Coefficient(name=n, value=v, source="made up")
                        for n, v in _COEFFICIENTS.items()))


def cluster(*sizes: int) -> ClusterSpec:
    """Tiers of these sizes, innermost first, each slower than the last."""
    return ClusterSpec(name="made-up",
                       device=DEVICE,
                       tiers=tuple(
                           Tier(name=("node", "fabric")[i],
                                size=size,
                                link=Link(latency_s=3e-6 * 8**i,
                                          overhead_s=2e-5,
                                          segment_s=4e-6,
                                          bandwidth_bytes_per_s=20e9 / 8**i))
                           for i, size in enumerate(sizes)))


def measured(points: Iterable[Point],
             spec: ClusterSpec) -> dict[Point, Measured]:
    """What a machine that is just as planned would measure."""
    found = {}
    for point in points:
        if point.kind in OPERATIONS:
            time_s = predicted_s(point, spec.device)
        elif point.kind in COLLECTIVE_KINDS:
            time_s = collective_s(point, spec)
        else:
            continue
        if time_s:
            found[point] = Measured(median=time_s, count=5)
    return found
