"""What two or three things that ranks do in turns have to do with each other.

A machine's speed changes while it is measured, by more than what these differ
by; what runs in turns finds it alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch.distributed as dist

from planner.profile.collectives import Run, buffer_of, products
from planner.profile.job import Job
from planner.profile.point import Point

__all__ = ["COMPARED", "compared_runs"]

_PRODUCTS = 4
"""That run beside one all-reduce."""


def _interference(seconds: Sequence[float]) -> float:
    """Share of what both hide by which they take longer at once."""
    compute_s, communication_s, both_s = seconds
    shorter_s, longer_s = sorted((compute_s, communication_s))
    return min(max((both_s - longer_s) / shorter_s, 0.0), 1.0)


def _lateness(seconds: Sequence[float]) -> float:
    """Seconds of an all-reduce after products."""
    compute_s, both_s = seconds
    return max(both_s - compute_s, 1e-9)


def _alone_speedup(seconds: Sequence[float]) -> float:
    """How many times as fast a rank is while the others wait."""
    together_s, alone_s = seconds
    return together_s / alone_s


COMPARED: Mapping[str, Callable[[Sequence[float]], float]] = MappingProxyType({
    "interference":
    _interference,
    "lateness":
    _lateness,
    "alone_speedup":
    _alone_speedup
})
"""What points of each kind make of the seconds of one turn."""


def compared_runs(point: Point, job: Job) -> list[Run | None]:
    """What runs in turns; None where this rank waits.

    Every rank has to call this, since groups are made together.
    """
    assert point.groups is not None
    width = point.sizes[0]
    count = _PRODUCTS if point.kind == "interference" else point.sizes[1]
    if point.kind == "alone_speedup":
        compute = products(width, count, point.torch_dtype, job)
        return [compute, compute if job.takes_part(point.groups) else None]
    group = job.group(point.groups)
    buffer = buffer_of(point, job)
    compute = products(width, count, point.torch_dtype, job)

    def reduce() -> None:
        dist.all_reduce(buffer, group=group)

    def after() -> None:
        compute()
        reduce()

    def beside() -> None:
        work = dist.all_reduce(buffer, group=group, async_op=True)
        compute()
        assert work is not None
        work.wait()

    if point.kind == "interference":
        return [compute, reduce, beside]
    return [compute, after]
