"""Find out which attention masks are only causal, or nothing at all.

Libraries build a [batch, 1, query, key] mask while they are traced. Where
it is causal, attention without a mask does less work and needs no memory
for it. Nothing is guessed: the mask's formula over its indices must be
"key at most query", see `affine`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from planner.capture.affine import Affine, Choice, Formula, Holds
from planner.capture.formulas import Formulas

__all__ = ["simplify_masks"]

_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
_CAUSAL = Holds(frozenset({Affine.of(0, {-1: 1, -2: -1})}))


def simplify_masks(graph: fx.Graph, scalars: Mapping[fx.Node,
                                                     int | float]) -> None:
    """Replace masks that are causal or empty, in place.

    A mask of another form (padding, windows, biases) stays. Additive masks
    count as hiding if they hold the dtype's least value or less.

    Parameters
    ----------
    graph : fx.Graph
    scalars : mapping of Node to number
        Placeholders of known constants of one element.
    """
    formulas = Formulas(scalars)
    for node in graph.find_nodes(op="call_function", target=_ATTENTION):
        mask = _argument(node, 3, "attn_mask")
        if not isinstance(mask, fx.Node):
            continue
        shown = _shown(formulas.find(mask), mask.meta["val"].dtype)
        query, key = (node.args[i].meta["val"].shape[-2] for i in (0, 1))
        if shown is not None and shown.always:
            _set(node, causal=False)
        elif shown == _CAUSAL and query == key:
            _set(node, causal=True)


def _argument(node: fx.Node, position: int, name: str) -> Any:
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name)


def _shown(formula: Formula | None, dtype: torch.dtype) -> Holds | None:
    """Where a key is seen, if the mask says nothing else."""
    if isinstance(formula, Holds):
        return formula if dtype is torch.bool else None
    if isinstance(formula, Affine) and not formula.terms:
        return Holds() if formula.constant == 0 else None
    if not isinstance(formula, Choice) or dtype is torch.bool:
        return None
    least = torch.finfo(dtype).min
    if formula.yes == 0 and formula.no <= least:
        return formula.condition
    if formula.no == 0 and formula.yes <= least \
            and len(formula.condition.forms) <= 1:
        return formula.condition.negated()
    return None


def _set(node: fx.Node, *, causal: bool) -> None:
    """Attention without its mask."""
    args = list(node.args[:6]) + [None, 0.0, False][len(node.args) - 3:]
    args = args[:6]
    kwargs = dict(node.kwargs)
    kwargs.pop("attn_mask", None)
    if "dropout_p" in kwargs:
        args[4] = kwargs.pop("dropout_p")
    kwargs.pop("is_causal", None)
    args[3], args[5] = None, causal
    node.args, node.kwargs = tuple(args), kwargs
