"""Cross entropy of the rows under a mask, without choosing them.

``F.cross_entropy(x[mask], y[mask])`` is that of all rows, where the target of
the others is the index that is ignored: their shapes are known.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from planner.capture.calls import CallsBefore, become

__all__ = ["chosen_rows", "ignore_masked_rows", "same_values"]

_aten = torch.ops.aten
_LOSS = _aten.cross_entropy_loss.default
_MEAN, _IGNORED = 1, -100


def ignore_masked_rows(graph: fx.Graph) -> None:
    """Rewrite such losses in place; those by row stay, they have no sum."""
    for node in list(graph.find_nodes(op="call_function", target=_LOSS)):
        weight, reduction, ignored, smoothing = _settings(node)
        rows, targets = (chosen_rows(n) for n in node.args[:2])
        if rows is None or targets is None or not reduction:
            continue
        (x, mask), (y, same) = rows, targets
        shape = tuple(mask.meta["val"].shape)
        classes = x.meta["val"].shape[len(shape):]
        if not same_values(mask, same) or len(classes) != 1 \
                or tuple(y.meta["val"].shape) != shape:
            continue
        add = CallsBefore(node).add
        count = mask.meta["val"].numel()
        nothing = add(_aten.full_like.default, y, ignored)
        become(node, _LOSS,
               (add(_aten.reshape.default, x, [count, *classes]),
                add(_aten.reshape.default,
                    add(_aten.where.self, mask, y, nothing),
                    [count]), weight, reduction, ignored, smoothing))


def _settings(node: fx.Node) -> tuple[Any, int, int, float]:
    """Weight, reduction, index that is ignored and smoothing."""
    given = dict(
        zip(("weight", "reduction", "ignore_index", "label_smoothing"),
            node.args[2:]))
    given.update(node.kwargs)
    return (given.get("weight"), given.get("reduction", _MEAN),
            given.get("ignore_index",
                      _IGNORED), given.get("label_smoothing", 0.0))


def chosen_rows(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The tensor and the mask in ``x[mask]``."""
    if node.target is not _aten.index.Tensor:
        return None
    base, indices = node.args
    if len(indices) != 1 or indices[0] is None \
            or indices[0].meta["val"].dtype is not torch.bool:
        return None
    return base, indices[0]


def same_values(one: Any, other: Any) -> bool:
    """Whether two arguments are equal, also if each is computed."""
    if one is other:
        return True
    if isinstance(one, fx.Node) and isinstance(other, fx.Node):
        return (one.op == other.op == "call_function"
                and one.target is other.target
                and torch.Tag.nondeterministic_seeded not in getattr(
                    one.target, "tags",
                    ()) and same_values(one.args, other.args)
                and same_values(one.kwargs, other.kwargs))
    if isinstance(one, (tuple, list)) and type(one) is type(other):
        return len(one) == len(other) and all(map(same_values, one, other))
    if isinstance(one, fx.Node) or isinstance(other, fx.Node):
        return False
    return bool(one == other)
