"""A kind of device from measured kernels, by the planner's own roofline."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from planner.cluster.device import Coefficient, DeviceKind
from planner.cost.optimizer import ADAMW_PASSES
from planner.cost.roofline import roofline_s
from planner.profile.log_fit import Unknown, fit_log
from planner.profile.operations import OPERATIONS, work_of
from planner.profile.point import Point
from planner.profile.store import Measured

__all__ = ["DeviceFacts", "SOURCE", "fit_device", "predicted_s"]

SOURCE = "measured on this machine"
_ALIKE = 1.1
"""Up to this ratio two times are taken to be the same."""
_COEFFICIENTS = ("exposed", "cache_bytes", "cache_bytes_per_s")
Known = Mapping[Point, Measured]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What is asked of the device and not measured."""

    name: str
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kernel:
    """The work of one measured kernel."""

    point: Point
    kind: str
    flops: float
    size_bytes: int
    kernels: int
    function: str

    @classmethod
    def of(cls, point: Point) -> _Kernel:
        done = work_of(point)
        if point.backward:
            return cls(point=point,
                       kind=done.kind,
                       flops=done.backward_flops,
                       size_bytes=done.backward_bytes,
                       kernels=done.backward_kernels,
                       function=done.function and f"{done.function}_backward")
        return cls(point=point,
                   kind=done.kind,
                   flops=done.forward_flops,
                   size_bytes=done.forward_bytes,
                   kernels=done.forward_kernels,
                   function=done.function)

    def time_s(self, device: DeviceKind) -> float:
        return roofline_s(self.flops,
                          self.size_bytes,
                          self.kernels,
                          device,
                          self.point.torch_dtype,
                          kind=self.kind,
                          function=self.function)


def predicted_s(point: Point, device: DeviceKind) -> float:
    """What the planner says that a kernel takes."""
    return _Kernel.of(point).time_s(device)


def fit_device(known: Known, facts: DeviceFacts) -> DeviceKind:
    """A device whose predicted kernels are nearest to the measured ones.

    Peaks are the rates that products reach, so that the share ``matmul``
    is one; ``exposed`` is what they lose with their size.

    Parameters
    ----------
    known : mapping of Point to Measured
        What is no kernel serves for the coefficients beside the roofline.
    facts : DeviceFacts

    Raises
    ------
    ValueError
        When there is no product among the points.
    """
    kernels = [_Kernel.of(p) for p in known if p.kind in OPERATIONS]
    every = kernels = [k for k in kernels if k.kernels]
    kernels = [k for k in kernels if not k.function]
    measured = [known[k.point].median for k in kernels]
    dtypes = list(
        dict.fromkeys(k.point.dtype for k in kernels if k.kind == "matmul"))
    if not dtypes:
        raise ValueError("no product was measured: there is nothing to fit a "
                         "device on; give --budget-s more seconds")
    shares = _attention_shares(kernels, dtypes)
    unknowns = _unknowns(kernels, measured, dtypes, shares)

    def predict(values: Mapping[str, float]) -> list[float]:
        device = _device(facts, dtypes, shares, values)
        return [k.time_s(device) for k in kernels]

    values = fit_log(unknowns, predict, measured)
    rounded = {n: float(f"{v:.4g}") for n, v in values.items()}
    device = _device(facts, dtypes, shares, rounded)
    device = _with_functions(device, every, known)
    return _with_others(device, known)


def _with_functions(device: DeviceKind, kernels: Sequence[_Kernel],
                    known: Known) -> DeviceKind:
    """What evaluating functions takes besides moving their bytes."""
    found: dict[str, list[float]] = {}
    for kernel in kernels:
        if kernel.function:
            excess_s = known[kernel.point].median - kernel.time_s(device)
            found.setdefault(kernel.function,
                             []).append(excess_s / kernel.size_bytes)
    own = tuple(
        _measured(f"{name}_s_per_byte",
                  float(f"{max(statistics.median(each), 0.0):.4g}"))
        for name, each in sorted(found.items()))
    return dataclasses.replace(device,
                               coefficients=(*device.coefficients, *own))


def _attention_shares(kernels: list[_Kernel], dtypes: list[str]) -> list[str]:
    """Names of the shares of attention, of the main dtype the plain one.

    Kernels of other dtypes may be other programs altogether.
    """
    found = dict.fromkeys(k.point.dtype for k in kernels
                          if k.kind == "attention")
    return [
        "attention" if d == dtypes[0] else f"attention_{d}" for d in dtypes
        if d in found
    ]


def _unknowns(kernels: list[_Kernel], measured: list[float], dtypes: list[str],
              shares: list[str]) -> list[Unknown]:
    found = []
    for dtype in dtypes:
        peak = max(k.flops / s for k, s in zip(kernels, measured)
                   if k.point.dtype == dtype and k.kind == "matmul")
        found.append(_near(f"flops {dtype}", peak, 30.0))
    rates = [
        k.size_bytes / s for k, s in zip(kernels, measured)
        if k.kind == "memory"
    ]
    found.append(_near("bandwidth", statistics.median(rates or [1e10]), 100.0))
    # Until points tell, small tensors are not known to be quicker.
    found.append(_near("cache_bytes_per_s", max(rates or [1e10]), 30.0))
    found.append(
        Unknown(name="cache_bytes", start=2**20, low=2**14, high=2**28))
    found.append(_near("launch_s", min(measured), 10.0))
    found.append(Unknown(name="exposed", start=0.3, low=1e-3, high=1.0))
    found += [
        Unknown(name=name, start=0.4, low=0.001, high=1.5) for name in shares
    ]
    return found


