"""Indexing, scattering and grouped products, as experts use them.

A dim that is indexed must be whole. The indices may be sharded: each rank
looks up its own, or adds its own rows to a partial sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from planner.ir.layout import P, Placement, S
from planner.rules.dims import others, wrap
from planner.rules.elementwise import aligned
from planner.rules.factors import einsum_options, number, partial, place, shard
from planner.rules.registry import OpCall, Option, TensorSpec, register

__all__ = ["gather", "grouped_mm", "index", "index_put", "scatter"]

aten = torch.ops.aten


@dataclass(frozen=True, slots=True, kw_only=True)
class _Indexing:
    """How an advanced index maps the dims of its source.

    Parameters
    ----------
    numbers : tuple of int
        Input numbers of the index tensors.
    kept : tuple of (int, int)
        Dims that are not indexed: in the source and in the result.
    first : int
        Where the index' own dims begin in the result.
    index : TensorSpec
        Of the broadcast index.
    result : TensorSpec
    """

    numbers: tuple[int, ...]
    kept: tuple[tuple[int, int], ...]
    first: int
    index: TensorSpec
    result: TensorSpec

    def by_index(self, call: OpCall, dim: int) -> dict[int | None, Placement]:
        """Placements of the index tensors sharded along a dim of theirs."""
        found: dict[int | None, Placement] = {}
        for i in self.numbers:
            own = aligned(call.inputs[i], self.index, dim)
            if own is not None:
                found[i] = S(own)
        return found


def _indexing(call: OpCall) -> _Indexing | None:
    """None for masks, whose result has no fixed shape."""
    dims = [d for d, i in enumerate(call.args[1]) if i is not None]
    found = [number(call.args[1][d]) for d in dims]
    numbers = tuple(i for i in found if i is not None)
    specs = [call.inputs[i] for i in numbers]
    if not specs or any(s.dtype in (torch.bool, torch.uint8) for s in specs):
        return None
    shape = tuple(torch.broadcast_shapes(*(s.shape for s in specs)))
    source = call.inputs[0]
    together = dims == list(range(dims[0], dims[0] + len(dims)))
    first = dims[0] if together else 0
    rest = [d for d in range(source.ndim) if d not in dims]
    order = [d for d in rest if d < dims[0]] if together else []
    places = order + [-1] * len(shape) + [d for d in rest if d not in order]
    sizes = iter(shape)
    result = tuple(next(sizes) if d < 0 else source.shape[d] for d in places)
    return _Indexing(numbers=numbers,
                     kept=tuple((d, places.index(d)) for d in rest),
                     first=first,
                     index=TensorSpec(shape=shape, dtype=torch.int64),
                     result=TensorSpec(shape=result, dtype=source.dtype))


@register(aten.index.Tensor, aten._unsafe_index.Tensor)
def index(call: OpCall) -> Iterable[Option]:
    """Dims that are not indexed, and the index itself."""
    plan = _indexing(call)
    if plan is None:
        return
    for dim, out in plan.kept:
        yield place(call, {0: S(dim)}, S(out))
    for dim in range(plan.index.ndim):
        yield place(call, plan.by_index(call, dim), S(plan.first + dim))
    yield partial(call, 0)


@register(aten.index_put.default, aten._unsafe_index_put.default)
def index_put(call: OpCall) -> Iterable[Option]:
    """Dims that are not indexed; when adding, each rank its own rows."""
    plan = _indexing(call)
    values = number(call.args[2])
    if plan is None or values is None:
        return

    def rows(out: int) -> dict[int | None, Placement]:
        own = aligned(call.inputs[values], plan.result, out)
        return {} if own is None else {values: S(own)}

    for dim, out in plan.kept:
        yield place(call, {0: S(dim), **rows(out)}, S(dim))
    if call.arg(3, "accumulate", False):
        for dim in range(plan.index.ndim):
            own = plan.by_index(call, dim)
            if own:
                yield place(call, {0: P, **own, **rows(plan.first + dim)}, P)
    yield partial(call, 0, values)


def _alike(call: OpCall, dim: int, inputs: Sequence[int]) -> Iterator[Option]:
    """Every other dim in which these inputs are of the same size."""
    for d in others(call, dim):
        sizes = {call.inputs[i].shape[d] for i in inputs}
        if len(sizes) == 1:
            yield place(call, {i: S(d) for i in inputs}, S(d))


@register(aten.gather.default)
def gather(call: OpCall) -> Iterable[Option]:
    """Dims that are not gathered from, and the index along the one that is.
    """
    if call.inputs[0].ndim != call.inputs[1].ndim:
        return
    dim = wrap(call.args[1], call.inputs[0].ndim)
    yield from _alike(call, dim, (0, 1))
    if call.inputs[0].ndim:
        yield shard(call, (None, dim), dim)
    yield partial(call, 0)


@register(aten.scatter.src, aten.scatter_add.default, aten.scatter_reduce.two)
def scatter(call: OpCall) -> Iterable[Option]:
    """Other dims than the scattered one; when adding, each rank its own."""
    dim = wrap(call.args[1], call.inputs[0].ndim)
    yield from _alike(call, dim, (0, 1, 2))
    if call.target is aten.scatter_reduce.two:
        return
    if call.target is aten.scatter_add.default and (call.inputs[1].shape
                                                    == call.inputs[2].shape):
        yield place(call, {0: P, 1: S(dim), 2: S(dim)}, P)
    yield partial(call, 0, 2)


@register(aten.scatter.value)
def scatter_value(call: OpCall) -> Iterable[Option]:
    """Other dims than the scattered one."""
    dim = wrap(call.args[1], call.inputs[0].ndim)
    yield from _alike(call, dim, (0, 1))
    if call.args[3] == 0:
        yield partial(call, 0)


@register(aten.index_add.default, aten.index_copy.default)
def index_add(call: OpCall) -> Iterable[Option]:
    """Other dims than the indexed one; when adding, each rank its own."""
    dim = wrap(call.args[1], call.inputs[0].ndim)
    for d in others(call, dim):
        yield shard(call, (d, None, d), d)
    if call.target is aten.index_add.default and call.inputs[1].ndim == 1:
        yield place(call, {0: P, 1: S(0), 2: S(dim)}, P)
    yield partial(call, 0, 2)


@register(aten.index_fill.int_Scalar)
def index_fill(call: OpCall) -> Iterable[Option]:
    """Other dims than the indexed one."""
    for d in others(call, call.args[1]):
        yield shard(call, (d, None), d)


@register(aten.one_hot.default)
def one_hot(call: OpCall) -> Iterable[Option]:
    """Every dim of the numbers, if the number of classes is given."""
    if call.arg(1, "num_classes", -1) > 0:
        for d in range(call.inputs[0].ndim):
            yield shard(call, (d, ), d)


@register(aten.histc.default)
def histc(call: OpCall) -> Iterable[Option]:
    """Counts add up, if the bins do not depend on the values."""
    if call.arg(2, "min", 0) != call.arg(3, "max", 0):
        for d in range(call.inputs[0].ndim):
            yield place(call, {0: S(d)}, P)


@register(aten.searchsorted.Tensor)
def searchsorted(call: OpCall) -> Iterable[Option]:
    """The values that are looked for."""
    if len(call.inputs) == 2 and call.inputs[0].ndim == 1:
        for d in range(call.inputs[1].ndim):
            yield shard(call, (None, d), d)


@register(aten.bucketize.Tensor, aten.isin.Tensor_Tensor)
def bucketize(call: OpCall) -> Iterable[Option]:
    """The values that are looked for."""
    for d in range(call.inputs[0].ndim):
        yield shard(call, (d, None), d)


@register(aten._grouped_mm.default, "transformers::grouped_mm_fallback")
def grouped_mm(call: OpCall) -> Iterable[Option]:
    """Products of groups of rows, one matrix each.

    Where a group of rows ends is a value, so that rows stay whole, and
    with them the groups; a batch of equal products has no such limit.
    """
    a, b = call.inputs[:2]
    if number(call.arg(3, "bias")) is not None:
        return ()
    equation, only = {
        (2, 3): ("mk,bkn->mn", "kn"),
        (3, 2): ("bmk,kn->mn", "km"),
        (2, 2): ("mk,kn->bmn", "mn"),
        (3, 3): ("bmk,bkn->bmn", "bmkn"),
    }[a.ndim, b.ndim]
    return einsum_options(call, equation, operands=(0, 1), only=only)


@register(aten.masked_scatter.default, aten.masked_select.default,
          aten.nonzero.default, aten.bincount.default)
def by_value(call: OpCall) -> Iterable[Option]:
    """Shapes or places that depend on values of the whole."""
    return ()
