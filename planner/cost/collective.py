"""Time of collectives, from latency-bound to bandwidth-bound.

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
conversion of its layout. Messages are passed on in segments while they
still arrive. With `w` seconds of bytes and `c` seconds that every segment
costs, the best number of segments gives ``w + 2 sqrt(c w)`` besides the
latencies: next to nothing of a small message, the plain bandwidth for a
large one, and monotone in between. It is how libraries change from
protocols with small segments to such with large ones.

The formulas are those of Thakur, Rabenseifner and Gropp, "Optimization of
collective communication operations in MPICH" (2005), and, for segments and
trees, of Sanders, Speck and Traeff, "Two-tree algorithms for full bandwidth
broadcast, reduction and scan" (2009), which NCCL's tree follows. They take
numbers and numpy arrays alike.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from planner.cluster.axis import AxisInfo
from planner.names import nearest

__all__ = [
    "COLLECTIVES", "LinkTimes", "all_gather_time_s", "all_reduce_time_s",
    "all_to_all_time_s", "broadcast_time_s", "collective_time_s",
    "reduce_scatter_time_s", "send_time_s", "tiered_all_reduce_time_s"
]


class LinkTimes(Protocol):
    """What the formulas read of a link; numbers, or arrays of numbers."""

    @property
    def latency_s(self) -> Any:
        ...

    @property
    def overhead_s(self) -> Any:
        ...

    @property
    def segment_s(self) -> Any:
        ...

    @property
    def rate_bytes_per_s(self) -> Any:
        ...

    @property
    def switch_reduction(self) -> Any:
        ...


def _check(buffer_bytes: Any, size: Any) -> None:
    is_wrong = (buffer_bytes < 0) | (size < 1)
    if is_wrong is not False and np.any(is_wrong):
        raise ValueError(f"a collective needs at least 0 bytes and 1 rank, "
                         f"got {buffer_bytes} bytes and {size} ranks")


def _plain(time_s: Any) -> Any:
    """A float where everything was a number."""
    return float(time_s) if np.ndim(time_s) == 0 else time_s


def _steps_time_s(steps: Any, moved_s: Any, size: Any, link: LinkTimes) -> Any:
    """Steps of latency, and `moved_s` seconds of bytes in segments."""
    time_s = (link.overhead_s + steps * link.latency_s + moved_s +
              2 * np.sqrt(link.segment_s * moved_s))
    return _plain(time_s * (size != 1))


def _levels(size: Any) -> Any:
    """Depth of a binary tree of `size` ranks."""
    return np.ceil(np.log2(size))


def all_reduce_time_s(buffer_bytes: Any, size: Any, link: LinkTimes) -> Any:
    """Time of an all-reduce: the quickest of ring, tree and switch.

    A tree's node waits for two children at each level, up and down. A
    switch that reduces takes each rank's tensor once and gives it back.

    Parameters
    ----------
    buffer_bytes : float or array
        Bytes of the tensor, equal on all ranks.
    size : int or array
        Ranks in the group.
    link : Link

    Examples
    --------
    >>> from planner.cluster.link import Link
    >>> wire = Link(latency_s=0.0, bandwidth_bytes_per_s=1e9)
    >>> all_reduce_time_s(1e9, 4, wire)
    1.5
    """
    _check(buffer_bytes, size)
    whole_s = buffer_bytes / link.rate_bytes_per_s
    ring = _steps_time_s(2 * (size - 1), 2 * (size - 1) / size * whole_s, size,
                         link)
    tree = _steps_time_s(4 * _levels(size), 2 * whole_s, size, link)
    switch = _switch_time_s(whole_s, size, link)
    return _plain(np.minimum(np.minimum(ring, tree), switch))


def _switch_time_s(whole_s: Any, size: Any, link: LinkTimes) -> Any:
    share = np.maximum(link.switch_reduction, 1e-12)
    # Up to the switch and down, for each of two levels of synchronisation.
    return _steps_time_s(2 * _levels(size), whole_s / share, size, link)


def tiered_all_reduce_time_s(buffer_bytes: Any, size: Any, link: LinkTimes,
                             inner: LinkTimes, num_units: Any) -> Any:
    """Time of an all-reduce inside units and, at once, between them.

    Inside, the quicker of a ring and a reducing switch; between units a
    double binary tree, in which each unit sends the whole buffer up and
    down (two units: just to the other). Both work on segments at the same
    time, so the slower of the two counts.

    Parameters
    ----------
    buffer_bytes, size : float or array, int or array
        As for :func:`all_reduce_time_s`.
    link : Link
        Of the whole group: how fast it leaves a unit.
    inner : Link
        Between members in a unit.
    num_units : int or array
        How many units, two or more.
    """
    _check(buffer_bytes, size)
    members = size / num_units
    share = np.maximum(inner.switch_reduction, 1e-12)
    inside_s = (np.minimum(2 * (members - 1) / members, 1 / share) *
                buffer_bytes / inner.rate_bytes_per_s)
    between_s = (np.where(np.equal(num_units, 2), 1.0, 2.0) * buffer_bytes /
                 link.rate_bytes_per_s)
    steps = 4 * _levels(size)
    return _steps_time_s(steps, np.maximum(inside_s, between_s), size, link)


def all_gather_time_s(buffer_bytes: Any, size: Any, link: LinkTimes) -> Any:
    """Time of a ring all-gather; `buffer_bytes` is the gathered whole."""
    _check(buffer_bytes, size)
    moved_s = (size - 1) / size * buffer_bytes / link.rate_bytes_per_s
    return _steps_time_s(size - 1, moved_s, size, link)


def reduce_scatter_time_s(buffer_bytes: Any, size: Any,
                          link: LinkTimes) -> Any:
    """Time of a ring reduce-scatter of a whole of `buffer_bytes`."""
    return all_gather_time_s(buffer_bytes, size, link)


def all_to_all_time_s(buffer_bytes: Any, size: Any, link: LinkTimes) -> Any:
    """Time of an all-to-all; each rank gives `buffer_bytes`.

    Messages to all others are under way at once.
    """
    _check(buffer_bytes, size)
    moved_s = (size - 1) / size * buffer_bytes / link.rate_bytes_per_s
    return _steps_time_s(_levels(size), moved_s, size, link)


def broadcast_time_s(buffer_bytes: Any, size: Any, link: LinkTimes) -> Any:
    """Time of a pipelined tree broadcast of `buffer_bytes`."""
    _check(buffer_bytes, size)
    return _steps_time_s(_levels(size), buffer_bytes / link.rate_bytes_per_s,
                         size, link)


def send_time_s(buffer_bytes: Any, size: Any, link: LinkTimes) -> Any:
    """Time of one message; nothing when the group is one rank."""
    _check(buffer_bytes, size)
    return _steps_time_s(1, buffer_bytes / link.rate_bytes_per_s, size, link)


COLLECTIVES: Mapping[str, Callable[[Any, Any, LinkTimes], Any]] = \
    MappingProxyType({
        "all_gather": all_gather_time_s,
        "all_reduce": all_reduce_time_s,
        "all_to_all": all_to_all_time_s,
        "broadcast": broadcast_time_s,
        "reduce_scatter": reduce_scatter_time_s,
        "send": send_time_s,
    })


@functools.lru_cache(maxsize=2**16)
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
    time_s = float(COLLECTIVES[kind](buffer_bytes, axis.size, link
                                     or axis.link))
    if kind == "all_reduce" and axis.inner is not None:
        tiered = tiered_all_reduce_time_s(buffer_bytes, axis.size, axis.link,
                                          axis.inner, axis.num_units)
        time_s = min(time_s, float(tiered))
    return time_s * axis.link.factor(kind)
