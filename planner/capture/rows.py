"""Turn ``x[arange(B), index]`` into a gather along dim 1.

An index of a dim needs all of the dim, so that a batch that is indexed by
its own row numbers could not be sharded. A gather can.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from planner.capture.affine import Affine
from planner.capture.calls import CallsBefore, become
from planner.capture.formulas import Formulas
from planner.capture.nodes import op_label

__all__ = ["gather_rows"]

_aten = torch.ops.aten
_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64)
_NO_NEGATIVES = ("argmax", "argmin")
_KEEPS_SIGN = ("_to_copy", "clone", "detach", "view", "unsqueeze", "squeeze")


def gather_rows(graph: fx.Graph, formulas: Formulas) -> None:
    """Rewrite lookups of one place, or of several, in each row.

    The first index must be proven to be the row's own number, and the second
    to be of shape ``(B,)`` or ``(B, K)``; the others must be whole.
    """
    for node in graph.find_nodes(op="call_function",
                                 target=_aten.index.Tensor):
        if _looks_up_rows(node, formulas):
            _rewrite(node, formulas)


def _looks_up_rows(node: fx.Node, formulas: Formulas) -> bool:
    source, indices = node.args
    if len(indices) < 2 or any(i is None for i in indices[:2]) or any(
            i is not None for i in indices[2:]):
        return False
    rows, places = (i.meta["val"] for i in indices[:2])
    shape = tuple(places.shape)
    if rows.dtype not in _INTEGERS or places.dtype not in _INTEGERS \
            or len(shape) not in (1, 2) or rows.ndim > len(shape) \
            or torch.broadcast_shapes(rows.shape, shape) != shape \
            or shape[0] != source.meta["val"].shape[0]:
        return False
    own = Affine.of(0, {-len(shape): 1} if shape[0] > 1 else {})
    return formulas.find(indices[0]) == own


def _rewrite(node: fx.Node, formulas: Formulas) -> None:
    source, (_, index, *_) = node.args
    shape = tuple(source.meta["val"].shape)
    add = CallsBefore(node).add
    index = _counted_from_start(index, shape[1], formulas, add)
    single = index.meta["val"].ndim == 1
    if single:
        index = add(_aten.unsqueeze.default, index, 1)
    for dim in range(2, len(shape)):
        index = add(_aten.unsqueeze.default, index, dim)
    if len(shape) > 2:
        sizes = [*index.meta["val"].shape[:2], *shape[2:]]
        index = add(_aten.expand.default, index, sizes)
    if single:
        found = add(_aten.gather.default, source, 1, index)
        become(node, _aten.squeeze.dim, (found, 1))
    else:
        become(node, _aten.gather.default, (source, 1, index))


def _counted_from_start(index: fx.Node, size: int, formulas: Formulas,
                        add: Callable[..., fx.Node]) -> fx.Node:
    """As a gather wants it: 64 bits, and not negative."""
    if index.meta["val"].dtype is not torch.int64:
        index = add(_aten._to_copy.default, index, dtype=torch.int64)
    if _never_negative(index, formulas):
        return index
    # Not a remainder, which would accept what is out of range.
    return add(_aten.where.self, add(_aten.lt.Scalar, index, 0),
               add(_aten.add.Scalar, index, size), index)


def _never_negative(index: fx.Node, formulas: Formulas) -> bool:
    formula = formulas.find(index)
    if isinstance(formula, Affine):
        return formula.bounds(tuple(index.meta["val"].shape))[0] >= 0
    while op_label(index) in _KEEPS_SIGN:
        index = index.args[0]
    return op_label(index) in _NO_NEGATIVES
