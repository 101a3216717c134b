"""Links from measured collectives, by the planner's own formulas."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from planner.cluster.axis import axis_link
from planner.cluster.device import DeviceKind
from planner.cluster.link import Link, Tier
from planner.cluster.spec import ClusterSpec
from planner.cost.collective import collective_time_s
from planner.profile.fit_device import SOURCE
from planner.profile.log_fit import Unknown, fit_log
from planner.profile.point import COLLECTIVE_KINDS, Groups, Point
from planner.profile.store import Measured

__all__ = ["collective_s", "fit_cluster", "unfitted_cluster"]

_REFERENCE = "all_gather"
"""What is a ring wherever there is one: the factors of others are to it."""
_ASSUMED = "assumed: one process has no peers to measure"
_BOUNDS = (("latency_s", 2e-6, 1e-7, 1e-2), ("overhead_s", 1e-5, 1e-7, 1e-1),
           ("segment_s", 1e-6, 1e-9, 1e-3))


def collective_s(point: Point, cluster: ClusterSpec) -> float:
    """What the planner says that a collective takes, its launch included."""
    groups = point.groups
    assert groups is not None
    axis = axis_link(cluster, groups.shape, groups.axis)
    return (collective_time_s(point.kind, point.sizes[-1], axis) +
            cluster.device.launch_overhead_s)


def unfitted_cluster(name: str, device: DeviceKind,
                     hosts: Sequence[str]) -> ClusterSpec:
    """The tiers of the processes, with links that are only assumed.

    Hosts are a tier of their own where there are several with equally many
    neighbouring ranks each.
    """
    link = Link(latency_s=0.0,
                bandwidth_bytes_per_s=device.memory_bandwidth_bytes_per_s / 4,
                overhead_s=device.launch_overhead_s,
                source=_ASSUMED)
    each = set(Counter(hosts).values())
    runs = 1 + sum(a != b for a, b in zip(hosts, hosts[1:]))
    sizes = [("node", len(hosts))]
    if len(each) == 1 and runs == len(set(hosts)) > 1:
        sizes = [("node", each.pop()), ("fabric", runs)]
    return ClusterSpec(
        name=name,
        device=device,
        tiers=tuple(Tier(name=n, size=size, link=link) for n, size in sizes))


def fit_cluster(cluster: ClusterSpec, known: Mapping[Point,
                                                     Measured]) -> ClusterSpec:
    """The cluster with links that fit the measured collectives.

    Tiers are fitted from the inside out, each on the groups that it is the
    outermost tier of. A group that communicates alone is left out: the
    planner's groups do so at once.

    Parameters
    ----------
    cluster : ClusterSpec
        From :func:`unfitted_cluster`.
    known : mapping of Point to Measured
    """
    points = [
        p for p in known if p.kind in COLLECTIVE_KINDS and p.groups is not None
        and not p.groups.alone
    ]
    for number, tier in enumerate(cluster.tiers):
        own = [p for p in points if _tier_of(p.groups, cluster) == tier.name]
        if own:
            measured = [known[p].median for p in own]
            cluster = _fitted(cluster, number, own, measured)
    return cluster


def _tier_of(groups: Groups | None, cluster: ClusterSpec) -> str:
    assert groups is not None
    return axis_link(cluster, groups.shape, groups.axis).tier


def _fitted(cluster: ClusterSpec, tier: int, points: Sequence[Point],
            measured: Sequence[float]) -> ClusterSpec:
    rate = max(p.sizes[-1] / s for p, s in zip(points, measured, strict=True))
    unknowns = [
        Unknown(name=name, start=start, low=low, high=high)
        for name, start, low, high in _BOUNDS
    ]
    unknowns.append(
        Unknown(name="bandwidth_bytes_per_s",
                start=rate,
                low=rate / 100,
                high=rate * 100))

    def predict(values: Mapping[str, float]) -> list[float]:
        changed = _with_link(cluster, tier, values)
        return [collective_s(p, changed) for p in points]

    kinds = sorted({p.kind for p in points} - {_REFERENCE})
    unknowns += [
        Unknown(name=kind, start=1.0, low=0.1, high=10.0) for kind in kinds
    ]
    values = fit_log(unknowns, predict, measured)
    rounded = {n: float(f"{v:.4g}") for n, v in values.items()}
    return _with_link(cluster, tier, rounded)


def _with_link(cluster: ClusterSpec, number: int,
               values: Mapping[str, float]) -> ClusterSpec:
    link = Link(latency_s=values["latency_s"],
                bandwidth_bytes_per_s=values["bandwidth_bytes_per_s"],
                overhead_s=values["overhead_s"],
                segment_s=values["segment_s"],
                factors=tuple(
                    (k, values[k]) for k in COLLECTIVE_KINDS if k in values),
                source=SOURCE)
    tiers = list(cluster.tiers)
    tiers[number] = dataclasses.replace(tiers[number], link=link)
    return dataclasses.replace(cluster, tiers=tuple(tiers))
