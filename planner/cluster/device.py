"""Kinds of devices, and the numbers that were measured of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from planner.cluster.checks import check_number, source_of
from planner.cluster.coefficients import (COEFFICIENTS, EFFICIENCIES,
                                          check_coefficients,
                                          check_efficiencies)
from planner.hashed import HashedOnce

__all__ = ["Coefficient", "DeviceKind"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficient:
    """One calibrated number: its name, its value, where it comes from."""

    name: str
    value: float
    source: str

    def __post_init__(self) -> None:
        check_number(f"coefficient {self.name}",
                     "value",
                     self.value,
                     minimum=0,
                     strict=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKind(HashedOnce):
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
        Reached share of a peak, by the names of
        :data:`planner.cluster.coefficients.EFFICIENCIES`. What is left out
        counts as ``matmul``, or 1. One that holds in a dtype only has it in
        its name, as ``attention_bfloat16``.
    coefficients : tuple of Coefficient
        Numbers that are no shares of a peak, by the names of
        :data:`planner.cluster.coefficients.COEFFICIENTS`; what uses one
        says what holds where it is left out.
    source : str
        Where the peaks come from.
    sources : tuple of (str, str)
        The source of single fields, where it is another.
    """

    name: str
    memory_bytes: int
    memory_bandwidth_bytes_per_s: float
    peak_flops_per_s: tuple[tuple[str, float], ...]
    launch_overhead_s: float
    efficiencies: tuple[Coefficient, ...] = ()
    coefficients: tuple[Coefficient, ...] = ()
    source: str = ""
    sources: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        where = f"device {self.name}"
        for name in ("memory_bytes", "memory_bandwidth_bytes_per_s"):
            check_number(where,
                         name,
                         getattr(self, name),
                         minimum=0,
                         strict=True)
        check_number(where,
                     "launch_overhead_s",
                     self.launch_overhead_s,
                     minimum=0,
                     strict=False)
        if not self.peak_flops_per_s:
            raise ValueError(f"{where}: peak_flops_per_s is empty; give at "
                             "least float32")
        for dtype, peak in self.peak_flops_per_s:
            check_number(where,
                         f"peak_flops_per_s of {dtype}",
                         peak,
                         minimum=0,
                         strict=True)
        check_efficiencies(where, (c.name for c in self.efficiencies))
        check_coefficients(where, (c.name for c in self.coefficients))
        for coefficient in self.efficiencies:
            check_number(f"{where}: efficiency {coefficient.name}",
                         "value",
                         coefficient.value,
                         minimum=0,
                         strict=True)

    def peak(self, dtype: torch.dtype) -> float:
        """Peak flops per second; of the slowest dtype if not listed."""
        peaks = dict(self.peak_flops_per_s)
        slowest = min(peaks.values())
        return peaks.get(str(dtype).removeprefix("torch."), slowest)

    def efficiency(self, name: str, dtype: torch.dtype | None = None) -> float:
        """The share called `name`; ``matmul`` stands in, else 1.

        Where there is one for the `dtype`, that counts.
        """
        assert name in EFFICIENCIES, name
        values = _efficiencies(self)
        if dtype is not None:
            own = f"{name}_{str(dtype).removeprefix('torch.')}"
            name = own if own in values else name
        if name == "memory":
            return values.get(name, 1.0)
        return values.get(name, values.get("matmul", 1.0))

    def coefficient(self, name: str, default: float) -> float:
        """The coefficient called `name`, or what holds without it."""
        assert name in COEFFICIENTS, name
        return _coefficients(self).get(name, default)

    __hash__ = HashedOnce.__hash__

    def source_of(self, field: str) -> str:
        """Where the number in `field` comes from."""
        return source_of(self, field)


@functools.lru_cache(maxsize=256)
def _efficiencies(device: DeviceKind) -> Mapping[str, float]:
    return {c.name: c.value for c in device.efficiencies}


@functools.lru_cache(maxsize=256)
def _coefficients(device: DeviceKind) -> Mapping[str, float]:
    return {c.name: c.value for c in device.coefficients}
