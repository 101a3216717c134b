"""Operators that join, repeat, turn, pad or replace parts of tensors.

All are linear: partial sums pass. The dim along which they work must be
whole.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from planner.ir.layout import P, R, S
from planner.rules.dims import keep, others, wrap
from planner.rules.factors import number, partial, place, shard
from planner.rules.registry import OpCall, Option, register

__all__ = ["cat", "pad", "repeat"]

aten = torch.ops.aten


@register(aten.cat.default, aten.hstack.default)
def cat(call: OpCall) -> Iterable[Option]:
    """Every dim but the joined one; empty vectors are skipped by torch."""
    ndim = call.outputs[0].ndim
    default = int(call.target is aten.hstack.default and ndim > 1)
    dim = wrap(call.arg(1, "dim", default), ndim)
    joined = [
        i for i, s in enumerate(call.inputs) if ndim == 1 or s.shape != (0, )
    ]
    for d in range(ndim):
        if d != dim:
            yield place(call, {i: S(d) for i in joined}, S(d))
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