def _near(name: str, start: float, factor: float) -> Unknown:
    return Unknown(name=name,
                   start=start,
                   low=start / factor,
                   high=start * factor)


def _device(facts: DeviceFacts, dtypes: list[str], shares: list[str],
            values: Mapping[str, float]) -> DeviceKind:
    one = [("matmul", 1.0), *((n, values[n]) for n in shares), ("memory", 1.0)]
    return DeviceKind(name=facts.name,
                      memory_bytes=facts.memory_bytes,
                      memory_bandwidth_bytes_per_s=values["bandwidth"],
                      peak_flops_per_s=tuple(
                          (d, values[f"flops {d}"]) for d in dtypes),
                      launch_overhead_s=values["launch_s"],
                      efficiencies=tuple(_measured(n, v) for n, v in one),
                      coefficients=tuple(
                          _measured(n, values[n]) for n in _COEFFICIENTS),
                      source=SOURCE)


def _measured(name: str, value: float) -> Coefficient:
    return Coefficient(name=name, value=value, source=SOURCE)


def _with_others(device: DeviceKind, known: Known) -> DeviceKind:
    """Coefficients that have points of their own."""
    found = {
        "dispatch_s": _median(known, "dispatch"),
        "view_s": _median(known, "view"),
        "allocator_ratio": _median(known, "allocator"),
        "interference": _median(known, "interference"),
        "alone_speedup": _alone_speedup(known),
        "message_s": _message_s(known),
        **_straggling(known),
        **_calls(known),
        **_optimizer(known, "adamw_fused", device),
        **_optimizer(known, "adamw_foreach", device),
    }
    own = tuple(
        _measured(name, float(f"{value:.4g}"))
        for name, value in found.items() if value is not None)
    return DeviceKind(
        name=device.name,
        memory_bytes=device.memory_bytes,
        memory_bandwidth_bytes_per_s=device.memory_bandwidth_bytes_per_s,
        peak_flops_per_s=device.peak_flops_per_s,
        launch_overhead_s=device.launch_overhead_s,
        efficiencies=device.efficiencies,
        coefficients=(*device.coefficients, *own),
        source=device.source)


def _median(known: Known, kind: str) -> float | None:
    return next((m.median for p, m in known.items() if p.kind == kind), None)


def _optimizer(known: Known, kind: str,
               device: DeviceKind) -> dict[str, float | None]:
    """Time of a step of AdamW for each tensor, and for its bytes.

    Of steps over as many bytes in few tensors and in many, by least squares
    of what is off, neither less than nothing.
    """
    rows = [(ADAMW_PASSES * p.sizes[0] * p.sizes[1] * p.torch_dtype.itemsize /
             m.median, p.sizes[0] / m.median) for p, m in known.items()
            if p.kind == f"step_{kind}"]
    if not rows:
        return {}
    columns = np.array(rows)
    largest = columns.max(axis=0)
    scaled, _ = nnls(columns / largest, np.ones(len(rows)))
    byte_s, each_s = scaled / largest
    bandwidth = device.memory_bandwidth_bytes_per_s
    return {
        f"{kind}_parameter_s": each_s,
        f"{kind}_share": 1 / (byte_s * bandwidth) if byte_s else None
    }


def _alone_speedup(known: Known) -> float | None:
    """How many times as fast a rank is while the others wait."""
    ratio = _median(known, "alone_speedup")
    return 1.0 if ratio is not None and ratio <= _ALIKE else ratio


def _message_s(known: Known) -> float | None:
    """What one message keeps the rank that sends it and the other busy."""
    return next((m.median / (2 * p.sizes[0])
                 for p, m in known.items() if p.kind == "messages"), None)


def _straggling(known: Known) -> dict[str, float | None]:
    """How far apart ranks are after computing, and at most.

    What an all-reduce after products takes longer than the products and
    an all-reduce of its own are. Of the shares and limits that the points
    suggest, those with the least squares.
    """
    pairs = []
    for point, measured in known.items():
        if point.kind == "lateness" and point.groups is not None:
            alone = dataclasses.replace(point,
                                        kind="all_reduce",
                                        sizes=point.sizes[-1:])
            compute = dataclasses.replace(point, kind="compute")
            if alone in known and compute in known:
                compute_s = known[compute].median
                late_s = measured.median - known[alone].median
                pairs.append((compute_s, max(late_s, 0.0)))
    if not pairs:
        return {}
    limits = [late_s for _, late_s in pairs]
    limits.append(statistics.mean(limits))

    def squares(choice: tuple[float, float]) -> float:
        share, limit_s = choice
        return sum(
            (min(share * c, limit_s) - late_s)**2 for c, late_s in pairs)

    share, limit_s = min(
        ((late_s / c, limit_s) for c, late_s in pairs for limit_s in limits),
        key=squares)
    return {"straggling": share, "straggling_limit_s": limit_s}


def _calls(known: Known) -> dict[str, float | None]:
    """What a call of a module takes, and each of its parameters."""
    times = {
        p.sizes[0]: m.median
        for p, m in known.items() if p.kind == "call"
    }
    if len(times) < 2:
        return {}
    few, many = min(times), max(times)
    each_s = max((times[many] - times[few]) / (many - few), 0.0)
    return {
        "call_parameter_s": each_s,
        "call_s": max(times[few] - few * each_s, 0.0)
    }
