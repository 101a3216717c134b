"""Which links the groups of a mesh axis use, and who shares them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from planner.cluster.link import Link
from planner.cluster.spec import ClusterSpec
from planner.hashed import HashedOnce

__all__ = ["AxisInfo", "axis_link", "step_link"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisInfo(HashedOnce):
    """The groups of one mesh axis, as a collective sees them.

    Parameters
    ----------
    size : int
        Ranks in one group.
    link : Link
        For rings and trees: the mean latency of a ring's hops, the
        overhead of the outermost tier that the groups span, and the
        bandwidth per rank that one group has while all groups of the axis
        communicate at once.
    exchange : Link or None
        The same for all-to-all, where every rank sends to every other and
        so more bytes cross the outer tiers. None: `link`.
    point : Link or None
        The same for one rank sending to the next. None: `link`.
    tier : str
        Name of the outermost tier that the groups span.
    num_sharing : int
        How many groups share one unit's way out to that tier.
    inner : Link or None
        Of groups with several members in a unit of the tier below: the
        links between those. None: there are no such members.
    num_units : int
        Over how many of those units a group is spread.
    num_islands : int
        Over how many parts a group is spread inside of which links are
        quicker than between them; where all are alike, its ranks.
    """

    size: int
    link: Link
    exchange: Link | None = None
    point: Link | None = None
    tier: str = ""
    num_sharing: int = 1
    inner: Link | None = None
    num_units: int = 1
    num_islands: int = 1
    apart: bool = False

    __hash__ = HashedOnce.__hash__

    def slowed(self, share: float, *, point: float) -> AxisInfo:
        """The same with collectives at `share` of the rates, and what one
        rank sends to another at `point`."""
        inner = self.inner and _slowed(self.inner, share)
        return dataclasses.replace(self,
                                   link=_slowed(self.link, share),
                                   exchange=_slowed(self.exchange or self.link,
                                                    share),
                                   point=_slowed(self.point or self.link,
                                                 point),
                                   inner=inner)


def step_link(cluster: ClusterSpec, mesh_shape: Sequence[int],
              axis: int) -> AxisInfo:
    """The link of one mesh axis as a training step finds it.

    Collectives of a step are slower than a benchmark's: they wait for the
    slowest rank and share memory with other kernels. The coefficients
    ``collective_share`` and ``point_share`` of the devices say by how much;
    where there are none, nothing is.

    Parameters
    ----------
    cluster : ClusterSpec
    mesh_shape : sequence of int
        Sizes of all axes, outermost first.
    axis : int
        The number of the one that is asked for.
    """
    device = cluster.weakest()
    found = axis_link(cluster, mesh_shape, axis)
    share = device.coefficient("collective_share", 1.0)
    point = device.coefficient("point_share", 1.0)
    return found if share == point == 1.0 else found.slowed(share, point=point)


def axis_link(cluster: ClusterSpec,
              mesh_shape: Sequence[int],
              axis: int | Sequence[int],
              *,
              order: Sequence[int] | None = None) -> AxisInfo:
    """The link of one mesh axis (or several taken as one).

    Parameters
    ----------
    cluster : ClusterSpec
    mesh_shape : sequence of int
        Sizes of the mesh axes.
    axis : int or sequence of int
        Position of the axis.
    order : sequence of int, optional
        The axes from the outermost to the innermost, whose groups are
        neighbours and so get the fastest tier. Left out: as in the shape,
        the LAST is innermost.

    Raises
    ------
    ValueError
        When the mesh is larger than the cluster or has no such axis, and
        for an order that is no order of the axes.
    """
    shape = tuple(mesh_shape)
    total = math.prod(shape)
    axes = (axis, ) if isinstance(axis, int) else tuple(axis)
    order = tuple(range(len(shape)) if order is None else order)
    if sorted(order) != list(range(len(shape))):
        raise ValueError(f"order {order} must list each axis of mesh {shape} "
                         f"once, as {tuple(range(len(shape)))} does")
    if not axes or any(not 0 <= a < len(shape) for a in axes):
        raise ValueError(f"mesh {shape} has no axis {axis}")
    if total > cluster.num_devices:
        raise ValueError(
            f"mesh {shape} needs {total} devices, cluster {cluster.name} has "
            f"{cluster.num_devices}; write {cluster.name}:{total} for more")
    sizes = [shape[a] for a in order]
    if order[0] not in axes:
        sizes[0] = _until_alike(cluster, sizes)
    ranks = np.arange(math.prod(sizes)).reshape(sizes)
    ranks = np.moveaxis(ranks, [order.index(a) for a in axes],
                        range(-len(axes), 0))
    groups = ranks.reshape(-1, math.prod(shape[a] for a in axes))
    return _axis_info(cluster, groups)


def _until_alike(cluster: ClusterSpec, sizes: Sequence[int]) -> int:
    """Of the outermost of some axes, how many there are before the inner
    ones lie in the cluster's units as they did before."""
    inner = math.prod(sizes[1:])
    units = [u for u in cluster.unit_sizes() if u < inner * sizes[0]]
    return min(sizes[0], math.lcm(inner, *units) // inner)


def _axis_info(cluster: ClusterSpec, groups: np.ndarray) -> AxisInfo:
    """Axis of `groups` (one row of device numbers each)."""
    size = groups.shape[1]
    tier, sharing, num_units = cluster.tiers[0], 1, 1
    ring, point, exchange_s = math.inf, math.inf, 0.0
    num_islands, quickest = size, math.inf
    inner: Link | None = None
    for level, unit in zip(cluster.tiers, (1, *cluster.unit_sizes())):
        units = groups // unit
        crossing = units.max(axis=1) > units.min(axis=1)
        if not crossing.any():
            continue
        if ring < math.inf:
            inner = _at_rate(tier.link, ring)
        inside, members = _members(units[crossing])
        tier, sharing = level, int(np.bincount(inside).max())
        rate = _rate_of_active(level.link, unit, groups)
        if rate < quickest:
            num_islands, quickest = _most_units(units), rate
        # A group leaves a unit by the links of its own members there.
        ring = min(ring, rate * int(members.min()))
        point = min(point, rate)
        outside = size - int(_members(units)[1].min())
        exchange_s = max(exchange_s, outside / rate)
        num_units = _most_units(units)
    if size == 1:
        return AxisInfo(size=1, link=tier.link, tier=tier.name)
    link = dataclasses.replace(tier.link,
                               latency_s=_hop_latency_s(cluster, groups))
    exchange = (size - 1) / exchange_s
    return AxisInfo(size=size,
                    link=_at_rate(link, ring),
                    exchange=_at_rate(link, exchange),
                    point=_at_rate(tier.link, point),
                    tier=tier.name,
                    num_sharing=sharing,
                    inner=inner,
                    num_units=num_units,
                    num_islands=num_islands,
                    apart=_are_apart(cluster, groups))


def _are_apart(cluster: ClusterSpec, groups: np.ndarray) -> bool:
    units = groups // cluster.unit_sizes()[0]
    return len(cluster.tiers) > 1 and bool((_members(units)[1] == 1).all())


def _rate_of_active(link: Link, unit: int, groups: np.ndarray) -> float:
    """Rate of one device, with what idle devices of its unit leave it."""
    if link.links_per_device >= 1 or unit == 1:
        return link.rate_bytes_per_s
    active = int(np.bincount(np.unique(groups) // unit).max())
    shared = min(1 / link.links_per_device, unit / active)
    return link.rate_bytes_per_s * shared


def _hop_latency_s(cluster: ClusterSpec, groups: np.ndarray) -> float:
    """Mean over the hops of a ring: each by the tier that it crosses."""
    size = groups.shape[1]
    total_s, inside_s = 0.0, 0.0
    for level, unit in zip(cluster.tiers, (1, *cluster.unit_sizes())):
        units = _most_units(groups // unit)
        if units > 1:
            # These hops were taken for hops of the tier inside.
            total_s += units * (level.link.latency_s - inside_s)
        inside_s = level.link.latency_s
    return total_s / size


def _most_units(units: np.ndarray) -> int:
    """In how many units the members of one group are, at most."""
    ordered = np.sort(units, axis=1)
    return int((np.diff(ordered, axis=1) > 0).sum(axis=1).max(initial=0)) + 1


def _members(units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit number and member count of every pair of unit and group.

    `units` has one row per group: the unit that each member is in.
    """
    base = int(units.max()) + 1
    rows = np.arange(len(units))[:, None] * base
    pairs, counts = np.unique(units + rows, return_counts=True)
    return pairs % base, counts


def _slowed(link: Link, share: float) -> Link:
    return _at_rate(link, link.rate_bytes_per_s * share)


def _at_rate(link: Link, rate_bytes_per_s: float) -> Link:
    return dataclasses.replace(link,
                               bandwidth_bytes_per_s=rate_bytes_per_s,
                               efficiency=1.0)
