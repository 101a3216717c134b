"""Products that are cut into parts become one call that gives the parts.

A fused projection (of queries, keys and values, or of a gate and what it
gates) is one product that is cut along its features. Where the product is
sharded along them, ranks hold other parts than the cut wants: nothing but
a whole product can be cut. As one call, ``split_linear``, each part is
sharded by itself.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import fx

import planner.ops  # noqa: F401 (registers the operator)
from planner.capture.calls import CallsBefore, add_call, become
from planner.capture.cuts import Cut, find_cuts
from planner.capture.nodes import op_label

__all__ = ["open_projections"]

_aten = torch.ops.aten
_Product = tuple[fx.Node, fx.Node, fx.Node | None, int]
"""Input, weight, bias, and which dim of the weight holds the features."""


def open_projections(graph: fx.Graph, leaves: Mapping[fx.Node, str],
                     kept: Collection[fx.Node]) -> None:
    """Rewrite products of parameters that nothing but cuts read, in place.

    Parameters
    ----------
    graph : fx.Graph
    leaves : mapping of Node to str
        What each placeholder stands for.
    kept : collection of Node
        Nodes that must stay, as the graph returns their values.
    """
    for node in list(graph.nodes):
        product = _read(node)
        if product is None or not _is_param(product[1], leaves):
            continue
        cuts = find_cuts(node)
        if cuts and not any(n in kept for c in cuts for n in c.passed):
            _rewrite(node, product, cuts)


def _read(node: fx.Node) -> _Product | None:
    build = _PRODUCTS.get(op_label(node))
    found = build(node) if build and not node.kwargs else None
    if found is None or found[1].meta["val"].ndim != 2:
        return None
    return found if found[0].meta["val"].ndim > 1 else None


def _linear(node: fx.Node) -> _Product:
    x, weight, *bias = node.args
    out_dim = 0
    if op_label(weight) == "t":
        weight, out_dim = weight.args[0], 1
    return x, weight, bias[0] if bias else None, out_dim


def _addmm(node: fx.Node) -> _Product | None:
    bias, x, weight = node.args[:3]
    added = bias.meta["val"].shape == node.meta["val"].shape[-1:]
    return (x, weight, bias, 1) if added else None


def _matmul(node: fx.Node) -> _Product:
    x, weight = node.args
    return x, weight, None, 1


_PRODUCTS: dict[str, Callable[[fx.Node], _Product | None]] = {
    "linear": _linear,
    "addmm": _addmm,
    "mm": _matmul,
    "matmul": _matmul,
}


def _is_param(node: fx.Node, leaves: Mapping[fx.Node, str]) -> bool:
    """Whether it is made of nothing but a parameter."""
    while node.op == "call_function" and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return leaves.get(node, "").startswith("param:")


def _rewrite(node: fx.Node, product: _Product, cuts: list[Cut]) -> None:
    edges = {0, node.meta["val"].shape[-1]}
    edges.update(e for cut in cuts for e in (cut.start, cut.end))
    bounds = list(itertools.pairwise(sorted(edges)))
    sizes = [b - a for a, b in bounds]
    overlap = any((c.start, c.end) not in bounds for c in cuts)
    if len(sizes) < 2 or overlap or math.gcd(*sizes) == 1:
        return
    x, weight, bias, out_dim = product
    parts = CallsBefore(node).add(torch.ops.scaletorch.split_linear.default, x,
                                  weight, bias, sizes, out_dim)
    for cut in cuts:
        _become_part(cut, parts, bounds.index((cut.start, cut.end)))


def _become_part(cut: Cut, parts: fx.Node, number: int) -> None:
    """Let the node of a cut be the part, arranged as the cut was."""
    value = parts.meta["val"][number]
    steps: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
    if cut.shape != list(value.shape):
        steps.append((_aten.view.default, (cut.shape, ), {}))
    if cut.order != list(range(len(cut.order))):
        steps.append((_aten.permute.default, (cut.order, ), {}))
    final = list(cut.node.meta["val"].shape)
    if final != [cut.shape[d] for d in cut.order]:
        steps.append((_aten.view.default, (final, ), {}))
    if cut.is_dense:
        steps.append((_aten.clone.default, (), {
            "memory_format": torch.contiguous_format
        }))
    if not steps:
        become(cut.node, operator.getitem, (parts, number))
        return
    graph, node = cut.node.graph, cut.node
    with graph.inserting_before(node):
        part = graph.call_function(operator.getitem, (parts, number))
        part.meta = {**node.meta, "val": value}
        for target, args, kwargs in steps[:-1]:
            part = add_call(graph, target, (part, *args), kwargs, like=node)
    target, args, kwargs = steps[-1]
    become(node, target, (part, *args), kwargs)
