"""The fit and its errors, as text."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Mapping

from planner.cluster.spec import ClusterSpec
from planner.profile.fit_device import predicted_s
from planner.profile.fit_link import collective_s
from planner.profile.operations import OPERATIONS
from planner.profile.point import COLLECTIVE_KINDS, Point
from planner.profile.run import Profile

__all__ = ["errors_by_kind", "format_profile"]

_BUSY = 0.5
"""Load per core from which on measurements are doubted."""


def errors_by_kind(profile: Profile) -> dict[str, list[float]]:
    """By what was measured: predicted over measured time, less one.

    A group that communicates alone is listed apart: it is not fitted.
    """
    found: dict[str, list[float]] = {}
    for point, measured in profile.outcome.known.items():
        predicted = _predicted_s(point, profile.cluster)
        if predicted:
            found.setdefault(_label(point),
                             []).append(predicted / measured.median - 1)
    return found


def _predicted_s(point: Point, cluster: ClusterSpec) -> float:
    if point.kind in OPERATIONS:
        return predicted_s(point, cluster.device)
    if point.kind in COLLECTIVE_KINDS:
        return collective_s(point, cluster)
    return 0.0


def _label(point: Point) -> str:
    if point.groups is None:
        return f"{point.kind_name} {point.dtype}"
    alone = ", one group alone" if point.groups.alone else ""
    return f"{point.kind} of {point.groups.size}{alone}"


def format_profile(profile: Profile) -> str:
    """What was fitted, how well, and what is missing."""
    return "\n".join(_lines(profile)) + "\n"


def _lines(profile: Profile) -> Iterator[str]:
    cluster = profile.cluster
    yield f"{cluster.name}: {cluster.num_devices} x {cluster.device.name}"
    yield from _device_lines(cluster)
    for tier in cluster.tiers:
        link = tier.link
        yield (f"  {tier.name} of {tier.size}: "
               f"{link.rate_bytes_per_s / 1e9:.4g} GB/s, latency "
               f"{1e6 * link.latency_s:.3g} us, overhead "
               f"{1e6 * link.overhead_s:.3g} us, segment "
               f"{1e6 * link.segment_s:.3g} us ({link.source})")
    yield ""
    yield from _error_lines(errors_by_kind(profile))
    yield from _missing_lines(profile)
    cores = os.cpu_count() or 1
    if profile.load > _BUSY * cores:
        yield (f"others kept the processors busy (load {profile.load:.1f} on "
               f"{cores}): run again with --refresh when they are idle")
    yield f"written to {profile.path}"


def _device_lines(cluster: ClusterSpec) -> Iterator[str]:
    device = cluster.device
    for dtype, peak in device.peak_flops_per_s:
        yield f"  products in {dtype}: {peak / 1e9:.4g} GFLOPS"
    yield (f"  memory: {device.memory_bytes / 2**30:.3g} GiB, "
           f"{device.memory_bandwidth_bytes_per_s / 1e9:.4g} GB/s")
    yield f"  launch: {1e6 * device.launch_overhead_s:.3g} us"
    for part in (*device.efficiencies, *device.coefficients):
        yield f"  {part.name}: {part.value:.4g}"


def _error_lines(errors: Mapping[str, list[float]]) -> Iterator[str]:
    yield "predicted against measured"
    yield "points  median error  of which too slow"
    every: list[float] = []
    for label in sorted(errors):
        every += errors[label]
        yield _error_line(label, errors[label])
    if every:
        yield _error_line("all", every)


def _error_line(label: str, errors: list[float]) -> str:
    median = statistics.median(map(abs, errors))
    slow = sum(e > 0 for e in errors)
    return f"{len(errors):6d}  {100 * median:11.1f}%  {slow:17d}  {label}"


def _missing_lines(profile: Profile) -> Iterator[str]:
    outcome = profile.outcome
    for text in sorted({
            f"{point.kind_name} {point.dtype} does not run here: {reason}"
            for point, reason in outcome.refused.items()
    }):
        yield text
    if outcome.missing:
        yield (f"{len(outcome.missing)} points are missing; run again to "
               "measure them, or give --budget-s more seconds")
