"""By how much work gets longer because something waits."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import ndtri

from planner.cost.analytic.hardware import Rates

__all__ = ["queued_s", "slowest"]

Number = Any


def slowest(devices: Number, variation: Number) -> Number:
    """How much longer than the mean device the slowest of several takes.

    Devices of one kind differ in clock by voltage, temperature and power
    (Sinha et al., Not All GPUs Are Created Equal, SC 2022), and all wait
    for each other in every step.

    Parameters
    ----------
    devices : number or array
    variation : number or array
        Standard deviation of a device's time, as a share of the mean.

    Returns
    -------
    number or array
        One and `variation` times the expected largest of `devices` normal
        numbers (Blom 1958).

    Examples
    --------
    >>> [round(float(slowest(n, 0.01)), 4) for n in (1, 8, 1000)]
    [1.0, 1.0143, 1.0323]
    """
    count = np.asarray(devices, dtype=float)
    return 1 + variation * ndtri((count - 0.375) / (count + 0.25))


def queued_s(device_s: Number, host_s: Number, rates: Rates) -> Number:
    """Time of work that a host feeds to a device through a queue.

    The longer of both if one was always ahead of the other. They take
    turns, and the nearer their times are, the more each waits; a norm of
    high order of the two is such a soft maximum.
    """
    order = rates.queue_order
    longer = np.maximum(np.maximum(device_s, host_s), 1e-12)
    shorter = np.minimum(device_s, host_s)
    return longer * (1 + (shorter / longer)**order)**(1 / order)
