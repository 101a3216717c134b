"""Rows that a mask chooses, changed and put back: all rows are computed.

``x[mask] = x[mask] + y``, as where features of images are added to a text's,
has a shape on its way that depends on the mask. The same is a ``where`` of
all rows, in which the rows of `y` are laid out by the mask.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from planner.capture.calls import CallsBefore, become
from planner.capture.masked_loss import chosen_rows, same_values

__all__ = ["compute_all_rows"]

_aten = torch.ops.aten
_PUT = (_aten.index_put.default, _aten._unsafe_index_put.default)
_JOINING = (_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor)
"""By rows, with derivatives that are finite wherever the operands are."""


def compute_all_rows(graph: fx.Graph) -> None:
    """Rewrite such writes in place."""
    for node in list(graph.nodes):
        if node.target not in _PUT or any(node.args[3:]):
            continue
        base, indices, value = node.args[:3]
        mask = indices[0]
        if len(indices) != 1 or mask.meta["val"].dtype is not torch.bool \
                or not _is_lifted(value, mask, base):
            continue
        add = CallsBefore(node).add
        wide = mask
        for _ in range(base.meta["val"].ndim - mask.meta["val"].ndim):
            wide = add(_aten.unsqueeze.default, wide, -1)

        def for_all(part: Any) -> Any:
            if _is_lifted(part, mask, base):
                found = chosen_rows(part)
                return found[0] if found else add(part.target,
                                                  *map(for_all, part.args))
            if not isinstance(part, fx.Node):
                return part
            nothing = add(_aten.zeros_like.default, base)
            return add(_aten.masked_scatter.default, nothing, wide, part)

        become(node, _aten.where.self, (wide, for_all(value), base))


def _is_lifted(value: Any, mask: fx.Node, base: fx.Node) -> bool:
    """Whether a value is made of the chosen rows, row by row."""
    found = chosen_rows(value) if isinstance(value, fx.Node) else None
    if found is not None:
        rows, same = (n.meta["val"] for n in found)
        wanted = base.meta["val"]
        return (same_values(found[1], mask)
                and same.shape == rows.shape[:same.ndim]
                and (rows.shape, rows.dtype) == (wanted.shape, wanted.dtype))
    if not isinstance(value, fx.Node) or value.target not in _JOINING \
            or value.kwargs:
        return False
    first, second = value.args
    return value.meta["val"].dtype == base.meta["val"].dtype and (
        _is_lifted(first, mask, base) and _is_beside(second, mask, base)
        or _is_lifted(second, mask, base) and _is_beside(first, mask, base))


def _is_beside(value: Any, mask: fx.Node, base: fx.Node) -> bool:
    """Whether it may be joined: made of them too, rows, or one number."""
    if not isinstance(value, fx.Node) or _is_lifted(value, mask, base):
        return True
    rows, whole = value.meta["val"], base.meta["val"]
    width = whole.shape[mask.meta["val"].ndim:]
    return rows.dtype == whole.dtype and rows.shape[1:] == width \
        and type(rows.shape[0]) is int and rows.shape[0] != 1
