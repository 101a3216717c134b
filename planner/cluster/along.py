"""Which devices the ranks along a mesh axis have."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from planner.cluster.device import DeviceKind
from planner.cluster.spec import ClusterSpec

__all__ = ["devices_along"]


def devices_along(cluster: ClusterSpec, mesh_shape: Sequence[int],
                  axis: int) -> tuple[DeviceKind, ...]:
    """What the ranks at each place of an axis are together.

    Ranks are numbered along the mesh, the last axis fastest, as the devices
    of a cluster are. Those at one place of the axis do the same in step, so
    that where their kinds differ the place is as good as the weakest of
    them.

    Parameters
    ----------
    cluster : ClusterSpec
    mesh_shape : sequence of int
    axis : int

    Returns
    -------
    tuple of DeviceKind
        One for each place.
    """
    shape = tuple(mesh_shape)
    if not cluster.is_mixed:
        return (cluster.weakest(), ) * shape[axis]
    ranks = np.arange(math.prod(shape)).reshape(shape)
    places = np.moveaxis(ranks, axis, 0).reshape(shape[axis], -1)
    return tuple(cluster.weakest(row) for row in places.tolist())
