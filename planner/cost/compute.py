"""Time of one forward call and of its backward, by the roofline.

These are the prices that the search compares; :mod:`planner.cost.graph`
prices the finished program without them.
"""

from __future__ import annotations

import functools

import torch

from planner.cluster.spec import DeviceKind
from planner.cost.roofline import beside_s, roofline_s
from planner.cost.tiles import WHOLE, Parts, unfilled
from planner.cost.work import Work

__all__ = ["time_s"]


@functools.lru_cache(maxsize=2**16)
def time_s(work: Work,
           device: DeviceKind,
           dtype: torch.dtype,
           *,
           share: float = 1.0,
           made: Parts = WHOLE) -> tuple[float, float]:
    """Forward and backward time of a call on one device.

    Parameters
    ----------
    work : Work
        Of the whole call.
    device : DeviceKind
    dtype : torch.dtype
        Of the operands.
    share : float
        Part of the work that this device does, ``1 / n`` when `n` ranks
        divide it. Launches are not divided.
    made : tuple of float
        Part of each of the work's results that this device makes; all of
        them where left out.

    Examples
    --------
    >>> from planner.cluster.load import load_cluster
    >>> one = Work(kind="matmul", forward_flops=165e9, forward_kernels=1)
    >>> time_s(one, load_cluster("cpu-gloo").device, torch.float32)
    (1.000004, 0.0)
    """
    forward_more, backward_more = unfilled(work, device, share, made)
    forward_s = roofline_s(work.forward_flops * share + forward_more,
                           work.forward_bytes * share,
                           work.forward_kernels,
                           device,
                           dtype,
                           kind=work.kind,
                           keys=work.keys,
                           function=work.function)
    backward_s = roofline_s(work.backward_flops * share + backward_more,
                            work.backward_bytes * share,
                            work.backward_kernels,
                            device,
                            dtype,
                            kind=work.kind,
                            keys=work.keys,
                            function=work.function
                            and f"{work.function}_backward",
                            backward=True)
    view_s = device.coefficient("view_s", 0.0)
    return (forward_s + beside_s(work.forward_beside, device, share) +
            work.forward_views * view_s,
            backward_s + beside_s(work.backward_beside, device, share) +
            work.backward_views * view_s)
