"""How much longer the slowest of several devices takes than the mean."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
from scipy.special import ndtri

from planner.cluster.device import DeviceKind

__all__ = ["slowest", "slowest_device"]

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


@functools.lru_cache(maxsize=1024)
def slowest_device(device: DeviceKind, count: int) -> DeviceKind:
    """The slowest of `count` devices of a kind, by its ``variation``.

    Clocks differ, of units and of memory alike.
    """
    variation = device.coefficient("variation", 0.0)
    if not variation or count < 2:
        return device
    longer = float(slowest(count, variation))
    return dataclasses.replace(
        device,
        memory_bandwidth_bytes_per_s=device.memory_bandwidth_bytes_per_s /
        longer,
        peak_flops_per_s=tuple(
            (name, peak / longer) for name, peak in device.peak_flops_per_s),
        launch_overhead_s=device.launch_overhead_s * longer)
