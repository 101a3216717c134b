"""Distances, batches of matrices and other products of rows."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from planner.ir.layout import S
from planner.rules.dims import keep, others, wrap
from planner.rules.factors import (broadcast_letters, einsum_options, number,
                                   place, shard)
from planner.rules.registry import OpCall, Option, register

__all__ = ["batched", "bilinear", "cdist", "meshgrid", "row_distance", "solve"]

aten = torch.ops.aten


@register(aten.cosine_similarity.default, aten.pairwise_distance.default)
def row_distance(call: OpCall) -> Iterable[Option]:
    """Every dim but the rows', of inputs of one shape."""
    a, b = call.inputs
    cosine = call.target is aten.cosine_similarity.default
    row = wrap(call.arg(2, "dim", 1) if cosine else -1, a.ndim)
    if a.shape != b.shape:
        return
    for d in others(call, row):
        lost = call.outputs[0].ndim < a.ndim and d > row
        yield shard(call, (d, d), d - lost)


@register(aten.cdist.default, aten._cdist_forward.default)
def cdist(call: OpCall) -> Iterable[Option]:
    """Batch dims, and the rows of either side."""
    a, b = call.inputs
    if a.ndim != b.ndim:
        return
    for d in range(a.ndim - 2):
        if a.shape[d] == b.shape[d]:
            yield shard(call, (d, d), d)
    yield shard(call, (a.ndim - 2, None), a.ndim - 2)
    yield shard(call, (None, b.ndim - 2), b.ndim - 1)


@register(aten.bilinear.default)
def bilinear(call: OpCall) -> Iterable[Option]:
    """A product of two inputs and a weight."""
    lead = broadcast_letters(call.inputs[0].ndim - 1, call.inputs[0].ndim - 1)
    yield from einsum_options(call,
                              f"{lead}k,{lead}m,nkm->{lead}n",
                              operands=(0, 1, 2),
                              added={number(call.arg(3, "bias")): "n"})


@register(aten.tensordot.default)
def tensordot(call: OpCall) -> Iterable[Option]:
    """A product contracted over pairs of dims."""
    a, b = call.inputs
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    left = [next(letters) for _ in range(a.ndim)]
    right = [next(letters) for _ in range(b.ndim)]
    pairs = [(wrap(i, a.ndim), wrap(j, b.ndim))
             for i, j in zip(call.args[2], call.args[3], strict=True)]
    for i, j in pairs:
        right[j] = left[i]
    gone = {left[i] for i, _ in pairs}
    out = [c for c in left + right if c not in gone]
    return einsum_options(call,
                          f"{''.join(left)},{''.join(right)}->{''.join(out)}")


@register(aten.prelu.default)
def prelu(call: OpCall) -> Iterable[Option]:
    """Any dim; slopes by channel lie along dim 1."""
    for d in range(call.inputs[0].ndim):
        by_channel = d == 1 and call.inputs[1].numel > 1
        yield shard(call, (d, 0 if by_channel else None), d)


@register(aten._weight_norm.default)
def weight_norm(call: OpCall) -> Iterable[Option]:
    """The dim whose slices are normalised one by one."""
    dim = wrap(call.arg(2, "dim", 0), call.inputs[0].ndim)
    yield shard(call, (dim, dim), dim)


@register(aten.meshgrid.default, aten.meshgrid.indexing)
def meshgrid(call: OpCall) -> Iterable[Option]:
    """Each input makes one dim of all outputs."""
    order = list(range(len(call.inputs)))
    if call.kwargs.get("indexing") == "xy" and len(order) > 1:
        order[:2] = [1, 0]
    for i, out in enumerate(order):
        if call.inputs[i].ndim == 1:
            yield place(call, {i: S(0)}, S(out))


@register(aten.feature_dropout.default)
def feature_dropout(call: OpCall) -> Iterable[Option]:
    """Samples and channels: what is behind them drops together."""
    yield from keep(call, range(min(2, call.inputs[0].ndim)))


@register(aten.inverse.default, aten.linalg_inv.default, aten.det.default,
          aten.linalg_det.default, aten.linalg_cholesky.default,
          aten.linalg_matrix_exp.default, aten.linalg_eigh.default,
          aten.linalg_eigvalsh.default, aten.linalg_qr.default,
          aten.linalg_svdvals.default)
def batched(call: OpCall) -> Iterable[Option]:
    """Batch dims of matrices."""
    yield from keep(call, range(call.inputs[0].ndim - 2))


@register(aten.linalg_solve.default)
def solve(call: OpCall) -> Iterable[Option]:
    """Batch dims of matrices and of as many right-hand sides."""
    a, b = (s.shape for s in call.inputs)
    if len(a) == len(b) and a[:-2] == b[:-2]:
        for dim in range(len(a) - 2):
            yield shard(call, (dim, dim), dim)


@register(aten.multinomial.default)
def multinomial(call: OpCall) -> Iterable[Option]:
    """Rows are drawn from one by one."""
    if call.inputs[0].ndim == 2:
        yield shard(call, (0, ), 0)
