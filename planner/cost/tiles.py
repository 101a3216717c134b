"""What units leave undone while the last tiles of products are made."""

from __future__ import annotations

from typing import Any

import numpy as np

from planner.cluster.spec import DeviceKind
from planner.cost.work import Work

__all__ = ["Parts", "WHOLE", "unfilled", "unfilled_flops"]

Parts = tuple[float, ...]
"""Of a call's results, see :meth:`planner.cost.calls.KnownCall.made`."""
WHOLE: Parts = ()


def unfilled_flops(flops: Any, summed: Any, wave_elements: Any) -> Any:
    """Flops that units could do while the last tiles of products are made.

    Half a wave of tiles on average for each product, and never more than
    the product itself, which is divided into smaller tiles then.

    Parameters
    ----------
    flops : float or array
    summed : float or array
        Length of the sums that products make, each product's added up: half
        of the flops of one element.
    wave_elements : float or array
        That all units make at a time.
    """
    return np.minimum(summed * wave_elements, flops)


def unfilled(work: Work, device: DeviceKind, share: float,
             made: Parts) -> tuple[float, float]:
    """Flops that a device could do besides, in the forward and the backward.

    Parameters
    ----------
    work : Work
    device : DeviceKind
        Its ``wave_elements`` are what all units make at a time.
    share : float
        Part of the work that it does.
    made : tuple of float
        Part of each of the work's results that it makes; () for all.
    """
    wave = device.coefficient("wave_elements", 0.0)
    if not wave or not work.results:
        return 0.0, 0.0
    flops = work.forward_flops * share
    parts = made or (1.0, ) * len(work.results)
    forward, *backward = (
        float(unfilled_flops(flops, flops /
                             (2 * count * part), wave)) if count else 0.0
        for count, part in zip(work.results, parts, strict=True))
    return forward, sum(backward)
