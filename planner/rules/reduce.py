"""Reductions: a sharded dim that is reduced leaves a partial value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from planner.ir.layout import PMAX, P, Placement, S
from planner.rules.dims import keep, others, wrap
from planner.rules.factors import partial, place
from planner.rules.registry import OpCall, Option, register

__all__ = ["extremum", "reduced_dims", "total"]

aten = torch.ops.aten
_PMIN = Placement("P", reduce="min")


def reduced_dims(call: OpCall, position: int = 1) -> tuple[int, ...]:
    """The dims that a reduction takes away; all where none is named."""
    ndim = call.inputs[0].ndim
    dims = call.arg(position, "dim")
    if dims is None or dims == []:
        return tuple(range(ndim))
    named = (dims, ) if isinstance(dims, int) else tuple(dims)
    return tuple(sorted({wrap(d, ndim) for d in named}))


def _kept(call: OpCall, dims: tuple[int, ...]) -> Iterator[Option]:
    """Options that shard a dim which is not reduced."""
    ndim = call.inputs[0].ndim
    lost = dims if call.outputs[0].ndim < ndim else ()
    yield from keep(call, others(call, *dims), removed=lost)


def _reduced(call: OpCall,
             dims: tuple[int, ...],
             placement: Placement,
             lowering: str | None = None) -> Iterator[Option]:
    for dim in dims:
        yield place(call, {0: S(dim)}, placement, lowering=lowering)


_SUMS = {
    aten.sum.default: None,
    aten.sum.dim_IntList: 1,
    aten.nansum.default: 1,
    aten.count_nonzero.default: 1,
    aten.count_nonzero.dim_IntList: 1,
}
"""Sums, and the position of the dims they reduce."""


@register(*_SUMS, aten.mean.default, aten.mean.dim)
def total(call: OpCall) -> Iterable[Option]:
    """Sums and means."""
    position = _SUMS.get(call.target, 1)
    dims = (tuple(range(call.inputs[0].ndim)) if position is None
            or call.target is aten.mean.default else reduced_dims(
                call, position))
    mean = call.target in (aten.mean.default, aten.mean.dim)
    yield from _kept(call, dims)
    yield from _reduced(call, dims, P, "mean_partial" if mean else None)
    linear = mean or "sum" in str(call.target) and "nan" not in str(
        call.target)
    if linear:
        yield partial(call)


@register(aten.amax.default, aten.amin.default)
def extremum(call: OpCall) -> Iterable[Option]:
    """Largest or smallest value along dims."""
    dims = reduced_dims(call)
    yield from _kept(call, dims)
    if not call.outputs[0].requires_grad:
        greatest = call.target is aten.amax.default
        yield from _reduced(call, dims, PMAX if greatest else _PMIN)


@register(aten.max.default, aten.min.default)
def extremum_of_all(call: OpCall) -> Iterable[Option]:
    """Largest or smallest value of all."""
    if not call.outputs[0].requires_grad:
        greatest = call.target is aten.max.default
        yield from _reduced(call, tuple(range(call.inputs[0].ndim)),
                            PMAX if greatest else _PMIN)


_DIM_POSITION = {
    aten.all.dim: 1,
    aten.all.dims: 1,
    aten.any.dim: 1,
    aten.any.dims: 1,
    aten.argmax.default: 1,
    aten.argmin.default: 1,
    aten.argsort.default: 1,
    aten.argsort.stable: 1,
    aten.cummax.default: 1,
    aten.cummin.default: 1,
    aten.cumprod.default: 1,
    aten.kthvalue.default: 2,
    aten.linalg_vector_norm.default: 2,
    aten.logcumsumexp.default: 1,
    aten.logsumexp.default: 1,
    aten.max.dim: 1,
    aten.median.dim: 1,
    aten.min.dim: 1,
    aten.mode.default: 1,
    aten.norm.ScalarOpt_dim: 2,
    aten.prod.dim_int: 1,
    aten.sort.default: 1,
    aten.sort.stable: 2,
    aten.std.correction: 1,
    aten.std.dim: 1,
    aten.std_mean.correction: 1,
    aten.std_mean.dim: 1,
    aten.topk.default: 2,
    aten.var.correction: 1,
    aten.var.dim: 1,
    aten.var_mean.correction: 1,
    aten.var_mean.dim: 1,
}
"""Operators whose dims must be whole, and where these are named."""

_LAST_DIM = frozenset(
    (aten.argsort.default, aten.kthvalue.default, aten.median.dim,
     aten.mode.default, aten.sort.default, aten.sort.stable, aten.topk.default,
     aten.argsort.stable))
"""Those of them that take the last dim where none is named."""


@register(*_DIM_POSITION)
def along(call: OpCall) -> Iterable[Option]:
    """Every dim but those along which the operator works."""
    position = _DIM_POSITION[call.target]
    if call.target in _LAST_DIM and call.arg(position, "dim") is None:
        dims: tuple[int, ...] = (call.inputs[0].ndim - 1, )
    else:
        dims = reduced_dims(call, position)
    yield from _kept(call, dims)


@register(aten.cumsum.default)
def cumsum(call: OpCall) -> Iterable[Option]:
    """Running sums: linear, but along a whole dim."""
    yield from _kept(call, reduced_dims(call))
    yield partial(call)
