"""Pass: views of views become one view, or none.

Needs a tidy joint graph. Leaves one in which a transpose of a transpose, a
reshape of a reshape, a reshape to the same shape, and a dim that a sum keeps
for a reshape to drop are gone. Autograd records many of them, and each takes
as long to launch as a small product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

__all__ = ["fold_views"]

aten = torch.ops.aten

_TRANSPOSES = (aten.t.default, aten.transpose.int)
_RESHAPE = aten.reshape.default
_SUM = aten.sum.dim_IntList


def fold_views(graph: fx.Graph) -> fx.Graph:
    """Fold views; see the module's docstring.

    Parameters
    ----------
    graph : fx.Graph
        Functional; nodes carry fake values.
    """
    folded = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        same = _same_value(node)
        if same is not None:
            made[node] = made[same]
            continue
        total = _kept_for(node)
        if total is not None:
            made[node] = folded.node_copy(total, lambda n: made[n])
            made[node].meta = dict(node.meta)
            made[node].args = (*made[node].args[:2], False)
            continue
        made[node] = folded.node_copy(node, lambda n: made[n])
        if node.target is _RESHAPE:
            made[node].args = (made[_origin(node)], node.args[1])
    folded.eliminate_dead_code()
    return folded


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _same_value(node: fx.Node) -> fx.Node | None:
    """An earlier node with a view's value, shape and strides."""
    if node.target not in (*_TRANSPOSES, _RESHAPE):
        return None
    before: Any = node.args[0]
    if node.target is _RESHAPE:
        # A kernel that returns what it takes is left as it is.
        moves = before.op != "placeholder" and _shape(before) == _shape(node)
        return before if moves else None
    undone = (before.target is node.target
              and set(before.args[1:]) == set(node.args[1:]))
    return before.args[0] if undone else None


def _origin(node: fx.Node) -> fx.Node:
    """What a reshape can read instead of its operand."""
    source: Any = node.args[0]
    # Several readers of a reshape may share the copy that it makes.
    while source.target is _RESHAPE and len(source.users) == 1:
        source = source.args[0]
    return source


def _kept_for(node: fx.Node) -> fx.Node | None:
    """The sum whose kept dims a reshape only drops."""
    if node.target is not _RESHAPE:
        return None
    total = _origin(node)
    if (total.target is not _SUM or len(total.users) != 1 or total.kwargs
            or total.args[2:] != (True, )):
        return None
    operand, dims = total.args[:2]
    assert isinstance(operand, fx.Node) and isinstance(dims, (list, tuple))
    shape = _shape(operand)
    dropped = {d % len(shape) for d in dims}
    left = tuple(s for d, s in enumerate(shape) if d not in dropped)
    return total if left == _shape(node) else None
