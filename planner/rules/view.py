"""Views and other operators that only move elements.

All are linear: partial sums pass. A sharded dim passes where its order is
kept; a dim that is cut, joined or reordered must be whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from planner.ir.layout import P, R, S
from planner.rules.factors import number, partial, place, shard
from planner.rules.registry import OpCall, Option, register

__all__ = ["keep", "reshape", "reshaped_dims"]

aten = torch.ops.aten


def keep(call: OpCall, dims: Iterable[int], *,
         removed: Sequence[int] = ()) -> Iterator[Option]:
    """Options of a call that keeps `dims` of its first input as they are.

    Parameters
    ----------
    dims : iterable of int
        Dims of the first input; the other inputs are whole.
    removed : sequence of int
        Dims that the outputs lack.
    """
    for dim in dims:
        if dim not in removed:
            out = dim - sum(r < dim for r in removed)
            yield place(call, {0: S(dim)}, S(out))


def wrap(dim: int, ndim: int) -> int:
    """A dim counted from the front."""
    return dim % ndim if ndim else 0


def others(call: OpCall, *dims: int) -> list[int]:
    """All dims of the first input but these."""
    ndim = call.inputs[0].ndim
    left_out = {wrap(d, ndim) for d in dims}
    return [d for d in range(ndim) if d not in left_out]


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


@register(*_BY_DIM)
def all_but_one(call: OpCall) -> Iterable[Option]:
    """Every dim but the one that is cut."""
    position, default = _BY_DIM[call.target]
    dim = call.arg(position, "dim", default)
    if dim is not None and not _flattens(call):
        yield from keep(call, others(call, dim))
    yield partial(call, 0)


def _flattens(call: OpCall) -> bool:
    return call.inputs[0].ndim > call.outputs[0].ndim


@register(aten.cat.default)
def cat(call: OpCall) -> Iterable[Option]:
    """Every dim but the joined one; empty vectors are skipped by torch."""
    ndim = call.outputs[0].ndim
    dim = wrap(call.arg(1, "dim", 0), ndim)
    for d in range(ndim):
        if d != dim and all(s.ndim == ndim for s in call.inputs):
            yield place(call, {i: S(d) for i in range(len(call.inputs))}, S(d))
    yield partial(call)


@register(aten.stack.default)
def stack(call: OpCall) -> Iterable[Option]:
    """Every dim but the new one."""
    dim = wrap(call.arg(1, "dim", 0), call.outputs[0].ndim)
    for d in range(call.inputs[0].ndim):
        yield shard(call, (d, ) * len(call.inputs), d + (d >= dim))
    yield partial(call)


@register(aten.flip.default, aten.roll.default)
def flip(call: OpCall) -> Iterable[Option]:
    """Every dim that is not turned or rolled."""
    dims = call.arg(1 if call.target is aten.flip.default else 2, "dims", ())
    named = (dims, ) if isinstance(dims, int) else tuple(dims)
    if named:
        yield from keep(call, others(call, *named))
    yield partial(call)


@register(aten.repeat.default, aten.tile.default)
def repeat(call: OpCall) -> Iterable[Option]:
    """A dim that is not repeated, or is made by repeating one element."""
    source, target = call.inputs[0], call.outputs[0]
    extra = target.ndim - source.ndim
    for out in range(target.ndim):
        dim = out - extra
        if dim < 0 or source.shape[dim] == 1:
            yield shard(call, (None, ), out)
        elif source.shape[dim] == target.shape[out]:
            yield shard(call, (dim, ), out)
    yield partial(call)


@register(aten.repeat_interleave.self_int)
def repeat_interleave(call: OpCall) -> Iterable[Option]:
    """Repeats stay beside their element, so that any dim passes."""
    if call.arg(2, "dim") is not None:
        yield from keep(call, others(call))
    yield partial(call)


@register(aten.constant_pad_nd.default, aten.pad.default,
          aten.reflection_pad1d.default, aten.reflection_pad2d.default,
          aten.replication_pad1d.default, aten.replication_pad2d.default)
def pad(call: OpCall) -> Iterable[Option]:
    """Every dim that is not padded."""
    ndim = call.inputs[0].ndim
    pads = list(call.args[1])
    padded = [
        ndim - 1 - i for i in range(len(pads) // 2)
        if pads[2 * i] or pads[2 * i + 1]
    ]
    # Reflection takes its dims by number of pads, also where they are zero.
    yield from keep(call, others(call, *padded))
    value = call.arg(2, "value", 0) if "constant_pad" in str(
        call.target) else call.arg(3, "value", 0)
    if not value:
        yield partial(call)


@register(aten.tril.default, aten.triu.default)
def triangle(call: OpCall) -> Iterable[Option]:
    """Every dim but the matrix' own two."""
    yield from keep(call, others(call, -2, -1))
    yield partial(call)


@register(aten.diagonal.default)
def diagonal(call: OpCall) -> Iterable[Option]:
    """Every dim but the two that the diagonal joins."""
    ndim = call.inputs[0].ndim
    pair = [
        wrap(call.arg(2, "dim1", 0), ndim),
        wrap(call.arg(3, "dim2", 1), ndim)
    ]
    yield from keep(call, others(call), removed=pair)
    yield partial(call)


@register(aten.diff.default)
def diff(call: OpCall) -> Iterable[Option]:
    """Every dim but the one along which differences are taken."""
    inputs = range(len(call.inputs))
    for d in others(call, call.arg(2, "dim", -1)):
        if all(s.ndim == call.outputs[0].ndim for s in call.inputs):
            yield place(call, {i: S(d) for i in inputs}, S(d))
    if call.outputs[0].dtype != torch.bool:
        yield partial(call)


@register(aten.select_scatter.default, aten.slice_scatter.default)
def scatter_into(call: OpCall) -> Iterable[Option]:
    """Every dim but the one into which the second input is written."""
    dim = wrap(call.arg(2, "dim", 0), call.inputs[0].ndim)
    drop = call.inputs[1].ndim < call.inputs[0].ndim
    for d in others(call, dim):
        yield shard(call, (d, d - (drop and d > dim)), d)
    yield partial(call)


@register(aten.index_select.default)
def index_select(call: OpCall) -> Iterable[Option]:
    """Dims that are not indexed; or the index of a whole source."""
    if call.inputs[0].ndim == 0:
        return
    dim = wrap(call.args[1], call.inputs[0].ndim)
    yield from keep(call, others(call, dim))
    if call.inputs[1].ndim == 1:
        yield shard(call, (None, 0), dim)
    yield place(call, {number(call.args[0]): P}, P)


@register(aten.copy.default)
def copy(call: OpCall) -> Iterable[Option]:
    """The first input gives only the shape."""
    first, second = call.inputs
    for dim in range(first.ndim):
        if first.shape == second.shape:
            yield shard(call, (dim, dim), dim)
    if first.shape == second.shape:
        yield Option(inputs=(R, P), outputs=(P, ))
