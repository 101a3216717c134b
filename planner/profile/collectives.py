"""Collectives by name: how to run one over a group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist

from planner.profile.job import Job
from planner.profile.point import Point

__all__ = [
    "Run", "between_runner", "buffer_of", "collective_runner",
    "messages_runner", "products"
]

_BETWEEN_WIDTH, _BETWEEN_PRODUCTS = 256, 4
"""About a millisecond of a processor."""

Run = Callable[[], Any]


def buffer_of(point: Point, job: Job, *, parts: int = 1) -> torch.Tensor:
    """Of a point's bytes, or one of so many parts of them."""
    count = point.sizes[-1] // point.torch_dtype.itemsize // parts
    return torch.zeros(count, dtype=point.torch_dtype, device=job.device)


def _all_reduce(point: Point, job: Job, group: Any) -> Run:
    whole = buffer_of(point, job)
    return lambda: dist.all_reduce(whole, group=group)


def _all_gather(point: Point, job: Job, group: Any) -> Run:
    assert point.groups is not None
    whole = buffer_of(point, job)
    own = buffer_of(point, job, parts=point.groups.size)
    return lambda: dist.all_gather_single(whole, own, group=group)


def _reduce_scatter(point: Point, job: Job, group: Any) -> Run:
    assert point.groups is not None
    whole = buffer_of(point, job)
    own = buffer_of(point, job, parts=point.groups.size)
    return lambda: dist.reduce_scatter_single(own, whole, group=group)


def _all_to_all(point: Point, job: Job, group: Any) -> Run:
    given, gotten = buffer_of(point, job), buffer_of(point, job)
    return lambda: dist.all_to_all_single(gotten, given, group=group)


def _broadcast(point: Point, job: Job, group: Any) -> Run:
    assert point.groups is not None
    whole, source = buffer_of(point, job), job.members(point.groups)[0]
    return lambda: dist.broadcast(whole, src=source, group=group)


def _send(point: Point, job: Job, group: Any) -> Run:
    return _around(point, job, group, count=1)


def _around(point: Point, job: Job, group: Any, *, count: int) -> Run:
    """Every rank to the next of its group, around, so often at once.

    Receives come first, as the pipeline's: see `planner.schedule.transfers`.
    """
    assert point.groups is not None
    members = job.members(point.groups)
    place = members.index(job.rank)
    given, gotten = buffer_of(point, job), buffer_of(point, job)
    after = members[(place + 1) % len(members)]
    before = members[place - 1]
    ops = [
        dist.P2POp(dist.irecv, gotten, before, group),
        dist.P2POp(dist.isend, given, after, group)
    ] * count

    def run() -> None:
        for work in dist.batch_isend_irecv(ops):
            work.wait()

    return run


_RUNNERS: Mapping[str, Callable[[Point, Job, Any], Run]] = MappingProxyType({
    "all_gather":
    _all_gather,
    "all_reduce":
    _all_reduce,
    "all_to_all":
    _all_to_all,
    "broadcast":
    _broadcast,
    "reduce_scatter":
    _reduce_scatter,
    "send":
    _send,
})


def collective_runner(point: Point, job: Job) -> Run | None:
    """What runs a collective once; None for a rank that stays out.

    Every rank has to call this, since groups are made together.
    """
    assert point.groups is not None
    group = job.group(point.groups)
    if not job.takes_part(point.groups):
        return None
    return _RUNNERS[point.kind](point, job, group)


def messages_runner(point: Point, job: Job) -> Run:
    """Messages of which the point's first size are on their way at once.

    Every rank has to call this, since groups are made together.
    """
    assert point.groups is not None
    count, _ = point.sizes
    return _around(point, job, job.group(point.groups), count=count)


def between_runner(job: Job) -> Run:
    """What a processor computes between two collectives of a step."""
    return products(_BETWEEN_WIDTH, _BETWEEN_PRODUCTS, torch.float32, job)


def products(width: int, count: int, dtype: torch.dtype, job: Job) -> Run:
    """So many products of square matrices, one after the other."""
    matrix = torch.ones(width, width, dtype=dtype, device=job.device)
    result = torch.empty_like(matrix)

    def compute() -> None:
        for _ in range(count):
            torch.mm(matrix, matrix, out=result)

    return compute
