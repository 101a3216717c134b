"""Dims that are merged, moved and taken apart again are moved apart.

``nn.MultiheadAttention`` joins batch and heads to one dim, swaps it with
the sequence, and cuts it again. A dim inside of a joined one can't be
sharded; viewed as what it is cut into in the end, nothing is joined.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from planner.capture.calls import CallsBefore, become
from planner.capture.nodes import op_label

__all__ = ["part_merged_dims"]

_aten = torch.ops.aten
_VIEWS = ("view", "_unsafe_view", "reshape", "unflatten")


def part_merged_dims(graph: fx.Graph) -> None:
    """Rewrite a view, a permutation and a view that cuts, in place."""
    for node in list(graph.nodes):
        if op_label(node) in _VIEWS and _is_moved_view(node.args[0]):
            _rewrite(node)


def _is_moved_view(node: Any) -> bool:
    return (op_label(node) in ("permute", "transpose")
            and op_label(node.args[0]) in _VIEWS)


def _rewrite(node: fx.Node) -> None:
    moved: Any = node.args[0]
    order = _order(moved)
    pieces = _pieces(moved.meta["val"].shape, node.meta["val"].shape)
    if pieces is None or all(len(p) == 1 for p in pieces):
        return
    before = {dim: pieces[place] for place, dim in enumerate(order)}
    shape: list[int] = []
    starts = {}
    for dim in range(len(order)):
        starts[dim] = len(shape)
        shape += before[dim]
    apart = CallsBefore(node).add(_aten.view.default, moved.args[0].args[0],
                                  shape)
    become(node, _aten.permute.default, (apart, [
        starts[dim] + i for dim in order for i in range(len(before[dim]))
    ]))


def _order(node: fx.Node) -> list[int]:
    ndim = node.meta["val"].ndim
    named: Any = node.args[1:]
    if op_label(node) == "permute":
        return [d % ndim for d in named[0]]
    order = list(range(ndim))
    a, b = (d % ndim for d in named)
    order[a], order[b] = b, a
    return order


def _pieces(shape: torch.Size, target: torch.Size) -> list[list[int]] | None:
    """The target's dims that each dim is cut into; None if some are joined.
    """
    sizes, found = list(target), []
    for size in shape:
        own: list[int] = []
        product = 1
        while sizes and (product < size or not own):
            own.append(sizes.pop(0))
            product *= own[-1]
        if product != size:
            return None
        found.append(own)
    return None if sizes else found
