"""Which links the groups of a mesh axis use, and who shares them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from planner.cluster.spec import ClusterSpec, Link

__all__ = ["AxisInfo", "axis_link"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisInfo:
    """The groups of one mesh axis, as a collective sees them.

    Parameters
    ----------
    size : int
        Ranks in one group.
    link : Link
        For rings and trees: the latency and overhead of the outermost
        tier that the groups span, and the bandwidth per rank that one
        group has while all groups of the axis communicate at once.
    exchange : Link or None
        The same for all-to-all, where every rank sends to every other and
        so more bytes cross the outer tiers. None: `link`.
    point : Link or None
        The same for one rank sending to the next. None: `link`.
    tier : str
        Name of the outermost tier that the groups span.
    num_sharing : int
        How many groups share one unit's way out to that tier.
    """

    size: int
    link: Link
    exchange: Link | None = None
    point: Link | None = None
    tier: str = ""
    num_sharing: int = 1


def axis_link(cluster: ClusterSpec, mesh_shape: Sequence[int],
              axis: int | Sequence[int]) -> AxisInfo:
    """The link of one mesh axis (or several taken as one).

    The mesh is row-major over the cluster's devices: the LAST axis is the
    innermost, so its groups are neighbours.

    Parameters
    ----------
    cluster : ClusterSpec
    mesh_shape : sequence of int
        Sizes of the mesh axes.
    axis : int or sequence of int
        Position of the axis.

    Raises
    ------
    ValueError
        When the mesh is larger than the cluster or has no such axis.
    """
    shape = tuple(mesh_shape)
    total = math.prod(shape)
    axes = (axis, ) if isinstance(axis, int) else tuple(axis)
    if not axes or any(not 0 <= a < len(shape) for a in axes):
        raise ValueError(f"mesh {shape} has no axis {axis}")
    if total > cluster.num_devices:
        raise ValueError(
            f"mesh {shape} needs {total} devices, cluster {cluster.name} has "
            f"{cluster.num_devices}; write {cluster.name}:{total} for more")
    ranks = np.moveaxis(
        np.arange(total).reshape(shape), axes, range(-len(axes), 0))
    groups = ranks.reshape(-1, math.prod(shape[a] for a in axes))
    return _axis_info(cluster, groups)


def _axis_info(cluster: ClusterSpec, groups: np.ndarray) -> AxisInfo:
    """Axis of `groups` (one row of device numbers each)."""
    size = groups.shape[1]
    tier, sharing = cluster.tiers[0], 1
    ring, point, exchange_s = math.inf, math.inf, 0.0
    for level, unit in zip(cluster.tiers, (1, *cluster.unit_sizes())):
        units = groups // unit
        crossing = units.max(axis=1) > units.min(axis=1)
        if not crossing.any():
            continue
        inside, members = _members(units[crossing])
        tier, sharing = level, int(np.bincount(inside).max())
        rate = level.link.rate_bytes_per_s
        # A group leaves a unit by the links of its own members there.
        ring = min(ring, rate * int(members.min()))
        point = min(point, rate)
        outside = size - int(_members(units)[1].min())
        exchange_s = max(exchange_s, outside / rate)
    if size == 1:
        return AxisInfo(size=1, link=tier.link, tier=tier.name)
    exchange = (size - 1) / exchange_s
    return AxisInfo(size=size,
                    link=_at_rate(tier.link, ring),
                    exchange=_at_rate(tier.link, exchange),
                    point=_at_rate(tier.link, point),
                    tier=tier.name,
                    num_sharing=sharing)


def _members(units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit number and member count of every pair of unit and group.

    `units` has one row per group: the unit that each member is in.
    """
    base = int(units.max()) + 1
    rows = np.arange(len(units))[:, None] * base
    pairs, counts = np.unique(units + rows, return_counts=True)
    return pairs % base, counts


def _at_rate(link: Link, rate_bytes_per_s: float) -> Link:
    return dataclasses.replace(link,
                               bandwidth_bytes_per_s=rate_bytes_per_s,
                               efficiency=1.0)
