"""Views: dims are cut, joined, moved or dropped.

All are linear: partial sums pass. A sharded dim passes where its order is
kept; a dim that is cut, joined or reordered must be whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch

from planner.ir.layout import S
from planner.rules.dims import keep, others, wrap
from planner.rules.factors import partial, place, shard
from planner.rules.registry import OpCall, Option, register

__all__ = ["reshape", "reshaped_dims"]

aten = torch.ops.aten


def reshaped_dims(source: Sequence[int],
                  target: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of dims of two shapes that may be sharded alike.

    The shapes are cut into groups of equal numbers of elements; of each
    group only the leftmost dim larger than 1 keeps its order.

    Examples
    --------
    >>> reshaped_dims((4, 6, 5), (24, 1, 5))
    [(0, 0), (2, 2)]
    """
    rows = [d for d, n in enumerate(source) if n != 1]
    columns = [d for d, n in enumerate(target) if n != 1]
    pairs = []
    i = j = 0
    while i < len(rows) and j < len(columns):
        pairs.append((rows[i], columns[j]))
        left, right = source[rows[i]], target[columns[j]]
        while left != right:
            if left < right:
                i += 1
                left *= source[rows[i]]
            else:
                j += 1
                right *= target[columns[j]]
        i, j = i + 1, j + 1
    return pairs


@register(aten.view.default, aten.reshape.default, aten._unsafe_view.default,
          aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims,
          aten.flatten.using_ints, aten.unflatten.int)
def reshape(call: OpCall) -> Iterable[Option]:
    """Any change of shape that keeps the order of the elements."""
    source, target = call.inputs[0].shape, call.outputs[0].shape
    if 0 not in source:
        for dim, out in reshaped_dims(source, target):
            # A squeezed dim of more than one element is left alone, but
            # its shard may be one element long.
            if dim not in _squeezed(call):
                yield shard(call, (dim, ), out)
    yield partial(call)


def _squeezed(call: OpCall) -> tuple[int, ...]:
    if call.target not in (aten.squeeze.dim, aten.squeeze.dims):
        return ()
    named = call.args[1]
    dims = (named, ) if isinstance(named, int) else named
    return tuple(wrap(d, call.inputs[0].ndim) for d in dims)


@register(aten.squeeze.default, aten.as_strided.default)
def only_partial(call: OpCall) -> Iterable[Option]:
    """What the local result is depends on local sizes."""
    if call.target is aten.squeeze.default:
        yield partial(call)


@register(aten.permute.default)
def permute(call: OpCall) -> Iterable[Option]:
    ndim = call.inputs[0].ndim
    for out, dim in enumerate(call.args[1]):
        yield shard(call, (wrap(dim, ndim), ), out)
    yield partial(call)


@register(aten.transpose.int, aten.swapaxes.default, aten.t.default,
          aten.numpy_T.default, aten.mT.default)
def transpose(call: OpCall) -> Iterable[Option]:
    """Two dims change places."""
    ndim = call.inputs[0].ndim
    pair = call.args[1:3] if len(call.args) > 1 else (-2, -1)
    order = list(range(ndim))
    if ndim > 1:
        a, b = (wrap(d, ndim) for d in pair)
        order[a], order[b] = b, a
    for out, dim in enumerate(order):
        yield shard(call, (dim, ), out)
    yield partial(call)


@register(aten.movedim.intlist, aten.movedim.int)
def movedim(call: OpCall) -> Iterable[Option]:
    """Some dims move, the others close ranks."""
    ndim = call.inputs[0].ndim
    source, target = ([
        wrap(d, ndim) for d in (a if isinstance(a, (list, tuple)) else (a, ))
    ] for a in call.args[1:3])
    rest = iter(d for d in range(ndim) if d not in source)
    for out in range(ndim):
        dim = source[target.index(out)] if out in target else next(rest)
        yield shard(call, (dim, ), out)
    yield partial(call)


@register(aten.expand.default, aten.broadcast_to.default)
def expand(call: OpCall) -> Iterable[Option]:
    """A repeated dim may be made sharded out of the whole."""
    source, target = call.inputs[0], call.outputs[0]
    extra = target.ndim - source.ndim
    for out in range(target.ndim):
        dim = out - extra
        repeats = dim < 0 or source.shape[dim] != target.shape[out]
        yield shard(call, (None if repeats else dim, ), out)
    yield partial(call)


@register(aten.broadcast_tensors.default)
def broadcast_tensors(call: OpCall) -> Iterable[Option]:
    """Only without broadcasting: the local sizes must still fit."""
    if len({s.shape for s in call.inputs}) == 1:
        yield from keep_all(call)
    yield partial(call)


def keep_all(call: OpCall) -> Iterator[Option]:
    """Every dim, of all inputs and outputs alike."""
    for dim in range(call.outputs[0].ndim):
        yield place(call, {i: S(dim) for i in range(len(call.inputs))}, S(dim))


@register(aten.slice.Tensor)
def slice_(call: OpCall) -> Iterable[Option]:
    """The cut dim passes only where nothing is cut off."""
    dim = wrap(call.arg(1, "dim", 0), call.inputs[0].ndim)
    full = call.inputs[0].shape == call.outputs[0].shape
    # A negative end would count from the local end.
    end = call.arg(3, "end")
    whole = full and (end is None or end >= call.inputs[0].shape[dim])
    yield from keep(call, others(call) if whole else others(call, dim))
    yield partial(call)


@register(aten.select.int, aten.unbind.int)
def select(call: OpCall) -> Iterable[Option]:
    """The dim that disappears must be whole."""
    dim = wrap(call.arg(1, "dim", 0), call.inputs[0].ndim)
    yield from keep(call, others(call), removed=(dim, ))
    yield partial(call)


_BY_DIM = {
    aten.split.Tensor: (2, 0),
    aten.split.sizes: (2, 0),
    aten.split_with_sizes.default: (2, 0),
    aten.tensor_split.sections: (2, 0),
    aten.tensor_split.indices: (2, 0),
    aten.chunk.default: (2, 0),
    aten.unsafe_split.Tensor: (2, 0),
    aten.unsafe_chunk.default: (2, 0),
    aten.narrow.default: (1, 0),
    aten.unfold.default: (1, 0),
    aten.repeat_interleave.self_Tensor: (2, 0),
}
"""Position and default of the one dim that must be whole."""

SPLITS = (aten.split.Tensor, aten.split_with_sizes.default)
"""Those whose dim may also be sharded part by part."""


@register(*_BY_DIM)
def all_but_one(call: OpCall) -> Iterable[Option]:
    """Every dim but the one that is cut."""
    position, default = _BY_DIM[call.target]
    dim = call.arg(position, "dim", default)
    if dim is not None and not _flattens(call):
        yield from keep(call, others(call, dim))
    if call.target in SPLITS:
        dim = wrap(dim, call.inputs[0].ndim)
        sizes = [s.shape[dim] for s in call.outputs]
        yield place(call, {0: S(dim, sizes)}, S(dim), units=math.gcd(*sizes))
    yield partial(call, 0)


def _flattens(call: OpCall) -> bool:
    return call.inputs[0].ndim > call.outputs[0].ndim
