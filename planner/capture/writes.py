"""Writes into parts of tensors, in a form that can be differentiated.

``x[mask] = value`` is traced as ``index_put``, whose derivative for the
value has as many rows as the mask is true. Where one value goes to all
places it is a ``where``, where rows of their own do a ``masked_scatter``.
Writing to a slice of a complex tensor has no derivative at all; joining the
parts has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from planner.capture.calls import CallsBefore, become

__all__ = ["open_writes"]

_aten = torch.ops.aten
_MASKED = (_aten.index_put.default, _aten._unsafe_index_put.default)
_PARTS = (_aten.slice_scatter.default, _aten.select_scatter.default)


def open_writes(graph: fx.Graph) -> None:
    """Rewrite such writes in place."""
    for node in list(graph.nodes):
        if node.target in _MASKED:
            _write_by_mask(node)
        elif node.target in _PARTS and node.meta["val"].is_complex():
            _write_by_parts(node)


def _write_by_mask(node: fx.Node) -> None:
    base, indices, value, *accumulate = node.args
    given = [(d, i) for d, i in enumerate(indices) if i is not None]
    if len(given) != 1 or any(accumulate):
        return
    first, mask = given[0]
    if mask.meta["val"].dtype is not torch.bool:
        return
    rest = base.meta["val"].ndim - first - mask.meta["val"].ndim
    # All dims of the mask are one of the value's: how often it is true.
    sizes = value.meta["val"].shape
    place = len(sizes) - rest - 1
    if place >= 0 and type(sizes[place]) is not int:
        return
    add = CallsBefore(node).add
    if place >= 0 and sizes[place] != 1:
        shape = base.meta["val"].shape
        rows = (*shape[:first], sizes[place], *shape[len(shape) - rest:])
        if tuple(sizes) != rows:
            value = add(_aten.expand.default, value, rows)
        for _ in range(rest):
            mask = add(_aten.unsqueeze.default, mask, -1)
        become(node, _aten.masked_scatter.default, (base, mask, value))
        return
    if place >= 0:
        for _ in range(mask.meta["val"].ndim - 1):
            value = add(_aten.unsqueeze.default, value, place)
    for _ in range(rest):
        mask = add(_aten.unsqueeze.default, mask, -1)
    become(node, _aten.where.self, (mask, value, base))


def _write_by_parts(node: fx.Node) -> None:
    base, part, *place = node.args
    shape = base.meta["val"].shape
    dim = place[0] % len(shape) if place else 0
    written = _written(node, shape[dim], place[1:])
    if written.step != 1:
        return
    add = CallsBefore(node).add
    if node.target is _aten.select_scatter.default:
        part = add(_aten.unsqueeze.default, part, dim)
    parts = [part]
    if written.start > 0:
        parts.insert(0, add(_aten.slice.Tensor, base, dim, 0, written.start))
    if written.stop < shape[dim]:
        parts.append(
            add(_aten.slice.Tensor, base, dim, written.stop, shape[dim]))
    become(node, _aten.cat.default, (parts, dim))


def _written(node: fx.Node, size: int, place: Sequence[Any]) -> range:
    if node.target is _aten.select_scatter.default:
        return range(place[0] % size, place[0] % size + 1)
    start, end, step = [*place, None, None, None][:3]
    return range(*slice(start, end, step).indices(size))
