"""What a cluster is made of: one kind of device under tiers of links.

Devices are numbered so that the innermost tier varies fastest: with tiers
``node`` (8 devices) and ``fabric`` (4 nodes), device 9 is the second of
the second node.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch

from planner.cluster.names import nearest

__all__ = ["ClusterSpec", "Coefficient", "DeviceKind", "Link", "Tier"]


def _check(where: str, what: str, value: float, *, minimum: float,
           strict: bool) -> None:
    bad = value <= minimum if strict else value < minimum
    if not math.isfinite(value) or bad:
        bound = "greater than" if strict else "at least"
        raise ValueError(f"{where}: {what} must be a finite number "
                         f"{bound} {minimum:g}, got {value:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How messages travel, in the alpha-beta model.

    Parameters
    ----------
    latency_s : float
        Time of one message of no bytes between two members (alpha).
    bandwidth_bytes_per_s : float
        What ONE device can send, while it receives as much. A unit of 8
        devices sends 8 times that.
    efficiency : float
        Share of the bandwidth that collectives of large messages reach.
    overhead_s : float
        Fixed time of every collective call (launch, synchronisation).
    source : str
        Where the numbers come from.
    """

    latency_s: float
    bandwidth_bytes_per_s: float
    efficiency: float = 1.0
    overhead_s: float = 0.0
    source: str = ""

    def __post_init__(self) -> None:
        _check("link", "latency_s", self.latency_s, minimum=0, strict=False)
        _check("link",
               "bandwidth_bytes_per_s",
               self.bandwidth_bytes_per_s,
               minimum=0,
               strict=True)
        _check("link", "efficiency", self.efficiency, minimum=0, strict=True)
        _check("link", "overhead_s", self.overhead_s, minimum=0, strict=False)

    @property
    def rate_bytes_per_s(self) -> float:
        """The bandwidth that is reached: bandwidth times efficiency."""
        return self.bandwidth_bytes_per_s * self.efficiency


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One level of the tree: `size` units of the tier below, one link.

    Parameters
    ----------
    name : str
        ``node``, ``rack``, ``fabric``, ...
    size : int
        Units of the next inner tier (devices, for the innermost).
    link : Link
        What connects those units, per device.
    """

    name: str
    size: int
    link: Link

    def __post_init__(self) -> None:
        _check(f"tier {self.name}", "size", self.size, minimum=1, strict=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficient:
    """One calibrated number: its name, its value, where it comes from."""

    name: str
    value: float
    source: str

    def __post_init__(self) -> None:
        _check(f"coefficient {self.name}",
               "value",
               self.value,
               minimum=0,
               strict=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKind:
    """One kind of device.

    Parameters
    ----------
    name : str
    memory_bytes : int
    memory_bandwidth_bytes_per_s : float
        Peak of the device memory.
    peak_flops_per_s : tuple of (str, float)
        Dense matmul peak by dtype name (``"bfloat16"``).
    launch_overhead_s : float
        Time that every kernel costs besides its work.
    efficiencies : tuple of Coefficient
        Reached share of a peak: ``matmul``, ``attention`` and
        ``convolution`` of the flops, ``memory`` of the memory bandwidth.
        What is left out counts as ``matmul``, or 1.
    source : str
        Where the peaks come from.
    """

    name: str
    memory_bytes: int
    memory_bandwidth_bytes_per_s: float
    peak_flops_per_s: tuple[tuple[str, float], ...]
    launch_overhead_s: float
    efficiencies: tuple[Coefficient, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        where = f"device {self.name}"
        _check(where,
               "memory_bytes",
               self.memory_bytes,
               minimum=0,
               strict=True)
        _check(where,
               "memory_bandwidth_bytes_per_s",
               self.memory_bandwidth_bytes_per_s,
               minimum=0,
               strict=True)
        _check(where,
               "launch_overhead_s",
               self.launch_overhead_s,
               minimum=0,
               strict=False)
        if not self.peak_flops_per_s:
            raise ValueError(f"{where}: peak_flops_per_s is empty; give at "
                             "least float32")
        for dtype, peak in self.peak_flops_per_s:
            _check(where,
                   f"peak_flops_per_s of {dtype}",
                   peak,
                   minimum=0,
                   strict=True)

    def peak(self, dtype: torch.dtype) -> float:
        """Peak flops per second; of the slowest dtype if not listed."""
        peaks = dict(self.peak_flops_per_s)
        slowest = min(peaks.values())
        return peaks.get(str(dtype).removeprefix("torch."), slowest)

    def efficiency(self, name: str) -> float:
        """The coefficient called `name`; ``matmul`` stands in, else 1."""
        values = {c.name: c.value for c in self.efficiencies}
        if name == "memory":
            return values.get(name, 1.0)
        return values.get(name, values.get("matmul", 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """A cluster.

    Parameters
    ----------
    name : str
    device : DeviceKind
    tiers : tuple of Tier
        Innermost first.
    """

    name: str
    device: DeviceKind
    tiers: tuple[Tier, ...]

    def __post_init__(self) -> None:
        names = [tier.name for tier in self.tiers]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"cluster {self.name}: tiers need distinct "
                             f"names and at least one, got {names}")

    @property
    def num_devices(self) -> int:
        return math.prod(tier.size for tier in self.tiers)

    def tier(self, name: str) -> Tier:
        """The tier called `name`."""
        for tier in self.tiers:
            if tier.name == name:
                return tier
        hint = nearest(name, [t.name for t in self.tiers])
        raise ValueError(f"cluster {self.name} has no tier {name!r}; {hint}")

    def unit_sizes(self) -> tuple[int, ...]:
        """Devices in one unit of each tier, innermost first."""
        sizes, devices = [], 1
        for tier in self.tiers:
            devices *= tier.size
            sizes.append(devices)
        return tuple(sizes)

    def resized(self, num_devices: int) -> ClusterSpec:
        """The same kind of cluster with `num_devices` devices.

        Inner tiers are filled first; the outermost takes what is left.

        Raises
        ------
        ValueError
            When `num_devices` is more than one inner unit holds and not a
            multiple of it.
        """
        _check(f"cluster {self.name}",
               "number of devices",
               num_devices,
               minimum=1,
               strict=False)
        tiers, left = [], num_devices
        for i, tier in enumerate(self.tiers):
            last = i == len(self.tiers) - 1
            size = left if last else min(left, tier.size)
            if left % size:
                raise ValueError(
                    f"cluster {self.name}: {num_devices} devices do not fill "
                    f"whole units of tier {tier.name} ({tier.size} each); "
                    f"use a multiple of {tier.size} or give the sizes, as "
                    f"in {self.name}:{tier.size}x2")
            tiers.append(dataclasses.replace(tier, size=size))
            left //= size
        return dataclasses.replace(self, tiers=tuple(tiers))
