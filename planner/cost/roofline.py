"""Time of kernels by the flops that they do and the bytes that they move."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from planner.cluster.spec import DeviceKind
from planner.cost.beside import Beside

__all__ = [
    "attention_flops_per_s", "attention_longer", "beside_s", "memory_time_s",
    "overlapped_s", "roofline_s"
]


def overlapped_s(compute_s: Any, memory_s: Any, *, exposed: Any) -> Any:
    """Time of a kernel that computes while it moves bytes.

    Parameters
    ----------
    compute_s, memory_s : float or array
        Each alone.
    exposed : float or array
        Share of the shorter that is not hidden behind the longer: 0 is the
        roofline. Products with little to compute per byte are the further
        from their peak, the nearer both times are.
    """
    return (np.maximum(compute_s, memory_s) +
            exposed * np.minimum(compute_s, memory_s))


def attention_flops_per_s(device: DeviceKind, dtype: torch.dtype, *,
                          backward: bool) -> float:
    """The rate of PyTorch's own fused attention, FlashAttention-2.

    Parameters
    ----------
    device : DeviceKind
        Where it has no ``second_attention``, that of its ``attention``
        counts.
    dtype : torch.dtype
    backward : bool
        The backward has the share ``attention_backward`` of the rate.
    """
    known = {c.name for c in device.efficiencies}
    name = "second_attention" if "second_attention" in known else "attention"
    share = (device.coefficient("attention_backward", 1.0)
             if backward else 1.0)
    return device.peak(dtype) * device.efficiency(name, dtype) * share


def attention_longer(keys: Any, half_keys: Any) -> Any:
    """How many times as long fused attention takes as with many keys.

    A kernel fills and drains for each block of queries, as if it met
    `half_keys` more keys than there are: with so many it has half of its
    rate.

    Parameters
    ----------
    keys : float or array
        That a query meets in the mean: half of a sequence with a causal mask.
    half_keys : float or array
        A coefficient of the device.
    """
    return 1 + half_keys / np.maximum(keys, 1.0)


def memory_time_s(size_bytes: float,
                  device: DeviceKind,
                  *,
                  kernels: int = 1,
                  function: str = "") -> float:
    """Time in which kernels read and write `size_bytes`.

    Where the device has the coefficients ``cache_bytes`` and
    ``cache_bytes_per_s``, the first bytes of each kernel move at the rate
    of its cache: what is smaller never leaves it.

    Parameters
    ----------
    size_bytes : float
        Of all kernels together.
    device : DeviceKind
    kernels : int
        Among which the bytes are spread evenly.
    function : str
        What is evaluated meanwhile, see :func:`function_name`; its
        derivative where ``_backward`` follows.
    """
    moved_s = _moved_s(size_bytes, device, kernels)
    if not function:
        return moved_s
    return moved_s + size_bytes * device.coefficient(f"{function}_s_per_byte",
                                                     0.0)


def beside_s(beside: Beside, device: DeviceKind, share: float) -> float:
    """Seconds of kernels beside a call's products.

    Parameters
    ----------
    beside : Beside
    device : DeviceKind
    share : float
        Part of them that this device runs.
    """
    evaluated_s = sum(size_bytes *
                      device.coefficient(f"{name}_s_per_byte", 0.0)
                      for name, size_bytes in beside.evaluated)
    return share * evaluated_s + memory_time_s(share * beside.size_bytes,
                                               device)


def _moved_s(size_bytes: float, device: DeviceKind, kernels: int) -> float:
    rate = (device.memory_bandwidth_bytes_per_s * device.efficiency("memory"))
    cache_bytes = device.coefficient("cache_bytes", 0.0)
    if not cache_bytes:
        return size_bytes / rate
    near_bytes = min(size_bytes, cache_bytes * max(kernels, 1))
    near_rate = device.coefficient("cache_bytes_per_s", rate)
    return near_bytes / near_rate + (size_bytes - near_bytes) / rate


def roofline_s(flops: float,
               size_bytes: float,
               kernels: int,
               device: DeviceKind,
               dtype: torch.dtype,
               *,
               kind: str = "matmul",
               keys: float = 0.0,
               function: str = "",
               backward: bool = False) -> float:
    """Time of kernels that do `flops` and move `size_bytes`.

    Parameters
    ----------
    flops, size_bytes : float
    kernels : int
        Launches; each costs the device's overhead.
    device : DeviceKind
    dtype : torch.dtype
        Of the product's operands.
    kind : str
        Name of the efficiency of the flops.
    keys : float
        As :func:`attention_longer` takes them; 0 for no attention.
    function : str
        As :func:`memory_time_s` takes it.
    backward : bool
        Which way attention is.
    """
    compute_s = 0.0
    if flops and kind == "attention":
        compute_s = flops / attention_flops_per_s(
            device, dtype, backward=backward)
        if keys:
            compute_s *= float(
                attention_longer(keys, device.coefficient("half_keys", 0.0)))
    elif flops:
        compute_s = flops / (device.peak(dtype) *
                             device.efficiency(kind, dtype))
    memory_s = memory_time_s(size_bytes,
                             device,
                             kernels=kernels,
                             function=function)
    exposed = device.coefficient("exposed", 0.0)
    return float(overlapped_s(compute_s, memory_s, exposed=exposed)) \
        + kernels * device.launch_overhead_s
