"""Parts of tensors by strides, in a form that means the same on any layout.

``as_strided`` counts elements in memory. Torch's derivative of
``as_strided_scatter`` for the tensor that is written into is wrong: zero
where it should be one, and the other way round. Diagonals
(``fill_diagonal_``) are named as what they are, other writes go by number.
"""

from __future__ import annotations

import torch
from torch import fx

from planner.capture.calls import CallsBefore, add_call, become
from planner.capture.nodes import source_in_model
from planner.ir.errors import CaptureError

__all__ = ["read_strided", "write_strided"]

_aten = torch.ops.aten


def read_strided(graph: fx.Graph, node: fx.Node) -> None:
    """Rewrite one ``as_strided``.

    Raises
    ------
    CaptureError
    """
    base = node.args[0]
    if _is_diagonal(node, *node.args[1:]):
        become(node, _aten.diagonal.default, (base, ))
        return
    _check_contiguous(base, node)
    with graph.inserting_before(node):
        dense = add_call(graph,
                         _aten.clone.default, (base, ),
                         {"memory_format": torch.contiguous_format},
                         like=base)
    node.replace_input_with(base, dense)


def write_strided(graph: fx.Graph, node: fx.Node) -> None:
    """Rewrite one ``as_strided_scatter``.

    Raises
    ------
    CaptureError
    """
    del graph
    base, part, *place = node.args
    shape = list(base.meta["val"].shape)
    add = CallsBefore(node).add
    if _is_diagonal(node, *place):
        if part.target is _aten.fill.Scalar:
            mask = add(_aten.eye.m, *shape, dtype=torch.bool)
            become(node, _aten.masked_fill.Scalar, (base, mask, part.args[1]))
        else:
            become(node, _aten.diagonal_scatter.default, (base, part))
        return
    _check_contiguous(base, node)
    flat = add(_aten.reshape.default, base, [-1])
    numbers = add(_aten.arange.default, base.meta["val"].numel())
    chosen = add(_aten.as_strided.default, numbers, *place)
    written = add(_aten.scatter.src, flat, 0,
                  add(_aten.reshape.default, chosen, [-1]),
                  add(_aten.reshape.default, part, [-1]))
    become(node, _aten.reshape.default, (written, shape))


def _is_diagonal(node: fx.Node,
                 size: list[int],
                 stride: list[int],
                 offset: int | None = None) -> bool:
    """Whether the main diagonal of a matrix, as it lies in memory."""
    value = node.args[0].meta["val"]
    start = value.storage_offset()
    return (value.ndim == 2 and list(size) == [min(value.shape)]
            and list(stride) == [sum(value.stride())]
            and (start if offset is None else offset) == start)


def _check_contiguous(base: fx.Node, node: fx.Node) -> None:
    """Strides are meant: the base must have those seen."""
    value = base.meta["val"]
    if not value.is_contiguous() or value.storage_offset():
        raise CaptureError(
            f"{node.target} on a tensor that is not contiguous, at "
            f"{node.meta.get('stack_trace', 'an unknown line')}: its "
            "result would depend on how kernels lay out memory; use unfold, "
            "narrow, or call .contiguous() first",
            module_path=source_in_model(node).module_path)
