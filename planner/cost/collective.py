"""Time of collectives in the alpha-beta model.

All sizes are ``buffer_bytes``: the LARGER of what one rank passes in and
what it gets out.

============== =========================================================
all_reduce     the tensor, equal on all ranks
all_gather     what one rank gets: all shards together
reduce_scatter what one rank gives: the unreduced whole
all_to_all     what one rank gives, its own share included
broadcast      the tensor
send           the message
============== =========================================================

So a value of the same local whole costs the same `buffer_bytes` in every
conversion of its layout. The formulas are those of Thakur, Rabenseifner
and Gropp, "Optimization of collective communication operations in MPICH"
(2005), and, for the pipelined tree, of Sanders, Speck and Traeff, "Two-tree
algorithms for full bandwidth broadcast, reduction and scan" (2009), which
NCCL's tree follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from planner.cluster.axis import AxisInfo
from planner.cluster.names import nearest
from planner.cluster.spec import Link

__all__ = [
    "COLLECTIVES", "all_gather_time_s", "all_reduce_time_s",
    "all_to_all_time_s", "broadcast_time_s", "collective_time_s",
    "reduce_scatter_time_s", "send_time_s"
]


def _check(buffer_bytes: float, size: int) -> None:
    if buffer_bytes < 0 or size < 1:
        raise ValueError(f"a collective needs at least 0 bytes and 1 rank, "
                         f"got {buffer_bytes} bytes and {size} ranks")


def _steps_time_s(steps: int, moved_bytes: float, link: Link) -> float:
    return (link.overhead_s + steps * link.latency_s +
            moved_bytes / link.rate_bytes_per_s)


def all_reduce_time_s(buffer_bytes: float, size: int, link: Link) -> float:
    """Time of an all-reduce: the quicker of a ring and a pipelined tree.

    Parameters
    ----------
    buffer_bytes : float
        Bytes of the tensor, equal on all ranks.
    size : int
        Ranks in the group.
    link : Link

    Examples
    --------
    >>> wire = Link(latency_s=0.0, bandwidth_bytes_per_s=1e9)
    >>> all_reduce_time_s(1e9, 4, wire)
    1.5
    """
    _check(buffer_bytes, size)
    if size == 1:
        return 0.0
    ring = _steps_time_s(2 * (size - 1), 2 * (size - 1) / size * buffer_bytes,
                         link)
    tree = _steps_time_s(2 * math.ceil(math.log2(size)), 2 * buffer_bytes,
                         link)
    return min(ring, tree)


def all_gather_time_s(buffer_bytes: float, size: int, link: Link) -> float:
    """Time of a ring all-gather; `buffer_bytes` is the gathered whole."""
    _check(buffer_bytes, size)
    if size == 1:
        return 0.0
    return _steps_time_s(size - 1, (size - 1) / size * buffer_bytes, link)


def reduce_scatter_time_s(buffer_bytes: float, size: int, link: Link) -> float:
    """Time of a ring reduce-scatter of a whole of `buffer_bytes`."""
    return all_gather_time_s(buffer_bytes, size, link)


def all_to_all_time_s(buffer_bytes: float, size: int, link: Link) -> float:
    """Time of a pairwise all-to-all; each rank gives `buffer_bytes`."""
    return all_gather_time_s(buffer_bytes, size, link)


def broadcast_time_s(buffer_bytes: float, size: int, link: Link) -> float:
    """Time of a pipelined tree broadcast of `buffer_bytes`."""
    _check(buffer_bytes, size)
    if size == 1:
        return 0.0
    return _steps_time_s(math.ceil(math.log2(size)), buffer_bytes, link)


def send_time_s(buffer_bytes: float, size: int, link: Link) -> float:
    """Time of one message; nothing when the group is one rank."""
    _check(buffer_bytes, size)
    return 0.0 if size == 1 else _steps_time_s(1, buffer_bytes, link)


COLLECTIVES: Mapping[str, Callable[[float, int, Link], float]] = \
    MappingProxyType({
        "all_gather": all_gather_time_s,
        "all_reduce": all_reduce_time_s,
        "all_to_all": all_to_all_time_s,
        "broadcast": broadcast_time_s,
        "reduce_scatter": reduce_scatter_time_s,
        "send": send_time_s,
    })


def collective_time_s(kind: str, buffer_bytes: float, axis: AxisInfo) -> float:
    """Time of one collective over an axis, by the link that it uses.

    Parameters
    ----------
    kind : str
        A key of :data:`COLLECTIVES`.
    buffer_bytes : float
        See the module's table.
    axis : AxisInfo
        From :func:`planner.cluster.axis.axis_link`.

    Raises
    ------
    ValueError
        For an unknown kind.
    """
    if kind not in COLLECTIVES:
        raise ValueError(f"no collective is called {kind!r}; "
                         f"{nearest(kind, COLLECTIVES)}")
    link = {"all_to_all": axis.exchange, "send": axis.point}.get(kind)
    return COLLECTIVES[kind](buffer_bytes, axis.size, link or axis.link)
