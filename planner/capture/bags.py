"""Open bags of equal size: a lookup, and a reduction over the bag.

``embedding_bag`` is told by values where each bag begins, so that neither
bags nor rows of its table can be sharded. Where every bag is proven to be of
the same size, it is an ``embedding`` of [bags, size] ids and a reduction.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from planner.capture.affine import Affine
from planner.capture.calls import CallsBefore, become
from planner.capture.formulas import Formulas
from planner.capture.nodes import op_label

__all__ = ["open_bags"]

_aten = torch.ops.aten
_SUM, _MEAN, _MAX = range(3)
_NAMES = ("embedding_bag", "_embedding_bag")
_SAME_ORDER = ("view", "_unsafe_view", "reshape", "clone")
_Add = Callable[..., fx.Node]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bags:
    """`padding_idx` is None where no id is left out."""

    weight: fx.Node
    ids: fx.Node
    offsets: fx.Node
    mode: int
    per_sample_weights: fx.Node | None
    padding_idx: int | None
    result: fx.Node

    @property
    def shape(self) -> tuple[int, int]:
        """Number of bags and, if all are equal, ids in each."""
        bags = self.result.meta["val"].shape[0]
        return bags, self.ids.meta["val"].numel() // max(bags, 1)


def open_bags(graph: fx.Graph, formulas: Formulas) -> None:
    """Rewrite bags of equal size, in place.

    Sparse gradients and gradients scaled by frequency stay as they are, and
    so does a maximum that leaves out an id.
    """
    for node in list(graph.nodes):
        if op_label(node) in _NAMES:
            bags = _read(node)
            if bags is not None and _are_equal(bags, formulas):
                _rewrite(bags)


def _read(node: fx.Node) -> _Bags | None:
    """None where more is asked than the bags' values, or what stays."""
    values = _arguments(node)
    used = [u for u in node.users if u.users]
    padding_idx = _padding_idx(node, values)
    if values["sparse"] or values["scale_grad_by_freq"] \
            or [u.args[1] for u in used] != [0] \
            or (values["mode"] == _MAX and padding_idx is not None):
        return None
    return _Bags(weight=values["weight"],
                 ids=values["indices"],
                 offsets=values["offsets"],
                 mode=values["mode"],
                 per_sample_weights=values["per_sample_weights"],
                 padding_idx=padding_idx,
                 result=used[0])


def _arguments(node: fx.Node) -> dict[str, Any]:
    arguments = node.target._schema.arguments
    defaults = {
        a.name: a.default_value
        for a in arguments if a.has_default_value()
    }
    given = zip((a.name for a in arguments), node.args)
    return defaults | dict(given) | node.kwargs


def _padding_idx(node: fx.Node, values: Mapping[str, Any]) -> int | None:
    """Counted from the start; -1 means none where None cannot be given."""
    found = values.get("padding_idx")
    if found is None or found >= 0:
        return found
    if node.target is _aten._embedding_bag.default:
        return None
    return found + values["weight"].meta["val"].shape[0]


def _are_equal(bags: _Bags, formulas: Formulas) -> bool:
    count, size = bags.shape
    if bags.ids.meta["val"].ndim != 1 or not size \
            or count * size != bags.ids.meta["val"].numel():
        return False
    places = bags.offsets.meta["val"].shape[0]
    wanted = Affine.of(0, {-1: size} if places > 1 else {})
    return formulas.find(bags.offsets) == wanted


def _rewrite(bags: _Bags) -> None:
    add = CallsBefore(bags.result).add
    ids, left_out = _by_bag(bags.ids, bags, add), None
    padding = -1 if bags.padding_idx is None else bags.padding_idx
    rows = add(_aten.embedding.default, bags.weight, ids, padding)
    if bags.padding_idx is not None:
        left_out = add(_aten.eq.Scalar, ids, bags.padding_idx)
        rows = add(_aten.masked_fill.Scalar, rows,
                   add(_aten.unsqueeze.default, left_out, 2), 0)
    if bags.per_sample_weights is not None:
        factors = _by_bag(bags.per_sample_weights, bags, add)
        rows = add(_aten.mul.Tensor, rows,
                   add(_aten.unsqueeze.default, factors, 2))
    become(bags.result, *_reduced(bags.mode, rows, left_out, add))


def _by_bag(flat: fx.Node, bags: _Bags, add: _Add) -> fx.Node:
    """Of shape [bags, size]; mostly it was, before it was flattened."""
    source = flat
    while op_label(source) in _SAME_ORDER:
        source = source.args[0]
    if tuple(source.meta["val"].shape) == bags.shape:
        return source
    return add(_aten.view.default, flat, list(bags.shape))


def _reduced(mode: int, rows: fx.Node, left_out: fx.Node | None,
             add: _Add) -> tuple[Any, tuple[Any, ...]]:
    """The call that reduces each bag; an empty one is zero."""
    if mode == _MAX:
        # Not amax, which shares the gradient among equal values.
        return operator.getitem, (add(_aten.max.dim, rows, 1), 0)
    if mode == _SUM:
        return _aten.sum.dim_IntList, (rows, [1])
    if left_out is None:
        return _aten.mean.dim, (rows, [1])
    kept = add(_aten.logical_not.default, left_out)
    count = add(_aten.sum.dim_IntList, kept, [1], True)
    total = add(_aten.sum.dim_IntList, rows, [1])
    return _aten.div.Tensor, (total, add(_aten.clamp.default, count, 1))
