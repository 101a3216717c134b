"""By how much work gets longer because its host has yet to launch it."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["QUEUE_ORDER", "queued_s"]

Number = Any

QUEUE_ORDER = 4.0
"""Where a device does not say."""


def queued_s(device_s: Number, host_s: Number, order: Number) -> Number:
    """Time of work that a host feeds to a device through a queue.

    The longer of both if one was always ahead of the other. They take
    turns, and the nearer their times are, the more each waits; a norm of
    high order of the two is such a soft maximum.

    Parameters
    ----------
    device_s, host_s : number or array
        Each alone.
    order : number or array
        Of the norm: how well launches hide behind the device's work.
    """
    longer = np.maximum(np.maximum(device_s, host_s), 1e-12)
    shorter = np.minimum(device_s, host_s)
    return longer * (1 + (shorter / longer)**order)**(1 / order)
